//! Existing candle code as one op of a tape.

use crate::function::CandleFunction;
use autograd_core::kernels::{SliceMut, View};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Error, Grads, Mask, Meta, Opaque, Prim, Primitive, Result, Rule, Signature, Site, TrackedTensor, Values,
    apply, apply_one, is_float, on_behalf_of,
};
use autograd_tape::GradientTape;
use candle_core::{Tensor, TensorId, Var};
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Candle models on a tape, without rewriting them.
pub trait CandleOps {
    /// Runs a function on candle tensors (a candle-nn or candle-transformers model) and records it
    /// as one op. Its gradients are candle's own, seeded by the cotangent that arrives: those of
    /// the inputs, and those of every `Var` in the function that is a variable of this tape (see
    /// [`Parameters::watch`](crate::Parameters::watch)). The graph that candle builds is kept until
    /// the backward pass.
    ///
    /// First order only: a derivative of these gradients is [`Error::UnsupportedMode`], and so are
    /// forward mode and batches. Candle's gradients are wrong for some ops, and missing for others
    /// (its fused layer norm, rms norm and softmax): [`diagnose`](crate::diagnose) finds them.
    ///
    /// ```
    /// use autograd_core::Result;
    /// use autograd_nn::{CandleOps, Parameters};
    /// use autograd_ops::TensorAutograd;
    /// use autograd_tape::GradientTape;
    /// use candle_core::{DType, Device, Module, Tensor};
    /// use candle_nn::{VarBuilder, VarMap, linear};
    ///
    /// fn main() -> Result<()> {
    ///     let map = VarMap::new();
    ///     let layer = linear(3, 2, VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu))?;
    ///     let parameters = Parameters::from_varmap(&map);
    ///     let tape = GradientTape::new();
    ///     let watched = parameters.watch(&tape)?;
    ///     let x = tape.variable(Tensor::ones((4, 3), DType::F32, &Device::Cpu)?);
    ///     let y = tape.candle(|x: &Tensor| layer.forward(x), &[&x])?;
    ///     let grads = watched.gradients(&tape, &y.sum()?)?;
    ///     assert_eq!(grads.get(parameters.var("bias")?).unwrap().to_vec1::<f32>()?, [4., 4.]);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// The function's own; [`Error::InvalidArgument`] where it has another number of arguments, or
    /// where a watched input has no gradient in candle.
    #[track_caller]
    fn candle<A, F: CandleFunction<A>>(&self, f: F, inputs: &[&TrackedTensor]) -> Result<TrackedTensor>;

    /// As [`candle`](Self::candle), under a name of its own in errors and dumps.
    ///
    /// # Errors
    /// As [`candle`](Self::candle).
    #[track_caller]
    fn candle_named<A, F: CandleFunction<A>>(
        &self,
        name: &'static str,
        f: F,
        inputs: &[&TrackedTensor],
    ) -> Result<TrackedTensor>;

    /// As [`candle`](Self::candle), with candle's graph dropped at once: the backward pass runs the
    /// function again. A model checkpointed so, layer by layer, keeps the layers' inputs, and the
    /// graph of one layer at a time. The function must give the same result twice.
    ///
    /// # Errors
    /// As [`candle`](Self::candle).
    #[track_caller]
    fn candle_checkpointed<A, F: CandleFunction<A> + Send + Sync + 'static>(
        &self,
        name: &'static str,
        f: F,
        inputs: &[&TrackedTensor],
    ) -> Result<TrackedTensor>;
}

impl CandleOps for GradientTape {
    fn candle<A, F: CandleFunction<A>>(&self, f: F, inputs: &[&TrackedTensor]) -> Result<TrackedTensor> {
        self.candle_named("candle", f, inputs)
    }

    fn candle_named<A, F: CandleFunction<A>>(
        &self,
        name: &'static str,
        f: F,
        inputs: &[&TrackedTensor],
    ) -> Result<TrackedTensor> {
        kept(name, &f, inputs, Some(self), Site::caller())
    }

