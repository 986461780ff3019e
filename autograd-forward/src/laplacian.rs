//! The Laplacian in one pass: first derivatives along all directions, and the sum of the second.

use crate::inline::inline;
use crate::jet::{bilinear_part, linear_part};
use crate::jvp::checked;
use crate::series::by_forward_rule;
use autograd_core::algebra::{add, cast, narrow, reshape, scale, sum_to, zeros_like};
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Applied, At, Call, Error, General, Level, Mask, Pointwise, Primitive, Residual, Result, Rule, Scope,
    Shape, Site, Tracer, TrackedTensor, Values, apply_call, checked_shape, on_behalf_of,
};
use autograd_ops::stack;
use candle_core::{DType, DeviceLocation};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// What one pass of [`laplacian`] finds.
#[derive(Clone, Debug)]
pub struct Laplacian {
    /// f(x).
    pub value: TrackedTensor,
    /// The derivative along each direction, the directions in front: for [`laplacian`] the
    /// partial derivatives with respect to each element of x, shape n ++ output.
    pub slopes: TrackedTensor,
    /// The sum over directions of the second derivatives, in the output's shape.
    pub laplacian: TrackedTensor,
}

/// A value with its first derivatives and half the sum of its second ones.
struct LaplacianTracer {
    level: Level,
    primal: TrackedTensor,
    /// Along each direction, the directions in front.
    slopes: Option<TrackedTensor>,
    /// ½·Σ of the second derivatives: the coefficient of t², summed.
    curve: Option<TrackedTensor>,
    directions: usize,
    scope: Scope,
}

impl LaplacianTracer {
    fn of(level: Level, value: &TrackedTensor) -> Option<&Self> {
        value.tracer()?.as_any().downcast_ref::<Self>().filter(|found| found.level == level)
    }

    fn join(
        &self,
        primal: TrackedTensor,
        slopes: Option<TrackedTensor>,
        curve: Option<TrackedTensor>,
    ) -> TrackedTensor {
        if slopes.is_none() && curve.is_none() {
            return primal;
        }
        let (level, directions, scope) = (self.level, self.directions, self.scope.clone());
        TrackedTensor::from_tracer(Arc::new(Self { level, primal, slopes, curve, directions, scope }))
    }
}

impl LaplacianTracer {
    /// An op with a forward rule alone: a series to t² for each direction, one after the other,
    /// and the curves as tangents.
    fn one_by_one<'a>(
        &self,
        op: &dyn Primitive,
        rule: &dyn General,
        primals: &[&TrackedTensor],
        outputs: &[TrackedTensor],
        slope: impl Fn(usize) -> Option<&'a TrackedTensor>,
        curve: impl Fn(usize) -> Option<&'a TrackedTensor>,
    ) -> Result<Vec<Parts>> {
        let told = (&self.scope, "the Laplacian");
        let curves = by_forward_rule(
            (op, rule),
            1,
            primals,
            outputs,
            |i, k| if k == 1 { curve(i) } else { None },
            told,
        )?;
        let mut curves: Vec<Option<TrackedTensor>> = curves.into_iter().map(|mut c| c.remove(0)).collect();
        let mut slopes: Vec<Vec<TrackedTensor>> = vec![Vec::new(); outputs.len()];
        for d in 0..self.directions {
            let mut along: SmallVec<[Option<TrackedTensor>; 4]> = SmallVec::new();
            for (i, primal) in primals.iter().enumerate() {
                along.push(match slope(i) {
                    Some(slopes) => Some(reshape(&narrow(slopes, 0, d, 1)?, primal.shape())?),
                    None => None,
                });
            }
            let given = |i: usize, k: usize| if k == 1 { along[i].as_ref() } else { None };
            let series = by_forward_rule((op, rule), 2, primals, outputs, given, told)?;
            for (j, mut parts) in series.into_iter().enumerate() {
                curves[j] = sum([curves[j].take(), parts.remove(1)])?;
                slopes[j].push(parts.remove(0).map_or_else(|| zeros_like(&outputs[j]), Ok)?);
            }
        }
        let join = |(slopes, curve): (Vec<TrackedTensor>, _)| Ok((Some(stack(&slopes, 0)?), curve));
        slopes.into_iter().zip(curves).map(join).collect()
    }
}

