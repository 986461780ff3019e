//! Functions on candle tensors, of one to four arguments or a slice of them.

use autograd_core::{Error, Result};
use candle_core::Tensor;

/// A function on candle tensors: `|x: &Tensor| model.forward(x)`, `|x: &Tensor, mask: &Tensor| ..`
/// with up to four arguments, or `|x: &[Tensor]| ..`. `Args` follows from the closure.
pub trait CandleFunction<Args> {
    /// The number of arguments; `None` for a slice.
    const ARITY: Option<usize>;

    /// The function at these arguments, which are as many as [`ARITY`](Self::ARITY) says.
    ///
    /// # Errors
    /// The function's own.
    fn run(&self, inputs: &[Tensor]) -> Result<Tensor>;
}

macro_rules! arity {
    ($count:literal: $($input:ident),*; $($ty:ty),*) => {
        impl<F, E: Into<Error>> CandleFunction<([Tensor; $count], E)> for F
        where
            F: Fn($($ty),*) -> Result<Tensor, E>,
        {
            const ARITY: Option<usize> = Some($count);

            fn run(&self, inputs: &[Tensor]) -> Result<Tensor> {
                match inputs {
                    [$($input),*] => self($($input),*).map_err(Into::into),
                    _ => Err(Error::internal("candle", "the number of arguments was not checked")),
                }
            }
        }
    };
}

arity!(1: a; &Tensor);
arity!(2: a, b; &Tensor, &Tensor);
arity!(3: a, b, c; &Tensor, &Tensor, &Tensor);
arity!(4: a, b, c, d; &Tensor, &Tensor, &Tensor, &Tensor);

impl<F, E: Into<Error>> CandleFunction<(Vec<Tensor>, E)> for F
where
    F: Fn(&[Tensor]) -> Result<Tensor, E>,
{
    const ARITY: Option<usize> = None;

    fn run(&self, inputs: &[Tensor]) -> Result<Tensor> {
        self(inputs).map_err(Into::into)
    }
}
