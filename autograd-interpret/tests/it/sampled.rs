//! Sampled methods held against Captum's by their means and standard errors, and probes against
//! Captum's by their numbers.
//!
//! Draws are fixed on both sides, so that a test that passes once passes always.

use crate::fixtures::Fixtures;
use autograd_core::{DType, Error, Result, TrackedTensor};
use autograd_interpret::{
    Attribution, Ball, Baseline, FeaturePermutation, Function, GradientShap, Infidelity, KernelShap, Lime,
    MaxSensitivity, Method, Noise, Perturbation, Pgd, Saliency, ShapleyValues, Shrinkage, Smoothing, Target,
    fgsm,
};

/// Standard errors that two means may lie apart: one comparison in 1.7 million misses by chance.
const APART: f64 = 5.0;

/// A standard error above this share of the largest mean would make the comparison mean little.
const SHARP: f64 = 0.06;

/// Rounding in f64, relative to the largest number.
const ROUNDING: f64 = 1e-8;

fn flat(x: &TrackedTensor) -> Result<Vec<f64>> {
    x.to_flat()
}

fn first(found: Result<Attribution>) -> Result<Vec<f64>> {
    flat(found?.value())
}

struct Net {
    fixtures: Fixtures,
    x: TrackedTensor,
    base: TrackedTensor,
    references: TrackedTensor,
    target: Target,
}

impl Net {
    fn load() -> Result<Self> {
        let fixtures = Fixtures::load(DType::F64)?;
        let get = |name: &str| Ok::<_, Error>(fixtures.get(name)?.clone());
        let (x, base, references) = (get("mlp/x")?, get("mlp/base")?, get("mlp/references")?);
        Ok(Self { x, base, references, target: Target::Each(vec![0, 2, 1]), fixtures })
    }

    /// Compares the mean of `runs` runs, each with a seed of its own, with Captum's mean.
    #[track_caller]
    fn compare(&self, name: &str, runs: u64, run: impl Fn(u64) -> Result<Vec<f64>>) -> Result<()> {
        let wanted = flat(self.fixtures.get(&format!("sampled/{name}/mean"))?)?;
        let errors = flat(self.fixtures.get(&format!("sampled/{name}/error"))?)?;
        let all = (0..runs).map(run).collect::<Result<Vec<_>>>()?;
        let n = runs as f64;
        let scale = wanted.iter().fold(0.0f64, |most, w| most.max(w.abs()));
        for (i, (wanted, their)) in wanted.iter().zip(&errors).enumerate() {
            let mean = all.iter().map(|run| run[i]).sum::<f64>() / n;
            let variance = all.iter().map(|run| (run[i] - mean).powi(2)).sum::<f64>() / (n - 1.0);
            let error = (variance / n).sqrt().hypot(*their);
            assert!(error <= SHARP * scale, "{name}, element {i}: ± {error:.2e} of {scale:.2e}");
            assert!(
                (mean - wanted).abs() <= APART * error + ROUNDING * scale,
                "{name}, element {i}: {mean} here, {wanted} by Captum, ± {error:.1e}"
            );
        }
        assert_eq!(all[0].len(), wanted.len(), "{name}");
        Ok(())
    }

    /// The same for a method of attribution, given a seed.
    #[track_caller]
    fn method<M: Method>(&self, name: &str, runs: u64, method: impl Fn(u64) -> M) -> Result<()> {
        let f = |x: &[TrackedTensor]| self.fixtures.mlp(&x[0]);
        let x = std::slice::from_ref(&self.x);
        self.compare(name, runs, |seed| first(method(seed).attribute(&f, x, &self.target)))
    }
}

#[test]
fn gradient_shap_and_noise() -> Result<()> {
    let net = Net::load()?;
    let shap = || GradientShap::new(&net.references).samples(20).noise(0.1);
    net.method("gradient_shap", 100, |seed| shap().seed(seed))?;
    for (name, smoothing) in [
        ("smoothgrad", Smoothing::Mean),
        ("smoothgrad_sq", Smoothing::MeanSquare),
        ("vargrad", Smoothing::Variance),
    ] {
        let noise = || Noise::around(Saliency::new().signed()).samples(20).deviation(0.3);
        net.method(name, 300, |seed| noise().smoothing(smoothing).seed(seed))?;
    }
    Ok(())
}

#[test]
fn orders_and_shuffles() -> Result<()> {
    let net = Net::load()?;
    net.method("shapley", 100, |seed| ShapleyValues::sampled(10).baseline(&net.base).seed(seed))?;
    // Captum leaves out the order that changes nothing: of three examples one of six.
    let f = |x: &[TrackedTensor]| net.fixtures.mlp(&x[0]);
    net.compare("permutation", 600, |seed| {
        let found =
            FeaturePermutation::new().seed(seed).attribute(&f, std::slice::from_ref(&net.x), &net.target);
        Ok(first(found)?.into_iter().map(|score| score * 6.0 / 5.0).collect())
    })
}

#[test]
fn surrogates() -> Result<()> {
    let net = Net::load()?;
    // Five features have thirty coalitions between none and all: 100 samples here are exact.
    let base: Baseline = (&net.base).into();
    net.method("kernel_shap", 2, |seed| KernelShap::new(100).baseline(base.clone()).seed(seed))?;
    let lime = |seed| Lime::new(100).baseline(base.clone()).seed(seed);
    net.method("lime_ridge", 60, lime)?;
    net.method("lime_lasso", 60, |seed| lime(seed).shrinkage(Shrinkage::Lasso(0.002)))
}

#[test]
fn measures_of_quality() -> Result<()> {
    let net = Net::load()?;
    let f = |x: &[TrackedTensor]| net.fixtures.mlp(&x[0]);
    let x = std::slice::from_ref(&net.x);
    let saliency = Saliency::new().signed();
    let gradient = saliency.attribute(&f, x, &net.target)?.values;
    let normal = |seed| Infidelity::new(Perturbation::Normal(0.2)).samples(50).seed(seed);
    net.compare("infidelity", 400, |seed| normal(seed).measure(&f, x, &net.target, &gradient))?;
    let most = |seed| MaxSensitivity::new(0.1).samples(10).seed(seed);
    net.compare("sensitivity", 1600, |seed| most(seed).measure(&saliency, &f, x, &net.target))?;
    let whole = Infidelity::new(Perturbation::Whole).samples(1).measure(&f, x, &net.target, &gradient)?;
    net.fixtures.check("probes/infidelity", TrackedTensor::from_vec(whole, &[3]))
}

#[test]
fn probes() -> Result<()> {
    let net = Net::load()?;
    let f: &Function<'_> = &|x: &[TrackedTensor]| net.fixtures.mlp(&x[0]);
    let x = std::slice::from_ref(&net.x);
    let found = fgsm(f, x, &net.target, 0.2, Some((-1.0, 1.0)))?.remove(0);
    net.fixtures.check("probes/fgsm", Ok(found))?;
    let found = Pgd::new(Ball::Max(0.5)).step(0.07).steps(12).ascend(f, x, &net.target)?.remove(0);
    net.fixtures.check("probes/pgd", Ok(found))
}
