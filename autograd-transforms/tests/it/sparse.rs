//! Structure against the numbers of dense Jacobians, values against all of them.

use crate::dense::{distance, gradient, hessian, jacobian, normal};
use autograd_core::{CustomOp, Error, Result, Tensor, TrackedTensor, custom};
use autograd_ops::TensorAutograd;
use autograd_tape::GradientTape;
use autograd_transforms::sparse::{
    Compression, CsrMatrix, SparseHessian, SparseJacobian, SparsityPattern, hessian_sparsity,
    jacobian_sparsity, sparse_hessian, sparse_jacobian,
};

/// The same sums in another order.
const ROUNDING: f64 = 1e-12;

/// Every entry that is not zero is in the structure, `nnz` entries are, and the values of both
/// compressions are those of the dense Jacobian.
fn check(
    name: &str,
    dims: &[usize],
    nnz: usize,
    f: impl Fn(&TrackedTensor) -> Result<TrackedTensor>,
) -> Result<()> {
    let x = normal(7, dims)?.mul(0.5)?.add(1.5)?;
    let dense = jacobian(&f, &x)?;
    let pattern = jacobian_sparsity(&f, &x)?;
    assert_eq!((pattern.rows(), pattern.columns()), (dense.len(), x.elem_count()), "{name}");
    for (i, row) in dense.iter().enumerate() {
        for (j, value) in row.iter().enumerate() {
            let inside = pattern.row(i).contains(&(j as u32));
            assert!(*value == 0.0 || inside, "{name}: ({i}, {j}) = {value} is not in the structure");
        }
    }
    assert_eq!(pattern.nnz(), nnz, "{name}: {:?}", pattern.column_indices());
    for compression in [Compression::Forward, Compression::Reverse] {
        let plan = SparseJacobian::with_compression(pattern.clone(), compression);
        let found = plan.evaluate(&f, &x)?.to_dense()?.to_flat::<f64>()?;
        let distance = distance(&found, &dense.concat());
        assert!(distance < ROUNDING, "{name} {compression:?}: {distance:e}");
    }
    Ok(())
}

#[test]
fn structures_are_those_of_the_dense_jacobians() -> Result<()> {
    check("pointwise", &[5], 5, |x| x.sin()?.mul(x)?.exp())?;
    check("broadcast", &[2, 3], 6, |x| x.mul(&normal(1, &[3])?))?;
    check("outer sum", &[3], 3 + 6 * 2, |x| x.unsqueeze(0)?.add(&x.unsqueeze(1)?))?;
    // Pairs of neighbours, and the last element everywhere: one row has it already.
    check("differences", &[6], 14, |x| {
        let (left, right) = (x.narrow(0, 0, 5)?, x.narrow(0, 1, 5)?);
        left.sqr()?.add(&right)?.mul(&left)?.roll(2, 0)?.broadcast_add(&x.narrow(0, 5, 1)?)
    })?;
    check("transposed", &[2, 3], 6, |x| x.t()?.reshape(6)?.sqr())?;
    check("selected", &[5], 4, |x| {
        x.index_select(TrackedTensor::from_vec(vec![4i64, 0, 0, 2], &[4])?, 0)?.sqr()
    })?;
    check("added up", &[4], 4, |x| {
        let zero = TrackedTensor::from_vec(vec![0f64; 3], &[3])?;
        zero.index_add(TrackedTensor::from_vec(vec![2i64, 0, 0, 2], &[4])?, x, 0)
    })?;
    check("joined", &[3], 6, |x| TrackedTensor::cat(&[x.clone(), x.sqr()?], 0))?;
    check("row sums", &[3, 4], 12, |x| x.sum_dim(1))?;
    check("column means", &[3, 4], 12, |x| x.mean_dim(0))?;
    check("softmax of rows", &[3, 4], 48, |x| x.softmax(1))?;
    check("softmax of columns", &[3, 4], 36, |x| x.softmax(0))?;
    check("running sums", &[4], 10, |x| x.cumsum(0))?;
    check("running products", &[4], 10, |x| x.cumprod(0))?;
    check("centred", &[4], 16, |x| x.broadcast_sub(&x.mean()?))?;
    check("a scalar input", &[], 3, |x| x.broadcast_as(3)?.mul(2.0)?.exp())?;
    check("steps alone", &[4], 0, |x| x.floor())?;
    check("a kink", &[4], 4, |x| x.sub(1.5)?.relu())?;
    check("no rows", &[4], 0, |x| x.narrow(0, 0, 0))
}

