//! Rule about markers of unfinished work: what is not done is an issue, not a note in the code.

use super::Finding;
use super::source::{Source, whole_words};

const CODE: [&str; 3] = ["todo!", "unimplemented!", "#[ignore"];
const COMMENTS: [&str; 2] = ["TODO", "FIXME"];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for marker in CODE {
        findings.extend(source.words(marker).map(|offset| {
            let line = source.line_of(offset);
            Finding::new(&source.path, line, format!("`{marker}` marks unfinished work"))
        }));
    }
    for (line, comment) in source.comment_lines() {
        findings.extend(in_comment(&source.path, line, comment));
    }
    findings
}

/// The same for manifests and scripts, where a comment begins with `#`.
pub(super) fn check_script(path: &str, text: &str) -> Vec<Finding> {
    let comments = text.lines().enumerate().filter_map(|(index, line)| {
        let (_, comment) = line.split_once('#')?;
        in_comment(path, index + 1, comment)
    });
    comments.collect()
}

fn in_comment(path: &str, line: usize, comment: &str) -> Option<Finding> {
    let marker = COMMENTS.into_iter().find(|marker| whole_words(comment, marker).next().is_some())?;
    let says = format!("`{marker}` in a comment: open an issue, or say what does not work and why");
    Some(Finding::new(path, line, says))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::lines;

    fn found(text: &str) -> Vec<usize> {
        lines(&check(&Source::new("a.rs", text)))
    }

    #[test]
    fn markers_in_code_are_found() {
        assert_eq!(found("fn f() {\n    todo!()\n}"), [2]);
        assert_eq!(found("fn f() { unimplemented!(\"x\") }"), [1]);
        assert_eq!(found("#[test]\n#[ignore]\nfn f() {}"), [2]);
        assert_eq!(found("#[ignore = \"slow\"]\nfn f() {}"), [1]);
        assert!(found("let x = \"todo!()\"; // todo! as a word").is_empty());
    }

    #[test]
    fn markers_in_comments_are_found() {
        assert_eq!(found("let x = 1; // TODO: more"), [1]);
        assert_eq!(found("/// FIXME\nfn f() {}"), [1]);
        assert!(found("const TODO: u8 = 1; // a MASTODON").is_empty());
    }

    #[test]
    fn markers_in_scripts_are_found() {
        assert_eq!(lines(&check_script("a.toml", "a = 1\nb = 2 # TODO\n")), [2]);
        assert!(check_script("a.toml", "a = \"TODO\"").is_empty());
    }
}
