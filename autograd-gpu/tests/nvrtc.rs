//! Every kernel source compiled to PTX by NVRTC, for two architectures; no GPU is needed. Where the
//! variable `AUTOGRAD_PTX` names a folder, the PTX is left there for `cargo xtask gpu-check`.

#![cfg(feature = "nvrtc")]

use autograd_core::kernels::expr::{Binary, Builder, Unary};
use autograd_gpu::{
    Architecture, CompileError, Element, PtxStore, Source, compile, compile_through, pointwise, sources,
};

const ARCHITECTURES: [(Architecture, &str); 2] =
    [(Architecture::Sm80, "sm_80"), (Architecture::Sm90, "sm_90")];

/// A fused group of some size: gelu and its slope, a mask, types of both halves.
fn generated() -> Vec<Source> {
    let mut b = Builder::new();
    let (x, ct, scale) = (b.input(0), b.input(1), b.param(0));
    let inner = b.unary(Unary::Erf, x);
    let gate = b.binary(Binary::Mul, x, inner);
    let slope = b.binary(Binary::Mul, ct, gate);
    let scaled = b.binary(Binary::Mul, slope, scale);
    let below = b.binary(Binary::Lt, x, ct);
    let order = b.binary(Binary::Polygamma, scale, x);
    let program = b.finish(&[gate, scaled, below, order], 2, 1);
    let of = |name, element: Element| {
        pointwise(name, &program, &[element, element], &[element, element, Element::U8, element])
    };
    vec![
        of("group_f32", Element::F32),
        of("group_f64", Element::F64),
        of("group_f16", Element::F16),
        of("group_bf16", Element::BF16),
        of("group_u32", Element::U32),
        of("group_i64", Element::I64),
    ]
}

fn ptx(source: &Source, architecture: Architecture) -> Option<Result<String, CompileError>> {
    match compile(source, architecture) {
        Err(CompileError::NoCompiler) => {
            println!("skipped: {}", CompileError::NoCompiler);
            None
        }
        other => Some(other.map(|ptx| ptx.to_src())),
    }
}

#[test]
fn every_kernel_compiles_for_every_architecture() {
    let folder = std::env::var_os("AUTOGRAD_PTX").map(std::path::PathBuf::from);
    for source in sources().into_iter().chain(generated()) {
        for (architecture, name) in ARCHITECTURES {
            let Some(made) = ptx(&source, architecture) else {
                assert!(folder.is_none(), "the check that asked for PTX has no compiler");
                return;
            };
            let text = made.unwrap_or_else(|error| panic!("{error}"));
            for entry in source.entries() {
                assert!(text.contains(&format!(".entry {entry}(")), "{} lacks {entry}", source.name());
            }
            if let Some(folder) = &folder {
                let file = folder.join(format!("{}.{name}.ptx", source.name()));
                std::fs::write(file, text).expect("the folder of the check can be written");
            }
        }
    }
}

/// What one process has compiled another finds, without the compiler.
#[test]
fn a_store_keeps_what_was_compiled() {
    let folder = std::env::temp_dir().join(format!("autograd-nvrtc-{}", std::process::id()));
    let store = PtxStore::new(&folder, 1 << 20);
    let source = &generated()[0];
    let first = match compile_through(Some(&store), source, Architecture::Sm80) {
        Err(CompileError::NoCompiler) => return println!("skipped: {}", CompileError::NoCompiler),
        other => other.unwrap_or_else(|error| panic!("{error}")),
    };
    let files = || std::fs::read_dir(&folder).map_or(0, Iterator::count);
    assert_eq!(files(), 1);
    assert_eq!(compile_through(Some(&store), source, Architecture::Sm80).as_ref(), Ok(&first));
    assert_eq!(files(), 1);
    assert!(compile_through(Some(&store), source, Architecture::Sm90).is_ok_and(|other| other != first));
    assert_eq!(files(), 2);
    let _ = std::fs::remove_dir_all(&folder);
}

#[test]
fn a_broken_kernel_is_rejected_by_name() {
    // A parameter that no expression has: the generated text names it and nothing declares it.
    let mut b = Builder::new();
    let p = b.param(0);
    let program = b.finish(&[p], 0, 0);
    let broken = pointwise("broken", &program, &[], &[Element::F32]);
    match ptx(&broken, Architecture::Sm80) {
        None => {}
        Some(Err(CompileError::Rejected { name, log })) => {
            assert_eq!(name, "broken");
            assert!(log.contains("p0"), "{log}");
        }
        Some(other) => panic!("a kernel without its parameter gave {other:?}"),
    }
}
