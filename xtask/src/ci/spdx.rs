//! Licence expressions: is one satisfied by a list of allowed licences?
//!
//! The grammar of SPDX (`OR`, `AND`, `WITH`, parentheses, `AND` binding tighter), and the slash
//! that older manifests use for `OR`.

/// Whether `expression` can be satisfied with allowed licences alone; the error says why the
/// expression cannot be read.
pub(super) fn satisfied(expression: &str, licences: &[&str], exceptions: &[&str]) -> Result<bool, String> {
    let spaced = expression.replace('/', " OR ");
    let spaced = spaced.replace('(', " ( ").replace(')', " ) ");
    let mut reader = Reader { words: spaced.split_whitespace().collect(), at: 0, licences, exceptions };
    let answer = reader.either()?;
    match reader.next() {
        None => Ok(answer),
        Some(word) => Err(format!("`{word}` follows a complete expression")),
    }
}

/// Reads the words from left to right, one method for each level of the grammar. Every branch is
/// read even when the answer is known, so that a malformed expression is always an error.
struct Reader<'e> {
    words: Vec<&'e str>,
    at: usize,
    licences: &'e [&'e str],
    exceptions: &'e [&'e str],
}

impl<'e> Reader<'e> {
    fn next(&mut self) -> Option<&'e str> {
        let word = self.words.get(self.at).copied();
        self.at += 1;
        word
    }

    fn skip(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at) == Some(&word);
        self.at += usize::from(found);
        found
    }

    fn either(&mut self) -> Result<bool, String> {
        let mut answer = self.both()?;
        while self.skip("OR") {
            answer |= self.both()?;
        }
        Ok(answer)
    }

    fn both(&mut self) -> Result<bool, String> {
        let mut answer = self.one()?;
        while self.skip("AND") {
            answer &= self.one()?;
        }
        Ok(answer)
    }

    fn one(&mut self) -> Result<bool, String> {
        if self.skip("(") {
            let answer = self.either()?;
            return if self.skip(")") { Ok(answer) } else { Err("a parenthesis is not closed".to_owned()) };
        }
        let licence = self.name("a licence")?;
        let mut answer = self.licences.contains(&licence);
        if self.skip("WITH") {
            let exception = self.name("an exception")?;
            answer &= self.exceptions.contains(&exception);
        }
        Ok(answer)
    }

    fn name(&mut self, what: &str) -> Result<&'e str, String> {
        match self.next() {
            Some(word) if !["OR", "AND", "WITH", "(", ")"].contains(&word) => Ok(word),
            Some(word) => Err(format!("`{word}` stands where {what} should")),
            None => Err(format!("the expression ends where {what} should stand")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expression: &str) -> Result<bool, String> {
        satisfied(expression, &["MIT", "Apache-2.0", "Unicode-3.0"], &["LLVM-exception"])
    }

    #[test]
    fn choices_need_one_and_conjunctions_need_all() {
        assert_eq!(check("MIT"), Ok(true));
        assert_eq!(check("GPL-3.0-only"), Ok(false));
        assert_eq!(check("GPL-3.0-only OR MIT"), Ok(true));
        assert_eq!(check("MIT AND GPL-3.0-only"), Ok(false));
        assert_eq!(check("(MIT OR Apache-2.0) AND Unicode-3.0"), Ok(true));
        assert_eq!(check("(MIT OR Apache-2.0) AND OpenSSL"), Ok(false));
    }

    #[test]
    fn and_binds_tighter_than_or() {
        assert_eq!(check("MIT OR Apache-2.0 AND GPL-2.0-only"), Ok(true));
        assert_eq!(check("GPL-2.0-only AND Apache-2.0 OR MIT"), Ok(true));
        assert_eq!(check("GPL-2.0-only AND (Apache-2.0 OR MIT)"), Ok(false));
    }

    #[test]
    fn exceptions_and_the_old_slash_are_known() {
        assert_eq!(check("Apache-2.0 WITH LLVM-exception"), Ok(true));
        assert_eq!(check("Apache-2.0 WITH Font-exception-2.0"), Ok(false));
        assert_eq!(check("GPL-2.0-only WITH LLVM-exception"), Ok(false));
        assert_eq!(check("GPL-3.0/MIT"), Ok(true));
        assert_eq!(check("Apache-2.0 / MIT"), Ok(true));
    }

    #[test]
    fn malformed_expressions_are_errors() {
        for wrong in ["", "MIT OR", "MIT MIT", "(MIT", "MIT)", "AND MIT", "MIT WITH"] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }
}
