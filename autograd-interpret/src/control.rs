//! How much is evaluated at once, and who hears of it.

use autograd_core::{At, Error, Result};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Hears how many of how many evaluations are done, and says whether to go on.
pub type Progress = dyn Fn(usize, usize) -> ControlFlow<()> + Send + Sync;

/// The bound on memory, and the progress callback.
#[derive(Clone)]
pub(crate) struct Control {
    pub(crate) rows: usize,
    pub(crate) progress: Option<Arc<Progress>>,
}

/// Rows evaluated at once unless a method is told otherwise: enough to fill the kernels, few enough
/// to keep activations in the cache.
const ROWS: usize = 64;

impl Default for Control {
    fn default() -> Self {
        Self { rows: ROWS, progress: None }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Control {
    /// How many copies of `examples` examples fit into one evaluation: at least one.
    pub(crate) fn copies(&self, examples: usize) -> usize {
        (self.rows / examples.max(1)).max(1)
    }

    /// Tells the callback.
    pub(crate) fn report(&self, op: &'static str, done: usize, total: usize) -> Result<()> {
        match &self.progress {
            Some(progress) if progress(done, total).is_break() => {
                Err(Error::Cancelled { op, done, total, at: At::default() })
            }
            _ => Ok(()),
        }
    }
}

/// The builder methods of whatever evaluates a function many times, many rows at once.
macro_rules! controls {
    () => {
        /// At most so many rows in one evaluation of the function, but at least one copy of the
        /// batch: the bound on memory. 64 unless set.
        #[must_use]
        pub fn rows(mut self, rows: usize) -> Self {
            self.control.rows = rows;
            self
        }

        crate::control::progress!();
    };
}

/// The builder method of whatever takes long.
macro_rules! progress {
    () => {
        /// A callback that hears how many of how many evaluations are done, and can cancel the
        /// rest by `ControlFlow::Break`.
        #[must_use]
        pub fn progress(
            mut self,
            progress: impl Fn(usize, usize) -> std::ops::ControlFlow<()> + Send + Sync + 'static,
        ) -> Self {
            self.control.progress = Some(std::sync::Arc::new(progress));
            self
        }
    };
}

pub(crate) use {controls, progress};
