//! Pooling and its gradients.

use crate::support::{Number, Random, Tensor, assert_close, same_for_any_threads};
use autograd_kernels::pool2d::{Pool2d, avg_pool2d, avg_pool2d_grad, max_pool2d, max_pool2d_grad};
use autograd_kernels::{Layout, Shape, Slice, SliceMut, View, bf16, f16};

/// Calls f(plane, number of the output in its plane, number of the input in its plane) for each
/// element of each window, outputs and elements in row-major order.
fn for_each_element(g: &Pool2d, mut f: impl FnMut(usize, usize, usize)) {
    for plane in 0..g.planes {
        for i in 0..g.out_height() {
            for j in 0..g.out_width() {
                for p in 0..g.kernel[0] {
                    for q in 0..g.kernel[1] {
                        let h = (i * g.stride[0] + p).wrapping_sub(g.padding[0]);
                        let w = (j * g.stride[1] + q).wrapping_sub(g.padding[1]);
                        if h < g.height && w < g.width {
                            f(plane, i * g.out_width() + j, h * g.width + w);
                        }
                    }
                }
            }
        }
    }
}

fn check<T: Number>(g: &Pool2d, seed: u64) {
    let what = format!("{g:?}");
    let mut random = Random::new(seed);
    let (inside, outside) = (g.height * g.width, g.out_height() * g.out_width());
    let make = if seed.is_multiple_of(2) { Tensor::<T>::transposed } else { Tensor::<T>::random };
    let x = make(&[g.planes, g.height, g.width], &mut random);
    let ct = make(&[g.planes, g.out_height(), g.out_width()], &mut random);
    let (vx, vct) = (x.values(), ct.values());
    let mut y = vec![f64::NEG_INFINITY; g.planes * outside];
    let mut indices = vec![0u32; y.len()];
    let (mut mean, mut dmax, mut dmean) = (vec![0.0; y.len()], vec![0.0; vx.len()], vec![0.0; vx.len()]);
    let area = (g.kernel[0] * g.kernel[1]) as f64;
    for_each_element(g, |plane, o, i| {
        let (at, o) = (plane * inside + i, plane * outside + o);
        if vx[at] > y[o] {
            (y[o], indices[o]) = (vx[at], i as u32);
        }
        mean[o] += vx[at] / area;
        dmean[at] += vct[o] / area;
    });
    for (o, &i) in indices.iter().enumerate() {
        dmax[o / outside * inside + i as usize] += vct[o];
    }
    let fresh = |len: usize| vec![T::of(f64::NAN); len];
    let mut out = fresh(y.len());
    let mut at = vec![u32::MAX; y.len()];
    max_pool2d(g, x.view(), T::slice_mut(&mut out), Some(SliceMut::U32(&mut at)));
    assert_close(&out, &y, 0.0, &format!("max {what}"));
    assert_eq!(at, indices, "{what}");
    let mut again = fresh(y.len());
    max_pool2d(g, x.view(), T::slice_mut(&mut again), None);
    assert_eq!(out, again, "{what}");
    let layout = Layout::contiguous(Shape::new(&[at.len()]));
    let at = View { data: Slice::U32(&at), layout: &layout };
    let mut out = fresh(dmax.len());
    max_pool2d_grad(g, ct.view(), at, T::slice_mut(&mut out));
    assert_close(&out, &dmax, area, &format!("max gradient {what}"));
    let mut out = fresh(mean.len());
    avg_pool2d(g, x.view(), T::slice_mut(&mut out));
    assert_close(&out, &mean, 1.0, &format!("mean {what}"));
    let mut out = fresh(dmean.len());
    avg_pool2d_grad(g, ct.view(), T::slice_mut(&mut out));
    assert_close(&out, &dmean, 1.0, &format!("mean gradient {what}"));
}

#[test]
fn windows_of_every_kind() {
    let mut seed = 1;
    for kernel in [[2, 2], [3, 3], [1, 1], [2, 3], [5, 1]] {
        for stride in [[2, 2], [1, 1], [3, 2], [1, 4]] {
            for [height, width] in [[8, 8], [7, 9], [5, 34], [6, 5]] {
                for half in [0, 1] {
                    let padding = [kernel[0] / 2 * half, kernel[1] / 2 * half];
                    let g = Pool2d { planes: 3, height, width, kernel, stride, padding };
                    check::<f32>(&g, seed);
                    seed += 1;
                }
            }
        }
    }
}

