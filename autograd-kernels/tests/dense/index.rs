//! Selection, gather and scatter.

use crate::support::{Number, Random, Tensor, assert_close, same_for_any_threads};
use autograd_kernels::index::{check_indices, gather, index_add, index_select, scatter, scatter_add};
use autograd_kernels::{Element, Layout, MAX_RANK, Shape, Slice, SliceMut, View, bf16};

/// Coordinates of position `at` of a shape.
fn coordinates(shape: &[usize], mut at: usize) -> [usize; MAX_RANK] {
    let mut out = [0; MAX_RANK];
    for d in (0..shape.len()).rev() {
        out[d] = at % shape[d];
        at /= shape[d];
    }
    out
}

fn position(shape: &[usize], at: &[usize]) -> usize {
    shape.iter().zip(at).fold(0, |sum, (dim, at)| sum * dim + at)
}

/// The position in `large` that position `p` of `small` meets, with `index` along `dim`.
fn meets(large: &[usize], small: &[usize], dim: usize, p: usize, index: usize) -> usize {
    let mut at = coordinates(small, p);
    at[dim] = index;
    position(large, &at[..large.len()])
}

/// Random indices below `bound` in each of the index types, with their values.
fn random_indices(count: usize, bound: usize, random: &mut Random) -> Vec<usize> {
    (0..count).map(|_| random.below(bound)).collect()
}

fn with_each_type(values: &[usize], dims: &[usize], mut f: impl FnMut(View<'_>)) {
    let layout = Layout::contiguous(Shape::new(dims));
    let data: Vec<i64> = values.iter().map(|&v| v as i64).collect();
    f(View { data: Slice::I64(&data), layout: &layout });
    let data: Vec<u32> = values.iter().map(|&v| v as u32).collect();
    f(View { data: Slice::U32(&data), layout: &layout });
    if let Ok(data) = values.iter().map(|&v| u8::try_from(v)).collect::<Result<Vec<u8>, _>>() {
        f(View { data: Slice::U8(&data), layout: &layout });
    }
}

const SHAPES: &[&[usize]] = &[&[7], &[5, 6], &[3, 4, 5], &[2, 3, 4, 3], &[40, 300], &[300, 40]];

fn along<T: Number>(make: fn(&[usize], &mut Random) -> Tensor<T>) {
    let mut random = Random::new(1);
    for &dims in SHAPES.iter().filter(|dims| dims.len() > 1) {
        for dim in 0..dims.len() {
            for count in [0, 1, 9] {
                let values = random_indices(count, dims[dim], &mut random);
                let mut small = dims.to_vec();
                small[dim] = count;
                let len = small.iter().product::<usize>();
                let (x, src) = (make(dims, &mut random), make(&small, &mut random));
                let start = Tensor::<T>::random(dims, &mut random);
                let (vx, vs) = (x.values(), src.values());
                let meet = |p: usize| meets(dims, &small, dim, p, values[coordinates(&small, p)[dim]]);
                let want: Vec<f64> = (0..len).map(|p| vx[meet(p)]).collect();
                let mut sum = start.values();
                for p in 0..len {
                    sum[meet(p)] += vs[p];
                }
                with_each_type(&values, &[count], |indices| {
                    let mut out = vec![T::of(f64::NAN); len];
                    index_select(x.view(), dim, indices, T::slice_mut(&mut out));
                    assert_close(&out, &want, 0.0, "index_select");
                    let mut out = start.data.clone();
                    let shape = Shape::new(dims);
                    index_add(T::slice_mut(&mut out), &shape, dim, indices, src.view());
                    assert_close(&out, &sum, 10.0, "index_add");
                });
            }
        }
    }
}

#[test]
fn selection_and_its_transpose() {
    along::<f32>(Tensor::random);
    along::<f64>(Tensor::transposed);
    along::<f32>(Tensor::spread);
    along::<bf16>(Tensor::random);
}

fn at_positions<T: Number>(make: fn(&[usize], &mut Random) -> Tensor<T>) {
    let mut random = Random::new(2);
    for &dims in SHAPES {
        for dim in 0..dims.len() {
            for shrink in [0, 1] {
                // The indices may be smaller than the tensor, and longer along `dim`.
                let mut small: Vec<usize> = dims.iter().map(|d| d - shrink).collect();
                small[dim] = dims[dim] + 1 - shrink;
                let len = small.iter().product::<usize>();
                let values = random_indices(len, dims[dim], &mut random);
                let (x, src) =
                    (make_or_plain(make, dims, &mut random), Tensor::<T>::random(&small, &mut random));
                let start = Tensor::<T>::random(dims, &mut random);
                let (vx, vs) = (x.values(), src.values());
                let meet = |p: usize| meets(dims, &small, dim, p, values[p]);
                let want: Vec<f64> = (0..len).map(|p| vx[meet(p)]).collect();
                let (mut sum, mut last) = (start.values(), start.values());
                for p in 0..len {
                    sum[meet(p)] += vs[p];
                    last[meet(p)] = vs[p];
                }
                let shape = Shape::new(dims);
                let check = |indices: View<'_>| {
                    let mut out = vec![T::of(f64::NAN); len];
                    gather(x.view(), dim, indices, T::slice_mut(&mut out));
                    assert_close(&out, &want, 0.0, "gather");
                    let mut out = start.data.clone();
                    scatter_add(T::slice_mut(&mut out), &shape, dim, indices, src.view());
                    assert_close(&out, &sum, 10.0, "scatter_add");
                    let mut out = start.data.clone();
                    scatter(T::slice_mut(&mut out), &shape, dim, indices, src.view());
                    assert_close(&out, &last, 0.0, "scatter");
                };
                with_each_type(&values, &small, check);
            }
        }
    }
}

