//! burn's side of `cargo xtask peers`: burn-flex under burn-autodiff; see `../worker.rs` for what it is
//! asked. A crate of its own, outside the workspace, so that nobody else builds burn.

#[path = "../../worker.rs"]
mod worker;

use burn::tensor::activation as act;
use burn::tensor::module as m;
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, Distribution, Int, Tensor};
use worker::Arguments;

type Work = Box<dyn FnMut()>;

/// Parameters by rank.
#[derive(Clone, Default)]
struct P {
    a: Vec<Tensor<1>>,
    b: Vec<Tensor<2>>,
    c: Vec<Tensor<3>>,
    d: Vec<Tensor<4>>,
}

struct Cx {
    dev: Device, // autodiff
}

impl Cx {
    fn mk<const N: usize>(&self, s: [usize; N], scale: f64) -> Tensor<N> {
        if scale == 0. {
            return Tensor::zeros(s, &self.dev);
        }
        Tensor::random(s, Distribution::Normal(0., scale), &self.dev)
    }
    fn var<const N: usize>(&self, s: [usize; N], scale: f64) -> Tensor<N> {
        self.mk(s, scale).require_grad()
    }
    fn ones(&self, n: usize) -> Tensor<1> {
        Tensor::ones([n], &self.dev).require_grad()
    }
    fn ints(&self, hi: u32, n: usize) -> Tensor<1, Int> {
        let v: Vec<i32> = (0..n as u32).map(|i| ((i.wrapping_mul(2654435761) >> 7) % hi) as i32).collect();
        Tensor::from_ints(v.as_slice(), &self.dev)
    }
}

fn work(f: impl FnMut() + 'static) -> Work {
    Box::new(f)
}

fn step(p: P, f: impl Fn(&P) -> Tensor<1> + 'static) -> Work {
    work(move || {
        let mut g = f(&p).backward();
        for t in &p.a {
            t.grad_remove(&mut g).expect("no gradient");
        }
        for t in &p.b {
            t.grad_remove(&mut g).expect("no gradient");
        }
        for t in &p.c {
            t.grad_remove(&mut g).expect("no gradient");
        }
        for t in &p.d {
            t.grad_remove(&mut g).expect("no gradient");
        }
    })
}

fn xent(x: Tensor<2>, t: &Tensor<1, Int>) -> Tensor<1> {
    let n = t.dims()[0];
    act::log_softmax(x, 1).gather(1, t.clone().reshape([n, 1])).mean().neg()
}
fn lin(x: Tensor<2>, w: &Tensor<2>, b: &Tensor<1>) -> Tensor<2> {
    m::linear(x, w.clone(), Some(b.clone()))
}
fn conv(x: Tensor<4>, k: &Tensor<4>, b: Option<&Tensor<1>>) -> Tensor<4> {
    m::conv2d(x, k.clone(), b.cloned(), ConvOptions::new([1, 1], [1, 1], [1, 1], 1))
}
fn pool(x: Tensor<4>) -> Tensor<4> {
    m::max_pool2d(x, MaxPoolOptions::new([2, 2]))
}

const B: usize = 8;
const T: usize = 128;
const D: usize = 256;
const H: usize = 8;

