//! A captured step as a CUDA graph: its launches are recorded once, over memory that stays where it
//! is, and replayed as one thing.
//!
//! The first run launches one after the other, so that everything is loaded, and then records. A
//! stream of its own waits for the device's stream before a run, which waits for it behind. Inputs
//! are copied in, and outputs out; closed-over tensors are read where they are.

use super::biased::{Algorithm, Libraries, Library, Places as BiasedPlaces, WORKSPACE};
use super::driver;
use super::memory::{Passed as Words, address, placed, room, tensor};
use super::modules::{self, Modules, architecture};
use crate::{Code, Launch, Memory, Onto, Passed, Product, Sequence, Spot};
use autograd_core::device::{DeviceProgram, Home, Laid, Tensors};
use autograd_core::{DType, Error, Meta, Result, Tensor};
use candle_core::cuda_backend::cudarc::cublas::{CudaBlas, result as blas, sys as blas_sys};
use candle_core::cuda_backend::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaGraph, CudaSlice, CudaStream, DevicePtr, DriverError, LaunchConfig, PushKernelArg,
    result,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, gemm_reduced_precision_f32};
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

const NAME: &str = "compiled";

/// A program made ready for a device: one run at a time.
pub(super) struct Replay {
    device: CudaDevice,
    inputs: Vec<Meta>,
    outputs: Vec<Meta>,
    ready: Mutex<Ready>,
}

/// What a run needs.
struct Ready {
    sequence: Sequence,
    /// The kernel of each launch that is one.
    functions: Vec<CudaFunction>,
    products: CudaBlas,
    biased: Arc<Library>,
    /// How each product with a bias is made.
    algorithms: Vec<Algorithm>,
    stream: Arc<CudaStream>,
    /// Held, and read by its address: while launches are recorded no event may be waited for.
    _pieces: Pieces,
    places: Places,
    /// From the second run on.
    graph: Option<CudaGraph>,
}

/// Where the memory of a program begins, and what the libraries of products work in.
struct Places {
    workspace: u64,
    arena: u64,
    rooms: u64,
    reports: u64,
    inputs: Vec<u64>,
    outputs: Vec<u64>,
    constants: Vec<u64>,
}

// SAFETY: the library's handle and the graph may be used by any thread, by one at a time; they are
// behind a lock.
unsafe impl Send for Ready {}

/// The memory of a program, which stays where it is.
struct Pieces {
    own: Vec<CudaSlice<u8>>,
    constants: Vec<Tensor>,
}

impl Pieces {
    /// Memory of this size, and where it begins.
    fn take(&mut self, stream: &Arc<CudaStream>, bytes: usize) -> Result<u64> {
        // SAFETY: launches write what later ones read; what none writes is zeroed or copied to.
        let piece = unsafe { stream.alloc::<u8>(bytes.max(1)) }.map_err(said)?;
        let at = piece.device_ptr(stream).0;
        self.own.push(piece);
        Ok(at)
    }
}

fn said(error: DriverError) -> Error {
    driver(NAME, error)
}

fn refused(error: blas::CublasError) -> Error {
    driver(NAME, format!("cuBLAS: {error}"))
}

