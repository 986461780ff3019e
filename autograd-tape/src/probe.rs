//! What a function costs on the tapes that watch it: measured by running it and pulling it back.

use crate::node::{Node, Slot, Source, Step};
use crate::record::{Record, Shared};
use crate::region::{RegionOptions, region};
use crate::sweep::{Nodes, sweep};
use crate::tracer::TapeTracer;
use autograd_core::algebra::ones_like;
use autograd_core::kernels::memory;
use autograd_core::smallvec::smallvec;
use autograd_core::{Error, Meta, Result, Rule, Site, TrackedTensor};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a function of one value costs, in bytes of the buffer pool and in time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Probe {
    /// The output's numbers as a variable without a history: what the next function is probed at.
    pub output: TrackedTensor,
    /// Bytes of the output.
    pub output_bytes: usize,
    /// Bytes that the backward pass reads, beyond input and output.
    pub kept: usize,
    /// Whether the backward pass reads the output.
    pub keeps_output: bool,
    /// The most bytes beyond output and `kept` while it runs, with residuals kept.
    pub forward_scratch: usize,
    /// The most bytes beyond the output while it runs without keeping residuals.
    pub discard_scratch: usize,
    /// The most bytes beyond what is kept and the output's cotangent while it is pulled back, the
    /// gradients among them.
    pub backward_scratch: usize,
    /// Bytes of the gradients of everything but the input.
    pub gradients: usize,
    /// The time of one evaluation.
    pub time: Duration,
    /// An estimate of one evaluation from the ops alone, in nanoseconds of an ordinary core.
    pub estimate: f64,
}

/// Runs `f` at `x` and pulls it back, to see what that costs; nothing of it stays on the tape.
///
/// `f` is evaluated three times, side effects included. The bytes are those that the process takes
/// from the pool meanwhile: nothing else must compute. Only a tape may watch the values.
///
/// # Errors
/// What `f` and its rules report; [`Error::UnsupportedMode`] where another transform watches.
#[track_caller]
pub fn probe(f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>, x: &TrackedTensor) -> Result<Probe> {
    let site = Site::caller();
    let live = || memory::stats().live_bytes;
    let peak = || memory::stats().peak_bytes;
    // Once to bring caches and memory up, and to find out which tape watches.
    let tape = TapeTracer::of(&f(x)?).map(|tracer| tracer.tape.clone());
    let before = live();
    memory::reset_peak();
    let clock = Instant::now();
    let y = region(RegionOptions::new(), || f(x))?;
    let time = clock.elapsed();
    let output_bytes = live().saturating_sub(before).max(y.meta().bytes());
    let discard_scratch = peak().saturating_sub(before + output_bytes);
    drop(y);
    let first = tape.as_ref().map_or(0, |tape| tape.lock().nodes.len());
    let before = live();
    memory::reset_peak();
    let y = f(x)?;
    let with_output = live();
    let forward_scratch = peak().saturating_sub(with_output);
    let mut found = Probe {
        output_bytes,
        kept: with_output.saturating_sub(before + output_bytes),
        keeps_output: false,
        forward_scratch,
        discard_scratch,
        backward_scratch: 0,
        gradients: 0,
        time,
        estimate: 0.0,
        output: y.clone(),
    };
    let Some(tape) = tape else { return Ok(found) };
    let unfit = || {
        let reason = "another transform watches the values; measure where a tape alone does";
        Error::mode("probe", "measuring", reason).or_at(site)
    };
    let tracer = TapeTracer::of(&y).filter(|tracer| Arc::ptr_eq(&tracer.tape, &tape)).ok_or_else(unfit)?;
    let (number, level, slot) = (tracer.value.clone(), tracer.level, tracer.slot);
    if number.plain().is_none() {
        return Err(unfit());
    }
    found.output = number.clone();
    if slot.node as usize >= first {
        let input = TapeTracer::of(x).filter(|t| Arc::ptr_eq(&t.tape, &tape)).map(|t| t.slot);
        let cut = Cut::out_of(&tape, first);
        drop(y);
        let same = |kept: &TrackedTensor| {
            kept.plain().zip(number.plain()).is_some_and(|(a, b)| std::ptr::eq(a.buffer(), b.buffer()))
        };
        found.keeps_output = cut.record.nodes.iter().flat_map(|node| node.kept.iter().flatten()).any(same);
        found.estimate = cut.record.nodes.iter().map(|node| nanoseconds(&cut.record, node)).sum();
        let target = Slot { node: slot.node - first as u32 + cut.sources.len() as u32, ..slot };
        let seed = ones_like(&number)?;
        let before = live();
        memory::reset_peak();
        let sources: Vec<Slot> = (0..cut.sources.len() as u32).map(|node| Slot { node, output: 0 }).collect();
        let of_input = cut.sources.iter().position(|source| Some(*source) == input);
        let mut gradients = sweep(Nodes::Taken(cut.record), vec![(target, seed)], &[], &sources, &mut [])?;
        found.backward_scratch = peak().saturating_sub(before);
        if let Some(of_input) = of_input {
            gradients[of_input] = None;
        }
        let held = live();
        drop(gradients);
        found.gradients = held.saturating_sub(live());
    }
    let meta = number.meta();
    let node = tape.lock().push(Node {
        step: Step::Variable,
        inputs: smallvec![],
        outputs: smallvec![meta],
        kept: smallvec![],
        site,
        region: 0,
        handles: 1,
        consumers: 0,
    });
    let slot = Slot { node, output: 0 };
    found.output = TrackedTensor::from_tracer(Arc::new(TapeTracer { tape, level, slot, value: number }));
    Ok(found)
}

