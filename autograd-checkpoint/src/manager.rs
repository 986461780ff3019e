//! A chain under a byte budget: measured, planned, run, and compared with what was predicted.

use crate::cost::{ChainCost, LayerCost};
use crate::disk::DiskStore;
use crate::levels::{OffloadCost, over_two_levels};
use crate::optimal::in_memory;
use crate::plan::{Megabytes, Plan};
use crate::sequential::run_plan;
use autograd_core::kernels::memory;
use autograd_core::{Error, Meta, Result, Site, TrackedTensor};
use autograd_tape::{ReplayCount, Store, probe};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Where a [`CheckpointManager`] knows the layers' costs from.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Costs {
    /// Bytes by running each layer alone, work inferred from its ops: the same plan each time.
    #[default]
    Inferred,
    /// Bytes by running each layer alone, work by the clock.
    Measured,
    /// Given by the caller, work in seconds. Nothing is run to find them.
    Given(ChainCost),
}

/// Seconds that a byte takes to a disk and back.
const DISK_SECONDS: f64 = 4e-9;

/// Runs a chain of layers within a budget of bytes.
///
/// At its first run it finds the layers' costs, by running each of them alone, and makes the plan
/// of least extra work that fits; later runs follow that plan. The budget is for everything that a
/// training step allocates beyond the chain's input and the parameters: states, residuals,
/// cotangents, scratch and the gradients of the parameters. Plans and measures are for tapes of one
/// gradient; a persistent tape keeps more.
///
/// ```
/// use autograd_checkpoint::CheckpointManager;
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_tape::GradientTape;
///
/// fn main() -> Result<()> {
///     let layers: Vec<_> = (0..8).map(|_| |x: &TrackedTensor| x * x).collect();
///     let x = TrackedTensor::from_vec(vec![1f32; 1 << 12], &[1 << 12])?;
///     let mut manager = CheckpointManager::new(100_000);
///     let tape = GradientTape::new();
///     let x = tape.variable(x);
///     let y = manager.run(&layers, &x)?;
///     let seed = TrackedTensor::from_vec(vec![1f32; 1 << 12], &[1 << 12])?;
///     let dx = tape.gradient_with(&[&y], &[&seed], &[&x])?;
///     assert_eq!(dx[0].to_vec1::<f32>()?[0], 256.0);
///     let stats = manager.stats().expect("it has run");
///     assert!(stats.predicted_peak_bytes <= 100_000, "{stats}");
///     println!("{stats}"); // the measured peak is in it
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct CheckpointManager {
    budget: usize,
    costs: Costs,
    store: Option<(Arc<DiskStore>, usize)>,
    made: Option<Made>,
    count: Arc<ReplayCount>,
    /// Bytes that lived when the last run began.
    start: Option<usize>,
}

/// A plan, and what it was made for.
#[derive(Debug)]
struct Made {
    plan: Plan,
    cost: ChainCost,
    input: Meta,
}

/// What a run was predicted to cost, and what it did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CheckpointStats {
    /// The predicted peak of live bytes.
    pub predicted_peak_bytes: usize,
    /// The peak of live bytes of the buffer pool since the run began, scratch included, beyond
    /// what lived then. Whatever else computes in the process is counted too.
    pub peak_bytes: usize,
    /// Layers that the plan evaluates again.
    pub recomputed_layers: usize,
    /// Ops that replays evaluated again.
    pub recomputed_ops: u64,
    /// The time they took.
    pub recompute_time: Duration,
    /// The predicted extra work, over that of a forward pass.
    pub extra_forward_work: f64,
    /// The most bytes that ever waited on the disk.
    pub offloaded_bytes: usize,
}

impl fmt::Display for CheckpointStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (predicted, measured) = (Megabytes(self.predicted_peak_bytes), Megabytes(self.peak_bytes));
        writeln!(f, "predicted peak      {predicted}")?;
        writeln!(f, "measured peak       {measured}")?;
        let (share, layers) = (self.extra_forward_work * 100.0, self.recomputed_layers);
        write!(f, "extra forward work  {share:.1} % ({layers} layers, {} ops again)", self.recomputed_ops)
    }
}

impl CheckpointManager {
    /// A manager for a budget of so many bytes.
    pub fn new(budget: usize) -> Self {
        let count = Arc::default();
        Self { budget, costs: Costs::default(), store: None, made: None, count, start: None }
    }

    /// Where the layers' costs come from.
    #[must_use]
    pub fn costs(mut self, costs: Costs) -> Self {
        self.costs = costs;
        self.made = None;
        self
    }

    /// Lets states wait in files of at most `limit` bytes in `directory`, where that saves work.
    ///
    /// # Errors
    /// [`Error::Offload`] where the directory does not exist or cannot be written.
    #[track_caller]
    pub fn offload_to(mut self, directory: impl AsRef<Path>, limit: usize) -> Result<Self> {
        let site = Site::caller();
        let store = DiskStore::new(directory, limit).map_err(|e| e.or_at(site))?;
        self.store = Some((Arc::new(store), limit));
        self.made = None;
        Ok(self)
    }

