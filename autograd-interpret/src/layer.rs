//! Attribution to a layer: a value that the function names with `tap`.

use crate::attribution::{Attribution, Method, deltas};
use crate::baseline::Baseline;
use crate::control::{Control, controls};
use crate::copies::{add_to, weighted_sum};
use crate::deep_lift::DeepLift;
use crate::function::{Examples, Function, check_inputs};
use crate::guided::GuidedBackprop;
use crate::integrated::{IntegratedGradients, Path};
use crate::quadrature::Quadrature;
use crate::relevance::Lrp;
use crate::slopes::outputs;
use crate::taps::{activation, not_one, tapped, with_value};
use crate::target::Target;
use autograd_core::algebra::{mul, sub, zeros_like};
use autograd_core::{Error, Result, Site, TrackedTensor, with_taps};
use autograd_ops::TensorAutograd;
use autograd_ops::resample::upsample_nearest2d;
use autograd_tape::GradientTape;
use std::cell::RefCell;
use std::rc::Rc;

/// What a layer's value is, by its name.
///
/// # Errors
/// [`Error::InvalidArgument`] where the function taps the name not at all or several times;
/// whatever `f` reports.
#[track_caller]
pub fn layer_activation(f: &Function<'_>, inputs: &[TrackedTensor], layer: &str) -> Result<TrackedTensor> {
    let site = Site::caller();
    activation(f, inputs, layer).map_err(|e| e.or_at(site))
}

/// A tapped value, the explained numbers and their gradient at the value.
pub(crate) struct LayerSlopes {
    pub(crate) value: TrackedTensor,
    pub(crate) gradient: TrackedTensor,
}

/// The gradient at a tapped value: the function is recorded from there on only.
pub(crate) fn layer_slopes(
    f: &Function<'_>,
    inputs: &[TrackedTensor],
    target: &Target,
    layer: &str,
) -> Result<LayerSlopes> {
    let tape = Rc::new(GradientTape::new());
    let found: Rc<RefCell<Vec<TrackedTensor>>> = Rc::default();
    let (wanted, keep, on) = (layer.to_owned(), found.clone(), tape.clone());
    let look = move |name: &str, value: &TrackedTensor| {
        if name != wanted {
            return Ok(None);
        }
        let variable = on.try_variable(value)?;
        keep.borrow_mut().push(variable.clone());
        Ok(Some(variable))
    };
    let y = with_taps(look, || f(inputs))?;
    let found = found.borrow();
    let [value] = &found[..] else { return Err(not_one(layer, found.len())) };
    let y = target.select(&y, Examples::of(inputs, &y))?;
    let gradient = tape.derivative(&y.sum()?, value)?;
    Ok(LayerSlopes { value: tape.unwatched(value), gradient })
}

/// h · ∂y/∂h for a layer's value h.
///
/// # Errors
/// As [`layer_activation`].
#[track_caller]
pub fn layer_gradient_x_activation(
    f: &Function<'_>,
    inputs: &[TrackedTensor],
    target: &Target,
    layer: &str,
) -> Result<TrackedTensor> {
    let site = Site::caller();
    let found = layer_slopes(f, inputs, target, layer).map_err(|e| e.or_at(site))?;
    mul(&found.value, &found.gradient)
}

/// Class activation maps by gradients (Selvaraju et al. 2017): Σ over channels of the value times
/// the gradient's mean over all places. A layer of shape B×C×… gives B×1×….
///
/// # Errors
/// As [`layer_activation`]; [`Error::Shape`] for a layer without channels.
#[track_caller]
pub fn grad_cam(
    f: &Function<'_>,
    inputs: &[TrackedTensor],
    target: &Target,
    layer: &str,
) -> Result<TrackedTensor> {
    let site = Site::caller();
    let run = || {
        let found = layer_slopes(f, inputs, target, layer)?;
        if found.value.rank() < 2 {
            let reason = "a layer of shape batch × channels × places is needed";
            return Err(Error::shape("grad_cam", &[*found.value.shape()], reason));
        }
        let places: Vec<usize> = (2..found.value.rank()).collect();
        let weights =
            if places.is_empty() { found.gradient } else { found.gradient.mean_dims(&places, true)? };
        mul(&weights, &found.value)?.sum_keepdim(1)
    };
    run().map_err(|e| e.or_at(site))
}

