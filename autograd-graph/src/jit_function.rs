//! `jit`: a function that is captured and compiled at its first call for each set of shapes.

use crate::compiled::{Compiled, Options};
use crate::explain::Explanation;
use crate::graph::Graph;
use autograd_core::{DeviceLocation, Meta, Result, Site, TrackedTensor};
use autograd_tape::GradientTape;
use parking_lot::RwLock;
use std::fmt;

/// `f`, compiled at its first call for each set of shapes and types.
///
/// What `f` computes from closed-over values it computes at every call, from what their memory then
/// holds; values of its own it makes once. What Rust code decides is fixed at the first call:
/// reading an input's number is an error that names the line, a closed-over number or handle is read
/// once. Where such a thing has changed, [`forget`](Jit::forget) compiles anew. Without the feature `jit` fused ops run as tiles, with it as machine code where the
/// processor has AVX2 and FMA.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_graph::{jit, value_and_grad};
/// use autograd_ops::TensorAutograd;
///
/// fn main() -> Result<()> {
///     let loss = |x: &[TrackedTensor]| x[0].mul(&x[1])?.tanh()?.sum();
///     let step = jit(value_and_grad(loss));
///     let x = TrackedTensor::from_vec(vec![1f32, 2.], &[2])?;
///     let w = TrackedTensor::from_vec(vec![0.5f32, 0.1], &[2])?;
///     let out = step.call(&[&x, &w])?; // the loss, dx, dw
///     assert_eq!(out[2].dims(), [2]);
///     println!("{}", step.explain(&[&x, &w])?);
///     Ok(())
/// }
/// ```
pub fn jit<F>(f: F) -> Jit<F>
where
    F: Fn(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
{
    jit_with(f, Options::default())
}

/// As [`jit`], with a choice of passes and engine.
pub fn jit_with<F>(f: F, options: Options) -> Jit<F>
where
    F: Fn(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
{
    Jit { f, options, known: RwLock::new(Vec::new()) }
}

/// Captures `f` for inputs of the given shapes and types, and compiles it at once.
///
/// # Errors
/// As [`Graph::capture`] and [`Graph::compile`].
pub fn compile(
    f: impl FnOnce(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
    inputs: &[Meta],
) -> Result<Compiled> {
    Graph::capture(f, inputs)?.compile(Options::default())
}

/// The function that gives the value of `f`, of one element, and then its gradient with respect to
/// each input of a float type: for [`jit`].
pub fn value_and_grad<F>(f: F) -> impl Fn(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>
where
    F: Fn(&[TrackedTensor]) -> Result<TrackedTensor>,
{
    move |x| {
        let tape = GradientTape::new();
        let float = |x: &TrackedTensor| autograd_core::is_float(x.dtype());
        let inputs = x
            .iter()
            .map(|x| if float(x) { tape.try_variable(x) } else { Ok(x.clone()) })
            .collect::<Result<Vec<_>>>()?;
        let y = f(&inputs)?;
        let sources: Vec<&TrackedTensor> = inputs.iter().filter(|x| float(x)).collect();
        let grads = tape.gradient(&y, &sources)?;
        Ok(std::iter::once(tape.unwatched(&y)).chain(grads).collect())
    }
}

/// A function that compiles itself; see [`jit`].
pub struct Jit<F> {
    f: F,
    options: Options,
    known: RwLock<Vec<Known>>,
}

type Known = (Vec<Meta>, Compiled);

impl<F> Jit<F>
where
    F: Fn(&[TrackedTensor]) -> Result<Vec<TrackedTensor>>,
{
    /// The outputs of the function. Inputs may be watched: gradients go through.
    ///
    /// # Errors
    /// As [`Graph::capture`] and [`Graph::compile`] at the first call, and as
    /// [`Compiled::call`].
    #[track_caller]
    pub fn call(&self, inputs: &[&TrackedTensor]) -> Result<Vec<TrackedTensor>> {
        let site = Site::caller();
        self.compiled(inputs).and_then(|compiled| compiled.call(inputs)).map_err(|e| e.or_at(site))
    }

    /// The outputs, written over `outputs`, whose memory is used again.
    ///
    /// # Errors
    /// As [`call`](Self::call), and as [`Compiled::run_into`].
    #[track_caller]
    pub fn run_into(&self, inputs: &[&TrackedTensor], outputs: &mut [TrackedTensor]) -> Result<()> {
        let site = Site::caller();
        self.compiled(inputs).and_then(|c| c.run_into(inputs, outputs)).map_err(|e| e.or_at(site))
    }

    /// The graph that runs for inputs of these shapes and types, compiled now if it was not yet.
    ///
    /// # Errors
    /// As [`Graph::capture`] and [`Graph::compile`].
    pub fn compiled(&self, inputs: &[&TrackedTensor]) -> Result<Compiled> {
        if let Some(error) = inputs.iter().find_map(|x| x.failure()) {
            return Err(error.clone());
        }
        let here = |location: DeviceLocation| location == DeviceLocation::Cpu;
        let same = |(m, x): (&Meta, &&TrackedTensor)| {
            m.shape == *x.shape() && m.dtype == x.dtype() && here(m.device) == here(x.location())
        };
        let fits = |(metas, _): &&Known| metas.len() == inputs.len() && metas.iter().zip(inputs).all(same);
        if let Some((_, known)) = self.known.read().iter().find(fits) {
            return Ok(known.clone());
        }
        let metas: Vec<Meta> = inputs.iter().map(|x| x.meta()).collect();
        let made = Graph::capture(&self.f, &metas)?.compile(self.options)?;
        self.known.write().push((metas, made.clone()));
        Ok(made)
    }

    /// What was fused for inputs of these shapes, what is planned, and what a run is predicted to
    /// cost.
    ///
    /// # Errors
    /// As [`compiled`](Self::compiled).
    pub fn explain(&self, inputs: &[&TrackedTensor]) -> Result<Explanation> {
        Ok(self.compiled(inputs)?.explain())
    }

    /// Forgets what was compiled: the next call captures `f` anew, with the numbers and handles that
    /// it closes over then.
    pub fn forget(&self) {
        // What is dropped may hold values of a transform, so it is dropped when nothing is locked.
        let _gone = std::mem::take(&mut *self.known.write());
    }

    /// For how many sets of shapes it has been compiled.
    pub fn compilations(&self) -> usize {
        self.known.read().len()
    }
}

impl<F> fmt::Debug for Jit<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jit(compiled for {} sets of shapes)", self.known.read().len())
    }
}
