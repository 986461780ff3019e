//! Products with a bias by cuBLASLt, whose epilogue adds it to the product before that is written.
//!
//! The library counts columns first: to it y, w and x are transposes, so yᵀ = wᵀ · xᵀ, and the bias, a
//! number for each column of y, is one for each row of what it makes, as its epilogue wants it.

use super::driver;
use crate::{Factor, Product};
use autograd_core::{DType, Error, Result};
use candle_core::cuda_backend::cudarc::cublaslt::result::{self, CublasError};
use candle_core::cuda_backend::cudarc::cublaslt::sys;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaStream};
use candle_core::cuda_backend::gemm_reduced_precision_f32;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};
use sys::cublasLtMatmulDescAttributes_t as Attribute;
use sys::cublasLtMatmulPreferenceAttributes_t as Wish;
use sys::{cublasComputeType_t as Compute, cudaDataType as Kind};

const NAME: &str = "linear";

/// What the library may work in: NVIDIA's advice for Hopper.
pub(super) const WORKSPACE: usize = 32 << 20;

fn refused(error: CublasError) -> Error {
    driver(NAME, format!("cuBLASLt: {error}"))
}

/// The library on each device where it was asked for.
#[derive(Default)]
pub(super) struct Libraries(Mutex<Vec<(usize, Arc<Library>)>>);

impl Libraries {
    /// That of a stream's device.
    pub(super) fn of(&self, stream: &CudaStream) -> Result<Arc<Library>> {
        stream.context().bind_to_thread().map_err(|error| driver(NAME, error))?;
        let ordinal = stream.context().ordinal();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, library)) = known.iter().find(|(known, _)| *known == ordinal) {
            return Ok(library.clone());
        }
        let handle = result::create_handle().map_err(refused)?;
        let context = stream.context().clone();
        let library = Arc::new(Library { handle, found: Mutex::default(), _context: context });
        known.push((ordinal, library.clone()));
        Ok(library)
    }
}

/// A handle, and the algorithms that were found.
pub(super) struct Library {
    handle: sys::cublasLtHandle_t,
    found: Mutex<HashMap<Key, Option<Algorithm>>>,
    /// The handle is of no use when its context is gone.
    _context: Arc<CudaContext>,
}

// SAFETY: NVIDIA lets any number of threads use one handle of this library at once.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: the handle is destroyed once. There is nobody to tell that it failed.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// What the choice of an algorithm depends on: type and whether its products may be shortened, extents,
/// factors, how well the addresses are aligned.
type Key = (DType, bool, [usize; 5], [bool; 2], [u32; 3]);

/// How a product is made, whether of shortened factors, and in how much memory beside it.
#[derive(Clone, Copy)]
pub(super) struct Algorithm {
    chosen: sys::cublasLtMatmulAlgo_t,
    shortened: bool,
    pub(super) workspace: usize,
}

/// Where the values of a product lie.
#[derive(Clone, Copy)]
pub(super) struct Places {
    pub(super) x: u64,
    pub(super) w: u64,
    pub(super) y: u64,
    pub(super) bias: u64,
}

/// The most bytes, up to those that the library asks about, that addresses are multiples of.
fn alignment<const N: usize>(addresses: [u64; N]) -> u32 {
    let zeros = addresses.iter().fold(8, |zeros, address| zeros.min(address.trailing_zeros()));
    1 << zeros
}

macro_rules! owned {
    ($(#[$doc:meta] $name:ident($inner:ty), $destroy:ident;)*) => {$(
        #[$doc]
        struct $name($inner);

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: it was made by the library and is destroyed once.
                let _ = unsafe { result::$destroy(self.0) };
            }
        }
    )*};
}

owned! {
    /// How a matrix lies.
    Matrix(sys::cublasLtMatrixLayout_t), destroy_matrix_layout;
    /// What is computed.
    Operation(sys::cublasLtMatmulDesc_t), destroy_matmul_desc;
    /// What is asked of an algorithm.
    Wishes(sys::cublasLtMatmulPreference_t), destroy_matmul_pref;
}

impl Operation {
    fn set<T>(&self, attribute: Attribute, value: &T) -> Result<()> {
        let from = std::ptr::from_ref(value).cast();
        // SAFETY: the library copies as many bytes from the value.
        unsafe { result::set_matmul_desc_attribute(self.0, attribute, from, size_of::<T>()) }.map_err(refused)
    }
}

impl Wishes {
    fn set<T>(&self, attribute: Wish, value: &T) -> Result<()> {
        let from = std::ptr::from_ref(value).cast();
        // SAFETY: as above.
        unsafe { result::set_matmul_pref_attribute(self.0, attribute, from, size_of::<T>()) }.map_err(refused)
    }
}

/// A product in the library's words.
struct Described {
    operation: Operation,
    w: Matrix,
    x: Matrix,
    y: Matrix,
}

