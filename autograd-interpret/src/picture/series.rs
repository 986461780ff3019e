//! Time series on a ground coloured by what each moment contributes.

use super::{Palette, finite, full_size};
use autograd_core::{Error, Result, Site};
use std::fmt::Write;

/// How a time series becomes a curve.
///
/// ```
/// use autograd_interpret::picture::Series;
///
/// let svg = Series::new().scores(&[-0.5, 0.0, 1.0]).svg(&[3.0, 1.0, 2.0], 300, 60)?;
/// assert!(svg.starts_with("<svg"));
/// # Ok::<(), autograd_core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Series {
    scores: Option<Vec<f64>>,
    range: Option<(f64, f64)>,
}

impl Series {
    /// A plain curve that fills its height.
    pub fn new() -> Self {
        Self::default()
    }

    /// What each moment contributes: the colour behind it.
    #[must_use]
    pub fn scores(mut self, scores: &[f64]) -> Self {
        self.scores = Some(scores.to_vec());
        self
    }

    /// The values at the bottom and at the top, so that several curves can be compared; a value
    /// beyond them runs along the edge.
    #[must_use]
    pub fn range(mut self, low: f64, high: f64) -> Self {
        self.range = Some((low, high));
        self
    }

    /// The curve of `values` against time as a piece of SVG, which HTML pages take as it is.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for fewer than two values, another number of scores, numbers
    /// that are not finite, or a range that is empty.
    #[track_caller]
    pub fn svg(&self, values: &[f64], width: u32, height: u32) -> Result<String> {
        let site = Site::caller();
        self.draw(values, width, height).map_err(|e| e.or_at(site))
    }

    fn draw(&self, values: &[f64], width: u32, height: u32) -> Result<String> {
        let op = "series";
        if values.len() < 2 || self.scores.as_ref().is_some_and(|scores| scores.len() != values.len()) {
            return Err(Error::argument(op, "at least two values and one score for each are needed"));
        }
        if let Some((low, high)) =
            self.range.filter(|(low, high)| high.partial_cmp(low).is_none_or(std::cmp::Ordering::is_le))
        {
            return Err(Error::argument(op, format!("the range from {low} to {high} is empty")));
        }
        finite(op, values)?;
        finite(op, self.scores.as_deref().unwrap_or(&[]))?;
        let (w, h) = (f64::from(width), f64::from(height));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">"
        );
        let step = w / values.len() as f64;
        if let Some(scores) = &self.scores {
            let full = full_size(scores, 1.0);
            for (i, score) in scores.iter().enumerate() {
                let (x, colour) = (i as f64 * step, Palette::Diverging.css(score / full));
                let _ = write!(
                    svg,
                    "<rect x=\"{x:.2}\" y=\"0\" width=\"{step:.2}\" height=\"{height}\" fill=\"{colour}\"/>"
                );
            }
        }
        let (low, high) = self.range.unwrap_or_else(|| {
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            (low, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
        });
        // A constant runs through the middle.
        let level =
            |value: f64| if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
        svg.push_str("<polyline fill=\"none\" stroke=\"#222\" stroke-width=\"1.5\" points=\"");
        for (i, value) in values.iter().enumerate() {
            let (x, y) = ((i as f64 + 0.5) * step, 2.0 + (h - 4.0) * (1.0 - level(*value)));
            let _ = write!(svg, "{x:.2},{y:.2} ");
        }
        svg.push_str("\"/></svg>");
        Ok(svg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_runs_from_bottom_to_top() -> Result<()> {
        let svg = Series::new().scores(&[-1.0, 1.0]).svg(&[0.0, 1.0], 100, 20)?;
        assert!(svg.contains("points=\"25.00,18.00 75.00,2.00 \""), "{svg}");
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(Series::new().svg(&[1.0, 1.0], 100, 20)?.contains("25.00,10.00"));
        Ok(())
    }

    #[test]
    fn a_range_is_the_same_for_all_curves() -> Result<()> {
        let svg = Series::new().range(0.0, 2.0).svg(&[1.0, 3.0], 100, 20)?;
        assert!(svg.contains("points=\"25.00,10.00 75.00,2.00 \""), "{svg}");
        Ok(())
    }

    #[test]
    fn what_has_no_curve_is_an_error() {
        let plain = Series::new();
        assert!(plain.svg(&[1.0], 100, 20).is_err());
        assert!(plain.svg(&[1.0, f64::INFINITY], 100, 20).is_err());
        assert!(Series::new().scores(&[1.0]).svg(&[1.0, 2.0], 100, 20).is_err());
        for (low, high) in [(1.0, 1.0), (2.0, 1.0), (f64::NAN, 1.0)] {
            assert!(Series::new().range(low, high).svg(&[1.0, 2.0], 100, 20).is_err());
        }
    }
}
