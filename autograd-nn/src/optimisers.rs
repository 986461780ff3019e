//! Optimisers as functions of trees: parameters, gradients and a state in, the next ones out.
//!
//! Each step is one pointwise pass over a parameter, its gradient and its state, also in eager mode.
//! Captured with the gradient (`jit`), a training step is one graph whose inputs and outputs are the
//! parameters and the state: `run_into` writes the new ones over the ones before last. The learning
//! rate is a value, so a schedule compiles nothing anew.

use autograd_core::algebra::{cast, zeros_like};
use autograd_core::kernels::expr::{Binary, Builder, Reg, Unary};
use autograd_core::{
    Definition, Error, Path, Pointwise, Result, ScalarExpr, Site, TrackedTensor, Tree, apply, is_float,
    same_structure,
};
use autograd_ops::Operand;
use autograd_ops::shape::contiguous;
use std::sync::LazyLock;

/// Stochastic gradient descent: v′ = momentum·v + g + decay·p, p′ = p − rate·v′.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_nn::optimisers::Sgd;
///
/// fn main() -> Result<()> {
///     let p = TrackedTensor::from_vec(vec![1f32, 2.], &[2])?;
///     let g = TrackedTensor::from_vec(vec![1f32, 1.], &[2])?;
///     let sgd = Sgd { momentum: 0.9, ..Sgd::default() };
///     let velocity = sgd.start(&p)?;
///     let (p, velocity) = sgd.step(0.1, &p, &g, &velocity)?;
///     let (p, _) = sgd.step(0.1, &p, &g, &velocity)?;
///     assert!((p.to_vec1::<f32>()?[0] - 0.71).abs() < 1e-6);
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sgd {
    /// How much of the velocity stays.
    pub momentum: f64,
    /// How much of a parameter is added to its gradient.
    pub weight_decay: f64,
}

static SGD: LazyLock<Definition> = LazyLock::new(|| {
    let expr = ScalarExpr::build_many(4, 2, |b, x, params| {
        let (p, g, v, rate) = (x[0], x[1], x[2], x[3]);
        let decayed = scaled(b, params[1], p);
        let g = b.binary(Binary::Add, g, decayed);
        let kept = scaled(b, params[0], v);
        let v = b.binary(Binary::Add, kept, g);
        let step = scaled(b, rate, v);
        vec![b.binary(Binary::Sub, p, step), v]
    });
    Definition::new("sgd_step", expr)
});

impl Sgd {
    /// The velocity before the first step: zeros.
    ///
    /// # Errors
    /// [`Error::UnsupportedDType`] for a parameter that is not of a float type.
    #[track_caller]
    pub fn start<P: Tree>(&self, parameters: &P) -> Result<P::Owned> {
        zeros(parameters)
    }

    /// The parameters and the velocity after a step.
    ///
    /// # Errors
    /// [`Error::TreeMismatch`] where gradients or velocity have another structure than the
    /// parameters; [`Error::Shape`] where their shapes differ.
    #[track_caller]
    pub fn step<P: Tree>(
        &self,
        rate: impl Into<Operand>,
        parameters: &P,
        gradients: &impl Tree,
        velocity: &impl Tree,
    ) -> Result<(P::Owned, P::Owned)> {
        let site = Site::caller();
        same_structure("gradients", gradients, parameters, site)?;
        same_structure("the velocity", velocity, parameters, site)?;
        let rate = rate.into();
        let (mut next, mut moved) = (Vec::new(), Vec::new());
        for ((p, g), v) in parameters.leaves().into_iter().zip(gradients.leaves()).zip(velocity.leaves()) {
            let rate = in_type_of(&rate, p)?;
            let op = Pointwise::with(&SGD, &[self.momentum, self.weight_decay]);
            let [p, v] = updated(&op, p, &[p, g, v, &rate], site)?;
            next.push(p);
            moved.push(v);
        }
        Ok((parameters.with_leaves(next)?, parameters.with_leaves(moved)?))
    }
}

