//! Forward and backward passes of what training spends its time in.

use autograd_core::{DType, Error, Result, TrackedTensor, algebra};
use autograd_graph::jit;
use autograd_ops::attention::scaled_dot_product_attention;
use autograd_ops::testing::Place;
use autograd_ops::{TensorAutograd, activation, conv, loss, norm};
use autograd_tape::GradientTape;

/// What bounds a workload from below.
pub(crate) enum Bound {
    /// Bytes that must be read and written.
    Bytes(f64),
    /// Floating-point operations.
    Operations(f64),
}

/// One pass forward and backward.
type Run = Box<dyn FnMut() -> Result<()>>;

/// A workload in one type.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) dtype: DType,
    pub(crate) bound: Bound,
    make: fn(&Maker<'_>) -> Result<Run>,
}

impl Workload {
    /// The workload with inputs where `place` puts them.
    pub(crate) fn make(&self, place: &Place<'_>, size: Size) -> Result<Run> {
        (self.make)(&Maker { place, dtype: self.dtype, size, captured: false })
    }

    /// The same as a captured step, which is compiled at the first run.
    pub(crate) fn make_captured(&self, place: &Place<'_>, size: Size) -> Result<Run> {
        (self.make)(&Maker { place, dtype: self.dtype, size, captured: true })
    }
}

/// How large the workloads are.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) batch: usize,
    pub(crate) length: usize,
    pub(crate) model: usize,
    pub(crate) heads: usize,
    pub(crate) classes: usize,
    pub(crate) images: usize,
    /// Height and width of an image.
    pub(crate) side: usize,
}

impl Size {
    fn rows(self) -> usize {
        self.batch * self.length
    }
}

/// All of them, in f32 and bf16.
pub(crate) fn workloads(size: Size) -> Vec<Workload> {
    let (rows, model) = (size.rows() as f64, size.model as f64);
    let elements = rows * model;
    // Twelve products of model², and scores and their use: forward once, backward twice.
    let block = 3.0 * 2.0 * rows * (12.0 * model * model + 2.0 * size.length as f64 * model);
    let images = 3.0
        * 2.0
        * 64.0
        * (32.0 * 32.0 * 9.0 * (3.0 * 64.0 + 64.0 * 64.0) + 16.0 * 16.0 * 9.0 * 64.0 * 128.0);
    let mut all = Vec::new();
    for (dtype, bytes) in [(DType::F32, 4.0), (DType::BF16, 2.0)] {
        // Forward reads x and writes y; backward reads two of that size and writes one.
        let streamed = || Bound::Bytes(5.0 * elements * bytes);
        let mut add = |name, bound, make| all.push(Workload { name, dtype, bound, make });
        add("layer norm", streamed(), layer_norm as fn(&Maker<'_>) -> Result<Run>);
        add("softmax", streamed(), softmax);
        add("gelu", streamed(), gelu);
        add("cross entropy", Bound::Bytes(3.0 * rows * size.classes as f64 * bytes), cross_entropy);
        add("transformer block", Bound::Operations(block), transformer);
        add("convnet", Bound::Operations(images), convnet);
        add("digits", Bound::Operations(digits_of(size)), digits);
    }
    all
}

/// What makes a workload.
struct Maker<'a> {
    place: &'a Place<'a>,
    dtype: DType,
    size: Size,
    captured: bool,
}

impl Maker<'_> {
    /// Numbers of a shape; the same at every call.
    fn numbers(&self, dims: &[usize], scale: f32) -> Result<TrackedTensor> {
        let len: usize = dims.iter().product();
        let data = (0..len).map(|i| scale * ((i * 7919 % 2003) as f32 / 1001.5 - 1.0)).collect();
        algebra::cast(&(self.place)(&TrackedTensor::from_vec::<f32>(data, dims)?)?, self.dtype)
    }

    /// One for each element of the rows.
    fn rows(&self) -> Result<TrackedTensor> {
        self.numbers(&[self.size.rows(), self.size.model], 1.0)
    }
}

impl Maker<'_> {
    /// Forward, and backward from a cotangent of the output to all inputs.
    fn pass(
        &self,
        mut inputs: Vec<TrackedTensor>,
        ct: TrackedTensor,
        f: impl Fn(&[TrackedTensor]) -> Result<TrackedTensor> + 'static,
    ) -> Run {
        inputs.push(ct);
        let step = move |x: &[TrackedTensor]| {
            let [x @ .., ct] = x else { return Err(Error::msg("the last input is the cotangent")) };
            let tape = GradientTape::new();
            let watched: Vec<TrackedTensor> = x.iter().map(|x| tape.variable(x)).collect();
            let y = f(&watched)?;
            tape.gradient_with(&[&y], &[ct], &watched.iter().collect::<Vec<_>>())
        };
        if self.captured {
            let step = jit(step);
            return Box::new(move || step.call(&inputs.iter().collect::<Vec<_>>()).map(|_| ()));
        }
        Box::new(move || step(&inputs).map(|_| ()))
    }
}

fn layer_norm(maker: &Maker<'_>) -> Result<Run> {
    let weight = || maker.numbers(&[maker.size.model], 1.0);
    let inputs = vec![maker.rows()?, weight()?, weight()?];
    Ok(maker.pass(inputs, maker.rows()?, |x| norm::layer_norm(&x[0], &x[1], &x[2], 1e-5)))
}

fn softmax(maker: &Maker<'_>) -> Result<Run> {
    Ok(maker.pass(vec![maker.rows()?], maker.rows()?, |x| x[0].softmax(-1)))
}

