//! candle's own side of `cargo xtask peers`: the workloads on `Var` and `backward`; see `worker.rs`
//! for what it is asked. Second order needs candle's undocumented `CANDLE_GRAD_DO_NOT_DETACH=1`,
//! which the driver sets.

mod worker;

use candle_core::{D, DType, Device, Error, IndexOp, Result, Tensor, Var, bail};
use candle_nn::{Module, ops};
use worker::Arguments;

type Run = Box<dyn FnMut() -> Result<()>>;

fn main() {
    let Some(asked) = Arguments::read() else {
        println!("`cargo xtask peers` runs this bench");
        return;
    };
    // The driver sets RAYON_NUM_THREADS, which candle's pools read.
    if asked.mode != "eager" || candle_core::utils::get_num_threads() != asked.threads {
        return worker::refuse("candle is eager, and has the threads of RAYON_NUM_THREADS");
    }
    let mut run = match build(&asked.workload) {
        Ok(run) => run,
        Err(error) => return worker::refuse(error),
    };
    if asked.memory {
        match worker::resident_step(run, || ()) {
            Ok(step) => println!("{{\"step_mb\": {step:.2}}}"),
            Err(error) => worker::refuse(error),
        }
        return;
    }
    worker::serve(&mut run);
}

fn lost() -> Error {
    Error::Msg("a gradient is missing".to_owned())
}

const CPU: Device = Device::Cpu;

fn mk<S: Into<candle_core::Shape>>(shape: S, scale: f32) -> Result<Tensor> {
    Tensor::randn(0f32, 1f32, shape, &CPU)? * scale as f64
}
fn var<S: Into<candle_core::Shape>>(shape: S, scale: f32) -> Result<Var> {
    Var::from_tensor(&mk(shape, scale)?)
}
fn ones(n: usize) -> Result<Var> {
    Var::ones(n, DType::F32, &CPU)
}
fn ints(hi: u32, n: usize) -> Result<Tensor> {
    let v: Vec<u32> = (0..n as u32).map(|i| (i.wrapping_mul(2654435761) >> 7) % hi).collect();
    Tensor::from_vec(v, n, &CPU)
}

fn work(run: impl FnMut() -> Result<()> + 'static) -> Result<Run> {
    Ok(Box::new(run))
}

/// fwd + bwd of a scalar loss w.r.t. every leaf; a leaf without gradient is an error.
fn step(leaves: Vec<Var>, f: impl Fn(&[Var]) -> Result<Tensor> + 'static) -> Result<Run> {
    work(move || {
        let loss = f(&leaves)?;
        let grads = loss.backward()?;
        for (i, l) in leaves.iter().enumerate() {
            if grads.get(l).is_none() {
                bail!("leaf {i} got no gradient (silently dropped)")
            }
        }
        std::hint::black_box(&grads);
        Ok(())
    })
}

fn linear(x: &Tensor, w: &Tensor, b: &Tensor) -> Result<Tensor> {
    x.matmul(w)?.broadcast_add(b)
}

fn mlp_params() -> Result<Vec<Var>> {
    Ok(vec![
        var((784, 1024), 0.03)?,
        var(1024, 0.)?,
        var((1024, 1024), 0.03)?,
        var(1024, 0.)?,
        var((1024, 10), 0.03)?,
        var(10, 0.)?,
    ])
}
fn mlp_loss(p: &[Var], x: &Tensor, t: &Tensor) -> Result<Tensor> {
    let h = linear(x, &p[0], &p[1])?.relu()?;
    let h = linear(&h, &p[2], &p[3])?.relu()?;
    candle_nn::loss::cross_entropy(&linear(&h, &p[4], &p[5])?, t)
}

fn conv(x: &Tensor, k: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let y = x.conv2d(k, 1, 1, 1, 1)?;
    match b {
        None => Ok(y),
        Some(b) => y.broadcast_add(&b.reshape((1, (), 1, 1))?),
    }
}

fn batch_norm(x: &Tensor, w: &Var, b: &Var) -> Result<Tensor> {
    let n = w.dim(0)?;
    let bn = candle_nn::BatchNorm::new(
        n,
        Tensor::zeros(n, DType::F32, &CPU)?,
        Tensor::ones(n, DType::F32, &CPU)?,
        w.as_tensor().clone(),
        b.as_tensor().clone(),
        1e-5,
    )?;
    bn.forward_train(x)
}