impl fmt::Debug for LaplacianTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "laplacian over {} directions level {}", self.directions, self.level.number())
    }
}

impl Tracer for LaplacianTracer {
    fn level(&self) -> Level {
        self.level
    }

    fn shape(&self) -> &Shape {
        self.primal.shape()
    }

    fn dtype(&self) -> DType {
        self.primal.dtype()
    }

    fn device(&self) -> DeviceLocation {
        self.primal.location()
    }

    fn lower(&self) -> Option<&TrackedTensor> {
        Some(&self.primal)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn process(&self, call: &Call<'_>) -> Result<Applied> {
        let Call { op, inputs, aux, site } = *call;
        self.scope.check(site)?;
        let found: SmallVec<[Option<&Self>; 4]> = inputs.iter().map(|x| Self::of(self.level, x)).collect();
        let primals: SmallVec<[&TrackedTensor; 4]> =
            inputs.iter().zip(&found).map(|(x, own)| own.map_or(*x, |own| &own.primal)).collect();
        let slope = |i: usize| found[i].and_then(|own| own.slopes.as_ref());
        let curve = |i: usize| found[i].and_then(|own| own.curve.as_ref());
        match op.rule() {
            Rule::Flat => apply_call(op, &primals, aux, site),
            Rule::Opaque(_) => {
                Err(Error::mode(op.name(), "the Laplacian", "a CustomOp has a reverse rule only"))
            }
            Rule::Composite => inline(op, inputs, site, "the Laplacian"),
            Rule::General(rule) => {
                if let Some(outputs) = on_behalf_of(site, || op.decompose(inputs))? {
                    return Ok(Applied { outputs, aux: Values::new() });
                }
                let made = apply_call(op, &primals, aux, site)?;
                let parts =
                    on_behalf_of(site, || self.one_by_one(op, rule, &primals, &made.outputs, slope, curve))?;
                let outputs = made.outputs.into_iter().zip(parts).map(|(y, (s, c))| self.join(y, s, c));
                Ok(Applied { outputs: outputs.collect(), aux: made.aux })
            }
            Rule::Pointwise(pointwise) => {
                let made = apply_call(op, &primals, aux, site)?;
                let n = self.directions;
                let parts =
                    on_behalf_of(site, || expand(pointwise, n, &primals, &made.outputs, slope, curve))?;
                let outputs = made.outputs.into_iter().zip(parts).map(|(y, (s, c))| self.join(y, s, c));
                Ok(Applied { outputs: outputs.collect(), aux: made.aux })
            }
            // Both parts go through f, the slopes as a batch.
            Rule::Linear(linear, _) => {
                let made = apply_call(op, &primals, aux, site)?;
                let any = |part: &dyn Fn(usize) -> bool| (0..inputs.len()).any(|i| linear.has(i) && part(i));
                let slopes = match any(&|i| slope(i).is_some()) {
                    true => {
                        Some(on_behalf_of(site, || batch_part(op, linear, &primals, slope, self.directions))?)
                    }
                    false => None,
                };
                let curves = match any(&|i| curve(i).is_some()) {
                    true => Some(on_behalf_of(site, || linear_part(op, linear, &primals, curve, site))?),
                    false => None,
                };
                let outputs = made.outputs.into_iter().enumerate().map(|(j, y)| {
                    let part = |parts: &Option<Values>| parts.as_ref().map(|parts| parts[j].clone());
                    self.join(y, part(&slopes), part(&curves))
                });
                Ok(Applied { outputs: outputs.collect(), aux: made.aux })
            }
            // ∂f(a, b) = f(∂a, b) + f(a, ∂b), and ½Δ: the same of the curves, and Σ f(∂a, ∂b).
            Rule::Bilinear(a, b, _) => {
                let made = apply_call(op, &primals, aux, site)?;
                let (slopes, curves) = on_behalf_of(site, || -> Result<_> {
                    let one = |i: usize, x: Option<&TrackedTensor>| match x {
                        Some(x) => {
                            let mut held: SmallVec<[&TrackedTensor; 4]> = primals.iter().copied().collect();
                            held[i] = x;
                            batch(op, Mask::one(i), &held, self.directions).map(Some)
                        }
                        None => Ok(None),
                    };
                    let slopes = sum([one(a, slope(a))?, one(b, slope(b))?])?;
                    let single = |i: usize, x: Option<&TrackedTensor>| match x {
                        Some(x) if i == a => {
                            bilinear_part(op, (a, x), (b, primals[b]), &primals, site).map(Some)
                        }
                        Some(x) => bilinear_part(op, (a, primals[a]), (b, x), &primals, site).map(Some),
                        None => Ok(None),
                    };
                    let cross = match (slope(a), slope(b)) {
                        (Some(left), Some(right)) => {
                            let mut held: SmallVec<[&TrackedTensor; 4]> = primals.iter().copied().collect();
                            held[a] = left;
                            held[b] = right;
                            let products = batch(op, Mask::one(a).with(b), &held, self.directions)?;
                            Some(sum_to(&products, made.outputs[0].shape())?)
                        }
                        _ => None,
                    };
                    let curves = sum([single(a, curve(a))?, single(b, curve(b))?])?;
                    Ok((slopes, sum([curves, cross])?))
                })?;
                let outputs = made.outputs.into_iter().map(|y| self.join(y, slopes.clone(), curves.clone()));
                Ok(Applied { outputs: outputs.collect(), aux: made.aux })
            }
        }
    }
}

fn sum(parts: [Option<TrackedTensor>; 2]) -> Result<Option<TrackedTensor>> {
    match parts {
        [Some(a), Some(b)] => add(&a, &b).map(Some),
        [a, b] => Ok(a.or(b)),
    }
}

/// An op of one output over a batch of directions.
fn batch(op: &dyn Primitive, batched: Mask, inputs: &[&TrackedTensor], n: usize) -> Result<TrackedTensor> {
    let made = op.batch(batched, inputs, n)?.and_then(|made| made.into_iter().next());
    made.ok_or_else(|| Error::mode(op.name(), "the Laplacian", "it has no batch rule"))
}

/// A linear op over slopes: those that are there carry the directions in front.
fn batch_part<'a>(
    op: &dyn Primitive,
    linear: Mask,
    primals: &[&TrackedTensor],
    slope: impl Fn(usize) -> Option<&'a TrackedTensor>,
    n: usize,
) -> Result<Values> {
    let mut inputs: SmallVec<[TrackedTensor; 4]> = SmallVec::new();
    for (i, primal) in primals.iter().enumerate() {
        inputs.push(match slope(i) {
            Some(slope) if linear.has(i) => slope.clone(),
            None if linear.has(i) => zeros_like(primal)?,
            _ => (*primal).clone(),
        });
    }
    let batched = Mask::of(inputs.len(), |i| linear.has(i) && slope(i).is_some());
    let refs: SmallVec<[&TrackedTensor; 4]> = inputs.iter().collect();
    op.batch(batched, &refs, n)?
        .ok_or_else(|| Error::mode(op.name(), "the Laplacian", "it has no batch rule"))
}

