//! The lexer behind [`super::source::Source`]: which bytes of a Rust file are code, which are
//! comment. It knows comments, strings and characters; the rest is code, whatever it means.

/// Writes the two masks of a file, each as long as the file: (code, comments).
pub(super) fn masks(text: &str) -> (String, String) {
    let bytes = text.as_bytes();
    let mut kinds = vec![Kind::Code; bytes.len()];
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let (kind, length) = if rest.starts_with(b"//") {
            let end = rest.iter().position(|&b| b == b'\n');
            (Kind::Comment, end.unwrap_or(rest.len()))
        } else if rest.starts_with(b"/*") {
            (Kind::Comment, block_comment(rest))
        } else if rest[0] == b'"' {
            (Kind::Literal, quoted(rest, b'"'))
        } else if let Some(length) = raw_string(bytes, at) {
            (Kind::Literal, length)
        } else if rest[0] == b'\'' && is_char_literal(&text[at..]) {
            (Kind::Literal, quoted(rest, b'\''))
        } else {
            (Kind::Code, 1)
        };
        let end = (at + length).min(bytes.len());
        kinds[at..end].fill(kind);
        if kind == Kind::Literal {
            // The quotes stay visible, so that a rule can find the literal again.
            let last_quote = bytes[at..end].iter().rposition(|&b| b == b'"');
            let first_quote = bytes[at..end].iter().position(|&b| b == b'"');
            for quote in first_quote.into_iter().chain(last_quote) {
                kinds[at + quote] = Kind::Code;
            }
        }
        at = end;
    }
    let mask = |wanted: Kind| -> String {
        let kept = |(&byte, &kind): (&u8, &Kind)| match byte {
            b'\n' => '\n',
            _ if kind != wanted => ' ',
            // One character a byte keeps the offsets; what is not ASCII is never searched for.
            byte if byte.is_ascii() => byte as char,
            _ => '_',
        };
        bytes.iter().zip(&kinds).map(kept).collect()
    };
    (mask(Kind::Code), mask(Kind::Comment))
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Literal,
    Comment,
}

/// Length of a block comment, which may hold further ones.
fn block_comment(bytes: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if bytes[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Length of a literal that ends at an unescaped `quote`.
fn quoted(bytes: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// Length of the raw string that starts at `at` (`r".."`, `r#".."#`), if one does.
fn raw_string(bytes: &[u8], at: usize) -> Option<usize> {
    let inside_word = |at: usize| bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_';
    let starts_word = at == 0
        || !inside_word(at - 1)
        || (matches!(bytes[at - 1], b'b' | b'c') && (at == 1 || !inside_word(at - 2)));
    if bytes[at] != b'r' || !starts_word {
        return None;
    }
    let hashes = bytes[at + 1..].iter().take_while(|&&b| b == b'#').count();
    let open = at + 1 + hashes;
    if bytes.get(open) != Some(&b'"') {
        return None;
    }
    let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
    let body = &bytes[open + 1..];
    let end = body
        .windows(close.len())
        .position(|window| window == close)
        .map_or(body.len(), |end| end + close.len());
    Some(open + 1 + end - at)
}

/// Tells `'a'` from the lifetime `'a`.
fn is_char_literal(text: &str) -> bool {
    let mut characters = text.chars().skip(1);
    match characters.next() {
        Some('\\') => true,
        Some(_) => characters.next() == Some('\''),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, code: &str, comments: &str) {
        let found = masks(text);
        assert_eq!((found.0.as_str(), found.1.as_str()), (code, comments));
    }

    #[test]
    fn comments_and_literals_leave_the_code() {
        check("a // b", "a     ", "  // b");
        check("a /* b /* c */ d */ e", "a                   e", "  /* b /* c */ d */  ");
        check("f(\"x // y\")", "f(\"      \")", "           ");
        check(r#"f("a\"b", c)"#, r#"f("    ", c)"#, "            ");
        check("/* é */ x", "         x", "/* __ */  ");
    }

    #[test]
    fn raw_strings_end_at_their_own_hashes() {
        check("r#\"a\"b\"#;x", "  \"   \" ;x", "          ");
        check("br\"a\\\";x", "b \"  \";x", "        ");
        // A word that ends in r is not a raw string's prefix.
        check("for r in x", "for r in x", "          ");
    }

    #[test]
    fn a_lifetime_is_not_a_character() {
        check("&'a T // c", "&'a T     ", "      // c");
        check("'\"'; \"b\"", " \" ; \" \"", "        ");
        check("'\\''; b", "    ; b", "       ");
    }
}
