//! Layer-wise relevance propagation.

use crate::attribution::{Attribution, Method, deltas};
use crate::function::{Examples, Function, check_inputs, numbers};
use crate::layers::Layered;
use crate::multipliers::is_linear;
use crate::target::Target;
use autograd_core::algebra::{mul, scale, select};
use autograd_core::{
    Error, Grads, Level, Mask, Primitive, Result, Rule, Saved, Site, TrackedTensor, with_taps,
};
use autograd_ops::TensorAutograd;
use autograd_tape::{BackwardRule, Choice, GradientTape, RuleSet, own_backward};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

/// How a layer z = x·w + b hands its relevance R down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LayerRule {
    /// In proportion to the contributions: R_x = x · wᵀ(R / (z + ε·sign z)).
    Epsilon(f64),
    /// The same with the positive weights and biases enlarged by γ.
    Gamma {
        /// By how much positive weights count more.
        gamma: f64,
        /// The stabiliser ε.
        epsilon: f64,
    },
    /// α times in proportion to the positive contributions, less β times to the negative ones;
    /// α − β = 1 keeps the relevance.
    AlphaBeta {
        /// The share of positive contributions.
        alpha: f64,
        /// The share of negative contributions.
        beta: f64,
    },
    /// In proportion to what positive weights and biases contribute.
    ZPlus {
        /// The stabiliser ε.
        epsilon: f64,
    },
    /// R_x = R, for layers that keep the shape. An x of zero can hold no relevance here.
    Identity,
}

impl Default for LayerRule {
    fn default() -> Self {
        Self::Epsilon(EPSILON)
    }
}

/// Captum's stabiliser.
const EPSILON: f64 = 1e-9;

/// Which rule which layer has.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    rules: Rules,
    /// The names of the layers, in the order of their application.
    names: Mutex<Vec<Option<String>>>,
}

#[derive(Clone, Debug, Default)]
struct Rules {
    default: LayerRule,
    by_name: HashMap<String, LayerRule>,
    by_number: HashMap<usize, LayerRule>,
}

impl Plan {
    pub(crate) fn new_layer(&self) -> usize {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.push(None);
        names.len() - 1
    }

    /// A layer's first name is its own; later ones name what follows it.
    pub(crate) fn name(&self, layer: usize, name: &str) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = names.get_mut(layer) {
            slot.get_or_insert_with(|| name.to_owned());
        }
    }

    pub(crate) fn rule(&self, layer: usize) -> Result<LayerRule> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let name = names.get(layer).cloned().flatten();
        let by_name = name.and_then(|name| self.rules.by_name.get(&name).copied());
        Ok(by_name.or_else(|| self.rules.by_number.get(&layer).copied()).unwrap_or(self.rules.default))
    }

    /// Names that were given a rule but no layer.
    fn unknown(&self) -> Result<()> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |name: &String| names.iter().flatten().any(|known| known == name);
        if let Some(name) = self.rules.by_name.keys().find(|name| !known(name)) {
            let have: Vec<&String> = names.iter().flatten().collect();
            let reason = format!("no layer is tapped as {name:?}; there are {have:?}");
            return Err(Error::argument("relevance propagation", reason));
        }
        if let Some(number) = self.rules.by_number.keys().find(|&&number| number >= names.len()) {
            let reason = format!("there is no layer {number}: the function has {}", names.len());
            return Err(Error::argument("relevance propagation", reason));
        }
        Ok(())
    }
}

/// Layer-wise relevance propagation (Bach et al. 2015): the output is divided among the inputs,
/// layer by layer.
///
/// A layer is a product (`matmul`, `conv2d`, …) of a value that depends on the input with one that
/// does not, and the bias added to it. It takes the name of the next
/// [`tap`](autograd_core::tap) behind it, up to the following layer. Nonlinear functions of single
/// elements hand relevance down unchanged; sums divide it by the summands; max-pooling gives it to
/// the maximum. A product of two values that both depend on the input gives half to each, and a
/// softmax passes it by its derivative (Achtibat et al. 2024). The delta compares with the output.
///
/// ```
/// use autograd_core::{Result, TrackedTensor, tap};
/// use autograd_interpret::{LayerRule, Lrp, Method};
/// use autograd_ops::TensorAutograd;
///
/// fn main() -> Result<()> {
///     let w = TrackedTensor::from_vec(vec![1.0, -1.0, 2.0, 1.0], &[2, 2])?;
///     let v = TrackedTensor::from_vec(vec![1.0, 1.0], &[2, 1])?;
///     let net = |x: &TrackedTensor| tap("hidden", &x.matmul(&w)?.relu()?)?.matmul(&v);
///     let x = TrackedTensor::from_vec(vec![1.0, 1.0], &[1, 2])?;
///     let found = Lrp::new().on("hidden", LayerRule::ZPlus { epsilon: 1e-9 }).explain(net, &x, 0)?;
///     assert!(found.worst_delta() < 1e-6);
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Lrp {
    rules: Rules,
}

impl Lrp {
    /// ε = 1e-9 for every layer.
    pub fn new() -> Self {
        Self::default()
    }

    /// The rule of layers that have none of their own.
    #[must_use]
    pub fn rule(mut self, rule: LayerRule) -> Self {
        self.rules.default = rule;
        self
    }

    /// The rule of the layer of a name.
    #[must_use]
    pub fn on(mut self, layer: &str, rule: LayerRule) -> Self {
        self.rules.by_name.insert(layer.to_owned(), rule);
        self
    }

