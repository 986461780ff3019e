//! Static graphs: a function over values captured once, optimised, and run at the machine's limit.
//!
//! [`jit`] compiles a function at its first call. Underneath, a [`Graph`] is a captured program,
//! which prints, is differentiated as a whole, and [compiles](Graph::compile): passes fold, share
//! and fuse, a plan gives every value its place in one arena, an [`Executor`] runs the steps.
//!
//! [`capture`] records every op that a function applies, including those of the transforms inside
//! it, as a [`Program`](autograd_core::Program), which runs like the function itself, to the bit.
//!
//! ```
//! use autograd_core::{Result, TrackedTensor};
//! use autograd_graph::capture;
//! use autograd_ops::TensorAutograd;
//!
//! fn main() -> Result<()> {
//!     let x = TrackedTensor::from_vec(vec![1f32, 2.], &[2])?;
//!     let program = capture(|x| Ok(vec![x[0].pow(2)?]), &[x.meta()])?;
//!     assert_eq!(program.run(&[&x])?[0].to_vec1::<f32>()?, [1., 4.]);
//!     Ok(())
//! }
//! ```

mod blocked;
mod capture;
mod check;
mod code;
mod compiled;
mod dot;
mod elsewhere;
mod epilogue;
mod executor;
mod explain;
mod fused;
mod graph;
mod jit_function;
mod passes;
mod plan;
mod regions;
mod stored;
mod usage;

pub use capture::capture;
pub use code::Engine;
pub use compiled::{Compiled, Options};
pub use executor::Executor;
pub use explain::{DeviceExplanation, Explanation, StepExplanation};
pub use graph::{Constant, Graph};
pub use jit_function::{Jit, compile, jit, jit_with, value_and_grad};
pub use passes::{Passes, Recomputation};
pub use stored::StoredGraph;