impl Replay {
    /// `None` where there is no code for the device.
    pub(super) fn new(
        modules: &Modules,
        libraries: &Libraries,
        device: &CudaDevice,
        sequence: Sequence,
        program: &Laid,
        constants: &[Tensor],
    ) -> Result<Option<Self>> {
        if architecture(NAME, device)?.is_none() {
            return Ok(None);
        }
        let main = device.cuda_stream();
        let stream = main.context().new_stream().map_err(said)?;
        let products = CudaBlas::new(stream.clone()).map_err(refused)?;
        let mut pieces = Pieces { own: Vec::new(), constants: constants.to_vec() };
        let workspace = pieces.take(&stream, WORKSPACE)?;
        // SAFETY: the workspace is as long as is said, and lives as long as the handle.
        unsafe { blas_sys::cublasSetWorkspace_v2(*products.handle(), workspace as *mut c_void, WORKSPACE) }
            .result()
            .map_err(refused)?;
        let mut each = |metas: &[Meta]| -> Result<Vec<u64>> {
            metas.iter().map(|x| pieces.take(&stream, x.bytes())).collect()
        };
        let (inputs, outputs) = (each(&program.inputs)?, each(&program.outputs)?);
        let start = |x: &Tensor| Ok(placed(NAME, &x.storage_and_layout().0, 0, &stream)?.0);
        let places = Places {
            workspace,
            arena: pieces.take(&stream, sequence.arena)?,
            rooms: pieces.take(&stream, sequence.rooms)?,
            reports: pieces.take(&stream, sequence.reports)?,
            inputs,
            outputs,
            constants: pieces.constants.iter().map(start).collect::<Result<_>>()?,
        };
        let biased = libraries.of(&stream)?;
        let (sequence, algorithms) = with_algorithms(sequence, &biased, &places)?;
        let Some(functions) = functions(modules, device, &sequence)? else { return Ok(None) };
        let ready = Ready {
            sequence,
            functions,
            products,
            biased,
            algorithms,
            stream,
            _pieces: pieces,
            places,
            graph: None,
        };
        let (inputs, outputs) = (program.inputs.clone(), program.outputs.clone());
        Ok(Some(Self { device: device.clone(), inputs, outputs, ready: Mutex::new(ready) }))
    }
}

/// The kernel of each launch that is one; `None` where there is no code for the device.
fn functions(
    modules: &Modules,
    device: &CudaDevice,
    sequence: &Sequence,
) -> Result<Option<Vec<CudaFunction>>> {
    let Some(found) = architecture(NAME, device)? else { return Ok(None) };
    let mut functions = Vec::new();
    for launch in &sequence.launches {
        let Launch::Kernel(call) = launch else { continue };
        let module = match call.code {
            Code::File(file) => modules.file(NAME, file, found)?,
            Code::Generated(i) => {
                let made = &sequence.expressions[i];
                let (program, inputs, outputs) =
                    (made.program.clone(), made.inputs.clone(), made.outputs.clone());
                let key = modules::Expression { program, inputs, outputs, architecture: found.1 };
                modules.expression(NAME, key, found.0)?
            }
        };
        let Some(module) = module else { return Ok(None) };
        let function = device.get_or_load_custom_func(&call.entry, &module.name, &module.ptx)?;
        functions.push(function.into_cuda_function());
    }
    Ok(Some(functions))
}

