//! `cargo xtask gpu-check`: what can be known about the CUDA kernels without a GPU.

use crate::Command;
use crate::project::{Failure, Project};
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The command.
pub(crate) const COMMAND: Command = Command {
    name: "gpu-check",
    does: "compile every CUDA kernel, execute it in emulation, read its registers; no GPU needed",
    help: "\
Installs NVIDIA's compiler wheels into target/gpu, runs clippy on autograd-gpu with its features (the
launches with an nvcc that compiles nothing, in a target folder of its own), executes every kernel in an emulation on the CPU, compiles each to PTX for sm_80 and sm_90 (a planted
mistake must be rejected), and has ptxas assemble the PTX: a kernel that spills registers or needs
more than 128 of them fails.

Usage: cargo xtask gpu-check [OPTIONS]

Options:
  --venv DIR   a Python environment that has the wheels, instead of installing them",
    run,
};

/// The wheels: NVRTC, the headers it brings its builtins beside, and the assembler.
const WHEELS: [&str; 3] =
    ["nvidia-cuda-nvrtc==13.0.*", "nvidia-cuda-runtime==13.0.*", "nvidia-cuda-nvcc==13.0.*"];

/// More registers than this leave too few warps to hide the memory's latency.
const MOST_REGISTERS: u32 = 128;

fn run(project: &Project, mut arguments: lexopt::Parser) -> Result<(), Failure> {
    let mut venv = None;
    while let Some(argument) = arguments.next()? {
        match argument {
            lexopt::Arg::Long("venv") => venv = Some(PathBuf::from(arguments.value()?)),
            other => return Err(other.unexpected().into()),
        }
    }
    check(project, venv)
}

/// The step of `cargo xtask ci`.
pub(crate) fn step(project: &Project) -> Result<(), Failure> {
    check(project, None)
}

fn check(project: &Project, venv: Option<PathBuf>) -> Result<(), Failure> {
    let scratch = project.target()?.join("gpu");
    let venv = match venv {
        Some(venv) => venv,
        None => installed(&scratch)?,
    };
    let toolkit = toolkit(&venv)?;
    project
        .cargo("clippy --quiet -p autograd-gpu --features nvrtc --all-targets")
        .args(&["--", "-D", "warnings"])
        .pass_or("clippy has something to say about autograd-gpu")?;
    lint_launches(project, &scratch)?;
    let ptx = scratch.join("ptx");
    let _ = std::fs::remove_dir_all(&ptx);
    std::fs::create_dir_all(&ptx).map_err(|error| Failure::new(format!("{}: {error}", ptx.display())))?;
    project
        .cargo("test --quiet -p autograd-gpu --features nvrtc")
        .env("LD_LIBRARY_PATH", &toolkit.join("lib").display().to_string())
        .env("AUTOGRAD_PTX", &ptx.display().to_string())
        .pass_or("a kernel does not compile or gives wrong numbers")?;
    assemble(&ptx, &toolkit.join("bin/ptxas"))
}

/// Stands in for nvcc where types are checked and nothing is linked: its outputs are empty.
const NOTHING_COMPILES: &str = r#"#!/bin/sh
set -eu
kind= folder=. file= out=
while [ $# -gt 0 ]; do
    case $1 in
        --version) echo "Cuda compilation tools, release 13.0, V13.0.88"; exit 0 ;;
        --ptx) kind=ptx ;;
        --lib) kind=lib ;;
        -c) kind=object ;;
        -o) out=$2; shift ;;
        --output-directory) folder=$2; shift ;;
        --default-stream | -Xcompiler | -ccbin) shift ;;
        *.cu) file=$1 ;;
    esac
    shift
done
case $kind in
    ptx) : > "$folder/$(basename "${file%.cu}").ptx" ;;
    object) : > "$out" ;;
    lib) rm -f "$out"; ar crs "$out" ;;
esac
"#;

/// Clippy on what launches kernels, and on the facade's feature `gpu`.
fn lint_launches(project: &Project, scratch: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let nvcc = scratch.join("nothing-compiles/nvcc");
    let written = std::fs::create_dir_all(scratch.join("nothing-compiles"))
        .and_then(|()| std::fs::write(&nvcc, NOTHING_COMPILES))
        .and_then(|()| std::fs::set_permissions(&nvcc, std::fs::Permissions::from_mode(0o755)));
    written.map_err(|error| Failure::new(format!("{}: {error}", nvcc.display())))?;
    project
        .cargo("clippy --quiet -p candle-autograd -p autograd-gpu --features candle-autograd/gpu,autograd-gpu/nccl --lib --example gpu_host")
        .args(&["--", "-D", "warnings"])
        .env("NVCC", &nvcc.display().to_string())
        .env("CUDA_COMPUTE_CAP", "90")
        .env("CARGO_TARGET_DIR", &scratch.join("lint").display().to_string())
        .pass_or("clippy has something to say about the launches of autograd-gpu")
}

