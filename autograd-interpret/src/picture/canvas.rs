//! Finished pictures.

use autograd_core::{Error, Result};
use image::{ImageFormat, Rgb, RgbImage, imageops};
use std::fmt;
use std::io::Cursor;
use std::path::Path;

/// A picture: pixels of red, green and blue.
#[derive(Clone, PartialEq)]
pub struct Picture(pub(super) RgbImage);

impl fmt::Debug for Picture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Picture({}×{})", self.width(), self.height())
    }
}

impl Picture {
    /// Its width in pixels.
    pub fn width(&self) -> u32 {
        self.0.width()
    }

    /// Its height in pixels.
    pub fn height(&self) -> u32 {
        self.0.height()
    }

    /// The colour of a pixel: red, green and blue; `None` outside.
    pub fn pixel(&self, column: u32, row: u32) -> Option<[u8; 3]> {
        self.0.get_pixel_checked(column, row).map(|colour| colour.0)
    }

    /// The picture with each pixel as a square of so many.
    #[must_use]
    pub fn enlarged(&self, times: u32) -> Self {
        let (width, height) = (self.width() * times, self.height() * times);
        Self(imageops::resize(&self.0, width, height, imageops::FilterType::Nearest))
    }

    /// The bytes of a PNG file.
    ///
    /// # Errors
    /// [`Error::Message`] for a picture without pixels.
    pub fn png(&self) -> Result<Vec<u8>> {
        let mut bytes = Cursor::new(Vec::new());
        self.0.write_to(&mut bytes, ImageFormat::Png).map_err(Error::msg)?;
        Ok(bytes.into_inner())
    }

    /// Writes a PNG file.
    ///
    /// # Errors
    /// [`Error::Message`] with the path, where it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        std::fs::write(path, self.png()?).map_err(|error| Error::msg(format!("{}: {error}", path.display())))
    }

    /// An HTML element that holds the picture itself.
    ///
    /// # Errors
    /// As [`png`](Self::png).
    pub fn html(&self, title: &str) -> Result<String> {
        let (data, title) = (base64(&self.png()?), super::escape(title));
        let (width, height) = (self.width(), self.height());
        Ok(format!(
            "<img src=\"data:image/png;base64,{data}\" width=\"{width}\" height=\"{height}\" alt=\"{title}\" title=\"{title}\">"
        ))
    }
}

/// Rows of pictures on white, `gap` pixels apart; columns are as wide as their widest picture.
pub fn grid(rows: &[Vec<Picture>], gap: u32) -> Picture {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width_of = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(Picture::width).max();
    let widths: Vec<u32> = (0..columns).map(|column| width_of(column).unwrap_or(0)).collect();
    let heights: Vec<u32> =
        rows.iter().map(|row| row.iter().map(Picture::height).max().unwrap_or(0)).collect();
    let whole = |extents: &[u32]| extents.iter().sum::<u32>() + gap * (extents.len() as u32 + 1);
    let mut canvas = RgbImage::from_pixel(whole(&widths), whole(&heights), Rgb([255; 3]));
    let mut top = gap;
    for (row, height) in rows.iter().zip(&heights) {
        let mut left = gap;
        for (picture, width) in row.iter().zip(&widths) {
            imageops::overlay(&mut canvas, &picture.0, i64::from(left), i64::from(top));
            left += width + gap;
        }
        top += height + gap;
    }
    Picture(canvas)
}

/// Base 64 with padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= group.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_standard() {
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (text, wanted) in cases {
            assert_eq!(base64(text.as_bytes()), wanted);
        }
    }

    #[test]
    fn a_grid_holds_its_pictures_apart() {
        let black = Picture(RgbImage::from_pixel(2, 3, Rgb([0; 3])));
        let whole = grid(&[vec![black.clone(), black.clone()], vec![black.enlarged(2)]], 1);
        assert_eq!((whole.width(), whole.height()), (1 + 4 + 1 + 2 + 1, 1 + 3 + 1 + 6 + 1));
        assert_eq!(
            (whole.pixel(1, 1), whole.pixel(0, 0), whole.pixel(6, 1)),
            (Some([0; 3]), Some([255; 3]), Some([0; 3]))
        );
        assert_eq!(whole.pixel(9, 0), None);
    }

    #[test]
    fn a_png_begins_as_one() -> Result<()> {
        let bytes = Picture(RgbImage::from_pixel(1, 1, Rgb([9; 3]))).png()?;
        assert_eq!(&bytes[..4], b"\x89PNG");
        Ok(())
    }
}
