//! Colours of numbers.

use image::Rgb;

/// Colours from a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Palette {
    /// Blue for −1, white for 0, red for 1: what speaks against and for.
    #[default]
    Diverging,
    /// Dark for 0, bright for 1: sizes. Negative numbers are as dark as 0.
    Heat,
    /// White for 0, black for 1: ink.
    Ink,
}

impl Palette {
    /// The colour of a number between −1 and 1; others count as the nearer of both.
    pub fn colour(self, value: f64) -> Rgb<u8> {
        let value = value.clamp(-1.0, 1.0);
        let mapped = match self {
            Self::Diverging => colorous::RED_BLUE.eval_continuous(0.5 - 0.5 * value),
            Self::Heat => colorous::INFERNO.eval_continuous(value.max(0.0)),
            Self::Ink => {
                let grey = (255.0 * (1.0 - value.max(0.0))).round() as u8;
                return Rgb([grey; 3]);
            }
        };
        Rgb([mapped.r, mapped.g, mapped.b])
    }

    /// The same as HTML writes it.
    pub fn css(self, value: f64) -> String {
        let Rgb([r, g, b]) = self.colour(value);
        format!("#{r:02x}{g:02x}{b:02x}")
    }
}
