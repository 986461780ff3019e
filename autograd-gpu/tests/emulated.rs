//! Every kernel executed on the CPU by `emulator.h`, its numbers against the CPU's own ops and
//! their gradients. Needs a C++20 compiler (`g++`); without one the test says so and passes.

use autograd_core::kernels::expr::{Binary, Builder, Program, Unary};
use autograd_core::kernels::{Layout, Shape, Slice, SliceMut, View, machine};
use autograd_core::{Result, TrackedTensor};
use autograd_gpu::{Element, pointwise, sources};
use autograd_ops::{TensorAutograd, attention, index, norm, random};
use autograd_tape::GradientTape;
use std::fmt::Write as _;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rounding of sums of a few dozen terms in f64, in another order than the CPU's.
const F64: f64 = 1e-12;
/// The same in f32.
const F32: f64 = 2e-5;
/// One rounding to a half type of 11 bits, or of 8, of numbers near 1.
const F16: f64 = 1e-3;
const BF16: f64 = 8e-3;

/// A program of many launches, and what each of them should print.
#[derive(Default)]
struct Emulated {
    kernels: String,
    body: String,
    expected: Vec<(String, Vec<f64>, f64)>,
}

impl Emulated {
    /// Declares a buffer with these numbers.
    fn buffer(&mut self, name: &str, kind: &str, values: &[f64]) {
        let list: Vec<String> = values.iter().map(|v| literal(*v)).collect();
        let list = list.join(", ");
        let _ = match kind {
            "f16" | "bf16" => writeln!(
                self.body,
                "std::vector<{kind}> {name}; for (double number : std::vector<double>{{{list}}}) \
                 {name}.push_back(narrowed<{kind}>((float)number));"
            ),
            _ => writeln!(
                self.body,
                "std::vector<{kind}> {name}; for (double number : std::vector<double>{{{list}}}) {name}.push_back(({kind})number);"
            ),
        };
    }

    /// Declares a buffer of `len` elements to write to.
    fn room(&mut self, name: &str, kind: &str, len: usize) {
        let _ = writeln!(self.body, "std::vector<{kind}> {name}({len});");
    }

    /// Launches a kernel.
    fn launch(&mut self, kernel: &str, grid: [usize; 2], threads: usize, arguments: &str) {
        let _ = writeln!(
            self.body,
            "launch({{{}, {}, 1}}, {threads}, [&] {{ {kernel}({arguments}); }});",
            grid[0], grid[1]
        );
    }

    /// Expects these numbers in a buffer.
    fn expect(&mut self, label: &str, buffer: &str, half: bool, want: &[f64], tolerance: f64) {
        let label = label.replace(' ', "_");
        let shown = if half {
            format!(
                "std::vector<float> w; for (auto number : {buffer}) w.push_back(widen(number)); show(\"{label}\", w);"
            )
        } else {
            format!("show(\"{label}\", {buffer});")
        };
        let _ = writeln!(self.body, "{{ {shown} }}");
        self.expected.push((label, want.to_vec(), tolerance));
    }

    /// Opens a scope, so that names can be used again.
    fn case(&mut self, build: impl FnOnce(&mut Self) -> Result<()>) {
        self.body.push_str("{\n");
        build(self).expect("the CPU computes what is expected");
        self.body.push_str("}\n");
    }

