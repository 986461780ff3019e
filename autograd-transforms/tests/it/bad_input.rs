//! Bad input is a typed error with the caller's line.

use autograd_core::{Error, Result, TrackedTensor};
use autograd_ops::{TensorAutograd, random};
use autograd_transforms::{
    Jacobian, Vmap, forward_gradient, grad, gradcheck, hvp, jacrev, jvp, laplacian_along, linearize, ravel,
    vjp, vmap,
};
use std::cell::RefCell;

fn vector() -> Result<TrackedTensor> {
    TrackedTensor::from_vec(vec![1f64, 2.], &[2])
}

/// The error of a call, which must have been on `line` of this file.
#[track_caller]
fn failure<T>(result: Result<T>, line: u32) -> Error {
    let Err(error) = result else { panic!("bad input was taken") };
    let site = error.site();
    assert_eq!(site.map(|s| (s.file().ends_with("bad_input.rs"), s.line())), Some((true, line)), "{error}");
    error
}

macro_rules! fails {
    ($call:expr, $pattern:pat) => {{
        let (result, line) = ($call, line!());
        let error = failure(result, line);
        assert!(matches!(error, $pattern), "{error}");
        error.to_string()
    }};
}

#[test]
fn what_is_not_a_scalar_needs_a_cotangent() -> Result<()> {
    let x = vector()?;
    fails!(grad(|x| x.sqr(), &x), Error::NonScalarTarget { .. });
    fails!(hvp(|x| x.sqr(), &x, &x), Error::NonScalarTarget { .. });
    // A constant that is not a scalar is refused too.
    fails!(grad(|_| vector(), &x), Error::NonScalarTarget { .. });
    fails!(forward_gradient(|x| x.sqr(), &x, 4, &random::key(0)), Error::NonScalarTarget { .. });
    Ok(())
}

#[test]
fn trees_must_match() -> Result<()> {
    let x = vector()?;
    let pair = vec![&x, &x];
    let said = fails!(vjp(|x| Ok(x.clone()), &pair, &vec![&x]), Error::TreeMismatch { .. });
    assert!(said.contains("the cotangents: [1] is missing"), "{said}");
    fails!(jvp(|x| Ok(x.clone()), &pair, &vec![&x]), Error::TreeMismatch { .. });
    fails!(hvp(|x| x[0].sum(), &pair, &vec![&x]), Error::TreeMismatch { .. });
    let single = TrackedTensor::scalar(1.0);
    fails!(vjp(|x| x.sqr(), &x, &single), Error::Mismatch { .. });
    fails!(jvp(|x| x.sqr(), &x, &single), Error::Mismatch { .. });
    let (_, linear) = linearize(|x| x.sqr(), &x)?;
    fails!(linear.apply(&single), Error::Mismatch { .. });
    let floats = TrackedTensor::from_vec(vec![1f32, 2.], &[2])?;
    fails!(vjp(|x| x.sqr(), &x, &floats), Error::Mismatch { .. });
    Ok(())
}

#[test]
fn integers_have_no_derivative() -> Result<()> {
    let i = TrackedTensor::from_vec(vec![1u32, 2], &[2])?;
    fails!(grad(|_| Ok(TrackedTensor::scalar(1.0)), &i), Error::NotDifferentiable { .. });
    fails!(jvp(|x| Ok(x.clone()), &i, &i), Error::NotDifferentiable { .. });
    fails!(jacrev(|x| Ok(x.clone()), &i), Error::NotDifferentiable { .. });
    fails!(Jacobian::forward().of(|x| Ok(x.clone()), &i), Error::NotDifferentiable { .. });
    fails!(gradcheck(|x| Ok(x.clone()), &i), Error::NotDifferentiable { .. });
    Ok(())
}

#[test]
fn mapped_dimensions_must_be_there() -> Result<()> {
    let (x, y) = (vector()?, TrackedTensor::from_vec(vec![1f64; 3], &[3])?);
    let f = |x: &TrackedTensor| x.sqr();
    fails!(vmap(f, &TrackedTensor::scalar(1.0), 0), Error::InvalidArgument { .. });
    fails!(vmap(f, &x, 1), Error::InvalidArgument { .. });
    let said = fails!(vmap(|(x, y)| x.add(y), &(&x, &y), 0), Error::InvalidArgument { .. });
    assert!(said.contains(".1 has 3 examples, .0 has 2"), "{said}");
    fails!(vmap(|(x, y)| x.add(y), &(&x, &y), [Some(0)]), Error::InvalidArgument { .. });
    fails!(vmap(|(x, y)| x.add(y), &(&x, &y), [None, None]), Error::InvalidArgument { .. });
    fails!(Vmap::over(0).chunk_size(0).run(f, &x), Error::InvalidArgument { .. });
    fails!(Vmap::over(0).to(1).run(f, &x), Error::InvalidArgument { .. });
    fails!(Jacobian::new().chunk_size(0).of(f, &x), Error::InvalidArgument { .. });
    Ok(())
}

/// A value of a transform that has ended is refused, with the line that uses it.
#[test]
fn values_that_leak_say_so() -> Result<()> {
    let x = vector()?;
    let kept: RefCell<Option<TrackedTensor>> = RefCell::default();
    let keep = |x: &TrackedTensor| {
        *kept.borrow_mut() = Some(x.clone());
        x.sqr()
    };
    let leaked = || kept.borrow().clone().ok_or_else(|| Error::msg("nothing was kept"));
    let _ = jvp(keep, &x, &x)?;
    let value = leaked()?;
    let said = fails!(value.add(1.0), Error::Leaked { .. });
    assert!(said.contains("a value of the jvp at"), "{said}");
    let _ = vmap(keep, &x, 0)?;
    let value = leaked()?;
    fails!(value.add(1.0), Error::Leaked { .. });
    // A gradient's values compute on as numbers; a gradient through them is refused.
    let _ = grad(|x| keep(x)?.sum(), &x)?;
    let value = leaked()?;
    assert_eq!(value.add(1.0)?.to_vec1::<f64>()?, [2., 3.]);
    let tape = autograd_tape::GradientTape::new();
    let _variable = tape.variable(&x);
    let summed = value.sum()?;
    fails!(tape.gradient(&summed, &[&value]), Error::Untracked { .. } | Error::DroppedTape { .. });
    Ok(())
}

#[test]
fn odds_and_ends() -> Result<()> {
    let x = vector()?;
    let none: Vec<TrackedTensor> = Vec::new();
    fails!(ravel(&none), Error::InvalidArgument { .. });
    let (_, layout) = ravel(&[&x, &x])?;
    fails!(layout.unflatten(&x), Error::Mismatch { .. });
    fails!(laplacian_along(|x| x.sum(), &x, &x), Error::Shape { .. });
    fails!(forward_gradient(|x| x.sum(), &x, 1, &random::key(0)), Error::InvalidArgument { .. });
    // NaN in a check is a failure, not an agreement.
    let report = gradcheck(|x| x.sub(10.0)?.log(), &x)?;
    assert!(!report.passed(), "{report}");
    Ok(())
}
