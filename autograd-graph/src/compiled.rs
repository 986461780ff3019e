//! A compiled graph: passes, plan and code; a differentiable op in eager code.

use crate::code::{Code, Engine};
use crate::elsewhere::{Elsewhere, device_of};
use crate::executor::Executor;
use crate::explain::{DeviceExplanation, Explanation};
use crate::graph::Graph;
use crate::passes::Passes;
use crate::plan::{Plan, SharedPlan};
use autograd_core::algebra::fill;
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Error, General, Grads, Mask, Meta, Prim, Primitive, Residual, Residuals, Result, Rule, Saved, Signature,
    Site, SliceMut, TrackedTensor, Values, View, apply_call, is_capturing,
};
use autograd_tape::GradientTape;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// How a graph is compiled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Which passes run.
    pub passes: Passes,
    /// How fused ops run.
    pub engine: Engine,
    /// The most bytes that the arena may take; values anywhere in the graph are computed again
    /// until it fits ([`Graph::recompute_within`]). It holds for the graph's compiled backward
    /// passes too.
    pub budget: Option<usize>,
}

/// A graph that runs at the machine's limit: optimised, planned, with machine code where asked.
///
/// It can be called from several threads at once, each in an arena of its own, and it is an op
/// like any other: gradients go through it, by a compiled graph of its backward pass.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_graph::compile;
/// use autograd_ops::TensorAutograd;
/// use autograd_tape::GradientTape;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![0.5f32, 2.], &[2])?;
///     let f = compile(|x| Ok(vec![x[0].tanh()?.mul(&x[0])?.sum()?]), &[x.meta()])?;
///     let tape = GradientTape::new();
///     let v = tape.variable(&x);
///     let y = &f.call(&[&v])?[0];
///     assert_eq!(tape.derivative(y, &v)?.dims(), [2]);
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Compiled(Arc<Inner>);

struct Inner {
    source: Graph,
    graph: Graph,
    options: Options,
    plan: SharedPlan,
    code: Arc<Code>,
    /// Executors that nobody uses at the moment.
    idle: Mutex<Vec<Executor>>,
    /// The compiled backward passes, by which inputs are wanted and which cotangents are given.
    backward: Mutex<HashMap<(Mask, Mask), Compiled>>,
    elsewhere: Elsewhere,
}

/// Executors beyond this many are freed when they are done.
const IDLE: usize = 8;

impl Graph {
    /// Optimises and plans the graph, and makes machine code for it.
    ///
    /// # Errors
    /// [`Error::Budget`] where [`Options::budget`] is too small, with a budget that is not;
    /// [`Error::UnsupportedMode`] for a closed-over value that a transform watches; a type without
    /// kernels.
    pub fn compile(&self, options: Options) -> Result<Compiled> {
        let mut graph = self.without_checkpoints().optimise(&options.passes)?;
        if let Some(budget) = options.budget {
            graph = graph.recompute_within(budget, options.passes.in_place)?.graph;
        }
        let plan = Arc::new(Plan::new(graph.program(), options.passes.in_place)?);
        let code = Arc::new(Code::new(&plan, options.engine));
        let inner = Inner {
            source: self.clone(),
            graph,
            options,
            plan,
            code,
            idle: Mutex::new(Vec::new()),
            backward: Mutex::new(HashMap::new()),
            elsewhere: Elsewhere::default(),
        };
        Ok(Compiled(Arc::new(inner)))
    }
}

impl Compiled {
    /// The graph as it was captured.
    pub fn source(&self) -> &Graph {
        &self.0.source
    }

    /// The graph after the passes, without checkpoints: what is differentiated is the
    /// [source](Self::source).
    pub fn graph(&self) -> &Graph {
        &self.0.graph
    }

    /// How it was compiled.
    pub fn options(&self) -> Options {
        self.0.options
    }

    /// Bytes that a run needs beside inputs, closed-over values and outputs: the arena's size.
    pub fn planned_bytes(&self) -> usize {
        self.0.plan.bytes
    }

    /// What was fused, what is planned, what a run is predicted to cost, and how it runs on the
    /// devices where it has run.
    pub fn explain(&self) -> Explanation {
        let of = |(location, declined)| DeviceExplanation { location, declined };
        let devices = self.0.elsewhere.places().into_iter().map(of).collect();
        Explanation::new(&self.0.plan, &self.0.code, self.0.source.program().instructions.len(), devices)
    }

    /// An executor with an arena of its own, to be run without locks.
    pub fn executor(&self) -> Executor {
        let constants = self.0.graph.program().constants.clone();
        Executor::new(self.0.plan.clone(), self.0.code.clone(), constants)
    }

    /// Runs the graph as an op: whatever watches the inputs sees one op, whose rules are compiled
    /// graphs too.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the inputs are not those of the graph; what an op reports
    /// about the numbers that it is given.
    #[track_caller]
    pub fn call(&self, inputs: &[&TrackedTensor]) -> Result<Vec<TrackedTensor>> {
        let site = Site::caller();
        if is_capturing() && inputs.iter().all(|x| x.plain().is_some()) {
            // What it closes over is closed over by the function that is being captured.
            return self.source().run(inputs).map_err(|e| e.or_at(site));
        }
        if inputs.iter().all(|x| x.plain().is_some()) {
            if let Some(like) = device_of(inputs) {
                return self.run_beside(inputs, like).map_err(|e| e.or_at(site));
            }
            return self.with_executor(|executor| executor.run(inputs)).map_err(|e| e.or_at(site));
        }
        let applied = apply_call(&Call(self.clone()), inputs, false, site)?;
        Ok(applied.outputs.into_iter().collect())
    }

