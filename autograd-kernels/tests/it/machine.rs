//! The tile machine against an evaluation number by number.

use crate::support::{Data, Rng, Tensor, assert_close, narrower, random_dims};
use autograd_kernels::expr::{Binary, Builder, Node, Program, Unary};
use autograd_kernels::machine::{run, run_reduced};
use autograd_kernels::math::scalar;
use autograd_kernels::{Kind, Layout, Shape, SliceMut, View, threads};

const UNARY: [Unary; 10] = [
    Unary::Neg,
    Unary::Abs,
    Unary::Tanh,
    Unary::Sigmoid,
    Unary::Sin,
    Unary::Cos,
    Unary::Relu,
    Unary::Softplus,
    Unary::Erf,
    Unary::Atan,
];
const BINARY: [Binary; 8] =
    [Binary::Add, Binary::Sub, Binary::Mul, Binary::Max, Binary::Min, Binary::Lt, Binary::Ge, Binary::Atan2];

fn random_program(rng: &mut Rng, inputs: usize, params: usize, outputs: usize) -> Program {
    let mut b = Builder::new();
    let mut regs: Vec<u16> = (0..inputs).map(|i| b.input(i)).collect();
    regs.extend((0..params).map(|i| b.param(i)));
    regs.push(b.constant(0.75));
    for _ in 0..1 + rng.below(12) {
        let (x, y, z) = (rng.pick(&regs), rng.pick(&regs), rng.pick(&regs));
        regs.push(match rng.below(5) {
            0 | 1 => b.unary(rng.pick(&UNARY), x),
            2 | 3 => b.binary(rng.pick(&BINARY), x, y),
            _ => b.select(x, y, z),
        });
    }
    let outputs: Vec<u16> = (0..outputs).map(|_| regs[regs.len() - 1 - rng.below(3)]).collect();
    b.finish(&outputs, inputs, params)
}

/// Each output's values, number by number.
fn reference(program: &Program, params: &[f64], inputs: &[Vec<f64>], n: usize) -> Vec<Vec<f64>> {
    let mut outputs = vec![Vec::with_capacity(n); program.outputs().len()];
    let mut values: Vec<f64> = Vec::new();
    (0..n).for_each(|i| {
        values.clear();
        for node in program.nodes() {
            let at = |reg: u16| values[usize::from(reg)];
            values.push(match *node {
                Node::Input(j) => inputs[usize::from(j)][i],
                Node::Param(j) => params[usize::from(j)],
                Node::Const(c) => c,
                Node::Unary(f, a) => scalar::unary(f, at(a)),
                Node::Binary(f, a, b) => scalar::binary(f, at(a), at(b)),
                Node::Select(c, a, b) => at(if at(c) != 0.0 { a } else { b }),
            });
        }
        for (o, &reg) in outputs.iter_mut().zip(program.outputs()) {
            o.push(values[usize::from(reg)]);
        }
    });
    outputs
}

/// Sums over the dimensions in which the target is repeated.
fn sum_to(values: &[f64], shape: &Shape, target: &Shape) -> Vec<f64> {
    let layout = Layout::contiguous(*target).broadcast_to(shape).unwrap();
    let mut sums = vec![0.0; target.elements()];
    for (i, v) in values.iter().enumerate() {
        sums[layout.index_of(i)] += v;
    }
    sums
}

/// Comparisons and rounding to half types would make f32 and f64 take different branches, so
/// inputs are whole eighths, exact in every type.
fn exact(rng: &mut Rng, kind: Kind, dims: &[usize]) -> Tensor {
    let mut x = Tensor::random(rng, kind, dims);
    let values: Vec<f64> = x.data.values().iter().map(|v| (v * 8.0).round() / 8.0).collect();
    x.data = Data::new(kind, values.into_iter());
    x
}

