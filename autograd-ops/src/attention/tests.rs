//! Blocks, residuals, rows that see nothing, and errors of attention.

use super::*;
use crate::batched::{assert_equals_loop, numbers};
use autograd_tape::GradientTape;

// PyTorch's flash attention keeps q, k, v, the output and log Σ exp.
#[test]
fn no_matrix_of_weights_is_kept() {
    let tape = GradientTape::new();
    let [q, k, v] = [0.3, 0.5, 0.7].map(|s| tape.variable(numbers(&[2, 3, 50, 4], s)));
    let _y = scaled_dot_product_attention(&q, &k, &v, None, true, None).unwrap();
    let kept: usize = tape.nodes().iter().map(|node| node.kept_bytes).sum();
    assert_eq!(kept / 8, 4 * 1200 + 300);
}

#[test]
fn a_query_that_sees_no_key_gives_zero_and_no_gradient() {
    let tape = GradientTape::new();
    let [q, k, v] = [0.3, 0.5, 0.7].map(|s| tape.variable(numbers(&[2, 3], s)));
    let mask = TrackedTensor::from_vec(vec![0u8, 0, 1, 0], &[2, 2]).unwrap();
    let y = scaled_dot_product_attention(&q, &k, &v, Some(&mask), false, None).unwrap();
    let ones = algebra::ones_like(&y).unwrap();
    let (values, want) = (y.to_vec2::<f64>().unwrap(), v.to_vec2::<f64>().unwrap());
    assert_eq!(values[0], [0.0; 3]);
    assert!(values[1].iter().zip(&want[0]).all(|(a, b)| (a - b).abs() < 1e-12));
    let grads = tape.gradient_with(&[&y], &[&ones], &[&q, &k, &v]).unwrap();
    assert_eq!(grads[0].to_flat::<f64>().unwrap(), [0.0; 6]);
    assert_eq!(grads[2].to_vec2::<f64>().unwrap(), [[1.0; 3], [0.0; 3]]);
}

#[test]
fn rule_and_reverse_rule_batch_in_every_argument() {
    let (q, k, v, m): (&[usize], &[usize], &[usize], &[usize]) =
        (&[2, 2, 3, 2], &[2, 4, 2], &[2, 4, 3], &[2, 1, 3, 4]);
    let attend = Attend { scale: 0.7, causal: true, masked: true };
    assert_equals_loop(&attend, &[q, k, v, m]);
    // The output is an input like any other here: the rule holds for whatever it is.
    let grad = AttendGrad { attend, wanted: Mask::first(4), hinted: false };
    assert_equals_loop(&grad, &[&[2, 2, 3, 3], &[2, 2, 3, 3], q, k, v, m]);
}

// More rows than a block has, and more than one block.
#[test]
fn blocks_agree_with_the_decomposition() {
    let [q, k, v] = [0.3, 0.5, 0.7].map(|s| numbers(&[1, 150, 5], s));
    for causal in [false, true] {
        let op = Attend { scale: 0.4, causal, masked: false };
        let run = |q: &TrackedTensor, fused: bool| {
            let tape = GradientTape::new();
            let vars = [q, &k, &v].map(|x| tape.variable(x));
            let q4 = reshape(&vars[0], &Shape::new(&[1, 1, 150, 5])).unwrap();
            let inputs = [&q4, &vars[1], &vars[2]];
            let y = match fused {
                true => apply_one(&op, &inputs).unwrap(),
                false => op.decompose(&inputs).unwrap().unwrap()[0].clone(),
            };
            let ct = numbers(&[1, 1, 150, 5], 0.9);
            let grads = tape.gradient_with(&[&y], &[&ct], &[&vars[0], &vars[1], &vars[2]]).unwrap();
            let mut all = y.to_flat::<f64>().unwrap();
            grads.iter().for_each(|g| all.extend(g.to_flat::<f64>().unwrap()));
            all
        };
        let (a, b) = (run(&q, true), run(&q, false));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-12));
    }
}

#[test]
fn half_types_compute_in_f32() {
    let [q, k, v] = [0.3, 0.5, 0.7].map(|s| numbers(&[2, 8, 4], s));
    let run = |dtype: DType| {
        let cast = |x: &TrackedTensor| algebra::cast(x, dtype).unwrap();
        let y = scaled_dot_product_attention(&cast(&q), &cast(&k), &cast(&v), None, true, None).unwrap();
        algebra::cast(&y, DType::F64).unwrap().to_flat::<f64>().unwrap()
    };
    let want = run(DType::F64);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        assert!(run(dtype).iter().zip(&want).all(|(a, b)| (a - b).abs() < 0.02));
    }
}

#[test]
fn what_does_not_fit_is_a_typed_error() {
    let attend = |q: &[usize], k: &[usize], v: &[usize], mask: Option<&[usize]>| {
        let mask = mask.map(|m| numbers(m, 0.1));
        let [q, k, v] = [q, k, v].map(|d| numbers(d, 0.3));
        scaled_dot_product_attention(&q, &k, &v, mask.as_ref(), false, None)
    };
    let is_shape = |r: Result<TrackedTensor>| matches!(r, Err(Error::Shape { .. }));
    assert!(is_shape(attend(&[3, 2], &[4, 3], &[4, 2], None)));
    assert!(is_shape(attend(&[3, 2, 2], &[2, 4, 2], &[2, 4, 2], None)));
    assert!(is_shape(attend(&[2], &[4, 2], &[4, 2], None)));
    assert!(is_shape(attend(&[2, 3, 2], &[2, 4, 2], &[2, 4, 2], Some(&[3, 3]))));
    assert!(is_shape(attend(&[2, 3, 2], &[2, 4, 2], &[2, 4, 2], Some(&[1, 2, 3, 4]))));
}
