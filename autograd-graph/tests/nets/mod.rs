//! The benchmarks' workloads in small: a loss of values, each with its values.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use autograd_core::{Result, TrackedTensor};
use autograd_ops::TensorAutograd;
use autograd_ops::norm::batch_norm_train;

type Value = TrackedTensor;

/// A scalar of values.
pub(crate) type Loss = Box<dyn Fn(&[Value]) -> Result<Value>>;

/// A loss, and values of the kind that it is taken of.
pub(crate) struct Net {
    pub(crate) name: &'static str,
    pub(crate) inputs: Vec<Value>,
    pub(crate) loss: Loss,
}

/// Numbers between −1 and 1 by a seed, scaled.
pub(crate) fn draw(dims: &[usize], scale: f32, seed: u64) -> Result<Value> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let n: usize = dims.iter().product();
    let numbers = (0..n).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1u64 << 24) as f32 * 2.0 - 1.0) * scale
    });
    Value::from_vec(numbers.collect(), dims)
}

fn classes(below: u32, n: usize) -> Result<Value> {
    Value::from_vec((0..n as u32).map(|i| i * 7 % below).collect(), &[n])
}

fn linear(x: &Value, w: &Value, b: &Value) -> Result<Value> {
    x.matmul(w)?.add(b)
}

const BATCH: usize = 2;
const TIME: usize = 24;
const WIDTH: usize = 32;
const HEADS: usize = 4;
/// Parameters of a transformer block.
const BLOCK: usize = 12;

fn block_inputs(seed: u64) -> Result<Vec<Value>> {
    let d = WIDTH;
    let shapes: [&[usize]; BLOCK] = [
        &[d],
        &[d],
        &[d, 3 * d],
        &[3 * d],
        &[d, d],
        &[d],
        &[d],
        &[d],
        &[d, 4 * d],
        &[4 * d],
        &[4 * d, d],
        &[d],
    ];
    shapes.iter().zip(seed..).map(|(dims, seed)| draw(dims, 0.3, seed)).collect()
}

/// A pre-norm block with attention written out; x is (batch · time)×width.
fn block(x: &Value, p: &[Value], mask: &Value) -> Result<Value> {
    let h = x.layer_norm(&p[0], &p[1], 1e-5)?;
    let qkv = linear(&h, &p[2], &p[3])?.reshape((BATCH, TIME, 3, HEADS, WIDTH / HEADS))?;
    let qkv = qkv.permute((2, 0, 3, 1, 4))?;
    let (q, k, v) = (qkv.get(0)?, qkv.get(1)?, qkv.get(2)?);
    let scores = q.matmul(&k.transpose(-1, -2)?)?.mul(1.0 / ((WIDTH / HEADS) as f64).sqrt())?.add(mask)?;
    let a = scores.softmax(-1)?.matmul(&v)?.transpose(1, 2)?.reshape((BATCH * TIME, WIDTH))?;
    let x = x.add(&linear(&a, &p[4], &p[5])?)?;
    let h = x.layer_norm(&p[6], &p[7], 1e-5)?;
    x.add(&linear(&linear(&h, &p[8], &p[9])?.gelu()?, &p[10], &p[11])?)
}

fn causal_mask() -> Result<Value> {
    let cell = |i: usize| if i % TIME > i / TIME { f32::NEG_INFINITY } else { 0.0 };
    Value::from_vec((0..TIME * TIME).map(cell).collect(), &[TIME, TIME])
}

fn batch_norm(x: &Value, weight: &Value, bias: &Value) -> Result<Value> {
    let channels = weight.elem_count();
    let (mean, variance) = (
        Value::from_vec(vec![0f32; channels], &[channels])?,
        Value::from_vec(vec![1f32; channels], &[channels])?,
    );
    Ok(batch_norm_train(x, &mean, &variance, Some(weight), Some(bias), 0.1, 1e-5)?.output)
}

/// An op on its own, weighed by a constant cotangent.
fn single(
    name: &'static str,
    out: &[usize],
    shapes: &[&[usize]],
    f: impl Fn(&[Value]) -> Result<Value> + 'static,
) -> Result<Net> {
    let g = draw(out, 1.0, 99)?;
    let inputs = shapes.iter().zip(1..).map(|(dims, seed)| draw(dims, 1.0, seed)).collect::<Result<_>>()?;
    Ok(Net { name, inputs, loss: Box::new(move |x| f(x)?.mul(&g)?.sum()) })
}

