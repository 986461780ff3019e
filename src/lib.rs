//! Automatic differentiation for candle tensors.
//!
//! This crate is the facade: it re-exports the crates of the workspace, one feature a capability.
//!
//! | feature | gives | by default |
//! |---|---|---|
//! | `tape` | [`GradientTape`]: reverse mode, to any order | yes |
//! | `forward` | [`ForwardADContext`], [`DualTensor`], [`jvp`]: forward mode | yes |
//! | `transforms` | [`transforms`]: `grad`, `vmap`, Jacobians, Hessians, checks on closures over trees of values | yes |
//! | `nn` | [`nn`]: candle's variables, gradient stores and optimisers | yes |
//! | `parallel` | kernels on one pool of threads | yes |
//! | `graph` | [`graph`]: functions captured, optimised and compiled; `jit(f)` | |
//! | `jit` | machine code for fused passes, eager and in graphs (x86-64; tiles elsewhere) | |
//! | `checkpoint` | [`checkpoint`]: recomputation instead of memory | yes |
//! | `interpret` | [`interpret`]: attribution | |
//! | `pictures` | `interpret::picture`: heat maps, coloured text, time series | |
//! | `linalg` | solvers, factorisations, determinants | |
//! | `fft` | Fourier transforms | |
//! | `full` | all of these | |
//! | `gpu` | `gpu::install`: fused kernels on CUDA tensors; needs NVIDIA's toolkit to build, not in `full` | |
//! | `sprs` | sparse Jacobians as matrices of the crate `sprs`, not in `full` | |
//!
//! ```
//! use candle_autograd::{GradientTape, TensorAutograd};
//! use candle_core::{Device, Tensor};
//!
//! fn main() -> candle_autograd::Result<()> {
//!     let tape = GradientTape::new();
//!     let x = tape.variable(Tensor::from_vec(vec![2f32, 3.], 2, &Device::Cpu)?);
//!     let w = tape.variable(Tensor::from_vec(vec![5f32, 7.], 2, &Device::Cpu)?);
//!     let z = x.mul(&w)?.sum()?;
//!     let grads = tape.gradient(&z, &[&x, &w])?;
//!     assert_eq!(grads[0].to_vec1::<f32>()?, [5., 7.]);
//!     assert_eq!(grads[1].to_vec1::<f32>()?, [2., 3.]);
//!     Ok(())
//! }
//! ```

pub use autograd_core as core;
pub use autograd_core::{
    CustomOp, DType, Device, Error, Meta, Result, Shape, Tensor, TrackedTensor, Tree, kernels, no_grad, tap,
    tree, with_taps,
};
pub use autograd_ops as ops;
pub use autograd_ops::{Operand, TensorAutograd, registry};

#[cfg(feature = "checkpoint")]
pub use autograd_checkpoint::{self as checkpoint, CheckpointManager};
#[cfg(feature = "forward")]
pub use autograd_forward::{self as forward, DualTensor, ForwardADContext, jvp};
#[cfg(feature = "gpu")]
pub use autograd_gpu as gpu;
#[cfg(feature = "graph")]
pub use autograd_graph as graph;
#[cfg(feature = "interpret")]
pub use autograd_interpret as interpret;
#[cfg(feature = "nn")]
pub use autograd_nn as nn;
#[cfg(feature = "tape")]
pub use autograd_tape::{self as tape, GradientAccumulator, GradientTape, LossScaler, Operation, TapeNode};
#[cfg(feature = "transforms")]
pub use autograd_transforms as transforms;

/// The README's code, run as tests.
#[cfg(all(doctest, feature = "full"))]
#[doc = include_str!("../README.md")]
pub struct Readme;

/// The porting guide's code, run as tests.
#[cfg(all(doctest, feature = "full"))]
#[doc = include_str!("../docs/porting.md")]
pub struct Porting;
