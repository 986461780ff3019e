//! Candle code on a tape: its gradients are candle's, and what candle lacks is an error.

use candle_autograd::nn::{CandleOps, Finding, Parameters, diagnose};
use candle_autograd::{Error, GradientTape, Result, TensorAutograd, TrackedTensor};
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::{VarBuilder, VarMap, linear};

const CPU: &Device = &Device::Cpu;

fn input(dims: &[usize]) -> Result<Tensor> {
    let count: usize = dims.iter().product();
    let data: Vec<f64> = (0..count).map(|i| (i as f64 * 0.7).sin()).collect();
    Ok(Tensor::from_vec(data, dims, CPU)?)
}

/// A model of two linear layers, and its variables.
fn model() -> Result<(impl Fn(&Tensor) -> candle_core::Result<Tensor> + Clone + Send + Sync, Parameters)> {
    let map = VarMap::new();
    let vb = VarBuilder::from_varmap(&map, DType::F64, CPU);
    let (a, b) = (linear(3, 5, vb.pp("a"))?, linear(5, 2, vb.pp("b"))?);
    Ok((move |x: &Tensor| b.forward(&a.forward(x)?.tanh()?), Parameters::from_varmap(&map)))
}

#[test]
fn gradients_of_inputs_and_variables_are_candles_own() -> Result<()> {
    let (f, parameters) = model()?;
    let x = input(&[4, 3])?;
    let leaf = Var::from_tensor(&x)?;
    let want = (f(leaf.as_tensor())?.sqr()? * 3.0)?.sum_all()?.backward()?;
    for checkpointed in [false, true] {
        let tape = GradientTape::new();
        let watched = parameters.watch(&tape)?;
        let value = tape.variable(&x);
        let y = if checkpointed {
            let f = f.clone();
            tape.candle_checkpointed("model", move |x: &Tensor| f(x), &[&value])?
        } else {
            tape.candle(|x: &Tensor| f(x), &[&value])?
        };
        // The seed that arrives is ours: 6 y.
        let loss = y.mul(&y)?.mul(3.0)?.sum()?;
        let mut sources = vec![&value];
        sources.extend(watched.values());
        let mut grads = tape.gradient(&loss, &sources)?;
        let dx = grads.remove(0);
        assert_eq!(dx.to_flat::<f64>()?, want.get(&leaf).expect("a leaf").flatten_all()?.to_vec1::<f64>()?);
        let store = watched.store(grads)?;
        for var in parameters.vars() {
            let (got, want) = (store.get(&var).expect("ours"), want.get(&var).expect("candle's"));
            assert_eq!(got.flatten_all()?.to_vec1::<f64>()?, want.flatten_all()?.to_vec1::<f64>()?);
        }
    }
    Ok(())
}

#[test]
fn many_variables_are_taken_in_groups() -> Result<()> {
    let vars: Vec<Var> = (0..100).map(|i| Ok(Var::new(&[f64::from(i)], CPU)?)).collect::<Result<_>>()?;
    let parameters: Parameters =
        vars.iter().enumerate().map(|(i, var)| (format!("v{i:03}"), var.clone())).collect();
    let tape = GradientTape::new().persistent();
    let watched = parameters.watch(&tape)?;
    let x = tape.variable(TrackedTensor::from_vec(vec![2f64], &[1])?);
    let y = tape.candle(
        |x: &Tensor| vars.iter().try_fold(x.zeros_like()?, |sum, var| sum + (var.sqr()? * x)?),
        &[&x],
    )?;
    let grads = tape.gradient(&y.sum()?, &watched.values())?;
    for (i, grad) in grads.iter().enumerate() {
        assert_eq!(grad.to_vec1::<f64>()?, [4.0 * i as f64]);
    }
    let total: f64 = (0..100).map(|i| f64::from(i * i)).sum();
    assert_eq!(tape.derivative(&y, &x)?.to_vec1::<f64>()?, [total]);
    Ok(())
}

#[test]
fn several_inputs_and_integers_go_in() -> Result<()> {
    let tape = GradientTape::new();
    let (a, b) = (tape.variable(&input(&[2, 3])?), tape.variable(&input(&[2, 3])?));
    let index = TrackedTensor::from_vec(vec![1u32, 1], &[2])?;
    let y = tape.candle(
        |a: &Tensor, b: &Tensor, index: &Tensor| (a * b)?.index_select(index, 0),
        &[&a, &b, &index],
    )?;
    let grads = tape.gradient(&y.sum()?, &[&a, &b])?;
    let twice = |x: &TrackedTensor| -> Result<Vec<f64>> {
        Ok(x.to_flat::<f64>()?.iter().enumerate().map(|(i, x)| if i < 3 { 0.0 } else { 2.0 * x }).collect())
    };
    assert_eq!(grads[0].to_flat::<f64>()?, twice(&b)?);
    assert_eq!(grads[1].to_flat::<f64>()?, twice(&a)?);
    Ok(())
}

