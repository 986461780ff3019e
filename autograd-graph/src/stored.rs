//! Graphs as data: what `serde` stores and loads. Storing and loading of each kind of op stand side by
//! side here, which makes the file long.
//!
//! A pointwise op is stored as its expression. Other ops are stored by a tag and parameters, from
//! which their crate makes them again; an op that cannot be made again is an error that names it.
//! A function's own numbers are stored with it; what it closes over is not: these parameters are
//! bound when a graph is loaded. A checkpointed region is stored with what its policy keeps, which
//! the policy is asked of every op of the graph; the policy itself is code.

mod expression;
mod rows;

use crate::blocked::Blocked;
use crate::check::misplaced;
use crate::epilogue::WithEpilogue;
use crate::fused::{Fused, FusedOutput};
use crate::graph::{Constant, Graph};
use crate::plan::{as_epilogue, as_fused};
use crate::regions::{fate, options_of};
use autograd_core::algebra::fill;
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    DType, DeviceLocation, Error, Instruction, Layout, Meta, Operand, Parameter, Prim, Program,
    ReducedPointwise, Result, Section, Shape, Site, TrackedTensor, algebra, interned, is_float, known,
    sound_shape,
};
use autograd_tape::{Fate, RegionOptions};
use expression::{StoredExpression, loaded_expression, stored_expression};
use rows::{StoredRows, loaded_rows, stored_rows};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

/// A graph as data, for any format that serde knows.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_graph::{Graph, StoredGraph};
/// use autograd_ops::TensorAutograd;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1f32, 2.], &[2])?;
///     let w = TrackedTensor::from_vec(vec![3f32, 4.], &[2])?;
///     let graph = Graph::capture(|x| Ok(vec![x[0].mul(&w)?.sum()?]), &[x.meta()])?;
///     let text = serde_json::to_string(&graph.to_stored()?).expect("it is plain data");
///     let stored: StoredGraph = serde_json::from_str(&text).expect("it was just written");
///     let again = stored.load(&[w])?; // the parameters, in their order
///     assert_eq!(again.run(&[&x])?[0].to_scalar::<f32>()?, 11.);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredGraph {
    version: u32,
    inputs: Vec<StoredMeta>,
    constants: Vec<StoredConstant>,
    instructions: Vec<StoredInstruction>,
    outputs: Vec<StoredOperand>,
    /// The checkpointed regions: for each the one around it, which comes before it.
    regions: Vec<Option<usize>>,
    /// Whether differentiation may use what the CPU's kernels give beside their results.
    hints: bool,
}