    /// Runs the graph where `like` is, which is not the CPU.
    fn run_beside(&self, inputs: &[&TrackedTensor], like: &TrackedTensor) -> Result<Vec<TrackedTensor>> {
        self.0.elsewhere.run(&self.0.source, Some(&self.0.options.passes), inputs, like)
    }

    /// Runs the graph on plain values and writes its outputs over `outputs`.
    ///
    /// # Errors
    /// As [`Executor::run_into`]; [`Error::UnsupportedDevice`] for inputs that are not on the CPU.
    #[track_caller]
    pub fn run_into(&self, inputs: &[&TrackedTensor], outputs: &mut [TrackedTensor]) -> Result<()> {
        let site = Site::caller();
        if let Some(like) = device_of(inputs) {
            let device = like.location();
            return Err(Error::UnsupportedDevice { op: "run_into", device, at: site.into() });
        }
        self.with_executor(|executor| executor.run_into(inputs, outputs)).map_err(|e| e.or_at(site))
    }

    fn with_executor<R>(&self, f: impl FnOnce(&mut Executor) -> Result<R>) -> Result<R> {
        let idle = self.0.idle.lock().pop();
        let mut executor = idle.unwrap_or_else(|| self.executor());
        let result = f(&mut executor);
        let mut idle = self.0.idle.lock();
        if idle.len() < IDLE {
            idle.push(executor);
        }
        result
    }

    /// The compiled backward pass: from inputs and the given cotangents to the wanted gradients.
    fn backward(&self, wanted: Mask, given: Mask) -> Result<Self> {
        if let Some(known) = self.0.backward.lock().get(&(wanted, given)) {
            return Ok(known.clone());
        }
        let source = &self.0.source;
        let n = source.inputs().len();
        let mut metas: Vec<Meta> = source.inputs().to_vec();
        let outputs = source.outputs();
        metas.extend(given.iter().map(|j| outputs[j]));
        let graph = Graph::capture_with(
            |x| {
                let tape = GradientTape::new();
                let mut inputs: Vec<TrackedTensor> = x[..n].to_vec();
                for i in wanted.iter() {
                    inputs[i] = tape.try_variable(&x[i])?;
                }
                let refs: Vec<&TrackedTensor> = inputs.iter().collect();
                let made = source.run(&refs)?;
                let (mut targets, mut seeds) = (Vec::new(), Vec::new());
                for (slot, j) in given.iter().enumerate() {
                    if tape.watches(&made[j]) {
                        targets.push(&made[j]);
                        seeds.push(&x[n + slot]);
                    }
                }
                let sources: Vec<&TrackedTensor> = wanted.iter().map(|i| &inputs[i]).collect();
                if targets.is_empty() {
                    return sources.iter().map(|x| fill(0.0, &x.meta(), x)).collect();
                }
                tape.gradient_with(&targets, &seeds, &sources)
            },
            &metas,
            source.hints,
        )?;
        let made = graph.compile(self.0.options)?;
        Ok(self.0.backward.lock().entry((wanted, given)).or_insert(made).clone())
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address tells two graphs apart: this text is the key of the op.
        write!(f, "Compiled({:p}, {} steps)", Arc::as_ptr(&self.0), self.0.plan.steps.len())
    }
}

/// A compiled graph as an op.
#[derive(Clone, Debug)]
struct Call(Compiled);

impl Primitive for Call {
    fn name(&self) -> &'static str {
        "compiled"
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(self.clone()))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let want = self.0.source().inputs();
        let fits = inputs.len() == want.len()
            && inputs.iter().zip(want).all(|(x, y)| x.shape == y.shape && x.dtype == y.dtype);
        if !fits {
            let shapes: Vec<_> = inputs.iter().map(|x| x.shape).collect();
            let wanted: Vec<String> = want.iter().map(|m| format!("{} {:?}", m.shape, m.dtype)).collect();
            return Err(Error::shape(
                "compiled",
                &shapes,
                format!("it was compiled for {}", wanted.join(", ")),
            ));
        }
        Ok(Signature { outputs: self.0.source().outputs().into_iter().collect(), aux: SmallVec::new() })
    }

    fn operations(&self, _: &[Meta]) -> u64 {
        self.0.0.plan.steps.iter().map(|step| step.operations).sum()
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        self.0.with_executor(|executor| executor.run_views(inputs, outputs))
    }

    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }

    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let made = match device_of(inputs) {
            Some(like) if inputs.iter().all(|x| x.plain().is_some()) => self.0.run_beside(inputs, like)?,
            Some(like) => self.0.0.elsewhere.run(self.0.source(), None, inputs, like)?,
            None => self.0.source().run(inputs)?,
        };
        Ok(Some(made.into_iter().collect()))
    }
}

impl General for Call {
    fn residuals(&self, _: Mask) -> Residuals {
        (0..self.0.source().inputs().len()).map(Residual::Input).collect()
    }

    fn vjp(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let mut grads: Grads = std::iter::repeat_n(None, saved.inputs.len()).collect();
        let wanted: Mask =
            wanted.iter().filter(|&i| autograd_core::is_float(saved.inputs[i].dtype)).collect();
        let given = Mask::of(cts.len(), |j| cts[j].is_some());
        if wanted.is_empty() || given.is_empty() {
            return Ok(grads);
        }
        let backward = self.0.backward(wanted, given)?;
        let mut inputs: Vec<&TrackedTensor> = Vec::new();
        for i in 0..saved.inputs.len() {
            inputs.push(saved.input(i)?);
        }
        inputs.extend(cts.iter().flatten());
        for (i, grad) in wanted.iter().zip(backward.call(&inputs)?) {
            grads[i] = Some(grad);
        }
        Ok(grads)
    }
}
