//! Text whose words are coloured by what they contribute.

use super::{Palette, finite, full_size};
use autograd_core::{Error, Result, Site};
use std::fmt::Write;

/// Text as HTML shows it.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            _ => safe.push(letter),
        }
    }
    safe
}

/// Tokens as a piece of HTML, the background of each coloured by its score: red for, blue against.
/// The score is shown when the pointer rests on a token.
///
/// # Errors
/// [`Error::InvalidArgument`] where tokens and scores differ in number, or a score is not finite.
///
/// ```
/// use autograd_interpret::picture::text_html;
///
/// let html = text_html(&["not", "bad"], &[-0.5, 1.0])?;
/// assert!(html.contains(">not</span>"));
/// # Ok::<(), autograd_core::Error>(())
/// ```
#[track_caller]
pub fn text_html(tokens: &[&str], scores: &[f64]) -> Result<String> {
    let site = Site::caller();
    if tokens.len() != scores.len() {
        let reason = format!("{} scores given for {} tokens", scores.len(), tokens.len());
        return Err(Error::argument("text_html", reason).or_at(site));
    }
    finite("text_html", scores).map_err(|e| e.or_at(site))?;
    let full = full_size(scores, 1.0);
    let mut html = String::from("<p style=\"line-height:2;font-family:sans-serif\">");
    for (token, score) in tokens.iter().zip(scores) {
        // Half of the palette: words stay readable.
        let colour = Palette::Diverging.css(0.6 * score / full);
        let style = format!("background:{colour};padding:2px 4px;margin:1px;border-radius:3px");
        let _ = write!(html, "<span style=\"{style}\" title=\"{score:+.4}\">{}</span> ", escape(token));
    }
    html.push_str("</p>");
    Ok(html)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_cannot_break_out_of_the_page() -> Result<()> {
        let html = text_html(&["<script>", "\"a&b\""], &[0.0, 1.0])?;
        assert!(!html.contains("<script>") && html.contains("&lt;script&gt;"));
        assert!(html.contains("&quot;a&amp;b&quot;") && html.contains("+1.0000"));
        assert!(text_html(&["a"], &[]).is_err() && text_html(&["a"], &[f64::NAN]).is_err());
        Ok(())
    }
}