type Parts = (Option<TrackedTensor>, Option<TrackedTensor>);

/// A pointwise op: the second-order series of all directions in one fused expression, whose t²
/// part is summed over them while it is computed.
fn expand<'a>(
    op: &Pointwise,
    n: usize,
    primals: &[&TrackedTensor],
    outputs: &[TrackedTensor],
    slope: impl Fn(usize) -> Option<&'a TrackedTensor>,
    curve: impl Fn(usize) -> Option<&'a TrackedTensor>,
) -> Result<Vec<Parts>> {
    let masks = op.definition().masks;
    let name = op.definition().name;
    let shape = *outputs[0].shape();
    // The curves go through as tangents do.
    let curves: SmallVec<[Option<TrackedTensor>; 4]> =
        (0..primals.len()).map(|i| curve(i).filter(|_| !masks.has(i)).cloned()).collect();
    let mut curved = match curves.iter().any(Option::is_some) {
        true => op.jvp(primals, outputs, &curves)?,
        false => outputs.iter().map(|_| None).collect(),
    };
    let moving = Mask::of(primals.len(), |i| !masks.has(i) && slope(i).is_some());
    if moving.is_empty() {
        return Ok(curved.into_iter().map(|curve| (None, curve)).collect());
    }
    let rule = op.expr().taylor(moving.iter().map(|i| 2 * i).collect(), 2);
    // Slopes with the directions in front of all dimensions of the output.
    let mut aligned: SmallVec<[TrackedTensor; 4]> = SmallVec::new();
    for i in moving.iter() {
        let Some(slope) = slope(i) else { continue };
        let mut dims: SmallVec<[usize; 8]> = SmallVec::from_slice(&[n]);
        dims.resize(1 + shape.rank() + 1 - slope.rank(), 1);
        dims.extend_from_slice(&slope.dims()[1..]);
        aligned.push(reshape(slope, &checked_shape(name, &dims)?)?);
    }
    let mut reads: SmallVec<[&TrackedTensor; 6]> = SmallVec::new();
    for residual in &rule.residuals {
        reads.push(match *residual {
            Residual::Input(i) => primals[i],
            Residual::Output(j) => &outputs[j],
            Residual::Aux(_) => return Err(Error::internal(name, "an expression has no hints")),
        });
    }
    reads.extend(aligned.iter());
    let dims: SmallVec<[usize; 8]> = std::iter::once(n).chain(shape.dims().iter().copied()).collect();
    let wide = checked_shape(name, &dims)?;
    let orders = rule.present.iter().enumerate().filter(|(_, there)| **there).map(|(at, _)| at % 2);
    let targets: SmallVec<[Shape; 2]> = orders.map(|order| if order == 0 { wide } else { shape }).collect();
    let mut made = match targets.is_empty() {
        true => Values::new(),
        false => op.fused(&rule.definition, &reads, wide, &targets)?,
    }
    .into_iter();
    let mut parts = Vec::with_capacity(outputs.len());
    for (j, there) in rule.present.chunks(2).enumerate() {
        let slopes = if there[0] { made.next() } else { None };
        let bent = if there[1] { made.next() } else { None };
        parts.push((slopes, sum([curved[j].take(), bent])?));
    }
    Ok(parts)
}

