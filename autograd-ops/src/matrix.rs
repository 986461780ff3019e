//! Matrix products.

use crate::elsewhere;
use crate::numbers::sound;
use crate::operand::Operand;
use crate::registry::{Case, Family, Op, Sample};
use crate::shape::{squeeze, unsqueeze};
use autograd_core::algebra::{self, reshape, sum_to};
use autograd_core::device::{KernelCall, Tensors};
use autograd_core::kernels::machine::Epilogue;
use autograd_core::kernels::{Layout, View, matmul as kernel};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    At, DType, Error, Finishes, Grads, Mask, Meta, Prim, Primitive, Result, Rule, Saved, Shape, Signature,
    Site, SliceMut, TrackedTensor, Transpose, Values, apply_one, checked_shape, is_float,
};

/// a · b for matrices and batches of them, whose batch dimensions broadcast.
#[derive(Clone, Copy, Debug)]
pub struct MatMul;

/// The matrix product a · b.
///
/// | a | b | result |
/// |---|---|---|
/// | `[n]` | `[n]` | `[]` |
/// | `[m, k]` | `[k]` | `[m]` |
/// | `[k]` | `[k, n]` | `[n]` |
/// | [.., m, k] | [.., k, n] | [.., m, n], the batch dimensions broadcast |
///
/// # Errors
/// Inner extents that differ, batch dimensions that do not broadcast, operands without dimensions,
/// types or devices that differ.
#[track_caller]
pub fn matmul(a: &TrackedTensor, b: impl Into<Operand>) -> Result<TrackedTensor> {
    let b = b.into().value(a)?;
    sound(a)?;
    sound(&b)?;
    match (a.rank(), b.rank()) {
        (0, _) | (_, 0) => {
            let reason = "a factor without dimensions; use mul";
            Err(Error::shape("matmul", &[*a.shape(), *b.shape()], reason).or_at(Site::caller()))
        }
        (1, 1) => reshape(&matmul_of(&unsqueeze(a, 0)?, &unsqueeze(&b, 1)?)?, &Shape::SCALAR),
        (1, _) => squeeze(&matmul_of(&unsqueeze(a, 0)?, &b)?, -2),
        (_, 1) => squeeze(&matmul_of(a, &unsqueeze(&b, 1)?)?, -1),
        _ => matmul_of(a, &b),
    }
}

/// The matrix product of two values of rank 2 or more.
#[track_caller]
fn matmul_of(a: &TrackedTensor, b: &TrackedTensor) -> Result<TrackedTensor> {
    // One large product instead of a batch that shares its right factor: the factor's cotangent
    // is then a product too, without a sum over the batch.
    if let ([batch @ .., m, k], [l, n]) = (a.dims(), b.dims())
        && !batch.is_empty()
        && k == l
    {
        let rows = batch.iter().product::<usize>() * m;
        let flat = reshape(a, &checked_shape("matmul", &[rows, *k])?)?;
        let mut shape = *a.shape();
        shape.dims_mut()[batch.len() + 1] = *n;
        return reshape(&apply_one(&MatMul, &[&flat, b])?, &shape);
    }
    apply_one(&MatMul, &[a, b])
}

/// x of at least rank 2 with its last two dimensions exchanged, without copying.
#[track_caller]
pub(crate) fn turned(x: &TrackedTensor) -> Result<TrackedTensor> {
    algebra::transpose(x, x.rank() - 2, x.rank() - 1)
}

/// The broadcast batch dimensions of a product.
fn batch_of(a: &Shape, b: &Shape) -> Option<Shape> {
    let batch = |shape: &Shape| Shape::try_new(&shape.dims()[..shape.rank() - 2]);
    batch(a)?.broadcast(&batch(b)?)
}

/// `batch` with two more dimensions.
fn with_matrix(batch: Shape, rows: usize, columns: usize) -> Option<Shape> {
    batch.push(rows)?.push(columns)
}