    fn candle_checkpointed<A, F: CandleFunction<A> + Send + Sync + 'static>(
        &self,
        name: &'static str,
        f: F,
        inputs: &[&TrackedTensor],
    ) -> Result<TrackedTensor> {
        again(name, f, inputs, Some(self), Site::caller())
    }
}

/// [`CandleOps::candle`] where no tape is at hand, inside of a function that is handed to a
/// transform or an attribution. Every `Var` of the function is a constant.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_nn::candle;
/// use autograd_ops::TensorAutograd;
/// use autograd_tape::GradientTape;
/// use candle_core::Tensor;
///
/// fn main() -> Result<()> {
///     let f = |x: &TrackedTensor| candle(|x: &Tensor| x.sqr(), &[x])?.sum();
///     let tape = GradientTape::new();
///     let x = tape.variable(TrackedTensor::from_vec(vec![1f64, 2.], &[2])?);
///     assert_eq!(tape.derivative(&f(&x)?, &x)?.to_vec1::<f64>()?, [2., 4.]);
///     Ok(())
/// }
/// ```
///
/// # Errors
/// As [`CandleOps::candle`].
#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "closures are written at the call")]
pub fn candle<A, F: CandleFunction<A>>(f: F, inputs: &[&TrackedTensor]) -> Result<TrackedTensor> {
    kept("candle", &f, inputs, None, Site::caller())
}

/// [`CandleOps::candle_checkpointed`] where no tape is at hand, as [`candle`].
///
/// # Errors
/// As [`CandleOps::candle`].
#[track_caller]
pub fn candle_checkpointed<A, F: CandleFunction<A> + Send + Sync + 'static>(
    name: &'static str,
    f: F,
    inputs: &[&TrackedTensor],
) -> Result<TrackedTensor> {
    again(name, f, inputs, None, Site::caller())
}

/// Runs a function and records the run with candle's graph.
fn kept<A, F: CandleFunction<A>>(
    name: &'static str,
    f: &F,
    inputs: &[&TrackedTensor],
    tape: Option<&GradientTape>,
    site: Site,
) -> Result<TrackedTensor> {
    let run = check_arity(name, F::ARITY, inputs.len())
        .and_then(|()| Run::of(name, |inputs| f.run(inputs), inputs, watched(inputs)));
    let record = |run: Run| {
        let vars = run.variables(tape)?;
        let (output, watched) = (run.output.detach(), run.watched());
        let source = Source::Graph { output: run.output, leaves: run.leaves };
        record(Recipe { name, source, output, watched, vars, inputs })
    };
    on_behalf_of(site, || run.and_then(record)).map_err(|error| error.or_at(site))
}

/// Runs a function and records the run with the function.
fn again<A, F: CandleFunction<A> + Send + Sync + 'static>(
    name: &'static str,
    f: F,
    inputs: &[&TrackedTensor],
    tape: Option<&GradientTape>,
    site: Site,
) -> Result<TrackedTensor> {
    let f: Arc<Function> = Arc::new(move |inputs: &[Tensor]| f.run(inputs));
    let run = check_arity(name, F::ARITY, inputs.len())
        .and_then(|()| Run::of(name, |inputs| f(inputs), inputs, watched(inputs)));
    let record = |run: Run| {
        let (vars, watched, output) = (run.variables(tape)?, run.watched(), run.output.detach());
        // What is kept is the function: candle's graph goes here.
        drop(run);
        record(Recipe { name, source: Source::Again(f.clone()), output, watched, vars, inputs })
    };
    on_behalf_of(site, || run.and_then(record)).map_err(|error| error.or_at(site))
}

type Function = dyn Fn(&[Tensor]) -> Result<Tensor> + Send + Sync;

fn check_arity(name: &'static str, arity: Option<usize>, given: usize) -> Result<()> {
    match arity {
        Some(arity) if arity != given => {
            let reason = format!("{given} inputs given to a function of {arity} arguments");
            Err(Error::argument(name, reason))
        }
        _ if given == 0 || given > MAX_INPUTS => {
            Err(Error::argument(name, format!("{given} inputs given; 1 to {MAX_INPUTS} are possible")))
        }
        _ => Ok(()),
    }
}

