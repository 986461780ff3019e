//! Every hand-made kernel executed on the CPU: the plans that a CUDA device would get, run by an
//! emulation, under ops of the registry and larger ones. Values and gradients are those of the
//! CPU's own kernels. Needs a C++20 compiler (`g++`); without one the tests say so and pass.

mod emulator;
mod exact;
#[path = "../examples/gpu_host/nets.rs"]
mod nets;
mod reverse;
mod steps;
#[path = "../examples/gpu_host/workloads.rs"]
mod workloads;

use autograd_core::testing::elsewhere;
use autograd_core::{DType, Result, TrackedTensor, device};
use autograd_gpu::{Argument, Plan, Step, sources};
use autograd_ops::attention::scaled_dot_product_attention;
use autograd_ops::registry::{self, Case, Family, Op, Sample};
use autograd_ops::testing::check_placed;
use autograd_ops::{TensorAutograd, conv, index, loss, norm, random, scatter};
use autograd_tape::{GradientTape, LossScaler, global_norm};
use emulator::{Emulator, FLOATS, launched, message, wholes, without_hints, without_plan};
use reverse::Reverse;
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use workloads::{Bound, Size, workloads};

/// The emulation, installed as the kernels of values that are said to be elsewhere.
static EMULATOR: LazyLock<Option<Arc<Emulator>>> = LazyLock::new(|| {
    let emulator = Arc::new(Emulator::build()?);
    assert!(device::install(emulator.clone()), "nothing else is installed");
    Some(emulator)
});

/// What candle's CPU kernels say where its CUDA kernels compute.
const NO_BF16_ON_THE_CPU: &str = "unsupported dtype BF16 for op matmul";

/// Kernels without a plan for some cases of the registry: convolutions that candle has.
const DECLINED: [&str; 1] = ["conv2d"];

/// Launches of this thread.
fn launches() -> usize {
    launched().values().sum()
}

