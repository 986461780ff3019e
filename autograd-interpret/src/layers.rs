//! Layers as relevance propagation sees them: a product with weights and the bias after it are
//! one op.

use crate::relevance::{LayerRule, Plan};
use autograd_core::algebra::{add, mul, neg, select, sub};
use autograd_core::kernels::copy;
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    Applied, Call, DType, DeviceLocation, Error, General, Grads, Layout, Level, Mask, Meta, Prim, Primitive,
    Residual, Residuals, Result, Rule, Saved, Shape, Signature, SliceMut, Tracer, TrackedTensor, Transpose,
    Values, View, apply_call, apply_one, on_behalf_of,
};
use autograd_ops::TensorAutograd;
use std::any::Any;
use std::sync::Arc;

/// A value with the layer that made it. What is inside is on a tape.
#[derive(Debug)]
pub(crate) struct Layered {
    level: Level,
    value: TrackedTensor,
    plan: Arc<Plan>,
    /// The last layer on the way here.
    layer: Option<usize>,
    /// The product that this value is, as long as its bias may still come.
    product: Option<Product>,
}

#[derive(Clone, Debug)]
struct Product {
    op: Prim,
    inputs: [TrackedTensor; 2],
    /// Which of them depends on the input.
    x: usize,
}

impl Layered {
    pub(crate) fn watch(level: Level, plan: &Arc<Plan>, value: TrackedTensor) -> TrackedTensor {
        Self { level, value, plan: plan.clone(), layer: None, product: None }.wrap()
    }

    fn wrap(self) -> TrackedTensor {
        TrackedTensor::from_tracer(Arc::new(self))
    }

    fn of(value: &TrackedTensor, level: Level) -> Option<&Self> {
        value.tracer()?.as_any().downcast_ref::<Self>().filter(|found| found.level == level)
    }

    /// The value on the tape.
    pub(crate) fn inside(value: &TrackedTensor) -> TrackedTensor {
        match value.tracer().and_then(|tracer| tracer.as_any().downcast_ref::<Self>()) {
            Some(found) => found.value.clone(),
            None => value.clone(),
        }
    }

    fn next(&self, value: TrackedTensor, layer: Option<usize>, product: Option<Product>) -> Applied {
        let next = Self { level: self.level, value, plan: self.plan.clone(), layer, product };
        Applied { outputs: smallvec![next.wrap()], aux: Values::new() }
    }
}

impl Tracer for Layered {
    fn level(&self) -> Level {
        self.level
    }

    fn shape(&self) -> &Shape {
        self.value.shape()
    }

    fn dtype(&self) -> DType {
        self.value.dtype()
    }

    fn device(&self) -> DeviceLocation {
        self.value.location()
    }

