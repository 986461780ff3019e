//! Random numbers from keys, and dropout.
//!
//! A key is a value: two 32-bit words of type u32. Numbers are a function of the key and of the
//! element's index, so a graph does not freeze them, a replay repeats them, and a batch of keys
//! gives each example its own. A key is used once; further ones are split off explicitly.
//!
//! ```
//! use autograd_core::{Result, TrackedTensor};
//! use autograd_ops::{TensorAutograd, random};
//!
//! fn main() -> Result<()> {
//!     let keys = random::split(&random::key(42), 2)?;
//!     let x = TrackedTensor::from_vec(vec![1f32; 8], &[8])?;
//!     let y = x.dropout(&keys[0], 0.5)?;
//!     assert!(y.to_vec1::<f32>()?.iter().all(|y| [0., 2.].contains(y)));
//!     assert_eq!(x.dropout(&keys[0], 0.5)?.to_vec1::<f32>()?, y.to_vec1::<f32>()?);
//!     Ok(())
//! }
//! ```

use crate::numbers::with_batch;
use crate::registry::{Case, Family, Op, Sample};
use autograd_core::device::KernelCall;
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Buffer, Error, Grads, Layout, Mask, Meta, Prim, Primitive, Result, Rule, Saved, ScalarExpr, Shape,
    Signature, Site, SliceMut, TrackedTensor, Transpose, Values, View, algebra, apply_one, checked_shape,
    is_float,
};
use autograd_kernels::expr::Binary;
use autograd_kernels::{Kind, machine, random};
use candle_core::DType;
use std::sync::{Arc, LazyLock};

/// The key of a seed.
pub fn key(seed: u64) -> TrackedTensor {
    TrackedTensor::from_vec(vec![seed as u32, (seed >> 32) as u32], &[2])
        .unwrap_or_else(TrackedTensor::failed)
}

/// `n` new keys that have nothing to do with one another nor with `key`.
///
/// # Errors
/// A key that is not two words of type u32.
#[track_caller]
pub fn split(key: &TrackedTensor, n: usize) -> Result<Vec<TrackedTensor>> {
    let keys = split_batch(key, n)?;
    (0..n).map(|i| algebra::reshape(&algebra::narrow(&keys, 0, i, 1)?, &Shape::new(&[2]))).collect()
}

/// `n` new keys as one value of shape n×2: for a batch in which every example has its own.
///
/// # Errors
/// As [`split`].
#[track_caller]
pub fn split_batch(key: &TrackedTensor, n: usize) -> Result<TrackedTensor> {
    apply_one(&Split(n), &[key])
}

/// A new key for a number: a step's, a layer's.
///
/// # Errors
/// As [`split`].
#[track_caller]
pub fn fold_in(key: &TrackedTensor, number: u64) -> Result<TrackedTensor> {
    apply_one(&FoldIn(number), &[key])
}

/// Numbers uniform in [0, 1).
///
/// # Errors
/// As [`split`]; a type that is not a float.
#[track_caller]
pub fn uniform(key: &TrackedTensor, shape: &[usize], dtype: DType) -> Result<TrackedTensor> {
    draw("uniform", key, shape, dtype)
}

/// Numbers of the normal distribution with mean 0 and deviation 1.
///
/// # Errors
/// As [`uniform`].
#[track_caller]
pub fn normal(key: &TrackedTensor, shape: &[usize], dtype: DType) -> Result<TrackedTensor> {
    draw("normal", key, shape, dtype)
}

#[track_caller]
fn draw(name: &'static str, key: &TrackedTensor, shape: &[usize], dtype: DType) -> Result<TrackedTensor> {
    let shape = checked_shape(name, shape).map_err(|e| e.or_at(Site::caller()))?;
    apply_one(&Draw { name, shape, dtype }, &[key])
}

/// x with each element zeroed with probability `rate` and the others divided by 1 − `rate`, so
/// that the mean stays. Linear in x; the rule keeps the key alone and makes the mask again.
///
/// # Errors
/// A rate outside of 0 ..= 1; a key that is not two words of type u32; a type that is not a float.
#[track_caller]
pub fn dropout(x: &TrackedTensor, key: &TrackedTensor, rate: f64) -> Result<TrackedTensor> {
    if !(0.0..=1.0).contains(&rate) {
        let reason = format!("the rate {rate} is not a probability");
        return Err(Error::argument("dropout", reason).or_at(Site::caller()));
    }
    let key = algebra::beside(key.clone(), x)?;
    apply_one(&Dropout { rate }, &[x, &key])
}

/// Keys …×2 to …×n×2.
#[derive(Clone, Copy, Debug)]
struct Split(usize);

/// Keys …×2 to …×2.
#[derive(Clone, Copy, Debug)]
struct FoldIn(u64);

/// Keys …×2 to numbers of shape …×shape.
#[derive(Clone, Copy, Debug)]
struct Draw {
    name: &'static str,
    shape: Shape,
    dtype: DType,
}

