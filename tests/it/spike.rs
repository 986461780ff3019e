//! Core's contract, end to end: one op of each rule shape, and two fused ones, through every
//! interpreter; levels that must not be confused; states that outlive their tapes.

use autograd_core::{Level, Mask, Meta, TrackedTensor, testing};
use candle_autograd::{CustomOp, GradientTape, Result, Tensor, TensorAutograd, jvp};
use candle_autograd::{checkpoint::checkpoint, graph::capture, transforms};

const TOLERANCE: f64 = 1e-12;

fn draw(dims: &[usize], seed: u64) -> Result<TrackedTensor> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let n: usize = dims.iter().product();
    let numbers = (0..n).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0
    });
    TrackedTensor::from_vec(numbers.collect(), dims)
}

fn assert_close(a: &TrackedTensor, b: &TrackedTensor, what: &str) -> Result<()> {
    assert_eq!(a.dims(), b.dims(), "{what}");
    for (i, (x, y)) in a.to_flat::<f64>()?.into_iter().zip(b.to_flat::<f64>()?).enumerate() {
        assert!((x - y).abs() <= TOLERANCE * y.abs().max(1.0), "{what}: element {i}: {x} and {y}");
    }
    Ok(())
}

/// A function of one input, with one op of interest in the middle.
type Function = fn(&TrackedTensor) -> Result<TrackedTensor>;

/// One op of each rule shape, plus two fused ones; x is 3×4.
const FUNCTIONS: &[(&str, Function)] = &[
    ("pointwise: tanh", |x| x.tanh()?.mul(x)),
    ("pointwise, broadcast: mul", |x| x.mul(&x.narrow(0, 1, 1)?)),
    ("linear: sum_to, permute, narrow", |x| x.t()?.narrow(0, 1, 2)?.t()?.sum_keepdim(1)?.mul(x)),
    ("bilinear: matmul", |x| x.matmul(&x.t()?)?.tanh()),
    ("general: softmax", |x| x.softmax(1)?.mul(x)),
    ("general, hints: layer_norm", |x| {
        let (w, b) = (x.narrow(0, 0, 1)?.squeeze(0)?, x.narrow(0, 1, 1)?.squeeze(0)?);
        x.layer_norm(&w, &b, 1e-5)?.mul(x)
    }),
    ("general, two outputs: max with indices", |x| {
        let (values, indices) = x.sqr()?.max_with_indices(1)?;
        assert!(!indices.is_tracked() || indices.dtype() == candle_autograd::DType::U32);
        values.unsqueeze(1)?.mul(x)
    }),
    ("flat: a comparison", |x| x.gt(0.0)?.where_cond(&x.mul(3.0)?, &x.sqr()?)),
];

fn scalar(f: Function) -> impl Fn(&TrackedTensor) -> Result<TrackedTensor> {
    move |x| f(x)?.sqr()?.sum()
}

fn tape_gradient(f: Function, x: &TrackedTensor) -> Result<TrackedTensor> {
    let tape = GradientTape::new();
    let v = tape.variable(x);
    tape.derivative(&scalar(f)(&v)?, &v)
}