const B: usize = 8;
const T: usize = 128;
const DM: usize = 256;
const H: usize = 8;
const NPB: usize = 12;

fn block_params() -> Result<Vec<Var>> {
    Ok(vec![
        ones(DM)?,
        var(DM, 0.)?,
        var((DM, 3 * DM), 0.05)?,
        var(3 * DM, 0.)?,
        var((DM, DM), 0.05)?,
        var(DM, 0.)?,
        ones(DM)?,
        var(DM, 0.)?,
        var((DM, 4 * DM), 0.05)?,
        var(4 * DM, 0.)?,
        var((4 * DM, DM), 0.05)?,
        var(DM, 0.)?,
    ])
}
fn causal_mask() -> Result<Tensor> {
    let v: Vec<f32> = (0..T * T).map(|i| if i % T > i / T { f32::NEG_INFINITY } else { 0. }).collect();
    Tensor::from_vec(v, (T, T), &CPU)
}
/// x: [B*T, DM]
fn block(x: &Tensor, p: &[Var], mask: &Tensor) -> Result<Tensor> {
    let h = ops::layer_norm_slow(x, &p[0], &p[1], 1e-5)?;
    let qkv = linear(&h, &p[2], &p[3])?.reshape((B, T, 3, H, DM / H))?.permute((2, 0, 3, 1, 4))?;
    let (q, k, v) = (qkv.i(0)?.contiguous()?, qkv.i(1)?.contiguous()?, qkv.i(2)?.contiguous()?);
    let s = (q.matmul(&k.t()?)? * ((DM / H) as f64).powf(-0.5))?.broadcast_add(mask)?;
    let a = ops::softmax(&s, D::Minus1)?.matmul(&v)?;
    let a = a.transpose(1, 2)?.reshape((B * T, DM))?;
    let x = (x + linear(&a, &p[4], &p[5])?)?;
    let h = ops::layer_norm_slow(&x, &p[6], &p[7], 1e-5)?;
    let m = linear(&linear(&h, &p[8], &p[9])?.gelu()?, &p[10], &p[11])?;
    x + m
}

fn single(out: &[usize], leaves: Vec<Var>, f: impl Fn(&[Var]) -> Result<Tensor> + 'static) -> Result<Run> {
    let g = mk(out, 1.)?;
    step(leaves, move |p| (f(p)? * &g)?.sum_all())
}

fn matmul(n: usize) -> Result<Run> {
    let (a, b) = (mk((n, n), 1.)?, mk((n, n), 1.)?);
    work(move || {
        std::hint::black_box(a.matmul(&b)?);
        Ok(())
    })
}

fn stack(l: usize) -> Result<Run> {
    let (g, mask) = (mk((B * T, DM), 1.)?, causal_mask()?);
    let mut p = vec![var((B * T, DM), 1.)?];
    for _ in 0..l {
        p.extend(block_params()?);
    }
    step(p, move |p| {
        let mut x = p[0].as_tensor().clone();
        for i in 0..l {
            x = block(&x, &p[1 + i * NPB..1 + (i + 1) * NPB], &mask)?;
        }
        (x * &g)?.sum_all()
    })
}

fn dot(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    (a * b)?.sum_all()
}