/// All of them.
pub(crate) fn all() -> Result<Vec<Net>> {
    let wide: &[usize] = &[96, 300];
    let image: &[usize] = &[4, 8, 16, 16];
    let mut nets = vec![
        single("softmax", wide, &[wide], |x| x[0].softmax(-1))?,
        single("log_softmax", wide, &[wide], |x| x[0].log_softmax(-1))?,
        single("logsumexp", &[96], &[wide], |x| x[0].logsumexp(-1))?,
        single("layer_norm", wide, &[wide, &[300], &[300]], |x| x[0].layer_norm(&x[1], &x[2], 1e-5))?,
        single("gelu", wide, &[wide], |x| x[0].gelu())?,
        single("mish", wide, &[wide], |x| x[0].mish())?,
        single("group_norm", image, &[image, &[8], &[8]], |x| {
            x[0].group_norm(2, Some(&x[1]), Some(&x[2]), 1e-5)
        })?,
        single("batch_norm", image, &[image, &[8], &[8]], |x| batch_norm(&x[0], &x[1], &x[2]))?,
        single("conv2d", image, &[image, &[8, 8, 3, 3]], |x| x[0].conv2d(&x[1], 1, 1, 1, 1))?,
        single("max_pool2d", &[4, 8, 8, 8], &[image], |x| x[0].max_pool2d(2))?,
        single("ew_chain", wide, &[wide, wide, wide], |x| {
            x[0].mul(&x[1])?.add(&x[2])?.tanh()?.mul(&x[0].sigmoid()?)
        })?,
        single("ew_chain_bcast", wide, &[wide, &[300], &[300]], |x| {
            x[0].mul(&x[1])?.add(&x[2])?.tanh()?.mul(&x[0].sigmoid()?)
        })?,
        single("small_ops", &[16], &[&[16], &[16], &[16]], |x| {
            let mut y = x[0].clone();
            for i in 0..300 {
                y = match i % 3 {
                    0 => y.mul(&x[1])?,
                    1 => y.add(&x[2])?,
                    _ => y.tanh()?,
                };
            }
            Ok(y)
        })?,
        single("resnet_block", image, &[image, &[8, 8, 3, 3], &[8], &[8], &[8, 8, 3, 3], &[8], &[8]], |p| {
            let h = batch_norm(&p[0].conv2d(&p[1], 1, 1, 1, 1)?, &p[2], &p[3])?.relu()?;
            let h = batch_norm(&h.conv2d(&p[4], 1, 1, 1, 1)?, &p[5], &p[6])?;
            h.add(&p[0])?.relu()
        })?,
    ];
    let shapes: [&[usize]; 6] = [&[60, 64], &[64], &[64, 64], &[64], &[64, 10], &[10]];
    let (x, t) = (draw(&[32, 60], 1.0, 50)?, classes(10, 32)?);
    nets.push(Net {
        name: "mlp",
        inputs: shapes.iter().zip(1..).map(|(dims, seed)| draw(dims, 0.2, seed)).collect::<Result<_>>()?,
        loss: Box::new(move |p| {
            let h = linear(&x, &p[0], &p[1])?.relu()?;
            let h = linear(&h, &p[2], &p[3])?.relu()?;
            linear(&h, &p[4], &p[5])?.cross_entropy(&t)
        }),
    });
    let shapes: [&[usize]; 6] = [&[8, 3, 3, 3], &[8], &[16, 8, 3, 3], &[16], &[256, 10], &[10]];
    let (x, t) = (draw(&[6, 3, 16, 16], 1.0, 51)?, classes(10, 6)?);
    nets.push(Net {
        name: "convnet",
        inputs: shapes.iter().zip(1..).map(|(dims, seed)| draw(dims, 0.2, seed)).collect::<Result<_>>()?,
        loss: Box::new(move |p| {
            let conv = |x: &Value, k: &Value, b: &Value| {
                autograd_ops::conv::conv2d_bias(x, k, b, 1, 1, 1, 1)?.relu()?.max_pool2d(2)
            };
            let h = conv(&conv(&x, &p[0], &p[1])?, &p[2], &p[3])?;
            linear(&h.flatten_from(1)?, &p[4], &p[5])?.cross_entropy(&t)
        }),
    });
    let (g, mask) = (draw(&[BATCH * TIME, WIDTH], 1.0, 52)?, causal_mask()?);
    let mut inputs = vec![draw(&[BATCH * TIME, WIDTH], 1.0, 53)?];
    inputs.extend(block_inputs(1)?);
    nets.push(Net {
        name: "transformer_block",
        inputs,
        loss: Box::new(move |p| block(&p[0], &p[1..], &mask)?.mul(&g)?.sum()),
    });
    let (tokens, targets, mask) = (classes(48, BATCH * TIME)?, classes(47, BATCH * TIME)?, causal_mask()?);
    let shapes: [&[usize]; 5] = [&[48, WIDTH], &[TIME, WIDTH], &[WIDTH], &[WIDTH], &[WIDTH, 48]];
    let mut inputs: Vec<Value> =
        shapes.iter().zip(60..).map(|(dims, seed)| draw(dims, 0.5, seed)).collect::<Result<_>>()?;
    inputs.extend(block_inputs(1)?);
    inputs.extend(block_inputs(20)?);
    nets.push(Net {
        name: "gpt_step",
        inputs,
        loss: Box::new(move |p| {
            let embedded = p[0].embedding(&tokens)?.reshape((BATCH, TIME, WIDTH))?;
            let mut x = embedded.add(&p[1])?.reshape((BATCH * TIME, WIDTH))?;
            for layer in 0..2 {
                x = block(&x, &p[5 + layer * BLOCK..][..BLOCK], &mask)?;
            }
            x.layer_norm(&p[2], &p[3], 1e-5)?.matmul(&p[4])?.cross_entropy(&targets)
        }),
    });
    Ok(nets)
}