/// The algorithm of each product with a bias; where the library has none, the bias comes first.
fn with_algorithms(
    sequence: Sequence,
    biased: &Library,
    places: &Places,
) -> Result<(Sequence, Vec<Algorithm>)> {
    let (mut algorithms, mut failed) = (Vec::new(), None);
    let sequence = sequence.with_epilogues(|product| {
        let Onto::Bias(bias) = product.onto else { return false };
        match biased.algorithm(product, places.of(product, bias)) {
            Ok(found) => {
                algorithms.extend(found);
                found.is_some()
            }
            Err(error) => {
                failed = Some(error);
                false
            }
        }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok((sequence, algorithms)),
    }
}

impl Places {
    /// The address of a place.
    fn at(&self, spot: Spot) -> u64 {
        let start = match spot.memory {
            Memory::Of(Home::Input(i)) => self.inputs[i],
            Memory::Of(Home::Output(i)) => self.outputs[i],
            Memory::Of(Home::Constant(i)) => self.constants[i],
            Memory::Of(Home::Arena) => self.arena,
            Memory::Rooms => self.rooms,
            Memory::Reports => self.reports,
        };
        start + spot.at as u64
    }

    /// Those of a product with its bias.
    fn of(&self, p: &Product, bias: Spot) -> BiasedPlaces {
        BiasedPlaces { x: self.at(p.x.at), w: self.at(p.w.at), y: self.at(p.y), bias: self.at(bias) }
    }
}

impl DeviceProgram for Replay {
    fn run(&self, inputs: &[Tensor]) -> Result<Tensors> {
        let main = self.device.cuda_stream();
        let inputs: Vec<Tensor> =
            inputs.iter().map(Tensor::contiguous).collect::<candle_core::Result<_>>()?;
        let made: Vec<CudaStorage> = self
            .outputs
            .iter()
            .map(|y| room(&self.device, y.shape.dims(), y.dtype))
            .collect::<Result<_>>()?;
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = ready.stream.clone();
        stream.join(&main).map_err(said)?;
        for (i, (x, meta)) in inputs.iter().zip(&self.inputs).enumerate() {
            let (storage, layout) = x.storage_and_layout();
            let (from, _guard) = placed(NAME, &storage, layout.start_offset(), &stream)?;
            copy(&stream, from, ready.places.inputs[i], meta)?;
        }
        ready.go()?;
        for (i, (y, meta)) in made.iter().zip(&self.outputs).enumerate() {
            let (to, _guard) = address(NAME, y, &stream)?;
            copy(&stream, ready.places.outputs[i], to, meta)?;
        }
        main.join(&stream).map_err(said)?;
        ready.judge()?;
        let tensors = made.into_iter().zip(&self.outputs).map(|(y, meta)| tensor(y, meta.shape.dims()));
        Ok(tensors.collect())
    }
}

/// Copies the numbers of a value on the device.
fn copy(stream: &Arc<CudaStream>, from: u64, to: u64, meta: &Meta) -> Result<()> {
    if meta.elements() == 0 {
        return Ok(());
    }
    stream.context().bind_to_thread().map_err(said)?;
    // SAFETY: both have as many bytes, and live until the stream is waited for.
    unsafe { result::memcpy_dtod_async(to, from, meta.bytes(), stream.cu_stream()) }.map_err(said)
}

impl Ready {
    /// Runs the launches: as a graph, once there is one.
    fn go(&mut self) -> Result<()> {
        if let Some(graph) = &self.graph {
            return graph.launch().map_err(said);
        }
        self.launch()?;
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(said)?;
        let launched = self.launch();
        // Whatever was launched, the stream must not stay in capture.
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0)).map_err(said);
        launched?;
        self.graph = graph?;
        match self.graph {
            Some(_) => Ok(()),
            None => Err(Error::device(NAME, "the driver recorded no graph".to_owned())),
        }
    }

    /// Launches one after the other.
    fn launch(&self) -> Result<()> {
        let (mut functions, mut algorithms) = (self.functions.iter(), self.algorithms.iter());
        if self.sequence.reports > 0 {
            self.zero(Spot { memory: Memory::Reports, at: 0 }, self.sequence.reports)?;
        }
        for launch in &self.sequence.launches {
            match launch {
                Launch::Zero { to, bytes } => self.zero(*to, *bytes)?,
                Launch::Product(product) => match product.onto {
                    Onto::Bias(bias) => self.multiply_biased(product, bias, algorithms.next())?,
                    Onto::Nothing | Onto::Held => self.multiply(product)?,
                },
                Launch::Kernel(call) => {
                    let function = functions.next();
                    let function =
                        function.ok_or_else(|| Error::internal(NAME, "a launch without its kernel"))?;
                    let words = |passed: &Passed| match passed {
                        Passed::Address(spot) => Words::new(NAME, &[self.places.at(*spot)]),
                        Passed::Null => Words::new(NAME, &[0]),
                        Passed::Value(words) => Words::new(NAME, words),
                    };
                    let passed: Vec<Words> = call.arguments.iter().map(words).collect::<Result<_>>()?;
                    let mut arguments = self.stream.launch_builder(function);
                    for argument in &passed {
                        arguments.arg(argument);
                    }
                    let [x, y] = call.grid;
                    let config = LaunchConfig {
                        grid_dim: (x, y, 1),
                        block_dim: (call.threads, 1, 1),
                        shared_mem_bytes: 0,
                    };
                    // SAFETY: the sequence gives the kernel its arguments in their types and order,
                    // for places that hold what it reads and writes: the tests execute the same
                    // launches over the same offsets.
                    unsafe { arguments.launch(config) }.map_err(said)?;
                }
            }
        }
        Ok(())
    }

    fn zero(&self, to: Spot, bytes: usize) -> Result<()> {
        let to = self.places.at(to);
        self.stream.context().bind_to_thread().map_err(said)?;
        // SAFETY: the sequence clears memory of its own.
        unsafe { result::memset_d8_async(to, 0, bytes, self.stream.cu_stream()) }.map_err(said)
    }

    /// y = x · w + bias.
    fn multiply_biased(&self, p: &Product, bias: Spot, algorithm: Option<&Algorithm>) -> Result<()> {
        let algorithm = algorithm.ok_or_else(|| Error::internal(NAME, "a product without its algorithm"))?;
        let places = self.places.of(p, bias);
        // SAFETY: the factors lie where the steps lead, y has room for the product, and the algorithm was
        // found for these places and this workspace.
        unsafe { self.biased.multiply(&self.stream, p, places, algorithm, self.places.workspace) }
    }

    /// y = x · w, or y + x · w. The library counts columns first: to it y, w and x are transposes, and
    /// so yᵀ = wᵀ · xᵀ.
    fn multiply(&self, p: &Product) -> Result<()> {
        use blas_sys::cublasComputeType_t as Compute;
        use blas_sys::cudaDataType as Kind;
        let single = match gemm_reduced_precision_f32() {
            true => Compute::CUBLAS_COMPUTE_32F_FAST_TF32,
            false => Compute::CUBLAS_COMPUTE_32F,
        };
        let (kind, compute) = match p.dtype {
            DType::F64 => (Kind::CUDA_R_64F, Compute::CUBLAS_COMPUTE_64F),
            DType::F32 => (Kind::CUDA_R_32F, single),
            DType::F16 => (Kind::CUDA_R_16F, Compute::CUBLAS_COMPUTE_32F),
            DType::BF16 => (Kind::CUDA_R_16BF, Compute::CUBLAS_COMPUTE_32F),
            other => return Err(Error::dtype(NAME, other, "products are of floats")),
        };
        // The factors of the sum are of the type of computation.
        let one = if p.dtype == DType::F64 { 1f64.to_bits() } else { u64::from(1f32.to_bits()) };
        let held = if p.onto == Onto::Held { one } else { 0 };
        let turned = |turned: bool| match turned {
            true => blas_sys::cublasOperation_t::CUBLAS_OP_T,
            false => blas_sys::cublasOperation_t::CUBLAS_OP_N,
        };
        let count = |n: usize| i32::try_from(n).map_err(|_| Error::internal(NAME, "a product is too large"));
        let [x, w, y] = [p.x.at, p.w.at, p.y].map(|spot| self.places.at(spot));
        // SAFETY: the factors lie where the steps lead, and y has room for the product; the scalars
        // are read before the call returns.
        unsafe {
            blas::gemm_strided_batched_ex(
                *self.products.handle(),
                turned(p.w.turned),
                turned(p.x.turned),
                count(p.columns)?,
                count(p.rows)?,
                count(p.inner)?,
                std::ptr::from_ref(&one).cast(),
                w as *const c_void,
                kind,
                count(p.w.step)?,
                p.w.batch as i64,
                x as *const c_void,
                kind,
                count(p.x.step)?,
                p.x.batch as i64,
                std::ptr::from_ref(&held).cast(),
                y as *mut c_void,
                kind,
                count(p.columns)?,
                (p.rows * p.columns) as i64,
                count(p.batch)?,
                compute,
                blas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(refused)
    }

    /// Waits for the device where an op could have met an index that is out of its range.
    fn judge(&self) -> Result<()> {
        if self.sequence.faults.is_empty() {
            return Ok(());
        }
        let mut bytes = vec![0u8; self.sequence.reports];
        self.stream.context().bind_to_thread().map_err(said)?;
        // SAFETY: the reports are as long; the copy is done when the stream has been waited for.
        unsafe { result::memcpy_dtoh_async(&mut bytes, self.places.reports, self.stream.cu_stream()) }
            .map_err(said)?;
        self.stream.synchronize().map_err(said)?;
        let words: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|bytes| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)))
            .collect();
        self.sequence.faults.iter().try_for_each(|report| report.judge(&words))
    }
}