/// Adam with decoupled weight decay (Loshchilov and Hutter), as candle-nn's and PyTorch's:
/// m′ = β₁·m + (1 − β₁)·g, v′ = β₂·v + (1 − β₂)·g²,
/// p′ = (1 − rate·decay)·p − rate·m̂/(√v̂ + ε) with m̂ = m′/(1 − β₁ᵗ), v̂ = v′/(1 − β₂ᵗ).
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_nn::optimisers::AdamW;
///
/// fn main() -> Result<()> {
///     let p = vec![TrackedTensor::from_vec(vec![1f32, 2.], &[2])?];
///     let g = vec![TrackedTensor::from_vec(vec![0.5f32, -3.], &[2])?];
///     let adamw = AdamW { weight_decay: 0.0, ..AdamW::default() };
///     let state = adamw.start(&p)?;
///     let (p, _state) = adamw.step(0.1, &p, &g, &state)?;
///     let p = p[0].to_vec1::<f32>()?; // the first step is as long as the rate
///     assert!((p[0] - 0.9).abs() < 1e-5 && (p[1] - 2.1).abs() < 1e-5);
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// How much of the first moment stays.
    pub beta1: f64,
    /// How much of the second moment stays.
    pub beta2: f64,
    /// What keeps the divisor from zero.
    pub eps: f64,
    /// How much of a parameter goes at each step, times the rate.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01 }
    }
}

/// What [`AdamW`] carries from step to step. It is a tree: what is captured takes and gives its
/// leaves.
#[derive(Clone, Debug)]
pub struct Moments<T> {
    /// The running mean of the gradients.
    pub first: T,
    /// The running mean of their squares.
    pub second: T,
    /// How many steps there were: a number of type f64.
    pub steps: TrackedTensor,
}

impl<T: Tree> Tree for Moments<T> {
    type Owned = Moments<T::Owned>;

    fn visit<'a>(&'a self, path: &Path<'_>, leaf: &mut dyn FnMut(&Path<'_>, &'a TrackedTensor)) {
        self.first.visit(&Path::Field(path, "first"), leaf);
        self.second.visit(&Path::Field(path, "second"), leaf);
        self.steps.visit(&Path::Field(path, "steps"), leaf);
    }

    fn rebuild(&self, leaf: &mut dyn FnMut(&TrackedTensor) -> Result<TrackedTensor>) -> Result<Self::Owned> {
        Ok(Moments {
            first: self.first.rebuild(leaf)?,
            second: self.second.rebuild(leaf)?,
            steps: self.steps.rebuild(leaf)?,
        })
    }
}

static ADAMW: LazyLock<Definition> = LazyLock::new(|| {
    let expr = ScalarExpr::build_many(7, 4, |b, x, params| {
        let (p, g, m, v, rate, first, second) = (x[0], x[1], x[2], x[3], x[4], x[5], x[6]);
        let (beta1, beta2, eps, decay) = (params[0], params[1], params[2], params[3]);
        let one = b.constant(1.0);
        let m = blended(b, beta1, m, g);
        let square = b.binary(Binary::Mul, g, g);
        let v = blended(b, beta2, v, square);
        let m_hat = scaled(b, first, m);
        let v_hat = scaled(b, second, v);
        let root = b.unary(Unary::Sqrt, v_hat);
        let below = b.binary(Binary::Add, root, eps);
        let direction = b.binary(Binary::Div, m_hat, below);
        let lost = b.binary(Binary::Mul, rate, decay);
        let kept = b.binary(Binary::Sub, one, lost);
        let p = scaled(b, kept, p);
        let step = scaled(b, rate, direction);
        vec![b.binary(Binary::Sub, p, step), m, v]
    });
    Definition::new("adamw_step", expr)
});

/// t′ = t + 1 and 1/(1 − βᵗ′) for both β.
static CORRECTIONS: LazyLock<Definition> = LazyLock::new(|| {
    let expr = ScalarExpr::build_many(1, 2, |b, x, params| {
        let one = b.constant(1.0);
        let t = b.binary(Binary::Add, x[0], one);
        let mut correction = |beta: Reg| {
            let power = b.binary(Binary::Pow, beta, t);
            let rest = b.binary(Binary::Sub, one, power);
            b.unary(Unary::Recip, rest)
        };
        vec![t, correction(params[0]), correction(params[1])]
    });
    Definition::new("adamw_corrections", expr)
});

