//! Plans executed on the CPU: the kernels as a library that `g++` builds, called with the arguments
//! that the driver would get.

mod replay;

use autograd_core::device::{Declined, DeviceKernels, DeviceProgram, Laid, Tensors, Tried};
use autograd_core::{DType, Device, Error, Meta, Primitive, Result, Signature, Tensor};
use autograd_gpu::{COMPOSED, Expression, Plan, Source, Words, plan, sequence, sources, takes};
use replay::Replay;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, c_char, c_int, c_void};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

thread_local! {
    static WITHHELD: Cell<bool> = const { Cell::new(false) };
    static WHOLES: Cell<usize> = const { Cell::new(0) };
    static BIASES_APART: Cell<bool> = const { Cell::new(false) };
    static LAUNCHED: RefCell<BTreeMap<String, usize>> = const { RefCell::new(BTreeMap::new()) };
    static GENERATED: RefCell<Generated> = const { RefCell::new(Generated::Each) };
    static WITHOUT_PLAN: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
}

/// How often each kernel ran on this thread: tests run at once.
pub(crate) fn launched() -> BTreeMap<String, usize> {
    LAUNCHED.with_borrow(Clone::clone)
}

fn note(launch: &str) {
    LAUNCHED.with_borrow_mut(|ran| *ran.entry(launch.to_owned()).or_default() += 1);
}

/// The kernels that this thread has asked for where there was no plan.
pub(crate) fn without_plan() -> BTreeSet<&'static str> {
    WITHOUT_PLAN.with_borrow(Clone::clone)
}

/// How many programs this thread has made ready as a whole.
pub(crate) fn wholes() -> usize {
    WHOLES.get()
}

/// Where the kernels come from that a sequence generates.
enum Generated {
    /// Each sequence builds a library of its own.
    Each,
    /// They are noted, and no sequence runs.
    Noted(Vec<Source>),
    /// From a library that has all of these.
    Built(Arc<Library>, Vec<Source>),
}

/// Runs `f` twice: the first time sequences are made and do not run, and the second time they run
/// with kernels of one library, because a compiler for each of very many would take minutes.
pub(crate) fn with_one_library(mut f: impl FnMut()) {
    GENERATED.set(Generated::Noted(Vec::new()));
    f();
    let Generated::Noted(sources) = GENERATED.replace(Generated::Each) else { panic!("they are noted") };
    let named = sources.iter().enumerate().map(|(i, source)| (format!("g{i}"), source.clone()));
    let library = Arc::new(Library::build(&named.collect::<Vec<_>>()));
    GENERATED.set(Generated::Built(library, sources));
    f();
    GENERATED.set(Generated::Each);
}

impl Generated {
    /// A library of these kernels, and what each is called there; `None` while they are noted.
    fn library(&mut self, wanted: Vec<Source>) -> Option<(Arc<Library>, Vec<String>)> {
        let place = |all: &[Source], source: &Source| all.iter().position(|s| s.text() == source.text());
        let (library, all) = match self {
            Generated::Each => {
                let named = |(i, source): (usize, &Source)| (format!("g{i}"), source.clone());
                let named: Vec<_> = wanted.iter().enumerate().map(named).collect();
                (Arc::new(Library::build(&named)), &wanted)
            }
            Generated::Noted(all) => {
                for source in wanted {
                    if place(all, &source).is_none() {
                        all.push(source);
                    }
                }
                return None;
            }
            Generated::Built(library, all) => (library.clone(), &*all),
        };
        let called = |source: &Source| format!("g{}", place(all, source).expect("it was noted before"));
        Some((library, wanted.iter().map(called).collect()))
    }
}

/// Runs `f` while kernels give no hints on this thread, as after a batch or in a graph.
pub(crate) fn without_hints<R>(f: impl FnOnce() -> R) -> R {
    WITHHELD.set(true);
    let made = f();
    WITHHELD.set(false);
    made
}