fn build(name: &str) -> Result<Run> {
    let sq = (4096usize, 1024usize);
    let sqs = [4096usize, 1024];
    let im = (32usize, 64usize, 32usize, 32usize);
    let ims = [32usize, 64, 32, 32];
    match name {
        "matmul_1024" => matmul(1024),
        "ew_chain" => step(vec![var(sq, 1.)?, var(sq, 1.)?, var(sq, 1.)?], |p| {
            let y = ((p[0].as_tensor() * p[1].as_tensor())? + p[2].as_tensor())?.tanh()?;
            (y * ops::sigmoid(&p[0])?)?.sum_all()
        }),
        "ew_chain_bcast" => step(vec![var(sq, 1.)?, var(1024, 1.)?, var(1024, 1.)?], |p| {
            let y = p[0].broadcast_mul(&p[1])?.broadcast_add(&p[2])?.tanh()?;
            (y * ops::sigmoid(&p[0])?)?.sum_all()
        }),
        "small_ops" => {
            let (c, d) = (mk(16, 1.)?, mk(16, 1.)?);
            step(vec![var(16, 1.)?], move |p| {
                let mut y = p[0].as_tensor().clone();
                for i in 0..1000 {
                    y = match i % 3 {
                        0 => (y * &c)?,
                        1 => (y + &d)?,
                        _ => y.tanh()?,
                    }
                }
                y.sum_all()
            })
        }
        "mlp" => {
            let (x, t) = (mk((128, 784), 1.)?, ints(10, 128)?);
            step(mlp_params()?, move |p| mlp_loss(p, &x, &t))
        }
        "convnet" => {
            let (x, t) = (mk((32, 3, 32, 32), 1.)?, ints(10, 32)?);
            let p = vec![
                var((32, 3, 3, 3), 0.1)?,
                var(32, 0.)?,
                var((64, 32, 3, 3), 0.06)?,
                var(64, 0.)?,
                var((128, 64, 3, 3), 0.04)?,
                var(128, 0.)?,
                var((8192, 10), 0.02)?,
                var(10, 0.)?,
            ];
            step(p, move |p| {
                let h = conv(&x, &p[0], Some(&p[1]))?.relu()?;
                let h = conv(&h, &p[2], Some(&p[3]))?.relu()?.max_pool2d(2)?;
                let h = conv(&h, &p[4], Some(&p[5]))?.relu()?.max_pool2d(2)?;
                candle_nn::loss::cross_entropy(&linear(&h.flatten_from(1)?, &p[6], &p[7])?, &t)
            })
        }
        "resnet_block" => {
            let g = mk((16, 64, 32, 32), 1.)?;
            let k = (64, 64, 3, 3);
            let p = vec![
                var((16, 64, 32, 32), 1.)?,
                var(k, 0.05)?,
                ones(64)?,
                var(64, 0.)?,
                var(k, 0.05)?,
                ones(64)?,
                var(64, 0.)?,
            ];
            step(p, move |p| {
                let h = batch_norm(&conv(&p[0], &p[1], None)?, &p[2], &p[3])?.relu()?;
                // candle's BatchNorm returns a transposed view; conv2d accepts it
                let h = batch_norm(&conv(&h, &p[4], None)?, &p[5], &p[6])?;
                ((h + p[0].as_tensor())?.relu()? * &g)?.sum_all()
            })
        }
        "transformer_block" => stack(1),
        "gpt_step" => {
            let (l, v) = (4usize, 1024usize);
            let (tok, tgt, mask) = (ints(v as u32, B * T)?, ints(v as u32, B * T)?, causal_mask()?);
            let mut p =
                vec![var((v, DM), 0.02)?, var((T, DM), 0.02)?, ones(DM)?, var(DM, 0.)?, var((DM, v), 0.02)?];
            for _ in 0..l {
                p.extend(block_params()?);
            }
            step(p, move |p| {
                let e = p[0].index_select(&tok, 0)?.reshape((B, T, DM))?;
                let mut x = e.broadcast_add(&p[1])?.reshape((B * T, DM))?;
                for i in 0..l {
                    x = block(&x, &p[5 + i * NPB..5 + (i + 1) * NPB], &mask)?;
                }
                let x = ops::layer_norm_slow(&x, &p[2], &p[3], 1e-5)?;
                candle_nn::loss::cross_entropy(&x.matmul(&p[4])?, &tgt)
            })
        }
        "op_softmax" => single(&sqs, vec![var(sq, 1.)?], |p| ops::softmax(&p[0], 1)),
        "op_log_softmax" => single(&sqs, vec![var(sq, 1.)?], |p| ops::log_softmax(&p[0], 1)),
        "op_layer_norm" => single(&sqs, vec![var(sq, 1.)?, ones(1024)?, var(1024, 0.)?], |p| {
            ops::layer_norm_slow(&p[0], &p[1], &p[2], 1e-5)
        }),
        "op_gelu" => single(&sqs, vec![var(sq, 1.)?], |p| p[0].gelu()),
        "op_mish" => single(&sqs, vec![var(sq, 1.)?], |p| ops::mish(&p[0])),
        "op_logsumexp" => single(&[4096], vec![var(sq, 1.)?], |p| p[0].log_sum_exp(1)),
        "op_group_norm" => single(&ims, vec![var(im, 1.)?, ones(64)?, var(64, 0.)?], |p| {
            candle_nn::GroupNorm::new(p[1].as_tensor().clone(), p[2].as_tensor().clone(), 64, 8, 1e-5)?
                .forward(&p[0])
        }),
        "op_batch_norm" => {
            single(&ims, vec![var(im, 1.)?, ones(64)?, var(64, 0.)?], |p| batch_norm(&p[0], &p[1], &p[2]))
        }
        "op_conv2d" => {
            single(&[16, 64, 32, 32], vec![var((16, 64, 32, 32), 1.)?, var((64, 64, 3, 3), 0.05)?], |p| {
                conv(&p[0], &p[1], None)
            })
        }
        "op_max_pool2d" => {
            single(&[16, 64, 16, 16], vec![var((16, 64, 32, 32), 1.)?], |p| p[0].max_pool2d(2))
        }
        "hvp_mlp" => bail!(
            "no forward mode: candle has no jvp and CustomOp has only fwd/bwd; jvp(grad) cannot be written"
        ),
        "hvp_mlp_revrev" => {
            let (x, t) = (mk((128, 784), 1.)?, ints(10, 128)?);
            let p = mlp_params()?;
            let v: Vec<Tensor> = p.iter().map(|q| mk(q.shape(), 1.)).collect::<Result<_>>()?;
            work(move || {
                let g = mlp_loss(&p, &x, &t)?.backward()?;
                let mut s = dot(g.get(&p[0]).ok_or_else(lost)?, &v[0])?;
                for i in 1..p.len() {
                    s = (s + dot(g.get(&p[i]).ok_or_else(lost)?, &v[i])?)?;
                }
                let h = s.backward()?;
                for (i, q) in p.iter().enumerate() {
                    if h.get(q).is_none() && i != 5 {
                        bail!("hvp: leaf {i} got no gradient")
                    }
                }
                Ok(())
            })
        }
        "hessian_200" => {
            let (x, t) = (mk((32, 8), 1.)?, ints(10, 32)?);
            let th = var(200, 0.3)?;
            work(move || {
                let a = th.as_tensor();
                let h = linear(&x, &a.narrow(0, 0, 80)?.reshape((8, 10))?, &a.narrow(0, 80, 10)?)?.tanh()?;
                let y = linear(&h, &a.narrow(0, 90, 100)?.reshape((10, 10))?, &a.narrow(0, 190, 10)?)?;
                let g = candle_nn::loss::cross_entropy(&y, &t)?.backward()?;
                let g = g.get(&th).ok_or_else(lost)?;
                let mut rows = vec![];
                for i in 0..200 {
                    rows.push(g.i(i)?.backward()?.get(&th).ok_or_else(lost)?.clone());
                }
                std::hint::black_box(Tensor::stack(&rows, 0)?);
                Ok(())
            })
        }
        "jacrev_256" => {
            let q = [mk((256, 256), 0.06)?, mk((1, 256), 0.1)?, mk((256, 256), 0.06)?, mk((1, 256), 0.1)?];
            let x = var((1, 256), 1.)?;
            work(move || {
                let y = (x.matmul(&q[0])? + &q[1])?.tanh()?;
                let y = (y.matmul(&q[2])? + &q[3])?.tanh()?.squeeze(0)?;
                let mut rows = vec![];
                for i in 0..256 {
                    rows.push(y.i(i)?.backward()?.get(&x).ok_or_else(lost)?.clone());
                }
                std::hint::black_box(Tensor::cat(&rows, 0)?);
                Ok(())
            })
        }
        "jacfwd_256" => bail!("no forward mode in candle (no jvp rules, no dual tensors)"),
        "per_sample_grads" => {
            let (x, t) = (mk((128, 784), 1.)?, ints(10, 128)?);
            let p = vec![var((784, 64), 0.03)?, var(64, 0.)?, var((64, 10), 0.1)?, var(10, 0.)?];
            work(move || {
                let mut acc: Vec<Vec<Tensor>> = vec![vec![]; 4];
                for i in 0..128 {
                    let h = linear(&x.narrow(0, i, 1)?, &p[0], &p[1])?.relu()?;
                    let l = candle_nn::loss::cross_entropy(&linear(&h, &p[2], &p[3])?, &t.narrow(0, i, 1)?)?;
                    let g = l.backward()?;
                    for (a, q) in acc.iter_mut().zip(&p) {
                        a.push(g.get(q).ok_or_else(lost)?.clone());
                    }
                }
                for a in &acc {
                    std::hint::black_box(Tensor::stack(a, 0)?);
                }
                Ok(())
            })
        }
        "stack12_plain" => stack(12),
        "stack12_ckpt" => {
            bail!("no activation checkpointing in candle (backward() walks stored Ops; no recompute hook)")
        }
        _ => bail!("unknown workload {name}"),
    }
}