#[test]
fn every_shape_through_every_interpreter() -> Result<()> {
    let (x, v) = (draw(&[3, 4], 1)?, draw(&[3, 4], 2)?);
    for &(name, f) in FUNCTIONS {
        let gradient = tape_gradient(f, &x)?;

        // Dual numbers: the directional derivative is ⟨gradient, v⟩.
        let (_, along) = jvp(|x| Ok(vec![scalar(f)(&x[0])?]), &[&x], &[&v])?;
        assert_close(&along[0], &gradient.mul(&v)?.sum()?, &format!("{name}: dual"))?;

        // A persistent tape gives the same, and again.
        let tape = GradientTape::new().persistent();
        let variable = tape.variable(&x);
        let y = scalar(f)(&variable)?;
        for round in 0..2 {
            assert_close(
                &tape.derivative(&y, &variable)?,
                &gradient,
                &format!("{name}: persistent {round}"),
            )?;
        }
        assert_close(&tape.gradient_detached(&y, &[&variable])?[0], &gradient, &format!("{name}: detached"))?;

        // A batch of two equals a loop of two, for values and gradients.
        let other = draw(&[3, 4], 3)?;
        let both = TrackedTensor::stack(&[&x, &other], 0)?;
        let mapped = transforms::vmap(
            |x| Ok(vec![scalar(f)(&x[0])?, transforms::grad(|x| scalar(f)(x), &x[0])?]),
            &[&both],
            Mask::one(0),
        )?;
        let values = TrackedTensor::stack(&[&scalar(f)(&x)?, &scalar(f)(&other)?], 0)?;
        assert_close(&mapped[0], &values, &format!("{name}: batch"))?;
        let gradients = TrackedTensor::stack(&[&gradient, &tape_gradient(f, &other)?], 0)?;
        assert_close(&mapped[1], &gradients, &format!("{name}: batch of gradients"))?;

        // Captured, with its gradient, and run again: equal to the bit.
        let program = capture(
            |x| Ok(vec![scalar(f)(&x[0])?, transforms::grad(|x| scalar(f)(x), &x[0])?]),
            &[x.meta()],
        )?;
        let replayed = program.run(&[&x])?;
        assert_eq!(replayed[0].to_flat::<f64>()?, scalar(f)(&x)?.to_flat::<f64>()?, "{name}: captured value");
        assert_close(&replayed[1], &gradient, &format!("{name}: captured gradient"))?;

        // Replayed from a checkpoint: equal to the bit, and nothing was kept meanwhile.
        let tape = GradientTape::new();
        let variable = tape.variable(&x);
        let y = checkpoint(|x| Ok(vec![scalar(f)(&x[0])?]), &[&variable])?.remove(0);
        let replayed = tape.derivative(&y, &variable)?;
        assert_eq!(replayed.to_flat::<f64>()?, gradient.to_flat::<f64>()?, "{name}: checkpoint");
    }
    Ok(())
}

/// H·v in the three nestings.
fn hessian_products(f: Function, x: &TrackedTensor, v: &TrackedTensor) -> Result<[TrackedTensor; 3]> {
    let gradient = |x: &TrackedTensor| transforms::grad(|x| scalar(f)(x), x);
    let forward_over_reverse = jvp(gradient, x, v)?.1;
    let slope = |x: &TrackedTensor| -> Result<TrackedTensor> { Ok(jvp(|x| scalar(f)(x), x, v)?.1) };
    let reverse_over_forward = transforms::grad(slope, x)?;
    let tape = GradientTape::new().persistent();
    let variable = tape.variable(x);
    let first = tape.derivative(&scalar(f)(&variable)?, &variable)?;
    let reverse_over_reverse = tape.derivative(&first.mul(v)?.sum()?, &variable)?;
    Ok([forward_over_reverse, reverse_over_forward, reverse_over_reverse])
}

#[test]
fn second_order_in_three_nestings() -> Result<()> {
    let (x, v) = (draw(&[3, 4], 4)?, draw(&[3, 4], 5)?);
    for &(name, f) in FUNCTIONS {
        let [a, b, c] = hessian_products(f, &x, &v)?;
        assert_close(&a, &b, &format!("{name}: forward over reverse, reverse over forward"))?;
        assert_close(&a, &c, &format!("{name}: forward over reverse, reverse over reverse"))?;
        // And it is the derivative of the gradient.
        let h = 1e-5;
        let (up, down) = (x.add(&v.mul(h)?)?, x.sub(&v.mul(h)?)?);
        let difference = tape_gradient(f, &up)?.sub(&tape_gradient(f, &down)?)?.mul(0.5 / h)?;
        for (x, y) in a.to_flat::<f64>()?.into_iter().zip(difference.to_flat::<f64>()?) {
            assert!((x - y).abs() <= 1e-6 * y.abs().max(1.0), "{name}: {x} and the difference {y}");
        }
    }
    Ok(())
}

#[test]
fn second_order_reads_no_hint() -> Result<()> {
    let (x, v) = (draw(&[3, 4], 6)?, draw(&[3, 4], 7)?);
    for &(name, f) in FUNCTIONS {
        let clean = hessian_products(f, &x, &v)?;
        let poisoned = testing::poison_hints(|| hessian_products(f, &x, &v))?;
        for (a, b) in poisoned.iter().zip(&clean) {
            assert_close(a, b, &format!("{name}: hints poisoned"))?;
        }
    }
    // The poison is real: a first derivative through a fused kernel does read it.
    let (_, layer_norm) = FUNCTIONS[5];
    let read = testing::poison_hints(|| tape_gradient(layer_norm, &x))?;
    assert!(read.to_flat::<f64>()?.iter().any(|g| g.is_nan()));
    Ok(())
}

