//! Ops that a forward level takes apart instead of having a rule for them.

use autograd_core::{Applied, Error, Primitive, Result, Site, TrackedTensor, Values, on_behalf_of};

/// The op by its decomposition, whose parts come back to the level one by one.
pub(crate) fn inline(
    op: &dyn Primitive,
    inputs: &[&TrackedTensor],
    site: Site,
    mode: &'static str,
) -> Result<Applied> {
    let outputs = on_behalf_of(site, || op.decompose(inputs))?;
    let reason = "it has neither a forward rule nor a decomposition";
    let outputs = outputs.ok_or_else(|| Error::mode(op.name(), mode, reason))?;
    Ok(Applied { outputs, aux: Values::new() })
}
