//! Convolutions of 3 × 3 taps by Winograd's minimal filtering F(4 × 4, 3 × 3): 36 multiplications
//! where the sum of taps needs 144.
//!
//! A tile of 4 × 4 outputs is Aᵀ[(G k Gᵀ) ⊙ (Bᵀ d B)]A for the 6 × 6 inputs d that it sees (Lavin
//! and Gray, *Fast Algorithms for Convolutional Neural Networks*, 2016), so that channels are summed
//! by 36 matrix products. The weight gradient is F(3 × 3, 4 × 4) over the same six points, where the
//! tiles are summed before they are transformed back.
//!
//! The price is rounding: the error grows by about seven times that of the plain sum (a test holds
//! it to the documented bound), so only f32 comes here, and [`set_winograd`] switches it off. One
//! infinite or undefined input would spread over its tiles; an image whose result is not finite is
//! computed again by the plain sum.

mod correlate;
mod transform;
mod weights;

use super::Conv2d;
use crate::float::Float;
pub(super) use correlate::{forward, input_grad};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
pub(super) use weights::weight_grad;

/// Outputs of a tile in each direction.
const TILE: usize = 4;
/// Inputs that a tile sees in each direction.
const PATCH: usize = 6;
/// Products of a tile.
const POINTS: usize = PATCH * PATCH;

/// Elements from one point to the next, for `size` elements of a point: not a power of two, so that
/// the points of a tile do not fall into the same set of the first cache.
fn apart(size: usize) -> usize {
    size.next_multiple_of(16) + 16
}

/// Channels on either side from which the transforms pay.
const CHANNELS: usize = 24;
/// The weight gradient's sums, 36 for each pair of channels, stay below 10 MB.
const PAIRS: usize = 256 * 256;

static ENABLED: AtomicBool = AtomicBool::new(true);

/// Allows or forbids fast convolutions by Winograd's algorithm for the whole process; allowed at
/// first. Without it, convolutions in f32 are sums in the order of the taps, a little more exact and
/// up to twice as slow.
pub fn set_winograd(enabled: bool) {
    ENABLED.store(enabled, Relaxed);
}

/// Whether fast convolutions by Winograd's algorithm are allowed.
pub fn winograd() -> bool {
    ENABLED.load(Relaxed)
}

/// Whether a convolution goes this way: a matter of type, shape and [`set_winograd`] alone.
pub(super) fn fits<T: Float>(g: &Conv2d) -> bool {
    let (cg, og) = (g.in_channels / g.groups, g.out_channels / g.groups);
    size_of::<T>() == 4
        && winograd()
        && (g.kernel_h, g.kernel_w) == (3, 3)
        && g.stride == [1, 1]
        && g.dilation == [1, 1]
        && g.padding.iter().all(|&padding| padding <= 2)
        && cg.min(og) >= CHANNELS
        && cg * og <= PAIRS
        && g.batch * g.out_height().div_ceil(TILE) >= 4
        && g.out_height() >= TILE
        && g.out_width() >= TILE
}

/// How an image is divided into tiles.
#[derive(Clone, Copy)]
struct Tiles {
    /// Rows and columns of tiles in an image.
    rows: usize,
    columns: usize,
    /// Pixels that are tiled, of which the last tiles may have fewer than four by four.
    height: usize,
    width: usize,
}

impl Tiles {
    fn of(height: usize, width: usize) -> Self {
        Self { rows: height.div_ceil(TILE), columns: width.div_ceil(TILE), height, width }
    }

