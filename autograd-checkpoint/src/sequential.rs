//! Chains of layers, run by a plan.

use crate::plan::{Part, Plan};
use autograd_core::{Error, Result, Site, TrackedTensor};
use autograd_tape::{RegionOptions, ReplayCount, Store, region};
use std::sync::Arc;

/// Runs layers one after the other; what their backward passes read is kept or computed again as
/// the plan says.
///
/// ```
/// use autograd_checkpoint::{Plan, checkpoint_sequential};
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_tape::GradientTape;
///
/// fn main() -> Result<()> {
///     let layers: Vec<_> = (0..10).map(|_| |x: &TrackedTensor| x * 0.5).collect();
///     let tape = GradientTape::new();
///     let x = tape.variable(TrackedTensor::scalar(3.0));
///     let y = checkpoint_sequential(&layers, &x, &Plan::binomial(10, 3)?)?;
///     assert_eq!(tape.derivative(&y, &x)?.to_scalar::<f64>()?, 0.5f64.powi(10));
///     Ok(())
/// }
/// ```
///
/// # Errors
/// What a layer reports; [`Error::InvalidArgument`] where the plan is for another number of
/// layers, or offloads: that takes a [`CheckpointManager`](crate::CheckpointManager).
#[track_caller]
pub fn checkpoint_sequential<L>(layers: &[L], x: &TrackedTensor, plan: &Plan) -> Result<TrackedTensor>
where
    L: Fn(&TrackedTensor) -> Result<TrackedTensor>,
{
    let site = Site::caller();
    if plan.offloads() {
        let reason = "the plan offloads: run it with a CheckpointManager, which knows where to";
        return Err(Error::argument("checkpoint_sequential", reason).or_at(site));
    }
    run_plan(layers, x, plan, None, None).map_err(|e| e.or_at(site))
}

pub(crate) fn run_plan<L>(
    layers: &[L],
    x: &TrackedTensor,
    plan: &Plan,
    store: Option<&Arc<dyn Store>>,
    count: Option<&Arc<ReplayCount>>,
) -> Result<TrackedTensor>
where
    L: Fn(&TrackedTensor) -> Result<TrackedTensor>,
{
    if layers.len() != plan.layers() {
        let reason = format!("the plan is for {} layers, {} are given", plan.layers(), layers.len());
        return Err(Error::argument("checkpoint_sequential", reason));
    }
    Run { layers, store, count }.parts(plan.parts(), x.clone())
}

struct Run<'a, L> {
    layers: &'a [L],
    store: Option<&'a Arc<dyn Store>>,
    count: Option<&'a Arc<ReplayCount>>,
}

impl<L: Fn(&TrackedTensor) -> Result<TrackedTensor>> Run<'_, L> {
    /// Each state is let go as soon as the next one is there: who needs it has kept it.
    fn parts(&self, parts: &[Part], mut x: TrackedTensor) -> Result<TrackedTensor> {
        for part in parts {
            x = match part {
                Part::Keep(layer) => self.layers[*layer](&x)?,
                Part::Recompute { parts, offload, .. } => {
                    let mut options = RegionOptions::new();
                    if let Some(count) = self.count {
                        options = options.count(count.clone());
                    }
                    if let (true, Some(store)) = (*offload, self.store) {
                        options = options.store(store.clone()).offload(&x);
                    }
                    region(options, || self.parts(parts, x))?
                }
            };
        }
        Ok(x)
    }
}