/// d/dx (x · d/dy (x + y)) at 1 is 1; an interpreter that confuses perturbations says 2.
#[test]
fn perturbations_are_not_confused() -> Result<()> {
    let one = TrackedTensor::scalar(1.0);
    let forward = |x: &TrackedTensor| -> Result<TrackedTensor> {
        let (_, inner) = jvp(|y| x.add(y), &one, &one)?;
        x.mul(&inner)
    };
    assert_eq!(jvp(forward, &one, &one)?.1.to_scalar::<f64>()?, 1.0);
    let reverse = |x: &TrackedTensor| -> Result<TrackedTensor> {
        let inner = transforms::grad(|y| x.add(y), &one)?;
        x.mul(&inner)
    };
    assert_eq!(transforms::grad(reverse, &one)?.to_scalar::<f64>()?, 1.0);
    Ok(())
}

/// A tape made before a transform and used inside of it: were its level that of its creation, the
/// second derivative of x³ at 1 would come out as 3, not 6.
#[test]
fn level_inversion_forward_over_reverse() -> Result<()> {
    let one = TrackedTensor::scalar(1.0);
    let tape = GradientTape::new();
    let gradient = |x: &TrackedTensor| -> Result<TrackedTensor> {
        let v = tape.try_variable(x)?;
        let y = v.mul(&v)?.mul(x)?; // the captured outer value takes part
        tape.derivative(&y, &v)?.mul(1.5)
    };
    // d/dx of 1.5 · 2x·x = 3x² is 6x.
    assert_eq!(jvp(gradient, &one, &one)?.1.to_scalar::<f64>()?, 6.0);
    Ok(())
}

#[test]
fn level_inversion_reverse_over_forward() -> Result<()> {
    let one = TrackedTensor::scalar(1.0);
    let tape = GradientTape::new();
    let x = tape.variable(&one);
    let (_, dy) = jvp(|v| v[0].mul(&v[0])?.mul(&x).map(|y| vec![y]), &[&x], &[&one])?;
    // ∂/∂v (v²x) at v = x is 2x²; 1.5 · its derivative 4x is 6.
    assert_eq!(tape.derivative(&dy[0].mul(1.5)?, &x)?.to_scalar::<f64>()?, 6.0);
    Ok(())
}

#[test]
fn level_inversion_reverse_over_reverse() -> Result<()> {
    let one = TrackedTensor::scalar(1.0);
    let (inner, outer) = (GradientTape::new(), GradientTape::new());
    let x = outer.variable(&one);
    // Made first, used inside: its level is that of its first variable.
    let v = inner.variable(&x);
    let first = inner.derivative(&v.mul(&v)?.mul(&x)?.mul(1.5)?, &v)?;
    assert_eq!(outer.derivative(&first, &x)?.to_scalar::<f64>()?, 6.0);
    Ok(())
}

#[test]
fn an_empty_tape_moves_up_and_a_used_one_refuses() -> Result<()> {
    let (old, young) = (GradientTape::new(), GradientTape::new());
    let first = old.variable(TrackedTensor::scalar(1.0));
    let x = young.variable(TrackedTensor::scalar(2.0));
    let refused = old.try_variable(&x);
    assert!(matches!(refused, Err(candle_autograd::Error::LevelInversion { .. })), "{refused:?}");
    drop(first);
    let fresh = GradientTape::new();
    let v = fresh.try_variable(&x)?;
    let y = fresh.derivative(&v.mul(&v)?, &v)?;
    assert_eq!(young.derivative(&y, &x)?.to_scalar::<f64>()?, 2.0);
    Ok(())
}

/// A recurrent state carried from step to step: tapes must not nest through it.
#[test]
fn a_state_carried_over_spent_tapes() -> Result<()> {
    let w = draw(&[4, 4], 8)?;
    let mut state = draw(&[1, 4], 9)?;
    let mut plain = state.clone();
    for step in 0..1000 {
        let tape = GradientTape::new();
        let weight = tape.variable(&w);
        let next = state.matmul(&weight)?.tanh()?;
        let loss = next.sqr()?.sum()?;
        assert_eq!(tape.derivative(&loss, &weight)?.dims(), [4, 4]);
        state = next;
        plain = plain.matmul(&w)?.tanh()?;
        if step % 100 == 0 {
            assert!(depth(&state) <= 1, "tapes nest: {}", depth(&state));
            assert_eq!(state.to_flat::<f64>()?, plain.to_flat::<f64>()?);
        }
    }
    Ok(())
}

/// How many watchers wrap a value.
fn depth(value: &TrackedTensor) -> usize {
    value.tracer().and_then(|t| t.lower()).map_or(0, |lower| 1 + depth(lower))
}

