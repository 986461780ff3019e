//! The attribution as a page that needs nothing else.

use candle_autograd::Result;
use candle_autograd::interpret::picture::{Palette, escape, text_html};
use std::fmt::Write;

/// What the page shows.
pub(crate) struct Page<'a> {
    pub(crate) title: &'a str,
    pub(crate) other: &'a str,
    pub(crate) words: &'a [String],
    pub(crate) shares: &'a [f64],
    pub(crate) similarity: f64,
    pub(crate) delta: f64,
    pub(crate) steps: usize,
}

impl Page<'_> {
    /// The page as HTML: a token in red raises the similarity, in blue lowers it.
    pub(crate) fn html(&self) -> Result<String> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let tokens = text_html(&words, self.shares)?;
        let largest = self.shares.iter().fold(1e-12f64, |largest, share| largest.max(share.abs()));
        let mut rows = String::new();
        for (word, share) in words.iter().zip(self.shares) {
            // A bar grows from the middle: to the right what raises, to the left what lowers.
            let width = 50.0 * share.abs() / largest;
            let left = if *share >= 0.0 { 50.0 } else { 50.0 - width };
            let colour = Palette::Diverging.css(0.8 * share.signum());
            let _ = writeln!(
                rows,
                "<tr><td>{}</td><td class=\"number\">{share:+.4}</td><td class=\"bar\"><div style=\"margin-left:{left:.1}%;\
                 width:{width:.1}%;background:{colour}\"></div></td></tr>",
                escape(word)
            );
        }
        let sum: f64 = self.shares.iter().sum();
        Ok(format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n<style>\n\
             body {{ font: 16px/1.6 sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem; color: #222 }}\n\
             h1 {{ font-size: 1.4rem }}\n\
             table {{ border-collapse: collapse; margin-top: 1.5rem; width: 100% }}\n\
             td {{ padding: .15rem .6rem; border-bottom: 1px solid #eee }}\n\
             .number {{ text-align: right; font-variant-numeric: tabular-nums }}\n\
             .bar {{ width: 55%; background: linear-gradient(#bbb, #bbb) center/1px 100% no-repeat }}\n\
             .bar div {{ height: .8em }}\n\
             </style></head>\n<body>\n<h1>{title}</h1>\n\
             <p>Similarity to “{other}”: <b>{similarity:.4}</b>. Integrated gradients of {steps} steps from the \
             vectors of no word; the contributions add up to {sum:.4}, which misses the change of the similarity by \
             {delta:.1e}. Red raises the similarity, blue lowers it.</p>\n{tokens}\n<table>\n{rows}</table>\n</body></html>\n",
            title = escape(self.title),
            other = escape(self.other),
            similarity = self.similarity,
            steps = self.steps,
            delta = self.delta.abs(),
        ))
    }
}