/// f, its partial derivatives and its Laplacian Σᵢ ∂²f/∂xᵢ² in one forward pass, without any
/// other second derivative (the forward Laplacian of Li et al. 2023). Works for outputs of any
/// shape; each element has its own Laplacian. The result can be differentiated again.
///
/// # Errors
/// [`Error::NotDifferentiable`] for an integer x; [`Error::UnsupportedMode`] at an op that cannot
/// be decomposed; what `f` reports.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_forward::laplacian;
/// use autograd_ops::TensorAutograd;
///
/// fn main() -> Result<()> {
///     // Δ|x|⁴ = 4(n + 2)|x|².
///     let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
///     let found = laplacian(|x| x.sqr()?.sum()?.sqr(), &x)?;
///     assert_eq!(found.value.to_scalar::<f64>()?, 25.0);
///     assert_eq!(found.slopes.to_vec1::<f64>()?, [20.0, 40.0]);
///     assert_eq!(found.laplacian.to_scalar::<f64>()?, 80.0);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn laplacian(
    f: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
) -> Result<Laplacian> {
    let site = Site::caller();
    if let Some(error) = x.failure() {
        return Err(error.clone().or_at(site));
    }
    let n = x.elem_count();
    let mut data = vec![0f32; n * n];
    (0..n).for_each(|i| data[i * n + i] = 1.0);
    let dims: SmallVec<[usize; 8]> = std::iter::once(n).chain(x.dims().iter().copied()).collect();
    let shape = checked_shape("laplacian", &dims).map_err(|e| e.or_at(site))?;
    if !autograd_core::is_float(x.dtype()) {
        return Err(Error::NotDifferentiable { dtype: x.dtype(), at: At::from(site) });
    }
    let units = cast(&reshape(&TrackedTensor::from_vec(data, &[n, n])?, &shape)?, x.dtype())?;
    push(f, x, &units, site)
}