fn product_shape(a: &Shape, b: &Shape) -> Result<Shape> {
    let fail = |reason: &str| Error::shape("matmul", &[*a, *b], reason);
    let ([.., m, k], [.., l, n]) = (a.dims(), b.dims()) else {
        return Err(fail("both factors need two dimensions or more"));
    };
    if k != l {
        return Err(fail("the last extent of the first is not the second last of the second"));
    }
    let batch = batch_of(a, b).ok_or_else(|| fail("the batch dimensions do not broadcast"))?;
    with_matrix(batch, *m, *n).ok_or_else(|| fail("too many dimensions"))
}

crate::saved::stored! {
    "matmul" => MatMul {}, |_, x| x.len() == 2;
}

/// The factors of a product with the batch dimensions of both.
fn alike_batches(a: &Layout, b: &Layout) -> Result<[Layout; 2]> {
    let broken = || Error::internal("matmul", "its shapes were not inferred");
    let batch = batch_of(a.shape(), b.shape()).ok_or_else(broken)?;
    let wide = |x: &Layout| -> Option<Layout> {
        let [.., rows, columns] = x.dims() else { return None };
        x.broadcast_to(&with_matrix(batch, *rows, *columns)?)
    };
    Ok([wide(a).ok_or_else(broken)?, wide(b).ok_or_else(broken)?])
}

impl Primitive for MatMul {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn keep(&self) -> Prim {
        Prim::Static(&Self)
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let (a, b) = (&inputs[0], &inputs[1]);
        if a.dtype != b.dtype {
            let dtypes = vec![a.dtype, b.dtype];
            return Err(Error::DTypeMismatch { op: "matmul", dtypes, at: At::default() });
        }
        if !is_float(a.dtype) {
            return Err(Error::dtype("matmul", a.dtype, "convert to a float type with to_dtype"));
        }
        Ok(Signature::one(a.with_shape(product_shape(&a.shape, &b.shape)?)))
    }

    // A product and a sum for each element of each inner product.
    fn operations(&self, inputs: &[Meta]) -> u64 {
        let inner = inputs[0].shape.dims().last().copied().unwrap_or(1);
        let out = product_shape(&inputs[0].shape, &inputs[1].shape).map_or(0, |shape| shape.elements());
        2 * inner as u64 * out as u64
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let [a, b] = alike_batches(inputs[0].layout, inputs[1].layout)?;
        let (a, b) = (View { data: inputs[0].data, layout: &a }, View { data: inputs[1].data, layout: &b });
        kernel::matmul(a, b, outputs[0].reborrow());
        Ok(())
    }

    fn finishes(&self, inputs: &[Meta]) -> Option<Finishes> {
        matches!(inputs[0].dtype, DType::F32 | DType::F64).then_some(Finishes::Once)
    }

    fn eval_then(&self, inputs: &[View<'_>], then: Epilogue<'_>) -> Result<()> {
        let [a, b] = alike_batches(inputs[0].layout, inputs[1].layout)?;
        let (a, b) = (View { data: inputs[0].data, layout: &a }, View { data: inputs[1].data, layout: &b });
        kernel::matmul_then(a, b, None, then);
        Ok(())
    }

    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        let (a, b) = (&inputs[0], &inputs[1]);
        if a.elem_count() == 0 || b.elem_count() == 0 {
            let shape = |x: &autograd_core::Tensor| checked_shape("matmul", x.dims());
            return elsewhere::one(elsewhere::zeros(&product_shape(&shape(a)?, &shape(b)?)?, a)?);
        }
        elsewhere::one(a.contiguous()?.broadcast_matmul(&b.contiguous()?)?)
    }

    fn kernel(&self) -> Option<KernelCall> {
        Some(KernelCall::new("matmul", &[], &[]))
    }

