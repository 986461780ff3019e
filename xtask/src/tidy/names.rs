//! Rule about file names: no leftovers, and no names that say nothing.

use super::Finding;

/// Names that a reader cannot guess the contents from.
const SAY_NOTHING: [&str; 4] = ["utils", "util", "helpers", "misc"];
/// Endings of a second version kept beside the first.
const SECOND_VERSIONS: [&str; 3] = ["_simple", "_v2", "_old"];
/// Endings that editors and merges leave behind.
const LEFTOVERS: [&str; 5] = [".bak", ".orig", ".rej", ".swp", "~"];

pub(super) fn check(path: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut object = |says: String| findings.push(Finding::new(path, 1, says));
    if LEFTOVERS.iter().any(|end| path.ends_with(end)) {
        object("a leftover of an editor or a merge".to_owned());
    }
    if let Some(path) = path.strip_suffix(".rs") {
        if let Some(part) = path.split('/').find(|part| SAY_NOTHING.contains(part)) {
            object(format!("`{part}` does not say what it holds: name the idea"));
        }
        if let Some(end) = SECOND_VERSIONS.iter().find(|end| path.ends_with(*end)) {
            object(format!("`{end}` is a second version: keep the better one"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stray_names_are_found() {
        for stray in [
            "src/utils.rs",
            "src/helpers.rs",
            "src/helpers/io.rs",
            "src/misc.rs",
            "src/conv_simple.rs",
            "src/conv_v2.rs",
            "src/conv_old.rs",
            "src/conv.rs.bak",
            "Cargo.toml.orig",
        ] {
            assert_eq!(check(stray).len(), 1, "{stray}");
        }
        for good in ["src/conv.rs", "data/utils.csv", "src/old_tape.rs"] {
            assert!(check(good).is_empty(), "{good}");
        }
    }
}