    /// Compiles and runs the program, and compares.
    fn check(self) {
        if Command::new("g++").arg("--version").output().is_err() {
            println!("skipped: there is no g++ on this machine to execute the kernels with");
            return;
        }
        // Tests run at once, each in a folder of its own.
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("autograd-gpu-{}-{run}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a scratch folder can be made");
        let text = format!(
            "#include \"{}/tests/emulator.h\"\n{}\nint main() {{\n{}}}\n",
            env!("CARGO_MANIFEST_DIR"),
            self.kernels,
            self.body
        );
        let (source, program) = (folder.join("emulated.cpp"), folder.join("emulated"));
        std::fs::write(&source, text).expect("the scratch folder can be written");
        let built = Command::new("g++")
            .args(["-std=c++20", "-O1", "-pthread", "-ffp-contract=off", "-w", "-o"])
            .args([&program, &source])
            .output()
            .expect("g++ was found before");
        let said = String::from_utf8_lossy(&built.stderr);
        let errors: Vec<&str> = said.lines().filter(|line| line.contains("error:")).collect();
        assert!(built.status.success(), "{}", errors.join("\n"));
        let ran = Command::new(&program).output().expect("what was built runs");
        assert!(ran.status.success(), "the emulation ended with {}", ran.status);
        let printed = String::from_utf8_lossy(&ran.stdout).into_owned();
        let _ = std::fs::remove_dir_all(&folder);
        assert_eq!(printed.lines().count(), self.expected.len(), "every launch prints one line");
        for (line, (label, want, tolerance)) in printed.lines().zip(&self.expected) {
            let mut words = line.split(' ');
            assert_eq!(words.next(), Some(label.as_str()));
            let got: Vec<f64> = words.map(|w| w.parse().expect("a number was printed")).collect();
            assert_eq!(got.len(), want.len(), "{label}");
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                let close = (got - want).abs() <= tolerance * want.abs().max(1.0);
                assert!(
                    close || got == want || (got.is_nan() && want.is_nan()),
                    "{label}[{i}]: {got}, not {want}"
                );
            }
        }
    }
}

fn literal(v: f64) -> String {
    match v {
        _ if v.is_nan() => "NAN".to_owned(),
        _ if v.is_infinite() => format!("{}INFINITY", if v < 0.0 { "-" } else { "" }),
        _ => format!("{v:?}"),
    }
}

/// Some numbers between −2 and 2.
fn numbers(len: usize, seed: usize) -> Vec<f64> {
    (0..len).map(|i| ((i * 37 + seed * 101 + i * i % 17) % 97) as f64 / 24.0 - 2.0).collect()
}

fn value(data: &[f64], shape: &[usize]) -> TrackedTensor {
    TrackedTensor::from_vec(data.to_vec(), shape).expect("the test's shapes fit")
}

/// y, and the cotangents of the inputs for a cotangent of y.
fn with_vjp(
    inputs: &[TrackedTensor],
    ct: impl Fn(&TrackedTensor) -> TrackedTensor,
    f: impl Fn(&[TrackedTensor]) -> Result<TrackedTensor>,
) -> Result<(Vec<f64>, Vec<Vec<f64>>)> {
    let tape = GradientTape::new();
    let x: Vec<TrackedTensor> = inputs.iter().map(|x| tape.variable(x)).collect();
    let y = f(&x)?;
    let plain = tape.unwatched(&y).to_flat()?;
    let seed = ct(&y);
    let grads = tape.gradient_with(&[&y], &[&seed], &x.iter().collect::<Vec<_>>())?;
    Ok((plain, grads.iter().map(TrackedTensor::to_flat).collect::<Result<_>>()?))
}

#[test]
fn kernels_agree_with_the_cpu() {
    let mut all = Emulated::default();
    for source in sources() {
        // The prelude stands in each of them: a namespace keeps them apart.
        let _ = writeln!(all.kernels, "namespace n_{} {{\n{}\n}}", source.name(), source.text());
    }
    all.kernels.push_str("using namespace n_softmax;\n");
    for n in [8, 7, 130] {
        rows_of(&mut all, n);
    }
    half_rows(&mut all);
    losses(&mut all);
    norms(&mut all);
    sums(&mut all);
    masks(&mut all);
    pools(&mut all);
    tables(&mut all);
    for causal in [false, true] {
        attentions(&mut all, causal);
    }
    all.check();
}