#[test]
fn contractions_read_rows_columns_and_windows() -> Result<()> {
    check("a constant matrix", &[3], 6, |x| normal(1, &[2, 3])?.mv(x))?;
    check("matrices from the left", &[3, 4], 6 * 4, |x| x.matmul(&normal(1, &[4, 2])?))?;
    check("matrices from the right", &[3, 4], 8 * 3, |x| normal(1, &[2, 3])?.matmul(x))?;
    check("a square", &[3, 3], 9 * 5, |x| x.matmul(x))?;
    // Each of the eight outputs of a channel of two reads windows of three, less at the edges.
    check("a row of windows", &[1, 2, 8], 2 * 2 * 22, |x| x.conv1d(&normal(1, &[2, 2, 3])?, 1, 1, 1, 1))?;
    check("windows", &[1, 1, 5, 6], 13 * 16, |x| x.conv2d(&normal(1, &[1, 1, 3, 3])?, 1, 1, 1, 1))?;
    check("strides", &[1, 1, 6, 6], 4 * 9, |x| x.conv2d(&normal(1, &[1, 1, 3, 3])?, 0, 3, 1, 1))?;
    check("pools", &[1, 1, 4, 4], 16, |x| x.avg_pool2d(2))
}

/// The explicit step of a heat equation whose conductivity depends on the temperature.
fn heat(u: &TrackedTensor) -> Result<TrackedTensor> {
    let n = u.elem_count();
    let conductivity = u.sqr()?.add(1.0)?;
    let between = conductivity.narrow(0, 0, n - 1)?.add(&conductivity.narrow(0, 1, n - 1)?)?.mul(0.5)?;
    let flux = u.narrow(0, 1, n - 1)?.sub(&u.narrow(0, 0, n - 1)?)?.mul(&between)?;
    let inner = flux.narrow(0, 1, n - 2)?.sub(&flux.narrow(0, 0, n - 2)?)?;
    let step = u.narrow(0, 1, n - 2)?.add(&inner.mul(0.1)?)?;
    TrackedTensor::cat(&[u.narrow(0, 0, 1)?, step, u.narrow(0, n - 1, 1)?], 0)
}

#[test]
fn a_stencil_takes_three_colours_whatever_its_size() -> Result<()> {
    for n in [10, 5000] {
        let u = normal(3, &[n])?;
        let plan = SparseJacobian::detect(heat, &u)?;
        assert_eq!((plan.colours(), plan.pattern().nnz()), (3, 3 * (n - 2) + 2));
        let found = plan.evaluate(heat, &u)?;
        if n == 10 {
            let dense = jacobian(heat, &u)?.concat();
            assert!(distance(&found.to_dense()?.to_flat::<f64>()?, &dense) < ROUNDING);
        }
        // The plan serves other points.
        let other = normal(4, &[n])?;
        let again = plan.evaluate(heat, &other)?;
        assert_ne!(again.values().to_vec1::<f64>()?, found.values().to_vec1::<f64>()?);
        let v = normal(5, &[n])?;
        let (_, product) = autograd_forward::jvp(heat, &other, &v)?;
        use autograd_transforms::operators::LinearOperator;
        let error = distance(&again.matvec(&v)?.to_vec1::<f64>()?, &product.to_vec1::<f64>()?);
        assert!(error < ROUNDING, "{error:e}");
    }
    Ok(())
}

/// Rosenbrock's function.
fn rosenbrock(x: &TrackedTensor) -> Result<TrackedTensor> {
    let n = x.elem_count();
    let (a, b) = (x.narrow(0, 0, n - 1)?, x.narrow(0, 1, n - 1)?);
    b.sub(&a.sqr()?)?.sqr()?.mul(100.0)?.add(&a.neg()?.add(1.0)?.sqr()?)?.sum()
}

#[test]
fn hessians_are_those_of_the_dense_oracle() -> Result<()> {
    let x = normal(1, &[8])?;
    let plan = SparseHessian::detect(rosenbrock, &x)?;
    assert_eq!((plan.colours(), plan.pattern().nnz()), (3, 22));
    let close = |found: CsrMatrix, dense: Vec<Vec<f64>>| -> Result<()> {
        let dense = dense.concat();
        let size = dense.iter().fold(1.0, |a: f64, b| a.max(b.abs()));
        assert!(distance(&found.to_dense()?.to_flat::<f64>()?, &dense) < ROUNDING * size);
        Ok(())
    };
    close(plan.evaluate(rosenbrock, &x)?, hessian(rosenbrock, &x)?)?;
    // An arrow: full rows would need n colours by columns; a star needs two.
    let arrow = |x: &TrackedTensor| x.narrow(0, 0, 1)?.broadcast_mul(&x.sin()?)?.sum();
    let plan = SparseHessian::detect(arrow, &x)?;
    assert_eq!(plan.colours(), 2);
    close(plan.evaluate(arrow, &x)?, hessian(arrow, &x)?)?;
    // Products of neighbours on a grid: what is linear in each other leaves no diagonal.
    let grid = |x: &TrackedTensor| {
        let down = x.narrow(0, 0, 3)?.mul(&x.narrow(0, 1, 3)?)?.sum()?;
        down.add(&x.narrow(1, 0, 4)?.mul(&x.narrow(1, 1, 4)?.exp()?)?.sum()?)
    };
    let x = normal(2, &[4, 5])?;
    close(sparse_hessian(grid, &x)?, hessian(grid, &x)?)?;
    assert_eq!(hessian_sparsity(|x| x.mul(3.0)?.sum(), &x)?.nnz(), 0, "a linear function");
    // A softmax cross-entropy is block diagonal.
    let rows = |x: &TrackedTensor| x.logsumexp(1)?.sum();
    assert_eq!(hessian_sparsity(rows, &x)?.nnz(), 4 * 25);
    close(sparse_hessian(rows, &x)?, hessian(rows, &x)?)
}

