//! The peers' workloads on values: the same nets, sizes and inputs as the other contenders have.
//!
//! A workload is a function of leaves to a scalar (or to outputs, for the transforms); one
//! repetition computes the value and every gradient that `WORKLOADS.md` lists.

use candle_autograd::ops::norm::batch_norm_train;
use candle_autograd::ops::random;
use candle_autograd::transforms::{grad, hessian, hvp, jacfwd, jacrev, vmap};
use candle_autograd::{DType, Error, GradientTape, Result, TensorAutograd, TrackedTensor};
use std::cell::Cell;

type Value = TrackedTensor;
type Loss = Box<dyn Fn(&[Value]) -> Result<Value>>;

/// What a repetition computes from leaves: the value, if there is one, and the gradients.
pub(crate) type Function = Box<dyn Fn(&[Value]) -> Result<Vec<Value>>>;

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

fn normal(shape: &[usize], scale: f64) -> Result<Value> {
    let seed = SEED.get();
    SEED.set(seed + 1);
    random::normal(&random::key(seed), shape, DType::F32)?.mul(scale)
}

fn ones(n: usize) -> Result<Value> {
    Value::from_vec(vec![1f32; n], &[n])
}

fn integers(below: u32, n: usize) -> Result<Value> {
    Value::from_vec((0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) % below).collect(), &[n])
}

/// The leaves of a workload by its name, and the function of them that a repetition computes.
pub(crate) fn build(name: &str) -> Result<(Vec<Value>, Function)> {
    SEED.set(1);
    match transform(name)? {
        Some(workload) => Ok(workload),
        None => {
            let (leaves, loss) = first_order(name)?;
            Ok((leaves, Box::new(move |x| value_and_gradients(x, &loss))))
        }
    }
}

fn value_and_gradients(leaves: &[Value], loss: &Loss) -> Result<Vec<Value>> {
    let tape = GradientTape::new();
    let variables: Vec<Value> = leaves.iter().map(|x| tape.variable(x)).collect();
    let y = loss(&variables)?;
    let mut results = tape.gradient(&y, &variables.iter().collect::<Vec<_>>())?;
    results.push(tape.unwatched(&y));
    Ok(results)
}

/// A layer whose weights are in × out, as the other frameworks' are here.
fn linear(x: &Value, w: &Value, b: &Value) -> Result<Value> {
    x.linear(&w.t()?, Some(b))
}

fn mlp_leaves() -> Result<Vec<Value>> {
    let (w1, w2, w3) =
        (normal(&[784, 1024], 0.03)?, normal(&[1024, 1024], 0.03)?, normal(&[1024, 10], 0.03)?);
    Ok(vec![w1, normal(&[1024], 0.0)?, w2, normal(&[1024], 0.0)?, w3, normal(&[10], 0.0)?])
}

fn mlp_loss(p: &[Value], x: &Value, targets: &Value) -> Result<Value> {
    let h = linear(x, &p[0], &p[1])?.relu()?;
    let h = linear(&h, &p[2], &p[3])?.relu()?;
    linear(&h, &p[4], &p[5])?.cross_entropy(targets)
}

fn conv(x: &Value, kernel: &Value) -> Result<Value> {
    x.conv2d(kernel, 1, 1, 1, 1)
}

fn conv_bias(x: &Value, kernel: &Value, bias: &Value) -> Result<Value> {
    candle_autograd::ops::conv::conv2d_bias(x, kernel, bias, 1, 1, 1, 1)
}

/// Batch normalisation by the batch's own statistics.
fn batch_norm(x: &Value, weight: &Value, bias: &Value) -> Result<Value> {
    let (mean, variance) = (Value::from_vec(vec![0f32; 64], &[64])?, ones(64)?);
    Ok(batch_norm_train(x, &mean, &variance, Some(weight), Some(bias), 0.1, 1e-5)?.output)
}

const BATCH: usize = 8;
const TIME: usize = 128;
const WIDTH: usize = 256;
const HEADS: usize = 8;
/// Parameters of a transformer block.
const BLOCK: usize = 12;

fn block_leaves() -> Result<Vec<Value>> {
    let (d, zero) = (WIDTH, |n| normal(&[n], 0.0));
    Ok(vec![
        ones(d)?,
        zero(d)?,
        normal(&[d, 3 * d], 0.05)?,
        zero(3 * d)?,
        normal(&[d, d], 0.05)?,
        zero(d)?,
        ones(d)?,
        zero(d)?,
        normal(&[d, 4 * d], 0.05)?,
        zero(4 * d)?,
        normal(&[4 * d, d], 0.05)?,
        zero(d)?,
    ])
}