fn make_or_plain<T: Number>(
    make: fn(&[usize], &mut Random) -> Tensor<T>,
    dims: &[usize],
    random: &mut Random,
) -> Tensor<T> {
    if dims.len() < 2 { Tensor::random(dims, random) } else { make(dims, random) }
}

#[test]
fn gather_and_scatter() {
    at_positions::<f32>(Tensor::random);
    at_positions::<f64>(Tensor::transposed);
    at_positions::<bf16>(Tensor::spread);
}

#[test]
fn indices_may_be_repeated_by_stride_zero() {
    let mut random = Random::new(3);
    let x = Tensor::<f32>::random(&[4, 5], &mut random);
    let one = [2u32, 0, 1];
    let layout = Layout::contiguous(Shape::new(&[3, 1])).broadcast_to(&Shape::new(&[3, 5])).unwrap();
    let indices = View { data: Slice::U32(&one), layout: &layout };
    let mut out = [0f32; 15];
    gather(x.view(), 0, indices, SliceMut::F32(&mut out));
    assert_eq!(out, [&x.data[10..15], &x.data[..10]].concat()[..]);
}

#[test]
fn whole_numbers_are_moved_and_added() {
    let indices = [1u32, 1, 0];
    let layout = Layout::contiguous(Shape::new(&[3]));
    let indices = View { data: Slice::U32(&indices), layout: &layout };
    let src = [10i64, 20, 30];
    let src = View { data: i64::slice(&src), layout: &layout };
    let (mut out, shape) = ([1i64, 2], Shape::new(&[2]));
    index_add(SliceMut::I64(&mut out), &shape, 0, indices, src);
    assert_eq!(out, [31, 32]);
    scatter(SliceMut::I64(&mut out), &shape, 0, indices, src);
    assert_eq!(out, [30, 20]);
}

#[test]
fn small_terms_are_not_lost_in_bf16() {
    let (indices, src) = ([0u8; 4096], [bf16::ONE; 4096]);
    let layout = Layout::contiguous(Shape::new(&[4096]));
    let mut out = [bf16::ZERO];
    index_add(
        SliceMut::BF16(&mut out),
        &Shape::new(&[1]),
        0,
        View { data: Slice::U8(&indices), layout: &layout },
        View { data: Slice::BF16(&src), layout: &layout },
    );
    assert_eq!(out[0].to_f32(), 4096.0);
}

#[test]
fn the_first_bad_index_is_reported() {
    let values = [0i64, 3, -1, 7];
    let layout = Layout::contiguous(Shape::new(&[4]));
    let view = View { data: Slice::I64(&values), layout: &layout };
    assert_eq!(check_indices(view, 8), Err((2, -1)));
    assert_eq!(check_indices(view, 3), Err((1, 3)));
    let ok = View { data: Slice::I64(&values[..2]), layout: &Layout::contiguous(Shape::new(&[2])) };
    assert_eq!(check_indices(ok, 4), Ok(()));
}

#[test]
#[should_panic(expected = "index 5 at position 1 is not in 0 .. 5")]
fn kernels_refuse_bad_indices() {
    let values = [0u32, 5];
    let layout = Layout::contiguous(Shape::new(&[2]));
    let mut random = Random::new(4);
    let x = Tensor::<f32>::random(&[5], &mut random);
    let indices = View { data: Slice::U32(&values), layout: &layout };
    index_select(x.view(), 0, indices, SliceMut::F32(&mut [0.0; 2]));
}

#[test]
fn equal_to_the_bit_for_any_number_of_threads() {
    let mut random = Random::new(5);
    let (rows, columns, count) = (50, 700, 900);
    let values: Vec<u32> = (0..count).map(|_| random.below(rows) as u32).collect();
    let layout = Layout::contiguous(Shape::new(&[count]));
    let indices = View { data: Slice::U32(&values), layout: &layout };
    let src = Tensor::<f32>::random(&[count, columns], &mut random);
    let shape = Shape::new(&[rows, columns]);
    same_for_any_threads(rows * columns, |out| {
        out.fill(0.0);
        index_add(SliceMut::F32(out), &shape, 0, indices, src.view());
    });
    let wide = Layout::contiguous(Shape::new(&[1, count])).broadcast_to(&Shape::new(&[rows, count]));
    let wide = wide.unwrap();
    let indices = View { data: Slice::U32(&values), layout: &wide };
    let src = Tensor::<f32>::random(&[rows, count], &mut random);
    same_for_any_threads(rows * columns, |out| {
        out.fill(0.0);
        scatter_add(SliceMut::F32(out), &shape, 1, indices, src.view());
    });
}
