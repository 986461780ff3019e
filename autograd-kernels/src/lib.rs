//! Slices in, slices out: the CPU kernels of candle-autograd, its one thread pool and its buffer
//! pool.
//!
//! This crate knows no tensor library and no derivative. Kernels read [`View`]s (any strides,
//! stride 0 where a dimension is repeated) and write contiguous slices that the caller gives, so
//! that eager mode and static graphs share them. All CPU `unsafe` of the workspace lives here.
//!
//! Types are f32, f64, bf16 and f16 (the half types compute in f32), and integers where they make
//! sense. On x86-64 the loops use AVX2 and FMA where the processor has them, and matrix products
//! and Winograd's convolutions AVX-512, found at run time; the portable loops give the same numbers
//! where no sum is reordered. With the feature `parallel`, large kernels run on a
//! pool of threads; results are equal to the bit for any number of threads.
//!
//! ```
//! use autograd_kernels::expr::{Binary, Builder, Unary};
//! use autograd_kernels::{Layout, Shape, Slice, SliceMut, View, machine};
//!
//! // y = tanh(x · w) for x of shape [2, 3] and one w for each column.
//! let mut b = Builder::new();
//! let (x, w) = (b.input(0), b.input(1));
//! let product = b.binary(Binary::Mul, x, w);
//! let y = b.unary(Unary::Tanh, product);
//! let program = b.finish(&[y], 2, 0);
//!
//! let (shape, columns) = (Shape::new(&[2, 3]), Shape::new(&[3]));
//! let (x_layout, w_layout) = (Layout::contiguous(shape), Layout::contiguous(columns));
//! let x = View { data: Slice::F32(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), layout: &x_layout };
//! let w = View { data: Slice::F32(&[1.0, 0.5, 0.25]), layout: &w_layout };
//! let mut y = [0f32; 6];
//! machine::run(&program, &[], &[x, w], &shape, &mut [SliceMut::F32(&mut y)]);
//! assert!((y[4] - 2f32.tanh()).abs() < 1e-6);
//! ```

pub mod arena;
pub mod attention;
pub mod conv2d;
pub mod copy;
pub mod expr;
#[cfg(feature = "fft")]
pub mod fft;
mod float;
pub mod index;
#[cfg(feature = "jit")]
pub mod jit;
mod lanes;
#[cfg(feature = "linalg")]
pub mod linalg;
pub mod machine;
pub mod math;
pub mod matmul;
pub mod memory;
pub mod norm;
mod operand;
mod output;
pub mod place;
pub mod pool2d;
pub mod probe;
pub mod random;
pub mod reduce;
pub mod resample;
mod rows;
pub mod scan;
mod shape;
mod simd;
mod slice;
pub mod softmax;
pub mod sort;
pub mod statistics;
pub mod threads;
pub mod triangle;

pub use half::{bf16, f16};
pub use shape::{Layout, MAX_RANK, Shape};
pub use slice::{Element, Kind, Slice, SliceMut, View};
