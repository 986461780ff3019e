//! Rotary position embedding: pairs of features turned by an angle for each position.

use crate::join::{cat, stack};
use crate::numbers::sound;
use crate::registry::{Case, Family, Op, Sample};
use autograd_core::algebra::{narrow, reshape};
use autograd_core::kernels::expr::{Binary, Builder};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Definition, Error, Pointwise, Result, ScalarExpr, Site, TrackedTensor, Values, apply, checked_shape,
};
use std::sync::LazyLock;

/// Feature i paired with i + D/2 and turned: y₁ = x₁·cos − x₂·sin, y₂ = x₁·sin + x₂·cos.
///
/// x is B×H×T×D; cos and sin are T×(D/2), or B×T×(D/2) where examples have their own positions.
///
/// # Errors
/// Shapes that do not fit, an odd D; types or devices that differ.
#[track_caller]
pub fn rope(x: &TrackedTensor, cos: &TrackedTensor, sin: &TrackedTensor) -> Result<TrackedTensor> {
    let half = fit("rope", x, cos, sin, 2, Site::caller())?;
    let (cos, sin) = (beside_heads(cos, 1)?, beside_heads(sin, 1)?);
    let turned = turn(&narrow(x, 3, 0, half)?, &narrow(x, 3, half, half)?, &cos, &sin)?;
    cat(&turned, 3)
}

/// As [`rope`] with features 2i and 2i + 1 paired.
///
/// # Errors
/// As [`rope`].
#[track_caller]
pub fn rope_i(x: &TrackedTensor, cos: &TrackedTensor, sin: &TrackedTensor) -> Result<TrackedTensor> {
    let half = fit("rope_i", x, cos, sin, 2, Site::caller())?;
    let (cos, sin) = (beside_heads(cos, 1)?, beside_heads(sin, 1)?);
    let mut pairs: SmallVec<[usize; 8]> = SmallVec::from_slice(&x.dims()[..3]);
    pairs.extend([half, 2]);
    let seen = reshape(x, &checked_shape("rope_i", &pairs)?)?;
    pairs.pop();
    let part = |i: usize| reshape(&narrow(&seen, 4, i, 1)?, &checked_shape("rope_i", &pairs)?);
    reshape(&stack(&turn(&part(0)?, &part(1)?, &cos, &sin)?, 4)?, x.shape())
}

/// As [`rope`] for x of shape B×T×H×D.
///
/// # Errors
/// As [`rope`].
#[track_caller]
pub fn rope_thd(x: &TrackedTensor, cos: &TrackedTensor, sin: &TrackedTensor) -> Result<TrackedTensor> {
    let half = fit("rope_thd", x, cos, sin, 1, Site::caller())?;
    let (cos, sin) = (beside_heads(cos, 2)?, beside_heads(sin, 2)?);
    let turned = turn(&narrow(x, 3, 0, half)?, &narrow(x, 3, half, half)?, &cos, &sin)?;
    cat(&turned, 3)
}

/// Half of the features, after the checks; `time` is the dimension of the positions.
fn fit(
    op: &'static str,
    x: &TrackedTensor,
    cos: &TrackedTensor,
    sin: &TrackedTensor,
    time: usize,
    site: Site,
) -> Result<usize> {
    sound(x)?;
    sound(cos)?;
    sound(sin)?;
    let fault = |reason| Err(Error::shape(op, &[*x.shape(), *cos.shape(), *sin.shape()], reason).or_at(site));
    let &[b, _, _, d] = x.dims() else { return fault("the input has four dimensions") };
    if d % 2 != 0 {
        return fault("the features are not pairs");
    }
    let (own, shared) = ([b, x.dims()[time], d / 2], [x.dims()[time], d / 2]);
    if cos.dims() != sin.dims() || (cos.dims() != own && cos.dims() != shared) {
        return fault("cosines and sines are not given for each position and pair of features");
    }
    Ok(d / 2)
}

/// T×P or B×T×P with a dimension for the heads, before (1) or after (2) the positions.
fn beside_heads(angles: &TrackedTensor, at: usize) -> Result<TrackedTensor> {
    let mut dims: SmallVec<[usize; 8]> = smallvec![1];
    dims.extend_from_slice(angles.dims());
    let start = dims.len() - 3;
    let mut dims: SmallVec<[usize; 8]> = SmallVec::from_slice(&dims[start..]);
    dims.insert(at, 1);
    reshape(angles, &checked_shape("rope", &dims)?)
}

