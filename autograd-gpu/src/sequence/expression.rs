//! Expressions in a sequence: one generated kernel each, shared by those that are the same.

use super::{BLOCK, Call, Code, Draft, Launch, Passed, Placed, blocks};
use crate::codegen::fits;
use crate::plan::Structure;
use crate::{Element, Source, Words, pointwise};
use autograd_core::kernels::expr::Program;
use autograd_core::{Layout, MAX_RANK, Shape};

/// What a kernel is generated from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    /// The expression.
    pub program: Program,
    /// The types of its inputs.
    pub inputs: Vec<Element>,
    /// The types of its outputs.
    pub outputs: Vec<Element>,
}

impl Expression {
    /// The kernels `expression` and `expression_strided`.
    pub fn source(&self) -> Source {
        pointwise("expression", &self.program, &self.inputs, &self.outputs)
    }
}

/// How the kernel of an expression walks inputs that lie like this; `None` for extents that it does not
/// count.
pub(crate) fn geometry(shape: &Shape, layouts: &[Layout]) -> Option<Words> {
    let mut dims = [1; MAX_RANK];
    dims[..shape.rank()].copy_from_slice(shape.dims());
    let geometry = Structure::default().u64(shape.elements()).u32(shape.rank())?;
    let geometry = dims.into_iter().try_fold(geometry, Structure::u32)?;
    let strides = layouts.iter().flat_map(|layout| {
        let mut strides = [0; MAX_RANK];
        strides[..shape.rank()].copy_from_slice(layout.strides());
        strides
    });
    Some(strides.fold(geometry, Structure::u64).words())
}

impl Draft {
    /// An expression over the shape of what it writes.
    pub(super) fn expression(
        &mut self,
        program: &Program,
        params: &[f64],
        reads: &[Placed],
        writes: &[Placed],
    ) -> Option<()> {
        let shape = *writes.first()?.layout.shape();
        if !fits(reads.len(), writes.len(), params.len()) {
            return None;
        }
        let elements =
            |values: &[Placed]| values.iter().map(|x| Element::of(x.dtype)).collect::<Option<Vec<_>>>();
        let (inputs, outputs) = (elements(reads)?, elements(writes)?);
        let layouts: Vec<Layout> =
            reads.iter().map(|x| x.layout.broadcast_to(&shape)).collect::<Option<_>>()?;
        let n = shape.elements();
        let contiguous = layouts.iter().all(Layout::is_contiguous);
        let first = if contiguous { Words::from_slice(&[n as u64]) } else { geometry(&shape, &layouts)? };
        let expression = Expression { program: program.clone(), inputs, outputs };
        let known = &mut self.made.expressions;
        let number = known.iter().position(|other| *other == expression).unwrap_or_else(|| {
            known.push(expression);
            known.len() - 1
        });
        let code = Code::Generated(number);
        let buffers = reads.iter().chain(writes).map(|x| Passed::Address(x.first()));
        let numbers = params.iter().map(|p| Passed::Value(Words::from_slice(&[p.to_bits()])));
        let arguments = [Passed::Value(first)].into_iter().chain(buffers).chain(numbers).collect();
        let entry = if contiguous { "expression" } else { "expression_strided" }.to_owned();
        let call = Call { code, entry, grid: blocks(n), threads: BLOCK as u32, arguments };
        self.made.launches.push(Launch::Kernel(call));
        Some(())
    }
}
