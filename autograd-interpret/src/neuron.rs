//! Attribution of one element of a layer to the inputs.

use crate::attribution::{Attribution, Method};
use crate::baseline::Baseline;
use crate::control::{Control, controls};
use crate::copies::{add_to, weighted_sum};
use crate::function::{Examples, Function, check_inputs};
use crate::integrated::Path;
use crate::quadrature::Quadrature;
use crate::slopes::outputs;
use crate::taps::tapped;
use crate::target::Target;
use autograd_core::algebra::{mul, scale};
use autograd_core::{Error, Result, Site, TrackedTensor};
use autograd_ops::TensorAutograd;
use autograd_tape::GradientTape;

/// The function that ends at a tapped value: with it, every input method explains a neuron, which
/// the target names.
///
/// ```
/// use autograd_core::{Result, TrackedTensor, tap};
/// use autograd_interpret::{Method, Saliency, Target, neuron};
/// use autograd_ops::TensorAutograd;
///
/// fn main() -> Result<()> {
///     let net = |x: &[TrackedTensor]| tap("squares", &x[0].sqr()?)?.sum_dim(1);
///     let x = TrackedTensor::from_vec(vec![1.0, 3.0], &[1, 2])?;
///     let found = Saliency::new().attribute(&neuron(&net, "squares"), &[x], &Target::Index(1))?;
///     assert_eq!(found.value().to_flat::<f64>()?, [0.0, 6.0]);
///     Ok(())
/// }
/// ```
pub fn neuron<'f>(
    f: &'f Function<'f>,
    layer: &str,
) -> impl Fn(&[TrackedTensor]) -> Result<TrackedTensor> + 'f {
    let layer = layer.to_owned();
    move |inputs| Ok(tapped(f, inputs, &layer)?.0)
}

/// How much of the output's change flows from each input through one element of a layer:
/// (x − x₀) · ∫ ∂y/∂h ∂h/∂x dt.
#[derive(Clone, Debug)]
pub struct NeuronConductance {
    layer: String,
    neuron: Target,
    baseline: Baseline,
    quadrature: Quadrature,
    steps: usize,
    control: Control,
}

impl NeuronConductance {
    /// Of an element of the layer of a name, which a target picks from the layer's value.
    pub fn new(layer: &str, neuron: impl Into<Target>) -> Self {
        Self {
            layer: layer.to_owned(),
            neuron: neuron.into(),
            baseline: Baseline::Zero,
            quadrature: Quadrature::GaussLegendre,
            steps: 50,
            control: Control::default(),
        }
    }

    /// Where the way begins.
    #[must_use]
    pub fn baseline(mut self, baseline: impl Into<Baseline>) -> Self {
        self.baseline = baseline.into();
        self
    }

    /// How many points it has; 50 unless set.
    #[must_use]
    pub fn steps(mut self, steps: usize) -> Self {
        self.steps = steps;
        self
    }

    /// How they lie on it; Gauss and Legendre's unless set.
    #[must_use]
    pub fn quadrature(mut self, quadrature: Quadrature) -> Self {
        self.quadrature = quadrature;
        self
    }

    controls!();

    fn run(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let op = self.name();
        let start = self.baseline.of(op, inputs)?;
        let (_, examples) = outputs(op, f, inputs, target)?;
        let points = self.quadrature.points(self.steps)?;
        let path = Path { op, f, start: &start, end: inputs, target, examples, control: &self.control };
        let mut sums = Vec::new();
        path.each_part(&points, |inputs, target, weights| {
            let found = self.through(f, inputs, target, weights.len())?;
            let parts: Result<Vec<TrackedTensor>> = match weights {
                [weight] => found.iter().map(|g| scale(g, *weight)).collect(),
                _ => found.iter().map(|g| weighted_sum(g, weights)).collect(),
            };
            add_to(&mut sums, parts?)
        })?;
        Ok(Attribution::plain(path.times_way(&sums)?, points.len()))
    }

    /// ∂y/∂h · ∂h/∂x for each example.
    fn through(
        &self,
        f: &Function<'_>,
        inputs: &[TrackedTensor],
        target: &Target,
        copies: usize,
    ) -> Result<Vec<TrackedTensor>> {
        let tape = GradientTape::new().persistent();
        let variables: Vec<TrackedTensor> =
            inputs.iter().map(|x| tape.try_variable(x)).collect::<Result<_>>()?;
        let (value, y) = tapped(f, &variables, &self.layer)?;
        let examples = Examples::of(inputs, &y);
        let y = target.select(&y, examples)?.sum()?;
        let picked = self.neuron.repeat(copies).select(&value, Examples::of(inputs, &value))?;
        let at_layer = tape.gradient_detached(&y, &[&value])?.remove(0);
        let weight = self.neuron.repeat(copies).select(&at_layer, Examples::of(inputs, &at_layer))?;
        if weight.shape() != picked.shape() {
            return Err(Error::internal("neuron_conductance", "a neuron's gradient has another shape"));
        }
        let sources: Vec<&TrackedTensor> = variables.iter().collect();
        let found = tape.gradient_detached(&picked.sum()?, &sources)?;
        let times = |g: &TrackedTensor| {
            let mut dims = vec![1; g.rank()];
            if examples.batched {
                dims[0] = weight.elem_count();
            }
            mul(g, &weight.reshape(&dims)?)
        };
        found.iter().map(times).collect()
    }
}

impl Method for NeuronConductance {
    fn name(&self) -> &'static str {
        "neuron conductance"
    }

    #[track_caller]
    fn attribute(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<Attribution> {
        let site = Site::caller();
        check_inputs(self.name(), inputs, site)?;
        self.run(f, inputs, target).map_err(|e| e.or_at(site))
    }
}
