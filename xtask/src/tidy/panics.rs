//! Rule about panics: library code panics only on an invariant, and the line says which.

use super::{Finding, Source};

/// A message or comment of fewer words cannot state an invariant.
const FEWEST_WORDS: usize = 3;

const PANICS: [&str; 5] = [".unwrap()", ".expect(", "panic!(", "unreachable!(", ".expect_err("];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    if !is_library(&source.path) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for panic in PANICS {
        for offset in source.words(panic) {
            if !source.in_test_code(offset) && !states_invariant(source, offset, panic) {
                let name = panic.trim_end_matches(['(', ')']);
                let says = format!(
                    "`{name}` without its invariant: return an error, \
                     or say in {FEWEST_WORDS} words or more why it cannot happen"
                );
                findings.push(Finding::new(&source.path, source.line_of(offset), says));
            }
        }
    }
    findings
}

/// Sources that others link: the facade's and each crate's `src`, tests in files of their own
/// excepted.
fn is_library(path: &str) -> bool {
    let mut folders = path.split('/');
    let in_src = folders.next() == Some("src") || folders.next() == Some("src");
    in_src && !path.ends_with("/tests.rs") && !path.contains("/tests/")
}

fn states_invariant(source: &Source, offset: usize, panic: &str) -> bool {
    let enough = |words: &str| {
        let words = words.split_whitespace();
        // A placeholder speaks too: it becomes the value that broke the invariant.
        let spoken = words.filter(|word| word.contains(|c: char| c.is_alphabetic() || c == '{'));
        spoken.count() >= FEWEST_WORDS
    };
    if enough(&source.comment_for(offset)) {
        return true;
    }
    if panic.ends_with("()") {
        return false;
    }
    let arguments = offset + panic.len();
    source.literal_in_call(arguments).is_some_and(enough) || names_constant(&source.code[arguments..])
}

/// A message that many lines share is a constant; its words stand where it is defined.
fn names_constant(arguments: &str) -> bool {
    let name = arguments.split(')').next().unwrap_or_default().trim();
    !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::lines;

    fn found(text: &str) -> Vec<usize> {
        lines(&check(&Source::new("autograd-core/src/a.rs", text)))
    }

    #[test]
    fn panics_without_invariant_are_found() {
        assert_eq!(found("let a = 1;\na.unwrap();"), [2]);
        assert_eq!(found("a.expect(\"is some\");"), [1]);
        assert_eq!(found("a.expect(&message);"), [1]);
        assert_eq!(found("panic!();"), [1]);
        assert_eq!(found("match a { _ => unreachable!() }"), [1]);
        assert_eq!(found("// short\na.unwrap();"), [2]);
        assert_eq!(found("/// A doc comment about the item\nfn f() { a.unwrap() }"), [2]);
        // The message of another call is not this one's.
        assert_eq!(found("f(a.expect(m), \"three words here\");"), [1]);
    }

    #[test]
    fn panics_with_invariant_pass() {
        assert!(found("a.expect(\"the slot was just filled\");").is_empty());
        assert!(found("a.expect(\n    \"the slot was filled\",\n);").is_empty());
        assert!(found("a.expect(POISONED);").is_empty());
        assert!(found("// The slot was just filled.\na.unwrap();").is_empty());
        assert!(found("a.unwrap(); // filled just above").is_empty());
        assert!(found("panic!(\"level {level} was never taken\");").is_empty());
        assert!(found("a.unwrap_or(0); // .unwrap()").is_empty());
    }

    #[test]
    fn tests_and_users_may_panic() {
        assert!(found("#[cfg(test)]\nmod tests { fn f() { a.unwrap() } }").is_empty());
        let text = "a.unwrap();";
        for path in [
            "tests/it/a.rs",
            "examples/a.rs",
            "examples/big/src/main.rs",
            "benches/a.rs",
            "autograd-core/src/tests.rs",
            "autograd-core/src/sweep/tests/chain.rs",
            "autograd-core/tests/a.rs",
            "tests/outside/a/src/main.rs",
        ] {
            assert!(check(&Source::new(path, text)).is_empty(), "{path}");
        }
        for path in ["src/lib.rs", "autograd-core/src/a.rs", "xtask/src/a.rs"] {
            assert_eq!(check(&Source::new(path, text)).len(), 1, "{path}");
        }
    }
}
