//! For tests: batch rules of single primitives against a loop, also of those that only reverse
//! rules apply and that the harness therefore meets in passing.

use autograd_core::algebra::{narrow, reshape};
use autograd_core::{Mask, Primitive, Shape, TrackedTensor, apply};

/// Numbers of a shape, from a seed.
pub(crate) fn numbers(dims: &[usize], seed: f64) -> TrackedTensor {
    let n: usize = dims.iter().product();
    let data: Vec<f64> = (0..n).map(|i| ((i as f64 + 1.0) * seed).sin()).collect();
    TrackedTensor::from_vec(data, dims).expect("the number of elements is the shape's")
}

/// Asserts that the op's batch rule gives what a loop over the batch gives, whichever of its
/// inputs (of these shapes) carry the batch.
pub(crate) fn assert_equals_loop(op: &dyn Primitive, shapes: &[&[usize]]) {
    const SIZE: usize = 3;
    for bits in 1u32..1 << shapes.len() {
        let batched = Mask::of(shapes.len(), |i| bits >> i & 1 == 1);
        let inputs: Vec<TrackedTensor> = shapes
            .iter()
            .enumerate()
            .map(|(i, dims)| {
                let dims: Vec<usize> =
                    batched.has(i).then_some(SIZE).into_iter().chain(dims.iter().copied()).collect();
                numbers(&dims, 0.37 + 0.23 * i as f64)
            })
            .collect();
        let refs: Vec<&TrackedTensor> = inputs.iter().collect();
        let whole = op.batch(batched, &refs, SIZE).expect("the rule runs").expect("there is a rule");
        for at in 0..SIZE {
            let parts: Vec<TrackedTensor> = inputs
                .iter()
                .zip(shapes)
                .enumerate()
                .map(|(i, (x, dims))| if batched.has(i) { element(x, at, dims) } else { x.clone() })
                .collect();
            let want = apply(op, &parts.iter().collect::<Vec<_>>()).expect("the op runs");
            for (whole, want) in whole.iter().zip(&want) {
                let got = element(whole, at, want.dims()).to_flat::<f64>().expect("it is f64");
                let want = want.to_flat::<f64>().expect("it is f64");
                let close = got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-12 * b.abs().max(1.0));
                assert!(close, "{op:?} with {batched:?} batched: {got:?} and {want:?}");
            }
        }
    }
}

fn element(x: &TrackedTensor, at: usize, dims: &[usize]) -> TrackedTensor {
    let part = narrow(x, 0, at, 1).expect("it is there");
    reshape(&part, &Shape::new(dims)).expect("one element of the batch")
}
