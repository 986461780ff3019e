//! Plans: which layers of a chain keep what their backward pass reads, and which are evaluated
//! again.

use crate::cost::ChainCost;
use crate::predict::Prediction;
use autograd_core::{Error, Result, Site};
use std::fmt;
use std::ops::Range;

/// One part of a plan, in the order of the forward pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A layer that keeps what its backward pass reads.
    Keep(usize),
    /// Layers of which only the first one's input is kept. When the backward pass reaches them they
    /// are evaluated again, by the parts inside.
    Recompute {
        /// The layers.
        layers: Range<usize>,
        /// How they are evaluated again.
        parts: Vec<Part>,
        /// Whether the input that is kept waits outside of the memory.
        offload: bool,
    },
}

impl Part {
    pub(crate) fn layers(&self) -> Range<usize> {
        match self {
            Part::Keep(layer) => *layer..layer + 1,
            Part::Recompute { layers, .. } => layers.clone(),
        }
    }
}

/// How a chain's backward pass trades work for memory.
///
/// A plan is data, made by pure functions: nothing in it knows a tape. Parts nest: layers that are
/// evaluated again may be split further, so that every schedule that stores and restores states in
/// the order of a stack can be said, Revolve's and rotor's among them.
///
/// ```
/// use autograd_checkpoint::Plan;
///
/// let plan = Plan::binomial(10, 3).unwrap();
/// assert_eq!(plan.recomputations(), 15);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    name: &'static str,
    layers: usize,
    parts: Vec<Part>,
    cost: Option<ChainCost>,
    budget: Option<usize>,
}

impl Plan {
    /// A plan of one's own.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the parts do not cover the layers, each once and in order.
    #[track_caller]
    pub fn new(layers: usize, parts: Vec<Part>) -> Result<Self> {
        let site = Site::caller();
        check(&parts, 0..layers).map_err(|e| e.or_at(site))?;
        Ok(Self::made("custom", layers, parts))
    }

    pub(crate) fn made(name: &'static str, layers: usize, parts: Vec<Part>) -> Self {
        Self { name, layers, parts, cost: None, budget: None }
    }

    pub(crate) fn within(mut self, budget: usize) -> Self {
        self.budget = Some(budget);
        self
    }

    /// The plan with the costs that [`explain`](Self::explain) counts in.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the chain has another number of layers.
    #[track_caller]
    pub fn with_cost(mut self, cost: ChainCost) -> Result<Self> {
        let site = Site::caller();
        self.check_chain(&cost).map_err(|e| e.or_at(site))?;
        self.cost = Some(cost);
        Ok(self)
    }

    pub(crate) fn check_chain(&self, cost: &ChainCost) -> Result<()> {
        if cost.len() == self.layers {
            return Ok(());
        }
        let reason = format!("the plan is for {} layers, the chain has {}", self.layers, cost.len());
        Err(Error::argument("plan", reason))
    }

    /// The parts, in the order of the forward pass.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The number of layers.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// What made the plan: "every", "binomial", "optimal", …
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How often each layer is evaluated in a step, the forward pass included.
    pub fn evaluations(&self) -> Vec<usize> {
        let mut counts = vec![0; self.layers];
        count(&self.parts, &mut counts);
        counts
    }

    /// How many layers the backward pass evaluates again.
    ///
    /// In the words of the literature, which count forward steps without the taped one: a chain of l
    /// layers takes l taped steps and so many advances. The forward pass itself takes l of that sum, so what
    /// is left for the backward pass equals the number of advances, t(l, s) for s states stored.
    pub fn recomputations(&self) -> usize {
        self.evaluations().iter().sum::<usize>() - self.layers
    }

    /// Whether states wait outside of the memory.
    pub fn offloads(&self) -> bool {
        fn any(parts: &[Part]) -> bool {
            parts.iter().any(|part| match part {
                Part::Keep(_) => false,
                Part::Recompute { parts, offload, .. } => *offload || any(parts),
            })
        }
        any(&self.parts)
    }