/// The most inputs of a function.
const MAX_INPUTS: usize = 16;

/// The most variables at one node: a node has fewer than 64 inputs in all.
const VARS_AT_ONCE: usize = 40;

/// The inputs that candle must differentiate.
fn watched(inputs: &[&TrackedTensor]) -> Mask {
    Mask::of(inputs.len(), |i| inputs[i].is_tracked() && is_float(inputs[i].dtype()))
}

/// One run of a function, with the graph that candle built meanwhile.
struct Run {
    output: Tensor,
    /// For each watched input, candle's variable that stood for it.
    leaves: Vec<Option<Var>>,
}

impl Run {
    fn of(
        name: &'static str,
        f: impl Fn(&[Tensor]) -> Result<Tensor>,
        inputs: &[&TrackedTensor],
        watched: Mask,
    ) -> Result<Self> {
        let (mut tensors, mut leaves) = (Vec::new(), Vec::new());
        for (i, input) in inputs.iter().enumerate() {
            if let Some(error) = input.failure() {
                return Err(error.clone());
            }
            let tensor = input.tensor()?.detach();
            let leaf = watched.has(i).then(|| Var::from_tensor(&tensor)).transpose()?;
            tensors.push(leaf.as_ref().map_or(tensor, |leaf| leaf.as_tensor().clone()));
            leaves.push(leaf);
        }
        let output = f(&tensors)?;
        let reached = variables_of(&output);
        for (i, leaf) in leaves.iter().enumerate() {
            if leaf.as_ref().is_some_and(|leaf| !reached.iter().any(|node| node.id() == leaf.id())) {
                let reason = format!(
                    "candle has no gradient from the result back to input {i}: every path passes an op without one (a fused layer_norm, rms_norm, softmax_last_dim, rope or sdpa, a cast to integers, detach); `diagnose` names the layer. Where the function does not depend on the input, detach() it"
                );
                return Err(Error::argument(name, reason));
            }
        }
        Ok(Self { output, leaves })
    }

    fn watched(&self) -> Mask {
        Mask::of(self.leaves.len(), |i| self.leaves[i].is_some())
    }

    /// The variables of the tape that candle's graph reaches: the tensors and their values.
    fn variables(&self, tape: Option<&GradientTape>) -> Result<Vec<(Tensor, TrackedTensor)>> {
        let Some(tape) = tape else { return Ok(Vec::new()) };
        let ours: HashSet<TensorId> = self.leaves.iter().flatten().map(|leaf| leaf.id()).collect();
        let mut found = Vec::new();
        for var in variables_of(&self.output).into_iter().filter(|var| !ours.contains(&var.id())) {
            if let Some(value) = tape.variable_of(&var)? {
                found.push((var, value));
            }
        }
        Ok(found)
    }
}

/// The leaf variables of the graph behind a tensor, each once.
fn variables_of(output: &Tensor) -> Vec<Tensor> {
    let nodes = output.sorted_nodes();
    nodes.into_iter().filter(|node| node.is_variable()).cloned().collect()
}

/// What it takes to record a run.
struct Recipe<'a> {
    name: &'static str,
    source: Source,
    output: Tensor,
    watched: Mask,
    vars: Vec<(Tensor, TrackedTensor)>,
    inputs: &'a [&'a TrackedTensor],
}

/// Records a run: one node, and another for every further forty variables, through which the
/// result passes as it is.
fn record(recipe: Recipe<'_>) -> Result<TrackedTensor> {
    let Recipe { name, source, output, watched, vars, inputs } = recipe;
    let (vars, values): (Vec<Tensor>, Vec<TrackedTensor>) = vars.into_iter().unzip();
    let parts = Parts {
        name,
        source,
        made: Mutex::new(Some(output)),
        vars,
        inputs: inputs.len(),
        watched,
        pulled: Mutex::default(),
    };
    let parts = Arc::new(parts);
    let groups: Vec<&[TrackedTensor]> =
        if values.is_empty() { vec![&[]] } else { values.chunks(VARS_AT_ONCE).collect() };
    let mut y: Option<TrackedTensor> = None;
    for (group, values) in groups.into_iter().enumerate() {
        let made = {
            let all: SmallVec<[&TrackedTensor; 8]> =
                inputs.iter().copied().chain(values).chain(y.as_ref()).collect();
            apply_one(&CandleOp { parts: parts.clone(), group }, &all)?
        };
        y = Some(made);
    }
    y.ok_or_else(|| Error::internal(name, "nothing was recorded"))
}

