//! Bad input: a typed error that names op, shapes and the caller's line, never a panic.

use candle_autograd::{
    CustomOp, DualTensor, Error, ForwardADContext, GradientTape, Result, TensorAutograd, TrackedTensor, jvp,
};
use candle_core::{DType, Device, Tensor};

fn ones(dims: &[usize]) -> Result<Tensor> {
    Ok(Tensor::ones(dims, DType::F32, &Device::Cpu)?)
}

/// The error of a call, which must carry a line of this file.
fn error_of<T>(result: Result<T>) -> Error {
    let Err(error) = result else { panic!("an error was expected") };
    let site = error.site().unwrap_or_else(|| panic!("no line in: {error}"));
    assert!(site.file().ends_with("errors.rs"), "{error} points into {}", site.file());
    error
}

#[test]
fn shapes_that_do_not_fit() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(ones(&[2, 3])?);
    let here = line!() + 1;
    let error = error_of(x.add(&ones(&[4])?));
    assert_eq!(error.site().map(|s| s.line()), Some(here));
    assert!(matches!(&error, Error::Shape { op: "add", shapes, .. } if shapes.len() == 2), "{error}");
    assert!(error.to_string().contains("[2, 3]") && error.to_string().contains("[4]"), "{error}");
    assert!(matches!(error_of(x.matmul(&ones(&[2, 2])?)), Error::Shape { op: "matmul", .. }));
    assert!(matches!(error_of(x.reshape((4, 2))), Error::Shape { op: "reshape", .. }));
    Ok(())
}

#[test]
fn element_types_that_differ() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(ones(&[2])?);
    let y = ones(&[2])?.to_dtype(DType::F64)?;
    let error = error_of(x.mul(&y));
    assert!(matches!(&error, Error::DTypeMismatch { op: "mul", .. }), "{error}");
    let whole = TrackedTensor::from(ones(&[2])?.to_dtype(DType::U32)?);
    assert!(matches!(error_of(whole.exp()), Error::UnsupportedDType { op: "exp", .. }));
    Ok(())
}

#[test]
fn a_spent_tape() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(ones(&[2])?);
    let y = x.mul(&x)?.sum()?;
    let spent = line!() + 1;
    tape.gradient(&y, &[&x])?;
    let error = error_of(tape.gradient(&y, &[&x]));
    assert!(matches!(&error, Error::SpentTape { spent_at, .. } if spent_at.line() == spent), "{error}");
    // A variable of a spent tape fails at its first use.
    let late = tape.variable(ones(&[2])?);
    assert!(matches!(late.exp(), Err(Error::SpentTape { .. })));
    // Its values compute on as plain values.
    assert_eq!(y.add(1.0)?.to_scalar::<f32>()?, 3.);
    Ok(())
}

#[test]
fn a_foreign_tapes_value() -> Result<()> {
    let (mine, other) = (GradientTape::new(), GradientTape::new());
    let x = mine.variable(ones(&[1])?);
    let y = other.variable(ones(&[1])?).mul(2.0)?;
    assert!(matches!(error_of(mine.gradient(&x.mul(&x)?, &[&y])), Error::LevelInversion { .. }));
    let z = x.mul(2.0)?;
    assert!(matches!(error_of(other.gradient(&z, &[&y])), Error::ForeignTape { role: "target", .. }));
    Ok(())
}

#[test]
fn a_dropped_tapes_value() -> Result<()> {
    let y = {
        let tape = GradientTape::new();
        tape.variable(ones(&[1])?).mul(2.0)?
    };
    let tape = GradientTape::new();
    let x = tape.variable(ones(&[1])?);
    assert!(matches!(error_of(tape.gradient(&y, &[&x])), Error::DroppedTape { role: "target", .. }));
    assert_eq!(y.exp()?.dims(), [1]);
    Ok(())
}

