//! One compile-fail case: what its file expects, its control, and the judgement.
//!
//! `//~ ERROR text` at the end of a line expects an error on that line whose message, labels or
//! notes hold the text; `//~^ ERROR text` expects it on the line above. The control is the same
//! file without the lines that err; a line `//~ CONTROL code` stands in for one of them there.

use serde_json::Value;

const ERROR: &str = "//~ ERROR ";
const ERROR_ABOVE: &str = "//~^ ERROR ";
const CONTROL: &str = "//~ CONTROL ";

/// A file that must not compile.
pub(super) struct Case {
    /// The file's name without its ending, which is also its binary's.
    pub(super) name: String,
    /// The same program done right, which must compile.
    pub(super) control: String,
    expected: Vec<Expected>,
}

#[derive(Debug, PartialEq)]
struct Expected {
    line: usize,
    text: String,
}

/// An error of the compiler, with every word it says and the lines of its primary spans.
struct Reported {
    lines: Vec<usize>,
    words: String,
    headline: String,
}

impl Case {
    /// Reads a file's annotations; the error says what is wrong with them.
    pub(super) fn read(name: &str, text: &str) -> Result<Self, String> {
        let mut expected = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let here = [(ERROR, index + 1), (ERROR_ABOVE, index)];
            for (marker, line_number) in here {
                if let Some((_, text)) = line.split_once(marker) {
                    expected.push(Expected { line: line_number, text: text.trim().to_owned() });
                }
            }
        }
        if expected.is_empty() {
            return Err(format!("{name}.rs expects no error: mark the line with `{ERROR}text`"));
        }
        let control = text.lines().enumerate().map(|(index, line)| {
            if let Some((indent, code)) = line.split_once(CONTROL) {
                format!("{indent}{code}\n")
            } else if expected.iter().any(|e| e.line == index + 1) {
                // An empty line keeps the numbers of the others.
                "\n".to_owned()
            } else {
                format!("{line}\n")
            }
        });
        Ok(Self { name: name.to_owned(), control: control.collect(), expected })
    }

    /// The name of the control's binary.
    pub(super) fn control_name(&self) -> String {
        format!("{}-control", self.name)
    }

    /// What is wrong with the compiler's answers, given as cargo's JSON messages.
    pub(super) fn judge(&self, messages: &[Value]) -> Vec<String> {
        let mut objections = Vec::new();
        let name = &self.name;
        let mut reported = errors(messages, name);
        if reported.is_empty() {
            objections.push(format!("{name}.rs compiles, but must not"));
        } else {
            for expected in &self.expected {
                let meets =
                    |r: &Reported| r.lines.contains(&expected.line) && r.words.contains(&expected.text);
                if reported.iter().any(meets) {
                    reported.retain(|r| !meets(r));
                } else {
                    let Expected { line, text } = expected;
                    objections.push(format!("{name}.rs:{line}: no error here says `{text}`"));
                }
            }
            for error in reported {
                let line = error.lines.first().copied().unwrap_or(1);
                let headline = error.headline;
                objections.push(format!("{name}.rs:{line}: fails otherwise: {headline}"));
            }
        }
        for error in errors(messages, &self.control_name()) {
            let line = error.lines.first().copied().unwrap_or(1);
            let headline = error.headline;
            objections.push(format!("{name}.rs:{line}: the control must compile, but: {headline}"));
        }
        let built = |message: &&Value| {
            message["reason"] == "compiler-artifact" && message["target"]["name"] == self.control_name()
        };
        if objections.is_empty() && messages.iter().find(built).is_none() {
            objections.push(format!("{name}.rs: the control was not compiled"));
        }
        objections
    }
}

/// The errors of one binary. Summaries such as "aborting due to" point nowhere and are left out.
fn errors(messages: &[Value], binary: &str) -> Vec<Reported> {
    let of_binary = messages.iter().filter(|message| {
        message["reason"] == "compiler-message"
            && message["target"]["name"] == binary
            && message["message"]["level"] == "error"
    });
    let reported = of_binary.map(|message| {
        let message = &message["message"];
        let primary = list(&message["spans"]).filter(|span| span["is_primary"] == true);
        Reported {
            lines: primary.filter_map(line_of).collect(),
            words: words_of(message),
            headline: message["message"].as_str().unwrap_or_default().to_owned(),
        }
    });
    reported.filter(|error| !error.lines.is_empty()).collect()
}

fn line_of(span: &Value) -> Option<usize> {
    usize::try_from(span["line_start"].as_u64()?).ok()
}

/// The message, the labels in the source, and the notes below.
fn words_of(message: &Value) -> String {
    let mut words = message["message"].as_str().unwrap_or_default().to_owned();
    for span in list(&message["spans"]) {
        words.push('\n');
        words.push_str(span["label"].as_str().unwrap_or_default());
    }
    for child in list(&message["children"]) {
        words.push('\n');
        words.push_str(&words_of(child));
    }
    words
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FILE: &str = "fn main() {\n    let x: u8 = 'a'; //~ ERROR expected `u8`\n    \
        //~ CONTROL let x: u8 = 1;\n    drop(x);\n}\n";

    fn case() -> Case {
        Case::read("a", FILE).expect("the file is annotated")
    }

    fn error(binary: &str, line: usize, text: &str) -> Value {
        json!({"reason": "compiler-message", "target": {"name": binary}, "message": {
            "level": "error", "message": "mismatched types", "children": [],
            "spans": [{"is_primary": true, "line_start": line, "label": text}],
        }})
    }

    fn built() -> Value {
        json!({"reason": "compiler-artifact", "target": {"name": "a-control"}})
    }

    #[test]
    fn the_control_is_the_file_done_right() {
        let control = "fn main() {\n\n    let x: u8 = 1;\n    drop(x);\n}\n";
        assert_eq!(case().control, control);
    }

    #[test]
    fn the_expected_error_and_a_built_control_pass() {
        let right = [error("a", 2, "expected `u8`, found `char`"), built()];
        assert_eq!(case().judge(&right), [""; 0]);
    }

    #[test]
    fn a_case_that_compiles_is_found() {
        assert_eq!(case().judge(&[built()]), ["a.rs compiles, but must not"]);
    }

    #[test]
    fn another_error_than_the_expected_is_found() {
        let other_text = [error("a", 2, "expected `u16`"), built()];
        assert_eq!(case().judge(&other_text).len(), 2);
        let other_line = [error("a", 4, "expected `u8`"), built()];
        assert_eq!(case().judge(&other_line).len(), 2);
        let one_more = [error("a", 2, "expected `u8`"), error("a", 4, "x"), built()];
        assert_eq!(case().judge(&one_more).len(), 1);
    }

    #[test]
    fn a_control_that_fails_is_found() {
        let right = error("a", 2, "expected `u8`");
        assert_eq!(case().judge(std::slice::from_ref(&right)).len(), 1);
        let objections = case().judge(&[right, error("a-control", 3, "x")]);
        let says = "a.rs:3: the control must compile, but: mismatched types";
        assert_eq!(objections, [says]);
    }

    #[test]
    fn a_case_that_expects_nothing_is_an_error() {
        assert!(Case::read("a", "fn main() {}").is_err());
    }

    #[test]
    fn an_error_may_be_expected_on_the_line_above() {
        let case = Case::read("a", "wrong\n//~^ ERROR x\n").expect("the file is annotated");
        let text = "x".to_owned();
        assert_eq!(case.expected, [Expected { line: 1, text }]);
    }
}