    /// Peak bytes, extra work and evaluations of the plan on a chain.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the chain has another number of layers.
    #[track_caller]
    pub fn predict(&self, cost: &ChainCost) -> Result<Prediction> {
        let site = Site::caller();
        self.check_chain(cost).map_err(|e| e.or_at(site))?;
        Ok(Prediction::of(self, cost))
    }

    /// What the plan does and costs, as text: predicted peak bytes and extra forward work where
    /// the costs of the layers are known, counts of evaluations otherwise.
    pub fn explain(&self) -> String {
        let mut text = format!("{} plan for {} layers\n  {self}\n", self.name, self.layers);
        let again = self.recomputations();
        text.push_str(&format!("  layers evaluated again    {again}\n"));
        let most = self.evaluations().into_iter().max().unwrap_or(0);
        text.push_str(&format!("  evaluations of a layer    {most} at most\n"));
        if let Some(cost) = &self.cost {
            let predicted = Prediction::of(self, cost);
            let budget = self.budget.map_or_else(String::new, |b| format!(" of {} allowed", Megabytes(b)));
            text.push_str(&format!(
                "  predicted peak            {}{budget}\n",
                Megabytes(predicted.peak_bytes)
            ));
            if predicted.offloaded_bytes > 0 {
                let bytes = Megabytes(predicted.offloaded_bytes);
                text.push_str(&format!("  offloaded                 {bytes} at most\n"));
            }
            text.push_str(&format!(
                "  extra forward work        {:.1} % of a forward pass\n",
                predicted.extra_share() * 100.0
            ));
        }
        text
    }
}

/// Bytes as a person reads them.
pub(crate) struct Megabytes(pub(crate) usize);

impl fmt::Display for Megabytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes < 10_000 => write!(f, "{bytes} B"),
            bytes => write!(f, "{:.2} MB", bytes as f64 / 1e6),
        }
    }
}

/// `keep 3` is a layer, `[0..3 …]` are layers evaluated again, with `!` where their input waits
/// outside of the memory.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn show(parts: &[Part], f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let mut at = 0;
            while at < parts.len() {
                if at > 0 {
                    f.write_str(" ")?;
                }
                match &parts[at] {
                    Part::Keep(first) => {
                        let run = parts[at..].iter().take_while(|p| matches!(p, Part::Keep(_))).count();
                        match run {
                            1 => write!(f, "{first}")?,
                            _ => write!(f, "{first}-{}", first + run - 1)?,
                        }
                        at += run;
                    }
                    Part::Recompute { parts, offload, .. } => {
                        f.write_str(if *offload { "![" } else { "[" })?;
                        show(parts, f)?;
                        f.write_str("]")?;
                        at += 1;
                    }
                }
            }
            Ok(())
        }
        show(&self.parts, f)
    }
}

fn count(parts: &[Part], counts: &mut [usize]) {
    for part in parts {
        match part {
            Part::Keep(layer) => counts[*layer] += 1,
            Part::Recompute { layers, parts, .. } => {
                counts[layers.clone()].iter_mut().for_each(|c| *c += 1);
                count(parts, counts);
            }
        }
    }
}

/// The parts cover the layers, each once and in order; at every depth.
fn check(parts: &[Part], layers: Range<usize>) -> Result<()> {
    let mut next = layers.start;
    for part in parts {
        let covered = part.layers();
        if covered.start != next || covered.is_empty() || covered.end > layers.end {
            let reason = format!(
                "a part covers the layers {}..{} where one from {next} on is due, up to {}",
                covered.start, covered.end, layers.end
            );
            return Err(Error::argument("plan", reason));
        }
        next = covered.end;
        if let Part::Recompute { layers, parts, .. } = part {
            let nested = |part: &Part| matches!(part, Part::Recompute { offload: true, .. });
            if parts.iter().any(nested) {
                let reason = "only the input of an outermost part can be offloaded";
                return Err(Error::argument("plan", reason));
            }
            check(parts, layers.clone())?;
        }
    }
    if next != layers.end || layers.is_empty() {
        let reason = format!("the parts end at layer {next}, the chain at {}", layers.end);
        return Err(Error::argument("plan", reason));
    }
    Ok(())
}
