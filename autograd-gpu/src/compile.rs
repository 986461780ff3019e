//! Compilation to PTX by NVRTC, which needs no GPU.

use crate::{Key, PtxStore, Source};
use cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts};
use std::fmt;

/// A virtual architecture to compile for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Ampere.
    Sm80,
    /// Ada.
    Sm89,
    /// Hopper.
    Sm90,
}

impl Architecture {
    /// The compiler's name for it.
    fn option(self) -> &'static str {
        match self {
            Architecture::Sm80 => "compute_80",
            Architecture::Sm89 => "compute_89",
            Architecture::Sm90 => "compute_90",
        }
    }
}

/// Why a source could not be compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompileError {
    /// The library libnvrtc is not on this machine, or the loader does not find it.
    NoCompiler,
    /// The compiler refuses the source.
    Rejected {
        /// The source's name.
        name: String,
        /// What the compiler says.
        log: String,
    },
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CompileError::NoCompiler => f.write_str(
                "libnvrtc was not found; install NVIDIA's CUDA toolkit or name its folder in LD_LIBRARY_PATH",
            ),
            CompileError::Rejected { name, log } => {
                write!(f, "the kernel source `{name}` does not compile: {log}")
            }
        }
    }
}

impl std::error::Error for CompileError {}

/// Whether the compiler's library is there.
#[cfg(not(feature = "cuda"))]
fn is_there() -> bool {
    // SAFETY: it looks for the library and loads it, whose initialisers are the vendor's own.
    unsafe { cudarc::nvrtc::sys::is_culib_present() }
}

/// candle links the library, so that a program which runs has it.
#[cfg(feature = "cuda")]
fn is_there() -> bool {
    true
}

/// The PTX of a source.
///
/// # Errors
/// [`CompileError`]: no compiler on this machine, or a source that it refuses.
pub fn compile(source: &Source, architecture: Architecture) -> Result<Ptx, CompileError> {
    if !is_there() {
        return Err(CompileError::NoCompiler);
    }
    let options = CompileOptions {
        arch: Some(architecture.option()),
        options: vec!["--std=c++17".into(), "-default-device".into()],
        name: Some(source.name().to_owned()),
        ..CompileOptions::default()
    };
    compile_ptx_with_opts(source.text(), options).map_err(|error| {
        let log = match error {
            cudarc::nvrtc::CompileError::CompileError { log, .. } => log.to_string_lossy().into_owned(),
            other => other.to_string(),
        };
        CompileError::Rejected { name: source.name().to_owned(), log }
    })
}

/// The PTX of a source, from a store where it has been compiled before; what is compiled is kept there.
///
/// # Errors
/// As [`compile`]. A store that cannot be written is no error: the kernel is compiled again.
pub fn compile_through(
    store: Option<&PtxStore>,
    source: &Source,
    architecture: Architecture,
) -> Result<String, CompileError> {
    let Some(store) = store else { return compile(source, architecture).map(|ptx| ptx.to_src()) };
    if !is_there() {
        return Err(CompileError::NoCompiler);
    }
    let key = Key::new(source.text(), architecture.option(), &version());
    if let Some(ptx) = store.get(key) {
        return Ok(ptx);
    }
    let ptx = compile(source, architecture)?.to_src();
    let _ = store.put(key, &ptx);
    Ok(ptx)
}

/// The compiler's version: another one may make other code.
fn version() -> String {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is there, and the two numbers may be written.
    let _ = unsafe { cudarc::nvrtc::sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    format!("{major}.{minor}")
}