/// y = x · mask / (1 − rate); keys …×2 share their leading dimensions with x.
#[derive(Clone, Copy, Debug)]
struct Dropout {
    rate: f64,
}

/// The dimensions in front of a key's two words.
fn lead_of<'a>(op: &'static str, key: &'a Meta) -> Result<&'a [usize]> {
    match key.shape.dims() {
        [lead @ .., 2] if key.dtype == DType::U32 => Ok(lead),
        _ => {
            let reason = format!(
                "a key is two words of type u32 (random::key makes one), not {} {:?}",
                key.shape, key.dtype
            );
            Err(Error::argument(op, reason))
        }
    }
}

fn after(op: &'static str, lead: &[usize], rest: &[usize]) -> Result<Shape> {
    let mut dims: SmallVec<[usize; 8]> = SmallVec::from_slice(lead);
    dims.extend_from_slice(rest);
    checked_shape(op, &dims)
}

macro_rules! from_keys {
    () => {
        fn keep(&self) -> Prim {
            Prim::Shared(Arc::new(*self))
        }
        fn rule(&self) -> Rule<'_> {
            Rule::Flat
        }
        /// A batch of keys is one more leading dimension.
        fn batch(&self, _: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
            Ok(Some(smallvec![apply_one(self, inputs)?]))
        }
    };
}

crate::saved::stored! {
    "split_key" => Split { 0 }, |_, x| x.len() == 1;
    "fold_in" => FoldIn { 0 }, |_, x| x.len() == 1;
    "draw" => Draw { name, shape, dtype }, |_, x| x.len() == 1;
    "dropout" => Dropout { rate }, |_, x| x.len() == 2;
}

impl Primitive for Split {
    crate::saved::by_tag!();
    from_keys!();
    fn name(&self) -> &'static str {
        "split_key"
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let lead = lead_of("split_key", &inputs[0])?;
        Ok(Signature::one(inputs[0].with_shape(after("split_key", lead, &[self.0, 2])?)))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        random::split(inputs[0], self.0, outputs[0].reborrow());
        Ok(())
    }
    crate::elsewhere::on_host!();
    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("split_key", &[], &[]))
    }
}

impl Primitive for FoldIn {
    crate::saved::by_tag!();
    from_keys!();
    fn name(&self) -> &'static str {
        "fold_in"
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        lead_of("fold_in", &inputs[0])?;
        Ok(Signature::one(inputs[0]))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        random::fold_in(inputs[0], self.0, outputs[0].reborrow());
        Ok(())
    }
    crate::elsewhere::on_host!();
    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("fold_in", &[self.0 as i64], &[]))
    }
}

impl Primitive for Draw {
    crate::saved::by_tag!();
    from_keys!();
    fn name(&self) -> &'static str {
        self.name
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        if !is_float(self.dtype) {
            return Err(Error::dtype(self.name, self.dtype, "draw floats and convert them with to_dtype"));
        }
        let shape = after(self.name, lead_of(self.name, &inputs[0])?, self.shape.dims())?;
        Ok(Signature::one(inputs[0].with_dtype(self.dtype).with_shape(shape)))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        match self.name {
            "uniform" => random::uniform(inputs[0], outputs[0].reborrow()),
            _ => random::normal(inputs[0], outputs[0].reborrow()),
        }
        Ok(())
    }
    crate::elsewhere::on_host!();
    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new(self.name, &[], &[]))
    }
}

/// x · factor where the mask is 1, else 0.
static MASKED: LazyLock<ScalarExpr> = LazyLock::new(|| {
    ScalarExpr::build(2, 1, |b, x, p| {
        let (kept, zero) = (b.binary(Binary::Mul, x[1], p[0]), b.constant(0.0));
        b.select(x[0], kept, zero)
    })
});

impl Primitive for Dropout {
    crate::saved::by_tag!();
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn name(&self) -> &'static str {
        "dropout"
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let (x, key) = (inputs[0], inputs[1]);
        if !is_float(x.dtype) {
            return Err(Error::dtype("dropout", x.dtype, "convert to a float type with to_dtype"));
        }
        if !x.shape.dims().starts_with(lead_of("dropout", &key)?) {
            let reason = "there is not one key for each of the first's leading dimensions";
            return Err(Error::shape("dropout", &[x.shape, key.shape], reason));
        }
        Ok(Signature::one(x))
    }
    fn scratch(&self, inputs: &[Meta]) -> usize {
        inputs[0].elements()
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let shape = inputs[0].layout.shape();
        let mut mask = Buffer::take(Kind::U8, shape.elements());
        if let Some(mask) = mask.slice_mut() {
            random::keep(inputs[1], self.rate, mask);
        }
        let Some(data) = mask.slice() else { return Err(Error::internal("dropout", "its mask is its own")) };
        // All are dropped at rate 1: there is nothing to divide.
        let factor = if self.rate < 1.0 { 1.0 / (1.0 - self.rate) } else { 0.0 };
        let layout = Layout::contiguous(*shape);
        machine::run(
            MASKED.program(),
            &[factor],
            &[View { data, layout: &layout }, inputs[0]],
            shape,
            outputs,
        );
        Ok(())
    }
    crate::elsewhere::on_host!();
    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("dropout", &[], &[self.rate]))
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::one(0), self)
    }
    // Each example has its own elements: a key that all share repeats its mask for each of them.
    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let x = with_batch(inputs[0], batched.has(0), size)?;
        let key = with_batch(inputs[1], batched.has(1), size)?;
        Ok(Some(smallvec![apply_one(self, &[&x, &key])?]))
    }
}

