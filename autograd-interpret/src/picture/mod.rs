//! Pictures of attributions: heat maps, grids, coloured text and time series.
//!
//! Pictures are PNG files or parts of HTML pages; the pages are self-contained.

mod canvas;
mod heat;
mod palette;
mod series;
mod text;

pub use canvas::{Picture, grid};
pub use heat::HeatMap;
pub use palette::Palette;
pub use series::Series;
pub use text::{escape, text_html};

use autograd_core::{Error, Result};

/// The size at which colours are full: what one number in a hundred exceeds, so that a few very
/// large ones do not leave the others without colour.
fn full_size(values: &[f64], quantile: f64) -> f64 {
    let mut sizes: Vec<f64> = values.iter().map(|value| value.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    let at = (sizes.len() as f64 * quantile) as usize;
    sizes.get(at.min(sizes.len().saturating_sub(1))).copied().unwrap_or(0.0).max(f64::MIN_POSITIVE)
}

fn finite(op: &'static str, values: &[f64]) -> Result<()> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(i) => Err(Error::argument(op, format!("number {i} is {} and has no colour", values[i]))),
        None => Ok(()),
    }
}
