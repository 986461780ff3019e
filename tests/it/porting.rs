//! The guide `docs/porting.md`: its block before and after gives the same numbers, and its code is
//! this code.

#[path = "porting/after.rs"]
#[allow(
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "the guide shows it as a model's own module"
)]
mod after;
#[path = "porting/before.rs"]
#[allow(
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "the guide shows it as a model's own module"
)]
mod before;

use candle_autograd::nn::layers::{
    BatchNorm, ConvConfig, Dropout, Module, ModuleT, batch_norm, conv1d, conv2d, embedding, group_norm,
    layer_norm, linear, multi_head_attention, rms_norm, sequential,
};
use candle_autograd::nn::{Parameters, ValueBuilder};
use candle_autograd::ops::random;
use candle_autograd::{GradientTape, Result, TensorAutograd, TrackedTensor};
use candle_core::{DType, Device, Tensor};
use candle_nn::{AdamW, Optimizer, VarBuilder, VarMap};

const CPU: &Device = &Device::Cpu;

/// Sums of a few dozen f32 products round differently in another order.
const CLOSE: f64 = 1e-6;

fn input(dims: &[usize]) -> Result<Tensor> {
    let count: usize = dims.iter().product();
    let data: Vec<f32> = (0..count).map(|i| (i as f32 * 0.37).sin()).collect();
    Ok(Tensor::from_vec(data, dims, CPU)?)
}

/// The largest difference, relative to the largest number.
fn distance(ours: &TrackedTensor, candles: &Tensor) -> Result<f64> {
    assert_eq!(ours.dims(), candles.dims());
    let candles: Vec<f32> = candles.flatten_all()?.to_vec1()?;
    let size = candles.iter().fold(1f32, |size, x| size.max(x.abs()));
    let pairs = ours.to_flat::<f32>()?.into_iter().zip(candles);
    Ok(f64::from(pairs.fold(0f32, |far, (a, b)| far.max((a - b).abs())) / size))
}

/// Random parameters by candle, and their map.
fn random_map(make: impl Fn(VarBuilder) -> candle_core::Result<()>) -> Result<VarMap> {
    let map = VarMap::new();
    make(VarBuilder::from_varmap(&map, DType::F32, CPU))?;
    for (i, (_, var)) in map.data().lock().expect("nobody panicked").iter().enumerate() {
        let noise = (input(var.dims())? * (0.2 + 0.01 * i as f64))?;
        var.set(&(var.as_tensor() + noise)?)?;
    }
    Ok(map)
}

#[test]
fn the_block_of_the_guide_gives_candles_numbers_and_all_gradients() -> Result<()> {
    let (size, heads) = (24, 4);
    let map = random_map(|vb| before::Block::load(size, heads, vb).map(|_| ()))?;
    let candles = before::Block::load(size, heads, VarBuilder::from_varmap(&map, DType::F32, CPU))?;
    let x = input(&[2, 5, size])?;
    let mut mask = vec![0f32; 10];
    mask[9] = f32::NEG_INFINITY;
    let mask = Tensor::from_vec(mask, (2, 1, 1, 5), CPU)?;
    let want = candles.forward(&x, &mask)?;

    let parameters = Parameters::from_varmap(&map);
    let tape = GradientTape::new();
    let watched = parameters.watch(&tape)?;
    let ours = after::Block::load(size, heads, ValueBuilder::from(&watched))?;
    let value = tape.variable(&x);
    let y = ours.forward(&value, &(&mask).into())?;
    let far = distance(&y, &want)?;
    assert!(far <= CLOSE, "the outputs are {far:e} apart");
    // candle's own block drops every gradient at its layer norms; ours has them all.
    let weights = TrackedTensor::from(&input(&[2, 5, size])?);
    let loss = y.mul(&weights)?.sum()?;
    assert!(want.sorted_nodes().is_empty(), "candle's block has a gradient now: say so in the guide");
    let mut sources = vec![&value];
    sources.extend(watched.values());
    for grad in tape.gradient_strict(&loss, &sources)? {
        assert!(grad.to_flat::<f32>()?.iter().all(|g| g.is_finite()));
    }
    Ok(())
}

#[test]
fn the_guide_holds_the_code_that_is_tested() {
    let guide = include_str!("../../docs/porting.md");
    for code in [include_str!("porting/before.rs"), include_str!("porting/after.rs")] {
        assert!(guide.contains(code), "docs/porting.md lacks this code as it is:\n{code}");
    }
}

