//! Static graphs: a function over values captured once, as a program.
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

mod capture;

pub use capture::capture;
