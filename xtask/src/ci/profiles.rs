//! The workspace's build profiles, for packages that are no members.
//!
//! A package of its own would build candle again with cargo's own profiles. Given the workspace's
//! profiles and target folder, it reuses what is there.

use crate::project::{Failure, Project};
use std::path::PathBuf;

/// Writes the `[profile]` tables of the root manifest to a file for cargo's `--config`.
pub(super) fn write(project: &Project) -> Result<PathBuf, Failure> {
    let manifest = project.root.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).map_err(|e| Failure::file(&manifest, &e))?;
    let folder = project.target()?.join("xtask");
    std::fs::create_dir_all(&folder).map_err(|e| Failure::file(&folder, &e))?;
    let path = folder.join("profiles.toml");
    std::fs::write(&path, profile_tables(&text)).map_err(|e| Failure::file(&path, &e))?;
    Ok(path)
}

/// The lines from each `[profile...]` header to the next header. Cargo is silent about a package
/// in them that the other package does not use: it warns about that in manifests only.
fn profile_tables(manifest: &str) -> String {
    let mut kept = String::new();
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.starts_with("[profile.");
        }
        if inside {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_profiles_are_kept() {
        let manifest = "[package]\nname = \"a\"\n[profile.dev]\nopt-level = 1\n\
            [profile.dev.package.\"*\"]\ndebug = false\n[dependencies]\nb = \"1\"\n";
        let kept = "[profile.dev]\nopt-level = 1\n[profile.dev.package.\"*\"]\ndebug = false\n";
        assert_eq!(profile_tables(manifest), kept);
    }
}