#[test]
fn programs_agree_with_an_evaluation_number_by_number() {
    let mut rng = Rng(1);
    for round in 0..300 {
        // Every fourth one so small that it takes the path without a plan.
        let dims = if round % 4 == 0 { vec![2, 3, 4] } else { random_dims(&mut rng) };
        let shape = Shape::new(&dims);
        let (inputs, outputs) = (1 + rng.below(4), 1 + rng.below(3));
        let kinds: &[Kind] = match round % 3 {
            0 => &[Kind::F32],
            1 => &[Kind::F64],
            _ => &[Kind::F64, Kind::F32, Kind::F16, Kind::BF16, Kind::U8, Kind::I64, Kind::U32],
        };
        let program = random_program(&mut rng, inputs, 2, outputs);
        let params = [1.5, -0.5];
        let x: Vec<Tensor> = (0..inputs)
            .map(|_| {
                let kind = rng.pick(kinds);
                let dims = narrower(&mut rng, &dims);
                exact(&mut rng, kind, &dims)
            })
            .collect();
        let n = shape.elements();
        let values: Vec<Vec<f64>> = x.iter().map(|x| x.values_as(&shape)).collect();
        let expected = reference(&program, &params, &values, n);
        let views: Vec<View<'_>> = x.iter().map(Tensor::view).collect();

        let floats: Vec<Kind> = kinds.iter().copied().filter(|k| k.is_float()).collect();
        let mut y: Vec<Data> =
            (0..outputs).map(|_| Data::new(rng.pick(&floats), (0..n).map(|_| f64::NAN))).collect();
        let mut out: Vec<SliceMut<'_>> = y.iter_mut().map(Data::slice_mut).collect();
        run(&program, &params, &views, &shape, &mut out);
        for (y, e) in y.iter().zip(&expected) {
            assert_close(y, e, 50.0, &(&program, &x));
        }

        // A sum may be beyond f16.
        let wide: Vec<Kind> = floats.iter().copied().filter(|&k| k != Kind::F16).collect();
        let targets: Vec<Shape> = (0..outputs).map(|_| Shape::new(&narrower(&mut rng, &dims))).collect();
        let mut y: Vec<Data> =
            targets.iter().map(|t| Data::new(rng.pick(&wide), (0..t.elements()).map(|_| f64::NAN))).collect();
        let mut out: Vec<SliceMut<'_>> = y.iter_mut().map(Data::slice_mut).collect();
        run_reduced(&program, &params, &views, &shape, &mut out, &targets);
        for ((y, e), target) in y.iter().zip(&expected).zip(&targets) {
            // Each element's error is that of f32 (or less), and as many add up.
            let repeats = (n.max(1) / target.elements().max(1)) as f64;
            assert_close(y, &sum_to(e, &shape, target), 50.0 * repeats.max(1.0), &(&program, &targets));
        }
    }
}

/// The same expression, which code would not be made for.
#[cfg(feature = "jit")]
fn with_a_parameter(program: &Program) -> Program {
    let mut b = Builder::new();
    let xs: Vec<u16> = (0..program.inputs()).map(|i| b.input(i)).collect();
    let at = b.inline(program, &xs, &[]);
    let outputs: Vec<u16> = program.outputs().iter().map(|&reg| at[usize::from(reg)]).collect();
    b.finish(&outputs, program.inputs(), 1)
}

#[test]
#[cfg(feature = "jit")]
fn machine_code_gives_the_numbers_of_the_tiles() {
    let mut rng = Rng(11);
    for round in 0..60 {
        let dims = rng.pick(&[[41, 8, 173], [3, 40, 300], [1, 1, 40_001], [300, 129, 1]]);
        let shape = Shape::new(&dims);
        let (inputs, outputs) = (1 + rng.below(4), 1 + rng.below(3));
        let kinds: &[Kind] = if round % 2 == 0 { &[Kind::F32] } else { &[Kind::F32, Kind::F16, Kind::U8] };
        let program = random_program(&mut rng, inputs, 0, outputs);
        let tiles = with_a_parameter(&program);
        let x: Vec<Tensor> = (0..inputs)
            .map(|_| {
                let kind = rng.pick(kinds);
                let dims = narrower(&mut rng, &dims);
                exact(&mut rng, kind, &dims)
            })
            .collect();
        let views: Vec<View<'_>> = x.iter().map(Tensor::view).collect();
        let to: Vec<Kind> = (0..outputs).map(|_| rng.pick(kinds)).collect();
        let targets: Vec<Shape> = (0..outputs).map(|_| Shape::new(&narrower(&mut rng, &dims))).collect();
        let both = [&program, &tiles].map(|program| {
            let mut whole: Vec<Data> =
                to.iter().map(|&k| Data::new(k, (0..shape.elements()).map(|_| 7.0))).collect();
            let mut out: Vec<SliceMut<'_>> = whole.iter_mut().map(Data::slice_mut).collect();
            run(program, &[0.0], &views, &shape, &mut out);
            let mut summed: Vec<Data> =
                targets.iter().map(|t| Data::new(Kind::F32, (0..t.elements()).map(|_| 7.0))).collect();
            let mut out: Vec<SliceMut<'_>> = summed.iter_mut().map(Data::slice_mut).collect();
            run_reduced(program, &[0.0], &views, &shape, &mut out, &targets);
            whole.into_iter().chain(summed).map(|y| y.values()).collect::<Vec<_>>()
        });
        for (a, b) in both[0].iter().flatten().zip(both[1].iter().flatten()) {
            assert!(a == b || (a.is_nan() && b.is_nan()), "{a} and {b}: {program:?}");
        }
        assert_eq!(both[0].len(), 2 * outputs);
    }
}