fn rows_of(all: &mut Emulated, n: usize) {
    const ROWS: usize = 3;
    let (mut x, ct) = (numbers(ROWS * n, 1), numbers(ROWS * n, 2));
    x[0] = 40.0;
    type Op = fn(&TrackedTensor, isize) -> Result<TrackedTensor>;
    let ops: [(&str, Op); 2] = [("softmax", |x, d| x.softmax(d)), ("log_softmax", |x, d| x.log_softmax(d))];
    for (name, op) in ops {
        all.case(|all| {
            let seed = value(&ct, &[ROWS, n]);
            let (y, grads) = with_vjp(&[value(&x, &[ROWS, n])], |_| seed.clone(), |x| op(&x[0], -1))?;
            all.buffer("x", "double", &x);
            all.buffer("ct", "double", &ct);
            all.room("y", "double", ROWS * n);
            all.room("dx", "double", ROWS * n);
            all.launch(&format!("n_softmax::{name}_f64"), [ROWS, 1], 64, &format!("x.data(), y.data(), {n}"));
            all.expect(&format!("{name} {n}"), "y", false, &y, F64);
            let arguments = format!("ct.data(), y.data(), dx.data(), {n}");
            all.launch(&format!("n_softmax::{name}_vjp_f64"), [ROWS, 1], 64, &arguments);
            all.expect(&format!("{name} vjp {n}"), "dx", false, &grads[0], F64);
            Ok(())
        });
    }
    all.case(|all| {
        let mut x = x.clone();
        x[n..2 * n].fill(f64::NEG_INFINITY);
        x[2 * n] = f64::INFINITY;
        let y = value(&x, &[ROWS, n]).logsumexp(-1)?.to_flat()?;
        all.buffer("x", "double", &x);
        all.room("y", "double", ROWS);
        all.launch("n_softmax::logsumexp_f64", [ROWS, 1], 32, &format!("x.data(), y.data(), {n}"));
        all.expect(&format!("logsumexp {n}"), "y", false, &y, F64);
        let (ct, seed) = (numbers(1, 3), value(&numbers(1, 3), &[1]));
        let (_, grads) = with_vjp(&[value(&x[..n], &[1, n])], |_| seed.clone(), |x| x[0].logsumexp(-1))?;
        all.buffer("ct", "double", &ct);
        all.room("dx", "double", n);
        let arguments = format!("ct.data(), x.data(), y.data(), dx.data(), {n}");
        all.launch("n_softmax::logsumexp_vjp_f64", [1, 1], 32, &arguments);
        all.expect(&format!("logsumexp vjp {n}"), "dx", false, &grads[0], F64);
        Ok(())
    });
}

fn half_rows(all: &mut Emulated) {
    for (kind, tolerance) in [("f16", F16), ("bf16", BF16), ("f32", F32)] {
        all.case(|all| {
            let x = numbers(32, 4);
            let y = value(&x, &[2, 16]).softmax(-1)?.to_flat()?;
            let storage = if kind == "f32" { "float".to_owned() } else { format!("n_softmax::{kind}") };
            all.buffer("x", storage.trim_start_matches("n_softmax::"), &x);
            all.room("y", &storage, 32);
            all.launch(&format!("n_softmax::softmax_{kind}"), [2, 1], 32, "x.data(), y.data(), 16");
            all.expect(&format!("softmax {kind}"), "y", kind != "f32", &y, tolerance);
            Ok(())
        });
    }
}

fn losses(all: &mut Emulated) {
    all.case(|all| {
        let (n, targets) = (5, [3i64, 0, -1]);
        let (x, ct) = (numbers(3 * n, 5), numbers(3, 6));
        let rows = value(&x, &[3, n]).log_softmax(-1)?.to_flat::<f64>()?;
        let want = |row: usize, t: i64| if t < 0 { 0.0 } else { -rows[row * n + t as usize] };
        let losses: Vec<f64> = targets.iter().enumerate().map(|(r, &t)| want(r, t)).collect();
        let grads = (0..3 * n).map(|i| {
            let (row, t) = (i / n, targets[i / n]);
            let hit = if t == (i % n) as i64 { 1.0 } else { 0.0 };
            if t < 0 { 0.0 } else { ct[row] * (rows[i].exp() - hit) }
        });
        let grads: Vec<f64> = grads.collect();
        all.buffer("x", "double", &x);
        all.buffer("ct", "double", &ct);
        all.buffer("t", "long long", &targets.map(|t| t as f64));
        for (name, len) in [("loss", 3), ("lse", 3), ("dx", 3 * n)] {
            all.room(name, "double", len);
        }
        let arguments = format!("x.data(), t.data(), loss.data(), lse.data(), {n}");
        all.launch("n_cross_entropy::cross_entropy_f64", [3, 1], 32, &arguments);
        all.expect("cross entropy", "loss", false, &losses, F64);
        let arguments = format!("ct.data(), x.data(), t.data(), lse.data(), dx.data(), {n}");
        all.launch("n_cross_entropy::cross_entropy_vjp_f64", [3, 1], 32, &arguments);
        all.expect("cross entropy vjp", "dx", false, &grads, F64);
        Ok(())
    });
}