fn block_params(c: &Cx, p: &mut P) {
    for t in [
        c.ones(D),
        c.var([D], 0.),
        c.var([3 * D], 0.),
        c.var([D], 0.),
        c.ones(D),
        c.var([D], 0.),
        c.var([4 * D], 0.),
        c.var([D], 0.),
    ] {
        p.a.push(t)
    }
    for t in [c.var([D, 3 * D], 0.05), c.var([D, D], 0.05), c.var([D, 4 * D], 0.05), c.var([4 * D, D], 0.05)]
    {
        p.b.push(t)
    }
}
fn mask(c: &Cx) -> Tensor<4> {
    let v: Vec<f32> = (0..T * T).map(|i| if i % T > i / T { f32::NEG_INFINITY } else { 0. }).collect();
    Tensor::<1>::from_floats(v.as_slice(), &c.dev).reshape([1, 1, T, T])
}
fn block(x: Tensor<2>, a: &[Tensor<1>], b: &[Tensor<2>], mask: &Tensor<4>) -> Tensor<2> {
    let h = m::layer_norm(x.clone(), a[0].clone(), Some(a[1].clone()), 1e-5);
    let qkv = lin(h, &b[0], &a[2]).reshape([B, T, 3, H, D / H]).permute([2, 0, 3, 1, 4]);
    let part = |i: usize| qkv.clone().narrow(0, i, 1).reshape([B, H, T, D / H]);
    let (q, k, v) = (part(0), part(1), part(2));
    let s = q.matmul(k.swap_dims(2, 3)).mul_scalar(((D / H) as f64).powf(-0.5)) + mask.clone();
    let o = act::softmax(s, 3).matmul(v).swap_dims(1, 2).reshape([B * T, D]);
    let x = x + lin(o, &b[1], &a[3]);
    let h = m::layer_norm(x.clone(), a[4].clone(), Some(a[5].clone()), 1e-5);
    x + lin(act::gelu_approximate(lin(h, &b[2], &a[6])), &b[3], &a[7])
}

fn stack(c: &Cx, l: usize) -> Work {
    let mut p = P::default();
    for _ in 0..l {
        block_params(c, &mut p)
    }
    p.b.push(c.var([B * T, D], 1.));
    let (g, mk) = (c.mk([B * T, D], 1.), mask(c));
    step(p, move |p| {
        let mut x = p.b[4 * l].clone();
        for i in 0..l {
            x = block(x, &p.a[8 * i..], &p.b[4 * i..], &mk)
        }
        (x * g.clone()).sum()
    })
}

fn p1(b: Vec<Tensor<2>>, a: Vec<Tensor<1>>) -> P {
    P { a, b, ..Default::default() }
}
fn p4(d: Vec<Tensor<4>>, a: Vec<Tensor<1>>) -> P {
    P { a, d, ..Default::default() }
}

fn single2(c: &Cx, p: P, f: impl Fn(&P) -> Tensor<2> + 'static) -> Work {
    let g = c.mk([4096, 1024], 1.);
    step(p, move |p| (f(p) * g.clone()).sum())
}
fn single4(c: &Cx, s: [usize; 4], p: P, f: impl Fn(&P) -> Tensor<4> + 'static) -> Work {
    let g = c.mk(s, 1.);
    step(p, move |p| (f(p) * g.clone()).sum())
}