#[test]
fn layers_load_candles_names_and_give_candles_numbers() -> Result<()> {
    use candle_core::Module as _;
    let (c1, c2) =
        (candle_nn::Conv1dConfig::default(), candle_nn::Conv2dConfig { padding: 1, ..Default::default() });
    let map = random_map(|vb| {
        candle_nn::linear(6, 4, vb.pp("linear"))?;
        candle_nn::linear_no_bias(6, 4, vb.pp("no_bias"))?;
        candle_nn::conv1d(3, 4, 3, c1, vb.pp("conv1d"))?;
        candle_nn::conv2d(3, 4, 3, c2, vb.pp("conv2d"))?;
        candle_nn::layer_norm(6, 1e-5, vb.pp("layer_norm"))?;
        candle_nn::rms_norm(6, 1e-5, vb.pp("rms_norm"))?;
        candle_nn::group_norm(2, 4, 1e-5, vb.pp("group_norm"))?;
        candle_nn::batch_norm(4, 1e-5, vb.pp("batch_norm"))?;
        candle_nn::embedding(7, 6, vb.pp("embedding"))?;
        Ok(())
    })?;
    let theirs = VarBuilder::from_varmap(&map, DType::F32, CPU);
    let parameters = Parameters::from_varmap(&map);
    let watched = parameters.plain()?;
    let vb = ValueBuilder::from(&watched);
    let (rows, line, image) = (input(&[2, 3, 6])?, input(&[2, 3, 9])?, input(&[2, 3, 5, 5])?);
    let wide = input(&[2, 4, 5, 5])?;
    let check =
        |name: &str, ours: Result<TrackedTensor>, candles: candle_core::Result<Tensor>| -> Result<()> {
            let far = distance(&ours?, &candles?)?;
            assert!(far <= CLOSE, "{name}: {far:e} apart");
            Ok(())
        };
    let value = |x: &Tensor| TrackedTensor::from(x);
    check(
        "linear",
        linear(6, 4, vb.pp("linear"))?.forward(&value(&rows)),
        candle_nn::linear(6, 4, theirs.pp("linear"))?.forward(&rows),
    )?;
    check(
        "conv1d",
        conv1d(3, 4, 3, c1, vb.pp("conv1d"))?.forward(&value(&line)),
        candle_nn::conv1d(3, 4, 3, c1, theirs.pp("conv1d"))?.forward(&line),
    )?;
    check(
        "conv2d",
        conv2d(3, 4, 3, c2, vb.pp("conv2d"))?.forward(&value(&image)),
        candle_nn::conv2d(3, 4, 3, c2, theirs.pp("conv2d"))?.forward(&image),
    )?;
    check(
        "layer_norm",
        layer_norm(6, 1e-5, vb.pp("layer_norm"))?.forward(&value(&rows)),
        candle_nn::layer_norm(6, 1e-5, theirs.pp("layer_norm"))?.forward(&rows),
    )?;
    check(
        "rms_norm",
        rms_norm(6, 1e-5, vb.pp("rms_norm"))?.forward(&value(&rows)),
        candle_nn::rms_norm(6, 1e-5, theirs.pp("rms_norm"))?.forward(&rows),
    )?;
    check(
        "group_norm",
        group_norm(2, 4, 1e-5, vb.pp("group_norm"))?.forward(&value(&wide)),
        candle_nn::group_norm(2, 4, 1e-5, theirs.pp("group_norm"))?.forward(&wide),
    )?;
    check(
        "batch_norm",
        batch_norm(4, 1e-5, vb.pp("batch_norm"))?.forward_t(&value(&wide), false),
        candle_nn::ModuleT::forward_t(
            &candle_nn::batch_norm(4, 1e-5, theirs.pp("batch_norm"))?,
            &wide,
            false,
        ),
    )?;
    let tokens = Tensor::new(&[[1u32, 6, 0], [2, 2, 5]], CPU)?;
    check(
        "embedding",
        embedding(7, 6, vb.pp("embedding"))?.forward(&value(&tokens)),
        candle_nn::embedding(7, 6, theirs.pp("embedding"))?.forward(&tokens),
    )?;
    use candle_nn::Activation;
    for activation in
        [Activation::Gelu, Activation::NewGelu, Activation::Silu, Activation::Elu(0.5), Activation::Mish]
    {
        check(
            "activation",
            Module::forward(&activation, &value(&rows)),
            candle_core::Module::forward(&activation, &rows),
        )?;
    }
    Ok(())
}