fn norms(all: &mut Emulated) {
    // Layer norm is one group of one position; group norm has both.
    for (label, batch, channels, groups, inner) in [("layer", 4, 6, 1, 1), ("group", 2, 4, 2, 3)] {
        all.case(|all| {
            let len = batch * channels * inner;
            let (rows, n) = (batch * groups, channels / groups * inner);
            let data = [numbers(len, 7), numbers(channels, 8), numbers(channels, 9), numbers(len, 10)];
            let shape: &[usize] = if inner == 1 { &[batch, channels] } else { &[batch, channels, inner] };
            let inputs = [value(&data[0], shape), value(&data[1], &[channels]), value(&data[2], &[channels])];
            let seed = value(&data[3], shape);
            let (y, grads) = with_vjp(
                &inputs,
                |_| seed.clone(),
                |x| match label {
                    "layer" => norm::layer_norm(&x[0], &x[1], &x[2], 1e-5),
                    _ => norm::group_norm(&x[0], groups, Some(&x[1]), Some(&x[2]), 1e-5),
                },
            )?;
            for (name, data) in ["x", "w", "b", "ct"].into_iter().zip(&data) {
                all.buffer(name, "double", data);
            }
            let rooms =
                [("y", len), ("mean", rows), ("rstd", rows), ("dx", len), ("dw", channels), ("db", channels)];
            for (name, len) in rooms {
                all.room(name, "double", len);
            }
            let tail = format!("{n}, {groups}, {inner}");
            let arguments =
                format!("x.data(), w.data(), b.data(), y.data(), mean.data(), rstd.data(), {tail}, 1e-5");
            all.launch("n_norm::row_norm_f64", [rows, 1], 32, &arguments);
            all.expect(&format!("{label} norm"), "y", false, &y, F64);
            let arguments =
                format!("ct.data(), x.data(), w.data(), mean.data(), rstd.data(), dx.data(), {tail}");
            all.launch("n_norm::row_norm_vjp_f64", [rows, 1], 32, &arguments);
            all.expect(&format!("{label} norm dx"), "dx", false, &grads[0], F64);
            let arguments = format!(
                "ct.data(), x.data(), mean.data(), rstd.data(), dw.data(), db.data(), {rows}, {tail}"
            );
            all.launch("n_norm::row_norm_vjp_affine_f64", [channels, 1], 32, &arguments);
            all.expect(&format!("{label} norm dw"), "dw", false, &grads[1], F64);
            all.expect(&format!("{label} norm db"), "db", false, &grads[2], F64);
            Ok(())
        });
    }
    all.case(|all| {
        let (rows, n) = (3, 8);
        let data = [numbers(rows * n, 11), numbers(n, 12), numbers(rows * n, 13)];
        let seed = value(&data[2], &[rows, n]);
        let inputs = [value(&data[0], &[rows, n]), value(&data[1], &[n])];
        let (y, grads) = with_vjp(&inputs, |_| seed.clone(), |x| norm::rms_norm(&x[0], &x[1], 1e-5))?;
        for (name, data) in ["x", "w", "ct"].into_iter().zip(&data) {
            all.buffer(name, "double", data);
        }
        for (name, len) in [("y", rows * n), ("rstd", rows), ("dx", rows * n), ("dw", n)] {
            all.room(name, "double", len);
        }
        let arguments = format!("x.data(), w.data(), y.data(), rstd.data(), {n}, 1e-5");
        all.launch("n_norm::rms_norm_f64", [rows, 1], 32, &arguments);
        all.expect("rms norm", "y", false, &y, F64);
        let arguments = format!("ct.data(), x.data(), w.data(), rstd.data(), dx.data(), {n}");
        all.launch("n_norm::rms_norm_vjp_f64", [rows, 1], 32, &arguments);
        all.expect("rms norm dx", "dx", false, &grads[0], F64);
        let arguments = format!("ct.data(), x.data(), rstd.data(), dw.data(), {rows}, {n}");
        all.launch("n_norm::rms_norm_vjp_weight_f64", [n, 1], 32, &arguments);
        all.expect("rms norm dw", "dw", false, &grads[1], F64);
        Ok(())
    });
}

