//! Adam (Kingma & Ba 2015) on any tree of parameters.

use candle_autograd::core::algebra::{add, div, mul, scale, sub, zeros_like};
use candle_autograd::{Error, Result, TensorAutograd, Tree};

/// The moments of every parameter.
pub(crate) struct Adam<T> {
    mean: T,
    square: T,
    steps: i32,
}

const DECAY: (f64, f64) = (0.9, 0.999);

impl<T: Tree<Owned = T>> Adam<T> {
    pub(crate) fn new(parameters: &T) -> Result<Self> {
        let zeros = || parameters.rebuild(&mut |x| zeros_like(x));
        Ok(Self { mean: zeros()?, square: zeros()?, steps: 0 })
    }

    /// The parameters after a step against the gradient.
    pub(crate) fn step(&mut self, parameters: &T, gradient: &T, rate: f64) -> Result<T> {
        self.steps += 1;
        let (of_mean, of_square) = DECAY;
        let moved = |old: &T, decay: f64, square: bool| {
            let mut gradients = gradient.leaves().into_iter();
            old.rebuild(&mut |old| {
                let g = gradients.next().ok_or_else(|| Error::msg("a gradient is missing"))?;
                let new = if square { mul(g, g)? } else { g.clone() };
                add(&scale(old, decay)?, &scale(&new, 1.0 - decay)?)
            })
        };
        self.mean = moved(&self.mean, of_mean, false)?;
        self.square = moved(&self.square, of_square, true)?;
        // The moments start at 0 and are too small at first.
        let (grown, spread) = (1.0 - of_mean.powi(self.steps), 1.0 - of_square.powi(self.steps));
        let mut moments = self.mean.leaves().into_iter().zip(self.square.leaves());
        parameters.rebuild(&mut |x| {
            let (mean, square) = moments.next().ok_or_else(|| Error::msg("a moment is missing"))?;
            let below = scale(square, 1.0 / spread)?.sqrt()?.add(1e-8)?;
            sub(x, &scale(&div(mean, &below)?, rate / grown)?)
        })
    }
}