    /// The rule of the n-th layer in the order of application, from 0.
    #[must_use]
    pub fn on_number(mut self, layer: usize, rule: LayerRule) -> Self {
        self.rules.by_number.insert(layer, rule);
        self
    }

    /// The relevance of the inputs, or of a tapped value.
    pub(crate) fn run(
        &self,
        f: &Function<'_>,
        inputs: &[TrackedTensor],
        target: &Target,
        layer: Option<&str>,
    ) -> Result<Attribution> {
        let tape = GradientTape::with_rules(pass_on());
        let variables: Vec<TrackedTensor> =
            inputs.iter().map(|x| tape.try_variable(x)).collect::<Result<_>>()?;
        // Younger than the tape: what is inside these values is recorded on it.
        let level = Level::fresh();
        let plan = Arc::new(Plan { rules: self.rules.clone(), names: Mutex::default() });
        let layered: Vec<TrackedTensor> =
            variables.iter().map(|x| Layered::watch(level, &plan, x.clone())).collect();
        let tapped: Rc<RefCell<Vec<TrackedTensor>>> = Rc::default();
        let y = match layer {
            None => f(&layered)?,
            Some(wanted) => {
                let (wanted, found) = (wanted.to_owned(), tapped.clone());
                let look = move |name: &str, value: &TrackedTensor| {
                    if name == wanted {
                        found.borrow_mut().push(Layered::inside(value));
                    }
                    Ok(None)
                };
                with_taps(look, || f(&layered))?
            }
        };
        plan.unknown()?;
        let y = target.select(&y, Examples::of(inputs, &y))?;
        let y = Layered::inside(&y);
        let tapped = tapped.borrow();
        let sources: Vec<&TrackedTensor> = match layer {
            None => variables.iter().collect(),
            Some(name) => match &tapped[..] {
                [value] => vec![value],
                all => return Err(crate::taps::not_one(name, all.len())),
            },
        };
        let found = tape.gradient(&y.sum()?, &sources)?;
        let values: Vec<TrackedTensor> =
            found.iter().zip(&sources).map(|(g, v)| mul(g, &tape.unwatched(v))).collect::<Result<_>>()?;
        let high = numbers(&tape.unwatched(&y))?;
        let delta = deltas(&values, &high, &vec![0.0; high.len()])?;
        Ok(Attribution { values, delta: Some(delta), errors: None, steps: 1 })
    }
}

/// How ops that are no layers pass R / v on.
fn pass_on() -> RuleSet {
    RuleSet::new().otherwise(|op, watched| match op.rule() {
        Rule::Bilinear(a, b, _) if watched.has(a) && watched.has(b) => Choice::Backward(Arc::new(halved)),
        Rule::Pointwise(pointwise) if watched.len() == 2 => match pointwise.definition().name {
            "mul" => Choice::Backward(Arc::new(halved)),
            "div" => Choice::Backward(Arc::new(numerator)),
            _ => Choice::Own,
        },
        Rule::Pointwise(pointwise) if watched.len() == 1 && !is_linear(pointwise, watched) => {
            Choice::Backward(Arc::new(Unchanged))
        }
        Rule::Opaque(_) => Choice::Backward(Arc::new(refused)),
        Rule::Pointwise(_)
        | Rule::Linear(..)
        | Rule::Bilinear(..)
        | Rule::General(_)
        | Rule::Composite
        | Rule::Flat => Choice::Own,
    })
}

/// Half of the relevance of a product to each factor.
fn halved(
    op: &dyn Primitive,
    wanted: Mask,
    cts: &[Option<TrackedTensor>],
    saved: &Saved<'_>,
) -> Result<Grads> {
    let own = own_backward(op, wanted, cts, saved)?;
    own.into_iter().map(|ct| ct.map(|ct| scale(&ct, 0.5)).transpose()).collect()
}

/// All of the relevance of a quotient to the numerator.
fn numerator(
    op: &dyn Primitive,
    wanted: Mask,
    cts: &[Option<TrackedTensor>],
    saved: &Saved<'_>,
) -> Result<Grads> {
    let mut own = own_backward(op, wanted, cts, saved)?;
    own[1] = None;
    Ok(own)
}

fn refused(op: &dyn Primitive, _: Mask, _: &[Option<TrackedTensor>], _: &Saved<'_>) -> Result<Grads> {
    Err(Error::mode(op.name(), "relevance propagation", "a user's op says nothing of contributions"))
}

/// The relevance of f(x) is that of x: R / x = (R / y) · y / x, and the derivative at x = 0.
struct Unchanged;

impl BackwardRule for Unchanged {
    fn backward(
        &self,
        op: &dyn Primitive,
        wanted: Mask,
        cts: &[Option<TrackedTensor>],
        saved: &Saved<'_>,
    ) -> Result<Grads> {
        let mut own = own_backward(op, wanted, cts, saved)?;
        let (Some(i), Some(ct)) = (wanted.iter().next(), &cts[0]) else { return Ok(own) };
        let (x, y) = (saved.input(i)?, saved.output(0)?);
        if x.shape() == y.shape()
            && let Some(derivative) = own[i].take()
        {
            let some = x.ne(0.0)?;
            let ratio = y.div(&some.where_cond(x, 1.0)?)?;
            own[i] = Some(select(&some, &mul(ct, &ratio)?, &derivative)?);
        }
        Ok(own)
    }
}

impl Method for Lrp {
    fn name(&self) -> &'static str {
        "relevance propagation"
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        self.run(f, inputs, target, None).map_err(|e| e.or_at(site))
    }
}