/// Where the backward pass finds candle's graph.
enum Source {
    /// It was kept.
    Graph { output: Tensor, leaves: Vec<Option<Var>> },
    /// The function builds it again.
    Again(Arc<Function>),
}

/// What the nodes of one run share.
struct Parts {
    name: &'static str,
    source: Source,
    /// The result of the run that was recorded, until it is asked for.
    made: Mutex<Option<Tensor>>,
    /// Variables of the tape in the function.
    vars: Vec<Tensor>,
    /// The number of the function's own inputs.
    inputs: usize,
    /// Which of them candle differentiates.
    watched: Mask,
    /// The last backward pass: a run of several nodes needs it once for each.
    pulled: Mutex<Option<Pulled>>,
}

/// A backward pass of candle's: the cotangent, and the gradients of inputs and variables.
#[derive(Clone)]
struct Pulled {
    ct: Tensor,
    inputs: Vec<Option<Tensor>>,
    vars: Vec<Option<Tensor>>,
}

impl Parts {
    fn output(&self, inputs: &[&TrackedTensor]) -> Result<Tensor> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(made) = made {
            return Ok(made);
        }
        match &self.source {
            Source::Graph { output, .. } => Ok(output.detach()),
            Source::Again(f) => {
                let tensors: Vec<Tensor> =
                    inputs[..self.inputs].iter().map(|x| x.tensor()).collect::<Result<_>>()?;
                Ok(f(&tensors)?.detach())
            }
        }
    }

    /// Candle's backward pass of Σ y · ct.
    fn pull(&self, ct: &TrackedTensor, inputs: &[&TrackedTensor]) -> Result<Pulled> {
        let ct = ct.tensor()?.detach();
        let known = self.pulled.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known
            && same(&known.ct, &ct)?
        {
            return Ok(known);
        }
        let again;
        let (output, leaves) = match &self.source {
            Source::Graph { output, leaves } => (output, leaves),
            Source::Again(f) => {
                again = Run::of(self.name, |inputs| f(inputs), &inputs[..self.inputs], self.watched)?;
                (&again.output, &again.leaves)
            }
        };
        if ct.dims() != output.dims() {
            let reason = format!("a second run gave shape {:?}, the first {:?}", output.dims(), ct.dims());
            return Err(Error::argument(self.name, reason));
        }
        let store = (output * &ct)?.sum_all()?.backward()?;
        let find = |tensor: &Tensor| store.get_id(tensor.id()).cloned();
        let inputs = leaves.iter().map(|leaf| leaf.as_ref().and_then(|leaf| find(leaf))).collect();
        let vars: Vec<_> = self.vars.iter().map(find).collect();
        let pulled = Pulled { ct, inputs, vars };
        if self.vars.len() > VARS_AT_ONCE {
            *self.pulled.lock().unwrap_or_else(PoisonError::into_inner) = Some(pulled.clone());
        }
        Ok(pulled)
    }
}

/// Whether two cotangents are the same numbers.
fn same(a: &Tensor, b: &Tensor) -> Result<bool> {
    if a.dims() != b.dims() || a.dtype() != b.dtype() {
        return Ok(false);
    }
    let differ = a.ne(b)?.to_dtype(candle_core::DType::F32)?.sum_all()?.to_vec0::<f32>()?;
    Ok(differ == 0.0)
}

/// A run of candle code as an op of the function's inputs and a group of variables; but for the
/// first group, the last input is the result, which passes.
#[derive(Clone)]
struct CandleOp {
    parts: Arc<Parts>,
    group: usize,
}

