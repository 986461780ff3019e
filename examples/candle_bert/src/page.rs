//! The attribution as a page that needs nothing else.

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

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Page<'_> {
    /// The page as HTML: a token in green raises the similarity, in red lowers it.
    pub(crate) fn html(&self) -> String {
        let largest = self.shares.iter().fold(1e-12f64, |largest, share| largest.max(share.abs()));
        let (mut tokens, mut rows) = (String::new(), String::new());
        for (word, share) in self.words.iter().zip(self.shares) {
            let strength = 0.85 * share.abs() / largest;
            let colour = if *share >= 0.0 { "26, 152, 80" } else { "215, 48, 39" };
            let (word, width) = (escaped(word), 100.0 * share.abs() / largest);
            let _ = write!(
                tokens,
                "<span title=\"{share:+.4}\" style=\"background: rgba({colour}, {strength:.3})\">{word}</span> "
            );
            let _ = writeln!(
                rows,
                "<tr><td>{word}</td><td class=\"number\">{share:+.4}</td><td class=\"bar\"><div style=\"width: {width:.1}%; background: rgb({colour})\"></div></td></tr>"
            );
        }
        let sum: f64 = self.shares.iter().sum();
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\n<style>\n\
             body {{ font: 16px/1.6 sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem; color: #222 }}\n\
             span {{ padding: .15em .3em; border-radius: .25em }}\n\
             table {{ border-collapse: collapse; margin-top: 1.5rem; width: 100% }}\n\
             td {{ padding: .15rem .6rem; border-bottom: 1px solid #eee }}\n\
             .number {{ text-align: right; font-variant-numeric: tabular-nums }}\n\
             .bar {{ width: 55% }} .bar div {{ height: .8em }}\n\
             </style></head>\n<body>\n<h1>{title}</h1>\n\
             <p>Similarity to “{other}”: <b>{similarity:.4}</b>. Integrated gradients of {steps} steps from the \
             vectors of no word; the contributions add up to {sum:.4}, which misses the change of the similarity by \
             {delta:.1e}.</p>\n<p>{tokens}</p>\n<table>\n{rows}</table>\n</body></html>\n",
            title = escaped(self.title),
            other = escaped(self.other),
            similarity = self.similarity,
            steps = self.steps,
            delta = self.delta.abs(),
        )
    }
}
