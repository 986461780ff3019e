//! The universal value, the interception point and the rule shapes of candle-autograd.
//!
//! [`TrackedTensor`] is what functions take and return; [`apply`] is the one place that every op
//! goes through; a [`Tracer`] watches values at its [`Level`]; a [`Primitive`] says what an op
//! computes and, by one of the [`Rule`] shapes, how it is differentiated. This crate names few
//! ops (the closed [`algebra`] that cotangents need) and no mode of differentiation.
//!
//! ```
//! use autograd_core::{Result, TrackedTensor};
//!
//! fn main() -> Result<()> {
//!     let x = TrackedTensor::from_vec(vec![1f32, 2., 3.], &[3])?;
//!     let y = ((&x * &x)? + 1.0)?;
//!     assert_eq!(y.to_vec1::<f32>()?, [2., 5., 10.]);
//!     Ok(())
//! }
//! ```

pub mod algebra;
mod apply;
mod barrier;
mod capture;
mod closure;
mod custom;
mod deferred;
pub mod device;
mod drawing;
mod error;
mod extents;
mod fingerprint;
mod in_place;
mod level;
mod mask;
mod memory;
mod meta;
mod plain;
mod pointwise;
mod primitive;
mod program;
mod provenance;
mod rule;
mod saved;
mod scalar;
mod scope;
mod tap;
pub mod testing;
mod tracer;
mod tree;
mod value;

pub use apply::{apply, apply_call, apply_one, apply_single, heard, on_behalf_of, watcher};
pub use autograd_kernels as kernels;
pub use autograd_kernels::{Layout, MAX_RANK, Shape, SliceMut, View};
pub use barrier::{barrier, captured};
pub use candle_core::{DType, Device, DeviceLocation, Tensor};
pub use capture::{is_capturing, known};
pub use closure::{Closure, close, close_for, close_whole, eval_composed, section};
pub use custom::{CustomOp, custom};
pub use deferred::set_deferred_from;
pub use drawing::{Drawing, DrawnNode, Look, bytes_in_words, meta_in_words};
pub use error::{At, Error, Result, Site};
pub use fingerprint::Fingerprint;
pub use in_place::{
    InPlaceStatistics, Obstacle, Rewrite, Rewritten, apply_in_place, count_in_place, rewrite, strict_in_place,
};
pub use level::{Level, Pauses, is_recording, no_grad, pause_level};
pub use mask::Mask;
pub use memory::with_buffers;
pub use meta::{Meta, dtype_of, is_float, kind_of, resolve_dim};
pub use plain::{Buffer, Plain};
pub use pointwise::{Definition, Params, Pointwise, ReducedPointwise, pointwise, pointwise_with};
pub use primitive::{ByRows, Composed, Finishes, Prim, Primitive, Signature, SumOver};
pub use program::{Instruction, Operand, Program, Section};
pub use provenance::{Cut, CutKind};
pub use rule::{Cotangents, General, Grads, Opaque, Residual, Residuals, Rule, Saved, Transpose};
pub use saved::{Parameter, SavedOp, interned, rebuild, sound_shape};
pub use scalar::{Forward, MAX_COEFFICIENTS, Reverse, ScalarExpr, Taylor};
pub use scope::{Scope, ScopeGuard};
pub use smallvec;
pub use tap::{tap, with_taps};
pub use tracer::{Applied, Call, Tracer, Values};
pub use tree::{Path, Tree, same_structure};
pub use value::{TrackedTensor, checked_shape};