/// Its backward pass, as an op of the cotangent and the inputs: first order only.
#[derive(Clone)]
struct CandleBackward {
    op: CandleOp,
    wanted: Mask,
}

impl fmt::Debug for CandleOp {
    // The address tells two runs apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CandleOp({}, {:p}, {})", self.parts.name, Arc::as_ptr(&self.parts), self.group)
    }
}

impl fmt::Debug for CandleBackward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CandleBackward({:?}, {:?})", self.op, self.wanted)
    }
}

macro_rules! opaque {
    () => {
        fn keep(&self) -> Prim {
            Prim::Shared(Arc::new(self.clone()))
        }
        fn infer(&self, _: &[Meta]) -> Result<Signature> {
            Err(no_shape(self.name()))
        }
        fn eval_into(&self, _: &[View<'_>], _: &mut [SliceMut<'_>]) -> Result<()> {
            Err(no_shape(self.name()))
        }
        fn rule(&self) -> Rule<'_> {
            Rule::Opaque(self)
        }
    };
}

fn no_shape(name: &'static str) -> Error {
    Error::mode(name, "static shape", "the shape of candle code is known only when it runs")
}

impl Primitive for CandleOp {
    fn name(&self) -> &'static str {
        self.parts.name
    }
    opaque!();
}

impl Primitive for CandleBackward {
    fn name(&self) -> &'static str {
        self.op.parts.name
    }
    opaque!();
}

impl CandleOp {
    /// The wanted inputs that this node has a gradient for: the function's own belong to the
    /// first node.
    fn answered(&self, wanted: Mask) -> Mask {
        let first = if self.group == 0 { 0 } else { self.parts.inputs };
        wanted.iter().filter(|&i| i >= first).collect()
    }
}

impl Opaque for CandleOp {
    fn forward(&self, inputs: &[&TrackedTensor]) -> Result<Values> {
        if let (1.., Some(y)) = (self.group, inputs.last()) {
            return Ok(smallvec![(*y).clone()]);
        }
        Ok(smallvec![TrackedTensor::from_candle(&self.parts.output(inputs)?)?])
    }

    fn backward(&self, wanted: Mask, ct: &TrackedTensor, inputs: &[&TrackedTensor]) -> Result<Grads> {
        let mut all: SmallVec<[&TrackedTensor; 8]> = smallvec![ct];
        all.extend_from_slice(inputs);
        let wanted = self.answered(wanted);
        let made = apply(&CandleBackward { op: self.clone(), wanted }, &all)?;
        let mut grads: Grads = smallvec![None; inputs.len()];
        for (i, grad) in wanted.iter().zip(made) {
            grads[i] = Some(grad);
        }
        Ok(grads)
    }
}

impl Opaque for CandleBackward {
    fn forward(&self, inputs: &[&TrackedTensor]) -> Result<Values> {
        let (ct, inputs) = (inputs[0], &inputs[1..]);
        let CandleOp { parts, group } = &self.op;
        let pulled = parts.pull(ct, inputs)?;
        if *group == 0 {
            // The sweep comes by the first node last.
            *parts.pulled.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        let grad = |i: usize| {
            if *group > 0 && i + 1 == inputs.len() {
                return Ok(ct.clone());
            }
            let found = match i.checked_sub(parts.inputs) {
                None => &pulled.inputs[i],
                Some(var) => &pulled.vars[group * VARS_AT_ONCE + var],
            };
            let missing = || Error::argument(parts.name, format!("candle gave no gradient for input {i}"));
            TrackedTensor::from_candle(found.as_ref().ok_or_else(missing)?)
        };
        self.wanted.iter().map(grad).collect()
    }

    fn backward(&self, _: Mask, _: &TrackedTensor, _: &[&TrackedTensor]) -> Result<Grads> {
        let reason = "candle's gradients cannot be differentiated; port the code to values (docs/porting.md), \
                      which can be, to any order";
        Err(Error::mode(self.name(), "second order", reason))
    }
}