fn causal_mask() -> Result<Value> {
    let cell = |i: usize| if i % TIME > i / TIME { f32::NEG_INFINITY } else { 0.0 };
    Value::from_vec((0..TIME * TIME).map(cell).collect(), &[TIME, TIME])
}

/// A pre-norm block with attention written out, as in `WORKLOADS.md`; x is (batch · time)×width.
fn block(x: &Value, p: &[Value], mask: &Value) -> Result<Value> {
    let h = x.layer_norm(&p[0], &p[1], 1e-5)?;
    let qkv = linear(&h, &p[2], &p[3])?.reshape((BATCH, TIME, 3, HEADS, WIDTH / HEADS))?;
    let qkv = qkv.permute((2, 0, 3, 1, 4))?;
    let (q, k, v) = (qkv.get(0)?, qkv.get(1)?, qkv.get(2)?);
    let scores = q.matmul(&k.transpose(-1, -2)?)?.mul(1.0 / ((WIDTH / HEADS) as f64).sqrt())?.add(mask)?;
    let a = scores.softmax(-1)?.matmul(&v)?;
    let a = a.transpose(1, 2)?.reshape((BATCH * TIME, WIDTH))?;
    let x = x.add(&linear(&a, &p[4], &p[5])?)?;
    let h = x.layer_norm(&p[6], &p[7], 1e-5)?;
    x.add(&linear(&linear(&h, &p[8], &p[9])?.gelu()?, &p[10], &p[11])?)
}

fn stack(layers: usize, checkpointed: bool) -> Result<(Vec<Value>, Loss)> {
    let mut leaves = vec![normal(&[BATCH * TIME, WIDTH], 1.0)?];
    for _ in 0..layers {
        leaves.extend(block_leaves()?);
    }
    let (g, mask) = (normal(&[BATCH * TIME, WIDTH], 1.0)?, causal_mask()?);
    let loss: Loss = Box::new(move |p| {
        let mut x = p[0].clone();
        for layer in 0..layers {
            let own = &p[1 + layer * BLOCK..][..BLOCK];
            x = if checkpointed {
                let run = |x: &[Value]| Ok(vec![block(&x[0], own, &mask)?]);
                candle_autograd::checkpoint::checkpoint(run, &[&x])?.remove(0)
            } else {
                block(&x, own, &mask)?
            };
        }
        x.mul(&g)?.sum()
    });
    Ok((leaves, loss))
}

fn single(out: &[usize], leaves: Vec<Value>, f: fn(&[Value]) -> Result<Value>) -> Result<(Vec<Value>, Loss)> {
    let g = normal(out, 1.0)?;
    Ok((leaves, Box::new(move |p| f(p)?.mul(&g)?.sum())))
}