/// As [`laplacian`], over given directions: `directions` has them in front, each of x's shape (or
/// one that broadcasts to it). Σ over directions v of vᵀ·H·v: a Laplacian over some of the
/// inputs, or for many points at once.
///
/// # Errors
/// [`Error::Shape`] where the directions do not broadcast to x; as [`laplacian`].
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_forward::laplacian_along;
/// use autograd_ops::TensorAutograd;
///
/// fn main() -> Result<()> {
///     // x²·y at three points: the Laplacian at each is 2y.
///     let points = TrackedTensor::from_vec(vec![1f64, 2., 3., 4., 5., 6.], &[3, 2])?;
///     let axes = TrackedTensor::from_vec(vec![1f64, 0., 0., 1.], &[2, 1, 2])?;
///     let f = |p: &TrackedTensor| p.narrow(1, 0, 1)?.sqr()?.mul(p.narrow(1, 1, 1)?);
///     let found = laplacian_along(f, &points, &axes)?;
///     assert_eq!(found.laplacian.to_flat::<f64>()?, [4., 8., 12.]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn laplacian_along(
    f: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
    directions: &TrackedTensor,
) -> Result<Laplacian> {
    let site = Site::caller();
    if let Some(error) = x.failure().or_else(|| directions.failure()) {
        return Err(error.clone().or_at(site));
    }
    let misfit = || {
        let reason = "the second needs the directions in front and then the first's shape";
        Error::shape("laplacian_along", &[*x.shape(), *directions.shape()], reason).or_at(site)
    };
    let [n, ..] = directions.dims() else { return Err(misfit()) };
    let dims: SmallVec<[usize; 8]> = std::iter::once(*n).chain(x.dims().iter().copied()).collect();
    let shape = checked_shape("laplacian_along", &dims).map_err(|e| e.or_at(site))?;
    if directions.rank() != x.rank() + 1 {
        return Err(misfit());
    }
    let wide = autograd_core::algebra::broadcast_to(directions, &shape).map_err(|_| misfit())?;
    push(f, x, &wide, site)
}

fn push(
    f: impl FnOnce(&TrackedTensor) -> Result<TrackedTensor>,
    x: &TrackedTensor,
    directions: &TrackedTensor,
    site: Site,
) -> Result<Laplacian> {
    let n = directions.dims()[0];
    if directions.dtype() != x.dtype() {
        // The directions carry one dimension more, so only the type is compared here.
        let (got, want) = (Box::new(directions.meta()), Box::new(x.meta()));
        return Err(Error::Mismatch { what: "the directions", got, want, at: At::from(site) });
    }
    checked(x, x, site)?;
    let level = Level::fresh();
    let guard = Scope::enter("laplacian", site);
    let (primal, slopes, scope) = (x.clone(), Some(directions.clone()), guard.scope().clone());
    let tracer = LaplacianTracer { level, primal, slopes, curve: None, directions: n, scope };
    let y = f(&TrackedTensor::from_tracer(Arc::new(tracer)))?;
    if let Some(error) = y.failure() {
        return Err(error.clone().or_at(site));
    }
    let (value, slopes, curve) = match LaplacianTracer::of(level, &y) {
        Some(own) => (own.primal.clone(), own.slopes.clone(), own.curve.clone()),
        None => (y.clone(), None, None),
    };
    let slopes = match slopes {
        Some(slopes) => slopes,
        None => {
            let dims: SmallVec<[usize; 8]> = std::iter::once(n).chain(value.dims().iter().copied()).collect();
            let meta = value.meta().with_shape(checked_shape("laplacian", &dims)?);
            autograd_core::algebra::fill(0.0, &meta, &value)?
        }
    };
    let laplacian = match curve {
        Some(curve) => scale(&curve, 2.0)?,
        None => zeros_like(&value)?,
    };
    Ok(Laplacian { value, slopes, laplacian })
}
