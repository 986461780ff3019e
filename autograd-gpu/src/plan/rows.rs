//! Softmax and cross entropy: a block a row.

use super::{Argument, Draft, Plan, Structure, threads_for, whole};
use autograd_core::DType;
use autograd_core::device::KernelCall;

/// The softmax family over the last dimension: inputs, output, the row's length.
pub(super) fn softmax(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    // The operand that has the rows: the only one, or the one behind the cotangent.
    let inputs = draft.inputs.len();
    let dims = draft.inputs[usize::from(inputs > 1)].shape;
    let (&n, lead) = dims.dims().split_last()?;
    if call.integers[0] as usize != lead.len() {
        return None;
    }
    let entry = format!("{}_{}", call.kernel, draft.suffix(0..inputs)?);
    let arguments = (0..inputs).map(Argument::Input).chain([Argument::Output(0), whole(n)]).collect();
    draft.launch("softmax", entry, [lead.iter().product(), 1], threads_for(n), arguments)?;
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