/// candle's batch norm in training, with its running statistics.
#[test]
fn batch_norm_moves_the_statistics_that_are_saved() -> Result<()> {
    let init = ValueBuilder::seeded(1, DType::F32, CPU);
    batch_norm(4, 1e-5, init.pp("bn"))?;
    let parameters = init.parameters();
    assert_eq!(parameters.vars().len(), 2, "statistics are not trained");
    let x = input(&[3, 4, 5])?;
    let candles = candle_nn::batch_norm(4, 1e-5, VarBuilder::zeros(DType::F32, CPU))?;
    let _ = candles.forward_train(&x)?;
    let layer: BatchNorm = batch_norm(4, 1e-5, ValueBuilder::from(&parameters.plain()?).pp("bn"))?;
    let _ = layer.forward_t(&TrackedTensor::from(&x), true)?;
    let mean = parameters.var("bn.running_mean")?;
    let far = distance(&TrackedTensor::from(mean.as_tensor()), candles.running_mean())?;
    assert!(far <= CLOSE, "{far:e}");
    Ok(())
}

#[test]
fn a_small_model_trains_and_its_state_survives_a_file() -> Result<()> {
    let build = |vb: &ValueBuilder, key: &TrackedTensor| -> Result<_> {
        Ok(sequential()
            .add(linear(4, 8, vb.pp("a"))?)
            .add(|x: &TrackedTensor| x.reshape([-1, 2, 4])?.tanh())
            .add(multi_head_attention(4, 2, vb.pp("attention"))?)
            .add(|x: &TrackedTensor| x.flatten_from(1))
            .add(Dropout::new(0.1, key))
            .add(linear(8, 1, vb.pp("b"))?))
    };
    let init = ValueBuilder::seeded(7, DType::F32, CPU);
    let key = random::key(3);
    build(&init, &key)?;
    let parameters = init.parameters();
    let again = ValueBuilder::seeded(7, DType::F32, CPU);
    build(&again, &key)?;
    for name in parameters.names() {
        let (a, b) = (parameters.var(name)?.clone(), again.parameters().var(name)?.clone());
        assert_eq!(a.flatten_all()?.to_vec1::<f32>()?, b.flatten_all()?.to_vec1::<f32>()?, "{name}");
    }
    let x = TrackedTensor::from(&input(&[16, 4])?);
    let target = x.sum_keepdim(1)?;
    let mut optimiser = AdamW::new_lr(parameters.vars(), 0.02)?;
    let mut losses = Vec::new();
    for step in 0..60 {
        let tape = GradientTape::new();
        let watched = parameters.watch(&tape)?;
        assert_eq!(watched.pp("a").values().len(), 2);
        let model = build(&ValueBuilder::from(&watched), &random::fold_in(&key, step)?)?;
        let loss = model.forward_t(&x, true)?.sub(&target)?.sqr()?.mean()?;
        losses.push(loss.to_vec0::<f32>()?);
        let grads = watched.gradients(&tape, &loss)?;
        drop((watched, model, loss));
        optimiser.step(&grads)?;
    }
    assert!(losses[59] < 0.25 * losses[0], "{losses:?}");

    let file = std::env::temp_dir().join(format!("candle-autograd-{}.safetensors", std::process::id()));
    parameters.save(&file)?;
    let evaluate = |parameters: &Parameters| -> Result<Vec<f32>> {
        build(&ValueBuilder::from(&parameters.plain()?), &key)?.forward(&x)?.to_flat::<f32>()
    };
    let loaded = Parameters::from_safetensors(&file, DType::F32, CPU)?;
    assert_eq!(evaluate(&loaded)?, evaluate(&parameters)?);
    again.parameters().load(&file)?;
    assert_eq!(evaluate(&again.parameters())?, evaluate(&parameters)?);
    let other = ValueBuilder::seeded(1, DType::F32, CPU);
    linear(3, 3, other.pp("a"))?;
    let error = other.parameters().load(&file).expect_err("another shape");
    assert!(error.to_string().contains("a.bias"), "{error}");
    std::fs::remove_file(&file).map_err(candle_autograd::Error::msg)?;
    Ok(())
}

#[test]
fn a_wrong_name_or_shape_is_an_error_that_says_which() -> Result<()> {
    let init = ValueBuilder::seeded(1, DType::F32, CPU);
    linear(3, 2, init.pp("fc"))?;
    let parameters = init.parameters().plain()?;
    let vb = ValueBuilder::from(&parameters);
    let error = linear(3, 2, vb.pp("cf")).expect_err("no such name");
    assert!(error.to_string().contains("cf.weight") && error.to_string().contains("fc.bias"), "{error}");
    let error = linear(3, 4, vb.pp("fc")).expect_err("another shape");
    assert!(error.to_string().contains("[2, 3]") && error.to_string().contains("[4, 3]"), "{error}");
    assert!(error.site().is_some_and(|site| site.file().ends_with("porting.rs")), "{error}");
    assert_eq!(ConvConfig::default().groups, 1);
    Ok(())
}
