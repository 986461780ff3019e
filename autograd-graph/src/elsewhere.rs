//! Graphs on other devices than the CPU. Where the device's kernels take the whole program, it is
//! said in ops that they have, laid out in one arena by the planner of the CPU, and replayed as one
//! thing. Otherwise the program after the passes runs op by op, each fused group as one kernel.

mod laid;
mod smaller;

use crate::graph::Graph;
use crate::passes::Passes;
use crate::plan::Plan;
use autograd_core::device::{self, Declined, Whole};
use autograd_core::{Buffer, DeviceLocation, Error, Program, Result, TrackedTensor, algebra};
use autograd_tape::run_recorded;
use laid::laid;
use parking_lot::Mutex;
use smaller::{biases_apart, in_smaller_ops};
use std::sync::Arc;

/// A graph's programs for devices, made at the first run there.
#[derive(Default)]
pub(crate) struct Elsewhere(Mutex<Vec<Made>>);

/// A program made ready for a device.
#[derive(Clone)]
struct Made {
    location: DeviceLocation,
    passes: bool,
    runs: Runs,
}

/// How it runs there. What it closes over is moved there once, for the one that is taken.
#[derive(Clone)]
enum Runs {
    /// As one thing, by the device's kernels.
    Whole(Arc<Whole>),
    /// Op by op, and why.
    Ops(Arc<Program>, Arc<[Declined]>),
}

/// A value on another device than the CPU, where there is one among these.
pub(crate) fn device_of<'a>(inputs: &[&'a TrackedTensor]) -> Option<&'a TrackedTensor> {
    inputs.iter().find(|x| x.location() != DeviceLocation::Cpu).copied()
}

impl Elsewhere {
    /// Runs a graph where `like`, one of the inputs, is: after the passes, which watched values do
    /// not reach, or as it was captured.
    pub(crate) fn run(
        &self,
        graph: &Graph,
        passes: Option<&Passes>,
        inputs: &[&TrackedTensor],
        like: &TrackedTensor,
    ) -> Result<Vec<TrackedTensor>> {
        let location = like.location();
        if inputs.iter().any(|x| x.location() != location) {
            return Err(mismatch(inputs.iter().map(|x| x.location()).collect()));
        }
        let key = |known: &&Made| known.location == location && known.passes == passes.is_some();
        let known = self.0.lock().iter().find(key).cloned();
        let made = match known {
            Some(made) => made,
            None => {
                let runs = match passes {
                    Some(passes) => optimised(graph, passes, like)?,
                    None => Runs::Ops(Arc::new(moved(graph.program().clone(), like)?), Arc::new([])),
                };
                let made = Made { location, passes: passes.is_some(), runs };
                self.0.lock().push(made.clone());
                made
            }
        };
        match &made.runs {
            Runs::Whole(whole) => whole.run(inputs),
            Runs::Ops(program, _) => run_recorded(program, inputs),
        }
    }

    /// Where the graph has run after its passes, and what kept it from running as one thing there.
    pub(crate) fn places(&self) -> Vec<(DeviceLocation, Vec<Declined>)> {
        let place = |made: &Made| match &made.runs {
            Runs::Whole(_) => (made.location, Vec::new()),
            Runs::Ops(_, declined) => (made.location, declined.to_vec()),
        };
        self.0.lock().iter().filter(|made| made.passes).map(place).collect()
    }
}

/// The graph after the passes, for the device of `like`.
fn optimised(graph: &Graph, passes: &Passes, like: &TrackedTensor) -> Result<Runs> {
    // Blocks of rows and epilogues are for the CPU's cache. A bias goes with the fused ops after its product
    // where the device has no kernel that adds it to the product.
    let linear = passes.linear && device::installed();
    let passes = Passes { block: false, linear, epilogue: false, ..*passes };
    let graph = biases_apart(graph.without_checkpoints())?.optimise(&passes)?;
    Ok(match whole(graph.program(), like)? {
        Ok(whole) => Runs::Whole(Arc::new(whole)),
        Err(declined) => Runs::Ops(Arc::new(moved(graph.program().clone(), like)?), declined.into()),
    })
}