#[test]
fn a_target_without_seed() -> Result<()> {
    let tape = GradientTape::new().persistent();
    let x = tape.variable(ones(&[3])?);
    let y = x.mul(2.0)?;
    assert!(
        matches!(error_of(tape.gradient(&y, &[&x])), Error::NonScalarTarget { shape, .. } if shape.dims() == [3])
    );
    let seed = TrackedTensor::from(ones(&[2])?);
    assert!(matches!(error_of(tape.gradient_with(&[&y], &[&seed], &[&x])), Error::Mismatch { .. }));
    assert!(matches!(error_of(tape.gradient_with(&[&y], &[], &[&x])), Error::InvalidArgument { .. }));
    Ok(())
}

#[test]
fn an_untracked_target() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(ones(&[1])?);
    let plain = TrackedTensor::from(ones(&[1])?);
    assert!(matches!(error_of(tape.gradient(&plain, &[&x])), Error::Untracked { role: "target", .. }));
    assert!(matches!(error_of(tape.gradient(&x, &[&plain])), Error::Untracked { role: "source", .. }));
    let cut = x.mul(2.0)?.detach()?;
    assert!(matches!(error_of(tape.gradient(&cut, &[&x])), Error::Untracked { role: "target", .. }));
    Ok(())
}

#[test]
fn an_integer_tensor_as_variable() -> Result<()> {
    let tape = GradientTape::new();
    let whole = ones(&[2])?.to_dtype(DType::U32)?;
    let x = tape.variable(&whole);
    assert!(matches!(error_of(x.add(1.0)), Error::NotDifferentiable { dtype: DType::U32, .. }));
    assert!(matches!(error_of(tape.try_variable(&whole)), Error::NotDifferentiable { .. }));
    Ok(())
}

#[test]
fn empty_and_rank_0_tensors() -> Result<()> {
    let tape = GradientTape::new().persistent();
    let none = tape.variable(ones(&[0, 3])?);
    let y = none.exp()?.sum()?;
    assert_eq!(y.to_scalar::<f32>()?, 0.);
    assert_eq!(tape.derivative(&y, &none)?.dims(), [0, 3]);
    let number = tape.variable(ones(&[])?);
    let y = number.exp()?.mul(&number)?;
    assert!((tape.derivative(&y, &number)?.to_scalar::<f32>()? - 2. * 1f32.exp()).abs() < 1e-5);
    // Every dimension is out of range there, and the largest of nothing does not exist.
    assert!(matches!(error_of(number.sum_dim(0)), Error::InvalidArgument { .. }));
    assert!(error_of(none.max_dim(0)).to_string().contains("max"));
    Ok(())
}

#[test]
fn more_than_eight_dimensions() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(ones(&[1; 9])?);
    assert!(matches!(error_of(x.exp()), Error::InvalidArgument { .. }));
    Ok(())
}

#[test]
fn an_older_tape_inside_a_younger_transform() -> Result<()> {
    let tape = GradientTape::new();
    let _first = tape.variable(ones(&[1])?);
    let (x, v) = (TrackedTensor::from(ones(&[1])?), TrackedTensor::from(ones(&[1])?));
    let failed = jvp(|x| tape.try_variable(&x[0]).map(|x| vec![x]), &[&x], &[&v]);
    assert!(matches!(error_of(failed), Error::LevelInversion { .. }));
    Ok(())
}

#[test]
fn a_tangent_that_does_not_fit() -> Result<()> {
    let mut ctx = ForwardADContext::new();
    let x = DualTensor::new(ones(&[2])?, ones(&[3])?);
    assert!(matches!(error_of(ctx.sin(&x)), Error::Mismatch { .. }));
    Ok(())
}

struct Identity;

impl CustomOp for Identity {
    fn name(&self) -> &'static str {
        "identity"
    }
    fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        Ok(inputs[0].clone())
    }
    fn backward(&self, grad_output: &Tensor, _: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![grad_output.clone()])
    }
}

