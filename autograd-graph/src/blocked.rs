//! The blocked op: ops whose rows are independent, run one after the other on a few rows at a time,
//! so that what passes between them stays in the cache.

use crate::code::Code;
use crate::executor::run_blocks;
use crate::plan::Plan;
use autograd_core::kernels::arena::Arena;
use autograd_core::kernels::{Layout, Slice};
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Error, Mask, Meta, Prim, Primitive, Program, Result, Rule, Shape, Signature, SliceMut, TrackedTensor,
    Values, View, algebra,
};
use std::any::Any;
use std::sync::Arc;

/// A program over the rows of one block, run for each block.
#[derive(Clone, Debug)]
pub(crate) struct Blocked {
    /// What is computed for the rows of a block.
    pub(crate) part: Arc<Program>,
    pub(crate) blocks: usize,
    /// The inputs of which a block reads its own rows; it reads the others whole.
    pub(crate) rows: Mask,
    /// The outputs of which each block gives a term, with the blocks as first dimension; of the
    /// others it gives its rows.
    pub(crate) terms: Mask,
}

impl Blocked {
    /// The shape and type of output `j` over all blocks.
    fn over_all(&self, j: usize, part: Meta) -> Meta {
        let mut dims: SmallVec<[usize; 8]> = part.shape.dims().iter().copied().collect();
        match self.terms.has(j) {
            true => dims.insert(0, self.blocks),
            false => dims[0] *= self.blocks,
        }
        part.with_shape(Shape::new(&dims))
    }

    /// The shapes and types of the outputs.
    pub(crate) fn outputs(&self) -> SmallVec<[Meta; 1]> {
        self.part.output_metas().into_iter().enumerate().map(|(j, meta)| self.over_all(j, meta)).collect()
    }

    /// The names of the ops that it is made of.
    pub(crate) fn parts(&self) -> Vec<&'static str> {
        self.part.instructions.iter().map(|instruction| instruction.op.name()).collect()
    }

    /// Whether these have the shapes and types of its inputs, wherever they are.
    pub(crate) fn takes(&self, inputs: &[Meta]) -> bool {
        let like = |(i, meta): (usize, &Meta)| {
            let own = self.input(i);
            (own.shape, own.dtype) == (meta.shape, meta.dtype)
        };
        inputs.len() == self.part.inputs.len() && inputs.iter().enumerate().all(like)
    }

    /// What input `i` is over all blocks.
    pub(crate) fn input(&self, i: usize) -> Meta {
        let mut meta = self.part.inputs[i];
        if self.rows.has(i) {
            meta.shape.dims_mut()[0] *= self.blocks;
        }
        meta
    }
}

impl Primitive for Blocked {
    fn name(&self) -> &'static str {
        "rows"
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(self.clone()))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        if !self.takes(inputs) {
            return Err(Error::internal("rows", "its inputs are not those that it was made for"));
        }
        let mut outputs = self.outputs();
        if let Some(x) = inputs.first() {
            outputs.iter_mut().for_each(|out| out.device = x.device);
        }
        Ok(Signature { outputs, aux: SmallVec::new() })
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn operations(&self, _: &[Meta]) -> u64 {
        let part = &self.part;
        let of = |instruction: &autograd_core::Instruction| {
            let metas: Vec<Meta> = instruction.operands.iter().map(|o| part.meta_of(*o)).collect();
            instruction.op.operations(&metas)
        };
        part.instructions.iter().map(of).sum::<u64>() * self.blocks as u64
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let ordered = inputs
            .iter()
            .map(|view| {
                let mut own = TrackedTensor::from_buffer(
                    autograd_core::Buffer::take(view.kind(), view.layout.elements()),
                    *view.layout.shape(),
                )?;
                if let Some(to) = own.unique_slice() {
                    autograd_core::kernels::copy::copy(*view, to);
                }
                Ok(own)
            })
            .collect::<Result<Vec<TrackedTensor>>>()?;
        let slices: Vec<Slice<'_>> = ordered
            .iter()
            .filter_map(|value| Some(value.plain()?.buffer().slice()?.part(0..value.shape().elements())))
            .collect();
        let plan = Plan::new(&self.part, false)?;
        let mut arena = Arena::new(plan.bytes);
        let region = autograd_core::kernels::arena::Region {
            offset: 0,
            kind: autograd_core::kernels::Kind::U8,
            len: arena.bytes(),
        };
        let (_, mut memory) = arena.open(&[], &[region]);
        let memory = memory[0].u8s_mut().ok_or_else(|| Error::internal("rows", "its memory is bytes"))?;
        run_blocks(&plan, &Code::default(), self.blocks, self.rows, &slices, outputs, memory)
    }

    fn rule(&self) -> Rule<'_> {
        Rule::Composite
    }

    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let mut parts: Vec<Vec<TrackedTensor>> = vec![Vec::new(); self.part.outputs.len()];
        for block in 0..self.blocks {
            let own = inputs
                .iter()
                .enumerate()
                .map(|(i, x)| match self.rows.has(i) {
                    true => {
                        let rows = self.part.inputs[i].shape.dims()[0];
                        algebra::narrow(x, 0, block * rows, rows)
                    }
                    false => Ok((*x).clone()),
                })
                .collect::<Result<Vec<_>>>()?;
            let made = self.part.run(&own.iter().collect::<Vec<_>>())?;
            parts.iter_mut().zip(made).for_each(|(parts, value)| parts.push(value));
        }
        let joined = parts.iter().enumerate().map(|(j, parts)| match self.terms.has(j) {
            true => autograd_ops::join::stack(parts, 0),
            false => autograd_ops::join::cat(parts, 0),
        });
        Ok(Some(joined.collect::<Result<_>>()?))
    }
}

/// Whether a layout is row-major from its offset on.
pub(crate) fn in_order(layout: &Layout) -> bool {
    layout.is_contiguous()
}
