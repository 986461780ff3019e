//! A language model of characters, as a chain of layers: an embedding, blocks, and the loss.

use super::block::{Block, PARAMETERS};
use super::options::Options;
use candle_autograd::nn::{Parameters, Watched};
use candle_autograd::{Device, Result, Tensor, TensorAutograd, TrackedTensor};
use candle_core::Var;
use rand::Rng;
use rand::rngs::StdRng;

/// ASCII.
pub(crate) const CHARACTERS: usize = 128;

/// Features of a head.
const HEAD: usize = 32;

/// A layer of the chain.
pub(crate) type Layer<'a> = Box<dyn Fn(&TrackedTensor) -> Result<TrackedTensor> + 'a>;

/// Parameters from a generator: matrices small and random, norms at one, biases at zero.
pub(crate) fn parameters(options: &Options, rng: &mut StdRng) -> Result<Parameters> {
    let mut vars = Vec::new();
    let mut add = |name: String, shape: &[usize]| -> Result<()> {
        let count: usize = shape.iter().product();
        let data: Vec<f32> = match (shape.len(), name.ends_with("weight")) {
            (1, weight) => vec![f32::from(u8::from(weight)); count],
            _ => (0..count).map(|_| rng.random_range(-0.05..0.05)).collect(),
        };
        vars.push((name, Var::from_tensor(&Tensor::from_vec(data, shape, &Device::Cpu)?)?));
        Ok(())
    };
    let width = options.width;
    add("characters.embedding".into(), &[CHARACTERS, width])?;
    add("positions.embedding".into(), &[options.tokens, width])?;
    for block in 0..options.layers {
        for (name, shape) in PARAMETERS {
            let shape: Vec<usize> = shape.iter().map(|times| times * width).collect();
            add(format!("{block}.{name}"), &shape)?;
        }
    }
    add("norm.weight".into(), &[width])?;
    add("norm.bias".into(), &[width])?;
    add("head.weight".into(), &[width, CHARACTERS])?;
    Ok(vars.into_iter().collect())
}

/// The layers, from characters (B×T, u32) to the mean loss of predicting each next one.
pub(crate) fn layers<'a>(options: &Options, p: &Watched, next: &'a TrackedTensor) -> Result<Vec<Layer<'a>>> {
    let get = |name: &str| p.get(name).cloned();
    let (characters, positions) = (get("characters.embedding")?, get("positions.embedding")?);
    let mut layers: Vec<Layer<'a>> = Vec::with_capacity(options.layers + 2);
    layers.push(Box::new(move |text| characters.embedding(text)? + &positions));
    for block in 0..options.layers {
        let names = PARAMETERS.iter().map(|(name, _)| get(&format!("{block}.{name}")));
        let block = Block { parameters: names.collect::<Result<_>>()?, heads: options.width / HEAD };
        layers.push(Box::new(move |x| block.forward(x)));
    }
    let (weight, bias, head) = (get("norm.weight")?, get("norm.bias")?, get("head.weight")?);
    let rows = options.batch * options.tokens;
    layers.push(Box::new(move |x| {
        let logits = x.layer_norm(&weight, &bias, 1e-5)?.matmul(&head)?.reshape([rows, CHARACTERS])?;
        logits.cross_entropy(next)
    }));
    Ok(layers)
}

/// Sequences of a text, and for each character the one after it.
pub(crate) fn batch(
    options: &Options,
    text: &[u8],
    rng: &mut StdRng,
) -> Result<(TrackedTensor, TrackedTensor)> {
    let (mut here, mut next) = (Vec::new(), Vec::new());
    for _ in 0..options.batch {
        let start = rng.random_range(0..text.len() - options.tokens);
        let codes = |from: usize| text[from..from + options.tokens].iter().map(|byte| u32::from(byte & 127));
        here.extend(codes(start));
        next.extend(codes(start + 1));
    }
    let shape = [options.batch, options.tokens];
    let rows = next.len();
    Ok((TrackedTensor::from_vec(here, &shape)?, TrackedTensor::from_vec(next, &[rows])?))
}