/// [`GuidedBackprop`] of the single input times the positive part of [`grad_cam`], brought to the
/// input's size by repetition.
///
/// # Errors
/// As [`grad_cam`]; [`Error::Shape`] where input and layer are not B×C×H×W.
#[track_caller]
pub fn guided_grad_cam(
    f: &Function<'_>,
    x: &TrackedTensor,
    target: &Target,
    layer: &str,
) -> Result<TrackedTensor> {
    let site = Site::caller();
    let run = || {
        let inputs = [x.clone()];
        let map = grad_cam(f, &inputs, target, layer)?.relu()?;
        let &[_, _, height, width] = x.dims() else {
            let reason = "images of shape batch × channels × rows × columns are needed";
            return Err(Error::shape("guided_grad_cam", &[*x.shape()], reason));
        };
        if map.rank() != 4 {
            let reason = "a layer of shape batch × channels × rows × columns is needed";
            return Err(Error::shape("guided_grad_cam", &[*map.shape()], reason));
        }
        let guided = GuidedBackprop.attribute(f, &inputs, target)?.values.remove(0);
        mul(&guided, &upsample_nearest2d(&map, height, width)?)
    };
    run().map_err(|e| e.or_at(site))
}

/// The way from a baseline, as layers see it.
#[derive(Clone, Debug)]
struct Way {
    layer: String,
    baseline: Baseline,
    quadrature: Quadrature,
    steps: usize,
}

macro_rules! way {
    () => {
        /// Where the way begins.
        #[must_use]
        pub fn baseline(mut self, baseline: impl Into<Baseline>) -> Self {
            self.way.baseline = baseline.into();
            self
        }

        /// How many points it has; 50 unless set.
        #[must_use]
        pub fn steps(mut self, steps: usize) -> Self {
            self.way.steps = steps;
            self
        }

        /// How they lie on it; Gauss and Legendre's unless set.
        #[must_use]
        pub fn quadrature(mut self, quadrature: Quadrature) -> Self {
            self.way.quadrature = quadrature;
            self
        }

        controls!();
    };
}

impl Way {
    fn of(layer: &str) -> Self {
        let (baseline, quadrature) = (Baseline::Zero, Quadrature::GaussLegendre);
        Self { layer: layer.to_owned(), baseline, quadrature, steps: 50 }
    }
}

/// How much of the output's change flows through each element of a layer (Dhamdhere et al. 2018):
/// ∫ ∂y/∂h · dh/dt dt along the way, h taken at the points of the quadrature. A last point is added
/// to the steps, as in Captum, since differences of h are taken.
#[derive(Clone, Debug)]
pub struct Conductance {
    way: Way,
    control: Control,
}

impl Conductance {
    /// Of the layer of a name, from zero.
    pub fn new(layer: &str) -> Self {
        Self { way: Way::of(layer), control: Control::default() }
    }

    way!();