#[test]
fn what_candle_cannot_do_is_a_typed_error_at_the_users_line() -> Result<()> {
    let tape = GradientTape::new().persistent();
    let x = tape.variable(&input(&[2, 3])?);
    // No gradient in candle.
    let lost = tape.candle(|x: &Tensor| candle_nn::ops::softmax_last_dim(x), &[&x]);
    let error = lost.expect_err("it would be dropped");
    assert!(error.to_string().contains("no gradient"), "{error}");
    assert!(error.site().is_some_and(|site| site.file().ends_with("candle_code.rs")), "{error}");
    // Another number of arguments.
    assert!(tape.candle(|a: &Tensor, b: &Tensor| a + b, &[&x]).is_err());
    // The function's own error.
    assert!(matches!(tape.candle(|x: &Tensor| x.reshape(7), &[&x]), Err(Error::Candle { .. })));
    // Second order.
    let y = tape.candle(|x: &Tensor| x.sqr(), &[&x])?;
    let dx = tape.derivative(&y.sum()?, &x)?;
    let error = tape.gradient(&dx.sum()?, &[&x]).expect_err("candle differentiates once");
    assert!(matches!(error, Error::UnsupportedMode { mode: "second order", .. }), "{error}");
    Ok(())
}

#[test]
fn a_variable_stepped_before_the_backward_pass_is_an_error() -> Result<()> {
    let var = Var::new(&[2f64], CPU)?;
    let tape = GradientTape::new().verify_saved();
    let v = tape.variable(var.as_tensor());
    let x = tape.variable(&input(&[1])?);
    let y = tape.candle_named("layer", |x: &Tensor| x * var.as_tensor(), &[&x])?;
    var.set(&Tensor::new(&[3f64], CPU)?)?;
    let error = tape.gradient(&y, &[&x, &v]).expect_err("the gradient would use 3");
    assert!(matches!(error, Error::MutatedInput { op: "layer", .. }), "{error}");
    Ok(())
}

#[test]
fn diagnose_names_the_layers_that_candle_gets_wrong() -> Result<()> {
    let x = input(&[1, 2, 4, 4])?;
    let found = diagnose(
        &[
            ("square", &|x| x.sqr()),
            ("pool", &|x| x.max_pool2d(2)),
            ("upsample", &|x| x.upsample_nearest2d(4, 4)?.sqr()),
            ("softmax", &|x| candle_nn::ops::softmax_last_dim(x)),
            ("tanh", &|x| x.tanh()),
        ],
        &x,
    )?;
    let finding = |layer: &str| {
        found.findings().iter().find(|f| f.layer == layer).map(|f| f.finding.clone()).expect("it was checked")
    };
    assert_eq!(finding("square"), Finding::Right);
    assert!(matches!(finding("pool"), Finding::Wrong { .. }), "{found}");
    assert_eq!(finding("softmax"), Finding::Missing);
    assert_eq!(finding("tanh"), Finding::Right);
    assert_eq!(found.first_wrong().map(|f| f.layer.as_str()), Some("pool"));
    // The norm of a zero vector: candle gives NaN.
    let zero = Tensor::zeros(3, DType::F64, CPU)?;
    let found = diagnose(&[("norm at zero", &|x| x.sqr()?.sum_all()?.sqrt())], &zero)?;
    assert!(matches!(found.first_wrong().map(|f| &f.finding), Some(Finding::Wrong { .. })), "{found}");
    Ok(())
}

#[test]
fn diagnose_checks_variables_and_puts_them_back() -> Result<()> {
    let (f, parameters) = model()?;
    let before: Vec<Vec<f64>> =
        parameters.vars().iter().map(|v| Ok(v.flatten_all()?.to_vec1()?)).collect::<Result<_>>()?;
    let found = diagnose(&[("model", &|x| f(x))], &input(&[4, 3])?)?;
    assert_eq!(found.findings().len(), 5, "the input and four variables");
    assert!(found.first_wrong().is_none(), "{found}");
    for (var, before) in parameters.vars().iter().zip(before) {
        assert_eq!(var.flatten_all()?.to_vec1::<f64>()?, before);
    }
    Ok(())
}

#[test]
fn transforms_and_attribution_take_candle_code() -> Result<()> {
    use candle_autograd::interpret::saliency;
    use candle_autograd::nn::candle;
    use candle_autograd::transforms::gradcheck;
    let x = TrackedTensor::from(&input(&[1, 1, 4, 4])?);
    gradcheck(|x: &TrackedTensor| candle(|x: &Tensor| x.tanh()?.sqr(), &[x]), &x)?.require()?;
    let report = gradcheck(|x: &TrackedTensor| candle(|x: &Tensor| x.max_pool2d(2), &[x]), &x)?;
    assert!(!report.passed(), "candle's max_pool2d is wrong");
    let slopes = saliency(|x| candle(|x: &Tensor| x.sin()?.sum_all(), &[x]), &x)?.to_flat::<f64>()?;
    let want: Vec<f64> = x.to_flat::<f64>()?.iter().map(|x| x.cos().abs()).collect();
    assert_eq!(slopes, want);
    Ok(())
}