    /// The image and the row of tiles in it, of a row counted through all images.
    fn place(&self, row: usize) -> (usize, usize) {
        (row / self.rows, row % self.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{passes, weight_grad as direct};
    use super::*;
    use crate::lanes::Isa;
    use crate::matmul::then::Then;

    /// Values in (−1, 1) that look random.
    fn values(len: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    fn geometry(
        batch: usize,
        channels: [usize; 2],
        [height, width]: [usize; 2],
        padding: [usize; 2],
        groups: usize,
    ) -> Conv2d {
        Conv2d {
            batch,
            in_channels: channels[0],
            height,
            width,
            out_channels: channels[1],
            kernel_h: 3,
            kernel_w: 3,
            stride: [1, 1],
            padding,
            dilation: [1, 1],
            groups,
        }
    }

    fn cases() -> Vec<Conv2d> {
        vec![
            geometry(4, [24, 24], [8, 8], [1, 1], 1),
            geometry(2, [29, 43], [13, 19], [1, 1], 1),
            geometry(3, [32, 27], [11, 38], [0, 2], 1),
            geometry(2, [48, 56], [10, 9], [2, 0], 2),
            geometry(1, [64, 64], [32, 32], [1, 1], 1),
            geometry(9, [40, 130], [6, 6], [1, 1], 1),
        ]
    }

    fn wide(x: &[f32]) -> Vec<f64> {
        x.iter().map(|&x| x.into()).collect()
    }

    /// The largest difference, in units of the largest value.
    fn error(got: &[f32], want: &[f64]) -> f64 {
        let largest = want.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
        got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max) / largest
    }

    #[test]
    fn errors_against_f64_stay_within_the_documented_bound() {
        for (seed, g) in cases().into_iter().enumerate() {
            assert!(fits::<f32>(&g) && !fits::<f64>(&g), "{g:?}");
            let len = |dims: [usize; 4]| dims.iter().product::<usize>();
            let (nx, nk, ny) = (len(g.x_dims()), len(g.k_dims()), len(g.y_dims()));
            let seed = seed as u64;
            let (x, k, ct) = (values(nx, 3 * seed), values(nk, 3 * seed + 1), values(ny, 3 * seed + 2));
            let (mut wy, mut wx, mut wk) = (vec![0.0; ny], vec![0.0; nx], vec![0.0; nk]);
            passes::forward(Isa::Plain, &g, &wide(&x), &wide(&k), &mut wy, Then::nothing());
            passes::input_grad(Isa::Plain, &g, &wide(&ct), &wide(&k), &mut wx, Then::nothing());
            direct::weight_grad(Isa::Plain, &g, &wide(&x), &wide(&ct), &mut wk);
            for isa in Isa::all() {
                let (mut y, mut dx, mut dk) = (vec![0.0; ny], vec![0.0; nx], vec![0.0; nk]);
                forward(isa, &g, &x, &k, &mut y, Then::nothing());
                input_grad(isa, &g, &ct, &k, &mut dx, Then::nothing());
                weight_grad(isa, &g, &x, &ct, &mut dk);
                let errors = [error(&y, &wy), error(&dx, &wx), error(&dk, &wk)];
                println!("{isa:?} {g:?}: {errors:?}");
                assert!(errors.iter().all(|e| *e <= 1e-5), "{isa:?} {g:?}: {errors:?}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_where_the_plain_sum_has_it() {
        let g = geometry(4, [24, 24], [12, 12], [1, 1], 1);
        let len = |dims: [usize; 4]| dims.iter().product::<usize>();
        let (mut x, k) = (values(len(g.x_dims()), 1), values(len(g.k_dims()), 2));
        let mut ct = values(len(g.y_dims()), 3);
        x[5 * 144 + 77] = f32::INFINITY;
        ct[3 * 144 + 60] = f32::NAN;
        let isa = Isa::detect();
        let same = |got: &[f32], want: &[f32]| {
            for (got, want) in got.iter().zip(want) {
                assert_eq!(got.is_nan(), want.is_nan(), "{got} for {want}");
                assert_eq!(got.is_infinite().then_some(got), want.is_infinite().then_some(want));
            }
        };
        let (mut got, mut want) = (vec![0.0; ct.len()], vec![0.0; ct.len()]);
        forward(isa, &g, &x, &k, &mut got, Then::nothing());
        passes::forward(isa, &g, &x, &k, &mut want, Then::nothing());
        assert!(want.iter().any(|y| y.is_infinite()) && want.iter().any(|y| y.is_finite()));
        same(&got, &want);
        let (mut got, mut want) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        input_grad(isa, &g, &ct, &k, &mut got, Then::nothing());
        passes::input_grad(isa, &g, &ct, &k, &mut want, Then::nothing());
        assert!(want.iter().any(|y| y.is_nan()) && want.iter().any(|y| y.is_finite()));
        same(&got, &want);
        let (mut got, mut want) = (vec![0.0; k.len()], vec![0.0; k.len()]);
        weight_grad(isa, &g, &x, &ct, &mut got);
        direct::weight_grad(isa, &g, &x, &ct, &mut want);
        assert!(want.iter().any(|y| y.is_nan()) && want.iter().any(|y| y.is_finite()));
        same(&got, &want);
    }
}
