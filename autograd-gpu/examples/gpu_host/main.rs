//! One program for a machine with a GPU: `check` compares every case of the registry in every float
//! type with the CPU, and small nets as captured steps; `bench` times the workloads that training is
//! made of, op by op and captured. It builds anywhere with NVIDIA's toolkit, and runs where there is a
//! driver; docs/gpu.md has the one-line commands.
//!
//! `gpu_host check [OP]` and `gpu_host bench [FILE]`; the file gets a line of JSON for each workload,
//! which `peers.py` puts beside PyTorch's figures of the same card.

mod nets;
#[path = "../../tests/reverse/mod.rs"]
mod reverse;
mod workloads;

use autograd_core::{DType, Device, Result, TrackedTensor, algebra};
use autograd_ops::registry;
use autograd_ops::testing::check_placed;
use reverse::Reverse;
use std::fmt::Write as _;
use std::time::Instant;
use workloads::{Bound, Size, workloads};

/// What is timed.
const SIZE: Size =
    Size { batch: 8, length: 1024, model: 1024, heads: 16, classes: 32_000, images: 64, side: 32 };

/// Runs before the clock starts, and runs that are timed.
const WARM: usize = 5;
const TIMED: usize = 20;

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["check"] => check(None),
        ["check", op] => check(Some(op)),
        ["bench"] => bench(None),
        ["bench", file] => bench(Some(file)),
        _ => {
            println!("usage: gpu_host check [OP] | gpu_host bench [FILE]");
            return std::process::ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::FAILURE,
        Err(error) => {
            println!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// The device, with the kernels of this crate.
fn device() -> Result<Device> {
    let device = autograd_gpu::cuda(0)?;
    autograd_gpu::install();
    Ok(device)
}

/// Whether every case of the registry is the same on the device.
fn check(only: Option<&str>) -> Result<bool> {
    let device = device()?;
    let place = |x: &TrackedTensor| autograd_ops::shape::to_device(x, &device);
    let (mut compared, mut without, mut failed) = (0, 0, 0);
    for op in registry::all().into_iter().filter(|op| only.is_none_or(|name| op.name == name)) {
        for case in (op.cases)() {
            for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
                match check_placed(&op, &case, &Reverse, &place, dtype) {
                    Ok(true) => compared += 1,
                    Ok(false) => without += 1,
                    Err(failure) => {
                        failed += 1;
                        println!("FAILED {dtype:?} {failure}");
                    }
                }
            }
        }
    }
    if only.is_none() {
        for net in nets::nets() {
            for &dtype in net.types(true) {
                match net.difference(dtype, &place) {
                    Ok(None) => compared += 1,
                    Ok(Some(difference)) => {
                        failed += 1;
                        println!("FAILED as a captured step: {difference}");
                    }
                    Err(error) => {
                        failed += 1;
                        println!("FAILED {} in {dtype:?} as a captured step: {error}", net.name);
                    }
                }
            }
        }
    }
    println!("{compared} cases agree, {failed} do not, {without} have no such type or gradient on the CPU");
    Ok(failed == 0 && compared > 0)
}

/// Seconds of one run, the median of many; the device is waited for.
fn seconds(device: &Device, run: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::with_capacity(TIMED);
    for turn in 0..WARM + TIMED {
        device.synchronize()?;
        let start = Instant::now();
        run()?;
        device.synchronize()?;
        if turn >= WARM {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[TIMED / 2])
}

/// Bytes a second that a copy within the device moves, read and written.
fn copy_bandwidth(device: &Device) -> Result<f64> {
    const BYTES: usize = 1 << 30;
    let x = algebra::fill(
        1.0,
        &autograd_core::Meta {
            shape: autograd_core::Shape::new(&[BYTES / 4]),
            dtype: DType::F32,
            device: device.location(),
        },
        &autograd_ops::shape::to_device(&TrackedTensor::scalar(0.0), device)?,
    )?;
    let x = x.into_tensor()?.force_contiguous()?;
    let time = seconds(device, &mut || {
        x.copy()?;
        Ok(())
    })?;
    Ok(2.0 * BYTES as f64 / time)
}

fn bench(file: Option<&str>) -> Result<bool> {
    let device = device()?;
    let card = device.as_cuda_device()?.cuda_stream().context().name();
    let card = card.unwrap_or_else(|error| format!("a card without a name ({error})"));
    let bandwidth = copy_bandwidth(&device)?;
    let today = std::process::Command::new("date").args(["-u", "+%F"]).output();
    let today =
        today.map_or_else(|_| String::new(), |said| String::from_utf8_lossy(&said.stdout).trim().to_owned());
    println!("{card}, {today}, copy bandwidth {:.0} GB/s\n", bandwidth / 1e9);
    println!("| workload | type | ms | of the copy bandwidth | TFLOP/s |\n|---|---|---|---|---|");
    let mut lines = String::new();
    let place = |x: &TrackedTensor| autograd_ops::shape::to_device(x, &device);
    for workload in workloads(SIZE) {
        let dtype = workload.dtype;
        for captured in [false, true] {
            let mut run =
                if captured { workload.make_captured(&place, SIZE)? } else { workload.make(&place, SIZE)? };
            let name = format!("{}{}", workload.name, if captured { ", captured" } else { "" });
            let time = seconds(&device, &mut run)?;
            let (share, rate) = match workload.bound {
                Bound::Bytes(bytes) => (format!("{:.0} %", 100.0 * bytes / time / bandwidth), String::new()),
                Bound::Operations(operations) => (String::new(), format!("{:.1}", operations / time / 1e12)),
            };
            println!("| {name} | {} | {:.3} | {share} | {rate} |", dtype.as_str(), time * 1e3);
            let _ = writeln!(
                lines,
                "{{\"workload\": \"{name}\", \"dtype\": \"{}\", \"seconds\": {time:e}, \"card\": \"{card}\", \"date\": \"{today}\", \"copy_bandwidth\": {bandwidth:e}}}",
                dtype.as_str()
            );
        }
    }
    if let Some(file) = file {
        std::fs::write(file, lines).map_err(|error| autograd_core::Error::msg(format!("{file}: {error}")))?;
    }
    Ok(true)
}
