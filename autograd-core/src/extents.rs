//! The extents of a value as a tuple, by candle's names.

use crate::error::{Error, Result, Site};
use crate::value::TrackedTensor;

macro_rules! extents {
    ($($name:ident, $ty:ty, $words:literal, [$($d:ident),*];)*) => {
        impl TrackedTensor {
            $(
                #[doc = concat!("The extents of a value with ", $words, ".")]
                ///
                /// # Errors
                /// [`Error::Shape`] where it has another number of dimensions.
                #[track_caller]
                pub fn $name(&self) -> Result<$ty> {
                    match *self.dims() {
                        [$($d),*] => Ok(($($d),*)),
                        _ => {
                            let reason = concat!($words, " are needed");
                            Err(Error::shape(stringify!($name), &[*self.shape()], reason).or_at(Site::caller()))
                        }
                    }
                }
            )*
        }
    };
}

extents! {
    dims1, usize, "one dimension", [a];
    dims2, (usize, usize), "two dimensions", [a, b];
    dims3, (usize, usize, usize), "three dimensions", [a, b, c];
    dims4, (usize, usize, usize, usize), "four dimensions", [a, b, c, d];
    dims5, (usize, usize, usize, usize, usize), "five dimensions", [a, b, c, d, e];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_come_as_a_tuple_or_an_error() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![0f32; 6], &[2, 3])?;
        assert_eq!(x.dims2()?, (2, 3));
        assert!(matches!(x.dims3(), Err(Error::Shape { op: "dims3", .. })));
        Ok(())
    }
}
