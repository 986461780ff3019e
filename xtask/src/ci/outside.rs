//! Step `outside`: packages outside the workspace that use single layers build and run.
//!
//! Inside a workspace, cargo unifies features, so a crate that forgot one of its own would still
//! build. Each package under `tests/outside` stands alone, with the versions of our Cargo.lock.

use super::{outside_manifests, profiles};
use crate::project::{Failure, Project};

pub(super) fn check(project: &Project) -> Result<(), Failure> {
    let manifests = outside_manifests(project)?;
    if manifests.is_empty() {
        return Err(Failure::new("tests/outside holds no package"));
    }
    let target = project.target()?;
    let profiles = profiles::write(project)?;
    for manifest in manifests {
        let lock = manifest.with_file_name("Cargo.lock");
        std::fs::copy(project.root.join("Cargo.lock"), &lock).map_err(|e| Failure::file(&lock, &e))?;
        println!("    {}", project.relative(&manifest));
        project
            .cargo("run --offline")
            .args(&["--config"])
            .path(&profiles)
            .args(&["--manifest-path"])
            .path(&manifest)
            .env("CARGO_TARGET_DIR", &target.to_string_lossy())
            .quietly()
            .pass_or("a package that uses single layers from outside does not build or run")?;
    }
    Ok(())
}
