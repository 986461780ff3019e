//! `checkpoint` under everything: values equal to the bit, and the ops evaluated again counted.

use autograd_checkpoint::checkpoint;
use autograd_core::testing::count_evaluations;
use autograd_core::{CustomOp, Error, Mask, Result, Tensor, TrackedTensor, no_grad};
use autograd_ops::TensorAutograd;
use autograd_tape::GradientTape;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn value(seed: usize, dims: &[usize]) -> TrackedTensor {
    let count = dims.iter().product();
    let data: Vec<f64> = (0..count).map(|i| (((i + seed) * 7919 % 997) as f64 - 498.0) / 997.0).collect();
    TrackedTensor::from_vec(data, dims).expect("as many elements as the shape has")
}

/// One value in, one out.
fn checkpointed(
    f: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
) -> Result<TrackedTensor> {
    let mut out = checkpoint(|x| Ok(vec![f(&x[0])?]), &[x])?;
    out.pop().ok_or_else(|| Error::msg("no output"))
}

/// The gradient of a function of one value, as a function.
fn grad(
    f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
) -> impl Fn(&TrackedTensor) -> Result<TrackedTensor> {
    move |x| {
        let tape = GradientTape::new();
        let x = tape.try_variable(x)?;
        tape.derivative(&f(&x)?, &x)
    }
}

/// The tangent of a function of one value.
fn jvp(
    f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
    v: &TrackedTensor,
) -> Result<TrackedTensor> {
    let (_, mut tangents) = autograd_forward::jvp(|x| Ok(vec![f(&x[0])?]), &[x], &[v])?;
    tangents.pop().ok_or_else(|| Error::msg("no tangent"))
}

/// A function of one value over the rows of `x`.
fn vmap(f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>, x: &TrackedTensor) -> Result<TrackedTensor> {
    let mut out = autograd_transforms::vmap(|x| Ok(vec![f(&x[0])?]), &[x], Mask::one(0))?;
    out.pop().ok_or_else(|| Error::msg("no output"))
}

fn bits(values: &[TrackedTensor]) -> Vec<u64> {
    values.iter().flat_map(|v| v.to_flat::<f64>().expect("numbers")).map(f64::to_bits).collect()
}

#[test]
fn several_inputs_and_outputs_and_captured_parameters() -> Result<()> {
    let (x, y, w) = (value(1, &[3, 4]), value(2, &[3, 4]), value(3, &[4, 4]));
    let body = |a: &TrackedTensor, b: &TrackedTensor, w: &TrackedTensor| -> Result<Vec<TrackedTensor>> {
        let h = a.matmul(w)?.tanh()?;
        let other = (&h * b)?.softmax(-1)?;
        Ok(vec![h.matmul(w)?, (&other + &h)?])
    };
    let run = |saved: bool| -> Result<Vec<TrackedTensor>> {
        let tape = GradientTape::new();
        let (x, y, w) = (tape.variable(&x), tape.variable(&y), tape.variable(&w));
        let out = if saved { body(&x, &y, &w)? } else { checkpoint(|i| body(&i[0], &i[1], &w), &[&x, &y])? };
        let loss = (&out[0] * &out[1])?.sum()?;
        drop(out);
        tape.gradient(&loss, &[&x, &y, &w])
    };
    assert_eq!(bits(&run(true)?), bits(&run(false)?));
    Ok(())
}

/// f2 after checkpoint(f1), halves all the way down to pairs.
fn halves(layers: usize, x: &TrackedTensor) -> Result<TrackedTensor> {
    if layers <= 2 {
        return (0..layers).try_fold(x.clone(), |x, _| x.tanh());
    }
    let middle = checkpointed(|x| halves(layers / 2, x), x)?;
    halves(layers - layers / 2, &middle)
}

#[test]
fn recursive_halving_evaluates_two_eight_and_twenty_four_again() -> Result<()> {
    for (layers, want) in [(4, 2), (8, 8), (16, 24)] {
        let tape = GradientTape::new();
        let x = tape.variable(value(4, &[5]));
        let y = halves(layers, &x)?.sum()?;
        let (gradient, evaluations) = count_evaluations(|| tape.derivative(&y, &x));
        let plain = GradientTape::new();
        let v = plain.variable(value(4, &[5]));
        let z = (0..layers).try_fold(v.clone(), |v, _| v.tanh())?.sum()?;
        let (expected, without) = count_evaluations(|| plain.derivative(&z, &v));
        assert_eq!(evaluations - without, want, "{layers} layers");
        assert_eq!(bits(&[gradient?]), bits(&[expected?]));
    }
    Ok(())
}

