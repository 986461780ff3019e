//! Slices in, slices out: the CPU kernels of candle-autograd, its one thread pool and its buffer
//! pool.
//!
//! This crate knows no tensor library and no derivative. Kernels read [`View`]s and write slices
//! that the caller gives, so that eager mode and static graphs share them. All CPU `unsafe` of the
//! workspace lives here.

pub mod attention;
pub mod conv2d;
pub mod copy;
pub mod expr;
mod float;
pub mod index;
mod lanes;
pub mod machine;
pub mod math;
pub mod matmul;
pub mod memory;
pub mod norm;
mod operand;
pub mod place;
pub mod pool2d;
pub mod random;
pub mod reduce;
pub mod resample;
mod rows;
mod shape;
mod simd;
mod slice;
pub mod softmax;
pub mod sort;
pub mod threads;

pub use half::{bf16, f16};
pub use shape::{Layout, MAX_RANK, Shape};
pub use slice::{Element, Kind, Slice, SliceMut, View};
