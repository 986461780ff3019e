//! Tables of vectors.

use super::Module;
use crate::builder::ValueBuilder;
use autograd_core::{Result, TrackedTensor};
use autograd_ops::TensorAutograd;
use candle_nn::Init;

/// The rows of a table at whole numbers of any shape.
#[derive(Clone, Debug)]
pub struct Embedding {
    table: TrackedTensor,
}

impl Embedding {
    /// The layer of a table.
    pub fn new(table: TrackedTensor) -> Self {
        Self { table }
    }

    /// The table: one row for each number.
    pub fn embeddings(&self) -> &TrackedTensor {
        &self.table
    }
}

impl Module for Embedding {
    #[track_caller]
    fn forward(&self, xs: &TrackedTensor) -> Result<TrackedTensor> {
        self.table.embedding(xs)
    }
}

/// An embedding with the parameter `weight` (rows × size).
///
/// # Errors
/// A parameter that is missing or of another shape.
#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "vb.pp(..) is written at the call, as with candle")]
pub fn embedding(rows: usize, size: usize, vb: ValueBuilder) -> Result<Embedding> {
    let init = Init::Randn { mean: 0.0, stdev: 1.0 };
    Ok(Embedding { table: vb.get_with(&[rows, size], "weight", init)? })
}
