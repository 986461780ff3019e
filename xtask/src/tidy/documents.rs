//! Rules about documents: every file says what it is, and the project says what it is.

use super::{Finding, Source};
use std::path::Path;

/// The overview must stay short enough to be read in one sitting.
const ARCHITECTURE_LINES: usize = 300;

const DOCUMENTS: [&str; 5] = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"];

/// A Rust file begins with `//!`.
pub(super) fn check(source: &Source) -> Option<Finding> {
    let first = source.text.lines().find(|line| !line.trim().is_empty());
    let documented = first.is_some_and(|line| line.starts_with("//!"));
    (!documented).then(|| {
        let says = "the file does not begin with `//!`: say in a sentence what it is";
        Finding::new(&source.path, 1, says)
    })
}

/// The documents at the root exist, and the overview is short.
pub(super) fn check_root(root: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in DOCUMENTS {
        match std::fs::read_to_string(root.join(name)) {
            Ok(text) if name == "ARCHITECTURE.md" => findings.extend(check_length(name, &text)),
            Ok(_) => {}
            Err(error) => {
                findings.push(Finding::new(name, 1, format!("the file is missing ({error})")));
            }
        }
    }
    findings
}

fn check_length(name: &str, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    (lines > ARCHITECTURE_LINES).then(|| {
        let says = format!("the file has {lines} lines, more than {ARCHITECTURE_LINES}");
        Finding::new(name, ARCHITECTURE_LINES + 1, says)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_first_sentence_is_found() {
        let found = |text| check(&Source::new("a.rs", text)).is_some();
        assert!(found("fn main() {}"));
        assert!(found("// a plain comment\n//! too late"));
        assert!(found("/// an item's comment"));
        assert!(found(""));
        assert!(!found("\n//! What it is.\nfn main() {}"));
    }

    #[test]
    fn a_long_overview_is_found() {
        assert!(check_length("ARCHITECTURE.md", &"line\n".repeat(301)).is_some());
        assert!(check_length("ARCHITECTURE.md", &"line\n".repeat(300)).is_none());
    }

    #[test]
    fn missing_documents_are_found() {
        let nowhere = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        assert_eq!(check_root(&nowhere).len(), DOCUMENTS.len());
    }
}