#[test]
fn a_pause_silences_tapes_and_no_duals() -> Result<()> {
    let one = TrackedTensor::scalar(1.0);
    let tape = GradientTape::new();
    let x = tape.variable(TrackedTensor::scalar(3.0));
    let silent = candle_autograd::no_grad(|| x.mul(&x))?;
    assert!(!tape.watches(&silent));
    let mine = tape.stop_recording(|| x.mul(&x))?;
    assert!(!tape.watches(&mine));
    // Duals go on, and so does a tape made inside the pause.
    let (_, dy) = jvp(|x| candle_autograd::no_grad(|| Ok(vec![x[0].mul(&x[0])?])), &[&one], &[&one])?;
    assert_eq!(dy[0].to_scalar::<f64>()?, 2.0);
    let inner = candle_autograd::no_grad(|| transforms::grad(|x| x[0].mul(&x[0]), &[&one]))?;
    assert_eq!(inner[0].to_scalar::<f64>()?, 2.0);
    Ok(())
}

#[test]
fn reading_while_capturing_is_an_error_at_its_line() -> Result<()> {
    let x = draw(&[2], 10)?;
    let metas: Vec<Meta> = vec![x.meta()];
    let mut line = 0;
    let failed = capture(
        |x| {
            line = line!() + 1;
            let number = x[0].sum()?.to_scalar::<f64>()?;
            Ok(vec![x[0].mul(number)?])
        },
        &metas,
    );
    let Err(error) = failed else { panic!("a number was read from a value without one") };
    assert!(matches!(error, candle_autograd::Error::ReadWhileCapturing { .. }), "{error}");
    assert_eq!(error.site().map(|s| s.line()), Some(line));
    Ok(())
}

#[test]
fn tapes_on_several_threads() -> Result<()> {
    let shared = draw(&[8, 8], 11)?;
    let expected = tape_gradient(FUNCTIONS[3].1, &shared)?.to_flat::<f64>()?;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| tape_gradient(FUNCTIONS[3].1, &shared)?.to_flat::<f64>()))
            .collect();
        for worker in workers {
            let found = worker.join().map_err(|_| candle_autograd::Error::msg("a worker died"))??;
            assert_eq!(found, expected);
        }
        Ok(())
    })
}

/// x³, whose backward pass runs a tape of its own.
struct CubeByTape;

impl CustomOp for CubeByTape {
    fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        Ok(inputs[0].powf(3.0)?)
    }
    fn backward(&self, grad_output: &Tensor, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let tape = GradientTape::new();
        let x = tape.variable(inputs[0]);
        let slope = tape.derivative(&x.pow(3)?.sum()?, &x)?.into_tensor()?;
        Ok(vec![(slope * grad_output)?])
    }
}

#[test]
fn a_tape_inside_a_custom_backward_pass() -> Result<()> {
    let one_step = || -> Result<Vec<f64>> {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::from_vec(vec![1f64, 2.], &[2])?);
        let y = tape.custom_op(&CubeByTape, &[&x])?.mul(&x)?.sum()?;
        tape.derivative(&y, &x)?.to_vec1()
    };
    // d(x⁴) = 4x³.
    assert_eq!(one_step()?, [4., 32.]);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8).map(|_| scope.spawn(one_step)).collect();
        for worker in workers {
            let found = worker.join().map_err(|_| candle_autograd::Error::msg("a worker died"))??;
            assert_eq!(found, [4., 32.]);
        }
        Ok(())
    })
}

#[test]
fn one_tape_used_by_several_threads() -> Result<()> {
    let tape = GradientTape::new();
    let x = tape.variable(TrackedTensor::scalar(2.0));
    let parts: Vec<TrackedTensor> = std::thread::scope(|scope| {
        let workers: Vec<_> = (1..=4)
            .map(|n| {
                scope.spawn({
                    let x = &x;
                    move || x.pow(n)
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|w| w.join().map_err(|_| candle_autograd::Error::msg("a worker died"))?)
            .collect::<Result<_>>()
    })?;
    let mut sum = parts[0].clone();
    for part in &parts[1..] {
        sum = sum.add(part)?;
    }
    // 1 + 2·2 + 3·4 + 4·8.
    assert_eq!(tape.derivative(&sum, &x)?.to_scalar::<f64>()?, 49.0);
    Ok(())
}

#[test]
fn levels_grow() {
    assert!(Level::fresh() < Level::fresh());
}
