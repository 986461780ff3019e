//! Convolutions and their gradients over many parameters.

use crate::support::{Number, Random, Tensor, assert_close, same_for_any_threads};
use autograd_kernels::conv2d::{Conv2d, conv2d, conv2d_input_grad, conv2d_weight_grad};
use autograd_kernels::{SliceMut, bf16, f16};

/// Calls f(index in x, index in k, index in y) for each product that the convolution adds up.
fn for_each_product(g: &Conv2d, mut f: impl FnMut(usize, usize, usize)) {
    let (cg, og) = (g.in_channels / g.groups, g.out_channels / g.groups);
    let (oh, ow) = (g.out_height(), g.out_width());
    for n in 0..g.batch {
        for o in 0..g.out_channels {
            for i in 0..oh {
                for j in 0..ow {
                    for c in 0..cg {
                        for p in 0..g.kernel_h {
                            for q in 0..g.kernel_w {
                                let h = i * g.stride[0] + p * g.dilation[0];
                                let w = j * g.stride[1] + q * g.dilation[1];
                                let (Some(h), Some(w)) =
                                    (h.checked_sub(g.padding[0]), w.checked_sub(g.padding[1]))
                                else {
                                    continue;
                                };
                                if h >= g.height || w >= g.width {
                                    continue;
                                }
                                let channel = n * g.in_channels + o / og * cg + c;
                                f(
                                    (channel * g.height + h) * g.width + w,
                                    ((o * cg + c) * g.kernel_h + p) * g.kernel_w + q,
                                    ((n * g.out_channels + o) * oh + i) * ow + j,
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

fn check<T: Number>(g: &Conv2d, seed: u64) {
    let what = format!("{g:?}");
    let mut random = Random::new(seed);
    let x_dims = [g.batch, g.in_channels, g.height, g.width];
    let k_dims = [g.out_channels, g.in_channels / g.groups, g.kernel_h, g.kernel_w];
    let y_dims = [g.batch, g.out_channels, g.out_height(), g.out_width()];
    // Every third case has operands that are not contiguous.
    let make = if seed.is_multiple_of(3) { Tensor::<T>::transposed } else { Tensor::<T>::random };
    let (x, k, ct) = (make(&x_dims, &mut random), make(&k_dims, &mut random), make(&y_dims, &mut random));
    let (vx, vk, vct) = (x.values(), k.values(), ct.values());
    let (mut y, mut dx, mut dk) = (vec![0.0; vct.len()], vec![0.0; vx.len()], vec![0.0; vk.len()]);
    for_each_product(g, |x, k, at| {
        y[at] += vx[x] * vk[k];
        dx[x] += vct[at] * vk[k];
        dk[k] += vct[at] * vx[x];
    });
    let taps = (g.in_channels / g.groups * g.kernel_h * g.kernel_w) as f64;
    let back = (g.out_channels / g.groups * g.kernel_h * g.kernel_w) as f64;
    let positions = (g.batch * g.out_height() * g.out_width()) as f64;
    let fresh = |len: usize| vec![T::of(f64::NAN); len];
    let mut out = fresh(y.len());
    conv2d(g, x.view(), k.view(), T::slice_mut(&mut out));
    assert_close(&out, &y, taps, &format!("forward {what}"));
    let mut out = fresh(dx.len());
    conv2d_input_grad(g, ct.view(), k.view(), T::slice_mut(&mut out));
    assert_close(&out, &dx, back, &format!("input gradient {what}"));
    let mut out = fresh(dk.len());
    conv2d_weight_grad(g, x.view(), ct.view(), T::slice_mut(&mut out));
    assert_close(&out, &dk, positions, &format!("weight gradient {what}"));
}

/// Stride 1, no border, one group.
fn plain(batch: usize, [c, o]: [usize; 2], [h, w]: [usize; 2], [kh, kw]: [usize; 2]) -> Conv2d {
    Conv2d {
        batch,
        in_channels: c,
        height: h,
        width: w,
        out_channels: o,
        kernel_h: kh,
        kernel_w: kw,
        stride: [1, 1],
        padding: [0, 0],
        dilation: [1, 1],
        groups: 1,
    }
}

#[test]
fn sizes_of_the_plain_convolution() {
    let mut seed = 1;
    for kernel in [[1, 1], [3, 3], [5, 5], [2, 3], [3, 1], [7, 2]] {
        for padding in [[0, 0], [1, 1], [2, 2], [0, 3]] {
            for (channels, extent) in [
                ([1, 1], [7, 7]),
                ([3, 7], [9, 8]),
                ([2, 6], [8, 16]),
                ([5, 13], [10, 17]),
                ([17, 4], [7, 33]),
                ([16, 17], [11, 5]),
            ] {
                check::<f32>(&Conv2d { padding, ..plain(2, channels, extent, kernel) }, seed);
                seed += 1;
            }
        }
    }
}

#[test]
fn strides_dilations_and_groups() {
    let mut seed = 100;
    for stride in [[1, 1], [2, 2], [3, 1], [1, 2]] {
        for dilation in [[1, 1], [2, 2], [1, 3]] {
            for groups in [1, 2, 6] {
                for padding in [[0, 0], [1, 2], [4, 3]] {
                    let g = plain(3, [6, 12], [11, 9], [3, 2]);
                    check::<f32>(&Conv2d { stride, dilation, groups, padding, ..g }, seed);
                    seed += 1;
                }
            }
        }
    }
}

#[test]
fn depthwise() {
    for (channels, stride) in [(8, [1, 1]), (19, [1, 1]), (8, [2, 2])] {
        let g = plain(2, [channels, channels], [12, 15], [3, 3]);
        check::<f32>(&Conv2d { groups: channels, padding: [1, 1], stride, ..g }, 1);
        // Two outputs for each channel.
        let g = Conv2d { out_channels: 2 * channels, ..g };
        check::<f32>(&Conv2d { groups: channels, padding: [1, 1], stride, ..g }, 2);
    }
}

#[test]
fn pointwise() {
    check::<f32>(&plain(3, [33, 20], [9, 9], [1, 1]), 1);
    check::<f32>(&Conv2d { groups: 4, ..plain(2, [8, 12], [6, 5], [1, 1]) }, 2);
    check::<f32>(&Conv2d { stride: [2, 2], ..plain(2, [8, 12], [7, 6], [1, 1]) }, 4);
}

#[test]
fn other_types() {
    for stride in [1, 2] {
        let g = plain(3, [4, 7], [9, 10], [3, 3]);
        let g = Conv2d { stride: [stride; 2], padding: [1, 1], ..g };
        check::<f64>(&g, 1);
        check::<bf16>(&g, 2);
        check::<f16>(&g, 3);
    }
}

#[test]
fn shapes_of_real_nets() {
    check::<f32>(&Conv2d { padding: [2, 2], ..plain(5, [1, 16], [28, 28], [5, 5]) }, 1);
    check::<f32>(&Conv2d { padding: [1, 1], ..plain(4, [16, 32], [14, 14], [3, 3]) }, 2);
    check::<f32>(&Conv2d { padding: [1, 1], ..plain(3, [64, 64], [16, 16], [3, 3]) }, 4);
    check::<f32>(&plain(3, [16, 32], [14, 14], [5, 5]), 5);
}

#[test]
fn empty_extents() {
    check::<f32>(&plain(0, [2, 3], [5, 5], [3, 3]), 1);
    check::<f32>(&plain(2, [0, 3], [5, 5], [3, 3]), 2);
    check::<f32>(&plain(2, [2, 0], [5, 5], [3, 3]), 1);
    // A kernel larger than the input has no position.
    check::<f32>(&plain(2, [2, 3], [2, 5], [3, 3]), 1);
    check::<f32>(&Conv2d { padding: [2, 2], ..plain(2, [2, 3], [0, 0], [3, 3]) }, 1);
}

#[test]
fn inputs_never_touched_have_zero_gradient() {
    // Stride 3 with a 1x1 kernel reads one pixel in nine.
    let g = Conv2d { stride: [3, 3], ..plain(1, [1, 1], [6, 6], [1, 1]) };
    let mut random = Random::new(1);
    let (ct, k) = (
        Tensor::<f32>::random(&[1, 1, 2, 2], &mut random),
        Tensor::<f32>::random(&[1, 1, 1, 1], &mut random),
    );
    let mut dx = vec![f32::NAN; 36];
    conv2d_input_grad(&g, ct.view(), k.view(), SliceMut::F32(&mut dx));
    let touched: Vec<usize> = (0..36).filter(|&i| dx[i] != 0.0).collect();
    assert_eq!(touched, [0, 3, 18, 21]);
}

#[test]
#[should_panic(expected = "4 groups of 6 input and 12 output channels")]
fn groups_must_divide_the_channels() {
    let g = Conv2d { groups: 4, ..plain(1, [6, 12], [5, 5], [3, 3]) };
    check::<f32>(&g, 1);
}

#[test]
fn equal_to_the_bit_for_any_number_of_threads() {
    let g = Conv2d { padding: [1, 1], ..plain(5, [8, 20], [18, 19], [3, 3]) };
    for g in [g, Conv2d { batch: 1, ..g }, Conv2d { stride: [2, 2], groups: 4, ..g }] {
        let mut random = Random::new(1);
        let x = Tensor::<f32>::random(&[g.batch, 8, 18, 19], &mut random);
        let k = Tensor::<f32>::random(&[20, 8 / g.groups, 3, 3], &mut random);
        let ct = Tensor::<f32>::random(&[g.batch, 20, g.out_height(), g.out_width()], &mut random);
        same_for_any_threads(ct.data.len(), |y| {
            conv2d(&g, x.view(), k.view(), SliceMut::F32(y));
        });
        same_for_any_threads(x.data.len(), |dx| {
            conv2d_input_grad(&g, ct.view(), k.view(), SliceMut::F32(dx));
        });
        same_for_any_threads(k.data.len(), |dk| {
            conv2d_weight_grad(&g, x.view(), ct.view(), SliceMut::F32(dk));
        });
    }
}

#[test]
fn infinite_inputs_touch_only_the_taps_that_see_them() {
    // The last column is seen by the last tap alone.
    let g = plain(1, [1, 1], [1, 12], [1, 3]);
    let mut random = Random::new(2);
    let mut x = Tensor::<f32>::random(&[1, 1, 1, 12], &mut random);
    let ct = Tensor::<f32>::random(&[1, 1, 1, 10], &mut random);
    x.data[11] = f32::INFINITY;
    let mut dk = [0f32; 3];
    conv2d_weight_grad(&g, x.view(), ct.view(), SliceMut::F32(&mut dk));
    assert!(dk[0].is_finite() && dk[1].is_finite() && dk[2].is_infinite());
}
