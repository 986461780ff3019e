//! A picture to draw on, and its way into a PNG file.

use super::Result;
use plotters::coord::Shift;
use plotters::prelude::{BitMapBackend, DrawingArea, IntoDrawingArea, IntoFont, TextStyle};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontDesc, FontStyle, RGBColor, WHITE, register_font};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

/// Pictures are drawn this many times larger, which makes their lines smooth when they are
/// brought to size.
pub(crate) const FINE: u32 = 2;

/// The colour of words and axes.
pub(crate) const INK: RGBColor = RGBColor(40, 44, 52);

/// The colour of what is less important.
pub(crate) const FAINT: RGBColor = RGBColor(120, 124, 132);

const FAMILY: &str = "sans-serif";

/// A white picture.
pub(crate) struct Canvas {
    width: u32,
    height: u32,
    fine: Vec<u8>,
}

/// What plotters draws on.
pub(crate) type Area<'p> = DrawingArea<BitMapBackend<'p>, Shift>;

impl Canvas {
    /// A white picture of so many pixels.
    pub(crate) fn new(width: u32, height: u32) -> Result<Self> {
        register_font(FAMILY, FontStyle::Normal, dejavu::sans::regular())
            .map_err(|_| "the font cannot be read")?;
        let bytes = 3 * (FINE * width * FINE * height) as usize;
        Ok(Self { width, height, fine: vec![u8::MAX; bytes] })
    }

    /// The whole picture, [`FINE`] times as wide and high, to draw on.
    pub(crate) fn area(&mut self) -> Result<Area<'_>> {
        let size = (FINE * self.width, FINE * self.height);
        let area = BitMapBackend::with_buffer(&mut self.fine, size).into_drawing_area();
        area.fill(&WHITE)?;
        Ok(area)
    }

    /// Writes the picture to a PNG file.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let about = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let file = File::create(path).map_err(|error| about(&error))?;
        let mut encoder = png::Encoder::new(BufWriter::new(file), self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        let mut writer = encoder.write_header().map_err(|error| about(&error))?;
        writer.write_image_data(&self.to_size()).map_err(|error| about(&error))?;
        Ok(writer.finish().map_err(|error| about(&error))?)
    }

    /// Each pixel as the mean of the fine ones that it is made of.
    fn to_size(&self) -> Vec<u8> {
        let (width, height, fine) = (self.width as usize, self.height as usize, FINE as usize);
        let mut pixels = Vec::with_capacity(3 * width * height);
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            for channel in 0..3 {
                let at =
                    |dy: usize, dx: usize| 3 * ((y * fine + dy) * width * fine + x * fine + dx) + channel;
                let parts = (0..fine).flat_map(|dy| (0..fine).map(move |dx| (dy, dx)));
                let sum: usize = parts.map(|(dy, dx)| usize::from(self.fine[at(dy, dx)])).sum();
                pixels.push((sum / (fine * fine)) as u8);
            }
        }
        pixels
    }
}

/// The font of the pictures; the size is in pixels of the finished picture.
pub(crate) fn font(size: u32) -> FontDesc<'static> {
    (FAMILY, FINE * size).into_font()
}

/// Words in the pictures' font, placed by the middle of their height and the given side.
pub(crate) fn words(size: u32, side: HPos, colour: &'static RGBColor) -> TextStyle<'static> {
    TextStyle::from(font(size)).color(colour).pos(Pos::new(side, VPos::Center))
}
