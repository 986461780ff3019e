//! Cross entropy of rows against class indices: one kernel forward and one backward.
//!
//! What it saves is the logits (an input) and one number for each row, where PyTorch saves the
//! whole log-softmax. A row whose target is the ignored class gives 0 and gets no gradient,
//! whatever stands in it.

use crate::compare::where_cond;
use crate::pick::{Pick, Targets, Unpick, batch_rows, check, counting_rows};
use crate::softmax::{logsumexp, softmax};
use autograd_core::algebra::{mul, reshape, sub};
use autograd_core::device::KernelCall;
use autograd_core::kernels::softmax as kernel;
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    ByRows, General, Grads, Mask, Meta, Prim, Primitive, Residual, Residuals, Result, Rule, Saved, Signature,
    SliceMut, TrackedTensor, Values, View, apply_one, checked_shape,
};
use candle_core::DType;
use std::sync::Arc;

/// ln Σ eˣ − `x[target]` for each row; inputs x `[rows, classes]` and the targets `[rows]`; the
/// hint is ln Σ eˣ, in f32 for the half types.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowCrossEntropy {
    pub(crate) ignore: Option<i64>,
}

/// ct · (softmax(x) − onehot(target)); inputs ct, x, the targets, and the hint where it is there.
#[derive(Clone, Copy, Debug)]
struct RowCrossEntropyVjp {
    ignore: Option<i64>,
}

/// x with 0 in the rows that are ignored: what stands there must not reach a gradient.
fn heard_rows(x: &TrackedTensor, targets: &TrackedTensor, ignore: Option<i64>) -> Result<TrackedTensor> {
    let Some(valid) = counting_rows(targets, ignore)? else { return Ok(x.clone()) };
    let column = checked_shape("cross_entropy", &[x.dims()[0], 1])?;
    let valid = if x.rank() == 1 { valid } else { reshape(&valid, &column)? };
    where_cond(&valid, x, 0)
}

crate::saved::stored! {
    "cross_entropy" => RowCrossEntropy { ignore }, |_, x| x.len() == 2;
    "cross_entropy_vjp" => RowCrossEntropyVjp { ignore }, |op, x| {
        let given = (3..=4).contains(&x.len());
        given && RowCrossEntropy { ignore: op.ignore }.infer(&x[1..3]).is_ok_and(|made| {
            x[0] == made.outputs[0] && x[3..].iter().eq(made.aux.iter().take(x.len() - 3))
        })
    };
}

impl Primitive for RowCrossEntropy {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "cross_entropy"
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        check("cross_entropy", &inputs[0], &inputs[1])?;
        let losses = inputs[0].with_shape(inputs[1].shape);
        let hint = if losses.dtype == DType::F64 { losses } else { losses.with_dtype(DType::F32) };
        Ok(Signature { outputs: smallvec![losses], aux: smallvec![hint] })
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new(
            "cross_entropy",
            &[i64::from(self.ignore.is_some()), self.ignore.unwrap_or(0)],
            &[],
        ))
    }
    fn by_rows(&self, _: &[Meta]) -> Option<ByRows> {
        Some(ByRows::default())
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let classes = inputs[0].layout.dims()[1];
        let targets = Targets::read("cross_entropy", inputs[1], classes, self.ignore)?;
        let (losses, hint) = outputs.split_at_mut(1);
        targets.with_view(inputs[1].layout.dims(), |at| {
            let hint = hint.first_mut().map(SliceMut::reborrow);
            kernel::cross_entropy(inputs[0], at, losses[0].reborrow(), hint);
        });
        targets.clear_ignored(losses[0].reborrow(), 1);
        Ok(())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        batch_rows(self, batched, inputs, size)
    }
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let (targets, ignore) = (inputs[1], self.ignore);
        let x = heard_rows(inputs[0], targets, ignore)?;
        let picked = apply_one(&Pick { op: "cross_entropy", ignore }, &[&x, targets])?;
        let losses = sub(&logsumexp(&x, 1)?, &picked)?;
        Ok(Some(smallvec![heard_rows(&losses, targets, ignore)?]))
    }
}

impl General for RowCrossEntropy {
    fn residuals(&self, _: Mask) -> Residuals {
        smallvec![Residual::Input(0), Residual::Input(1), Residual::Aux(0)]
    }
    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let Some(ct) = &cts[0] else { return Ok(smallvec![None, None]) };
        let mut inputs: SmallVec<[&TrackedTensor; 4]> = smallvec![ct, saved.input(0)?, saved.input(1)?];
        inputs.extend(saved.aux(0));
        Ok(smallvec![Some(apply_one(&RowCrossEntropyVjp { ignore: self.ignore }, &inputs)?), None])
    }
}

impl Primitive for RowCrossEntropyVjp {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "cross_entropy_vjp"
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature::one(inputs[1]))
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new(
            "cross_entropy_vjp",
            &[i64::from(self.ignore.is_some()), self.ignore.unwrap_or(0)],
            &[],
        ))
    }
    fn by_rows(&self, _: &[Meta]) -> Option<ByRows> {
        Some(ByRows::default())
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let classes = inputs[1].layout.dims()[1];
        let targets = Targets::read("cross_entropy", inputs[2], classes, self.ignore)?;
        targets.with_view(inputs[2].layout.dims(), |at| {
            let hint = inputs.get(3).copied();
            kernel::cross_entropy_vjp(inputs[0], inputs[1], at, hint, outputs[0].reborrow());
        });
        targets.clear_ignored(outputs[0].reborrow(), classes);
        Ok(())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Composite
    }
    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        batch_rows(self, batched, inputs, size)
    }
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let (targets, ignore) = (inputs[2], self.ignore);
        let ct = heard_rows(inputs[0], targets, ignore)?;
        let x = heard_rows(inputs[1], targets, ignore)?;
        let column = checked_shape("cross_entropy", &[x.dims()[0], 1])?;
        let share = mul(&reshape(&ct, &column)?, &softmax(&x, 1)?)?;
        let pick = Pick { op: "cross_entropy", ignore };
        let own = apply_one(&Unpick { pick, classes: x.dims()[1] }, &[&ct, targets])?;
        Ok(Some(smallvec![sub(&share, &own)?]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull::{close, vector};

    const LOGITS: [f64; 12] = [0.5, -1.0, 2.0, 1.5, 0.25, -0.75, -2.0, 0.0, 1.0, 3.0, 0.5, -0.5];

    #[test]
    fn kernels_equal_their_decompositions() -> Result<()> {
        let ct = vector(&[1.0, -0.5, 2.0, 0.25]);
        for ignore in [None, Some(2)] {
            let x = TrackedTensor::from_vec(LOGITS.to_vec(), &[4, 3])?;
            let targets = TrackedTensor::from_vec(vec![2i64, 0, 1, 2], &[4])?;
            let ops: [(&dyn Primitive, Vec<&TrackedTensor>); 2] = [
                (&RowCrossEntropy { ignore }, vec![&x, &targets]),
                (&RowCrossEntropyVjp { ignore }, vec![&ct, &x, &targets]),
            ];
            for (op, inputs) in ops {
                let parts = op.decompose(&inputs)?.expect("it has a decomposition");
                close(&apply_one(op, &inputs)?.to_flat()?, &parts[0].to_flat()?);
            }
        }
        Ok(())
    }
}