fn gelu(maker: &Maker<'_>) -> Result<Run> {
    Ok(maker.pass(vec![maker.rows()?], maker.rows()?, |x| activation::gelu(&x[0])))
}

fn cross_entropy(maker: &Maker<'_>) -> Result<Run> {
    let (rows, classes) = (maker.size.rows(), maker.size.classes);
    let targets = (0..rows).map(|i| (i * 613 % classes) as i64).collect();
    let targets = (maker.place)(&TrackedTensor::from_vec::<i64>(targets, &[rows])?)?;
    let logits = maker.numbers(&[rows, classes], 1.0)?;
    Ok(maker.pass(vec![logits], maker.numbers(&[], 1.0)?, move |x| loss::cross_entropy(&x[0], &targets)))
}

/// x + attention(norm(x)), then + mlp(norm(·)): the weights in the order of their use.
fn transformer(maker: &Maker<'_>) -> Result<Run> {
    let of = |dims: &[usize]| maker.numbers(dims, 0.02);
    let Size { batch, length, model, heads, .. } = maker.size;
    let rows = maker.size.rows();
    let inputs = vec![
        of(&[rows, model])?,
        of(&[model])?,
        of(&[model])?,
        of(&[model, 3 * model])?,
        of(&[model, model])?,
        of(&[model])?,
        of(&[model])?,
        of(&[model, 4 * model])?,
        of(&[4 * model, model])?,
    ];
    let block = move |x: &[TrackedTensor]| {
        let [x, g1, b1, qkv, out, g2, b2, up, down] = x else {
            return Err(Error::msg("the block has nine inputs"));
        };
        let h = norm::layer_norm(x, g1, b1, 1e-5)?.matmul(qkv)?;
        let cut = |part: usize| {
            let part = h.narrow(1, part * model, model)?;
            part.reshape((batch, length, heads, model / heads))?.transpose(1, 2)
        };
        let y = scaled_dot_product_attention(&cut(0)?, &cut(1)?, &cut(2)?, None, true, None)?;
        let y = y.transpose(1, 2)?.reshape((rows, model))?.matmul(out)?;
        let x = (x + &y)?;
        let h = activation::gelu(&norm::layer_norm(&x, g2, b2, 1e-5)?.matmul(up)?)?;
        &x + &h.matmul(down)?
    };
    Ok(maker.pass(inputs, of(&[rows, model])?, block))
}

/// Three convolutions with batch norm and relu, and a pooling.
fn convnet(maker: &Maker<'_>) -> Result<Run> {
    let of = |dims: &[usize]| maker.numbers(dims, 0.1);
    let Size { images, side, .. } = maker.size;
    let mut inputs = vec![of(&[images, 3, side, side])?];
    for (channels, from) in [(64, 3), (64, 64), (128, 64)] {
        inputs.extend([of(&[channels, from, 3, 3])?, of(&[channels])?, of(&[channels])?]);
    }
    let still = [maker.numbers(&[64], 0.0)?, maker.numbers(&[64], 0.0)?, maker.numbers(&[128], 0.0)?];
    let net = move |x: &[TrackedTensor]| {
        let mut y = x[0].clone();
        for (layer, still) in still.iter().enumerate() {
            let [k, weight, bias] = &x[1 + 3 * layer..][..3] else {
                return Err(Error::msg("a layer has three parameters"));
            };
            let z = conv::conv2d(&y, k, 1, 1, 1, 1)?;
            let normed = norm::batch_norm_train(&z, still, still, Some(weight), Some(bias), 0.1, 1e-5)?;
            y = normed.output.relu()?;
            if layer == 1 {
                y = y.max_pool2d(2)?;
            }
        }
        Ok(y)
    };
    Ok(maker.pass(inputs, of(&[images, 128, side / 2, side / 2])?, net))
}

/// Operations of [`digits`]: forward once, backward twice.
fn digits_of(size: Size) -> f64 {
    let (images, side) = (size.images as f64, size.side as f64);
    let (first, second) = (16.0 * 25.0 * side * side, 32.0 * 16.0 * 25.0 * side * side / 4.0);
    3.0 * 2.0 * images * (first + second + 10.0 * 32.0 * side * side / 16.0)
}

/// Two convolutions with relu and pooling, a linear layer, and cross entropy over ten classes.
fn digits(maker: &Maker<'_>) -> Result<Run> {
    let of = |dims: &[usize]| maker.numbers(dims, 0.1);
    let Size { images, side, .. } = maker.size;
    let inputs = vec![
        of(&[images, 1, side, side])?,
        of(&[16, 1, 5, 5])?,
        of(&[16])?,
        of(&[32, 16, 5, 5])?,
        of(&[32])?,
        of(&[32 * (side / 4) * (side / 4), 10])?,
        of(&[10])?,
    ];
    let classes = (0..images).map(|i| (i * 7 % 10) as i64).collect();
    let classes = (maker.place)(&TrackedTensor::from_vec::<i64>(classes, &[images])?)?;
    let net = move |x: &[TrackedTensor]| {
        let mut y = x[0].clone();
        for layer in x[1..5].chunks(2) {
            y = conv::conv2d_bias(&y, &layer[0], &layer[1], 2, 1, 1, 1)?.relu()?.max_pool2d(2)?;
        }
        loss::cross_entropy(&y.flatten_from(1)?.matmul(&x[5])?.add(&x[6])?, &classes)
    };
    Ok(maker.pass(inputs, maker.numbers(&[], 1.0)?, net))
}
