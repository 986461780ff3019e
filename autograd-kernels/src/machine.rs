//! Evaluates expressions over tensors.

use crate::copy::{from_f64, to_f64};
use crate::expr::{Node, Program};
use crate::math::scalar;
use crate::{Layout, Shape, SliceMut, View};

fn evaluate(program: &Program, params: &[f64], inputs: &[View<'_>], shape: &Shape) -> Vec<Vec<f64>> {
    assert_eq!(inputs.len(), program.inputs(), "a program gets as many inputs as it reads");
    assert!(params.len() >= program.params(), "a program gets all its parameters");
    let inputs: Vec<Vec<f64>> = inputs
        .iter()
        .map(|x| {
            let layout = x.layout.broadcast_to(shape).expect("every input broadcasts to the shape");
            to_f64(View { data: x.data, layout: &layout })
        })
        .collect();
    let n = shape.elements();
    let mut outputs = vec![vec![0.0; n]; program.outputs().len()];
    let mut values = vec![0.0; program.nodes().len()];
    for i in 0..n {
        for (k, node) in program.nodes().iter().enumerate() {
            values[k] = match *node {
                Node::Input(j) => inputs[usize::from(j)][i],
                Node::Param(j) => params[usize::from(j)],
                Node::Const(c) => c,
                Node::Unary(f, a) => scalar::unary(f, values[a as usize]),
                Node::Binary(f, a, b) => scalar::binary(f, values[a as usize], values[b as usize]),
                Node::Select(c, a, b) => values[if values[c as usize] != 0.0 { a } else { b } as usize],
            };
        }
        for (o, &reg) in outputs.iter_mut().zip(program.outputs()) {
            o[i] = values[reg as usize];
        }
    }
    outputs
}

fn store(values: &mut [f64], out: SliceMut<'_>) {
    if out.kind() == crate::Kind::U8 {
        values.iter_mut().for_each(|v| *v = f64::from(u8::from(*v != 0.0)));
    }
    from_f64(values, out);
}

/// Evaluates `program` for each element of `shape`, to which every input broadcasts.
pub fn run(
    program: &Program,
    params: &[f64],
    inputs: &[View<'_>],
    shape: &Shape,
    outputs: &mut [SliceMut<'_>],
) {
    let targets = vec![*shape; outputs.len()];
    run_reduced(program, params, inputs, shape, outputs, &targets);
}

/// Like [`run`], and output i is summed over the dimensions in which `targets[i]`, which
/// broadcasts to `shape`, is repeated.
pub fn run_reduced(
    program: &Program,
    params: &[f64],
    inputs: &[View<'_>],
    shape: &Shape,
    outputs: &mut [SliceMut<'_>],
    targets: &[Shape],
) {
    assert_eq!(outputs.len(), program.outputs().len(), "a program writes all its outputs");
    assert_eq!(outputs.len(), targets.len(), "each output has a target shape");
    let results = evaluate(program, params, inputs, shape);
    for ((values, out), target) in results.iter().zip(outputs).zip(targets) {
        let layout =
            Layout::contiguous(*target).broadcast_to(shape).expect("a target broadcasts to the shape");
        let mut sums = vec![0.0; target.elements()];
        layout.for_each_run(|first, at, len, stride| {
            for i in 0..len {
                sums[at + i * stride] += values[first + i];
            }
        });
        if target.elements() == shape.elements() {
            sums.copy_from_slice(values);
        }
        store(&mut sums, out.reborrow());
    }
}
