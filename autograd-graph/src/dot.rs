//! Graphs as DOT, for Graphviz.

use crate::graph::{Constant, Graph};
use autograd_core::Operand;
use std::fmt::Write;

impl Graph {
    /// The graph in the DOT language: boxes for inputs and constants, ellipses for ops, an arrow
    /// for each value with its shape and type.
    ///
    /// ```
    /// use autograd_core::{Result, TrackedTensor};
    /// use autograd_graph::Graph;
    /// use autograd_ops::TensorAutograd;
    ///
    /// fn main() -> Result<()> {
    ///     let x = TrackedTensor::from_vec(vec![1f32, 2.], &[2])?;
    ///     let graph = Graph::capture(|x| Ok(vec![x[0].tanh()?]), &[x.meta()])?;
    ///     assert!(graph.to_dot().contains("x0 -> i0 [label=\"[2] F32\"]"));
    ///     Ok(())
    /// }
    /// ```
    pub fn to_dot(&self) -> String {
        let program = self.program();
        let mut text = String::from("digraph {\n  rankdir=LR;\n");
        // Writing to a string does not fail.
        let mut line = |args: std::fmt::Arguments<'_>| {
            let _ = writeln!(text, "  {args}");
        };
        for i in 0..program.inputs.len() {
            line(format_args!("x{i} [shape=box];"));
        }
        for i in 0..program.constants.len() {
            match self.constant(i) {
                Constant::Known => line(format_args!("c{i} [shape=plain];")),
                Constant::Parameter => line(format_args!("c{i} [shape=box, style=filled];")),
                Constant::Literal(number) => line(format_args!("c{i} [shape=plain, label=\"{number}\"];")),
            }
        }
        for (i, instruction) in program.instructions.iter().enumerate() {
            line(format_args!(
                "i{i} [label=\"{}\", tooltip=\"{}\"];",
                instruction.op.name(),
                instruction.site
            ));
            for operand in &instruction.operands {
                let meta = crate::graph::meta_of(program, *operand);
                let from = node(*operand);
                line(format_args!("{from} -> i{i} [label=\"{} {:?}\"];", meta.shape, meta.dtype));
            }
        }
        for (k, output) in program.outputs.iter().enumerate() {
            line(format_args!("y{k} [shape=box];"));
            line(format_args!("{} -> y{k};", node(*output)));
        }
        text.push_str("}\n");
        text
    }
}

fn node(operand: Operand) -> String {
    match operand {
        Operand::Input(i) => format!("x{i}"),
        Operand::Constant(i) => format!("c{i}"),
        Operand::Result { instruction, .. } => format!("i{instruction}"),
    }
}