fn sums(all: &mut Emulated) {
    all.case(|all| {
        let x = numbers(2 * 5 * 3, 14);
        let cube = value(&x, &[2, 5, 3]);
        all.buffer("x", "double", &x);
        all.room("a", "double", 6);
        all.launch("n_reduce::sum_rows_f64", [6, 1], 32, "x.data(), a.data(), 5, 3");
        all.expect("sum of the middle", "a", false, &cube.sum_dim(1)?.to_flat()?, F64);
        all.room("b", "double", 10);
        all.launch("n_reduce::sum_rows_f64", [10, 1], 32, "x.data(), b.data(), 3, 1");
        all.expect("sum of the last", "b", false, &cube.sum_dim(2)?.to_flat()?, F64);
        all.room("c", "double", 15);
        all.launch("n_reduce::sum_columns_f64", [1, 1], 64, "x.data(), c.data(), 2, 15");
        all.expect("sum of the first", "c", false, &cube.sum_dim(0)?.to_flat()?, F64);
        all.room("d", "double", 2);
        all.launch("n_reduce::sum_squares_f64", [2, 1], 32, "x.data(), d.data(), 30");
        all.body.push_str("std::vector<double> norm = {d[0] + d[1]};\n");
        all.expect("sum of squares", "norm", false, &[x.iter().map(|v| v * v).sum()], F64);
        let mut bad = x.clone();
        bad[29] = f64::INFINITY;
        all.buffer("z", "double", &bad);
        all.room("seen", "unsigned", 1);
        all.launch("n_reduce::unscale_f64", [1, 1], 32, "z.data(), 0.5, seen.data(), 29");
        all.expect("nothing overflowed", "seen", false, &[0.0], 0.0);
        all.launch("n_reduce::unscale_f64", [1, 1], 32, "z.data(), 2.0, seen.data(), 30");
        all.expect("something overflowed", "seen", false, &[1.0], 0.0);
        all.expect("unscaled", "z", false, &[&x[..29], &[f64::INFINITY]].concat(), F64);
        Ok(())
    });
}

fn masks(all: &mut Emulated) {
    all.case(|all| {
        let (n, rate) = (50, 0.3);
        let x = numbers(n, 15).iter().map(|v| f64::from(*v as f32)).collect::<Vec<_>>();
        let data: Vec<f32> = x.iter().map(|v| *v as f32).collect();
        let y = TrackedTensor::from_vec(data, &[n])?.dropout(&random::key(77), rate)?;
        let want: Vec<f64> = y.to_flat::<f32>()?.into_iter().map(f64::from).collect();
        all.buffer("x", "float", &x);
        all.buffer("key", "unsigned", &[77.0, 0.0]);
        all.room("y", "float", n);
        let threshold = (rate * 4_294_967_296.0) as u64;
        let arguments =
            format!("x.data(), y.data(), key.data(), {threshold}ull, {:?}, {n}", 1.0 / (1.0 - rate));
        all.launch("n_dropout::dropout_f32", [1, 1], 32, &arguments);
        // The same mask: a word that fell otherwise would be 0 for a number.
        all.expect("dropout", "y", false, &want, 1e-6);
        Ok(())
    });
}

