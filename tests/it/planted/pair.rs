//! (x, 2x), linear with two outputs; a wrong one takes an absent cotangent for the other.

use autograd_core::kernels::{SliceMut, View, copy};
use autograd_core::smallvec::smallvec;
use autograd_core::{
    Grads, Mask, Meta, Prim, Primitive, Result, Rule, Saved, Signature, TrackedTensor, Transpose, Values,
    algebra,
};
use std::sync::Arc;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) wrong: bool,
}

impl Primitive for Pair {
    fn name(&self) -> &'static str {
        "pair"
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature { outputs: smallvec![inputs[0], inputs[0]], aux: smallvec![] })
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        for output in outputs.iter_mut() {
            copy::copy(inputs[0], output.reborrow());
        }
        copy::add_assign(outputs[1].reborrow(), inputs[0]);
        Ok(())
    }

    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::one(0), self)
    }

    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        Ok(Some(smallvec![algebra::scale(inputs[0], 1.0)?, algebra::scale(inputs[0], 2.0)?]))
    }
}

impl Transpose for Pair {
    // dx = ct₀ + 2ct₁.
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], _: &Saved<'_>) -> Result<Grads> {
        let [one, two] = cts else { return Ok(smallvec![None]) };
        let two = if self.wrong { two.as_ref().or(one.as_ref()) } else { two.as_ref() };
        let two = two.map(|ct| algebra::scale(ct, 2.0)).transpose()?;
        Ok(smallvec![match (one, two) {
            (Some(one), Some(two)) => Some(algebra::add(one, &two)?),
            (one, two) => two.or_else(|| one.clone()),
        }])
    }
}