    fn rule(&self) -> Rule<'_> {
        Rule::Bilinear(0, 1, self)
    }

    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], _: usize) -> Result<Option<Values>> {
        if let Some(product) = matrix_by_columns(batched, inputs)? {
            return Ok(Some(smallvec![product]));
        }
        // The batch dimension goes in front of the broadcast batch dimensions of both.
        let rank = |i: usize| inputs[i].rank() - usize::from(batched.has(i));
        let widest = rank(0).max(rank(1));
        let mut aligned: SmallVec<[TrackedTensor; 2]> = SmallVec::new();
        for (i, x) in inputs.iter().enumerate() {
            aligned.push(if batched.has(i) && rank(i) < widest {
                let mut dims: SmallVec<[usize; 8]> = smallvec![x.dims()[0]];
                dims.resize(1 + widest - rank(i), 1);
                dims.extend_from_slice(&x.dims()[1..]);
                reshape(x, &checked_shape("matmul", &dims)?)?
            } else {
                (*x).clone()
            });
        }
        Ok(Some(smallvec![matmul_of(&aligned[0], &aligned[1])?]))
    }
}

/// One matrix times a batch of columns: one product instead of one a column.
fn matrix_by_columns(batched: Mask, inputs: &[&TrackedTensor]) -> Result<Option<TrackedTensor>> {
    let (a, x) = (inputs[0], inputs[1]);
    let (false, true, &[size, k, 1], &[m, l]) = (batched.has(0), batched.has(1), x.dims(), a.dims()) else {
        return Ok(None);
    };
    if k != l {
        return Ok(None);
    }
    let rows = reshape(x, &Shape::new(&[size, k]))?;
    let product = apply_one(&MatMul, &[&rows, &turned(a)?])?;
    Ok(Some(reshape(&product, &Shape::new(&[size, m, 1]))?))
}

/// Σ over the batch of ct · bᵀ as one product over all its columns, without the batch of
/// products.
fn summed_product(ct: &TrackedTensor, b: &TrackedTensor) -> Result<TrackedTensor> {
    // Both with the matrix's rows in front and everything else behind: [m, batch·n] · [batch·n, k].
    let flat = |x: &TrackedTensor| {
        let (rank, rows) = (x.rank(), x.dims()[x.rank() - 2]);
        let rest = (0..rank - 2).chain(std::iter::once(rank - 1));
        let order: SmallVec<[usize; 8]> = std::iter::once(rank - 2).chain(rest).collect();
        let columns = x.dims()[..rank - 2].iter().product::<usize>() * x.dims()[rank - 1];
        reshape(&algebra::permute(x, &order)?, &Shape::new(&[rows, columns]))
    };
    apply_one(&MatMul, &[&flat(ct)?, &turned(&flat(b)?)?])
}

impl Transpose for MatMul {
    // da = ct · bᵀ, db = aᵀ · ct, each summed over the batch dimensions in which it was repeated.
    fn transpose(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let mut grads: Grads = smallvec![None, None];
        let Some(ct) = &cts[0] else { return Ok(grads) };
        if wanted.has(0) {
            let b = saved.input(1)?;
            grads[0] = Some(match (saved.inputs[0].shape.rank(), b.rank()) {
                (2, 3..) => summed_product(ct, b)?,
                _ => {
                    let da = matmul_of(ct, &turned(b)?)?;
                    sum_to(&da, &saved.inputs[0].shape)?
                }
            });
        }
        if wanted.has(1) {
            let db = apply_one(&MatMul, &[&turned(saved.input(0)?)?, ct])?;
            grads[1] = Some(sum_to(&db, &saved.inputs[1].shape)?);
        }
        Ok(grads)
    }
}

/// The inner product Σᵢ xᵢ·yᵢ of two vectors.
///
/// # Errors
/// Operands that are not vectors of one length; types or devices that differ.
#[track_caller]
pub fn dot(x: &TrackedTensor, y: impl Into<Operand>) -> Result<TrackedTensor> {
    let y = y.into().value(x)?;
    of_ranks("dot", x, 1, &y, 1)?;
    matmul(x, y)
}

/// The product of a matrix and a vector.
///
/// # Errors
/// Operands that are not a matrix `[m, n]` and a vector `[n]`; types or devices that differ.
#[track_caller]
pub fn mv(x: &TrackedTensor, y: impl Into<Operand>) -> Result<TrackedTensor> {
    let y = y.into().value(x)?;
    of_ranks("mv", x, 2, &y, 1)?;
    matmul(x, y)
}

