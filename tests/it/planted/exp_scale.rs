//! y = eˣ · w with a hint and a fused vjp primitive, right or wrong in one chosen place.

use super::fault::Fault;
use super::pull::Pull;
use autograd_core::kernels::expr::{Binary::Mul, Builder, Unary};
use autograd_core::kernels::{Layout, SliceMut, View, bf16, machine};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    DType, Definition, General, Grads, Mask, Meta, Prim, Primitive, Residual, Residuals, Result, Rule, Saved,
    ScalarExpr, Shape, Signature, TrackedTensor, Values, algebra, apply, apply_one, pointwise,
};
use std::sync::{Arc, LazyLock};

static EXP: LazyLock<Definition> =
    LazyLock::new(|| Definition::new("exp", ScalarExpr::build(1, 0, |b, x, _| b.unary(Unary::Exp, x[0]))));

pub(super) fn exp(x: &TrackedTensor) -> Result<TrackedTensor> {
    pointwise(&EXP, &[x])
}

/// y = eˣ · w, with broadcasting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExpScale(pub(crate) Fault);

impl ExpScale {
    pub(crate) fn run(self, x: &TrackedTensor, w: &TrackedTensor) -> Result<TrackedTensor> {
        apply_one(&self, &[x, w])
    }
}

impl Primitive for ExpScale {
    fn name(&self) -> &'static str {
        "exp_scale"
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let shape = inputs[0].shape.broadcast(&inputs[1].shape).expect("the planted inputs broadcast");
        let mut y = inputs[0].with_shape(shape);
        if self.0 == Fault::OutputType && y.dtype == DType::F16 {
            y.dtype = DType::F32;
        }
        Ok(Signature { outputs: smallvec![y], aux: smallvec![inputs[0]] })
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let (x, w) = (inputs[0], inputs[1]);
        let contiguous = Layout::contiguous(*x.layout.shape());
        let from_start = Layout::new(*x.layout.shape(), x.layout.strides(), 0);
        let layout = match self.0 {
            _ if x.data.len() < contiguous.elements() => x.layout,
            Fault::Strides => &contiguous,
            Fault::Offset => &from_start,
            Fault::ZeroStride if x.layout.strides().contains(&0) => &contiguous,
            _ => x.layout,
        };
        let x = View { data: x.data, layout };
        let mut b = Builder::new();
        let (x_in, w_in) = (b.input(0), b.input(1));
        let e = b.unary(Unary::Exp, x_in);
        let y = b.binary(Mul, e, w_in);
        let shape = x.layout.shape().broadcast(w.layout.shape()).expect("the shapes were inferred");
        machine::run(&b.finish(&[y], 2, 0), &[], &[x, w], &shape, &mut outputs[..1]);
        if outputs.len() > 1 {
            machine::run(&b.finish(&[e], 2, 0), &[], &[x, w], x.layout.shape(), &mut outputs[1..]);
        }
        match (&mut outputs[0], self.0) {
            (SliceMut::F64(y), Fault::NotFinite) => y[0] = f64::NAN,
            (SliceMut::F32(y), Fault::CoarseF32) => {
                y.iter_mut().for_each(|y| *y = bf16::from_f32(*y).to_f32())
            }
            _ => {}
        }
        Ok(())
    }

    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }

    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        if self.0 == Fault::Batch {
            return Ok(Some(apply(self, inputs)?));
        }
        // w is a row: as a batch it gets a dimension for the columns of x.
        let w = if batched.has(1) {
            algebra::reshape(inputs[1], &Shape::new(&[size, 1, inputs[1].dims()[1]]))?
        } else {
            inputs[1].clone()
        };
        Ok(Some(apply(self, &[inputs[0], &w])?))
    }

    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let mut y = algebra::mul(&exp(inputs[0])?, inputs[1])?;
        if self.0 == Fault::Decomposition {
            y = algebra::add_scalar(&y, 1e-6)?;
        }
        if self.0 == Fault::DecompositionGradient {
            y = algebra::add(&y, &algebra::sub(inputs[0], &inputs[0].detach()?)?)?;
        }
        Ok(Some(smallvec![y]))
    }
}