#[test]
fn recomputation_stops_when_what_is_needed_is_there() -> Result<()> {
    // sin reads its input: of three, two are evaluated again. The branch that nobody reads is not.
    let tape = GradientTape::new();
    let x = tape.variable(value(5, &[6]));
    let y = checkpointed(
        |x| {
            let _side = x.exp()?;
            x.sin()?.sin()?.sin()
        },
        &x,
    )?;
    let y = y.sum()?;
    let (again, with) = count_evaluations(|| tape.derivative(&y, &x));
    let _ = again?;
    let tape = GradientTape::new();
    let x = tape.variable(value(5, &[6]));
    let y = x.sin()?.sin()?.sin()?.sum()?;
    let (plain, without) = count_evaluations(|| tape.derivative(&y, &x));
    let _ = plain?;
    assert_eq!(with - without, 2);
    Ok(())
}

fn model(x: &TrackedTensor) -> Result<TrackedTensor> {
    (x.sin()? * x.exp()?)?.tanh()?.sum()
}

fn model_again(x: &TrackedTensor) -> Result<TrackedTensor> {
    checkpointed(
        |x| {
            let a = checkpointed(|x| x.sin(), x)?;
            let b = checkpointed(|x| x.exp(), x)?;
            checkpointed(|x| x.tanh(), &(a * b)?)?.sum()
        },
        x,
    )
}

#[test]
fn every_transform_goes_over_and_under() -> Result<()> {
    let x = value(6, &[4]);
    let v = value(7, &[4]);
    assert_eq!(bits(&[grad(model)(&x)?]), bits(&[grad(model_again)(&x)?]), "grad");
    // grad of the sum of grad: second order.
    type Function = fn(&TrackedTensor) -> Result<TrackedTensor>;
    let second = |f: Function| grad(move |x| grad(f)(x)?.sum());
    let close = |a: &TrackedTensor, b: &TrackedTensor, what: &str| {
        let (a, b) = (a.to_flat::<f64>().unwrap(), b.to_flat::<f64>().unwrap());
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-13), "{what}: {a:?} {b:?}");
    };
    close(&second(model)(&x)?, &second(model_again)(&x)?, "grad of grad");
    let over = |f: Function| jvp(grad(f), &x, &v);
    close(&over(model)?, &over(model_again)?, "forward over reverse");
    let under = |f: Function| grad(|x| jvp(f, x, &v))(&x);
    close(&under(model)?, &under(model_again)?, "reverse over forward");
    let rows = value(8, &[3, 4]);
    close(&vmap(grad(model), &rows)?, &vmap(grad(model_again), &rows)?, "batch of grad");
    let summed = |f: Function| grad(move |rows| vmap(f, rows)?.sum());
    close(&summed(model)(&rows)?, &summed(model_again)(&rows)?, "grad of batch");
    Ok(())
}

#[test]
fn a_gradient_inside_a_checkpoint_keeps_its_own_tape() -> Result<()> {
    // The inner tape is made inside: its work is recomputed for the outer one alone.
    let x = value(9, &[4]);
    let inner = |x: &TrackedTensor| -> Result<TrackedTensor> { (grad(model)(x)? * x)?.sum() };
    let again = |x: &TrackedTensor| checkpointed(inner, x);
    assert_eq!(bits(&[grad(inner)(&x)?]), bits(&[grad(again)(&x)?]));
    let evaluations =
        |f: &dyn Fn(&TrackedTensor) -> Result<TrackedTensor>| count_evaluations(|| f(&x).map(drop)).1;
    assert_eq!(evaluations(&inner), evaluations(&again), "nothing outside watches: nothing is replayed");
    Ok(())
}

