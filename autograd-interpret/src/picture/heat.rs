//! Heat maps, alone or blended on an image.

use super::{Palette, Picture, finite, full_size};
use crate::function::numbers;
use autograd_core::{Error, Result, Site, TrackedTensor};
use image::{Rgb, RgbImage};

/// How numbers become a picture.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_interpret::picture::HeatMap;
///
/// fn main() -> Result<()> {
///     let scores = TrackedTensor::from_vec(vec![1.0, -1.0, 0.0, 0.5], &[2, 2])?;
///     let picture = HeatMap::new().render(&scores)?.enlarged(8);
///     assert_eq!(picture.width(), 16);
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct HeatMap {
    palette: Palette,
    opacity: f64,
    quantile: f64,
    scale: Option<f64>,
}

impl Default for HeatMap {
    fn default() -> Self {
        Self::new()
    }
}

impl HeatMap {
    /// Blue to red with white at zero, full at the size that one number in a hundred exceeds.
    pub fn new() -> Self {
        Self { palette: Palette::Diverging, opacity: 0.7, quantile: 0.99, scale: None }
    }

    /// The colours.
    #[must_use]
    pub fn palette(mut self, palette: Palette) -> Self {
        self.palette = palette;
        self
    }

    /// How much of an image the colours hide; 0.7 unless set.
    #[must_use]
    pub fn opacity(mut self, opacity: f64) -> Self {
        self.opacity = opacity.clamp(0.0, 1.0);
        self
    }

    /// The share of numbers that stay below full colour; 0.99 unless set.
    #[must_use]
    pub fn quantile(mut self, quantile: f64) -> Self {
        self.quantile = quantile.clamp(0.0, 1.0);
        self
    }

    /// The number of full colour, the same for several pictures.
    #[must_use]
    pub fn scale(mut self, scale: f64) -> Self {
        self.scale = Some(scale);
        self
    }

    /// A picture of numbers: rows × columns, or channels × rows × columns, whose channels are
    /// added up. Leading extents of 1 are passed over.
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape; [`Error::InvalidArgument`] for numbers that are not
    /// finite.
    #[track_caller]
    pub fn render(&self, values: &TrackedTensor) -> Result<Picture> {
        let site = Site::caller();
        self.draw(values, None).map_err(|e| e.or_at(site))
    }

    /// The same, blended on an image of numbers from 0 to 1 of the same rows and columns, with one
    /// channel or three.
    ///
    /// # Errors
    /// As [`render`](Self::render); [`Error::Shape`] for an image of another size.
    #[track_caller]
    pub fn render_on(&self, values: &TrackedTensor, image: &TrackedTensor) -> Result<Picture> {
        let site = Site::caller();
        self.draw(values, Some(image)).map_err(|e| e.or_at(site))
    }

    fn draw(&self, values: &TrackedTensor, image: Option<&TrackedTensor>) -> Result<Picture> {
        let (channels, height, width) = plane(values)?;
        let all = numbers(values)?;
        finite("heat_map", &all)?;
        let places = height * width;
        let sums: Vec<f64> =
            (0..places).map(|at| (0..channels).map(|c| all[c * places + at]).sum()).collect();
        let full = self.scale.unwrap_or_else(|| full_size(&sums, self.quantile));
        let below = match image {
            None => None,
            Some(image) => {
                let (channels, rows, columns) = plane(image)?;
                if (rows, columns) != (height, width) || !(channels == 1 || channels == 3) {
                    let reason = "an image of one or three channels and the map's rows and columns is needed";
                    return Err(Error::shape("heat_map", &[*values.shape(), *image.shape()], reason));
                }
                let pixels = numbers(image)?;
                finite("heat_map", &pixels)?;
                Some((pixels, channels))
            }
        };
        let picture = RgbImage::from_fn(width as u32, height as u32, |column, row| {
            let at = row as usize * width + column as usize;
            let colour = self.palette.colour(sums[at] / full);
            let Some((pixels, channels)) = &below else { return colour };
            let mut mixed = [0; 3];
            for (c, mixed) in mixed.iter_mut().enumerate() {
                let under = 255.0 * pixels[c.min(channels - 1) * places + at].clamp(0.0, 1.0);
                *mixed = (self.opacity * f64::from(colour[c]) + (1.0 - self.opacity) * under).round() as u8;
            }
            Rgb(mixed)
        });
        Ok(Picture(picture))
    }
}

/// Channels, rows and columns.
fn plane(values: &TrackedTensor) -> Result<(usize, usize, usize)> {
    let dims = values.dims();
    let ones = dims.iter().take(dims.len().saturating_sub(2)).take_while(|&&d| d == 1).count();
    match dims[ones..] {
        [height, width] if height * width > 0 => Ok((1, height, width)),
        [channels, height, width] if channels * height * width > 0 => Ok((channels, height, width)),
        _ => {
            let reason = "rows × columns or channels × rows × columns are needed";
            Err(Error::shape("heat_map", &[*values.shape()], reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_white_and_signs_have_their_colours() -> Result<()> {
        let values = TrackedTensor::from_vec(vec![4.0, 0.0, -4.0, 2.0], &[1, 1, 2, 2])?;
        let picture = HeatMap::new().scale(4.0).render(&values)?;
        let at = |column, row| picture.pixel(column, row).unwrap_or_default();
        // The palette's white is (242, 239, 238).
        assert!(at(1, 0).iter().all(|&channel| channel > 230), "{:?}", at(1, 0));
        let ([red, _, blue], [cold, _, warm]) = (at(0, 0), at(0, 1));
        assert!(red > blue + 50 && warm > cold + 50);
        Ok(())
    }

    #[test]
    fn channels_add_up_and_an_image_shines_through() -> Result<()> {
        let values = TrackedTensor::from_vec(vec![1.0, 1.0, -1.0, 1.0], &[2, 1, 2])?;
        let image = TrackedTensor::from_vec(vec![0.0, 1.0], &[1, 1, 2])?;
        let picture = HeatMap::new().palette(Palette::Ink).opacity(0.5).render_on(&values, &image)?;
        // 0 is white on black; 2 is black on white.
        assert_eq!((picture.pixel(0, 0), picture.pixel(1, 0)), (Some([128; 3]), Some([128; 3])));
        Ok(())
    }

    #[test]
    fn shapes_and_numbers_without_a_picture_are_errors() -> Result<()> {
        let row = TrackedTensor::from_vec(vec![1.0, 2.0], &[2])?;
        assert!(HeatMap::new().render(&row).is_err());
        let nan = TrackedTensor::from_vec(vec![f64::NAN, 2.0], &[1, 2])?;
        assert!(HeatMap::new().render(&nan).is_err());
        let image = TrackedTensor::from_vec(vec![1.0; 4], &[2, 2])?;
        assert!(
            HeatMap::new().render_on(&image.clone(), &TrackedTensor::from_vec(vec![1.0], &[1, 1])?).is_err()
        );
        Ok(())
    }
}