fn build(name: &str) -> Option<Work> {
    let dev = if name == "stack12_ckpt" {
        Device::flex().autodiff().gradient_checkpointing()
    } else {
        Device::flex().autodiff()
    };
    let c = &Cx { dev };
    let sq = [4096, 1024];
    let im = [32, 64, 32, 32];
    let work = match name {
        "matmul_512" | "matmul_1024" | "matmul_2048" => {
            let n: usize = name[7..].parse().unwrap();
            let (a, b) = (c.mk([n, n], 1.), c.mk([n, n], 1.));
            work(move || {
                std::hint::black_box(a.clone().matmul(b.clone()));
            })
        }
        "ew_chain" => step(p1(vec![c.var(sq, 1.), c.var(sq, 1.), c.var(sq, 1.)], vec![]), |p| {
            let (x, w, b) = (p.b[0].clone(), p.b[1].clone(), p.b[2].clone());
            ((x.clone() * w + b).tanh() * act::sigmoid(x)).sum()
        }),
        "ew_chain_bcast" => step(p1(vec![c.var(sq, 1.)], vec![c.var([1024], 1.), c.var([1024], 1.)]), |p| {
            let x = p.b[0].clone();
            let (w, b) = (p.a[0].clone().reshape([1, 1024]), p.a[1].clone().reshape([1, 1024]));
            ((x.clone() * w + b).tanh() * act::sigmoid(x)).sum()
        }),
        "small_ops" => {
            let (cc, d) = (c.mk([16], 1.), c.mk([16], 1.));
            step(p1(vec![], vec![c.var([16], 1.)]), move |p| {
                let mut y = p.a[0].clone();
                for i in 0..1000 {
                    y = match i % 3 {
                        0 => y * cc.clone(),
                        1 => y + d.clone(),
                        _ => y.tanh(),
                    }
                }
                y.sum()
            })
        }
        "mlp" => {
            let (x, t) = (c.mk([128, 784], 1.), c.ints(10, 128));
            let p = p1(
                vec![c.var([784, 1024], 0.03), c.var([1024, 1024], 0.03), c.var([1024, 10], 0.03)],
                vec![c.var([1024], 0.), c.var([1024], 0.), c.var([10], 0.)],
            );
            step(p, move |p| {
                let h = act::relu(lin(x.clone(), &p.b[0], &p.a[0]));
                let h = act::relu(lin(h, &p.b[1], &p.a[1]));
                xent(lin(h, &p.b[2], &p.a[2]), &t)
            })
        }
        "convnet" => {
            let (x, t) = (c.mk([32, 3, 32, 32], 1.), c.ints(10, 32));
            let mut p = p4(
                vec![c.var([32, 3, 3, 3], 0.1), c.var([64, 32, 3, 3], 0.06), c.var([128, 64, 3, 3], 0.04)],
                vec![c.var([32], 0.), c.var([64], 0.), c.var([128], 0.), c.var([10], 0.)],
            );
            p.b.push(c.var([8192, 10], 0.02));
            step(p, move |p| {
                let h = act::relu(conv(x.clone(), &p.d[0], Some(&p.a[0])));
                let h = pool(act::relu(conv(h, &p.d[1], Some(&p.a[1]))));
                let h = pool(act::relu(conv(h, &p.d[2], Some(&p.a[2]))));
                xent(lin(h.flatten(1, 3), &p.b[0], &p.a[3]), &t)
            })
        }
        "resnet_block" => {
            let s = [16, 64, 32, 32];
            let p = p4(
                vec![c.var(s, 1.), c.var([64, 64, 3, 3], 0.05), c.var([64, 64, 3, 3], 0.05)],
                vec![c.ones(64), c.var([64], 0.), c.ones(64), c.var([64], 0.)],
            );
            single4(c, s, p, |p| {
                let bn = |x, i: usize| {
                    m::batch_norm_train::<4>(x, p.a[i].clone(), p.a[i + 1].clone(), 1e-5).output
                };
                let h = act::relu(bn(conv(p.d[0].clone(), &p.d[1], None), 0));
                act::relu(bn(conv(h, &p.d[2], None), 2) + p.d[0].clone())
            })
        }
        "transformer_block" => stack(c, 1),
        "stack12_plain" => stack(c, 12),
        "stack12_ckpt" => stack(c, 12),
        "gpt_step" => {
            let (l, v) = (4, 1024);
            let mut p = P::default();
            for _ in 0..l {
                block_params(c, &mut p)
            }
            p.a.extend([c.ones(D), c.var([D], 0.)]);
            p.b.extend([c.var([v, D], 0.02), c.var([T, D], 0.02), c.var([D, v], 0.02)]);
            let (tok, tgt, mk) = (c.ints(v as u32, B * T), c.ints(v as u32, B * T), mask(c));
            step(p, move |p| {
                let e = p.b[4 * l].clone().select(0, tok.clone()).reshape([B, T, D]);
                let mut x = (e + p.b[4 * l + 1].clone().reshape([1, T, D])).reshape([B * T, D]);
                for i in 0..l {
                    x = block(x, &p.a[8 * i..], &p.b[4 * i..], &mk)
                }
                let x = m::layer_norm(x, p.a[8 * l].clone(), Some(p.a[8 * l + 1].clone()), 1e-5);
                xent(x.matmul(p.b[4 * l + 2].clone()), &tgt)
            })
        }
        "op_softmax" => single2(c, p1(vec![c.var(sq, 1.)], vec![]), |p| act::softmax(p.b[0].clone(), 1)),
        "op_log_softmax" => {
            single2(c, p1(vec![c.var(sq, 1.)], vec![]), |p| act::log_softmax(p.b[0].clone(), 1))
        }
        "op_layer_norm" => single2(c, p1(vec![c.var(sq, 1.)], vec![c.ones(1024), c.var([1024], 0.)]), |p| {
            m::layer_norm(p.b[0].clone(), p.a[0].clone(), Some(p.a[1].clone()), 1e-5)
        }),
        "op_gelu" => single2(c, p1(vec![c.var(sq, 1.)], vec![]), |p| act::gelu_approximate(p.b[0].clone())),
        "op_mish" => single2(c, p1(vec![c.var(sq, 1.)], vec![]), |p| act::mish(p.b[0].clone())),
        "op_logsumexp" => {
            let g = c.mk([4096, 1], 1.);
            step(p1(vec![c.var(sq, 1.)], vec![]), move |p| {
                let x = p.b[0].clone();
                let mx = x.clone().detach().max_dim(1);
                (((x - mx.clone()).exp().sum_dim(1).log() + mx) * g.clone()).sum()
            })
        }
        "op_group_norm" => {
            single4(c, im, p4(vec![c.var(im, 1.)], vec![c.ones(64), c.var([64], 0.)]), move |p| {
                let y: Tensor<3> = p.d[0].clone().reshape([32, 8, 8 * 32 * 32]);
                let mean = y.clone().mean_dim(2);
                let y = y - mean;
                let var = (y.clone() * y.clone()).mean_dim(2);
                let y = (y / (var + 1e-5).sqrt()).reshape(im);
                y * p.a[0].clone().reshape([1, 64, 1, 1]) + p.a[1].clone().reshape([1, 64, 1, 1])
            })
        }
        "op_batch_norm" => single4(c, im, p4(vec![c.var(im, 1.)], vec![c.ones(64), c.var([64], 0.)]), |p| {
            m::batch_norm_train::<4>(p.d[0].clone(), p.a[0].clone(), p.a[1].clone(), 1e-5).output
        }),
        "op_conv2d" => {
            let p = p4(vec![c.var([16, 64, 32, 32], 1.), c.var([64, 64, 3, 3], 0.05)], vec![]);
            single4(c, [16, 64, 32, 32], p, |p| conv(p.d[0].clone(), &p.d[1], None))
        }
        "op_max_pool2d" => single4(c, [16, 64, 16, 16], p4(vec![c.var([16, 64, 32, 32], 1.)], vec![]), |p| {
            pool(p.d[0].clone())
        }),
        _ => return None,
    };
    Some(work)
}

fn main() {
    let Some(asked) = Arguments::read() else {
        println!("`cargo xtask peers` runs this program");
        return;
    };
    // burn-flex reads RAYON_NUM_THREADS.
    let threads = std::env::var("RAYON_NUM_THREADS").unwrap_or_default();
    if asked.mode != "eager" || threads != asked.threads.to_string() {
        return worker::refuse("burn is eager, and has the threads of RAYON_NUM_THREADS");
    }
    let Some(mut run) = build(&asked.workload) else {
        return worker::refuse("burn has no way to say this workload");
    };
    let mut run = || {
        run();
        Ok::<(), std::convert::Infallible>(())
    };
    if asked.memory {
        let Ok(step) = worker::resident_step(run, || ());
        println!("{{\"step_mb\": {step:.2}}}");
        return;
    }
    worker::serve(&mut run);
}
