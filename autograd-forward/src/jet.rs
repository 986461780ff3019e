//! Taylor mode: truncated power series pushed forward op by op.

use crate::inline::inline;
use crate::jvp::checked;
use crate::series::by_forward_rule;
use autograd_core::algebra::{add, scale, zeros_like};
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    Applied, Call, Error, Level, MAX_COEFFICIENTS, Mask, Pointwise, Primitive, Residual, Result, Rule, Scope,
    Shape, Site, Tracer, TrackedTensor, Tree, Values, apply_call, on_behalf_of, same_structure,
};
use candle_core::{DType, DeviceLocation};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// The coefficients of t¹ … tⁿ; `None` is zero. They are derivatives divided by k!, so that
/// products need no binomials.
pub(crate) type Coefficients = SmallVec<[Option<TrackedTensor>; 4]>;

/// A value with the coefficients of its series.
struct JetTracer {
    level: Level,
    primal: TrackedTensor,
    coefficients: Coefficients,
    scope: Scope,
}

impl JetTracer {
    fn of(level: Level, value: &TrackedTensor) -> Option<&Self> {
        value.tracer()?.as_any().downcast_ref::<Self>().filter(|jet| jet.level == level)
    }

    /// An output with its coefficients; a constant where it has none.
    fn join(&self, primal: TrackedTensor, coefficients: Coefficients) -> TrackedTensor {
        jet_of(self.level, primal, coefficients, &self.scope)
    }
}

/// A value with coefficients from t¹ on; the value itself where there are none.
pub(crate) fn jet_of(
    level: Level,
    primal: TrackedTensor,
    coefficients: Coefficients,
    scope: &Scope,
) -> TrackedTensor {
    if coefficients.iter().all(Option::is_none) {
        return primal;
    }
    let scope = scope.clone();
    TrackedTensor::from_tracer(Arc::new(JetTracer { level, primal, coefficients, scope }))
}

/// The coefficient of tᵏ; `None` is zero.
pub(crate) fn part_of(level: Level, value: &TrackedTensor, k: usize) -> Option<TrackedTensor> {
    match (JetTracer::of(level, value), k) {
        (Some(jet), 0) => Some(jet.primal.clone()),
        (Some(jet), k) => jet.coefficients.get(k - 1)?.clone(),
        (None, 0) => Some(value.clone()),
        (None, _) => None,
    }
}

impl fmt::Debug for JetTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "jet of order {} level {}", self.coefficients.len(), self.level.number())
    }
}

impl Tracer for JetTracer {
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
        let order = self.coefficients.len();
        let jets: SmallVec<[Option<&Self>; 4]> = inputs.iter().map(|x| Self::of(self.level, x)).collect();
        let primals: SmallVec<[&TrackedTensor; 4]> =
            inputs.iter().zip(&jets).map(|(x, jet)| jet.map_or(*x, |j| &j.primal)).collect();
        let given = |i: usize, k: usize| jets[i].and_then(|jet| jet.coefficients[k - 1].as_ref());
        let made = match op.rule() {
            Rule::Flat => return apply_call(op, &primals, aux, site),
            Rule::Opaque(_) => {
                let reason = "a CustomOp has a reverse rule only";
                return Err(Error::mode(op.name(), "Taylor mode", reason));
            }
            Rule::Composite => return inline(op, inputs, site, "Taylor mode"),
            Rule::General(rule) => {
                if let Some(outputs) = on_behalf_of(site, || op.decompose(inputs))? {
                    return Ok(Applied { outputs, aux: Values::new() });
                }
                let made = apply_call(op, &primals, aux, site)?;
                let told = (&self.scope, "Taylor mode");
                let series = on_behalf_of(site, || {
                    by_forward_rule((op, rule), order, &primals, &made.outputs, given, told)
                })?;
                (made, series)
            }
            Rule::Pointwise(pointwise) => {
                let made = apply_call(op, &primals, aux, site)?;
                let series = on_behalf_of(site, || expand(pointwise, order, &primals, &made.outputs, given))?;
                (made, series)
            }
            // yₖ = f(xₖ), the inputs in which f is not linear held.
            Rule::Linear(linear, _) => {
                let made = apply_call(op, &primals, aux, site)?;
                let mut series: Vec<Coefficients> = vec![SmallVec::new(); made.outputs.len()];
                for k in 1..=order {
                    let moves = (0..inputs.len()).any(|i| linear.has(i) && given(i, k).is_some());
                    let pushed = match moves {
                        true => Some(on_behalf_of(site, || {
                            linear_part(op, linear, &primals, |i| given(i, k), site)
                        })?),
                        false => None,
                    };
                    for (j, series) in series.iter_mut().enumerate() {
                        series.push(pushed.as_ref().map(|p| p[j].clone()));
                    }
                }
                (made, series)
            }
            // Leibniz: yₖ = Σⱼ f(aⱼ, bₖ₋ⱼ).
            Rule::Bilinear(a, b, _) => {
                let made = apply_call(op, &primals, aux, site)?;
                let at = |i: usize, k: usize| if k == 0 { Some(primals[i]) } else { given(i, k) };
                let mut series = Coefficients::new();
                for k in 1..=order {
                    let mut total: Option<TrackedTensor> = None;
                    for j in 0..=k {
                        let (Some(left), Some(right)) = (at(a, j), at(b, k - j)) else { continue };
                        let part =
                            on_behalf_of(site, || bilinear_part(op, (a, left), (b, right), &primals, site))?;
                        total = Some(match total {
                            Some(total) => on_behalf_of(site, || add(&total, &part))?,
                            None => part,
                        });
                    }
                    series.push(total);
                }
                (made, vec![series])
            }
        };
        let (made, series) = made;
        let outputs = made.outputs.into_iter().zip(series).map(|(y, series)| self.join(y, series));
        Ok(Applied { outputs: outputs.collect(), aux: made.aux })
    }
}