/// Cases that fill more than a block, a tile or a part.
fn larger() -> Vec<Case> {
    let float = |shapes: &[&[usize]]| shapes.iter().map(|dims| Sample::float(dims)).collect::<Vec<_>>();
    let mut cases = Vec::new();
    for n in [7, 8, 130, 2100] {
        let softmaxes: [fn(&TrackedTensor) -> Result<TrackedTensor>; 3] =
            [|x| x.softmax(-1), |x| x.log_softmax(-1), |x| x.logsumexp(-1)];
        for f in softmaxes {
            cases.push(Case::new("rows", float(&[&[3, n]]), move |x| f(&x[0])));
        }
        let inputs = vec![Sample::float(&[3, n]), Sample::index(&[3], n as u32)];
        cases.push(Case::new("classes", inputs, |x| loss::cross_entropy(&x[0], &x[1])));
        cases.push(Case::new("rms", float(&[&[3, n], &[n]]), |x| norm::rms_norm(&x[0], &x[1], 1e-3)));
    }
    cases.push(Case::new("layers", float(&[&[150, 40], &[40], &[40]]), |x| {
        norm::layer_norm(&x[0], &x[1], &x[2], 1e-3)
    }));
    cases.push(Case::new("groups", float(&[&[3, 6, 5], &[6], &[6]]), |x| {
        norm::group_norm(&x[0], 2, Some(&x[1]), Some(&x[2]), 1e-3)
    }));
    cases.push(Case::new("channels", float(&[&[3, 4, 30], &[4], &[4]]), |x| {
        let still = |v: f64| autograd_core::algebra::scale(&x[1].detach()?, v);
        let (mean, var) = (still(0.0)?, still(1.0)?);
        Ok(norm::batch_norm_train(&x[0], &mean, &var, Some(&x[1]), Some(&x[2]), 0.1, 1e-3)?.output)
    }));
    let sums: [(&[usize], &[usize]); 7] = [
        (&[9000], &[0]),
        (&[3, 9000], &[1]),
        (&[300, 20], &[0]),
        (&[3, 130, 33], &[1]),
        (&[4, 5, 3], &[1]),
        (&[2, 3, 4, 5], &[0, 2]),
        (&[2, 3, 2, 5, 2], &[1, 3]),
    ];
    for (dims, over) in sums {
        cases.push(Case::new("sums", float(&[dims]), move |x| x[0].mean_keepdim(over.to_vec())));
    }
    for dims in [[3, 300, 2], [2, 70, 40]] {
        cases.push(Case::new("running sums", float(&[&dims]), |x| x[0].cumsum(1)));
        let softmaxes: [fn(&TrackedTensor) -> Result<TrackedTensor>; 3] =
            [|x| x.softmax(1), |x| x.log_softmax(1), |x| x.logsumexp(1)];
        for f in softmaxes {
            cases.push(Case::new("columns", float(&[&dims]), move |x| f(&x[0])));
        }
    }
    let sizes: [(&[usize], usize, usize); 3] =
        [(&[2, 9, 31], 40, 7), (&[11, 5], 3, 64), (&[1, 17, 2], 17, 9)];
    for (dims, height, width) in sizes {
        type Resize = fn(&TrackedTensor, usize, usize) -> Result<TrackedTensor>;
        let resizes: [Resize; 4] = [
            |x, h, w| x.adaptive_avg_pool2d(h, w),
            |x, h, w| x.upsample_nearest2d(h, w),
            |x, h, w| x.upsample_bilinear2d(h, w, false),
            |x, h, w| x.upsample_bilinear2d(h, w, true),
        ];
        for resize in resizes {
            cases.push(Case::new("resized", float(&[dims]), move |x| resize(&x[0], height, width)));
        }
    }
    cases.push(Case::new("means", float(&[&[2, 3, 11, 13]]), |x| {
        x[0].avg_pool2d_with((3, 4), (2, 3), (1, 2))
    }));
    cases.push(Case::new("windows", float(&[&[2, 3, 11, 13]]), |x| {
        x[0].max_pool2d_with((3, 2), (2, 1), (1, 0))
    }));
    for (stride, padding, dilation, groups) in [(1, 1, 1, 1), (2, 1, 1, 2), (3, 2, 2, 1)] {
        cases.push(Case::new("convolutions", float(&[&[3, 4, 15, 14], &[6, 4 / groups, 3, 3]]), move |x| {
            conv::conv2d(&x[0], &x[1], padding, stride, dilation, groups)
        }));
        let options =
            conv::ConvOptions { stride: [stride, 1], padding: [padding, 0], dilation: [dilation, 1], groups };
        cases.push(Case::new("skewed", float(&[&[3, 4, 15, 14], &[6, 4 / groups, 3, 2]]), move |x| {
            conv::conv2d_with(&x[0], &x[1], &options)
        }));
    }
    let inputs = vec![Sample::float(&[9, 5]), Sample::index(&[70], 9)];
    cases.push(Case::new("table", inputs, |x| index::embedding(&x[0], &x[1])));
    for (causal, l, s, d, group) in [(false, 6, 35, 5, 2), (true, 34, 35, 33, 1), (true, 37, 37, 8, 2)] {
        let inputs = float(&[&[2, 2 * group, l, d], &[2, 2, s, d], &[2, 2, s, d]]);
        cases.push(Case::new("attention", inputs, move |x| {
            scaled_dot_product_attention(&x[0], &x[1], &x[2], None, causal, Some(0.4))
        }));
    }
    let masks: [(bool, &[usize], Sample); 4] = [
        (false, &[2, 3, 4, 34, 5], Sample::float(&[2, 1, 4, 34, 37])),
        (true, &[3, 4, 34, 33], Sample::float(&[4, 1, 37])),
        (false, &[2, 3, 2, 35, 3], Sample::mask(&[3, 1, 35, 1])),
        (true, &[2, 4, 36, 9], Sample::mask(&[2, 4, 36, 37])),
    ];
    for (causal, queries, mask) in masks {
        let [lead @ .., heads, _, d] = queries else { continue };
        let of = |n: usize| [lead, &[heads / 2, 37, n]].concat();
        let mut inputs = float(&[queries, &of(*d), &of(40)]);
        inputs.push(mask);
        cases.push(Case::new("masked attention", inputs, move |x| {
            scaled_dot_product_attention(&x[0], &x[1], &x[2], Some(&x[3]), causal, Some(0.4))
        }));
    }
    cases
}