#[test]
fn values_can_be_differentiated_again() -> Result<()> {
    // d/dx Σ J² for J the Jacobian of x³ is 36x³.
    let x = TrackedTensor::from_vec(vec![1f64, 2., 3.], &[3])?;
    let plan = SparseJacobian::detect(|x| x.powf(3.), &x)?;
    let squares = |x: &TrackedTensor| plan.evaluate(|x| x.powf(3.), x)?.values().sqr()?.sum();
    assert!(distance(&gradient(squares, &x)?.to_vec1::<f64>()?, &[36., 288., 972.]) < 1e-9);
    // A structure found under a tape is the same.
    let tape = GradientTape::new();
    let watched = tape.variable(&x);
    assert_eq!(&jacobian_sparsity(|x| x.powf(3.), &watched)?, plan.pattern());
    Ok(())
}

#[test]
fn other_float_types_have_the_same_structure() -> Result<()> {
    for dtype in [candle_core::DType::F32, candle_core::DType::BF16] {
        let u = normal(3, &[400])?.to_dtype(dtype)?;
        assert_eq!(jacobian_sparsity(heat, &u)?.nnz(), 3 * 398 + 2, "{dtype:?}");
        let converted = |u: &TrackedTensor| u.to_dtype(candle_core::DType::F64)?.sqr();
        assert_eq!(jacobian_sparsity(converted, &u)?.nnz(), 400, "{dtype:?}");
    }
    let found = sparse_jacobian(heat, &normal(3, &[20])?.to_dtype(candle_core::DType::F32)?)?;
    assert_eq!(found.values().dtype(), candle_core::DType::F32);
    Ok(())
}

/// An op that nothing is known of.
struct Reversed;

impl CustomOp for Reversed {
    fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        Ok(inputs[0].affine(-1.0, 0.0)?)
    }
    fn backward(&self, ct: &Tensor, _: &[&Tensor]) -> Result<Vec<Tensor>> {
        Ok(vec![ct.affine(-1.0, 0.0)?])
    }
}

#[test]
fn an_op_that_cannot_be_looked_into_counts_as_dense() -> Result<()> {
    let x = normal(1, &[4])?;
    assert_eq!(jacobian_sparsity(|x| custom(&Reversed, &[x]), &x)?.nnz(), 16);
    Ok(())
}

#[test]
fn bad_input_is_a_typed_error() -> Result<()> {
    let x = normal(1, &[4])?;
    let whole = TrackedTensor::from_vec(vec![1i64, 2], &[2])?;
    let fails = |result: Result<SparsityPattern>| result.expect_err("it must fail");
    assert!(matches!(fails(jacobian_sparsity(|x| x.sqr(), &whole)), Error::NotDifferentiable { .. }));
    assert!(matches!(fails(hessian_sparsity(|x| x.sqr(), &x)), Error::NonScalarTarget { .. }));
    let plan = SparseJacobian::detect(|x| x.sqr(), &x)?;
    for error in [
        plan.evaluate(|x| x.sqr(), &normal(1, &[5])?).expect_err("five elements for four columns"),
        plan.evaluate(|x| x.narrow(0, 0, 2), &x).expect_err("two elements for four rows"),
        CsrMatrix::new(plan.pattern().clone(), normal(1, &[3])?).expect_err("three values for four entries"),
    ] {
        assert!(matches!(error, Error::Shape { .. }) && error.site().is_some(), "{error}");
    }
    let empty = TrackedTensor::from_vec(Vec::<f64>::new(), &[0])?;
    let nothing = sparse_jacobian(|x| x.sqr(), &empty)?;
    assert_eq!((nothing.pattern().rows(), nothing.pattern().nnz()), (0, 0));
    Ok(())
}

#[cfg(feature = "sprs")]
#[test]
fn matrices_go_to_sprs() -> Result<()> {
    use autograd_transforms::operators::LinearOperator;
    let u = normal(3, &[30])?;
    let found = sparse_jacobian(heat, &u)?;
    let matrix = found.to_sprs::<f64>()?;
    assert_eq!((matrix.rows(), matrix.cols(), matrix.nnz()), (30, 30, 3 * 28 + 2));
    let v = normal(4, &[30])?;
    let mut product = vec![0.0; 30];
    let x = v.to_vec1::<f64>()?;
    sprs::prod::mul_acc_mat_vec_csr(matrix.view(), x.as_slice(), product.as_mut_slice());
    assert!(distance(&product, &found.matvec(&v)?.to_vec1::<f64>()?) < ROUNDING);
    Ok(())
}
