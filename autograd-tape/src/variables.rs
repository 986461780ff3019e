//! Which variable of a tape a candle tensor became.

use crate::node::Slot;
use crate::record::Record;
use crate::tape::GradientTape;
use crate::tracer::TapeTracer;
use autograd_core::{Buffer, Result, TrackedTensor};
use candle_core::Tensor;
use std::collections::HashMap;
use std::sync::Arc;

/// The variables made from candle tensors, by the address of their storage. The values keep the
/// storages alive, so that an address means one tensor.
pub(crate) type Variables = HashMap<usize, (Slot, TrackedTensor)>;

fn address(value: &TrackedTensor) -> Option<usize> {
    let plain = value.plain()?;
    if plain.is_own() {
        return None;
    }
    match plain.buffer() {
        Buffer::Candle(_, address) => Some(*address),
        _ => None,
    }
}

impl Record {
    /// Notes that a variable was made from this value.
    pub(crate) fn note_variable(&mut self, slot: Slot, value: &TrackedTensor) {
        if let Some(address) = address(value) {
            self.variables.insert(address, (slot, value.clone()));
        }
    }
}

impl GradientTape {
    /// The variable that was made from this candle tensor (or `Var`): the last one, where there
    /// are several; `None` where there is none.
    ///
    /// ```
    /// use autograd_core::Result;
    /// use autograd_tape::GradientTape;
    /// use candle_core::{Device, Var};
    ///
    /// fn main() -> Result<()> {
    ///     let var = Var::new(&[2f64], &Device::Cpu)?;
    ///     let tape = GradientTape::new();
    ///     let x = tape.variable(var.as_tensor());
    ///     let again = tape.variable_of(&var)?.expect("it was watched");
    ///     assert_eq!(tape.derivative(&(&x * &again)?, &x)?.to_vec1::<f64>()?, [4.]);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`TrackedTensor::from_candle`].
    pub fn variable_of(&self, tensor: &Tensor) -> Result<Option<TrackedTensor>> {
        let Some(address) = address(&TrackedTensor::from_candle(tensor)?) else { return Ok(None) };
        let Some(level) = self.shared().level() else { return Ok(None) };
        let mut record = self.shared().lock();
        let Some((slot, value)) = record.variables.get(&address).cloned() else { return Ok(None) };
        record.nodes[slot.node as usize].handles += 1;
        drop(record);
        let tracer = TapeTracer { tape: self.shared_handle(), level, slot, value };
        Ok(Some(TrackedTensor::from_tracer(Arc::new(tracer))))
    }
}