#[test]
fn a_custom_op_in_other_modes() -> Result<()> {
    let tape = GradientTape::new().persistent();
    let x = tape.variable(ones(&[1])?);
    let y = tape.custom_op(&Identity, &[&x])?.mul(&x)?;
    let dy = tape.derivative(&y, &x)?;
    let error = error_of(tape.derivative(&dy.mul(&x)?, &x));
    assert!(matches!(error, Error::UnsupportedMode { op: "identity", mode: "second order", .. }), "{error}");
    let v = TrackedTensor::from(ones(&[1])?);
    let failed = jvp(|x| Ok(vec![GradientTape::new().custom_op(&Identity, &[&x[0]])?]), &[&v], &[&v]);
    assert!(matches!(error_of(failed), Error::UnsupportedMode { op: "identity", mode: "forward mode", .. }));
    Ok(())
}

struct WrongShape;

impl CustomOp for WrongShape {
    fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        Ok(inputs[0].clone())
    }
    fn backward(&self, _: &Tensor, _: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![ones(&[7])?])
    }
}

#[test]
fn a_custom_gradient_of_the_wrong_shape() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(ones(&[2])?);
    let y = tape.custom_op(WrongShape, &[&x])?.sum()?;
    let error = error_of(tape.derivative(&y, &x));
    assert!(error.to_string().contains("[7]"), "{error}");
    Ok(())
}

#[test]
fn a_source_without_a_path() -> Result<()> {
    let tape = GradientTape::new().persistent();
    let (x, z) = (tape.variable(ones(&[2])?), tape.variable(ones(&[3])?));
    let y = x.sum()?;
    assert_eq!(tape.derivative(&y, &z)?.to_vec1::<f32>()?, [0., 0., 0.]);
    assert!(matches!(error_of(tape.gradient_strict(&y, &[&x, &z])), Error::NoPath { index: 1, .. }));
    Ok(())
}