    fn lower(&self) -> Option<&TrackedTensor> {
        Some(&self.value)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn process(&self, call: &Call<'_>) -> Result<Applied> {
        let Call { op, inputs, site, .. } = *call;
        let layers: SmallVec<[Option<&Self>; 4]> = inputs.iter().map(|x| Self::of(x, self.level)).collect();
        let inner: SmallVec<[&TrackedTensor; 4]> =
            inputs.iter().zip(&layers).map(|(x, layer)| layer.map_or(*x, |layer| &layer.value)).collect();
        let watched = Mask::of(inputs.len(), |i| layers[i].is_some());
        let layer = layers.iter().flatten().find_map(|found| found.layer);
        let inlined = || {
            let parts = on_behalf_of(site, || op.decompose(inputs))?;
            let outputs =
                parts.ok_or_else(|| Error::mode(op.name(), "relevance", "it has no decomposition"))?;
            Ok(Applied { outputs, aux: Values::new() })
        };
        match op.rule() {
            Rule::Composite => return inlined(),
            // A product with its bias is found as its parts are.
            Rule::General(_) if op.is_affine() => return inlined(),
            Rule::Bilinear(a, b, _) if watched.has(a) != watched.has(b) && inputs.len() == 2 => {
                let x = if watched.has(a) { a } else { b };
                let id = self.plan.new_layer();
                let affine = Affine { op: op.keep(), x, bias: false, id, plan: self.plan.clone() };
                let made = below(&apply_call(op, &inner, false, site)?.outputs[0]);
                let y = apply_call(&affine, &[inner[0], inner[1], &made], false, site)?.outputs.remove(0);
                let inputs = [inner[0].clone(), inner[1].clone()];
                return Ok(self.next(y, Some(id), Some(Product { op: op.keep(), inputs, x })));
            }
            Rule::Pointwise(pointwise) if watched.len() == 1 && inputs.len() == 2 => {
                let at = usize::from(watched.has(1));
                let name = pointwise.definition().name;
                if let (Some(found), "add" | "sub") = (layers[at], name)
                    && let (Some(product), Some(id)) = (&found.product, found.layer)
                    && (name == "add" || at == 0)
                    && found.value.shape().broadcast(inner[1 - at].shape()) == Some(*found.value.shape())
                {
                    let bias = inner[1 - at];
                    let bias = if name == "sub" { neg(bias)? } else { bias.clone() };
                    let made = below(&apply_call(op, &inner, false, site)?.outputs[0]);
                    let plan = self.plan.clone();
                    let affine = Affine { op: product.op.clone(), x: product.x, bias: true, id, plan };
                    let operands = [&product.inputs[0], &product.inputs[1], &bias, &made];
                    let y = apply_call(&affine, &operands, false, site)?.outputs.remove(0);
                    return Ok(self.next(y, Some(id), None));
                }
            }
            Rule::Pointwise(_)
            | Rule::Linear(..)
            | Rule::Bilinear(..)
            | Rule::General(_)
            | Rule::Flat
            | Rule::Opaque(_) => {}
        }
        if let (Some(name), Some(id)) = (op.label(), layer) {
            self.plan.name(id, name);
        }
        let outputs = apply_call(op, &inner, false, site)?.outputs;
        let wrap = |value: TrackedTensor| {
            if !autograd_core::is_float(value.dtype()) {
                return value;
            }
            Self { level: self.level, value, plan: self.plan.clone(), layer, product: None }.wrap()
        };
        Ok(Applied { outputs: outputs.into_iter().map(wrap).collect(), aux: Values::new() })
    }
}

/// The value below the tape: the numbers of a layer are computed by the layer's own ops.
fn below(value: &TrackedTensor) -> TrackedTensor {
    value.tracer().and_then(|tracer| tracer.lower()).unwrap_or(value).clone()
}

/// A product with weights, a bias where there is one, and last what they come to: the op's value.
/// Its reverse rule passes relevance on: with R the relevance of a value v, what flows on the tape
/// is R / v.
#[derive(Clone, Debug)]
struct Affine {
    op: Prim,
    x: usize,
    bias: bool,
    id: usize,
    plan: Arc<Plan>,
}

impl Affine {
    /// The product alone.
    fn product(&self, x: &TrackedTensor, w: &TrackedTensor) -> Result<TrackedTensor> {
        let mut inputs = [w, w];
        inputs[self.x] = x;
        apply_one(&*self.op, &inputs)
    }

    /// The product's transpose with these weights.
    fn back(&self, s: &TrackedTensor, w: &TrackedTensor, saved: &Saved<'_>) -> Result<TrackedTensor> {
        let rule = self.op.rule();
        let Rule::Bilinear(_, _, transpose) = rule else {
            return Err(Error::internal(self.op.name(), "a layer is a bilinear op"));
        };
        let wanted = Mask::one(self.x);
        let reads = transpose.residuals(wanted, 2, rule);
        let values: SmallVec<[Option<TrackedTensor>; 4]> = reads
            .iter()
            .map(|residual| (*residual == Residual::Input(1 - self.x)).then(|| w.clone()))
            .collect();
        let mut output = saved.outputs[0];
        output.shape = *s.shape();
        let saved = Saved {
            op: self.op.name(),
            residuals: &reads,
            values: &values,
            inputs: &saved.inputs[..2],
            outputs: &[output],
        };
        let found = Transpose::transpose(transpose, wanted, &[Some(s.clone())], &saved)?;
        let dx = found.into_iter().nth(self.x).flatten();
        dx.ok_or_else(|| Error::internal(self.op.name(), "its transpose gave nothing"))
    }
}

/// z + ε·sign(z), with sign(0) = 1.
fn stabilised(z: &TrackedTensor, epsilon: f64) -> Result<TrackedTensor> {
    let sign = z.ge(0.0)?;
    select(&sign, &z.affine(1.0, epsilon)?, &z.affine(1.0, -epsilon)?)
}

/// a / b where b is not zero, else zero.
fn ratio(a: &TrackedTensor, b: &TrackedTensor) -> Result<TrackedTensor> {
    let some = b.ne(0.0)?;
    select(&some, &a.div(&some.where_cond(b, 1.0)?)?, &autograd_core::algebra::zeros_like(a)?)
}

fn negative(x: &TrackedTensor) -> Result<TrackedTensor> {
    sub(x, &x.relu()?)
}

impl General for Affine {
    fn residuals(&self, _: Mask) -> Residuals {
        (0..if self.bias { 4 } else { 3 }).map(Residual::Input).collect()
    }