/// A Python environment with the wheels.
fn installed(scratch: &Path) -> Result<PathBuf, Failure> {
    let venv = scratch.join("venv");
    let stamp = venv.join("installed.txt");
    let wanted = WHEELS.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(venv);
    }
    let run = |program: &Path, arguments: &[&str], sentence: &str| {
        let done = std::process::Command::new(program).args(arguments).stdout(Stdio::null()).status();
        if done.is_ok_and(|status| status.success()) { Ok(()) } else { Err(Failure::new(sentence)) }
    };
    let home = venv.display().to_string();
    run(Path::new("python3"), &["-m", "venv", &home], "python3 cannot make a virtual environment")?;
    let install: Vec<&str> = ["-m", "pip", "install", "-q"].into_iter().chain(WHEELS).collect();
    run(&venv.join("bin/python"), &install, "pip cannot install NVIDIA's compiler wheels")?;
    std::fs::write(&stamp, wanted).map_err(|error| Failure::new(format!("{}: {error}", stamp.display())))?;
    Ok(venv)
}

/// Where the wheels have put libraries and programs.
fn toolkit(venv: &Path) -> Result<PathBuf, Failure> {
    let lib = venv.join("lib");
    let pythons =
        std::fs::read_dir(&lib).map_err(|error| Failure::new(format!("{}: {error}", lib.display())))?;
    let found = pythons
        .flatten()
        .map(|python| python.path().join("site-packages/nvidia/cu13"))
        .find(|toolkit| toolkit.join("bin/ptxas").is_file());
    found.ok_or_else(|| Failure::new(format!("{} holds no wheels of CUDA 13 with ptxas", venv.display())))
}

/// Assembles every PTX file and reads what ptxas says about registers and spills.
fn assemble(folder: &Path, ptxas: &Path) -> Result<(), Failure> {
    let broken = |error: std::io::Error| Failure::new(format!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).map_err(broken)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    if files.is_empty() {
        return Err(Failure::new("the tests left no PTX: NVRTC was not found"));
    }
    println!("{:<28} {:>8} {:>10} {:>8}", "PTX", "kernels", "registers", "spilled");
    for file in &files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let architecture = name.rsplit('.').next().unwrap_or_default().to_owned();
        let mut command = std::process::Command::new(ptxas);
        command.args(["-v", "-o", "/dev/null", &format!("-arch={architecture}")]).arg(file);
        let output =
            command.output().map_err(|error| Failure::new(format!("ptxas does not start: {error}")))?;
        let report = Report::read(&String::from_utf8_lossy(&output.stderr));
        println!("{name:<28} {:>8} {:>10} {:>8}", report.kernels, report.registers, report.spilled);
        if !output.status.success() || report.kernels == 0 {
            return Err(Failure::new(format!("ptxas refuses {name}")));
        }
        if report.spilled > 0 || report.registers > MOST_REGISTERS {
            return Err(Failure::new(format!("a kernel of {name} needs too many registers")));
        }
    }
    Ok(())
}

/// What ptxas says about the kernels of a file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    kernels: u32,
    /// The most of one kernel.
    registers: u32,
    /// Bytes spilled by all.
    spilled: u32,
}

impl Report {
    fn read(text: &str) -> Self {
        let mut report = Self::default();
        for line in text.lines() {
            if let Some(count) = number_before(line, " registers") {
                report.kernels += 1;
                report.registers = report.registers.max(count);
            }
            report.spilled += number_before(line, " bytes spill stores").unwrap_or(0);
        }
        report
    }
}

/// The number that stands before these words.
fn number_before(line: &str, words: &str) -> Option<u32> {
    let before = &line[..line.find(words)?];
    before.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_kernels_registers_and_spills() {
        let text = "ptxas info    : Compiling entry function 'a' for 'sm_80'\n\
                    \x20   0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
                    ptxas info    : Used 32 registers, used 1 barriers\n\
                    \x20   8 bytes stack frame, 12 bytes spill stores, 4 bytes spill loads\n\
                    ptxas info    : Used 255 registers, used 0 barriers\n";
        assert_eq!(Report::read(text), Report { kernels: 2, registers: 255, spilled: 12 });
    }
}
