//! Sparse Jacobians and Hessians: structure found on the running function, columns compressed by
//! colouring, values by a few products.
//!
//! Entries of a Jacobian that can never meet in one row share a seed (Curtis, Powell and Reid,
//! "On the estimation of sparse Jacobian matrices", 1974), so that a product for each colour gives
//! all of them. The seeds are a distance-2 colouring of the columns (Coleman and Moré 1983), for
//! Hessians a star colouring, which uses symmetry (Gebremedhin, Manne and Pothen, "What color is
//! your Jacobian?", SIAM Review 47, 2005). Structure and colours depend on the function alone: find
//! them once and reuse them at other points.
//!
//! ```
//! use autograd_core::{Result, TrackedTensor};
//! use autograd_ops::TensorAutograd;
//! use autograd_transforms::sparse::SparseJacobian;
//!
//! /// The second differences of u: three entries in each row.
//! fn curvature(u: &TrackedTensor) -> Result<TrackedTensor> {
//!     let n = u.elem_count();
//!     let (left, right) = (u.narrow(0, 0, n - 2)?, u.narrow(0, 2, n - 2)?);
//!     (left.add(&right)?).sub(&u.narrow(0, 1, n - 2)?.mul(2.0)?)
//! }
//!
//! fn main() -> Result<()> {
//!     let u = TrackedTensor::from_vec(vec![0f64; 50], &[50])?;
//!     let plan = SparseJacobian::detect(curvature, &u)?;
//!     assert_eq!((plan.pattern().nnz(), plan.colours()), (48 * 3, 3));
//!     let jacobian = plan.evaluate(curvature, &u)?;
//!     assert_eq!(jacobian.values().to_vec1::<f64>()?[..3], [1., -2., 1.]);
//!     Ok(())
//! }
//! ```

mod colouring;
mod csr;
mod hessian;
mod jacobian;
mod pattern;
mod probe;
mod sets;
mod tracer;

pub use colouring::{Colouring, column_colouring, row_colouring, star_colouring};
pub use csr::CsrMatrix;
pub use hessian::{SparseHessian, sparse_hessian};
pub use jacobian::{Compression, SparseJacobian, sparse_jacobian};
pub use pattern::SparsityPattern;
pub use tracer::{hessian_sparsity, jacobian_sparsity};