impl Described {
    /// `None` for a type that has no epilogue.
    fn new(p: &Product, bias: u64, shortened: bool) -> Result<Option<Self>> {
        let single = match shortened {
            true => Compute::CUBLAS_COMPUTE_32F_FAST_TF32,
            false => Compute::CUBLAS_COMPUTE_32F,
        };
        let (kind, compute) = match p.dtype {
            DType::F32 => (Kind::CUDA_R_32F, single),
            DType::F16 => (Kind::CUDA_R_16F, Compute::CUBLAS_COMPUTE_32F),
            DType::BF16 => (Kind::CUDA_R_16BF, Compute::CUBLAS_COMPUTE_32F),
            _ => return Ok(None),
        };
        let operation = result::create_matmul_desc(compute, Kind::CUDA_R_32F).map_err(refused)?;
        let operation = Operation(operation);
        operation.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(p.w.turned))?;
        operation.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &i32::from(p.x.turned))?;
        let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
        operation.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        operation.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias)?;
        let matrix = |rows: usize, columns: usize, step: usize| {
            result::create_matrix_layout(kind, rows as u64, columns as u64, step as i64)
                .map(Matrix)
                .map_err(refused)
        };
        let factor = |f: &Factor, rows: usize, columns: usize| match f.turned {
            true => matrix(columns, rows, f.step),
            false => matrix(rows, columns, f.step),
        };
        Ok(Some(Self {
            w: factor(&p.w, p.columns, p.inner)?,
            x: factor(&p.x, p.inner, p.rows)?,
            y: matrix(p.columns, p.rows, p.columns)?,
            operation,
        }))
    }
}

impl Library {
    /// How a product with its bias is made at these places; `None` where the library has no way.
    pub(super) fn algorithm(&self, p: &Product, at: Places) -> Result<Option<Algorithm>> {
        let aligned = [alignment([at.w]), alignment([at.x]), alignment([at.y, at.bias])];
        let (extents, turned) = ([p.rows, p.columns, p.inner, p.x.step, p.w.step], [p.x.turned, p.w.turned]);
        let shortened = gemm_reduced_precision_f32();
        let key = (p.dtype, shortened, extents, turned, aligned);
        if let Some(found) = self.found.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(*found);
        }
        let found = self.search(p, at.bias, shortened, aligned)?;
        self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(key, found);
        Ok(found)
    }

    fn search(
        &self,
        p: &Product,
        bias: u64,
        shortened: bool,
        [w, x, y]: [u32; 3],
    ) -> Result<Option<Algorithm>> {
        let Some(described) = Described::new(p, bias, shortened)? else { return Ok(None) };
        let wishes = Wishes(result::create_matmul_pref().map_err(refused)?);
        wishes.set(Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE)?;
        for (wish, alignment) in [
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, w),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, x),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, y),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, y),
        ] {
            wishes.set(wish, &alignment)?;
        }
        let Described { operation, w, x, y } = &described;
        // SAFETY: what is passed lives until the call returns.
        let found = unsafe {
            result::get_matmul_algo_heuristic(self.handle, operation.0, w.0, x.0, y.0, y.0, wishes.0)
        };
        match found {
            Ok(found) => {
                Ok(Some(Algorithm { chosen: found.algo, shortened, workspace: found.workspaceSize }))
            }
            // Older libraries call some extents of 1 invalid.
            Err(CublasError(
                sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED
                | sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE
                | sys::cublasStatus_t::CUBLAS_STATUS_ARCH_MISMATCH,
            )) => Ok(None),
            Err(error) => Err(refused(error)),
        }
    }

    /// y = x · w + bias.
    ///
    /// # Safety
    /// The values lie at these places as the product says, and the workspace has as many bytes as the
    /// algorithm, which was found for them, wants; all live until the stream has come so far.
    pub(super) unsafe fn multiply(
        &self,
        stream: &CudaStream,
        p: &Product,
        at: Places,
        algorithm: &Algorithm,
        workspace: u64,
    ) -> Result<()> {
        stream.context().bind_to_thread().map_err(|error| driver(NAME, error))?;
        let described = Described::new(p, at.bias, algorithm.shortened)?;
        let Some(Described { operation, w, x, y }) = &described else {
            return Err(Error::dtype(NAME, p.dtype, "cuBLASLt adds no bias in this type"));
        };
        let (one, zero) = (1f32, 0f32);
        // SAFETY: the caller's promise; the scalars are read before the call returns.
        unsafe {
            result::matmul(
                self.handle,
                operation.0,
                std::ptr::from_ref(&one).cast(),
                std::ptr::from_ref(&zero).cast(),
                at.w as *const c_void,
                w.0,
                at.x as *const c_void,
                x.0,
                at.y as *const c_void,
                y.0,
                at.y as *mut c_void,
                y.0,
                &raw const algorithm.chosen,
                workspace as *mut c_void,
                algorithm.workspace,
                stream.cu_stream().cast(),
            )
        }
        .map_err(refused)
    }
}