#[test]
fn a_persistent_tape_replays_each_time_and_goes_to_second_order() -> Result<()> {
    let tape = GradientTape::new().persistent();
    let x = tape.variable(TrackedTensor::scalar(0.7));
    let y = checkpointed(|x| checkpointed(|x| x.sin(), x)?.sin(), &x)?;
    let first = tape.derivative(&y, &x)?;
    let second = tape.derivative(&first, &x)?;
    let again = tape.derivative(&y, &x)?;
    let (s, c) = 0.7f64.sin_cos();
    let want = (s.cos() * c, -s.sin() * c * c - s.cos() * s);
    assert_eq!(bits(std::slice::from_ref(&first)), bits(&[again]));
    assert!((first.to_scalar::<f64>()? - want.0).abs() < 1e-15);
    assert!((second.to_scalar::<f64>()? - want.1).abs() < 1e-15);
    Ok(())
}

#[test]
fn sin_of_sin_linearised() -> Result<()> {
    let f = |x: &TrackedTensor| checkpointed(|x| x.sin()?.sin(), x);
    let tangent = jvp(f, &TrackedTensor::scalar(2.0), &TrackedTensor::scalar(3.0))?;
    let pulled = grad(f)(&TrackedTensor::scalar(2.0))?.to_scalar::<f64>()? * 3.0;
    assert!((tangent.to_scalar::<f64>()? + 0.76691736).abs() < 5e-9);
    assert!((pulled + 0.76691736).abs() < 5e-9);
    Ok(())
}

#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl CustomOp for Counted {
    fn name(&self) -> &'static str {
        "counted"
    }
    fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(inputs[0].sqr()?)
    }
    fn backward(&self, ct: &Tensor, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![((ct * inputs[0])? * 2.0)?])
    }
}

#[test]
fn closures_run_once_whatever_is_replayed() -> Result<()> {
    let (closures, forwards) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let tape = GradientTape::new();
    let x = tape.variable(value(10, &[3]));
    let y = checkpointed(
        |x| {
            closures.fetch_add(1, Ordering::Relaxed);
            let hidden = autograd_core::custom(Counted(forwards.clone()), &[x])?;
            hidden.tanh()
        },
        &x,
    )?;
    let gradient = tape.derivative(&y.sum()?, &x)?;
    assert_eq!((closures.load(Ordering::Relaxed), forwards.load(Ordering::Relaxed)), (1, 2));
    let want: Vec<f64> = value(10, &[3]).to_flat::<f64>()?;
    for (g, x) in gradient.to_flat::<f64>()?.iter().zip(want) {
        let t = (x * x).tanh();
        assert!((g - 2.0 * x * (1.0 - t * t)).abs() < 1e-15);
    }
    Ok(())
}

#[test]
fn random_numbers_are_those_of_the_forward_pass() -> Result<()> {
    let key = autograd_ops::random::key(3);
    let run = |again: bool| -> Result<Vec<u64>> {
        let tape = GradientTape::new();
        let x = tape.variable(value(12, &[40]));
        let f = |x: &TrackedTensor| -> Result<TrackedTensor> { x.tanh()?.dropout(&key, 0.5)?.exp() };
        let y = if again { checkpointed(f, &x)? } else { f(&x)? };
        let gradient = tape.derivative(&y.sum()?, &x)?;
        Ok(bits(&[y, gradient]))
    };
    assert_eq!(run(true)?, run(false)?);
    Ok(())
}

#[test]
fn errors_and_pauses_pass_through() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(value(11, &[3]));
    let failed = checkpointed(|x| x.matmul(value(1, &[2, 2])), &x).unwrap_err();
    assert!(failed.to_string().contains("regions.rs"), "{failed}");
    // After an error the region is closed: this op keeps its residuals.
    let y = x.tanh()?;
    assert!(tape.nodes().iter().any(|node| node.kept_bytes > 0));
    let silent = no_grad(|| checkpointed(|x| x.tanh(), &x))?;
    assert!(!tape.watches(&silent));
    assert_eq!(y.to_flat::<f64>()?, silent.to_flat::<f64>()?);
    Ok(())
}

#[test]
fn a_long_chain_of_regions_needs_no_deep_stack() -> Result<()> {
    let run = || -> Result<f64> {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::scalar(0.3));
        let mut y = x.clone();
        for _ in 0..2000 {
            y = checkpointed(|y| (0..20).try_fold(y.clone(), |y, _| &y * 0.999), &y)?;
        }
        tape.derivative(&y, &x)?.to_scalar::<f64>()
    };
    let thread = std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap();
    let slope = thread.join().unwrap()?;
    assert!((slope / 0.999f64.powi(40_000) - 1.0).abs() < 1e-9);
    Ok(())
}
