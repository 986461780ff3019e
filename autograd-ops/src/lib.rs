//! The op gradient registry: every operation with its rule, its kernel and its checks.
//!
//! Ops are grouped in files; each file holds definition, rule, sample inputs and methods of its
//! ops. [`TensorAutograd`] gives them as methods, [`registry::all`] lists them.
//!
//! ```
//! use autograd_core::{Result, TrackedTensor};
//! use autograd_ops::TensorAutograd;
//!
//! fn main() -> Result<()> {
//!     let x = TrackedTensor::from_vec(vec![1f64, 2.], &[2])?;
//!     assert_eq!(x.pow(3)?.to_vec1::<f64>()?, [1., 8.]);
//!     Ok(())
//! }
//! ```

pub mod activation;
pub mod arithmetic;
pub mod attention;
#[cfg(test)]
mod batched;
pub mod compare;
pub mod conv;
pub mod conv3d;
pub mod cross_entropy;
pub mod cut;
pub mod einsum;
pub mod elementwise;
mod elsewhere;
pub mod extremum;
#[cfg(feature = "fft")]
pub mod fft;
pub mod gradient;
pub mod in_place;
pub mod index;
pub mod join;
#[cfg(feature = "linalg")]
pub mod linalg;
pub mod linear;
pub mod loss;
pub mod matrix;
mod methods;
pub mod norm;
mod numbers;
mod operand;
pub mod order;
mod pick;
pub mod pool;
pub mod product;
#[cfg(test)]
mod pull;
pub mod put;
pub mod random;
pub mod rearrange;
pub mod reduce;
pub mod registry;
pub mod resample;
pub mod rotary;
mod row_cross_entropy;
mod saved;
pub mod scan;
pub mod scatter;
pub mod shape;
pub mod slice;
pub mod softmax;
pub mod spread;
pub mod testing;
pub mod unfold;

pub use cut::{Cut, Cuts};
pub use einsum::einsum;
pub use join::{cat, meshgrid, stack};
pub use methods::TensorAutograd;
pub use numbers::{Dim, List, Number, Numbers};
pub use operand::Operand;
pub use saved::rebuild;
