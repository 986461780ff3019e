//! A Rust file split into what is code and what is comment, without parsing it.
//!
//! The rules search for words. A word inside a string or a comment is not code, so the lexer
//! writes two masks of the file, as long as the file itself: in `code`, comments and the insides
//! of literals are blank; in `comments`, everything but the comments is. An offset or a line
//! number therefore means the same place in all three.

use super::masks::masks;
use std::ops::Range;

/// One Rust file, ready to be searched.
pub(crate) struct Source {
    /// Path from the project's root, with forward slashes.
    pub(crate) path: String,
    /// The file as it is.
    pub(crate) text: String,
    /// The file without comments and without the insides of literals.
    pub(crate) code: String,
    comments: String,
    line_starts: Vec<usize>,
    test_code: Vec<Range<usize>>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let (code, comments) = masks(text);
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let test_code = test_code(&code);
        Self { path: path.to_owned(), text: text.to_owned(), code, comments, line_starts, test_code }
    }

    /// The line of an offset, counted from 1 as editors do.
    pub(crate) fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= offset)
    }

    /// Every line's number with its comment (without the slashes; empty where there is none).
    pub(crate) fn comment_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..=self.line_starts.len()).map(|line| (line, self.comment(line)))
    }

    /// Offsets at which `word` stands in the code as a whole word.
    pub(crate) fn words<'s>(&'s self, word: &'s str) -> impl Iterator<Item = usize> + 's {
        whole_words(&self.code, word)
    }

    /// Whether an offset lies in an item under `#[cfg(test)]`.
    pub(crate) fn in_test_code(&self, offset: usize) -> bool {
        self.test_code.iter().any(|range| range.contains(&offset))
    }

    /// The plain comments that belong to the statement at `offset`: at the end of its line, or
    /// directly above the line or the statement (attributes may stand between). Doc comments say
    /// what an item is, not why a line is sound, so they do not count.
    pub(crate) fn comment_for(&self, offset: usize) -> String {
        let line = self.line_of(offset);
        let mut found = vec![self.plain_comment(line)];
        let mut above = line - 1;
        while above > 0 {
            let code = self.line(&self.code, above).trim();
            let continues = !code.is_empty() && !code.ends_with([';', '{', '}', ',']);
            if !continues {
                break;
            }
            above -= 1;
        }
        let starts = std::iter::once(line - 1).chain((above < line - 1).then_some(above));
        for start in starts {
            let block = (1..=start)
                .rev()
                .take_while(|&n| self.line(&self.code, n).trim().is_empty())
                .take_while(|&n| !self.comment(n).is_empty());
            found.extend(block.map(|n| self.plain_comment(n)));
        }
        found.join("\n")
    }

    /// The text of the first string literal among the arguments of the call whose parenthesis
    /// opens just before `offset`.
    pub(crate) fn literal_in_call(&self, offset: usize) -> Option<&str> {
        let end = offset + call_length(&self.code[offset..]);
        let open = offset + self.code[offset..end].find('"')? + 1;
        let close = open + self.code[open..end].find('"')?;
        Some(&self.text[open..close])
    }

    fn line<'t>(&self, of: &'t str, line: usize) -> &'t str {
        let end = self.line_starts.get(line).copied().unwrap_or(of.len());
        &of[self.line_starts[line - 1]..end]
    }

    fn comment(&self, line: usize) -> &str {
        self.line(&self.comments, line).trim()
    }

    fn plain_comment(&self, line: usize) -> &str {
        let comment = self.comment(line);
        if comment.starts_with("///") || comment.starts_with("//!") { "" } else { comment }
    }
}

/// How far it is to the parenthesis that closes the one already open.
fn call_length(code: &str) -> usize {
    let mut depth = 1_usize;
    let closes = |(_, byte): &(usize, u8)| {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ => {}
        }
        depth == 0
    };
    code.bytes().enumerate().find(closes).map_or(code.len(), |(at, _)| at)
}

/// Offsets at which `word` stands in `text` with no identifier character beside it.
pub(crate) fn whole_words<'t>(text: &'t str, word: &'t str) -> impl Iterator<Item = usize> + 't {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).filter_map(move |(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        let longer_left = word.starts_with(part_of_word) && before.is_some_and(part_of_word);
        let longer_right = word.ends_with(part_of_word) && after.is_some_and(part_of_word);
        (!longer_left && !longer_right).then_some(at)
    })
}

/// The items under `#[cfg(test)]` and the like, from the attribute to the item's end.
fn test_code(code: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    for (start, _) in code.match_indices("cfg(") {
        let opened = code[..start].trim_end();
        let Some(close) = code[start..].find(']').map(|at| start + at) else {
            continue;
        };
        let condition = &code[start..close];
        let of_tests =
            whole_words(condition, "test").next().is_some() && whole_words(condition, "not").next().is_none();
        if of_tests && opened.ends_with("#![") {
            ranges.push(0..code.len());
        } else if of_tests && opened.ends_with("#[") {
            ranges.push(start..item_end(code, close + 1));
        }
    }
    ranges
}

/// Where the item after an attribute ends: at its `;`, or at the brace that closes its first one.
fn item_end(code: &str, from: usize) -> usize {
    let (mut braces, mut brackets) = (0_usize, 0_usize);
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'[' | b'(' => brackets += 1,
            b']' | b')' => brackets = brackets.saturating_sub(1),
            b'{' => braces += 1,
            b'}' => {
                braces = braces.saturating_sub(1);
                if braces == 0 {
                    return at + 1;
                }
            }
            b';' if braces == 0 && brackets == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comment_at(text: &str, word: &str) -> String {
        let source = Source::new("x.rs", text);
        let offset = source.code.find(word).expect("the test names its own word");
        source.comment_for(offset)
    }

    #[test]
    fn a_statement_has_the_comments_above_and_beside_it() {
        assert_eq!(comment_at("// why\nfoo();", "foo"), "\n// why");
        assert_eq!(comment_at("foo(); // why", "foo"), "// why");
        assert!(comment_at("// why\nlet x =\n    foo();", "foo").contains("why"));
        assert!(comment_at("// why\n#[inline]\nfoo {}", "foo").contains("why"));
    }

    #[test]
    fn comments_of_other_statements_and_docs_do_not_count() {
        assert!(!comment_at("// why\nlet x = 1;\nfoo();", "foo").contains("why"));
        assert!(!comment_at("// why\n\nfoo();", "foo").contains("why"));
        assert!(!comment_at("/// why\nfoo {}", "foo").contains("why"));
    }

    #[test]
    fn test_code_is_the_item_under_its_attribute() {
        let text = "a;\n#[cfg(test)]\nmod t { b { c } }\nd;\n#[cfg(all(test, unix))]\nuse e;\nf";
        let source = Source::new("x.rs", text);
        let inside = |word: &str| source.in_test_code(source.words(word).next().expect("word is in text"));
        let found = ["a", "b", "c", "d", "e", "f"].map(inside);
        assert_eq!(found, [false, true, true, false, true, false]);
        let outside = Source::new("x.rs", "#[cfg(not(test))]\nmod t { b }");
        assert!(!outside.in_test_code(outside.code.find('b').expect("b is in text")));
    }

    #[test]
    fn offsets_become_lines_and_words_are_whole() {
        let source = Source::new("x.rs", "unsafe_code;\nmy_unsafe;\nunsafe {}");
        let lines: Vec<_> = source.words("unsafe").map(|at| source.line_of(at)).collect();
        assert_eq!(lines, [3]);
    }
}