/// Runs `f` while the library of products is said to have no epilogue on this thread.
pub(crate) fn without_epilogues<R>(f: impl FnOnce() -> R) -> R {
    BIASES_APART.set(true);
    let made = f();
    BIASES_APART.set(false);
    made
}

/// What products with a bias are called among the launches.
pub(crate) const BIASED: &str = "product with bias";

/// Words around each buffer: a kernel that writes them leaves its buffer.
const GUARD: usize = 8;
const UNTOUCHED: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// Kernels with the mistakes that the emulation must find.
const PLANTED: &str = "\
void astray(double* y) { if (threadIdx.x == 0) __syncthreads(); else sync_warp(); *y = 0; }
void outside(double* y) { y[1] = 0; }
";

type Entry = unsafe extern "C" fn(*const c_char, u32, u32, u32, *mut *mut c_void) -> c_int;

// SAFETY: the signatures are those of POSIX.
unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// A library of kernels, which runs one launch at a time.
pub(crate) struct Library(Mutex<Entry>);

impl Library {
    /// Builds the library of these sources, each kernel named `SOURCE::KERNEL`.
    fn build(sources: &[(String, Source)]) -> Self {
        let mut text = format!("#include \"{}/tests/emulator.h\"\n", env!("CARGO_MANIFEST_DIR"));
        text.push_str(PLANTED);
        let mut table = String::new();
        let mut known = |name: &str, function: &str| {
            let _ = writeln!(
                table,
                "    if (!strcmp(name, \"{name}\")) return launch_at({function}, grid, threads, arguments) ? 0 : 2;"
            );
        };
        for name in ["astray", "outside"] {
            known(&format!("planted::{name}"), name);
        }
        for (name, source) in sources {
            // The prelude stands in each of them, and generated kernels have one name: a namespace
            // keeps them apart, but for functions of C.
            let own = source.text().replace("extern \"C\" ", "");
            let _ = writeln!(text, "namespace n_{name} {{\n{own}\n}}");
            for entry in source.entries() {
                known(&format!("{name}::{entry}"), &format!("n_{name}::{entry}"));
            }
        }
        let _ = writeln!(
            text,
            "extern \"C\" int emulate(const char* name, unsigned x, unsigned y, unsigned threads, void** arguments) {{\n\
             \x20   Dim grid = {{x, y, 1}};\n{table}    return 1;\n}}"
        );
        static LIBRARIES: AtomicUsize = AtomicUsize::new(0);
        let (process, number) = (std::process::id(), LIBRARIES.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(format!("autograd-gpu-plans-{process}-{number}"));
        std::fs::create_dir_all(&folder).expect("a scratch folder can be made");
        let (source, library) = (folder.join("kernels.cpp"), folder.join("kernels.so"));
        std::fs::write(&source, text).expect("the scratch folder can be written");
        let built = Command::new("g++")
            .args(["-std=c++20", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-w", "-o"])
            .args([&library, &source])
            .output()
            .expect("g++ was found before");
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "{}", said.chars().take(2000).collect::<String>());
        let entry = load(&library);
        let _ = std::fs::remove_dir_all(&folder);
        Self(Mutex::new(entry))
    }

    /// Runs a kernel of a source with the words of its arguments.
    fn launch(&self, source: &str, entry: &str, grid: [u32; 2], threads: u32, words: &mut [Words]) {
        let mut arguments: Vec<*mut c_void> =
            words.iter_mut().map(|words| words.as_mut_ptr().cast()).collect();
        let name = CString::new(format!("{source}::{entry}")).expect("names have no zeros");
        let library = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: a plan gives the kernel its arguments in their types; their buffers live.
        let said = unsafe { (*library)(name.as_ptr(), grid[0], grid[1], threads, arguments.as_mut_ptr()) };
        assert_ne!(said, 1, "there is no kernel {entry}");
        assert_eq!(said, 0, "the threads of {entry} wait at different barriers");
        note(entry);
    }
}

/// The hand-made kernels.
pub(crate) struct Emulator {
    library: Arc<Library>,
}

impl Emulator {
    /// Builds the library; `None` without a C++20 compiler.
    pub(crate) fn build() -> Option<Self> {
        if Command::new("g++").arg("--version").output().is_err() {
            println!("skipped: there is no g++ on this machine to execute the kernels with");
            return None;
        }
        let named = sources().into_iter().map(|source| (source.name().to_owned(), source));
        let library = Arc::new(Library::build(&named.collect::<Vec<_>>()));
        Some(Self { library })
    }

    /// Executes a plan.
    pub(crate) fn run(
        &self,
        name: &'static str,
        plan: &Plan,
        inputs: &[Tensor],
        outputs: &[Meta],
    ) -> Result<Tensors> {
        let inputs = plan.prepare(inputs)?;
        let guards: Vec<_> = inputs.iter().map(Tensor::storage_and_layout).collect();
        let addresses: Vec<u64> =
            guards.iter().map(|(storage, layout)| address(storage, layout.start_offset())).collect();
        let mut made: Vec<Buffer> = outputs.iter().map(|y| Buffer::new(y.bytes(), false)).collect();
        let mut rooms: Vec<Buffer> = plan.rooms.iter().map(|r| Buffer::new(r.bytes, r.zeroed)).collect();
        let outputs_at: Vec<u64> = made.iter_mut().map(Buffer::address).collect();
        let rooms_at: Vec<u64> = rooms.iter_mut().map(Buffer::address).collect();
        for step in &plan.steps {
            let mut words = Plan::words(step, &addresses, &outputs_at, &rooms_at);
            self.library.launch(step.source, &step.entry, step.grid, step.threads, &mut words);
        }
        for buffer in made.iter().chain(&rooms) {
            assert!(buffer.is_intact(), "{name}: a kernel of {:?} wrote outside of its buffers", plan.steps);
        }
        if let Some(fault) = &plan.fault {
            let words = rooms[fault.room].words();
            fault.judge(name, [words[0], words[1], words[2]])?;
        }
        made.iter().zip(outputs).map(|(buffer, meta)| buffer.tensor(meta)).collect()
    }
}

impl DeviceKernels for Emulator {
    fn evaluate(
        &self,
        op: &dyn Primitive,
        inputs: &[Tensor],
        signature: &Signature,
        hints: bool,
    ) -> Result<Option<Tensors>> {
        let hints = hints && !WITHHELD.get();
        let metas: Vec<Meta> = inputs.iter().map(meta).collect::<Result<_>>()?;
        let Some(plan) = plan(op, &metas, signature, hints) else {
            let empty = metas.iter().chain(&signature.outputs).any(|x| x.elements() == 0);
            if let (Some(call), false) = (op.kernel(), empty)
                && !COMPOSED.contains(&call.kernel)
            {
                WITHOUT_PLAN.with_borrow_mut(|kernels| kernels.insert(call.kernel));
            }
            return Ok(None);
        };
        let aux = signature.aux.iter().take(if hints { usize::MAX } else { 0 });
        let outputs: Vec<Meta> = signature.outputs.iter().chain(aux).copied().collect();
        self.run(op.name(), &plan, inputs, &outputs).map(Some)
    }

    fn takes(&self, op: &dyn Primitive, inputs: &[Meta], signature: &Signature) -> bool {
        takes(op, inputs, signature)
    }

    fn compile(
        &self,
        program: &Laid,
        constants: &[Tensor],
        _: &Device,
    ) -> Result<Tried<Box<dyn DeviceProgram>>> {
        let sequence = match sequence(program) {
            Ok(sequence) => sequence,
            Err(declined) => return Ok(Err(declined)),
        };
        let sequence = sequence.with_epilogues(|_| !BIASES_APART.get());
        WHOLES.set(WHOLES.get() + 1);
        let sources = sequence.expressions.iter().map(Expression::source).collect();
        let generated = GENERATED.with_borrow_mut(|generated| generated.library(sources));
        let Some(generated) = generated else { return Ok(Err(Declined::Device)) };
        Ok(Ok(Box::new(Replay::new(sequence, self.library.clone(), generated, program, constants))))
    }
}

fn meta(x: &Tensor) -> Result<Meta> {
    let shape = autograd_core::checked_shape("emulated", x.dims())?;
    Ok(Meta { shape, dtype: x.dtype(), device: x.device().location() })
}

fn load(library: &Path) -> Entry {
    const RTLD_NOW: c_int = 2;
    let path = CString::new(library.display().to_string()).expect("the path has no zeros");
    // SAFETY: the library is the one that was just built; its initialisers are those of C++.
    let library = unsafe { dlopen(path.as_ptr(), RTLD_NOW) };
    assert!(!library.is_null(), "what was built can be loaded");
    // SAFETY: the library is open, and the name ends in a zero.
    let entry = unsafe { dlsym(library, c"emulate".as_ptr()) };
    assert!(!entry.is_null(), "the library has its entry");
    // SAFETY: `emulate` is defined above with this signature.
    unsafe { std::mem::transmute::<*mut c_void, Entry>(entry) }
}

fn address(storage: &candle_core::Storage, offset: usize) -> u64 {
    use candle_core::CpuStorage::{BF16, F16, F32, F64, I64, U8, U32};
    let candle_core::Storage::Cpu(storage) = storage else { panic!("the emulation reads the CPU's tensors") };
    match storage {
        F32(x) => x[offset..].as_ptr() as u64,
        F64(x) => x[offset..].as_ptr() as u64,
        F16(x) => x[offset..].as_ptr() as u64,
        BF16(x) => x[offset..].as_ptr() as u64,
        U8(x) => x[offset..].as_ptr() as u64,
        U32(x) => x[offset..].as_ptr() as u64,
        I64(x) => x[offset..].as_ptr() as u64,
        _ => panic!("no kernel reads this type"),
    }
}

/// A buffer between two guards.
struct Buffer {
    words: Vec<u64>,
    bytes: usize,
}

impl Buffer {
    fn new(bytes: usize, zeroed: bool) -> Self {
        let mut words = vec![UNTOUCHED; bytes.div_ceil(8) + 2 * GUARD];
        if zeroed {
            words[GUARD..GUARD + bytes.div_ceil(8)].fill(0);
        }
        Self { words, bytes }
    }

    fn address(&mut self) -> u64 {
        self.words[GUARD..].as_mut_ptr() as u64
    }

    fn words(&self) -> &[u64] {
        &self.words[GUARD..]
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the words are initialised, and bytes have no alignment; they are as many or fewer.
        unsafe { std::slice::from_raw_parts(self.words().as_ptr().cast(), self.bytes) }
    }

    fn tensor(&self, meta: &Meta) -> Result<Tensor> {
        Ok(Tensor::from_raw_buffer(self.bytes(), meta.dtype, meta.shape.dims(), &Device::Cpu)?)
    }

    fn is_intact(&self) -> bool {
        let (front, rest) = self.words.split_at(GUARD);
        let behind = &rest[self.bytes.div_ceil(8)..];
        // The last word may be the buffer's in part.
        let tail = self.bytes.is_multiple_of(8)
            || rest[self.bytes / 8] >> (self.bytes % 8 * 8) == UNTOUCHED >> (self.bytes % 8 * 8);
        tail && front.iter().chain(behind).all(|&word| word == UNTOUCHED)
    }
}

/// The float types of kernels.
pub(crate) const FLOATS: [DType; 4] = [DType::F64, DType::F32, DType::F16, DType::BF16];

/// What a typed error says, for tests.
pub(crate) fn message(result: Result<impl Sized>) -> String {
    match result {
        Ok(_) => String::new(),
        Err(error @ Error::InvalidArgument { .. }) => error.to_string(),
        Err(error) => panic!("not the error of an argument: {error}"),
    }
}