/// The version of the format.
const VERSION: u32 = 2;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StoredMeta {
    shape: Vec<usize>,
    dtype: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum StoredConstant {
    Parameter(StoredMeta),
    /// A number by its bits, which text formats keep exactly.
    Literal(u64, StoredMeta),
    /// The function's own numbers: floats by their bits in f64, whole ones as they are.
    Known(Vec<u64>, StoredMeta),
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum StoredOperand {
    Input(usize),
    Constant(usize),
    Result(usize, usize),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StoredInstruction {
    work: StoredWork,
    operands: Vec<StoredOperand>,
    /// Whether the op's auxiliary outputs are made.
    aux: bool,
    /// The innermost region that it is in.
    region: Option<usize>,
    /// Whether the region's policy keeps what it makes.
    keep: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum StoredWork {
    Op(StoredOp),
    /// Ops on a few rows at a time.
    Rows(StoredRows),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum StoredOp {
    Pointwise(StoredExpression),
    Reduced {
        expression: StoredExpression,
        shape: Vec<usize>,
        targets: Vec<Vec<usize>>,
    },
    Fused(StoredFused),
    Named(StoredNamed),
    /// An op of the first operands, and the fused op of which its output is one input.
    Epilogue {
        op: StoredNamed,
        reads: usize,
        fused: StoredFused,
        input: usize,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StoredFused {
    expression: StoredExpression,
    shape: Vec<usize>,
    dtype: String,
    outputs: Vec<StoredOutput>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StoredNamed {
    tag: String,
    parameters: Vec<StoredParameter>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct StoredOutput {
    kept: Vec<usize>,
    shape: Vec<usize>,
    scale: u64,
    mask: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum StoredParameter {
    Whole(u64),
    Flag(bool),
    /// A number by its bits.
    Number(u64),
    Text(String),
    Shape(Vec<usize>),
    Type(String),
}

impl Graph {
    /// The graph as data, with its checkpointed regions. What a policy keeps in memory is kept by the
    /// loaded graph; what it moves out of memory is computed again, because a store is of one process.
    ///
    /// # Errors
    /// [`Error::UnsupportedMode`] that names the op which cannot be made again from data.
    pub fn to_stored(&self) -> Result<StoredGraph> {
        let program = self.program();
        if program.sections.iter().any(|section| options_of(section).is_none()) {
            let reason = "a section of the program is no checkpointed region";
            return Err(Error::mode("graph", "storage", reason));
        }
        let constants = (0..program.constants.len()).map(|i| {
            let meta = stored_meta(&program.constants[i].meta());
            Ok(match self.constant(i) {
                Constant::Parameter => StoredConstant::Parameter(meta),
                Constant::Known => StoredConstant::Known(stored_numbers(&program.constants[i])?, meta),
                Constant::Literal(number) => StoredConstant::Literal(number.to_bits(), meta),
            })
        });
        let instructions = program.instructions.iter().map(|instruction| {
            Ok(StoredInstruction {
                work: stored_work(&instruction.op).map_err(|e| e.or_at(instruction.site))?,
                operands: instruction.operands.iter().map(|o| stored_operand(*o)).collect(),
                aux: instruction.aux > 0,
                region: instruction.section,
                keep: fate(program, instruction) == Fate::Keep,
            })
        });
        Ok(StoredGraph {
            version: VERSION,
            inputs: program.inputs.iter().map(stored_meta).collect(),
            constants: constants.collect::<Result<_>>()?,
            instructions: instructions.collect::<Result<_>>()?,
            outputs: program.outputs.iter().map(|o| stored_operand(*o)).collect(),
            regions: program.sections.iter().map(|section| section.outer).collect(),
            hints: self.hints,
        })
    }
}

impl StoredGraph {
    /// The graph, its parameters bound to these values in their order.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the data is not that of a graph, of another version, or the
    /// values are not those that it closes over; what an op says of operands that do not fit.
    #[track_caller]
    pub fn load(&self, parameters: &[TrackedTensor]) -> Result<Graph> {
        let site = Site::caller();
        let program = self.program(parameters, site).and_then(|p| Graph::with_hints(p, self.hints));
        program.map_err(|e| e.or_at(site))
    }

    fn program(&self, parameters: &[TrackedTensor], site: Site) -> Result<Program> {
        if self.version != VERSION {
            return Err(broken(format!("version {} is not {VERSION}", self.version)));
        }
        let mut program = Program {
            inputs: self.inputs.iter().map(loaded_meta).collect::<Result<_>>()?,
            ..Program::default()
        };
        let mut given = parameters.iter();
        for constant in &self.constants {
            program.constants.push(match constant {
                StoredConstant::Literal(bits, meta) => {
                    fill(f64::from_bits(*bits), &loaded_meta(meta)?, &TrackedTensor::scalar(0.0))?
                }
                StoredConstant::Known(numbers, meta) => loaded_numbers(numbers, &loaded_meta(meta)?)?,
                StoredConstant::Parameter(meta) => {
                    let want = loaded_meta(meta)?;
                    let fits = |x: &&TrackedTensor| *x.shape() == want.shape && x.dtype() == want.dtype;
                    let value = given.next().filter(fits);
                    value.cloned().ok_or_else(|| {
                        broken(format!("a parameter {} {:?} is missing", want.shape, want.dtype))
                    })?
                }
            });
        }
        if given.next().is_some() {
            return Err(broken("more parameters given than it closes over".to_owned()));
        }
        let mut kept: Vec<Kept> = vec![Kept::new(); self.regions.len()];
        for (i, stored) in self.instructions.iter().enumerate() {
            let mut made = loaded_instruction(&program, &stored.operands, stored.aux, site, |metas| {
                match &stored.work {
                    StoredWork::Op(op) => loaded_op(op, metas),
                    StoredWork::Rows(rows) => loaded_rows(rows, metas, site),
                }
            })?;
            if stored.keep && stored.region.is_none() {
                return Err(broken(format!("instruction {i} is kept by no region")));
            }
            if let Some(region) = stored.region {
                let kept =
                    kept.get_mut(region).ok_or_else(|| broken(format!("there is no region {region}")))?;
                if stored.keep {
                    let outputs = &made.outputs[..made.outputs.len() - made.aux];
                    kept.entry(made.op.key()).or_default().push(outputs.to_vec());
                }
            }
            made.section = stored.region;
            program.instructions.push(made);
        }
        if let Some(reason) = misplaced(self.regions.iter().copied()) {
            return Err(broken(reason));
        }
        for (outer, kept) in self.regions.iter().zip(kept) {
            program.sections.push(Section { outer: *outer, what: Arc::new(keeping(kept)) });
        }
        program.outputs = self.outputs.iter().map(|o| loaded_operand(*o)).collect();
        Ok(program)
    }
}

/// What a region keeps: ops by their keys, with what they make.
type Kept = HashMap<String, Vec<Vec<Meta>>>;

/// A region that keeps these and computes the rest again.
fn keeping(kept: Kept) -> RegionOptions {
    let options = RegionOptions::new();
    if kept.is_empty() {
        return options;
    }
    let alike = |a: &Meta, b: &Meta| a.shape == b.shape && a.dtype == b.dtype;
    options.select(move |op, outputs| {
        let same = |known: &Vec<Meta>| {
            known.len() == outputs.len() && known.iter().zip(outputs).all(|(a, b)| alike(a, b))
        };
        match kept.get(&op.key()) {
            Some(known) if known.iter().any(same) => Fate::Keep,
            Some(_) | None => Fate::Recompute,
        }
    })
}

fn broken(reason: String) -> Error {
    Error::argument("load", reason)
}

/// The next instruction of a program: its operands come before it, and it makes what its op infers.
fn loaded_instruction(
    program: &Program,
    operands: &[StoredOperand],
    aux: bool,
    site: Site,
    op: impl FnOnce(&[Meta]) -> Result<Prim>,
) -> Result<Instruction> {
    let operands: SmallVec<[Operand; 2]> = operands.iter().map(|o| loaded_operand(*o)).collect();
    let metas = operands.iter().map(|o| meta_before(program, *o)).collect::<Result<Vec<Meta>>>()?;
    let op = op(&metas)?;
    let mut signature = op.infer(&metas)?;
    let hints = if aux { signature.aux.len() } else { 0 };
    if aux {
        signature.outputs.append(&mut signature.aux);
    }
    signature.outputs.iter().try_for_each(|output| loaded_shape(output.shape.dims()).map(|_| ()))?;
    Ok(Instruction { op, operands, outputs: signature.outputs, aux: hints, site, section: None })
}

/// Shape and type of an operand that has to come before the next instruction.
fn meta_before(program: &Program, operand: Operand) -> Result<Meta> {
    let found = match operand {
        Operand::Input(k) => program.inputs.get(k).copied(),
        Operand::Constant(k) => program.constants.get(k).map(TrackedTensor::meta),
        Operand::Result { instruction, output } => {
            program.instructions.get(instruction).and_then(|made| made.outputs.get(output)).copied()
        }
    };
    let next = program.instructions.len();
    found.ok_or_else(|| broken(format!("instruction {next} reads {operand}, which does not come before it")))
}

fn stored_meta(meta: &Meta) -> StoredMeta {
    StoredMeta { shape: meta.shape.dims().to_vec(), dtype: meta.dtype.as_str().to_owned() }
}

fn loaded_shape(dims: &[usize]) -> Result<Shape> {
    sound_shape(dims)
        .ok_or_else(|| broken("a shape has more dimensions or elements than there can be".to_owned()))
}

fn loaded_dtype(name: &str) -> Result<DType> {
    DType::from_str(name).map_err(|_| broken(format!("no element type is named {name:?}")))
}

fn loaded_meta(meta: &StoredMeta) -> Result<Meta> {
    let (shape, dtype) = (loaded_shape(&meta.shape)?, loaded_dtype(&meta.dtype)?);
    Ok(Meta { shape, dtype, device: DeviceLocation::Cpu })
}

fn stored_numbers(value: &TrackedTensor) -> Result<Vec<u64>> {
    if is_float(value.dtype()) {
        let numbers = algebra::cast(value, DType::F64)?.to_flat::<f64>()?;
        return Ok(numbers.into_iter().map(f64::to_bits).collect());
    }
    let numbers = algebra::cast(value, DType::I64)?.to_flat::<i64>()?;
    Ok(numbers.into_iter().map(i64::cast_unsigned).collect())
}

fn loaded_numbers(numbers: &[u64], meta: &Meta) -> Result<TrackedTensor> {
    let dims = meta.shape.dims();
    let wide = if is_float(meta.dtype) {
        TrackedTensor::from_vec(numbers.iter().map(|bits| f64::from_bits(*bits)).collect(), dims)?
    } else {
        TrackedTensor::from_vec(numbers.iter().map(|bits| bits.cast_signed()).collect(), dims)?
    };
    Ok(known(&algebra::cast(&wide, meta.dtype)?))
}

fn stored_operand(operand: Operand) -> StoredOperand {
    match operand {
        Operand::Input(i) => StoredOperand::Input(i),
        Operand::Constant(i) => StoredOperand::Constant(i),
        Operand::Result { instruction, output } => StoredOperand::Result(instruction, output),
    }
}

fn loaded_operand(operand: StoredOperand) -> Operand {
    match operand {
        StoredOperand::Input(i) => Operand::Input(i),
        StoredOperand::Constant(i) => Operand::Constant(i),
        StoredOperand::Result(instruction, output) => Operand::Result { instruction, output },
    }
}

fn stored_work(op: &Prim) -> Result<StoredWork> {
    match op.as_any().and_then(|any| any.downcast_ref::<Blocked>()) {
        Some(rows) => Ok(StoredWork::Rows(stored_rows(rows)?)),
        None => Ok(StoredWork::Op(stored_op(op)?)),
    }
}

fn stored_op(op: &Prim) -> Result<StoredOp> {
    if let Some(op) = op.as_pointwise() {
        return Ok(StoredOp::Pointwise(stored_expression(op)));
    }
    if let Some(op) = op.as_reduced_pointwise() {
        let targets = op.targets().iter().map(|t| t.dims().to_vec()).collect();
        let (expression, shape) = (stored_expression(op.pointwise()), op.shape().dims().to_vec());
        return Ok(StoredOp::Reduced { expression, shape, targets });
    }
    if let Some(op) = as_fused(op) {
        return Ok(StoredOp::Fused(stored_fused(op)));
    }
    if let Some(op) = as_epilogue(op) {
        let (fused, own) = (stored_fused(&op.fused), stored_named(&op.op)?);
        return Ok(StoredOp::Epilogue { op: own, reads: op.reads, fused, input: op.input });
    }
    Ok(StoredOp::Named(stored_named(op)?))
}

fn stored_fused(op: &Fused) -> StoredFused {
    let outputs = op.outputs.iter().map(|out| StoredOutput {
        kept: out.kept.dims().to_vec(),
        shape: out.shape.dims().to_vec(),
        scale: out.scale.to_bits(),
        mask: out.mask,
    });
    StoredFused {
        expression: stored_expression(&op.pointwise),
        shape: op.shape.dims().to_vec(),
        dtype: op.dtype.as_str().to_owned(),
        outputs: outputs.collect(),
    }
}

fn stored_named(op: &Prim) -> Result<StoredNamed> {
    let saved = op.saved().ok_or_else(|| {
        let reason = "it cannot be made again from data: capture the function where it is loaded";
        Error::mode(op.name(), "storage", reason)
    })?;
    let parameters = saved.parameters.into_iter().map(|parameter| match parameter {
        Parameter::Whole(n) => StoredParameter::Whole(n),
        Parameter::Flag(flag) => StoredParameter::Flag(flag),
        Parameter::Number(number) => StoredParameter::Number(number.to_bits()),
        Parameter::Text(text) => StoredParameter::Text(text),
        Parameter::Shape(dims) => StoredParameter::Shape(dims),
        Parameter::Type(dtype) => StoredParameter::Type(dtype.as_str().to_owned()),
    });
    Ok(StoredNamed { tag: saved.tag.to_owned(), parameters: parameters.collect() })
}

/// The op on operands of these shapes and types.
fn loaded_op(stored: &StoredOp, operands: &[Meta]) -> Result<Prim> {
    if let StoredOp::Pointwise(expression)
    | StoredOp::Reduced { expression, .. }
    | StoredOp::Fused(StoredFused { expression, .. }) = stored
        && expression.inputs != operands.len()
    {
        let (name, takes, given) = (&expression.name, expression.inputs, operands.len());
        return Err(broken(format!("{name} takes {takes} operands, not {given}")));
    }
    match stored {
        StoredOp::Pointwise(expression) => Ok(Prim::Pointwise(loaded_expression(expression)?)),
        StoredOp::Reduced { expression, shape, targets } => {
            let whole = loaded_shape(shape)?;
            let targets = targets.iter().map(|t| loaded_target(t, &whole)).collect::<Result<Vec<Shape>>>()?;
            let inside = |x: &Meta| Layout::contiguous(x.shape).broadcast_to(&whole).is_some();
            if !operands.iter().all(inside) {
                return Err(broken(format!(
                    "an operand of {:?} does not broadcast to {whole}",
                    expression.name
                )));
            }
            if targets.len() != expression.outputs.len() {
                return Err(broken("an expression has not as many outputs as targets".to_owned()));
            }
            let op = ReducedPointwise::new(loaded_expression(expression)?, whole, &targets);
            Ok(Prim::Shared(Arc::new(op)))
        }
        StoredOp::Fused(fused) => Ok(Prim::Shared(Arc::new(loaded_fused(fused)?))),
        StoredOp::Named(named) => loaded_named(named, operands),
        StoredOp::Epilogue { op, reads, fused, input } => {
            let op = loaded_named(op, operands.get(..*reads).unwrap_or_default())?;
            let made = WithEpilogue::new(op, *reads, loaded_fused(fused)?, *input);
            let fits = made.filter(|op| *reads <= operands.len() && op.finishes(operands).is_some());
            let op = fits.ok_or_else(|| broken("an op and its epilogue do not fit".to_owned()))?;
            Ok(Prim::Shared(Arc::new(op)))
        }
    }
}

fn loaded_fused(stored: &StoredFused) -> Result<Fused> {
    let StoredFused { expression, shape, dtype, outputs } = stored;
    let whole = loaded_shape(shape)?;
    let outs = outputs
        .iter()
        .map(|out| {
            let (kept, shape) = (loaded_target(&out.kept, &whole)?, loaded_shape(&out.shape)?);
            if kept.elements() != shape.elements() {
                return Err(broken("an output has another number of elements than its sum".to_owned()));
            }
            Ok(FusedOutput { kept, shape, scale: f64::from_bits(out.scale), mask: out.mask })
        })
        .collect::<Result<Vec<FusedOutput>>>()?;
    if outs.len() != expression.outputs.len() || !expression.params.is_empty() {
        return Err(broken("a fused expression does not fit its outputs".to_owned()));
    }
    let expr = loaded_expression(expression)?.expr().clone();
    Ok(Fused::new(expr, whole, loaded_dtype(dtype)?, outs, vec!["loaded"]))
}

fn loaded_named(stored: &StoredNamed, operands: &[Meta]) -> Result<Prim> {
    let StoredNamed { tag, parameters } = stored;
    let parameters = parameters
        .iter()
        .map(|parameter| {
            Ok(match parameter {
                StoredParameter::Whole(n) => Parameter::Whole(*n),
                StoredParameter::Flag(flag) => Parameter::Flag(*flag),
                StoredParameter::Number(bits) => Parameter::Number(f64::from_bits(*bits)),
                StoredParameter::Text(text) => Parameter::Text(text.clone()),
                StoredParameter::Shape(dims) => Parameter::Shape(dims.clone()),
                StoredParameter::Type(name) => Parameter::Type(loaded_dtype(name)?),
            })
        })
        .collect::<Result<Vec<Parameter>>>()?;
    autograd_core::rebuild(tag, &parameters, operands)
        .or_else(|| autograd_ops::rebuild(tag, &parameters, operands))
        .ok_or_else(|| broken(format!("no op {tag:?} with these parameters and operands")))
}

/// A shape that broadcasts to the whole one.
fn loaded_target(dims: &[usize], whole: &Shape) -> Result<Shape> {
    let shape = loaded_shape(dims)?;
    if Layout::contiguous(shape).broadcast_to(whole).is_none() {
        return Err(broken(format!("{shape} does not broadcast to {whole}")));
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value_and_grad;
    use autograd_ops::TensorAutograd;

    fn loss(x: &[TrackedTensor]) -> Result<TrackedTensor> {
        let h = x[0].matmul(&x[1])?.tanh()?.softmax(-1)?;
        h.t()?.narrow(0, 1, 2)?.mul(0.5)?.relu()?.pow(3)?.mean()
    }

    fn sample() -> Result<(Graph, Vec<TrackedTensor>)> {
        let numbers = |n: usize| (0..n).map(|i| (i * 7 % 11) as f64 / 11.0 - 0.4).collect::<Vec<f64>>();
        let x = vec![
            TrackedTensor::from_vec(numbers(6), &[2, 3])?,
            TrackedTensor::from_vec(numbers(12), &[3, 4])?,
        ];
        let metas: Vec<Meta> = x.iter().map(TrackedTensor::meta).collect();
        Ok((Graph::capture(value_and_grad(loss), &metas)?, x))
    }

    #[test]
    fn a_graph_with_its_gradient_is_loaded_as_it_was() -> Result<()> {
        let (graph, x) = sample()?;
        let refs: Vec<&TrackedTensor> = x.iter().collect();
        let want = graph.run(&refs)?;
        for graph in [graph.clone(), graph.optimise(&crate::Passes::ALL)?] {
            let text = serde_json::to_string(&graph.to_stored()?).map_err(Error::msg)?;
            let stored: StoredGraph = serde_json::from_str(&text).map_err(Error::msg)?;
            assert_eq!(stored, graph.to_stored()?);
            for (a, b) in stored.load(&[])?.run(&refs)?.iter().zip(&want) {
                let (a, b) = (a.to_flat::<f64>()?, b.to_flat::<f64>()?);
                assert!(a.iter().zip(&b).all(|(x, y)| (x - y).abs() < 1e-14), "{a:?} {b:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn an_op_that_cannot_be_stored_is_named() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![3f32, 1., 2.], &[3])?;
        let graph = Graph::capture(|x| Ok(vec![x[0].gradient_hook(|ct| ct.neg())?]), &[x.meta()])?;
        let error = graph.to_stored().expect_err("a hook is a closure");
        assert!(matches!(error, Error::UnsupportedMode { op: "gradient_hook", .. }), "{error}");
        Ok(())
    }

    #[test]
    fn broken_data_is_refused() -> Result<()> {
        let (graph, _) = sample()?;
        let good = graph.to_stored()?;
        let refused = |change: &dyn Fn(&mut StoredGraph)| {
            let mut stored = good.clone();
            change(&mut stored);
            assert!(stored.load(&[]).is_err());
        };
        assert!(good.load(&[]).is_ok());
        refused(&|g| g.version = 9);
        refused(&|g| g.instructions[0].operands.clear());
        refused(&|g| g.instructions[0].operands[0] = StoredOperand::Result(5, 0));
        refused(&|g| g.outputs[0] = StoredOperand::Constant(99));
        refused(&|g| g.inputs[0].dtype = "f33".to_owned());
        refused(&|g| g.inputs[0].shape = vec![usize::MAX, 2]);
        refused(&|g| g.instructions[0].region = Some(0));
        refused(&|g| g.instructions[0].keep = true);
        refused(&|g| g.regions.push(Some(0)));
        refused(&|g| g.regions.extend([Some(1), None]));
        refused(&|g| g.regions.extend((0..1000).map(|i: usize| i.checked_sub(1))));
        refused(&|g| {
            let parameters = vec![StoredParameter::Whole(7)];
            g.instructions[0].work =
                StoredWork::Op(StoredOp::Named(StoredNamed { tag: "softmax".to_owned(), parameters }));
            g.instructions[0].operands.truncate(1);
        });
        assert!(good.load(&[TrackedTensor::scalar(1.0)]).is_err());
        Ok(())
    }
}