#[test]
fn masks_are_one_where_the_value_is_not_zero() {
    let mut b = Builder::new();
    let x = b.input(0);
    let zero = b.constant(0.0);
    let above = b.binary(Binary::Gt, x, zero);
    let program = b.finish(&[above, x], 1, 0);
    let x = [-1.0f32, 0.0, 2.0, f32::NAN, 300.0, -0.0];
    let layout = Layout::contiguous(Shape::new(&[6]));
    let (mut masks, mut raw) = ([9u8; 6], [9u8; 6]);
    run(
        &program,
        &[],
        &[View { data: autograd_kernels::Slice::F32(&x), layout: &layout }],
        layout.shape(),
        &mut [SliceMut::U8(&mut masks), SliceMut::U8(&mut raw)],
    );
    assert_eq!(masks, [0, 0, 1, 0, 1, 0]);
    assert_eq!(raw, [1, 0, 1, 1, 1, 0]);
}

#[test]
fn results_are_equal_to_the_bit_for_one_two_and_three_threads() {
    let mut b = Builder::new();
    let (x, w) = (b.input(0), b.input(1));
    let p = b.binary(Binary::Mul, x, w);
    let t = b.unary(Unary::Tanh, p);
    let program = b.finish(&[t, t, t, t], 2, 0);
    let (m, n) = (700, 300);
    let mut rng = Rng(7);
    let x = Tensor::plain(Kind::F32, &[m, n], std::iter::repeat_with(|| rng.number()));
    let w = Tensor::plain(Kind::F32, &[n], (0..n).map(|i| i as f64 / 100.0));
    let shape = Shape::new(&[m, n]);
    let targets = [shape, Shape::new(&[n]), Shape::new(&[m, 1]), Shape::SCALAR];
    let results: Vec<Vec<Vec<f32>>> = [1, 2, 3]
        .into_iter()
        .map(|count| {
            threads::set_threads(count);
            let mut y: Vec<Vec<f32>> = targets.iter().map(|t| vec![0.0; t.elements()]).collect();
            let mut out: Vec<SliceMut<'_>> = y.iter_mut().map(|y| SliceMut::F32(y)).collect();
            run_reduced(&program, &[], &[x.view(), w.view()], &shape, &mut out, &targets);
            y
        })
        .collect();
    threads::set_threads(0);
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
}

#[test]
fn sums_of_a_million_keep_six_digits() {
    let mut b = Builder::new();
    let x = b.input(0);
    let program = b.finish(&[x], 1, 0);
    let n = 1 << 20;
    let x = Tensor::plain(Kind::F32, &[n], (0..n).map(|i| 0.1 + (i % 7) as f64));
    let mut y = [0f32];
    run_reduced(&program, &[], &[x.view()], x.layout.shape(), &mut [SliceMut::F32(&mut y)], &[Shape::SCALAR]);
    let exact: f64 = x.values().iter().sum();
    assert!((f64::from(y[0]) / exact - 1.0).abs() < 1e-6);
}

#[test]
#[should_panic(expected = "broadcasts to the shape")]
fn an_input_that_does_not_broadcast_is_refused() {
    let mut b = Builder::new();
    let x = b.input(0);
    let y = b.unary(Unary::Neg, x);
    let program = b.finish(&[y], 1, 0);
    let x = Tensor::plain(Kind::F32, &[2, 3], (0..6).map(f64::from));
    let shape = Shape::new(&[3, 2]);
    run(&program, &[], &[x.view()], &shape, &mut [SliceMut::F32(&mut [0.0; 6])]);
}

#[test]
#[should_panic(expected = "lies within its buffer")]
fn an_input_beyond_its_buffer_is_refused() {
    let mut b = Builder::new();
    let x = b.input(0);
    let y = b.unary(Unary::Neg, x);
    let program = b.finish(&[y], 1, 0);
    let layout = Layout::new(Shape::new(&[3]), &[2], 0);
    let x = View { data: autograd_kernels::Slice::F32(&[0.0; 4]), layout: &layout };
    run(&program, &[], &[x], layout.shape(), &mut [SliceMut::F32(&mut [0.0; 3])]);
}