/// The program made ready for the device of `like`, or why its kernels do not take all of it.
fn whole(program: &Program, like: &TrackedTensor) -> Result<std::result::Result<Whole, Vec<Declined>>> {
    if !device::installed() {
        return Ok(Err(vec![Declined::Device]));
    }
    let program = match in_smaller_ops(program)? {
        Ok(program) => moved(program, like)?,
        Err(declined) => return Ok(Err(declined)),
    };
    // Nothing is written over what it reads: the device's kernels do not say that they may.
    let plan = Plan::new(&program, false)?;
    let made = match laid(&plan, &program)? {
        Ok(laid) => device::compile(&laid, like)?,
        Err(declined) => Err(declined),
    };
    Ok(made.map_err(|declined| vec![declined]))
}

/// A program whose constants lie where `like` does.
pub(crate) fn moved(mut program: Program, like: &TrackedTensor) -> Result<Program> {
    for constant in &mut program.constants {
        let Some(plain) = constant.plain() else { continue };
        let location = plain.device();
        // What candle holds may change behind our back: a copy of it would not.
        if location != like.location() && matches!(plain.buffer(), Buffer::Candle(..)) {
            return Err(mismatch(vec![location, like.location()]));
        }
        *constant = algebra::beside(constant.clone(), like)?;
    }
    Ok(program)
}

fn mismatch(devices: Vec<DeviceLocation>) -> Error {
    Error::DeviceMismatch { op: "compiled", devices, at: autograd_core::At::default() }
}

#[cfg(test)]
mod tests {
    use crate::{Graph, Passes, compile, jit, value_and_grad};
    use autograd_core::device::Declined;
    use autograd_core::testing::elsewhere;
    use autograd_core::{DType, Device, Error, Result, Tensor, TrackedTensor};
    use autograd_ops::{TensorAutograd, compare, norm};
    use autograd_tape::GradientTape;

    fn vector(len: usize, factor: f64) -> Result<TrackedTensor> {
        TrackedTensor::from_vec((0..len).map(|i| factor * (i as f64 - 2.5)).collect(), &[len])
    }

    fn close(a: &TrackedTensor, b: &TrackedTensor) -> Result<()> {
        for (a, b) in a.to_flat::<f64>()?.iter().zip(b.to_flat::<f64>()?) {
            assert!((a - b).abs() < 1e-12 * b.abs().max(1.0), "{a}, not {b}");
        }
        Ok(())
    }

