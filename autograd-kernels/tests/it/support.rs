//! Random tensors with any layout, and how results are compared.

use autograd_kernels::{Kind, Layout, Shape, Slice, SliceMut, View, bf16, f16};

/// A small generator with a fixed seed (SplitMix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 .. n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Between −3 and 3.
    pub fn number(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64 * 6.0 - 3.0
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Numbers of any kind.
#[derive(Clone, Debug)]
pub enum Data {
    F64(Vec<f64>),
    F32(Vec<f32>),
    BF16(Vec<bf16>),
    F16(Vec<f16>),
    U8(Vec<u8>),
    U32(Vec<u32>),
    I64(Vec<i64>),
}

impl Data {
    pub fn new(kind: Kind, values: impl Iterator<Item = f64>) -> Self {
        match kind {
            Kind::F64 => Data::F64(values.collect()),
            Kind::F32 => Data::F32(values.map(|v| v as f32).collect()),
            Kind::BF16 => Data::BF16(values.map(bf16::from_f64).collect()),
            Kind::F16 => Data::F16(values.map(f16::from_f64).collect()),
            Kind::U8 => Data::U8(values.map(|v| v as u8).collect()),
            Kind::U32 => Data::U32(values.map(|v| v as u32).collect()),
            Kind::I64 => Data::I64(values.map(|v| v as i64).collect()),
        }
    }

    pub fn slice(&self) -> Slice<'_> {
        match self {
            Data::F64(v) => Slice::F64(v),
            Data::F32(v) => Slice::F32(v),
            Data::BF16(v) => Slice::BF16(v),
            Data::F16(v) => Slice::F16(v),
            Data::U8(v) => Slice::U8(v),
            Data::U32(v) => Slice::U32(v),
            Data::I64(v) => Slice::I64(v),
        }
    }

    pub fn slice_mut(&mut self) -> SliceMut<'_> {
        match self {
            Data::F64(v) => SliceMut::F64(v),
            Data::F32(v) => SliceMut::F32(v),
            Data::BF16(v) => SliceMut::BF16(v),
            Data::F16(v) => SliceMut::F16(v),
            Data::U8(v) => SliceMut::U8(v),
            Data::U32(v) => SliceMut::U32(v),
            Data::I64(v) => SliceMut::I64(v),
        }
    }

    pub fn at(&self, i: usize) -> f64 {
        match self {
            Data::F64(v) => v[i],
            Data::F32(v) => f64::from(v[i]),
            Data::BF16(v) => v[i].to_f64(),
            Data::F16(v) => v[i].to_f64(),
            Data::U8(v) => f64::from(v[i]),
            Data::U32(v) => f64::from(v[i]),
            Data::I64(v) => v[i] as f64,
        }
    }

    pub fn values(&self) -> Vec<f64> {
        (0..self.slice().len()).map(|i| self.at(i)).collect()
    }

    pub fn kind(&self) -> Kind {
        self.slice().kind()
    }

    /// Half a unit in the last place of numbers near 1, with some room for an algorithm.
    pub fn precision(kind: Kind) -> f64 {
        match kind {
            Kind::F64 => 1e-14,
            Kind::F32 => 3e-6,
            Kind::BF16 => 1.0 / 128.0,
            Kind::F16 => 1.0 / 1024.0,
            Kind::U8 | Kind::U32 | Kind::I64 => 0.0,
        }
    }
}

/// A tensor somewhere in a buffer.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub data: Data,
    pub layout: Layout,
}

impl Tensor {
    pub fn view(&self) -> View<'_> {
        View { data: self.data.slice(), layout: &self.layout }
    }

    /// A contiguous tensor.
    pub fn plain(kind: Kind, dims: &[usize], values: impl Iterator<Item = f64>) -> Self {
        let shape = Shape::new(dims);
        Self { data: Data::new(kind, values.take(shape.elements())), layout: Layout::contiguous(shape) }
    }

    /// A tensor with this shape, contiguous or transposed or with gaps, at any offset.
    pub fn random(rng: &mut Rng, kind: Kind, dims: &[usize]) -> Self {
        let mut order: Vec<usize> = (0..dims.len()).collect();
        if rng.below(2) == 0 {
            for i in (1..order.len()).rev() {
                order.swap(i, rng.below(i + 1));
            }
        }
        let gap = rng.pick(&[1, 1, 1, 2]);
        let offset = rng.pick(&[0, 0, 3]);
        let mut strides = vec![0; dims.len()];
        let mut step = gap;
        for &d in order.iter().rev() {
            strides[d] = step;
            step *= dims[d].max(1);
        }
        let layout = Layout::new(Shape::new(dims), &strides, offset);
        let data = Data::new(kind, (0..layout.end()).map(|_| rng.number()));
        Self { data, layout }
    }

    /// The elements in row-major order.
    pub fn values(&self) -> Vec<f64> {
        let n = self.layout.elements();
        (0..n).map(|i| self.data.at(self.layout.index_of(i))).collect()
    }

    /// The elements, repeated to a larger shape.
    pub fn values_as(&self, shape: &Shape) -> Vec<f64> {
        let layout = self.layout.broadcast_to(shape).expect("the shape fits");
        (0..layout.elements()).map(|i| self.data.at(layout.index_of(i))).collect()
    }
}

/// Random extents; every second one has long rows.
pub fn random_dims(rng: &mut Rng) -> Vec<usize> {
    let rank = rng.below(5);
    let mut dims: Vec<usize> = (0..rank).map(|_| rng.pick(&[1, 2, 3, 5, 8, 17])).collect();
    if let Some(last) = dims.last_mut()
        && rng.below(2) == 0
    {
        *last = rng.pick(&[128, 200, 513, 1100]);
    }
    if rng.below(20) == 0
        && let Some(first) = dims.first_mut()
    {
        *first = 0;
    }
    dims
}

/// Extents that broadcast to `dims`.
pub fn narrower(rng: &mut Rng, dims: &[usize]) -> Vec<usize> {
    let skip = rng.pick(&[0, 0, 0, 1, 2]).min(dims.len());
    dims[skip..].iter().map(|&d| if rng.below(4) == 0 { 1 } else { d }).collect()
}

/// Asserts that each number is as near as its type allows, against the largest reference.
#[track_caller]
pub fn assert_close(actual: &Data, expected: &[f64], slack: f64, what: &dyn std::fmt::Debug) {
    let scale = expected.iter().filter(|v| v.is_finite()).fold(1.0, |m: f64, v| m.max(v.abs()));
    let tolerance = Data::precision(actual.kind()) * slack * scale;
    let actual = actual.values();
    assert_eq!(actual.len(), expected.len());
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let same = a == e || a.is_nan() && e.is_nan() || (a - e).abs() <= tolerance;
        assert!(same, "element {i} is {a:e}, not {e:e} (within {tolerance:e}): {what:?}");
    }
}
