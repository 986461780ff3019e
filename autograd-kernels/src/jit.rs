//! Machine code for expressions: x86-64 with AVX2 and FMA, made at run time.
//!
//! The expression's vector instructions are those that the tile machine would run, recorded
//! ([`math::recorded`](crate::math::recorded)), so that code and tiles give the same numbers, to
//! the bit. `allocate` gives them registers, `emit` writes the code. Its pages are written first
//! and executable afterwards, never both at once. Equal expressions share their code.

mod allocate;
#[cfg(target_arch = "x86_64")]
#[allow(clippy::useless_conversion, reason = "what `dynasm!` expands to")]
mod emit;

use crate::expr::Program;
use crate::machine::{Prepared, TileCode};
use std::sync::Arc;

/// Code for a prepared expression; `None` where it computes in f64, a function of it has no vector
/// code, or the processor has neither AVX2 nor FMA: then it runs as tiles.
pub fn code(prepared: &Prepared) -> Option<Arc<dyn TileCode>> {
    prepared.is_f32().then(|| code_of(prepared.program())).flatten()
}

/// Code for an expression without parameters, computed in f32.
#[cfg(target_arch = "x86_64")]
pub(crate) fn code_of(program: &Program) -> Option<Arc<dyn TileCode>> {
    if !crate::simd::has_avx2() {
        return None;
    }
    let code: Arc<dyn TileCode> = emit::shared(program)?;
    Some(code)
}

/// No code on other processors: expressions run as tiles.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn code_of(_: &Program) -> Option<Arc<dyn TileCode>> {
    None
}