#[test]
fn every_op_gives_the_numbers_of_the_cpu() {
    if EMULATOR.is_none() {
        return;
    }
    let only = std::env::var("OP").ok();
    let mut ops = registry::all();
    ops.push(Op { name: "larger", family: Family::Neural, formula: "", cases: larger });
    let mut failures = Vec::new();
    for op in ops.iter().filter(|op| only.as_deref().is_none_or(|name| op.name == name)) {
        for case in (op.cases)() {
            for dtype in FLOATS {
                let before = launches();
                match check_placed(op, &case, &Reverse, &elsewhere, dtype) {
                    // candle's forward convolution, on the CPU alone.
                    Err(failure) if failure.to_string().contains(NO_BF16_ON_THE_CPU) => {}
                    Err(failure) => failures.push(format!("{dtype:?} {failure}")),
                    Ok(_) => {}
                }
                if launches() == before {
                    break;
                }
            }
        }
    }
    for failure in &failures {
        println!("FAILED {failure}");
    }
    assert!(failures.is_empty(), "{} cases failed; each is printed above", failures.len());
    if only.is_none() {
        utilities().expect("the utilities compute");
        let ran = launched();
        // Most copies are parts of sequences alone: `steps` looks for them.
        let missing: BTreeSet<String> = sources()
            .iter()
            .filter(|source| source.name() != "copy")
            .flat_map(|source| source.entries().to_vec())
            .filter(|entry| !ran.contains_key(entry))
            .collect();
        assert!(missing.is_empty(), "no plan has launched {missing:?}");
        assert_eq!(without_plan(), DECLINED.into(), "the kernels that had no plan for some case");
    }
}

/// Backward passes that must find for themselves what the forward pass would have kept.
#[test]
fn gradients_need_no_hints() {
    if EMULATOR.is_none() {
        return;
    }
    let names = ["layer_norm", "rms_norm", "group_norm", "batch_norm_train", "cross_entropy"];
    let mut ops: Vec<Op> = registry::all().into_iter().filter(|op| names.contains(&op.name)).collect();
    ops.extend(registry::find("scaled_dot_product_attention"));
    assert_eq!(ops.len(), 6);
    ops.push(Op { name: "larger", family: Family::Neural, formula: "", cases: larger });
    for op in ops {
        for case in (op.cases)() {
            let checked = without_hints(|| check_placed(&op, &case, &Reverse, &elsewhere, DType::F64));
            checked.unwrap_or_else(|failure| panic!("{failure}"));
        }
    }
}

/// Runs one of the kernels with a mistake.
fn planted(name: &str) {
    let Some(emulator) = EMULATOR.as_ref() else {
        panic!("{name}: skipped, there is no g++ on this machine")
    };
    let step = Step {
        source: "planted",
        entry: name.to_owned(),
        grid: [1, 1],
        threads: 32,
        arguments: vec![Argument::Output(0)],
    };
    let plan = Plan { steps: vec![step], ..Plan::default() };
    let x = TrackedTensor::from_vec(vec![1f64], &[1]).expect("one number");
    let _ = emulator.run("planted", &plan, &[], &[x.meta()]);
}

#[test]
#[should_panic(expected = "astray")]
fn threads_that_wait_for_nobody_are_found() {
    planted("astray");
}

#[test]
#[should_panic(expected = "outside")]
fn a_write_outside_of_a_buffer_is_found() {
    planted("outside");
}