impl Transpose for Dropout {
    // A diagonal map is its own transpose.
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None; 2]) };
        Ok(smallvec![Some(apply_one(self, &[ct, saved.input(1)?])?), None])
    }
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Activation, formula, cases };
    fn key() -> Sample {
        Sample::index(&[2], 1 << 20)
    }
    vec![
        op("dropout", "y = x · mask/(1 − rate), mask 0 with probability rate, from a key", || {
            let case = |label, dims: &[usize], rate: f64| {
                Case::new(label, vec![Sample::float(dims), key()], move |v| dropout(&v[0], &v[1], rate))
            };
            vec![
                case("half", &[3, 5], 0.5),
                case("rate 0", &[4], 0.0),
                case("rate 1", &[4], 1.0),
                case("rank 0", &[], 0.3),
                case("empty", &[0, 3], 0.3),
            ]
        }),
        op("uniform", "uniform in [0, 1), from a key", || {
            vec![Case::new("one shape", vec![key()], |v| uniform(&v[0], &[2, 3], DType::F64))]
        }),
        op("normal", "normal with mean 0 and deviation 1, from a key", || {
            vec![Case::new("one shape", vec![key()], |v| normal(&v[0], &[5], DType::F64))]
        }),
        op("split_key", "new keys from a key", || {
            vec![Case::new("three", vec![key()], |v| split_batch(&v[0], 3))]
        }),
        op("fold_in", "a new key from a key and a number", || {
            vec![Case::new("a number", vec![key()], |v| fold_in(&v[0], 7))]
        }),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! random_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// Each element zeroed with probability `rate`, the others divided by 1 − `rate`.
                dropout(key: &TrackedTensor, rate: f64) -> TrackedTensor = $crate::random::dropout;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use autograd_tape::GradientTape;

    #[test]
    fn the_gradient_is_the_same_mask() {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::from_vec(vec![3f64; 64], &[64]).unwrap());
        let y = dropout(&x, &key(1), 0.25).unwrap();
        let kept: usize = tape.nodes().iter().map(|node| node.kept_bytes).sum();
        assert_eq!(kept, 8, "the key alone is kept");
        let dx = tape.gradient_with(&[&y], &[&algebra::ones_like(&y).unwrap()], &[&x]).unwrap();
        let (y, dx) = (y.to_flat::<f64>().unwrap(), dx[0].to_flat::<f64>().unwrap());
        assert!(y.iter().zip(&dx).all(|(y, dx)| (y - 3.0 * dx).abs() < 1e-12));
        assert!(dx.contains(&0.0) && dx.iter().any(|&d| d > 1.0));
    }

    #[test]
    fn the_mask_does_not_depend_on_the_type() {
        let x = TrackedTensor::from_vec(vec![1f64; 1000], &[10, 100]).unwrap();
        let want = dropout(&x, &key(5), 0.4).unwrap().to_flat::<f64>().unwrap();
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let y = dropout(&algebra::cast(&x, dtype).unwrap(), &key(5), 0.4).unwrap();
            let y = algebra::cast(&y, DType::F64).unwrap().to_flat::<f64>().unwrap();
            assert!(y.iter().zip(&want).all(|(a, b)| (*a == 0.0) == (*b == 0.0)));
        }
    }

    #[test]
    fn keys_that_are_split_differ() {
        let keys = split(&key(0), 3).unwrap();
        let mut words: Vec<Vec<u32>> = keys.iter().map(|k| k.to_vec1().unwrap()).collect();
        words.push(key(0).to_vec1().unwrap());
        words.push(fold_in(&key(0), 1).unwrap().to_vec1().unwrap());
        words.sort();
        words.dedup();
        assert_eq!(words.len(), 5);
    }

    #[test]
    fn what_is_no_key_or_no_probability_is_a_typed_error() {
        let x = TrackedTensor::from_vec(vec![1f64; 4], &[4]).unwrap();
        assert!(matches!(dropout(&x, &key(1), 1.5), Err(Error::InvalidArgument { .. })));
        assert!(matches!(dropout(&x, &x, 0.5), Err(Error::InvalidArgument { .. })));
        let keys = split_batch(&key(1), 3).unwrap();
        assert!(matches!(dropout(&x, &keys, 0.5), Err(Error::Shape { .. })));
        assert!(matches!(uniform(&key(1), &[2], DType::U32), Err(Error::UnsupportedDType { .. })));
    }
}
