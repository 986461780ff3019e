//! Time series on a ground coloured by what each moment contributes.

use super::{Palette, finite, full_size};
use autograd_core::{Error, Result, Site};
use std::fmt::Write;

/// A curve as a piece of SVG, which HTML pages take as it is: `values` against time, and behind
/// each moment the colour of its score. Without scores it is a plain curve.
///
/// # Errors
/// [`Error::InvalidArgument`] for fewer than two values, another number of scores, or numbers that
/// are not finite.
#[track_caller]
pub fn series_svg(values: &[f64], scores: Option<&[f64]>, width: u32, height: u32) -> Result<String> {
    let site = Site::caller();
    let op = "series_svg";
    if values.len() < 2 || scores.is_some_and(|scores| scores.len() != values.len()) {
        let reason = "at least two values and one score for each are needed";
        return Err(Error::argument(op, reason).or_at(site));
    }
    finite(op, values).and(finite(op, scores.unwrap_or(&[]))).map_err(|e| e.or_at(site))?;
    let (w, h) = (f64::from(width), f64::from(height));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">"
    );
    let step = w / values.len() as f64;
    if let Some(scores) = scores {
        let full = full_size(scores, 1.0);
        for (i, score) in scores.iter().enumerate() {
            let (x, colour) = (i as f64 * step, Palette::Diverging.css(score / full));
            let _ = write!(
                svg,
                "<rect x=\"{x:.2}\" y=\"0\" width=\"{step:.2}\" height=\"{height}\" fill=\"{colour}\"/>"
            );
        }
    }
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // A constant runs through the middle.
    let level = |value: f64| if high > low { (value - low) / (high - low) } else { 0.5 };
    svg.push_str("<polyline fill=\"none\" stroke=\"#222\" stroke-width=\"1.5\" points=\"");
    for (i, value) in values.iter().enumerate() {
        let (x, y) = ((i as f64 + 0.5) * step, 2.0 + (h - 4.0) * (1.0 - level(*value)));
        let _ = write!(svg, "{x:.2},{y:.2} ");
    }
    svg.push_str("\"/></svg>");
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_runs_from_bottom_to_top() -> Result<()> {
        let svg = series_svg(&[0.0, 1.0], Some(&[-1.0, 1.0]), 100, 20)?;
        assert!(svg.contains("points=\"25.00,18.00 75.00,2.00 \""), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(series_svg(&[1.0, 1.0], None, 100, 20)?.contains("25.00,10.00"));
        assert!(series_svg(&[1.0], None, 100, 20).is_err());
        assert!(series_svg(&[1.0, f64::INFINITY], None, 100, 20).is_err());
        assert!(series_svg(&[1.0, 2.0], Some(&[1.0]), 100, 20).is_err());
        Ok(())
    }
}