fn pools(all: &mut Emulated) {
    all.case(|all| {
        let (x, ct) = (numbers(2 * 6 * 7, 16), numbers(2 * 3 * 4, 17));
        let seed = value(&ct, &[1, 2, 3, 4]);
        let inputs = [value(&x, &[1, 2, 6, 7])];
        let (y, grads) = with_vjp(&inputs, |_| seed.clone(), |x| x[0].max_pool2d_with(3, 2, 1))?;
        all.buffer("x", "double", &x);
        all.buffer("ct", "double", &ct);
        for (name, kind, len) in [("y", "double", 24), ("at", "unsigned", 24), ("dx", "double", 84)] {
            all.room(name, kind, len);
        }
        let window = "n_pool::Window{6, 7, 3, 4, 3, 3, 2, 2, 1, 1}";
        all.launch(
            "n_pool::max_pool2d_f64",
            [1, 1],
            32,
            &format!("x.data(), y.data(), at.data(), {window}, 24"),
        );
        all.expect("max pool", "y", false, &y, 0.0);
        let arguments = format!("ct.data(), at.data(), dx.data(), {window}, 84");
        all.launch("n_pool::max_pool2d_vjp_f64", [1, 1], 32, &arguments);
        all.expect("max pool vjp", "dx", false, &grads[0], F64);
        Ok(())
    });
}

fn tables(all: &mut Emulated) {
    all.case(|all| {
        let (rows, n, picks) = (4, 6, [2u32, 0, 2, 2]);
        let (table, ct) = (numbers(rows * n, 18), numbers(4 * n, 19));
        let indices = TrackedTensor::from_vec(picks.to_vec(), &[4])?;
        let seed = value(&ct, &[4, n]);
        let inputs = [value(&table, &[rows, n])];
        let (y, grads) = with_vjp(&inputs, |_| seed.clone(), |x| index::embedding(&x[0], indices.clone()))?;
        all.buffer("table", "double", &table);
        all.buffer("ct", "double", &ct);
        all.buffer("index", "long long", &picks.map(f64::from));
        // Positions sorted by their index, and where each row's begin.
        all.buffer("order", "long long", &[1.0, 0.0, 2.0, 3.0]);
        all.buffer("starts", "long long", &[0.0, 1.0, 1.0, 4.0, 4.0]);
        all.room("y", "double", 4 * n);
        all.room("dt", "double", rows * n);
        all.launch(
            "n_embedding::embedding_f64",
            [4, 1],
            32,
            &format!("table.data(), index.data(), y.data(), {n}"),
        );
        all.expect("embedding", "y", false, &y, 0.0);
        let arguments = format!("ct.data(), order.data(), starts.data(), dt.data(), {n}");
        all.launch("n_embedding::embedding_vjp_f64", [rows, 1], 32, &arguments);
        all.expect("embedding vjp", "dt", false, &grads[0], F64);
        Ok(())
    });
}

