//! One test image of each digit under eight methods.

use super::Result;
use super::data::Digits;
use super::net::Net;
use autograd_interpret::{
    Curves, DeepLift, GuidedBackprop, IntegratedGradients, LayerRule, Lrp, Method, Noise, Occlusion,
    Saliency, Target, grad_cam, single,
};
use candle_autograd::ops::resample::upsample_bilinear2d;
use candle_autograd::{TensorAutograd, TrackedTensor};
use candle_core::DType;
use indicatif::{ProgressBar, ProgressStyle};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Steps in which the pixels are taken away.
const POINTS: usize = 28;

/// A digit with its maps.
pub(crate) struct Explained {
    pub(crate) label: usize,
    pub(crate) answer: usize,
    pub(crate) probability: f64,
    /// 28×28 numbers from 0 (paper) to 1 (ink).
    pub(crate) image: TrackedTensor,
    pub(crate) maps: Vec<Map>,
}

/// What a method finds in a digit.
pub(crate) struct Map {
    pub(crate) method: &'static str,
    /// Whether the sign means something.
    pub(crate) signed: bool,
    pub(crate) values: TrackedTensor,
    /// How nearly the contributions add up, where they should, and after how many gradients.
    pub(crate) delta: Option<(f64, usize)>,
    /// Whether a signed map has no positive number: what it shows speaks against the digit alone.
    pub(crate) nothing_for: bool,
    /// The probability of the digit as its most important pixels vanish.
    pub(crate) deletion: Vec<f64>,
    pub(crate) area: f64,
}

/// Maps of each digit.
const MAPS: u64 = 8;

/// What is shown while methods work: how many maps there are, and how far the next one is. The bar
/// shows only on a terminal.
#[derive(Clone)]
struct Bar {
    bar: ProgressBar,
    /// Set by Ctrl-C.
    stop: Arc<AtomicBool>,
}

impl Bar {
    fn new(stop: &Arc<AtomicBool>) -> Self {
        let style = ProgressStyle::with_template("{bar:30.cyan} {pos:>2}/{len} maps  {wide_msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─");
        Self { bar: ProgressBar::new(10 * MAPS).with_style(style), stop: stop.clone() }
    }

    /// The callback of a method: how many of how many evaluations are done.
    fn callback(
        &self,
        method: &'static str,
    ) -> impl Fn(usize, usize) -> ControlFlow<()> + Send + Sync + 'static {
        let own = self.clone();
        move |done, total| {
            own.bar.set_message(format!("{method} {done}/{total}"));
            if own.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    }
}

/// Explains the first image of each digit, until `stop` is set.
pub(crate) fn explain(
    net: &Net,
    digits: &Digits,
    complete: f64,
    stop: &Arc<AtomicBool>,
) -> Result<Vec<Explained>> {
    let mut all = Vec::new();
    let bar = Bar::new(stop);
    for label in 0..10 {
        let Some(first) = (0..digits.len()).find(|&index| usize::from(digits.label(index)) == label) else {
            return Err(format!("there is no test image of a {label}").into());
        };
        let start = Instant::now();
        let image = digits.batch(&[first])?.images.to_dtype(DType::F64)?;
        let explained = one(net, image, label, complete, &bar)?;
        let steps = explained.maps.iter().filter(|map| map.method == "integrated gradients");
        let steps: usize = steps.filter_map(|map| map.delta).map(|(_, steps)| steps).sum();
        let took = start.elapsed().as_secs_f64();
        bar.bar.suspend(|| println!("digit {label}  {steps} gradients integrated, {took:.1} s"));
        all.push(explained);
    }
    bar.bar.finish_and_clear();
    Ok(all)
}

fn one(net: &Net, image: TrackedTensor, label: usize, complete: f64, bar: &Bar) -> Result<Explained> {
    let logits = single(|x| net.forward(x));
    let probability = single(|x| net.forward(x)?.softmax(1));
    let (inputs, target) = ([image.clone()], Target::Index(label));
    let probabilities = net.forward(&image)?.softmax(1)?.to_flat::<f64>()?;
    let answer = (0..10).max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b])).unwrap_or(label);

    let mut maps = Vec::new();
    let mut add = |method: &'static str,
                   signed: bool,
                   values: TrackedTensor,
                   delta: Option<(f64, usize)>|
     -> Result<()> {
        let nothing_for = signed && values.to_flat::<f64>()?.iter().all(|&v| v <= 0.0);
        let curve = Curves::new().points(POINTS).deletion(
            &probability,
            &inputs,
            &target,
            std::slice::from_ref(&values),
        )?;
        let (deletion, area) = (curve[0].outputs.clone(), curve[0].area);
        maps.push(Map { method, signed, values, delta, nothing_for, deletion, area });
        bar.bar.inc(1);
        Ok(())
    };
    // Contributions first of the input's layer, then what lies behind: positive weights only.
    let relevance = Lrp::new()
        .on_number(0, LayerRule::ZPlus { epsilon: 1e-9 })
        .on_number(1, LayerRule::Gamma { gamma: 0.25, epsilon: 1e-9 });
    let noisy =
        Noise::around(Saliency::new()).samples(30).deviation(0.15).progress(bar.callback("SmoothGrad"));
    let integrated =
        IntegratedGradients::new().complete_to(complete).progress(bar.callback("integrated gradients"));
    let occlusion = Occlusion::new(&[1, 5, 5]).progress(bar.callback("occlusion"));
    let methods: [(&'static str, bool, &dyn Method); 7] = [
        ("saliency", false, &Saliency::new()),
        ("SmoothGrad", false, &noisy),
        ("guided backpropagation", true, &GuidedBackprop),
        ("integrated gradients", true, &integrated),
        ("DeepLift", true, &DeepLift::new()),
        ("relevance (z⁺, γ, ε)", true, &relevance),
        ("occlusion 5×5", true, &occlusion),
    ];
    for (name, signed, method) in methods {
        let found = method.attribute(&logits, &inputs, &target)?;
        let delta = found.delta.is_some().then_some((found.worst_delta(), found.steps));
        add(name, signed, found.values[0].clone(), delta)?;
    }
    // With its sign, as Captum gives it: of some digits the positive part is empty.
    let map = grad_cam(&logits, &inputs, &target, "conv2")?;
    let side = image.dims()[2];
    add("GradCAM", true, upsample_bilinear2d(&map, side, side, false)?, None)?;
    Ok(Explained { label, answer, probability: probabilities[answer], image, maps })
}