/// Norms, and unscaling, on gradients of each type.
fn utilities() -> Result<()> {
    for dtype in FLOATS {
        let data: Vec<f64> = (0..10_000).map(|i| f64::from(i % 97) / 16.0 - 3.0).collect();
        let here = autograd_core::algebra::cast(&TrackedTensor::from_vec(data, &[10_000])?, dtype)?;
        let there = elsewhere(&here)?;
        let number = |x: TrackedTensor| x.to_flat::<f64>();
        let norm = |x: &TrackedTensor| number(global_norm(std::slice::from_ref(x))?);
        let (want, got) = (norm(&here)?, norm(&there)?);
        assert!((got[0] - want[0]).abs() < 1e-9 * want[0], "{dtype:?}: {got:?}, not {want:?}");
        let mut scaler = LossScaler::fixed(8.0)?;
        let [Some(want), Some(got)] = [scaler.unscale(vec![here])?, scaler.unscale(vec![there.clone()])?]
        else {
            panic!("{dtype:?}: all are finite");
        };
        let flat = |x: &TrackedTensor| number(autograd_core::algebra::cast(x, DType::F64)?);
        assert_eq!(flat(&got[0])?, flat(&want[0])?, "{dtype:?}");
        let infinite =
            autograd_core::algebra::mul(&there, &elsewhere(&TrackedTensor::scalar(f64::INFINITY))?);
        if dtype == DType::F64 {
            assert!(scaler.unscale(vec![infinite?])?.is_none(), "an infinity is found");
        }
    }
    bytes_by_index()?;
    exact::sorted_floats_are_those_of_the_cpu()?;
    exact::integers_are_those_of_the_cpu()?;
    exact::random_numbers_are_those_of_the_cpu()
}

/// Masks are read and written by index, too.
fn bytes_by_index() -> Result<()> {
    let bytes = TrackedTensor::from_vec(vec![3u8, 1, 4, 1, 5, 9], &[2, 3])?;
    let at = TrackedTensor::from_vec(vec![2u32, 0], &[2, 1])?;
    let run = |x: &TrackedTensor, at: &TrackedTensor| -> Result<Vec<u8>> {
        let written = scatter::scatter(x, at, x.narrow(1, 1, 1)?, 1)?;
        Ok([index::gather(x, at, 1)?.to_flat::<u8>()?, written.to_flat::<u8>()?].concat())
    };
    assert_eq!(run(&elsewhere(&bytes)?, &elsewhere(&at)?)?, run(&bytes, &at)?);
    Ok(())
}

#[test]
fn an_index_out_of_range_is_the_error_of_the_cpu() -> Result<()> {
    if EMULATOR.is_none() {
        return Ok(());
    }
    let table = TrackedTensor::from_vec((0..12).map(f64::from).collect(), &[4, 3])?;
    for bad in [vec![1i64, 4, 0], vec![-1, 0, 2]] {
        let indices = TrackedTensor::from_vec(bad, &[3])?;
        let (far_table, far) = (elsewhere(&table)?, elsewhere(&indices)?);
        let rows = TrackedTensor::from_vec((0..12).map(f64::from).collect(), &[3, 4])?;
        let pairs = [
            (index::embedding(&table, &indices), index::embedding(&far_table, &far)),
            (loss::cross_entropy(&rows, &indices), loss::cross_entropy(&elsewhere(&rows)?, &far)),
        ];
        for (here, there) in pairs {
            let (here, there) = (message(here), message(there));
            assert!(!here.is_empty());
            // They end with the line of the call.
            assert_eq!(here.split(" (at ").next(), there.split(" (at ").next());
        }
    }
    Ok(())
}

/// What `gpu_host bench` times runs, in small, by our kernels.
#[test]
fn workloads_run() -> Result<()> {
    if EMULATOR.is_none() {
        return Ok(());
    }
    let size = Size { batch: 2, length: 6, model: 16, heads: 2, classes: 40, images: 2, side: 8 };
    for workload in workloads(size) {
        let work = match workload.bound {
            Bound::Bytes(n) | Bound::Operations(n) => n,
        };
        assert!(work > 0.0, "{}", workload.name);
        workload.make(&|x| Ok(x.clone()), size)?()?;
        // candle's CPU products have no bf16.
        if workload.dtype == DType::F32 {
            let before = launches();
            workload.make(&elsewhere, size)?()?;
            let expression = workload.name == "gelu";
            assert!(expression || launches() > before, "{} runs by no kernel of ours", workload.name);
            let before = wholes();
            workload.make_captured(&elsewhere, size)?()?;
            assert_eq!(wholes() - before, 1, "{} as a whole", workload.name);
        }
    }
    Ok(())
}