/// Nodes cut out of a tape, as a record of its own.
struct Cut {
    record: Record,
    /// What the nodes read from before the cut: the first nodes of the record stand for it.
    sources: Vec<Slot>,
}

impl Cut {
    /// Takes the nodes from `first` on; what is left in their place is released.
    fn out_of(tape: &Shared, first: usize) -> Self {
        let mut record = tape.lock();
        let mut taken: Vec<Node> = Vec::new();
        for id in first..record.nodes.len() {
            let node = &mut record.nodes[id];
            let outputs = node.outputs.clone();
            let left =
                Node { step: Step::Released, outputs, kept: smallvec![], inputs: smallvec![], ..*node };
            taken.push(std::mem::replace(node, left));
        }
        let mut sources: Vec<Slot> = Vec::new();
        let mut places: HashMap<Slot, u32> = HashMap::new();
        for slot in taken.iter().flat_map(|node| node.inputs.iter().filter_map(|input| input.slot())) {
            record.nodes[slot.node as usize].consumers -= 1;
            if (slot.node as usize) < first && !places.contains_key(&slot) {
                places.insert(slot, sources.len() as u32);
                sources.push(slot);
            }
        }
        let count = sources.len() as u32;
        let mut cut = Record::default();
        cut.constants.clone_from(&record.constants);
        for (id, entry) in &record.regions {
            if let Some(at) = entry.first.checked_sub(first as u32) {
                let mut entry = entry.clone();
                entry.first = at + count;
                cut.regions.insert(*id, entry);
            }
        }
        for source in &sources {
            let outputs = smallvec![record.nodes[source.node as usize].outputs[source.output as usize]];
            let (step, site) = (Step::Variable, record.nodes[source.node as usize].site);
            let (inputs, kept) = (smallvec![], smallvec![]);
            cut.push(Node { step, inputs, outputs, kept, site, region: 0, handles: 1, consumers: 0 });
        }
        drop(record);
        for mut node in taken {
            for input in &mut node.inputs {
                if let Source::Slot(slot) = input {
                    *slot = match slot.node.checked_sub(first as u32) {
                        Some(at) => Slot { node: at + count, ..*slot },
                        None => Slot { node: places[slot], output: 0 },
                    };
                }
            }
            node.consumers = 0;
            cut.push(node);
        }
        Self { record: cut, sources }
    }
}

/// Floating point operations that an ordinary core does in a nanosecond.
const OPERATIONS: f64 = 50.0;
/// Bytes that it reads and writes in a nanosecond.
const BYTES: f64 = 10.0;

/// An op's time, estimated: products by their operations, everything by the bytes it touches.
fn nanoseconds(record: &Record, node: &Node) -> f64 {
    let Step::Apply(op) = &node.step else { return 0.0 };
    let inputs = record.input_metas(node);
    let touched: usize = inputs.iter().chain(&node.outputs).map(Meta::bytes).sum();
    let operations = match op.rule() {
        // For a product of m × k by k × n, √(mk · kn · mn) = mkn.
        Rule::Bilinear(..) => {
            let sizes = inputs.iter().chain(&node.outputs).map(|meta| meta.elements() as f64);
            2.0 * sizes.product::<f64>().sqrt()
        }
        Rule::General(_) if op.is_affine() => op.operations(&inputs) as f64,
        Rule::Pointwise(_)
        | Rule::Linear(..)
        | Rule::General(_)
        | Rule::Composite
        | Rule::Flat
        | Rule::Opaque(_) => 0.0,
    };
    operations / OPERATIONS + touched as f64 / BYTES
}
