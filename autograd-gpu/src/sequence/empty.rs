//! Ops that read or write values without elements.

use super::{Draft, Launch, Placed};
use autograd_core::device::KernelCall;
use autograd_core::kernels::expr::Builder;
use autograd_core::{DType, Primitive};

/// The kernels that judge indices: though nothing is read or written at them, an index out of its range
/// is an error.
const JUDGES: [&str; 9] = [
    "cross_entropy",
    "cross_entropy_vjp",
    "gather",
    "index_add",
    "index_select",
    "pick_class",
    "place_class",
    "scatter",
    "scatter_add",
];

/// Whether it has indices that would have to be judged.
fn has_indices(x: &Placed) -> bool {
    matches!(x.dtype, DType::U8 | DType::U32 | DType::I64) && !x.is_empty()
}

impl Draft {
    /// An op that writes nothing: there is nothing to launch.
    pub(super) fn nothing(
        &mut self,
        op: &dyn Primitive,
        call: Option<&KernelCall>,
        reads: &[Placed],
    ) -> Option<()> {
        let judges = match call {
            Some(call) => JUDGES.contains(&call.kernel),
            // What it is made of is asked.
            None => op.as_pointwise().is_none(),
        };
        (!judges || !reads.iter().any(has_indices)).then_some(())
    }

    /// An op that makes something of nothing, or of something and nothing.
    pub(super) fn of_nothing(
        &mut self,
        op: &dyn Primitive,
        call: Option<&KernelCall>,
        reads: &[Placed],
        writes: &[Placed],
    ) -> Option<()> {
        if let ([x], [y]) = (reads, writes)
            && let Some(sum) = op.as_sum(&x.meta())
        {
            // The mean of nothing is 0 / 0.
            return self.fill(if sum.scale.is_finite() { 0.0 } else { f64::NAN }, y);
        }
        match (call?.kernel, reads, writes) {
            // Sums of no terms.
            ("matmul" | "conv2d" | "conv2d_input_grad" | "conv2d_weight_grad", _, [y]) => self.fill(0.0, y),
            ("row_max", _, [y]) => self.fill(f64::NEG_INFINITY, y),
            ("slice" | "diagonal" | "index_add" | "scatter" | "scatter_add", [x, rest @ ..], [y])
                if rest.last().is_some_and(Placed::is_empty) && !rest.iter().any(has_indices) =>
            {
                self.copy(x, y)
            }
            _ => None,
        }
    }

    /// One number everywhere.
    fn fill(&mut self, number: f64, y: &Placed) -> Option<()> {
        if number.to_bits() == 0 {
            self.made.launches.push(Launch::Zero { to: y.spot, bytes: y.meta().bytes() });
            return Some(());
        }
        let mut b = Builder::new();
        let number = b.constant(number);
        self.expression(&b.finish(&[number], 0, 0), &[], &[], &[*y])
    }
}