    fn run(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let op = self.name();
        let start = self.way.baseline.of(op, inputs)?;
        let (high, examples) = outputs(op, f, inputs, target)?;
        let (low, _) = outputs(op, f, &start, target)?;
        let points = self.way.quadrature.points(self.way.steps + 1)?;
        let path = Path { op, f, start: &start, end: inputs, target, examples, control: &self.control };
        let mut sums = Vec::new();
        // The value and the gradient at the last point that was seen.
        let mut before: Option<LayerSlopes> = None;
        path.each_part(&points, |inputs, target, weights| {
            let found = layer_slopes(f, inputs, target, &self.way.layer)?;
            let rows = if examples.batched {
                examples.count
            } else {
                found.value.dims().first().copied().unwrap_or(1)
            };
            for copy in 0..weights.len() {
                let part = |x: &TrackedTensor| -> Result<TrackedTensor> {
                    if weights.len() == 1 { Ok(x.clone()) } else { x.narrow(0, copy * rows, rows) }
                };
                let now = LayerSlopes { value: part(&found.value)?, gradient: part(&found.gradient)? };
                if let Some(before) = before.take() {
                    add_to(&mut sums, vec![mul(&sub(&now.value, &before.value)?, &before.gradient)?])?;
                }
                before = Some(now);
            }
            Ok(())
        })?;
        let delta = whole_deltas(&sums, &high, &low)?;
        Ok(Attribution { values: sums, delta, errors: None, steps: points.len() })
    }
}

/// Deltas, where a layer's value keeps the examples apart.
fn whole_deltas(values: &[TrackedTensor], high: &[f64], low: &[f64]) -> Result<Option<Vec<f64>>> {
    let apart = high.len() == 1 || values.iter().all(|value| value.dims().first() == Some(&high.len()));
    apart.then(|| deltas(values, high, low)).transpose()
}

impl Method for Conductance {
    fn name(&self) -> &'static str {
        "conductance"
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        self.run(f, inputs, target).map_err(|e| e.or_at(site))
    }
}

/// ∫ ∂y/∂h dt along the way from the inputs' baseline (Leino et al. 2018): how much the layer's
/// elements matter on the whole way.
#[derive(Clone, Debug)]
pub struct InternalInfluence {
    way: Way,
    control: Control,
}

impl InternalInfluence {
    /// Of the layer of a name, from zero.
    pub fn new(layer: &str) -> Self {
        Self { way: Way::of(layer), control: Control::default() }
    }

    way!();

    fn run(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let op = self.name();
        let start = self.way.baseline.of(op, inputs)?;
        let (_, examples) = outputs(op, f, inputs, target)?;
        let points = self.way.quadrature.points(self.way.steps)?;
        let path = Path { op, f, start: &start, end: inputs, target, examples, control: &self.control };
        let mut sums = Vec::new();
        path.each_part(&points, |inputs, target, weights| {
            let found = layer_slopes(f, inputs, target, &self.way.layer)?.gradient;
            let part = match weights {
                [weight] => autograd_core::algebra::scale(&found, *weight)?,
                _ => weighted_sum(&found, weights)?,
            };
            add_to(&mut sums, vec![part])
        })?;
        Ok(Attribution::plain(sums, points.len()))
    }
}

impl Method for InternalInfluence {
    fn name(&self) -> &'static str {
        "internal influence"
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        self.run(f, inputs, target).map_err(|e| e.or_at(site))
    }
}

/// A method applied between a layer and the output: the function of the layer's value that comes
/// after it, with the value at the inputs' baseline as its baseline.
#[derive(Clone, Debug)]
pub struct AtLayer<M> {
    layer: String,
    method: M,
}

impl<M> AtLayer<M> {
    /// The method at the layer of a name.
    pub fn new(layer: &str, method: M) -> Self {
        Self { layer: layer.to_owned(), method }
    }
}

/// Methods that [`AtLayer`] knows how to move: their baseline is one of inputs, which the layer
/// turns into one of its own.
pub trait FromBaseline: Method + Clone {
    /// The method's baseline.
    fn input_baseline(&self) -> Baseline;

    /// The same method with another baseline.
    #[must_use]
    fn with_baseline(self, baseline: Baseline) -> Self;
}

impl FromBaseline for IntegratedGradients {
    fn input_baseline(&self) -> Baseline {
        self.own_baseline().clone()
    }

    fn with_baseline(self, baseline: Baseline) -> Self {
        self.baseline(baseline)
    }
}