/// A row of -inf, one with +inf, an ignored row with NaN: as on the CPU.
#[test]
fn edges_of_losses_and_masks_are_those_of_the_cpu() -> Result<()> {
    if EMULATOR.is_none() {
        return Ok(());
    }
    let mut x = vec![0.5; 20];
    x[..5].fill(f64::NEG_INFINITY);
    x[7] = f64::INFINITY;
    x[11] = f64::NAN;
    let x = TrackedTensor::from_vec(x, &[4, 5])?;
    let targets = TrackedTensor::from_vec(vec![0i64, 1, -100, 3], &[4])?;
    let options = loss::CrossEntropy { reduction: loss::Reduction::None, ..loss::CrossEntropy::default() };
    let run = |x: &TrackedTensor, targets: &TrackedTensor| -> Result<Vec<f64>> {
        let tape = GradientTape::new();
        let x = tape.variable(x);
        let y = loss::cross_entropy_with(&x, targets, &options)?;
        let sums = tape.unwatched(&y).to_flat::<f64>()?;
        let gradient = tape.gradient(&y.narrow(0, 2, 2)?.sum()?, &[&x])?[0].to_flat::<f64>()?;
        Ok([sums, gradient].concat())
    };
    let (here, there) = (run(&x, &targets)?, run(&elsewhere(&x)?, &elsewhere(&targets)?)?);
    for (i, (a, b)) in here.iter().zip(&there).enumerate() {
        assert!((a - b).abs() < 1e-12 || a == b || (a.is_nan() && b.is_nan()), "{i}: {b}, not {a}");
    }
    masked_rows()?;
    let wide = TrackedTensor::from_vec(vec![1f64; 4000], &[4000])?;
    for rate in [0.0, 0.3, 1.0] {
        let key = random::key(77);
        let there = elsewhere(&wide)?.dropout(&key, rate)?.to_flat::<f64>()?;
        assert_eq!(there, wide.dropout(&key, rate)?.to_flat::<f64>()?, "the mask of {rate}");
    }
    Ok(())
}

/// Queries that see nothing, by a mask of each kind, and keys that nobody sees.
fn masked_rows() -> Result<()> {
    let numbers = |n: u32, shape: &[usize]| {
        TrackedTensor::from_vec((0..n).map(|i| f64::from(i * 7 % 11) / 4.0 - 1.0).collect(), shape)
    };
    let (q, k, v) = (numbers(12, &[4, 3])?, numbers(15, &[5, 3])?, numbers(10, &[5, 2])?);
    let seen = |i: usize, j: usize| i != 1 && j != 2;
    let bytes: Vec<u8> = (0..20).map(|at| u8::from(seen(at / 5, at % 5))).collect();
    let added: Vec<f64> = bytes.iter().map(|&b| if b == 1 { 0.25 } else { f64::NEG_INFINITY }).collect();
    for mask in [TrackedTensor::from_vec(bytes, &[4, 5])?, TrackedTensor::from_vec(added, &[4, 5])?] {
        let run = |place: &dyn Fn(&TrackedTensor) -> Result<TrackedTensor>| -> Result<Vec<Vec<f64>>> {
            let tape = GradientTape::new();
            let mut x: Vec<TrackedTensor> = Vec::new();
            for value in [&q, &k, &v] {
                x.push(tape.variable(place(value)?));
            }
            let mut mask = place(&mask)?;
            if mask.dtype() == DType::F64 {
                mask = tape.variable(mask);
                x.push(mask.clone());
            }
            let y = scaled_dot_product_attention(&x[0], &x[1], &x[2], Some(&mask), false, None)?;
            let all = tape.gradient(&y.mul(&y)?.sum()?, &x.iter().collect::<Vec<_>>())?;
            [&[y][..], &all].concat().iter().map(|x| x.detach()?.to_flat::<f64>()).collect()
        };
        let (here, there) = (run(&|x| Ok(x.clone()))?, run(&elsewhere)?);
        assert_eq!(&there[0][2..4], &[0.0; 2], "a query that sees nothing");
        assert_eq!(&there[2][6..9], &[0.0; 3], "a key that nobody sees");
        for (here, there) in here.iter().zip(&there) {
            for (a, b) in here.iter().zip(there) {
                assert!((a - b).abs() < 1e-12, "{there:?}, not {here:?}");
            }
        }
    }
    Ok(())
}
