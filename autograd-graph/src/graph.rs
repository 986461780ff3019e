//! The graph: a captured program with its parameters, known values and literals told apart.

use crate::capture::capture_with;
use crate::check::check;
use crate::elsewhere::{device_of, moved};
use autograd_core::algebra::fill;
use autograd_core::{DeviceLocation, Error, Meta, Operand, Program, Result, TrackedTensor};
use autograd_tape::{GradientTape, run_recorded};
use std::fmt;

/// What a constant of a graph is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Constant {
    /// A closed-over value, bound by handle: what its memory holds when the graph runs is read.
    Parameter,
    /// Numbers that the captured function made itself: a mask, a list of indices.
    Known,
    /// A number that the program itself made, the same for all elements; passes may fold it.
    Literal(f64),
}

/// A function as data: primitives in an order where operands come first, with shapes and types.
///
/// It is captured from a function over values, including whatever transforms that function uses,
/// for inputs of given shapes and types. It runs through an interpreter that equals eager mode to
/// the bit, is differentiated as a whole, prints as text and DOT, and compiles.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_graph::Graph;
/// use autograd_ops::TensorAutograd;
///
/// fn main() -> Result<()> {
///     let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
///     let graph = Graph::capture(|x| Ok(vec![x[0].pow(3)?.sum()?]), &[x.meta()])?;
///     let gradient = graph.gradient(&[0], &[0])?;
///     assert_eq!(gradient.run(&[&x])?[0].to_vec1::<f64>()?, [3., 12.]);
///     // A graph again: repeat for higher orders.
///     let sum = Graph::capture(|x| Ok(vec![gradient.run(&[&x[0]])?[0].sum()?]), &[x.meta()])?;
///     assert_eq!(sum.gradient(&[0], &[0])?.run(&[&x])?[0].to_vec1::<f64>()?, [6., 12.]);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Graph {
    program: Program,
    /// Whether ops gave auxiliary outputs while it was captured.
    pub(crate) hints: bool,
}

impl Graph {
    /// Captures what `f` does to inputs of the given shapes and types. Where one of them is on
    /// another device than the CPU, the graph needs nothing that the CPU's kernels give beside their
    /// results, so that it runs on any device.
    ///
    /// # Errors
    /// As [`capture`](crate::capture()).
    pub fn capture(
        f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
        inputs: &[Meta],
    ) -> Result<Self> {
        let hints = inputs.iter().all(|x| x.device == DeviceLocation::Cpu);
        Self::capture_with(f, inputs, hints)
    }

    /// As [`capture`](Self::capture), with the auxiliary outputs that rules want or without.
    pub(crate) fn capture_with(
        f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
        inputs: &[Meta],
        hints: bool,
    ) -> Result<Self> {
        Ok(Self { program: capture_with(f, inputs, hints)?, hints })
    }