impl FromBaseline for DeepLift {
    fn input_baseline(&self) -> Baseline {
        self.own_baseline().clone()
    }

    fn with_baseline(self, baseline: Baseline) -> Self {
        self.baseline(baseline)
    }
}

impl<M: FromBaseline> Method for AtLayer<M> {
    fn name(&self) -> &'static str {
        self.method.name()
    }

    /// The contributions of the layer's elements: the only value of the attribution. Inputs may be
    /// of any type where the baseline is given.
    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        let run = || {
            let start = match self.method.input_baseline() {
                Baseline::Zero => inputs.iter().map(zeros_like).collect::<Result<Vec<_>>>()?,
                Baseline::Values(values) if values.len() == inputs.len() => {
                    let wide = values.iter().zip(inputs);
                    wide.map(|(b, x)| autograd_core::algebra::broadcast_to(b, x.shape()))
                        .collect::<Result<_>>()?
                }
                other => other.of(self.name(), inputs)?,
            };
            let (value, y) = autograd_core::no_grad(|| tapped(f, inputs, &self.layer))?;
            let rows = Examples::of(inputs, &y);
            let rows = rows.batched.then_some(rows.count);
            let base = activation(f, &start, &self.layer)?;
            let behind = |h: &[TrackedTensor]| with_value(f, inputs, &self.layer, &h[0], rows);
            let method = self.method.clone().with_baseline(base.into());
            method.attribute(&behind, &[value], target)
        };
        run().map_err(|e| e.or_at(site))
    }
}

impl Method for AtLayer<Lrp> {
    fn name(&self) -> &'static str {
        self.method.name()
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        self.method.run(f, inputs, target, Some(&self.layer)).map_err(|e| e.or_at(site))
    }
}

/// Which input each token of the last layer attends to, through all layers (Abnar and Zuidema
/// 2020): the product of ½(A + 1) over the layers, A the mean over heads, rows normalised.
///
/// `attentions` are B×H×T×T (or B×T×T), the first layer first; the result is B×T×T, rows the
/// outputs' tokens. The weights are what the function taps behind its softmax.
///
/// # Errors
/// [`Error::Shape`] for values that are not square in the last two dimensions;
/// [`Error::InvalidArgument`] for none.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_interpret::attention_rollout;
///
/// fn main() -> Result<()> {
///     let uniform = TrackedTensor::from_vec(vec![0.5; 4], &[1, 2, 2])?;
///     let found = attention_rollout(&[uniform])?;
///     assert_eq!(found.to_flat::<f64>()?, [0.75, 0.25, 0.25, 0.75]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn attention_rollout(attentions: &[TrackedTensor]) -> Result<TrackedTensor> {
    let site = Site::caller();
    let mut rolled: Option<TrackedTensor> = None;
    for attention in attentions {
        let tokens = attention.dims().last().copied().unwrap_or(0);
        let square = attention.rank() >= 3 && attention.dims()[attention.rank() - 2] == tokens && tokens > 0;
        if !square || attention.rank() > 4 {
            let reason = "attention weights of shape batch × heads × tokens × tokens are needed";
            return Err(Error::shape("attention_rollout", &[*attention.shape()], reason).or_at(site));
        }
        let mean = if attention.rank() == 4 { attention.mean_dim(1)? } else { attention.clone() };
        let own: Vec<f64> =
            (0..tokens * tokens).map(|i| f64::from(u8::from(i % (tokens + 1) == 0))).collect();
        let own = crate::function::value_of(own, &[tokens, tokens], attention)?;
        let with_skip = mean.add(&own)?.affine(0.5, 0.0)?;
        let step = with_skip.div(&with_skip.sum_keepdim(-1)?)?;
        rolled = Some(match rolled {
            Some(so_far) => step.matmul(&so_far)?,
            None => step,
        });
    }
    rolled.ok_or_else(|| Error::argument("attention_rollout", "no layer was given").or_at(site))
}
