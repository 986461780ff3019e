//! CUDA kernels for candle-autograd: their sources, the kernels generated from scalar expressions,
//! and their compilation.
//!
//! [`sources`] lists the hand-made kernels (softmax family, cross entropy, norms, reductions,
//! dropout, pooling, embedding, attention; forward and backward). [`pointwise`] makes the source
//! of a fused kernel from an expression [`Program`](autograd_core::kernels::expr::Program), the
//! same data from which the CPU's tiles work. With the feature `nvrtc`, `compile` makes PTX of
//! either; that needs NVIDIA's compiler library at run time, and no GPU.
//!
//! With the feature `cuda`, `install` gives the process the fused expressions and the softmax
//! family for its CUDA tensors; every other op runs there by candle's kernels, as
//! [`autograd_core::device`] says. The other hand-made kernels are not launched yet. This crate
//! knows no derivative: which kernel belongs to which rule is the rule's business.
//!
//! Every kernel is compiled for two architectures by `cargo xtask gpu-check`, and executed on the
//! CPU by an emulation of blocks and warps, where its numbers are compared with the CPU kernels'.
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
mod source;

pub use codegen::{Element, pointwise};
#[cfg(feature = "nvrtc")]
pub use compile::{Architecture, CompileError, compile};
#[cfg(feature = "cuda")]
pub use launch::install;
pub use source::{Source, sources};
