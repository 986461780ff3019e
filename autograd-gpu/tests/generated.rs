//! Generated kernels executed on the CPU by `emulator.h`, their numbers against the CPU's tiles.
//! Needs a C++20 compiler (`g++`); without one the test says so and passes.

use autograd_core::Result;
use autograd_core::kernels::expr::{Binary, Builder, Program, Unary};
use autograd_core::kernels::{Layout, Shape, Slice, SliceMut, View, machine};
use autograd_gpu::{Element, pointwise};
use std::fmt::Write as _;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rounding of sums of a few dozen terms in f64, in another order than the CPU's.
const F64: f64 = 1e-12;

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
