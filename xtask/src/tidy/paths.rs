//! Rule about paths: what the project needs lies in the project, so that a clean clone works.
//!
//! This file names what it forbids and is the one place that may.

use super::Finding;

const OUTSIDE: [&str; 3] = ["../shared", "/work/", "/tmp/"];
const THIS_FILE: &str = "xtask/src/tidy/paths.rs";

pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    if path == THIS_FILE {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for outside in OUTSIDE {
            if line.contains(outside) {
                let says = format!("`{outside}` is a path outside the project");
                findings.push(Finding::new(path, index + 1, says));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::lines;

    #[test]
    fn paths_outside_the_project_are_found() {
        let text = "a\nopen(\"../shared/data\")\ncp x /tmp/y\n# /work/main";
        assert_eq!(lines(&check("a.sh", text)), [2, 3, 4]);
        assert!(check("a.sh", "cp target/x out/y").is_empty());
    }
}
