//! Step `licences`: every crate that any build of the workspace uses may be used.

use super::spdx;
use crate::project::{Failure, Project};
use serde_json::Value;

/// Licences that ask for nothing but their text and notice.
const LICENCES: [&str; 13] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Additions to a licence that only permit more.
const EXCEPTIONS: [&str; 1] = ["LLVM-exception"];

/// Crates whose licence asks for the source of their own files, unchanged ones as they are on
/// crates.io, and of nothing else: each is named, with what it is for.
const BY_FILE: [(&str, &str); 2] = [
    // Assembles machine code for expressions, behind the feature `jit` of autograd-kernels.
    ("dynasm", "MPL-2.0"),
    ("dynasmrt", "MPL-2.0"),
];

pub(super) fn check(project: &Project) -> Result<(), Failure> {
    let metadata = project.metadata("--all-features")?;
    let objections = objections(&metadata);
    for objection in &objections {
        println!("{objection}");
    }
    match objections.len() {
        0 => Ok(()),
        n => Err(Failure::new(format!(
            "{n} of the crates in Cargo.lock have a licence that is not \
             on the list in xtask/src/ci/licences.rs"
        ))),
    }
}

/// One line for each package whose licence the list does not satisfy.
fn objections(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let judged = packages.filter_map(|package| {
        let says = match package["license"].as_str() {
            None => "declares no licence expression".to_owned(),
            Some(licence) if BY_FILE.contains(&(text(&package["name"]), licence)) => return None,
            Some(licence) => match spdx::satisfied(licence, &LICENCES, &EXCEPTIONS) {
                Ok(true) => return None,
                Ok(false) => format!("`{licence}` is not allowed"),
                Err(error) => format!("`{licence}` cannot be read: {error}"),
            },
        };
        let (name, version) = (&package["name"], &package["version"]);
        Some(format!("{} {}: {says}", text(name), text(version)))
    });
    judged.collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_forbidden_missing_or_unreadable_licence_is_found() {
        let package = |licence: Value| {
            json!({"packages": [
                {"name": "a", "version": "1.0.0", "license": licence},
            ]})
        };
        assert_eq!(objections(&package(json!("GPL-3.0-only"))).len(), 1);
        assert_eq!(objections(&package(json!("MPL-2.0"))).len(), 1, "it is allowed by name only");
        assert_eq!(objections(&package(json!(null))).len(), 1);
        assert_eq!(objections(&package(json!("MIT OR"))).len(), 1);
        assert!(objections(&package(json!("MIT OR GPL-3.0-only"))).is_empty());
    }
}