/// Parameters so large that sums and products of extents overflow.
#[test]
fn absurd_parameters_do_not_panic() -> Result<()> {
    const MAX: usize = usize::MAX;
    const HALF: usize = usize::MAX / 2 + 1;
    type Call = Box<dyn Fn(&TrackedTensor) -> Result<()> + std::panic::RefUnwindSafe>;
    fn call<T>(f: impl Fn(&TrackedTensor) -> Result<T> + std::panic::RefUnwindSafe + 'static) -> Call {
        Box::new(move |x| f(x).map(drop))
    }
    let images = || ones(&[2, 2, 3, 3]);
    let kernel = || ones(&[2, 2, 2, 2]);
    let mut calls: Vec<(String, &[usize], Call)> = Vec::new();
    for n in [MAX, HALF, MAX - 1] {
        let signed = isize::try_from(n / 2).unwrap_or(isize::MAX);
        let mut add = |name: &str, dims: &'static [usize], f: Call| {
            calls.push((format!("{name} with {n}"), dims, f));
        };
        add("split", &[4], call(move |x| x.split(&[n, 5], 0)));
        add("narrow", &[4], call(move |x| x.narrow(0, n, 2)));
        add("narrow", &[4], call(move |x| x.narrow(0, 2, n)));
        add("chunk", &[4], call(move |x| x.chunk(n, 0)));
        add("get", &[4], call(move |x| x.get(n)));
        add("slice", &[4], call(move |x| x.slice(0, -signed, signed, n)));
        add("slice", &[4], call(|x| x.slice(0, isize::MIN, isize::MAX, 1)));
        add("roll", &[4], call(move |x| x.roll(-signed, 0)));
        add("roll", &[4], call(|x| x.roll(isize::MIN, 0)));
        add("tril", &[4, 4], call(move |x| x.tril(signed)));
        add("tril", &[4, 4], call(|x| x.tril(isize::MIN)));
        add("triu", &[4, 4], call(|x| x.triu(isize::MAX)));
        add("diagonal", &[4, 4], call(|x| x.diagonal(isize::MIN, 0, 1)));
        add("diagonal", &[4, 4], call(|x| x.diagonal(isize::MAX, 0, 1)));
        add("unfold", &[4], call(move |x| x.unfold(0, n, 1)));
        add("unfold", &[4], call(move |x| x.unfold(0, 2, n)));
        add("pad", &[2, 4], call(move |x| x.pad(&[(n, 1)], 0.0)));
        add("pad", &[2, 4], call(move |x| x.pad(&[(HALF, n)], 0.0)));
        add("pad_with_zeros", &[2, 4], call(move |x| x.pad_with_zeros(1, n, n)));
        add("pad_with_same", &[2, 4], call(move |x| x.pad_with_same(1, n, 1)));
        add("pad_replicate", &[2, 4], call(move |x| x.pad_replicate(&[(1, n)])));
        add("pad_reflect", &[2, 4], call(move |x| x.pad_reflect(&[(1, n)])));
        add("slice_scatter", &[4], call(move |x| x.slice_scatter(ones(&[2])?, 0, n)));
        add("slice_assign", &[4, 4], call(move |x| x.slice_assign(&[n..n, 0..4], ones(&[0, 4])?)));
        add("topk", &[4], call(move |x| x.topk(n, 0, true)));
        add("var", &[4], call(move |x| x.var_dims(0, n, false)));
        add("repeat", &[2, 4], call(move |x| x.repeat([2, n])));
        add("reshape", &[2, 4], call(move |x| x.reshape([n, 2])));
        add("broadcast_as", &[1, 4], call(move |x| x.broadcast_as([n, 4])));
        add("group_norm", &[2, 4], call(move |x| x.group_norm(n, None, None, 1e-5)));
        for at in 0..4 {
            let with = move |i: usize| if i == at { n } else { 1 };
            let images = move || images();
            add(
                "conv1d",
                &[2, 2, 3],
                call(move |x| x.conv1d(&ones(&[2, 2, 2])?.into(), with(0), with(1), with(2), with(3))),
            );
            add(
                "conv2d",
                &[2, 2, 3, 3],
                call(move |x| x.conv2d(&kernel()?.into(), with(0), with(1), with(2), with(3))),
            );
            add(
                "conv3d",
                &[2, 2, 3, 3, 3],
                call(move |x| x.conv3d(&ones(&[2, 2, 2, 2, 2])?.into(), with(0), with(1), with(2), with(3))),
            );
            add(
                "conv_transpose2d",
                &[2, 2, 3, 3],
                call(move |x| {
                    x.conv_transpose2d(
                        &kernel()?.into(),
                        with(0),
                        if at == 3 { n } else { 0 },
                        with(1),
                        with(2),
                    )
                }),
            );
            add("max_pool1d", &[2, 2, 3], call(move |x| x.max_pool1d(with(0), with(1), with(2))));
            add("avg_pool1d", &[2, 2, 3], call(move |x| x.avg_pool1d(with(0), with(1), with(2))));
            add("max_pool2d", &[2, 2, 3, 3], call(move |x| x.max_pool2d((with(0), with(1)))));
            add(
                "avg_pool2d",
                &[2, 2, 3, 3],
                call(move |_| TrackedTensor::from(images()?).avg_pool2d((with(0), with(1)))),
            );
        }
        add("adaptive_avg_pool2d", &[2, 2, 3, 3], call(move |x| x.adaptive_avg_pool2d(n, 2)));
        add("upsample_nearest1d", &[2, 2, 3], call(move |x| x.upsample_nearest1d(n)));
        add("upsample_nearest2d", &[2, 2, 3, 3], call(move |x| x.upsample_nearest2d(2, n)));
        add("upsample_bilinear2d", &[2, 2, 3, 3], call(move |x| x.upsample_bilinear2d(n, 2, true)));
    }
    let mut panicked: Vec<String> = Vec::new();
    for (name, dims, f) in &calls {
        let x = TrackedTensor::from(ones(dims)?);
        let x = std::panic::AssertUnwindSafe(&x);
        // Whether it is an error or not, it comes back.
        if std::panic::catch_unwind(move || f(&x).is_ok()).is_err() {
            panicked.push(name.clone());
        }
    }
    assert!(panicked.is_empty(), "these panicked: {panicked:?}");
    Ok(())
}