impl AdamW {
    /// The state before the first step.
    ///
    /// # Errors
    /// [`Error::UnsupportedDType`] for a parameter that is not of a float type.
    #[track_caller]
    pub fn start<P: Tree>(&self, parameters: &P) -> Result<Moments<P::Owned>> {
        Ok(Moments {
            first: zeros(parameters)?,
            second: zeros(parameters)?,
            steps: TrackedTensor::from_vec(vec![0f64], &[])?,
        })
    }

    /// The parameters and the state after a step.
    ///
    /// # Errors
    /// [`Error::TreeMismatch`] where gradients or state have another structure than the parameters;
    /// [`Error::Shape`] where their shapes differ.
    #[track_caller]
    pub fn step<P: Tree, S: Tree>(
        &self,
        rate: impl Into<Operand>,
        parameters: &P,
        gradients: &impl Tree,
        state: &Moments<S>,
    ) -> Result<(P::Owned, Moments<P::Owned>)> {
        let site = Site::caller();
        same_structure("gradients", gradients, parameters, site)?;
        same_structure("the first moment", &state.first, parameters, site)?;
        same_structure("the second moment", &state.second, parameters, site)?;
        let rate = rate.into();
        let corrections = apply(&Pointwise::with(&CORRECTIONS, &[self.beta1, self.beta2]), &[&state.steps])?;
        let numbers = [self.beta1, self.beta2, self.eps, self.weight_decay];
        let (mut next, mut first, mut second) = (Vec::new(), Vec::new(), Vec::new());
        let moments = state.first.leaves().into_iter().zip(state.second.leaves());
        for ((p, g), (m, v)) in parameters.leaves().into_iter().zip(gradients.leaves()).zip(moments) {
            let rate = in_type_of(&rate, p)?;
            let (c1, c2) = (cast(&corrections[1], p.dtype())?, cast(&corrections[2], p.dtype())?);
            let op = Pointwise::with(&ADAMW, &numbers);
            let [p, m, v] = updated(&op, p, &[p, g, m, v, &rate, &c1, &c2], site)?;
            next.push(p);
            first.push(m);
            second.push(v);
        }
        let moments = Moments {
            first: parameters.with_leaves(first)?,
            second: parameters.with_leaves(second)?,
            steps: corrections[0].clone(),
        };
        Ok((parameters.with_leaves(next)?, moments))
    }
}

fn scaled(b: &mut Builder, factor: Reg, x: Reg) -> Reg {
    b.binary(Binary::Mul, factor, x)
}

/// β·old + (1 − β)·new.
fn blended(b: &mut Builder, beta: Reg, old: Reg, new: Reg) -> Reg {
    let one = b.constant(1.0);
    let rest = b.binary(Binary::Sub, one, beta);
    let (old, new) = (scaled(b, beta, old), scaled(b, rest, new));
    b.binary(Binary::Add, old, new)
}

/// Zeros in memory of their own, to be written over.
#[track_caller]
fn zeros<P: Tree>(parameters: &P) -> Result<P::Owned> {
    let site = Site::caller();
    parameters.map_leaves(|p| {
        if !is_float(p.dtype()) {
            let reason = "an optimiser steps on floats";
            return Err(Error::dtype("start", p.dtype(), reason).or_at(site));
        }
        contiguous(&zeros_like(p)?)
    })
}

/// The learning rate in the type of a parameter.
fn in_type_of(rate: &Operand, p: &TrackedTensor) -> Result<TrackedTensor> {
    cast(&rate.clone().value(p)?, p.dtype())
}

/// The outputs of a step on a parameter, whose shape they must have.
fn updated<const N: usize>(
    op: &Pointwise,
    p: &TrackedTensor,
    inputs: &[&TrackedTensor],
    site: Site,
) -> Result<[TrackedTensor; N]> {
    let name = op.definition().name;
    let made = apply(op, inputs).map_err(|error| error.or_at(site))?;
    if made.iter().any(|y| y.shape() != p.shape()) {
        let shapes: Vec<_> = inputs.iter().map(|x| *x.shape()).collect();
        let reason = "a gradient or a state has another shape than its parameter";
        return Err(Error::shape(name, &shapes, reason).or_at(site));
    }
    let count = made.len();
    <[TrackedTensor; N]>::try_from(made.into_vec())
        .map_err(|_| Error::internal(name, format!("{count} outputs where it has {N}")))
}