    fn vjp(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let mut grads: Grads = smallvec![None; saved.inputs.len()];
        let Some(g) = &cts[0] else { return Ok(grads) };
        let (x, w, z) =
            (saved.input(self.x)?, saved.input(1 - self.x)?, saved.input(saved.inputs.len() - 1)?);
        let bias = if self.bias { Some(saved.input(2)?) } else { None };
        let with_bias = |y: TrackedTensor, f: &dyn Fn(&TrackedTensor) -> Result<TrackedTensor>| match bias {
            Some(bias) => add(&y, &f(bias)?),
            None => Ok(y),
        };
        let relevance = mul(g, z)?;
        grads[self.x] = Some(match self.plan.rule(self.id)? {
            LayerRule::Epsilon(epsilon) => self.back(&relevance.div(&stabilised(z, epsilon)?)?, w, saved)?,
            LayerRule::Gamma { gamma, epsilon } => {
                let more = |w: &TrackedTensor| add(w, &w.relu()?.affine(gamma, 0.0)?);
                let z = with_bias(self.product(x, &more(w)?)?, &more)?;
                self.back(&relevance.div(&stabilised(&z, epsilon)?)?, &more(w)?, saved)?
            }
            LayerRule::ZPlus { epsilon } => {
                let z = with_bias(self.product(x, &w.relu()?)?, &|b| b.relu())?;
                self.back(&relevance.div(&stabilised(&z, epsilon)?)?, &w.relu()?, saved)?
            }
            LayerRule::AlphaBeta { alpha, beta } => {
                let (up, down) = (w.relu()?, negative(w)?);
                let (high, low) = (x.relu()?, negative(x)?);
                let positive = add(&self.product(&high, &up)?, &self.product(&low, &down)?)?;
                let negatives = add(&self.product(&high, &down)?, &self.product(&low, &up)?)?;
                let positive = with_bias(positive, &|b| b.relu())?;
                let negatives = with_bias(negatives, &negative)?;
                let s = ratio(&relevance, &positive)?.affine(alpha, 0.0)?;
                let t = ratio(&relevance, &negatives)?.affine(beta, 0.0)?;
                let above = sub(&self.back(&s, &up, saved)?, &self.back(&t, &down, saved)?)?;
                let below = sub(&self.back(&s, &down, saved)?, &self.back(&t, &up, saved)?)?;
                select(&x.ge(0.0)?, &above, &below)?
            }
            LayerRule::Identity => {
                if x.shape() != z.shape() {
                    let reason = "the identity rule needs a layer whose output has its input's shape";
                    return Err(Error::shape("relevance", &[*x.shape(), *z.shape()], reason));
                }
                ratio(&relevance, x)?
            }
        });
        Ok(grads)
    }
}

impl Primitive for Affine {
    fn name(&self) -> &'static str {
        "layer"
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(self.clone()))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        Ok(Signature::one(inputs[inputs.len() - 1]))
    }
    fn view(&self, _: &Meta, inputs: &[&Layout]) -> Option<(usize, Layout)> {
        Some((inputs.len() - 1, *inputs[inputs.len() - 1]))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        copy::copy(inputs[inputs.len() - 1], outputs[0].reborrow());
        Ok(())
    }
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        Ok(Some(smallvec![inputs[inputs.len() - 1].clone()]))
    }
}
