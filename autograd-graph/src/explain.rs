//! What a compiled graph does, in words and numbers.

use crate::code::Code;
use crate::plan::{Kernel, Plan};
use autograd_core::DeviceLocation;
use autograd_core::device::Declined;
use std::fmt;

/// What was fused, what is planned, and what a run is predicted to cost. It prints as a table.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The steps of a run, in their order.
    pub steps: Vec<StepExplanation>,
    /// How many ops were captured.
    pub captured: usize,
    /// Bytes of the arena.
    pub planned_bytes: usize,
    /// Bytes that the arena would have without reuse.
    pub bytes_without_reuse: usize,
    /// Predicted floating-point operations of a run.
    pub operations: u64,
    /// Predicted bytes that a run reads and writes.
    pub bytes_moved: u64,
    /// The devices other than the CPU where it has run so far: the steps above are the CPU's.
    pub devices: Vec<DeviceExplanation>,
}

/// How a graph runs on a device other than the CPU.
#[derive(Clone, Debug)]
pub struct DeviceExplanation {
    /// The device.
    pub location: DeviceLocation,
    /// What kept it from running as one sequence of launches; nothing where it does.
    pub declined: Vec<Declined>,
}

/// One step of a run.
#[derive(Clone, Debug)]
pub struct StepExplanation {
    /// The op, or "fused", "epilogue" (a product and what follows it), "rows" or "copy".
    pub name: &'static str,
    /// The ops that were fused into it.
    pub parts: Vec<&'static str>,
    /// How it runs: "kernel", "tiles" or "machine code".
    pub engine: &'static str,
    /// Predicted floating-point operations.
    pub operations: u64,
    /// Predicted bytes that it reads and writes.
    pub bytes_moved: u64,
}

impl Explanation {
    pub(crate) fn new(plan: &Plan, code: &Code, captured: usize, devices: Vec<DeviceExplanation>) -> Self {
        let steps: Vec<StepExplanation> = plan
            .steps
            .iter()
            .enumerate()
            .map(|(i, step)| {
                let (name, parts, engine) = match &step.kernel {
                    Kernel::Op(op) => (op.name(), Vec::new(), "kernel"),
                    Kernel::Blocked { parts, .. } => {
                        let engine =
                            if code.within(i).is_some_and(Code::is_some) { "machine code" } else { "kernel" };
                        ("rows", parts.clone(), engine)
                    }
                    Kernel::Copy => ("copy", Vec::new(), "kernel"),
                    Kernel::Fused { parts, .. } => ("fused", parts.clone(), engine(code, i)),
                    Kernel::Epilogue { parts, .. } => ("epilogue", parts.clone(), engine(code, i)),
                };
                let (operations, bytes_moved) = (step.operations, step.bytes);
                StepExplanation { name, parts, engine, operations, bytes_moved }
            })
            .collect();
        Self {
            captured,
            planned_bytes: plan.bytes,
            bytes_without_reuse: plan.without_reuse,
            operations: steps.iter().map(|s| s.operations).sum(),
            bytes_moved: steps.iter().map(|s| s.bytes_moved).sum(),
            steps,
            devices,
        }
    }
}

/// How the expression of a step runs.
fn engine(code: &Code, step: usize) -> &'static str {
    if code.of(step).is_some() { "machine code" } else { "tiles" }
}

/// More parts than this are counted, not listed.
const LISTED: usize = 12;

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (steps, captured) = (self.steps.len(), self.captured);
        writeln!(f, "{captured} ops in {steps} steps")?;
        writeln!(f, "arena {} bytes ({} without reuse)", self.planned_bytes, self.bytes_without_reuse)?;
        writeln!(f, "{} operations, {} bytes moved", self.operations, self.bytes_moved)?;
        for (i, step) in self.steps.iter().enumerate() {
            let (name, engine) = (step.name, step.engine);
            write!(f, "{i:4}  {name:<14} {engine:<12} {:>14} {:>14}", step.operations, step.bytes_moved)?;
            if !step.parts.is_empty() {
                let more = step.parts.len().saturating_sub(LISTED);
                write!(f, "  {}", step.parts[..step.parts.len() - more].join(" "))?;
                if more > 0 {
                    write!(f, " and {more} more")?;
                }
            }
            writeln!(f)?;
        }
        self.devices.iter().try_for_each(|device| writeln!(f, "{device}"))
    }
}

impl fmt::Display for DeviceExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let location = self.location;
        if self.declined.is_empty() {
            return write!(f, "on {location:?} as one sequence of launches");
        }
        write!(f, "on {location:?} op by op:")?;
        let mut said: Vec<String> = Vec::new();
        for reason in self.declined.iter().map(ToString::to_string) {
            if !said.contains(&reason) {
                write!(f, "\n      {reason}")?;
                said.push(reason);
            }
        }
        Ok(())
    }
}