    /// The plan for these layers at this input; made where there is none yet, or where the number
    /// of layers or the input's shape is another.
    ///
    /// To find costs each layer is evaluated three times and pulled back once, on the tape that
    /// watches its parameters.
    ///
    /// # Errors
    /// [`Error::Budget`] where no plan fits, with the least budget that one does; what a layer
    /// reports.
    #[track_caller]
    pub fn plan<L>(&mut self, layers: &[L], x: &TrackedTensor) -> Result<&Plan>
    where
        L: Fn(&TrackedTensor) -> Result<TrackedTensor>,
    {
        let site = Site::caller();
        self.made(layers, x, site).map(|made| &made.plan)
    }

    fn made<L>(&mut self, layers: &[L], x: &TrackedTensor, site: Site) -> Result<&Made>
    where
        L: Fn(&TrackedTensor) -> Result<TrackedTensor>,
    {
        let fits = |made: &Made| made.input == x.meta() && made.cost.len() == layers.len();
        if let Some(made) = self.made.take_if(|made| fits(made)) {
            return Ok(self.made.insert(made));
        }
        let cost = match &self.costs {
            Costs::Given(cost) if cost.len() != layers.len() => {
                let reason = format!("costs of {} layers given for {}", cost.len(), layers.len());
                return Err(Error::argument("checkpoint", reason).or_at(site));
            }
            Costs::Given(cost) => cost.clone(),
            Costs::Inferred => measure(layers, x, false).map_err(|e| e.or_at(site))?,
            Costs::Measured => measure(layers, x, true).map_err(|e| e.or_at(site))?,
        };
        let plan = match &self.store {
            Some((_, limit)) => {
                let offload = OffloadCost { limit: *limit, work_per_byte: DISK_SECONDS };
                over_two_levels(&cost, self.budget, offload)
            }
            None => in_memory(&cost, self.budget),
        };
        let plan = plan.map_err(|e| e.or_at(site))?;
        Ok(self.made.insert(Made { plan, cost, input: x.meta() }))
    }

    /// Runs the layers within the budget.
    ///
    /// # Errors
    /// As [`plan`](Self::plan); [`Error::Offload`] where the disk fails.
    #[track_caller]
    pub fn run<L>(&mut self, layers: &[L], x: &TrackedTensor) -> Result<TrackedTensor>
    where
        L: Fn(&TrackedTensor) -> Result<TrackedTensor>,
    {
        let site = Site::caller();
        self.made(layers, x, site)?;
        self.count = Arc::default();
        memory::reset_peak();
        self.start = Some(memory::stats().live_bytes);
        let Some(made) = &self.made else {
            return Err(Error::internal("checkpoint", "the plan is gone").or_at(site));
        };
        let store = self.store.as_ref().map(|(store, _)| store.clone() as Arc<dyn Store>);
        run_plan(layers, x, &made.plan, store.as_ref(), Some(&self.count)).map_err(|e| e.or_at(site))
    }

    /// The costs that the plan was made from.
    pub fn cost(&self) -> Option<&ChainCost> {
        self.made.as_ref().map(|made| &made.cost)
    }

    /// What the last run cost so far; ask after the gradient. `None` before the first run.
    pub fn stats(&self) -> Option<CheckpointStats> {
        let (made, start) = (self.made.as_ref()?, self.start?);
        let predicted = made.plan.predict(&made.cost).ok()?;
        Some(CheckpointStats {
            predicted_peak_bytes: predicted.peak_bytes,
            peak_bytes: memory::stats().peak_bytes.saturating_sub(start),
            recomputed_layers: made.plan.recomputations(),
            recomputed_ops: self.count.ops(),
            recompute_time: self.count.time(),
            extra_forward_work: predicted.extra_share(),
            offloaded_bytes: self.store.as_ref().map_or(0, |(store, _)| store.peak_bytes()),
        })
    }
}

/// The costs of the layers of a chain, each run alone at the output of the one before.
fn measure<L>(layers: &[L], x: &TrackedTensor, by_clock: bool) -> Result<ChainCost>
where
    L: Fn(&TrackedTensor) -> Result<TrackedTensor>,
{
    let mut x = x.clone();
    let mut costs: Vec<LayerCost> = Vec::with_capacity(layers.len());
    for layer in layers {
        let probe = probe(layer, &x)?;
        x = probe.output;
        costs.push(LayerCost {
            work: if by_clock { probe.time.as_secs_f64() } else { probe.estimate * 1e-9 },
            output: probe.output_bytes,
            kept: probe.kept,
            keeps_output: probe.keeps_output,
            forward_scratch: probe.forward_scratch,
            discard_scratch: probe.discard_scratch,
            backward_scratch: probe.backward_scratch,
            gradients: probe.gradients,
        });
    }
    if by_clock {
        level_out(&mut costs);
    }
    ChainCost::new(costs)
}

/// Layers that are equal in bytes are taken to be equal in time: the clock's noise would only make
/// plans differ from run to run.
fn level_out(costs: &mut [LayerCost]) {
    let alike = |a: &LayerCost, b: &LayerCost| {
        LayerCost { work: 0.0, ..a.clone() } == LayerCost { work: 0.0, ..b.clone() }
    };
    let times: Vec<f64> = costs
        .iter()
        .map(|cost| {
            let same: Vec<f64> =
                costs.iter().filter(|other| alike(cost, other)).map(|other| other.work).collect();
            same.iter().sum::<f64>() / same.len() as f64
        })
        .collect();
    for (cost, time) in costs.iter_mut().zip(times) {
        cost.work = time;
    }
}
