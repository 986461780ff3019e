//! The fused vjp of y = eˣ · w.

use super::exp_scale::exp;
use super::fault::Fault;
use autograd_core::kernels::expr::{Binary::Mul, Builder, Unary};
use autograd_core::kernels::{Layout, SliceMut, View, bf16, machine};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    General, Grads, Mask, Meta, Prim, Primitive, Residual, Residuals, Result, Rule, Saved, Shape, Signature,
    TrackedTensor, Values, algebra,
};
use std::sync::Arc;

/// The fused vjp of [`ExpScale`]: from ct, x, w and perhaps eˣ to the wanted of dx and dw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pull {
    pub(super) fault: Fault,
    pub(super) wanted: Mask,
}

impl Pull {
    /// The wanted of dx and dw, with eˣ given.
    fn say(self, e: &TrackedTensor, inputs: &[&TrackedTensor]) -> Result<Values> {
        let (ct, w) = (inputs[0], inputs[2]);
        let mut made = Values::new();
        if self.wanted.has(0) {
            made.push(algebra::mul(&algebra::mul(ct, w)?, e)?);
        }
        if self.wanted.has(1) {
            made.push(algebra::sum_to(&algebra::mul(ct, e)?, w.shape())?);
        }
        Ok(made)
    }
}

impl Primitive for Pull {
    fn name(&self) -> &'static str {
        "exp_scale_vjp"
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let outputs = self.wanted.iter().map(|i| inputs[1 + i].with_dtype(inputs[0].dtype)).collect();
        Ok(Signature { outputs, aux: smallvec![] })
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let mut b = Builder::new();
        let (ct, x, w) = (b.input(0), b.input(1), b.input(2));
        let e = if inputs.len() > 3 { b.input(3) } else { b.unary(Unary::Exp, x) };
        let dw = b.binary(Mul, ct, e);
        let dx = b.binary(Mul, dw, w);
        let made: Vec<_> = self.wanted.iter().map(|i| [dx, dw][i]).collect();
        let targets: Vec<Shape> = self.wanted.iter().map(|i| *inputs[1 + i].layout.shape()).collect();
        let program = b.finish(&made, inputs.len(), 0);
        let shape = *inputs[0].layout.shape();
        let contiguous = Layout::contiguous(shape);
        let mut inputs: SmallVec<[View<'_>; 4]> = SmallVec::from_slice(inputs);
        if self.fault == Fault::CotangentStrides && inputs[0].data.len() >= shape.elements() {
            inputs[0].layout = &contiguous;
        }
        machine::run_reduced(&program, &[], &inputs, &shape, outputs, &targets);
        let one_number = inputs[0].layout.strides().iter().all(|s| *s == 0);
        for output in outputs {
            match (output, self.fault) {
                (SliceMut::F32(d), Fault::CoarseGradient) => {
                    d.iter_mut().for_each(|d| *d = bf16::from_f32(*d).to_f32());
                }
                (SliceMut::F64(d), Fault::CotangentFill) if one_number => d.fill(0.0),
                _ => {}
            }
        }
        Ok(())
    }

    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        if self.fault != Fault::GradientBatch {
            return Ok(None);
        }
        let zeros = self.wanted.iter().map(|i| {
            let dims = &inputs[1 + i].dims()[usize::from(batched.has(1 + i))..];
            let shape = Shape::new(&[&[size], dims].concat());
            algebra::fill(0.0, &inputs[0].meta().with_shape(shape), inputs[0])
        });
        Ok(Some(zeros.collect::<Result<_>>()?))
    }

    fn rule(&self) -> Rule<'_> {
        match self.fault {
            Fault::HintAtSecondOrder | Fault::SecondFactor | Fault::SecondTangent => Rule::General(self),
            _ => Rule::Composite,
        }
    }

    // The hint is left out: what is differentiated computes eˣ itself.
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let mut made = self.say(&exp(inputs[1])?, inputs)?;
        if self.fault == Fault::SecondDecomposition {
            made[0] = algebra::add_scalar(&made[0], 1e-6)?;
        }
        Ok(Some(made))
    }
}

impl General for Pull {
    fn residuals(&self, _: Mask) -> Residuals {
        (0..3 + usize::from(self.fault == Fault::HintAtSecondOrder)).map(Residual::Input).collect()
    }

    // With g, h the cotangents of dx, dw: ct gets g·w·eˣ + h·eˣ, x gets ct times that, w gets Σ g·ct·eˣ.
    fn vjp(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let (ct, x, w) = (saved.input(0)?, saved.input(1)?, saved.input(2)?);
        let e = match self.fault {
            Fault::HintAtSecondOrder => saved.input(3)?.clone(),
            _ => exp(x)?,
        };
        let mut cts = cts.iter();
        let g = self.wanted.has(0).then(|| cts.next().cloned().flatten()).flatten();
        let h = self.wanted.has(1).then(|| cts.next().cloned().flatten()).flatten();
        let (g, h) =
            (g.map_or_else(|| algebra::zeros_like(x), Ok)?, h.map_or_else(|| algebra::zeros_like(w), Ok)?);
        let d_ct = algebra::mul(&algebra::add(&algebra::mul(&g, w)?, &h)?, &e)?;
        let mut d_x = algebra::mul(&d_ct, ct)?;
        if self.fault == Fault::SecondFactor {
            d_x = algebra::scale(&d_x, 2.0)?;
        }
        let d_w = algebra::sum_to(&algebra::mul(&algebra::mul(&g, ct)?, &e)?, w.shape())?;
        let mut grads: Grads = smallvec![Some(d_ct), Some(d_x), Some(d_w)];
        grads.resize(saved.inputs.len(), None);
        (0..grads.len()).filter(|&i| !wanted.has(i)).for_each(|i| grads[i] = None);
        Ok(grads)
    }

    fn jvp(
        &self,
        _: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        _: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let nothing = || outputs.iter().map(|_| None).collect();
        Ok((self.fault == Fault::SecondTangent).then(nothing))
    }
}