impl General for ExpScale {
    fn residuals(&self, wanted: Mask) -> Residuals {
        let mut reads: Residuals = smallvec![Residual::Input(0), Residual::Input(1), Residual::Aux(0)];
        if self.0 == Fault::ReadsUndeclared && !wanted.has(0) {
            reads.remove(1);
        }
        reads
    }

    // dx = ct·w·eˣ, dw = Σ ct·eˣ.
    fn vjp(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let mut grads: Grads = smallvec![None, None];
        let Some(ct) = &cts[0] else { return Ok(grads) };
        let (x, w, hint) = (saved.input(0)?, saved.input(1)?, saved.aux(0));
        let wanted = if self.0 == Fault::GivesUnwanted { Mask::first(2) } else { wanted };
        if self.0 == Fault::HintLosesDerivative
            && let Some(hint) = hint
        {
            grads[0] = wanted.has(0).then(|| algebra::mul(&algebra::mul(ct, w)?, hint)).transpose()?;
            let dw = || algebra::sum_to(&algebra::mul(ct, hint)?, w.shape());
            grads[1] = wanted.has(1).then(dw).transpose()?;
            return Ok(grads);
        }
        let mut inputs: SmallVec<[&TrackedTensor; 4]> = smallvec![ct, x, w];
        inputs.extend(hint);
        let made = apply(&Pull { fault: self.0, wanted }, &inputs)?;
        for (i, grad) in wanted.iter().zip(made) {
            grads[i] = Some(grad);
        }
        self.spoil(wanted, &mut grads, ct, x)?;
        Ok(grads)
    }

    // dy = y·dx + eˣ·dw.
    fn jvp(
        &self,
        inputs: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        tangents: &[Option<TrackedTensor>],
    ) -> Result<Option<SmallVec<[Option<TrackedTensor>; 2]>>> {
        let y = &outputs[0];
        let mut dy = algebra::zeros_like(y)?;
        if let Some(dx) = &tangents[0] {
            let y = if self.0 == Fault::TangentIsConstant { &y.detach()? } else { y };
            dy = algebra::add(&dy, &algebra::mul(y, dx)?)?;
        }
        if let Some(dw) = &tangents[1]
            && self.0 != Fault::TangentLacksTerm
        {
            dy = algebra::add(&dy, &algebra::mul(&exp(inputs[0])?, dw)?)?;
        }
        if self.0 == Fault::TangentAlone && tangents[1].is_none() {
            dy = algebra::scale(&dy, 2.0)?;
        }
        Ok(Some(smallvec![Some(dy)]))
    }
}

impl ExpScale {
    /// What the faults of first order change.
    fn spoil(&self, wanted: Mask, grads: &mut Grads, ct: &TrackedTensor, x: &TrackedTensor) -> Result<()> {
        match self.0 {
            Fault::Factor => {
                grads[0] = grads[0].as_ref().map(|dx| algebra::scale(dx, 2.0)).transpose()?;
            }
            Fault::SubsetDiffers if wanted.len() == 1 => {
                for grad in grads.iter_mut().flatten() {
                    *grad = algebra::scale(grad, 1.0 + 1e-9)?;
                }
            }
            Fault::MissingTerm => grads[1] = None,
            Fault::WrongAxis => {
                let across = Shape::new(&[x.dims()[0], 1]);
                let dw = |dw: &TrackedTensor| {
                    let sum = algebra::sum_to(&algebra::mul(ct, &exp(x)?)?, &across)?;
                    algebra::reshape(&sum, dw.shape())
                };
                grads[1] = grads[1].as_ref().map(dw).transpose()?;
            }
            Fault::MoreForLess if wanted.len() == 1 => {
                for _ in 0..4 {
                    let _ = exp(x)?;
                }
            }
            Fault::GradientType if x.dtype() == DType::BF16 => {
                grads[0] = grads[0].as_ref().map(|dx| algebra::cast(dx, DType::F32)).transpose()?;
            }
            _ => {}
        }
        Ok(())
    }
}