/// The series of a pointwise op's outputs, as one fused expression.
fn expand<'a>(
    op: &Pointwise,
    order: usize,
    primals: &[&TrackedTensor],
    outputs: &[TrackedTensor],
    given: impl Fn(usize, usize) -> Option<&'a TrackedTensor>,
) -> Result<Vec<Coefficients>> {
    let masks = op.definition().masks;
    if primals.len() * order > MAX_COEFFICIENTS {
        let reason = format!("order {order} with {} inputs has too many coefficients", primals.len());
        return Err(Error::mode(op.definition().name, "Taylor mode", reason));
    }
    let there = |bit: usize| (bit / order, bit % order + 1);
    let present = Mask::of(primals.len() * order, |bit| {
        let (i, k) = there(bit);
        !masks.has(i) && given(i, k).is_some()
    });
    let rule = op.expr().taylor(present, order);
    let mut reads: SmallVec<[&TrackedTensor; 6]> = SmallVec::new();
    for residual in &rule.residuals {
        reads.push(match *residual {
            Residual::Input(i) => primals[i],
            Residual::Output(j) => &outputs[j],
            Residual::Aux(_) => {
                return Err(Error::internal(op.definition().name, "an expression has no hints"));
            }
        });
    }
    reads.extend(present.iter().filter_map(|bit| {
        let (i, k) = there(bit);
        given(i, k)
    }));
    let shape = *outputs[0].shape();
    let targets: SmallVec<[Shape; 2]> = rule.present.iter().filter(|there| **there).map(|_| shape).collect();
    let mut made = match targets.is_empty() {
        true => Values::new(),
        false => op.fused(&rule.definition, &reads, shape, &targets)?,
    }
    .into_iter();
    let coefficient = |there: &bool| if *there { made.next() } else { None };
    let mut flat = rule.present.iter().map(coefficient).collect::<Vec<_>>().into_iter();
    Ok((0..outputs.len()).map(|_| flat.by_ref().take(order).collect()).collect())
}

/// f of one coefficient each of the inputs in which it is linear, zeros where there is none.
pub(crate) fn linear_part<'a>(
    op: &dyn Primitive,
    linear: Mask,
    primals: &[&TrackedTensor],
    given: impl Fn(usize) -> Option<&'a TrackedTensor>,
    site: Site,
) -> Result<Values> {
    let mut inputs: SmallVec<[TrackedTensor; 4]> = SmallVec::new();
    for (i, primal) in primals.iter().enumerate() {
        inputs.push(match given(i) {
            Some(coefficient) if linear.has(i) => coefficient.clone(),
            None if linear.has(i) => zeros_like(primal)?,
            _ => (*primal).clone(),
        });
    }
    let refs: SmallVec<[&TrackedTensor; 4]> = inputs.iter().collect();
    Ok(apply_call(op, &refs, false, site)?.outputs)
}

/// f with two inputs replaced.
pub(crate) fn bilinear_part(
    op: &dyn Primitive,
    (a, left): (usize, &TrackedTensor),
    (b, right): (usize, &TrackedTensor),
    primals: &[&TrackedTensor],
    site: Site,
) -> Result<TrackedTensor> {
    let mut inputs: SmallVec<[&TrackedTensor; 4]> = primals.iter().copied().collect();
    inputs[a] = left;
    inputs[b] = right;
    let made = apply_call(op, &inputs, false, site)?.outputs.into_iter().next();
    made.ok_or_else(|| Error::internal(op.name(), "it has no output"))
}