#[test]
fn other_types() {
    for (kernel, padding) in [([2, 2], [0, 0]), ([3, 3], [1, 1])] {
        let g = Pool2d { planes: 5, height: 10, width: 12, kernel, stride: [2, 2], padding };
        check::<f64>(&g, 1);
        check::<bf16>(&g, 2);
        check::<f16>(&g, 3);
    }
}

#[test]
fn many_planes() {
    let g = Pool2d { planes: 300, height: 28, width: 28, kernel: [2, 2], stride: [2, 2], padding: [0, 0] };
    check::<f32>(&g, 1);
    check::<f32>(&Pool2d { kernel: [3, 3], padding: [1, 1], ..g }, 2);
}

fn two_by_two(width: usize) -> Pool2d {
    Pool2d { planes: 1, height: 2, width, kernel: [2, 2], stride: [2, 2], padding: [0, 0] }
}

/// Maximum and index of each 2x2 window of two rows.
fn maxima(rows: [&[f32]; 2]) -> (Vec<f32>, Vec<u32>) {
    let x = rows.concat();
    let width = rows[0].len();
    let layout = Layout::contiguous(Shape::new(&[1, 2, width]));
    let (mut y, mut at) = (vec![0.0; width / 2], vec![0; width / 2]);
    let view = View { data: Slice::F32(&x), layout: &layout };
    max_pool2d(&two_by_two(width), view, SliceMut::F32(&mut y), Some(SliceMut::U32(&mut at)));
    (y, at)
}

#[test]
fn first_maximum_wins() {
    for width in [2, 8, 36] {
        let ones = vec![1.0; width];
        let (y, at) = maxima([&ones, &ones]);
        assert!(y.iter().all(|&y| y == 1.0));
        assert!(at.iter().enumerate().all(|(i, &at)| at as usize == 2 * i));
    }
}

#[test]
fn nan_wins_wherever_it_stands() {
    const N: f32 = f32::NAN;
    let top = [N, 1.0, 1.0, N, 1.0, 1.0, 1.0, 1.0, N, N, 1.0, 5.0, 5.0, 5.0, N, 1.0, 9.0, 1.0];
    let low = [1.0, 2.0, 1.0, 7.0, N, 2.0, 1.0, N, 9.0, N, 9.0, 9.0, 1.0, 1.0, 1.0, 1.0, 9.0, 1.0];
    let (y, at) = maxima([&top, &low]);
    let nan: Vec<usize> = (0..9).filter(|&i| y[i].is_nan()).collect();
    assert_eq!(nan, [0, 1, 2, 3, 4, 7]);
    // The last NaN of a window is the one that PyTorch names.
    assert_eq!(at, [0, 3, 22, 25, 27, 28, 12, 14, 16]);
}

#[test]
fn minus_infinity_has_the_index_of_its_first_element() {
    let low = [f32::NEG_INFINITY; 4];
    assert_eq!(maxima([&low, &low]), (vec![f32::NEG_INFINITY; 2], vec![0, 2]));
}

#[test]
fn the_border_never_wins() {
    let g = Pool2d { planes: 1, height: 3, width: 3, kernel: [3, 3], stride: [1, 1], padding: [1, 1] };
    let (x, layout) = ([-2f32; 9], Layout::contiguous(Shape::new(&[1, 3, 3])));
    let mut y = [0f32; 9];
    max_pool2d(&g, View { data: Slice::F32(&x), layout: &layout }, SliceMut::F32(&mut y), None);
    assert_eq!(y, [-2.0; 9]);
}

#[test]
fn empty_extents() {
    let g = Pool2d { planes: 0, ..two_by_two(4) };
    check::<f32>(&g, 1);
    // A window larger than the plane has no position.
    let g = Pool2d { planes: 2, height: 1, ..two_by_two(4) };
    check::<f32>(&g, 1);
}

#[test]
fn equal_to_the_bit_for_any_number_of_threads() {
    let mut random = Random::new(1);
    let g = Pool2d { planes: 90, height: 29, width: 30, kernel: [3, 3], stride: [2, 2], padding: [1, 1] };
    let x = Tensor::<f32>::random(&[g.planes, g.height, g.width], &mut random);
    let len = g.planes * g.out_height() * g.out_width();
    same_for_any_threads(len, |y| avg_pool2d(&g, x.view(), SliceMut::F32(y)));
    same_for_any_threads(len, |y| max_pool2d(&g, x.view(), SliceMut::F32(y), None));
    let ct = Tensor::<f32>::random(&[len], &mut random);
    same_for_any_threads(x.data.len(), |dx| avg_pool2d_grad(&g, ct.view(), SliceMut::F32(dx)));
}