    #[test]
    fn a_step_gives_on_a_device_what_it_gives_here() -> Result<()> {
        let shift = vector(6, 0.25)?;
        let loss = |x: &[TrackedTensor]| {
            let rows = x[0].mul(&x[1])?.tanh()?.add(&shift)?.affine(2.0, 0.5)?.reshape((2, 3))?;
            let ones = autograd_core::algebra::ones_like(&rows.narrow(0, 0, 1)?.flatten_all()?)?;
            norm::layer_norm(&rows, &ones, &ones, 1e-3)?.softmax(-1)?.log()?.sum()
        };
        let step = jit(value_and_grad(loss));
        let (x, w) = (vector(6, 0.5)?, vector(6, -0.75)?);
        let here = step.call(&[&x, &w])?;
        let (far_x, far_w) = (elsewhere(&x)?, elsewhere(&w)?);
        // Compiled here first, and there first.
        for step in [&step, &jit(value_and_grad(loss))] {
            for _ in 0..2 {
                let there = step.call(&[&far_x, &far_w])?;
                for (there, here) in there.iter().zip(&here) {
                    assert_eq!(there.location(), far_x.location());
                    close(there, here)?;
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_bias_is_fused_with_what_follows_its_product() -> Result<()> {
        let (x, w, b) =
            (vector(6, 0.5)?.reshape((2, 3))?, vector(12, 0.25)?.reshape((4, 3))?, vector(4, 1.0)?);
        let layer = |x: &[TrackedTensor]| Ok(vec![x[0].linear(&x[1], Some(&x[2]))?.tanh()?]);
        let graph = Graph::capture(layer, &[x.meta(), w.meta(), b.meta()])?;
        let passes = Passes { linear: false, ..Passes::ALL };
        let apart = super::biases_apart(graph)?.optimise(&passes)?;
        let names: Vec<_> = apart.program().instructions.iter().map(|step| step.op.name()).collect();
        assert_eq!(names.iter().filter(|name| ["matmul", "fused"].contains(name)).count(), 2, "{apart}");
        assert!(!names.contains(&"linear") && !names.contains(&"add"), "{apart}");
        let there = jit(layer).call(&[&elsewhere(&x)?, &elsewhere(&w)?, &elsewhere(&b)?])?;
        close(&there[0], &layer(&[x, w, b])?[0])
    }

    /// A graph of a backward pass that was captured on the CPU reads what its kernels keep.
    #[test]
    fn hints_of_the_cpu_are_an_error_elsewhere() -> Result<()> {
        let x = TrackedTensor::from_vec((0..6).map(f64::from).collect(), &[2, 3])?;
        let norm = |x: &[TrackedTensor]| norm::layer_norm_with(&x[0], 1, None, None, 1e-3)?.tanh()?.sum();
        let here = compile(value_and_grad(norm), &[x.meta()])?;
        let far = elsewhere(&x)?;
        let error = here.call(&[&far]).err();
        assert!(matches!(error, Some(Error::UnsupportedMode { mode: "device", .. })), "{error:?}");
        let there = compile(value_and_grad(norm), &[far.meta()])?;
        close(&there.call(&[&far])?[1], &here.call(&[&x])?[1])
    }

    #[test]
    fn gradients_go_through_a_graph_on_a_device() -> Result<()> {
        let x = vector(6, 0.5)?;
        let f = compile(|x| Ok(vec![x[0].tanh()?.mul(&x[0])?.affine(3.0, 1.0)?]), &[x.meta()])?;
        let gradient = |x: &TrackedTensor| -> Result<TrackedTensor> {
            let tape = GradientTape::new().persistent();
            let v = tape.variable(x);
            let dx = tape.gradient(&f.call(&[&v])?[0].sum()?, &[&v])?.remove(0);
            // Second order is by the ops of the graph as it was captured.
            Ok(tape.gradient(&dx.sum()?, &[&v])?.remove(0))
        };
        close(&gradient(&elsewhere(&x)?)?, &gradient(&x)?)
    }

    /// The gradient of a choice is an expression of nothing but its mask.
    #[test]
    fn what_is_made_of_masks_alone_has_its_type() -> Result<()> {
        let mask = TrackedTensor::from_vec(vec![1u8, 0, 0, 3, 1, 0], &[6])?;
        let chosen = |x: &[TrackedTensor]| compare::where_cond(&x[1], &x[0], 0)?.sum();
        let (x, step) = (vector(6, 0.5)?, jit(value_and_grad(chosen)));
        let (here, there) = (step.call(&[&x, &mask])?, step.call(&[&elsewhere(&x)?, &elsewhere(&mask)?])?);
        assert_eq!(there[1].dtype(), x.dtype());
        close(&there[1], &here[1])
    }

    #[test]
    fn a_graph_says_how_it_runs_on_a_device() -> Result<()> {
        let (x, sum) = (vector(6, 0.5)?, jit(|x: &[TrackedTensor]| Ok(vec![x[0].tanh()?.sum()?])));
        sum.call(&[&x])?;
        assert!(sum.explain(&[&x])?.devices.is_empty());
        let far = elsewhere(&x)?;
        sum.call(&[&far])?;
        let explained = sum.explain(&[&far])?;
        assert!(matches!(&explained.devices[..], [device] if device.declined == [Declined::Device]));
        assert!(
            explained.to_string().contains("op by op:\n      there are no kernels for it"),
            "{explained}"
        );
        Ok(())
    }

    #[test]
    fn two_devices_are_an_error_that_names_both() -> Result<()> {
        let x = vector(6, 0.5)?;
        let far = elsewhere(&x)?;
        let both = |error: Option<Error>| match error {
            Some(Error::DeviceMismatch { devices, .. }) => {
                assert!(devices.contains(&x.location()) && devices.contains(&far.location()));
            }
            other => panic!("not a mismatch: {other:?}"),
        };
        let sum = jit(|x: &[TrackedTensor]| Ok(vec![x[0].add(&x[1])?]));
        both(sum.call(&[&x, &far]).err());
        // A closed-over tensor of candle can change, so it is not copied.
        let held = TrackedTensor::from(Tensor::zeros(6, DType::F64, &Device::Cpu)?);
        let close_over = jit(|x: &[TrackedTensor]| Ok(vec![x[0].add(&held)?]));
        both(close_over.call(&[&far]).err());
        let mut outputs = [x.clone()];
        let error = compile(|x| Ok(vec![x[0].exp()?]), &[x.meta()])?.run_into(&[&far], &mut outputs).err();
        assert!(matches!(error, Some(Error::UnsupportedDevice { op: "run_into", .. })), "{error:?}");
        Ok(())
    }
}
