//! Random tensors with any strides, read element by element in f64, and comparison.

use autograd_kernels::threads::set_threads;
use autograd_kernels::{Element, Layout, Shape, View, bf16, f16};

/// A xorshift generator with a fixed seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number in 0 .. bound.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.bits() >> 20) as usize % bound
    }

    /// A number in -1 .. 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// An element type that tests make from f64 and read back.
pub(crate) trait Number: Element {
    /// The tolerance of one dot product of unit numbers, relative to the sum of magnitudes.
    const TOLERANCE: f64;
    fn of(x: f64) -> Self;
    fn get(self) -> f64;
}

macro_rules! numbers {
    ($($ty:ty, $tolerance:expr, $of:expr, $get:expr;)*) => {
        $(impl Number for $ty {
            const TOLERANCE: f64 = $tolerance;
            fn of(x: f64) -> Self { ($of)(x) }
            fn get(self) -> f64 { ($get)(self) }
        })*
    };
}

// A few roundings of the type: sums are blocked, so errors stay near one unit in the last place.
numbers! {
    f64, 1e-14, |x| x, |x| x;
    f32, 2e-6, |x| x as f32, f64::from;
    bf16, 1e-2, bf16::from_f64, bf16::to_f64;
    f16, 1.5e-3, f16::from_f64, f16::to_f64;
}

/// A tensor in a buffer of its own, at any layout.
#[derive(Clone, Debug)]
pub(crate) struct Tensor<T> {
    pub(crate) data: Vec<T>,
    pub(crate) layout: Layout,
}

impl<T: Number> Tensor<T> {
    /// Contiguous random numbers in -1 .. 1.
    pub(crate) fn random(dims: &[usize], random: &mut Random) -> Self {
        Self::at(Layout::contiguous(Shape::new(dims)), random)
    }

    /// Random numbers under a layout; the whole buffer is filled.
    pub(crate) fn at(layout: Layout, random: &mut Random) -> Self {
        let data = (0..layout.end()).map(|_| T::of(random.unit())).collect();
        Self { data, layout }
    }

    /// Random numbers with the last two dimensions stored the other way round.
    pub(crate) fn transposed(dims: &[usize], random: &mut Random) -> Self {
        let rank = dims.len();
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(rank - 1, rank - 2);
        let mut stored = dims.to_vec();
        stored.swap(rank - 1, rank - 2);
        Self::at(Layout::contiguous(Shape::new(&stored)).permute(&order), random)
    }

    /// Random numbers with gaps between them and an offset.
    pub(crate) fn spread(dims: &[usize], random: &mut Random) -> Self {
        let shape = Shape::new(dims);
        let strides: Vec<usize> = shape.contiguous_strides()[..dims.len()].iter().map(|s| s * 2).collect();
        Self::at(Layout::new(shape, &strides, 3), random)
    }

    pub(crate) fn view(&self) -> View<'_> {
        View { data: T::slice(&self.data), layout: &self.layout }
    }

    /// The elements in row-major order.
    pub(crate) fn values(&self) -> Vec<f64> {
        let mut out = vec![0.0; self.layout.elements()];
        self.layout.for_each_run(|first, at, len, stride| {
            for i in 0..len {
                out[first + i] = self.data[at + i * stride].get();
            }
        });
        out
    }
}

/// Asserts |got − want| ≤ T::TOLERANCE · scale, where scale is the sum of the magnitudes added up.
#[track_caller]
pub(crate) fn assert_close<T: Number>(got: &[T], want: &[f64], scale: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let error = (got.get() - want).abs();
        assert!(
            error <= T::TOLERANCE * scale.max(1.0),
            "{what}: element {i} is {got:?}, should be {want} (scale {scale})"
        );
    }
}

/// Asserts that `f` writes the same bits with 1, 2 and 3 threads.
#[track_caller]
pub(crate) fn same_for_any_threads(len: usize, f: impl Fn(&mut [f32])) {
    let with = |n: usize| -> Vec<u32> {
        set_threads(n);
        let mut out = vec![f32::NAN; len];
        f(&mut out);
        set_threads(0);
        out.into_iter().map(f32::to_bits).collect()
    };
    let one = with(1);
    assert!(one == with(2) && one == with(3), "results depend on the number of threads");
}
