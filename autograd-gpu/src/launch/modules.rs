//! Compiled sources: in memory, and in the user's store on disk.

use super::driver;
use crate::{Architecture, CompileError, Element, PtxStore, Source, compile_through, pointwise, sources};
use autograd_core::kernels::expr::Program;
use autograd_core::{Error, Result};
use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute as Attribute;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Compiled sources, each under a name of its own: candle caches modules by name.
pub(super) struct Modules {
    expressions: Mutex<HashMap<Expression, Option<Arc<Module>>>>,
    files: Mutex<HashMap<File, Option<Arc<Module>>>>,
    store: Option<PtxStore>,
}

/// A source's name and the architecture it is compiled for.
type File = (&'static str, u32);

/// What the kernel of an expression is made from.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Expression {
    pub(super) program: Program,
    pub(super) inputs: Vec<Element>,
    pub(super) outputs: Vec<Element>,
    pub(super) architecture: u32,
}

/// PTX and the name under which candle keeps it.
pub(super) struct Module {
    pub(super) name: String,
    pub(super) ptx: String,
}

/// The newest architecture for which a device's code can be made, and its number.
pub(super) fn architecture(op: &'static str, device: &CudaDevice) -> Result<Option<(Architecture, u32)>> {
    let stream = device.cuda_stream();
    let number = |attribute| stream.context().attribute(attribute).map_err(|error| driver(op, error));
    let major = number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(match 10 * major + minor {
        90.. => Some((Architecture::Sm90, 90)),
        89 => Some((Architecture::Sm89, 89)),
        80..=88 => Some((Architecture::Sm80, 80)),
        _ => None,
    })
}

#[allow(clippy::mutable_key_type, reason = "a program's code is no part of its key")]
impl Modules {
    /// With the store of this user.
    pub(super) fn new() -> Self {
        Self { expressions: Mutex::default(), files: Mutex::default(), store: PtxStore::of_user() }
    }

    pub(super) fn expression(
        &self,
        op: &'static str,
        key: Expression,
        architecture: Architecture,
    ) -> Result<Option<Arc<Module>>> {
        let mut known = self.expressions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = known.get(&key) {
            return Ok(module.clone());
        }
        let name = format!("autograd_expression_{}", known.len());
        let source = pointwise("expression", &key.program, &key.inputs, &key.outputs);
        let made = self.module(op, &source, architecture, name)?;
        known.insert(key, made.clone());
        Ok(made)
    }

    pub(super) fn file(
        &self,
        op: &'static str,
        file: &'static str,
        (architecture, number): (Architecture, u32),
    ) -> Result<Option<Arc<Module>>> {
        let mut known = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = known.get(&(file, number)) {
            return Ok(module.clone());
        }
        let source = sources().into_iter().find(|source| source.name() == file);
        let source = source.ok_or_else(|| Error::internal(op, format!("no source {file}")))?;
        let made = self.module(op, &source, architecture, format!("autograd_{file}_{number}"))?;
        known.insert((file, number), made.clone());
        Ok(made)
    }

    /// The module of a source; `None` where there is no compiler. A source that it refuses is an
    /// error.
    fn module(
        &self,
        op: &'static str,
        source: &Source,
        architecture: Architecture,
        name: String,
    ) -> Result<Option<Arc<Module>>> {
        match compile_through(self.store.as_ref(), source, architecture) {
            Ok(ptx) => Ok(Some(Arc::new(Module { name, ptx }))),
            Err(CompileError::NoCompiler) => Ok(None),
            Err(error @ CompileError::Rejected { .. }) => Err(Error::internal(op, error.to_string())),
        }
    }
}
