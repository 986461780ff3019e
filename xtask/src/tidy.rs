//! `cargo xtask tidy`: the habits of the house that no compiler checks.
//!
//! Every rule sees the whole project and all findings are listed, each with its file and line.
//! A rule lives with its tests in a file under `tidy/`; each test plants the violation.

mod documents;
mod manifests;
mod masks;
mod names;
mod panics;
mod paths;
mod source;
mod unsafety;
mod words;

use crate::project::{Failure, Project};
use source::Source;
use std::fmt;
use std::path::Path;

pub(crate) const COMMAND: crate::Command = crate::Command {
    name: "tidy",
    does: "check the habits that no compiler checks: layers, comments, names, panics",
    help: "\
Check the habits of the house that no compiler checks

Usage: cargo xtask tidy

  - every .rs file begins with `//!`
  - `unsafe` only in autograd-kernels, autograd-gpu and the JIT, each with `// SAFETY:`
  - crates depend on each other only as xtask/src/arrows.rs allows
  - every crate takes the workspace's lints
  - no stray files, no markers of unfinished work, no path outside the project
  - library code panics only where a message or a comment states the invariant
  - the documents at the root exist, and ARCHITECTURE.md fits in 300 lines
",
    run: |project, mut arguments| {
        if let Some(argument) = arguments.next()? {
            return Err(argument.unexpected().into());
        }
        check(project)
    },
};

/// Runs every rule; the findings are printed, the failure counts them.
pub(crate) fn check(project: &Project) -> Result<(), Failure> {
    let mut findings = documents::check_root(&project.root);
    let mut paths = Vec::new();
    list_files(&project.root, "", &mut paths)?;
    for path in &paths {
        findings.extend(names::check(path));
        if is_text(path) {
            let full = project.root.join(path);
            let text = std::fs::read_to_string(&full).map_err(|e| Failure::file(&full, &e))?;
            findings.extend(check_text(path, &text));
        }
    }
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        1 => Err(Failure::new("one habit of the house is broken, listed above")),
        n => Err(Failure::new(format!("{n} habits of the house are broken, listed above"))),
    }
    .map_err(|failure| failure.repeated_by("cargo xtask tidy"))
}

fn check_text(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = paths::check(path, text);
    if path.ends_with(".rs") {
        let source = Source::new(path, text);
        findings.extend(documents::check(&source));
        findings.extend(unsafety::check(&source));
        findings.extend(words::check(&source));
        findings.extend(panics::check(&source));
    } else {
        findings.extend(words::check_script(path, text));
    }
    if path == "Cargo.toml" || path.ends_with("/Cargo.toml") {
        findings.extend(manifests::check(path, text));
    }
    findings
}

/// What a rule objects to, and where.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    line: usize,
    says: String,
}

impl Finding {
    fn new(path: &str, line: usize, says: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, says: says.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.says)
    }
}

/// Files whose text the rules read.
fn is_text(path: &str) -> bool {
    [".rs", ".toml", ".sh"].iter().any(|end| path.ends_with(end)) || path.starts_with(".ci/")
}

/// Lists every file below `folder`, except what cargo and git keep for themselves.
fn list_files(root: &Path, folder: &str, found: &mut Vec<String>) -> Result<(), Failure> {
    let full = root.join(folder);
    let entries = std::fs::read_dir(&full).map_err(|e| Failure::file(&full, &e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Failure::file(&full, &e))?;
        let kind = entry.file_type().map_err(|e| Failure::file(&full, &e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let private = name.starts_with('.') && name != ".ci" && name != ".cargo";
        let made = kind.is_dir() && (name == "target" || path == "out");
        if private && kind.is_dir() || made {
            continue;
        } else if kind.is_dir() {
            list_files(root, &path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
/// The lines on which a rule objects, for the rules' tests.
fn lines(findings: &[Finding]) -> Vec<usize> {
    findings.iter().map(|finding| finding.line).collect()
}
