//! Sequences executed on the CPU: the launches of a whole program over the offsets of one arena, as a
//! CUDA graph has them.

use super::{BIASED, Buffer, Library, address, note};
use autograd_core::device::{DeviceProgram, Home, Laid, Tensors};
use autograd_core::{DType, Meta, Result, Tensor};
use autograd_gpu::{Code, Factor, Launch, Memory, Onto, Passed, Product, Sequence, Spot, Words};
use std::sync::Arc;

/// A sequence, the code of its kernels, and the tensors that it closes over.
pub(super) struct Replay {
    sequence: Sequence,
    kernels: Arc<Library>,
    /// The kernels made from expressions, and what each is called there.
    generated: (Arc<Library>, Vec<String>),
    inputs: Vec<Meta>,
    outputs: Vec<Meta>,
    constants: Vec<Tensor>,
}

/// Memory as a device has it: pieces of it, at addresses.
struct Pieces {
    inputs: Vec<Buffer>,
    outputs: Vec<Buffer>,
    arena: Buffer,
    rooms: Buffer,
    reports: Buffer,
}

impl Replay {
    pub(super) fn new(
        sequence: Sequence,
        kernels: Arc<Library>,
        generated: (Arc<Library>, Vec<String>),
        program: &Laid,
        constants: &[Tensor],
    ) -> Self {
        let (inputs, outputs) = (program.inputs.clone(), program.outputs.clone());
        Self { sequence, kernels, generated, inputs, outputs, constants: constants.to_vec() }
    }
}

impl DeviceProgram for Replay {
    fn run(&self, inputs: &[Tensor]) -> Result<Tensors> {
        let blank = |metas: &[Meta]| metas.iter().map(|x| Buffer::new(x.bytes(), false)).collect();
        let mut pieces = Pieces {
            inputs: blank(&self.inputs),
            outputs: blank(&self.outputs),
            // Nothing may rely on what an earlier run has left: it is arbitrary.
            arena: Buffer::new(self.sequence.arena, false),
            rooms: Buffer::new(self.sequence.rooms, false),
            reports: Buffer::new(self.sequence.reports, true),
        };
        for ((x, meta), to) in inputs.iter().zip(&self.inputs).zip(&mut pieces.inputs) {
            let x = x.contiguous()?;
            let (storage, layout) = x.storage_and_layout();
            let from = address(&storage, layout.start_offset()) as *const u8;
            // SAFETY: the tensor has as many bytes, and so has the buffer.
            unsafe { std::ptr::copy_nonoverlapping(from, to.address() as *mut u8, meta.bytes()) };
        }
        for launch in &self.sequence.launches {
            match launch {
                Launch::Kernel(call) => {
                    let word = |passed: &Passed| match passed {
                        Passed::Address(spot) => Words::from_slice(&[self.at(&mut pieces, *spot)]),
                        Passed::Null => Words::from_slice(&[0]),
                        Passed::Value(words) => words.clone(),
                    };
                    let mut words: Vec<Words> = call.arguments.iter().map(word).collect();
                    let (library, source) = match call.code {
                        Code::File(file) => (&*self.kernels, file),
                        Code::Generated(i) => (&*self.generated.0, &*self.generated.1[i]),
                    };
                    library.launch(source, &call.entry, call.grid, call.threads, &mut words);
                }
                Launch::Zero { to, bytes } => {
                    let to = self.at(&mut pieces, *to) as *mut u8;
                    // SAFETY: the sequence clears its own memory; guards show where it does not.
                    unsafe { std::ptr::write_bytes(to, 0, *bytes) };
                }
                Launch::Product(product) => match product.dtype {
                    DType::F32 => self.multiply::<f32>(&mut pieces, product),
                    DType::F64 => self.multiply::<f64>(&mut pieces, product),
                    other => panic!("the tests multiply no {other:?}"),
                },
            }
        }
        let Pieces { inputs, outputs, arena, rooms, reports } = &pieces;
        let mut all = inputs.iter().chain(outputs).chain([arena, rooms, reports]);
        assert!(all.all(Buffer::is_intact), "a launch wrote outside of the sequence's memory");
        self.sequence.faults.iter().try_for_each(|report| report.judge(pieces.reports.words()))?;
        pieces.outputs.iter().zip(&self.outputs).map(|(buffer, meta)| buffer.tensor(meta)).collect()
    }
}

impl Replay {
    fn at(&self, pieces: &mut Pieces, spot: Spot) -> u64 {
        let start = match spot.memory {
            Memory::Of(Home::Input(i)) => pieces.inputs[i].address(),
            Memory::Of(Home::Output(i)) => pieces.outputs[i].address(),
            Memory::Of(Home::Constant(i)) => address(&self.constants[i].storage_and_layout().0, 0),
            Memory::Of(Home::Arena) => pieces.arena.address(),
            Memory::Rooms => pieces.rooms.address(),
            Memory::Reports => pieces.reports.address(),
        };
        start + spot.at as u64
    }

    /// What the device's library computes.
    fn multiply<T: Copy + Into<f64> + Narrow>(&self, pieces: &mut Pieces, p: &Product) {
        let [x, w, y] = [p.x.at, p.w.at, p.y].map(|spot| self.at(pieces, spot));
        let bias = match p.onto {
            Onto::Bias(bias) => {
                note(BIASED);
                Some(self.at(pieces, bias) as *const T)
            }
            Onto::Nothing | Onto::Held => None,
        };
        let element = |at: u64, f: &Factor, b: usize, row: usize, column: usize| -> f64 {
            let [outer, inner] = if f.turned { [column, row] } else { [row, column] };
            let from = (at as *const T).wrapping_add(b * f.batch + outer * f.step + inner);
            // SAFETY: a factor lies within its memory.
            unsafe { *from }.into()
        };
        for b in 0..p.batch {
            for i in 0..p.rows {
                for j in 0..p.columns {
                    let term = |k| element(x, &p.x, b, i, k) * element(w, &p.w, b, k, j);
                    let sum: f64 = (0..p.inner).map(term).sum();
                    let to = (y as *mut T).wrapping_add((b * p.rows + i) * p.columns + j);
                    let held = match (p.onto, bias) {
                        (Onto::Nothing, _) => None,
                        (_, Some(bias)) => Some(bias.wrapping_add(j)),
                        (_, None) => Some(to.cast_const()),
                    };
                    // SAFETY: a bias lies within its memory, too, and what is held was written before.
                    let onto: f64 = held.map_or(0.0, |held| unsafe { *held }.into());
                    // SAFETY: so does the product; guards show where it does not.
                    unsafe { *to = T::narrow(sum + onto) };
                }
            }
        }
    }
}

trait Narrow {
    fn narrow(x: f64) -> Self;
}

impl Narrow for f32 {
    fn narrow(x: f64) -> Self {
        x as f32
    }
}

impl Narrow for f64 {
    fn narrow(x: f64) -> Self {
        x
    }
}
