//! Layers on the way from a baseline to the inputs: conductance and internal influence.

use super::{LayerSlopes, layer_slopes};
use crate::attribution::{Attribution, Method, deltas};
use crate::baseline::Baseline;
use crate::control::{Control, controls};
use crate::copies::{add_to, weighted_sum};
use crate::function::{Function, check_inputs};
use crate::integrated::Path;
use crate::quadrature::Quadrature;
use crate::slopes::outputs;
use crate::target::Target;
use autograd_core::algebra::{mul, scale, sub};
use autograd_core::{Result, Site, TrackedTensor};
use autograd_ops::TensorAutograd;

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
                [weight] => scale(&found, *weight)?,
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