fn attentions(all: &mut Emulated, causal: bool) {
    all.case(|all| {
        // Two query heads share a key head; more keys than a tile, and a last block in part.
        let (heads, group, l, s, d) = (2, 2, if causal { 34 } else { 6 }, 35, 5);
        let q = numbers(heads * l * d, 20);
        let (k, v) = (numbers(heads / group * s * d, 21), numbers(heads / group * s * d, 22));
        let ct = numbers(heads * l * d, 23);
        let inputs = [
            value(&q, &[1, heads, l, d]),
            value(&k, &[1, heads / group, s, d]),
            value(&v, &[1, heads / group, s, d]),
        ];
        let seed = value(&ct, &[1, heads, l, d]);
        let (y, grads) = with_vjp(
            &inputs,
            |_| seed.clone(),
            |x| attention::scaled_dot_product_attention(&x[0], &x[1], &x[2], None, causal, Some(0.4)),
        )?;
        for (name, data) in [("q", &q), ("k", &k), ("v", &v), ("ct", &ct)] {
            all.buffer(name, "double", data);
        }
        let rooms = [
            ("y", q.len()),
            ("lse", heads * l),
            ("delta", heads * l),
            ("dq", q.len()),
            ("dk", k.len()),
            ("dv", v.len()),
        ];
        for (name, len) in rooms {
            all.room(name, "double", len);
        }
        let extent = format!("n_attention::Extent{{{l}, {s}, {d}, {group}, {}, 0.4}}", u32::from(causal));
        let label = if causal { "causal attention" } else { "attention" };
        let space = |name: &str| format!("n_attention::{name}_f64");
        let arguments = format!("q.data(), k.data(), v.data(), y.data(), lse.data(), {extent}");
        all.launch(&space("attention"), [l.div_ceil(4), heads], 128, &arguments);
        all.expect(label, "y", false, &y, F64);
        let arguments = format!("ct.data(), y.data(), delta.data(), {d}");
        all.launch(&space("attention_delta"), [heads * l, 1], 32, &arguments);
        let common = "ct.data(), q.data(), k.data(), v.data(), lse.data(), delta.data()";
        let arguments = format!("{common}, dq.data(), {extent}");
        all.launch(&space("attention_vjp_q"), [l.div_ceil(4), heads], 128, &arguments);
        all.expect(&format!("{label} dq"), "dq", false, &grads[0], F64);
        let arguments = format!("{common}, dk.data(), dv.data(), {extent}");
        all.launch(&space("attention_vjp_kv"), [s.div_ceil(4), heads / group], 128, &arguments);
        all.expect(&format!("{label} dk"), "dk", false, &grads[1], F64);
        all.expect(&format!("{label} dv"), "dv", false, &grads[2], F64);
        Ok(())
    });
}

const UNARY: [Unary; 32] = [
    Unary::Neg,
    Unary::Abs,
    Unary::Sign,
    Unary::Recip,
    Unary::Sqrt,
    Unary::Rsqrt,
    Unary::Exp,
    Unary::Expm1,
    Unary::Log,
    Unary::Log1p,
    Unary::Log2,
    Unary::Sin,
    Unary::Cos,
    Unary::Tan,
    Unary::Asin,
    Unary::Acos,
    Unary::Atan,
    Unary::Sinh,
    Unary::Cosh,
    Unary::Tanh,
    Unary::Asinh,
    Unary::Acosh,
    Unary::Atanh,
    Unary::Erf,
    Unary::Lgamma,
    Unary::Digamma,
    Unary::Floor,
    Unary::Ceil,
    Unary::Round,
    Unary::Sigmoid,
    Unary::Relu,
    Unary::Softplus,
];

const BINARY: [Binary; 17] = [
    Binary::Add,
    Binary::Sub,
    Binary::Mul,
    Binary::Div,
    Binary::Rem,
    Binary::Pow,
    Binary::Powi,
    Binary::Atan2,
    Binary::Hypot,
    Binary::Max,
    Binary::Min,
    Binary::Lt,
    Binary::Le,
    Binary::Gt,
    Binary::Ge,
    Binary::Eq,
    Binary::Ne,
];

/// What the CPU's tiles make of a program on these inputs.
fn tiles(
    program: &Program,
    params: &[f64],
    inputs: &[(&[f64], Layout)],
    shape: &Shape,
    outputs: usize,
) -> Vec<Vec<f64>> {
    let mut results = vec![vec![0.0; shape.elements()]; outputs];
    let views: Vec<View<'_>> =
        inputs.iter().map(|(data, layout)| View { data: Slice::F64(data), layout }).collect();
    let mut slices: Vec<SliceMut<'_>> = results.iter_mut().map(|r| SliceMut::F64(r)).collect();
    machine::run(program, params, &views, shape, &mut slices);
    results
}