fn first_order(name: &str) -> Result<(Vec<Value>, Loss)> {
    let square = || normal(&[4096, 1024], 1.0);
    let images = || normal(&[32, 64, 32, 32], 1.0);
    let wide = [4096, 1024];
    match name {
        "ew_chain" | "ew_chain_bcast" => {
            let other = || if name == "ew_chain" { square() } else { normal(&[1024], 1.0) };
            let leaves = vec![square()?, other()?, other()?];
            Ok((leaves, Box::new(|p| p[0].mul(&p[1])?.add(&p[2])?.tanh()?.mul(&p[0].sigmoid()?)?.sum())))
        }
        "small_ops" => {
            let (c, d) = (normal(&[16], 1.0)?, normal(&[16], 1.0)?);
            let loss: Loss = Box::new(move |p| {
                let mut y = p[0].clone();
                for i in 0..1000 {
                    y = match i % 3 {
                        0 => y.mul(&c)?,
                        1 => y.add(&d)?,
                        _ => y.tanh()?,
                    };
                }
                y.sum()
            });
            Ok((vec![normal(&[16], 1.0)?], loss))
        }
        "mlp" => {
            let (x, t) = (normal(&[128, 784], 1.0)?, integers(10, 128)?);
            Ok((mlp_leaves()?, Box::new(move |p| mlp_loss(p, &x, &t))))
        }
        "convnet" => {
            let (x, t) = (normal(&[32, 3, 32, 32], 1.0)?, integers(10, 32)?);
            let zero = |n| normal(&[n], 0.0);
            let leaves = vec![
                normal(&[32, 3, 3, 3], 0.1)?,
                zero(32)?,
                normal(&[64, 32, 3, 3], 0.06)?,
                zero(64)?,
                normal(&[128, 64, 3, 3], 0.04)?,
                zero(128)?,
                normal(&[8192, 10], 0.02)?,
                zero(10)?,
            ];
            let loss: Loss = Box::new(move |p| {
                let h = conv_bias(&x, &p[0], &p[1])?.relu()?;
                let h = conv_bias(&h, &p[2], &p[3])?.relu()?.max_pool2d(2)?;
                let h = conv_bias(&h, &p[4], &p[5])?.relu()?.max_pool2d(2)?;
                linear(&h.flatten_from(1)?, &p[6], &p[7])?.cross_entropy(&t)
            });
            Ok((leaves, loss))
        }
        "resnet_block" => {
            let g = normal(&[16, 64, 32, 32], 1.0)?;
            let kernel = || normal(&[64, 64, 3, 3], 0.05);
            let zero = || normal(&[64], 0.0);
            let x = normal(&[16, 64, 32, 32], 1.0)?;
            let leaves = vec![x, kernel()?, ones(64)?, zero()?, kernel()?, ones(64)?, zero()?];
            let loss: Loss = Box::new(move |p| {
                let h = batch_norm(&conv(&p[0], &p[1])?, &p[2], &p[3])?.relu()?;
                let h = batch_norm(&conv(&h, &p[4])?, &p[5], &p[6])?;
                h.add(&p[0])?.relu()?.mul(&g)?.sum()
            });
            Ok((leaves, loss))
        }
        "transformer_block" => stack(1, false),
        "stack12_plain" => stack(12, false),
        "stack12_ckpt" => stack(12, true),
        "gpt_step" => gpt(4, 1024),
        "op_softmax" => single(&wide, vec![square()?], |p| p[0].softmax(-1)),
        "op_log_softmax" => single(&wide, vec![square()?], |p| p[0].log_softmax(-1)),
        "op_logsumexp" => single(&[4096], vec![square()?], |p| p[0].logsumexp(-1)),
        "op_layer_norm" => single(&wide, vec![square()?, ones(1024)?, normal(&[1024], 0.0)?], |p| {
            p[0].layer_norm(&p[1], &p[2], 1e-5)
        }),
        "op_gelu" => single(&wide, vec![square()?], |p| p[0].gelu()),
        "op_mish" => single(&wide, vec![square()?], |p| p[0].mish()),
        "op_group_norm" => single(&[32, 64, 32, 32], vec![images()?, ones(64)?, normal(&[64], 0.0)?], |p| {
            p[0].group_norm(8, Some(&p[1]), Some(&p[2]), 1e-5)
        }),
        "op_batch_norm" => single(&[32, 64, 32, 32], vec![images()?, ones(64)?, normal(&[64], 0.0)?], |p| {
            batch_norm(&p[0], &p[1], &p[2])
        }),
        "op_conv2d" => {
            let leaves = vec![normal(&[16, 64, 32, 32], 1.0)?, normal(&[64, 64, 3, 3], 0.05)?];
            single(&[16, 64, 32, 32], leaves, |p| conv(&p[0], &p[1]))
        }
        "op_max_pool2d" => {
            single(&[16, 64, 16, 16], vec![normal(&[16, 64, 32, 32], 1.0)?], |p| p[0].max_pool2d(2))
        }
        _ => Err(Error::msg(format!("`{name}` is not a workload"))),
    }
}

fn gpt(layers: usize, vocabulary: usize) -> Result<(Vec<Value>, Loss)> {
    let tokens = integers(vocabulary as u32, BATCH * TIME)?;
    let targets = integers(vocabulary as u32, BATCH * TIME)?;
    let mask = causal_mask()?;
    let mut leaves = vec![
        normal(&[vocabulary, WIDTH], 0.02)?,
        normal(&[TIME, WIDTH], 0.02)?,
        ones(WIDTH)?,
        normal(&[WIDTH], 0.0)?,
        normal(&[WIDTH, vocabulary], 0.02)?,
    ];
    for _ in 0..layers {
        leaves.extend(block_leaves()?);
    }
    let loss: Loss = Box::new(move |p| {
        let embedded = p[0].embedding(&tokens)?.reshape((BATCH, TIME, WIDTH))?;
        let mut x = embedded.add(&p[1])?.reshape((BATCH * TIME, WIDTH))?;
        for layer in 0..layers {
            x = block(&x, &p[5 + layer * BLOCK..][..BLOCK], &mask)?;
        }
        x.layer_norm(&p[2], &p[3], 1e-5)?.matmul(&p[4])?.cross_entropy(&targets)
    });
    Ok((leaves, loss))
}