/// The outer product xᵢ·yⱼ of two vectors, [m, n].
///
/// # Errors
/// Operands that are not vectors; types or devices that differ.
#[track_caller]
pub fn outer(x: &TrackedTensor, y: impl Into<Operand>) -> Result<TrackedTensor> {
    let y = y.into().value(x)?;
    of_ranks("outer", x, 1, &y, 1)?;
    algebra::mul(&unsqueeze(x, 1)?, &unsqueeze(&y, 0)?)
}

#[track_caller]
fn of_ranks(
    op: &'static str,
    x: &TrackedTensor,
    rank_x: usize,
    y: &TrackedTensor,
    rank_y: usize,
) -> Result<()> {
    sound(x)?;
    sound(y)?;
    if x.rank() == rank_x && y.rank() == rank_y {
        return Ok(());
    }
    let reason = format!("ranks {rank_x} and {rank_y} are needed; matmul and mul take others");
    Err(Error::shape(op, &[*x.shape(), *y.shape()], reason).or_at(Site::caller()))
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Matrix, formula, cases };
    fn two(
        label: &str,
        a: &[usize],
        b: &[usize],
        run: impl Fn(&TrackedTensor, &TrackedTensor) -> Result<TrackedTensor> + Send + Sync + 'static,
    ) -> Case {
        Case::new(label, vec![Sample::float(a), Sample::float(b)], move |x| run(&x[0], &x[1]))
    }
    vec![
        op("matmul", "Σₖ aᵢₖ·bₖⱼ: vectors, matrices, batches that broadcast", || {
            let case = |label, a: &[usize], b: &[usize]| two(label, a, b, |x, y| matmul(x, y));
            vec![
                case("matrices", &[2, 3], &[3, 4]),
                case("vector · vector", &[3], &[3]),
                case("matrix · vector", &[2, 3], &[3]),
                case("vector · matrix", &[3], &[3, 2]),
                case("batches", &[2, 2, 3], &[2, 3, 2]),
                case("a batch · a matrix", &[2, 2, 3], &[3, 2]),
                case("a matrix · a batch", &[2, 3], &[2, 3, 2]),
                case("broadcast batches", &[2, 1, 2, 3], &[3, 3, 2]),
                case("a batch · a vector", &[2, 2, 3], &[3]),
                case("inner extent 1", &[2, 1], &[1, 3]),
                case("inner extent 0", &[2, 0], &[0, 3]),
                case("no rows", &[0, 3], &[3, 2]),
                Case::new("transposed views", vec![Sample::float(&[3, 2]), Sample::float(&[4, 3])], |x| {
                    matmul(&turned(&x[0])?, turned(&x[1])?)
                }),
            ]
        }),
        op("dot", "Σᵢ xᵢ·yᵢ", || vec![two("vectors", &[4], &[4], |x, y| dot(x, y))]),
        op("mv", "Σⱼ aᵢⱼ·xⱼ", || vec![two("matrix · vector", &[3, 2], &[2], |x, y| mv(x, y))]),
        op("outer", "xᵢ·yⱼ", || vec![two("vectors", &[3], &[2], |x, y| outer(x, y))]),
    ]
}

/// The methods of this file.
#[macro_export]
#[doc(hidden)]
macro_rules! matrix_methods {
    ($($callback:tt)*) => {
        $($callback)* {
            unary {}
            binary {
                /// The matrix product of vectors, matrices or batches of matrices, which broadcast.
                matmul = $crate::matrix::matmul;
                /// As `matmul`, under candle's name for broadcast batches.
                broadcast_matmul = $crate::matrix::matmul;
                /// The inner product of two vectors.
                dot = $crate::matrix::dot;
                /// The product of a matrix and a vector.
                mv = $crate::matrix::mv;
                /// The outer product of two vectors.
                outer = $crate::matrix::outer;
            }
            other {}
        }
    };
}
