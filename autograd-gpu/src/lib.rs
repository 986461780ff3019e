//! CUDA kernels for candle-autograd: their sources, the kernels generated from scalar expressions,
//! and their compilation.
//!
//! [`sources`] lists the hand-made kernels (softmax family, cross entropy, norms, reductions, sorting,
//! random numbers, pooling, resampling, embedding, attention, convolutions; forward and backward), and [`plan()`] says
//! which of them take an op's place, on how many blocks and with which arguments; [`sequence()`] does
//! so for a whole program over one arena. [`pointwise`]
//! makes the source of a fused kernel from an expression
//! [`Program`](autograd_core::kernels::expr::Program), the same data from which the CPU's tiles work.
//! With the feature `nvrtc`, `compile` makes PTX of either, which a [`PtxStore`] keeps on disk; that
//! needs NVIDIA's compiler library at run time, and no GPU.
//!
//! With the feature `cuda`, `install` gives the process these kernels for its CUDA tensors; every
//! other op runs there by candle's kernels, as [`autograd_core::device`] says. This crate knows no
//! derivative: which kernel belongs to which rule is the rule's business.
//!
//! Every kernel is compiled for two architectures by `cargo xtask gpu-check`. The plans are executed
//! on the CPU by an emulation of blocks and warps under every op of the registry, where values and
//! gradients are compared with the CPU kernels'. None of it has run on a GPU yet.
//!
//! ```
//! use autograd_core::kernels::expr::{Binary, Builder, Unary};
//! use autograd_gpu::{Element, pointwise};
//!
//! // y = tanh(x · w)
//! let mut b = Builder::new();
//! let (x, w) = (b.input(0), b.input(1));
//! let product = b.binary(Binary::Mul, x, w);
//! let y = b.unary(Unary::Tanh, product);
//! let program = b.finish(&[y], 2, 0);
//! let kernel = pointwise("gate", &program, &[Element::F32, Element::F32], &[Element::F32]);
//! assert!(kernel.text().contains("tanh"));
//! assert_eq!(kernel.entries(), ["gate", "gate_strided"]);
//! ```

mod codegen;
#[cfg(feature = "nvrtc")]
mod compile;
#[cfg(feature = "cuda")]
mod launch;
mod plan;
mod sequence;
mod source;
mod store;

pub use codegen::{Element, pointwise};
#[cfg(feature = "nvrtc")]
pub use compile::{Architecture, CompileError, compile, compile_through};
#[cfg(feature = "nccl")]
pub use launch::{Group, GroupId};
#[cfg(feature = "cuda")]
pub use launch::{cuda, install};
pub use plan::{Argument, Fault, Plan, Room, Step, Words, kernels, plan};
pub use sequence::{
    COMPOSED, Call, Code, Expression, Factor, Launch, Memory, Onto, Passed, Product, Report, Sequence, Spot,
    sequence, takes,
};
pub use source::{Source, sources};
pub use store::{FOLDER, Key, PtxStore};
