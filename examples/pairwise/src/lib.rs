//! An op from outside the workspace, with full standing: the squared distances between two sets
//! of points.
//!
//! A primitive says what it computes ([`Primitive::infer`], [`Primitive::eval_into`]), how it is
//! differentiated ([`General`]), and what it is in other ops ([`Primitive::decompose`]). Reverse and
//! forward mode, every order, batches and graphs follow; [`op`] lists it with sample cases, and
//! `tests/standing.rs` runs the registry's own checks on it.
//!
//! ```
//! use autograd_core::{Result, TrackedTensor};
//! use pairwise::squared_distances;
//!
//! fn main() -> Result<()> {
//!     let x = TrackedTensor::from_vec(vec![0f64, 0., 3., 4.], &[2, 2])?;
//!     let y = TrackedTensor::from_vec(vec![0f64, 1.], &[1, 2])?;
//!     assert_eq!(squared_distances(&x, &y)?.to_flat::<f64>()?, [1., 18.]);
//!     Ok(())
//! }
//! ```

use autograd_core::kernels::Slice;
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    DType, Error, General, Grads, Mask, Meta, Prim, Primitive, Residual, Residuals, Result, Rule, Saved,
    Shape, Signature, SliceMut, TrackedTensor, Values, View, apply_one,
};
use autograd_ops::TensorAutograd;
use autograd_ops::registry::{Case, Family, Op, Sample};

/// `d[i, j] = Σₖ (x[i, k] − y[j, k])²` for x of shape N×K and y of shape M×K; the result is N×M.
///
/// # Errors
/// Shapes that do not fit, types that differ, types other than f64 and f32.
#[track_caller]
pub fn squared_distances(x: &TrackedTensor, y: &TrackedTensor) -> Result<TrackedTensor> {
    apply_one(&SquaredDistances, &[x, y])
}

/// No parameters: one static value serves every application.
#[derive(Clone, Copy, Debug)]
struct SquaredDistances;

const NAME: &str = "squared_distances";

/// The kernel, over any strides.
fn distances<T: Copy + Into<f64>>(
    x: (&[T], &View<'_>),
    y: (&[T], &View<'_>),
    mut put: impl FnMut(usize, f64),
) {
    let at = |(data, view): (&[T], &View<'_>), i: usize, k: usize| -> f64 {
        let strides = view.layout.strides();
        data[view.layout.offset() + i * strides[0] + k * strides[1]].into()
    };
    let (n, m, features) = (x.1.layout.dims()[0], y.1.layout.dims()[0], x.1.layout.dims()[1]);
    for i in 0..n {
        for j in 0..m {
            put(i * m + j, (0..features).map(|k| (at(x, i, k) - at(y, j, k)).powi(2)).sum());
        }
    }
}

impl Primitive for SquaredDistances {
    fn name(&self) -> &'static str {
        NAME
    }

    fn keep(&self) -> Prim {
        Prim::Static(&SquaredDistances)
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let [x, y] = [inputs[0], inputs[1]];
        let (&[n, k], &[m, l]) = (x.shape.dims(), y.shape.dims()) else {
            return Err(Error::shape(NAME, &[x.shape, y.shape], "both have two dimensions"));
        };
        if k != l {
            return Err(Error::shape(NAME, &[x.shape, y.shape], "the points have different dimensions"));
        }
        if x.dtype != y.dtype {
            let dtypes = vec![x.dtype, y.dtype];
            return Err(Error::DTypeMismatch { op: NAME, dtypes, at: Default::default() });
        }
        if !matches!(x.dtype, DType::F64 | DType::F32) {
            return Err(Error::dtype(NAME, x.dtype, "convert to f64 or f32 with to_dtype"));
        }
        Ok(Signature::one(x.with_shape(Shape::new(&[n, m]))))
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        match (inputs[0].data, inputs[1].data, &mut outputs[0]) {
            (Slice::F64(x), Slice::F64(y), SliceMut::F64(out)) => {
                distances((x, &inputs[0]), (y, &inputs[1]), |at, d| out[at] = d);
            }
            (Slice::F32(x), Slice::F32(y), SliceMut::F32(out)) => {
                distances((x, &inputs[0]), (y, &inputs[1]), |at, d| out[at] = d as f32);
            }
            _ => return Err(Error::internal(NAME, "its types were inferred")),
        }
        Ok(())
    }

    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }

    /// The same in other ops: the oracle of the kernel, and the way through a batch.
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let difference = inputs[0].unsqueeze(1)?.sub(inputs[1].unsqueeze(0)?)?;
        Ok(Some(smallvec![difference.sqr()?.sum_dim(-1)?]))
    }
}

/// 2 · (x · (Σⱼ c) − c·y): what both the reverse and the forward rule are made of.
fn pulled(ct: &TrackedTensor, x: &TrackedTensor, y: &TrackedTensor) -> Result<TrackedTensor> {
    let own = ct.sum_dim(1)?.unsqueeze(1)?.mul(x)?;
    own.sub(ct.matmul(y)?)?.mul(2.0)
}

impl General for SquaredDistances {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Input(0), Residual::Input(1)]
    }

    // x̄ᵢ = 2·Σⱼ cᵢⱼ·(xᵢ − yⱼ), and the same for y with c transposed.
    fn vjp(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None; 2]) };
        let (x, y) = (saved.input(0)?, saved.input(1)?);
        Ok(smallvec![
            wanted.has(0).then(|| pulled(ct, x, y)).transpose()?,
            wanted.has(1).then(|| pulled(&ct.t()?, y, x)).transpose()?,
        ])
    }

    // ḋᵢⱼ = 2·Σₖ (xᵢ − yⱼ)·(ẋᵢ − ẏⱼ).
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        _: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let (x, y) = (inputs[0], inputs[1]);
        let moved = |points: &TrackedTensor, others: &TrackedTensor, dx: &TrackedTensor| {
            let own = points.mul(dx)?.sum_dim(1)?.unsqueeze(1)?;
            own.sub(dx.matmul(others.t()?)?)?.mul(2.0)
        };
        let of_x = tangents[0].as_ref().map(|dx| moved(x, y, dx)).transpose()?;
        let of_y = tangents[1].as_ref().map(|dy| moved(y, x, dy)?.t()).transpose()?;
        Ok(Some(smallvec![match (of_x, of_y) {
            (Some(a), Some(b)) => Some(a.add(b)?),
            (a, b) => a.or(b),
        }]))
    }
}

/// The op as the registry lists its own.
pub fn op() -> Op {
    Op { name: NAME, family: Family::Matrix, formula: "Σₖ (xᵢₖ − yⱼₖ)²", cases }
}

fn cases() -> Vec<Case> {
    let case = |label, x: &[usize], y: &[usize]| {
        Case::new(label, vec![Sample::float(x), Sample::float(y)], |v| squared_distances(&v[0], &v[1]))
    };
    vec![
        case("three and two points", &[3, 2], &[2, 2]),
        case("one point", &[1, 4], &[1, 4]),
        case("no points", &[0, 2], &[3, 2]),
        case("no features", &[2, 0], &[3, 0]),
    ]
}