/// f along a curve: for x(t) with the derivatives `series` = x′(0), x″(0), …, the value f(x(0))
/// and the derivatives of f(x(t)) at 0, to the same order, in one pass. Its cost grows with the
/// square of the order, where nested derivatives double with each (as linear systems and
/// factorisations do here).
///
/// # Errors
/// [`Error::Mismatch`] or [`Error::TreeMismatch`] where a coefficient does not fit the primals;
/// [`Error::UnsupportedMode`] at an op with neither a forward rule nor a
/// decomposition; what `f` reports.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_forward::jet;
/// use autograd_ops::TensorAutograd;
///
/// fn main() -> Result<()> {
///     let number = TrackedTensor::scalar;
///     // sin(t²): 0, 0, 2.
///     let (y, series) = jet(|x| x.sin(), &number(0.0), &[number(0.0), number(2.0)])?;
///     assert_eq!(y.to_scalar::<f64>()?, 0.0);
///     assert_eq!(series[0].to_scalar::<f64>()?, 0.0);
///     assert_eq!(series[1].to_scalar::<f64>()?, 2.0);
///     Ok(())
/// }
/// ```
///
/// Follows Griewank & Walther, *Evaluating Derivatives*, chapter 13; the recurrences are derived
/// from each expression's symbolic derivative.
#[track_caller]
pub fn jet<P, V, O>(f: impl FnOnce(&P::Owned) -> Result<O>, primals: &P, series: &[V]) -> Result<(O, Vec<O>)>
where
    P: Tree + ?Sized,
    V: Tree<Owned = P::Owned>,
    O: Tree<Owned = O>,
{
    let site = Site::caller();
    for coefficient in series {
        same_structure("a coefficient", coefficient, primals, site)?;
    }
    let leaves: Vec<Vec<&TrackedTensor>> = series.iter().map(Tree::leaves).collect();
    let coefficient = |i: usize, k: usize| leaves[k - 1].get(i).map(|v| (*v).clone());
    push("jet", f, primals, series.len(), coefficient, site)
}

/// f(x + t·v) at t = 0 and its derivatives to order n: f, f′, …, f⁽ⁿ⁾ along v.
///
/// # Errors
/// As [`jet`].
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_forward::derivatives;
/// use autograd_ops::TensorAutograd;
///
/// fn main() -> Result<()> {
///     let (x, one) = (TrackedTensor::scalar(4.0), TrackedTensor::scalar(1.0));
///     let d = derivatives(|x| x.recip(), &x, &one, 6)?;
///     assert_eq!(d[6].to_scalar::<f64>()?, 0.0439453125);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn derivatives<P, V, O>(
    f: impl FnOnce(&P::Owned) -> Result<O>,
    primals: &P,
    v: &V,
    order: usize,
) -> Result<Vec<O>>
where
    P: Tree + ?Sized,
    V: Tree<Owned = P::Owned> + ?Sized,
    O: Tree<Owned = O>,
{
    let site = Site::caller();
    same_structure("the direction", v, primals, site)?;
    let leaves = v.leaves();
    let coefficient = |i: usize, k: usize| (k == 1).then(|| leaves.get(i).map(|v| (*v).clone())).flatten();
    let (y, rest) = push("derivatives", f, primals, order, coefficient, site)?;
    Ok(std::iter::once(y).chain(rest).collect())
}

/// Runs `f` on series; coefficients in and out are derivatives.
fn push<P, O>(
    transform: &'static str,
    f: impl FnOnce(&P::Owned) -> Result<O>,
    primals: &P,
    order: usize,
    coefficient: impl Fn(usize, usize) -> Option<TrackedTensor>,
    site: Site,
) -> Result<(O, Vec<O>)>
where
    P: Tree + ?Sized,
    O: Tree<Owned = O>,
{
    let level = Level::fresh();
    let guard = Scope::enter(transform, site);
    let mut at = 0;
    let jets = primals.rebuild(&mut |x| {
        let mut coefficients = Coefficients::new();
        for k in 1..=order {
            coefficients.push(match coefficient(at, k) {
                Some(v) => {
                    checked(x, &v, site)?;
                    Some(if k == 1 { v } else { scale(&v, 1.0 / factorial(k))? })
                }
                None => None,
            });
        }
        at += 1;
        if order == 0 {
            return Ok(x.clone());
        }
        let scope = guard.scope().clone();
        Ok(TrackedTensor::from_tracer(Arc::new(JetTracer { level, primal: x.clone(), coefficients, scope })))
    })?;
    let outputs = f(&jets)?;
    drop(jets);
    let ys = outputs.rebuild(&mut |y| match y.failure() {
        Some(error) => Err(error.clone().or_at(site)),
        None => Ok(JetTracer::of(level, y).map_or_else(|| y.clone(), |jet| jet.primal.clone())),
    })?;
    let orders = (1..=order).map(|k| {
        outputs.rebuild(&mut |y| match JetTracer::of(level, y) {
            Some(JetTracer { primal, coefficients, .. }) => match &coefficients[k - 1] {
                Some(c) if k == 1 => Ok(c.clone()),
                Some(c) => scale(c, factorial(k)),
                None => zeros_like(primal),
            },
            None => zeros_like(y),
        })
    });
    let orders = orders.collect::<Result<Vec<O>>>()?;
    Ok((ys, orders))
}

fn factorial(k: usize) -> f64 {
    (1..=k).map(|i| i as f64).product()
}