#[test]
fn generated_kernels_agree_with_the_tiles() {
    let mut all = Emulated::default();
    // Edges and ordinary numbers; a whole number now and then for powers.
    let edges =
        [0.0, -0.0, 1.0, -1.0, 2.0, 3.0, 0.5, -2.5, 1e-8, 30.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
    let x: Vec<f64> = edges.iter().copied().chain(numbers(11, 30)).collect();
    let unary = |all: &mut Emulated, at: usize, f: Unary| {
        let mut b = Builder::new();
        let input = b.input(0);
        let y = b.unary(f, input);
        let program = b.finish(&[y], 1, 0);
        let name = format!("u{at}");
        let kernel = pointwise(&name, &program, &[Element::F64], &[Element::F64]);
        let _ = writeln!(all.kernels, "namespace s_{name} {{\n{}\n}}", kernel.text());
        let shape = Shape::new(&[x.len()]);
        let want = tiles(&program, &[], &[(&x, Layout::contiguous(shape))], &shape, 1).remove(0);
        all.case(|all| {
            all.buffer("x", "double", &x);
            all.room("y", "double", x.len());
            all.launch(&format!("s_{name}::{name}"), [1, 1], 32, &format!("{}, x.data(), y.data()", x.len()));
            all.expect(&format!("{f:?}"), "y", false, &want, 1e-11);
            Ok(())
        });
    };
    for (at, f) in UNARY.into_iter().enumerate() {
        unary(&mut all, at, f);
    }
    // Two inputs of different strides, in one kernel of many outputs.
    let (rows, columns) = (4, 5);
    let (a, row) = (numbers(rows * columns, 31), [2.0, -1.0, 3.0, 0.5, -2.0]);
    let mut b = Builder::new();
    let (left, right, factor) = (b.input(0), b.input(1), b.param(0));
    let outputs: Vec<_> = BINARY
        .into_iter()
        .map(|f| {
            let scaled = b.binary(Binary::Mul, right, factor);
            b.binary(f, left, scaled)
        })
        .collect();
    let picked = {
        let below = b.binary(Binary::Lt, left, right);
        b.select(below, left, right)
    };
    let outputs: Vec<_> = outputs.into_iter().chain([picked]).collect();
    let program = b.finish(&outputs, 2, 1);
    let kernel = pointwise("pairs", &program, &[Element::F64; 2], &vec![Element::F64; outputs.len()]);
    let _ = writeln!(all.kernels, "namespace s_pairs {{\n{}\n}}", kernel.text());
    let shape = Shape::new(&[rows, columns]);
    let repeated = Layout::contiguous(Shape::new(&[columns])).broadcast_to(&shape).expect("a row broadcasts");
    let inputs = [(&a[..], Layout::contiguous(shape)), (&row[..], repeated)];
    let want = tiles(&program, &[2.0], &inputs, &shape, outputs.len());
    all.case(|all| {
        all.buffer("a", "double", &a);
        all.buffer("row", "double", &row);
        let mut list = vec!["g".to_owned(), "a.data()".to_owned(), "row.data()".to_owned()];
        for i in 0..outputs.len() {
            all.room(&format!("y{i}"), "double", rows * columns);
            list.push(format!("y{i}.data()"));
        }
        list.push("2.0".to_owned());
        let _ = writeln!(
            all.body,
            "s_pairs::Geometry g = {{{}, 2, {{{rows}, {columns}}}, {{{{{columns}, 1}}, {{0, 1}}}}}};",
            rows * columns
        );
        all.launch("s_pairs::pairs_strided", [1, 1], 32, &list.join(", "));
        for (i, want) in want.iter().enumerate() {
            all.expect(&format!("pair {i}"), &format!("y{i}"), false, want, F64);
        }
        Ok(())
    });
    all.check();
}

/// The comparison itself must be able to fail.
#[test]
#[should_panic(expected = "wrong[1]")]
fn a_wrong_number_is_found() {
    if Command::new("g++").arg("--version").output().is_err() {
        panic!("wrong[1]: skipped, there is no g++ on this machine");
    }
    let mut all = Emulated::default();
    all.case(|all| {
        all.buffer("y", "double", &[1.0, 2.0]);
        all.expect("wrong", "y", false, &[1.0, 2.5], 0.1);
        Ok(())
    });
    all.check();
}
