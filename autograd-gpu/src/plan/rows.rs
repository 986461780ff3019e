//! Softmax and cross entropy: a block a row.

use super::along::Moved;
use super::{Argument, Draft, Plan, Structure, threads_for, whole};
use autograd_core::DType;
use autograd_core::device::KernelCall;

/// The softmax family: inputs, output, the row's length. What has rows along another dimension than
/// the last is moved, there and back.
pub(super) fn softmax(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    // The operand that has the rows: the only one, or the one behind the cotangent.
    let inputs = draft.inputs.len();
    let like = usize::from(inputs > 1);
    let (x, dim) = (draft.inputs[like], usize::try_from(*call.integers.first()?).ok()?);
    let n = *x.shape.dims().get(dim)?;
    let entry = format!("{}_{}", call.kernel, draft.suffix(0..inputs)?);
    let moved = Moved::new(&draft, like, dim);
    let mut arguments: Vec<Argument> = (0..inputs).map(Argument::Input).collect();
    let mut output = Argument::Output(0);
    if let Some(moved) = &moved {
        for (i, argument) in arguments.iter_mut().enumerate() {
            if draft.inputs[i].shape == x.shape {
                *argument = moved.read(&mut draft, i)?;
            }
        }
        if draft.signature.outputs[0].shape == x.shape {
            output = draft.room(x.dtype, x.elements());
        }
    }
    arguments.extend([output.clone(), whole(n)]);
    draft.launch("softmax", entry, [x.elements() / n, 1], threads_for(n), arguments)?;
    if let (Some(moved), Argument::Room(_)) = (&moved, &output) {
        moved.write(&mut draft, output.clone())?;
    }
    draft.done()
}

/// The ignored class as a structure.
pub(super) fn ignore(call: &KernelCall) -> Argument {
    let &[given, target] = &call.integers[..] else { return Argument::Null };
    Structure::default().u64(given as usize).u64(target as usize).done()
}

pub(super) fn cross_entropy(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let &[rows, n] = draft.inputs[0].shape.dims() else { return None };
    let entry = format!("cross_entropy_{}", draft.suffix([0])?);
    draft.plan.converted = [None, Some(DType::I64)].into_iter().collect();
    let (lse, fault) = (draft.hint(0)?, draft.fault(n, true));
    let (x, targets) = (Argument::Input(0), Argument::Input(1));
    let arguments = vec![x, targets, Argument::Output(0), lse, fault, whole(n), ignore(call)];
    draft.launch("cross_entropy", entry, [rows, 1], threads_for(n), arguments)?;
    draft.done()
}

pub(super) fn cross_entropy_vjp(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let &[rows, n] = draft.inputs[1].shape.dims() else { return None };
    let entry = format!("cross_entropy_vjp_{}", draft.suffix([0, 1])?);
    draft.plan.converted = [None, None, Some(DType::I64)].into_iter().collect();
    let lse = if draft.inputs.len() > 3 { Argument::Input(3) } else { Argument::Null };
    let fault = draft.fault(n, true);
    let [ct, x, targets] = [0, 1, 2].map(Argument::Input);
    let arguments = vec![ct, x, targets, lse, Argument::Output(0), fault, whole(n), ignore(call)];
    draft.launch("cross_entropy", entry, [rows, 1], threads_for(n), arguments)?;
    draft.done()
}
