//! A plan in the words of a device: every value has a place, and the steps follow each other.

use crate::plan::{External, Kernel, Plan, Read, Write};
use autograd_core::device::{Declined, Home, Laid, LaidStep, LaidValue, Tried};
use autograd_core::kernels::Layout;
use autograd_core::kernels::arena::Region;
use autograd_core::{DType, Meta, Prim, Program, Result, dtype_of};

/// The plan laid out, or the step that only the CPU has.
pub(super) fn laid(plan: &Plan, program: &Program) -> Result<Tried<Laid>> {
    let region = |region: &Region, layout: Layout| LaidValue {
        home: Home::Arena,
        at: region.offset,
        layout,
        dtype: dtype_of(region.kind),
    };
    let mut steps = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let op: Option<Prim> = match &step.kernel {
            Kernel::Op(op) => Some(op.clone()),
            Kernel::Copy => None,
            Kernel::Fused { .. } => return Ok(Err(Declined::Op { op: "fused", site: step.site })),
            Kernel::Epilogue { .. } => return Ok(Err(Declined::Op { op: "epilogue", site: step.site })),
            Kernel::Blocked { .. } => return Ok(Err(Declined::Op { op: "rows", site: step.site })),
        };
        let outside = |home: Home, dtype: DType, layout: Layout| LaidValue { home, at: 0, layout, dtype };
        let reads: Vec<LaidValue> = step
            .reads
            .iter()
            .map(|(read, layout)| match *read {
                Read::Arena(i) => region(&step.read_regions[i], *layout),
                Read::Output(k) => outside(Home::Output(k), plan.outputs[k].dtype, *layout),
                Read::External(i) => match step.externals[i] {
                    External::Input(i) => outside(Home::Input(i), plan.inputs[i].dtype, *layout),
                    External::Constant(i) => {
                        outside(Home::Constant(i), program.constants[i].dtype(), *layout)
                    }
                },
            })
            .collect();
        let metas: Vec<Meta> = reads.iter().map(LaidValue::meta).collect();
        let made: Vec<Meta> = match &op {
            Some(op) => {
                let signature = op.infer(&metas)?;
                signature.outputs.into_iter().chain(signature.aux).collect()
            }
            None => metas,
        };
        let writes = step
            .writes
            .iter()
            .zip(&made)
            .map(|(write, meta)| {
                let layout = Layout::contiguous(meta.shape);
                match *write {
                    Write::Arena(i) => region(&step.write_regions[i], layout),
                    Write::Output(k) => outside(Home::Output(k), meta.dtype, layout),
                }
            })
            .collect();
        steps.push(LaidStep { op, reads, writes, site: step.site });
    }
    let (inputs, outputs) = (plan.inputs.clone(), plan.outputs.clone());
    Ok(Ok(Laid { steps, bytes: plan.bytes, inputs, constants: program.constants.clone(), outputs }))
}
