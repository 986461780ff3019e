//! The op with an epilogue: a product or a convolution, and the fused op that follows it, evaluated on
//! each part of the product while that is in a cache.

use crate::fused::{Fused, FusedOutput};
use autograd_core::kernels::machine::{Epilogue, Feed, Prepared};
use autograd_core::kernels::{Element, Kind, Layout, memory};
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    DType, Error, Finishes, Meta, Prim, Primitive, Result, Rule, Signature, SliceMut, TrackedTensor, Values,
    View, algebra, apply, kind_of,
};
use std::any::Any;
use std::sync::Arc;

/// An op of one output and a fused op that reads it. Its operands are those of the op and then the
/// fused op's, without the one that is the op's output.
#[derive(Clone, Debug)]
pub(crate) struct WithEpilogue {
    pub(crate) op: Prim,
    /// How many operands the op has.
    pub(crate) reads: usize,
    pub(crate) fused: Fused,
    /// The fused op's input that is the op's output.
    pub(crate) input: usize,
    /// The output in whose memory the op's output is made.
    pub(crate) home: usize,
}

impl WithEpilogue {
    /// The two ops as one, where there is an output in whose memory the op's own can be made. An output
    /// that is the op's own is that one.
    pub(crate) fn new(op: Prim, reads: usize, fused: Fused, input: usize) -> Option<Self> {
        let whole = |out: &FusedOutput| out.kept == fused.shape && !out.mask;
        if input >= fused.pointwise.expr().program().inputs()
            || fused.outputs.iter().any(|out| out.kept != fused.shape)
        {
            return None;
        }
        let own = fused.passed_on(input).filter(|&j| whole(&fused.outputs[j]));
        let home = own.or_else(|| fused.outputs.iter().position(whole))?;
        Some(Self { op, reads, fused, input, home })
    }

    /// The names of the ops that it is made of.
    pub(crate) fn parts(&self) -> Vec<&'static str> {
        std::iter::once(self.op.name()).chain(self.fused.parts.iter().copied()).collect()
    }

    /// How often a part of the op's output is finished.
    pub(crate) fn finishes(&self, inputs: &[Meta]) -> Option<Finishes> {
        self.op.finishes(inputs.get(..self.reads)?)
    }

    /// What stands for the fused op's inputs: `own` for the op's output, what is given for the others.
    pub(crate) fn with_own<T: Clone>(
        &self,
        own: T,
        others: impl IntoIterator<Item = T>,
    ) -> SmallVec<[T; 16]> {
        let mut all: SmallVec<[T; 16]> = others.into_iter().collect();
        all.insert(self.input.min(all.len()), own);
        all
    }

    /// The expression ready to run, its other inputs of these types and layouts.
    pub(crate) fn prepare(&self, others: &[(Kind, Layout)]) -> Result<Prepared> {
        let kind = kind_of(self.fused.dtype);
        let kind = kind.ok_or_else(|| Error::internal("epilogue", "a type without kernels"))?;
        let own = (kind, Layout::contiguous(self.fused.shape));
        self.fused.prepare(&self.with_own(own, others.iter().copied()))
    }
}

impl Primitive for WithEpilogue {
    fn name(&self) -> &'static str {
        "epilogue"
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(self.clone()))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let broken = |reason: &str| Error::internal("epilogue", reason.to_owned());
        if inputs.len() + 1 != self.reads + self.fused.pointwise.expr().program().inputs() {
            return Err(broken("it has not as many operands as its ops"));
        }
        let (first, others) = inputs.split_at(self.reads);
        let made = self.op.infer(first)?.outputs;
        let [made] = made[..] else { return Err(broken("its op has more outputs than one")) };
        if made.elements() != self.fused.shape.elements() || made.dtype != self.fused.dtype {
            return Err(broken("what follows has another shape or type than its op's output"));
        }
        if self.finishes(inputs).is_none() {
            return Err(broken("its op finishes no parts"));
        }
        if others.iter().any(|other| other.dtype != self.fused.dtype && other.dtype != DType::U8) {
            return Err(broken("what follows reads values of another type than it computes in"));
        }
        self.fused.infer(&self.with_own(made.with_shape(self.fused.shape), others.iter().copied()))
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn operations(&self, inputs: &[Meta]) -> u64 {
        self.op.operations(&inputs[..self.reads]) + self.fused.operations(&inputs[self.reads..])
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let (first, others) = inputs.split_at(self.reads);
        let layouts: SmallVec<[(Kind, Layout); 16]> = others.iter().map(|x| (x.kind(), *x.layout)).collect();
        let prepared = self.prepare(&layouts)?;
        let feeds = self.with_own(Feed::Output(self.home), others.iter().map(|x| Feed::Read(x.data)));
        let (kind, len) = prepared.epilogue_tiles();
        if kind == Kind::F64 {
            let mut tiles = memory::take::<f64>(len);
            let tile = f64::slice_mut(&mut tiles);
            self.op.eval_then(first, Epilogue::new(&prepared, &feeds, outputs, self.home, tile, None))?;
            memory::give(tiles);
        } else {
            let mut tiles = memory::take::<f32>(len);
            let tile = f32::slice_mut(&mut tiles);
            self.op.eval_then(first, Epilogue::new(&prepared, &feeds, outputs, self.home, tile, None))?;
            memory::give(tiles);
        }
        Ok(())
    }

    fn rule(&self) -> Rule<'_> {
        Rule::Composite
    }

    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let (first, others) = inputs.split_at(self.reads);
        let Some(made) = apply(&*self.op, first)?.into_iter().next() else {
            return Err(Error::internal("epilogue", "its op has no output"));
        };
        let made = algebra::reshape(&made, &self.fused.shape)?;
        let all = self.with_own(&made, others.iter().copied());
        Ok(Some(apply(&self.fused, &all)?))
    }
}
