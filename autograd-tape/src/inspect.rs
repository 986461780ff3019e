//! A tape as data: its nodes to look at, as text and as a DOT graph.

use crate::node::{Source, Step};
use crate::tape::GradientTape;
use autograd_core::{Buffer, Meta, Plain, Rule, Site};
use std::collections::HashMap;
use std::fmt::Write;

/// What kind of node a tape holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// A variable of the user.
    Variable,
    /// An op of a registry, by name.
    Primitive(&'static str),
    /// A user's own op, by name.
    Custom(&'static str),
    /// A computation that nobody can reach any more: its residuals were let go.
    Cut,
}

/// A node of a tape, as it stood when it was asked for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TapeNode {
    /// Its number: the order of recording.
    pub id: usize,
    /// What it does.
    pub operation: Operation,
    /// The nodes that it reads, with the output's number; `None` for a constant.
    pub inputs: Vec<Option<(usize, usize)>>,
    /// Its outputs.
    pub outputs: Vec<Meta>,
    /// Bytes that it keeps for the backward pass (shared memory counts at each holder).
    pub kept_bytes: usize,
    /// The user's line.
    pub site: Site,
}

impl GradientTape {
    /// The recorded nodes, oldest first; none once the tape is spent.
    pub fn nodes(&self) -> Vec<TapeNode> {
        self.with_record(|record| {
            let nodes = record.nodes.iter().enumerate().map(|(id, node)| TapeNode {
                id,
                operation: match &node.step {
                    Step::Variable => Operation::Variable,
                    Step::Released => Operation::Cut,
                    Step::Apply(op) => match op.rule() {
                        Rule::Opaque(_) => Operation::Custom(op.name()),
                        Rule::Pointwise(_)
                        | Rule::Linear(..)
                        | Rule::Bilinear(..)
                        | Rule::General(_)
                        | Rule::Composite
                        | Rule::Flat => Operation::Primitive(op.name()),
                    },
                },
                inputs: node
                    .inputs
                    .iter()
                    .map(|input| match input {
                        Source::Slot(slot) => Some((slot.node as usize, slot.output as usize)),
                        Source::Constant(_) => None,
                    })
                    .collect(),
                outputs: node.outputs.to_vec(),
                kept_bytes: node.kept.iter().flatten().map(|value| value.meta().bytes()).sum(),
                site: node.site,
            });
            nodes.collect()
        })
    }

    /// Bytes that the tape keeps for the backward pass, inputs included: each view of a memory
    /// once, and of a memory no more than it holds. What waits in a file or is watched by an older
    /// transform counts as 0.
    pub fn kept_bytes(&self) -> usize {
        self.with_record(|record| {
            let mut memories: HashMap<usize, (usize, Vec<&Plain>)> = HashMap::new();
            for value in record.nodes.iter().flat_map(|node| node.kept.iter().flatten()) {
                if let Some(plain) = value.plain() {
                    let (address, held) = memory_of(plain);
                    let (_, views) = memories.entry(address).or_insert((held, Vec::new()));
                    if views.iter().all(|known| known.layout() != plain.layout()) {
                        views.push(plain);
                    }
                }
            }
            let shown = |views: &[&Plain]| views.iter().map(|view| view.meta().bytes()).sum::<usize>();
            memories.values().map(|(held, views)| shown(views).min(*held)).sum()
        })
    }

    /// The number of recorded nodes.
    pub fn len(&self) -> usize {
        self.with_record(|record| record.nodes.len())
    }

    /// Whether nothing is recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tape as text: a line for each node.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for node in self.nodes() {
            let _ = write!(text, "%{} = {}", node.id, label(&node.operation));
            for input in &node.inputs {
                let _ = match input {
                    Some((id, 0)) => write!(text, " %{id}"),
                    Some((id, output)) => write!(text, " %{id}.{output}"),
                    None => write!(text, " const"),
                };
            }
            for meta in &node.outputs {
                let _ = write!(text, " : {} {:?}", meta.shape, meta.dtype);
            }
            let _ = writeln!(text, "  keeps {} B  ; {}", node.kept_bytes, node.site);
        }
        text
    }

    /// The tape as a graph in the DOT language; see [`drawing`](Self::drawing).
    pub fn to_dot(&self) -> String {
        self.drawing().to_dot()
    }

    /// The tape as an SVG picture; see [`drawing`](Self::drawing).
    pub fn to_svg(&self) -> String {
        self.drawing().to_svg()
    }
}

pub(crate) fn label(operation: &Operation) -> &'static str {
    match operation {
        Operation::Variable => "variable",
        Operation::Primitive(name) | Operation::Custom(name) => name,
        Operation::Cut => "released",
    }
}

/// Where a value's memory is, and how many bytes it holds.
fn memory_of(plain: &Plain) -> (usize, usize) {
    match plain.buffer() {
        Buffer::Candle(tensor, address) => (*address, tensor.elem_count() * tensor.dtype().size_in_bytes()),
        own => {
            let elements = own.slice().map_or(0, |slice| slice.len());
            (std::ptr::from_ref(own).addr(), elements * plain.dtype().size_in_bytes())
        }
    }
}