/// The workloads that are not one gradient of one loss.
fn transform(name: &str) -> Result<Option<(Vec<Value>, Function)>> {
    let (leaves, function): (Vec<Value>, Function) = match name {
        "matmul_1024" => {
            let square = || normal(&[1024, 1024], 1.0);
            (vec![square()?, square()?], Box::new(|x| Ok(vec![x[0].matmul(&x[1])?])))
        }
        "hvp_mlp" | "hvp_mlp_revrev" => {
            let (x, t) = (normal(&[128, 784], 1.0)?, integers(10, 128)?);
            let mut leaves = mlp_leaves()?;
            let n = leaves.len();
            let v: Vec<Value> = leaves.iter().map(|q| normal(q.dims(), 1.0)).collect::<Result<_>>()?;
            leaves.extend(v);
            let function: Function = if name == "hvp_mlp" {
                Box::new(move |p| {
                    let (p, v) = (p[..n].to_vec(), p[n..].to_vec());
                    hvp(|q: &Vec<Value>| mlp_loss(q, &x, &t), &p, &v)
                })
            } else {
                Box::new(move |p| {
                    let tape = GradientTape::new().persistent();
                    let q: Vec<Value> = p[..n].iter().map(|q| tape.variable(q)).collect();
                    let y = mlp_loss(&q, &x, &t)?;
                    let g = tape.gradient(&y, &refs(&q))?;
                    tape.gradient_with(&refs(&g), &refs(&p[n..]), &refs(&q))
                })
            };
            (leaves, function)
        }
        "hessian_200" => {
            let (x, t) = (normal(&[32, 8], 1.0)?, integers(10, 32)?);
            let function: Function = Box::new(move |flat| {
                let loss = |p: &Value| {
                    let h = linear(&x, &p.narrow(0, 0, 80)?.reshape((8, 10))?, &p.narrow(0, 80, 10)?)?;
                    let (w, b) = (p.narrow(0, 90, 100)?.reshape((10, 10))?, p.narrow(0, 190, 10)?);
                    linear(&h.tanh()?, &w, &b)?.cross_entropy(&t)
                };
                Ok(vec![hessian(loss, &flat[0])?])
            });
            (vec![normal(&[200], 0.3)?], function)
        }
        "jacrev_256" | "jacfwd_256" => {
            let square = || normal(&[256, 256], 0.06);
            let row = || normal(&[256], 0.1);
            let (w1, b1, w2, b2, x) = (square()?, row()?, square()?, row()?, normal(&[256], 1.0)?);
            let reverse = name == "jacrev_256";
            let function: Function = Box::new(move |x| {
                let net = |x: &Value| linear(&linear(x, &w1, &b1)?.tanh()?, &w2, &b2)?.tanh();
                Ok(vec![if reverse { jacrev(net, &x[0])? } else { jacfwd(net, &x[0])? }])
            });
            (vec![x], function)
        }
        "per_sample_grads" => {
            let leaves = vec![
                normal(&[128, 784], 1.0)?,
                integers(10, 128)?,
                normal(&[784, 64], 0.03)?,
                normal(&[64], 0.0)?,
                normal(&[64, 10], 0.1)?,
                normal(&[10], 0.0)?,
            ];
            let function: Function = Box::new(|leaves| {
                let p = leaves[2..].to_vec();
                let one = |(x, t): &(Value, Value)| {
                    let loss = |p: &Vec<Value>| {
                        let h = linear(x, &p[0], &p[1])?.relu()?;
                        linear(&h, &p[2], &p[3])?.cross_entropy(t)
                    };
                    grad(loss, &p)
                };
                vmap(one, &(&leaves[0], &leaves[1]), 0)
            });
            (leaves, function)
        }
        _ => return Ok(None),
    };
    Ok(Some((leaves, function)))
}

fn refs(values: &[Value]) -> Vec<&Value> {
    values.iter().collect()
}