    /// The graph of a program.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn from_program(program: Program) -> Result<Self> {
        Self::with_hints(program, true)
    }

    /// The graph of a program that was captured with the auxiliary outputs of ops, or without.
    pub(crate) fn with_hints(program: Program, hints: bool) -> Result<Self> {
        check(&program)?;
        Ok(Self { program, hints })
    }

    /// The same without checkpoints: for programs that are run, and never differentiated.
    pub(crate) fn without_checkpoints(&self) -> Self {
        let mut graph = self.clone();
        graph.program.sections.clear();
        graph.program.instructions.iter_mut().for_each(|step| step.section = None);
        graph
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What constant `i` is.
    pub fn constant(&self, i: usize) -> Constant {
        constant_of(&self.program, i)
    }

    /// The closed-over values that it reads, in the order in which they are
    /// [lifted](Self::lift_parameters), stored and loaded.
    pub fn parameters(&self) -> impl Iterator<Item = &TrackedTensor> {
        let closed_over = |i: &usize| self.constant(*i) == Constant::Parameter;
        (0..self.program.constants.len()).filter(closed_over).map(|i| &self.program.constants[i])
    }

    /// The inputs' shapes and types.
    pub fn inputs(&self) -> &[Meta] {
        &self.program.inputs
    }

    /// The outputs' shapes and types.
    pub fn outputs(&self) -> Vec<Meta> {
        self.program.outputs.iter().map(|o| meta_of(&self.program, *o)).collect()
    }

    /// Runs the graph on values, op by op, through whatever watches them: equal to the function it
    /// was captured from, to the bit. What was checkpointed there is so for the tapes here.
    ///
    /// # Errors
    /// As [`Program::run`].
    pub fn run(&self, inputs: &[&TrackedTensor]) -> Result<Vec<TrackedTensor>> {
        match device_of(inputs) {
            Some(like) => run_recorded(&moved(self.program.clone(), like)?, inputs),
            None => run_recorded(&self.program, inputs),
        }
    }

    /// The gradients of the sum of some outputs, each of one element, with respect to some inputs,
    /// as a graph of the same inputs.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where there is no such output or input; as
    /// [`GradientTape::gradient_of`].
    pub fn gradient(&self, outputs: &[usize], wrt: &[usize]) -> Result<Self> {
        self.differentiate(outputs, wrt, false)
    }

    /// The outputs, and then the gradients as [`gradient`](Self::gradient) gives them.
    ///
    /// # Errors
    /// As [`gradient`](Self::gradient).
    pub fn value_and_gradient(&self, outputs: &[usize], wrt: &[usize]) -> Result<Self> {
        self.differentiate(outputs, wrt, true)
    }

    fn differentiate(&self, outputs: &[usize], wrt: &[usize], values: bool) -> Result<Self> {
        let missing = |what: &str, i: usize| Error::argument("gradient", format!("there is no {what} {i}"));
        if let Some(&i) = outputs.iter().find(|&&i| i >= self.program.outputs.len()) {
            return Err(missing("output", i));
        }
        if let Some(&i) = wrt.iter().find(|&&i| i >= self.program.inputs.len()) {
            return Err(missing("input", i));
        }
        let sweep = |x: &[TrackedTensor]| {
            let tape = GradientTape::new();
            let mut inputs: Vec<TrackedTensor> = x.to_vec();
            for &i in wrt {
                inputs[i] = tape.try_variable(&x[i])?;
            }
            let refs: Vec<&TrackedTensor> = inputs.iter().collect();
            let made = self.run(&refs)?;
            let sources: Vec<&TrackedTensor> = wrt.iter().map(|&i| &inputs[i]).collect();
            let targets: Vec<&TrackedTensor> =
                outputs.iter().map(|&i| &made[i]).filter(|y| tape.watches(y)).collect();
            let grads = if targets.is_empty() {
                sources.iter().map(|x| fill(0.0, &x.meta(), x)).collect::<Result<Vec<_>>>()?
            } else {
                tape.gradient_of(&targets, &sources)?
            };
            let mut all = Vec::new();
            if values {
                all.extend(made.iter().map(|y| tape.unwatched(y)));
            }
            all.extend(grads);
            Ok(all)
        };
        Self::capture_with(sweep, &self.program.inputs, self.hints)
    }

    /// The same with every parameter as a further input, in order; the values that were bound.
    /// Gradients with respect to parameters are gradients of this one.
    pub fn lift_parameters(&self) -> (Self, Vec<TrackedTensor>) {
        let mut program = self.program.clone();
        let mut bound = Vec::new();
        let mut map = Vec::new();
        let mut kept = Vec::new();
        for (i, constant) in self.program.constants.iter().enumerate() {
            map.push(match self.constant(i) {
                Constant::Parameter => {
                    program.inputs.push(constant.meta());
                    bound.push(constant.clone());
                    Operand::Input(program.inputs.len() - 1)
                }
                Constant::Known | Constant::Literal(_) => {
                    kept.push(constant.clone());
                    Operand::Constant(kept.len() - 1)
                }
            });
        }
        program.constants = kept;
        let moved = |operand: &mut Operand| {
            if let Operand::Constant(i) = *operand {
                *operand = map[i];
            }
        };
        program.instructions.iter_mut().flat_map(|i| &mut i.operands).for_each(moved);
        program.outputs.iter_mut().for_each(moved);
        (Self { program, hints: self.hints }, bound)
    }

    /// Whether every shape and type is what its op infers, operands come first, and nothing dangles.
    ///
    /// # Errors
    /// [`Error::Internal`] that names the instruction.
    pub fn check(&self) -> Result<()> {
        check(&self.program)
    }
}

/// What constant `i` of a program is.
pub(crate) fn constant_of(program: &Program, i: usize) -> Constant {
    let Some(plain) = program.constants[i].plain() else { return Constant::Parameter };
    match plain.literal() {
        Some(number) => Constant::Literal(number),
        None if plain.is_known() => Constant::Known,
        None => Constant::Parameter,
    }
}

/// The number that an operand is, where it is a literal.
pub(crate) fn literal_of(program: &Program, operand: Operand) -> Option<f64> {
    match operand {
        Operand::Constant(i) => match constant_of(program, i) {
            Constant::Literal(number) => Some(number),
            Constant::Parameter | Constant::Known => None,
        },
        Operand::Input(_) | Operand::Result { .. } => None,
    }
}

/// Shape and type of an operand.
pub(crate) fn meta_of(program: &Program, operand: Operand) -> Meta {
    match operand {
        Operand::Input(i) => program.inputs[i],
        Operand::Constant(i) => program.constants[i].meta(),
        Operand::Result { instruction, output } => program.instructions[instruction].outputs[output],
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.program.fmt(f)
    }
}