/// (x₁·cos − x₂·sin, x₁·sin + x₂·cos) in one pass.
static TURN: LazyLock<Definition> = LazyLock::new(|| {
    let mut b = Builder::new();
    let [x1, x2, cos, sin] = [0, 1, 2, 3].map(|i| b.input(i));
    let (c1, s2) = (b.binary(Binary::Mul, x1, cos), b.binary(Binary::Mul, x2, sin));
    let (s1, c2) = (b.binary(Binary::Mul, x1, sin), b.binary(Binary::Mul, x2, cos));
    let outputs = [b.binary(Binary::Sub, c1, s2), b.binary(Binary::Add, s1, c2)];
    Definition::new("rope", ScalarExpr::new(b.finish(&outputs, 4, 0)))
});

fn turn(x1: &TrackedTensor, x2: &TrackedTensor, cos: &TrackedTensor, sin: &TrackedTensor) -> Result<Values> {
    apply(&Pointwise::of(&TURN), &[x1, x2, cos, sin])
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    fn cases(
        x: &[usize],
        time: usize,
        f: fn(&TrackedTensor, &TrackedTensor, &TrackedTensor) -> Result<TrackedTensor>,
    ) -> Vec<Case> {
        let case = |label, angles: &[usize]| {
            let inputs = vec![Sample::float(x), Sample::float(angles), Sample::float(angles)];
            Case::new(label, inputs, move |v| f(&v[0], &v[1], &v[2]))
        };
        vec![
            case("shared positions", &[x[time], x[3] / 2]),
            case("positions of their own", &[x[0], x[time], x[3] / 2]),
        ]
    }
    let op = |name, formula, cases| Op { name, family: Family::Neural, formula, cases };
    vec![
        op("rope", "pairs (i, i + D/2) of B×H×T×D turned by the angle of their position", || {
            cases(&[2, 3, 2, 4], 2, rope)
        }),
        op("rope_i", "pairs (2i, 2i + 1) of B×H×T×D turned by the angle of their position", || {
            cases(&[2, 3, 2, 4], 2, rope_i)
        }),
        op("rope_thd", "pairs (i, i + D/2) of B×T×H×D turned by the angle of their position", || {
            cases(&[2, 3, 2, 4], 1, rope_thd)
        }),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! rotary_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {}
            other {
                /// Rotary embedding of B×H×T×D, features i and i + D/2 paired.
                rope(cos: &TrackedTensor, sin: &TrackedTensor) -> TrackedTensor = $crate::rotary::rope;
                /// Rotary embedding of B×H×T×D, features 2i and 2i + 1 paired.
                rope_i(cos: &TrackedTensor, sin: &TrackedTensor) -> TrackedTensor = $crate::rotary::rope_i;
                /// Rotary embedding of B×T×H×D, features i and i + D/2 paired.
                rope_thd(cos: &TrackedTensor, sin: &TrackedTensor) -> TrackedTensor = $crate::rotary::rope_thd;
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_exchanges_the_pair() {
        let x = TrackedTensor::from_vec(vec![1f64, 2., 3., 4.], &[1, 1, 1, 4]).unwrap();
        let (cos, sin) = (
            TrackedTensor::from_vec(vec![0f64; 2], &[1, 2]).unwrap(),
            TrackedTensor::from_vec(vec![1f64; 2], &[1, 2]).unwrap(),
        );
        assert_eq!(rope(&x, &cos, &sin).unwrap().to_flat::<f64>().unwrap(), [-3., -4., 1., 2.]);
        assert_eq!(rope_i(&x, &cos, &sin).unwrap().to_flat::<f64>().unwrap(), [-2., 1., -4., 3.]);
        assert_eq!(rope_thd(&x, &cos, &sin).unwrap().to_flat::<f64>().unwrap(), [-3., -4., 1., 2.]);
        assert!(matches!(rope(&cos, &cos, &sin), Err(Error::Shape { .. })));
    }
}
