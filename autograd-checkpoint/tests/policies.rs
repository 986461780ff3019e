//! Selective checkpoints: which ops run again, whatever the policy; gradients equal to the bit.

use autograd_checkpoint::{DiskStore, Fate, HostStore, Policy, checkpoint_with};
use autograd_core::testing::count_evaluations;
use autograd_core::{Error, Result, Rule, TrackedTensor, tap};
use autograd_ops::TensorAutograd;
use autograd_tape::GradientTape;
use std::sync::Arc;

fn value(seed: usize, dims: &[usize]) -> TrackedTensor {
    let count: usize = dims.iter().product();
    let data: Vec<f32> = (0..count).map(|i| ((i + seed) * 7919 % 997) as f32 / 498.0 - 1.0).collect();
    TrackedTensor::from_vec(data, dims).expect("as many elements as the shape has")
}

/// Ten ops that are evaluated (views and taps are not): three products, two with rules of their
/// own, four elementwise, a sum.
fn model(x: &TrackedTensor, w: &TrackedTensor) -> Result<TrackedTensor> {
    let h = tap("hidden", &x.matmul(w)?.tanh()?)?;
    let q = tap("query", &h.matmul(w)?)?.reshape([1, 2, 8, 16])?;
    let a = q.scaled_dot_product_attention(&q, &q, None, true, None)?.reshape([16, 16])?;
    let a = tap("attended", &a)?;
    let y = (&a.matmul(w)?.sin()? * &h.exp()?)?.softmax(-1)?;
    y.sum_dim(0)
}

/// The gradients of x and w, and how many ops the backward pass evaluated.
fn run(policy: Option<&Policy>) -> Result<(Vec<Vec<u32>>, usize)> {
    let tape = GradientTape::new();
    let (x, w) = (tape.variable(value(1, &[16, 16])), tape.variable(value(2, &[16, 16])));
    let y = match policy {
        Some(policy) => checkpoint_with(policy, |x| Ok(vec![model(&x[0], &w)?]), &[&x])?.swap_remove(0),
        None => model(&x, &w)?,
    };
    let seed = value(3, &[16]);
    let (gradients, evaluations) = count_evaluations(|| tape.gradient_with(&[&y], &[&seed], &[&x, &w]));
    let bits = |g: TrackedTensor| g.to_flat::<f32>().map(|g| g.into_iter().map(f32::to_bits).collect());
    Ok((gradients?.into_iter().map(bits).collect::<Result<_>>()?, evaluations))
}

#[test]
fn each_policy_evaluates_what_it_says() -> Result<()> {
    let (plain, without) = run(None)?;
    // With nothing kept all ops run again but the last sum, whose result nobody reads.
    let cases: [(&str, Policy, usize); 9] = [
        ("nothing", Policy::save_nothing(), 9),
        ("everything", Policy::save_everything(), 0),
        // Left: tanh, attention, sin, exp, their product, softmax.
        ("products", Policy::save_matmuls(), 6),
        // Left: tanh, sin, exp, and their product is read by nobody once softmax is kept.
        ("recompute pointwise", Policy::recompute_pointwise(), 3),
        // The second product is at hand. The first one is evaluated: tanh's rule reads its output.
        ("names", Policy::save_names(["query"]), 8),
        // Attention's rule reads its own output and hint: naming what is made of it saves nothing.
        ("names after the fact", Policy::save_names(["attended"]), 9),
        ("ops", Policy::save_nothing().ops(["softmax", "scaled_dot_product_attention"], Fate::Keep), 6),
        ("a later rule goes first", Policy::save_everything().ops(["tanh"], Fate::Recompute), 1),
        (
            "a rule of one's own",
            Policy::save_nothing().rule(|op, _| matches!(op.rule(), Rule::General(_)).then_some(Fate::Keep)),
            6,
        ),
    ];
    let mut report = Vec::new();
    for (name, policy, want) in cases {
        let (gradients, with) = run(Some(&policy))?;
        assert_eq!(gradients, plain, "{name}");
        report.push((name, with - without, want));
    }
    assert!(report.iter().all(|(_, got, want)| got == want), "{report:?}");
    Ok(())
}

#[test]
fn a_product_with_its_bias_is_kept_as_products_are() -> Result<()> {
    let (w, b) = (value(2, &[16, 16]), value(3, &[16]));
    let evaluated = |policy: Policy| -> Result<usize> {
        let tape = GradientTape::new();
        let x = tape.variable(value(1, &[16, 16]));
        let layer = |x: &[TrackedTensor]| Ok(vec![x[0].linear(&w, Some(&b))?.tanh()?.sin()?]);
        let y = checkpoint_with(&policy, layer, &[&x])?.swap_remove(0);
        let (gradients, evaluations) =
            count_evaluations(|| tape.gradient_with(&[&y], &[&value(4, &[16, 16])], &[&x]));
        gradients.map(|_| evaluations)
    };
    let (nothing, products) = (evaluated(Policy::save_nothing())?, evaluated(Policy::save_matmuls())?);
    assert_eq!(nothing, products + 1);
    Ok(())
}

#[test]
fn offloaded_values_come_back_and_their_files_go() -> Result<()> {
    let (plain, _) = run(None)?;
    let store = Arc::new(DiskStore::new(std::env::temp_dir(), 1 << 20)?);
    let policy = Policy::save_nothing().names(["hidden", "attended"], Fate::Offload).store(store.clone());
    let tape = GradientTape::new();
    let (x, w) = (tape.variable(value(1, &[16, 16])), tape.variable(value(2, &[16, 16])));
    let y = checkpoint_with(&policy, |x| Ok(vec![model(&x[0], &w)?]), &[&x])?.swap_remove(0);
    assert_eq!(store.used_bytes(), 2 * 16 * 16 * 4);
    let gradients = tape.gradient_with(&[&y], &[&value(3, &[16])], &[&x, &w])?;
    for (gradient, plain) in gradients.iter().zip(&plain) {
        assert!(gradient.to_flat::<f32>()?.iter().map(|g| g.to_bits()).eq(plain.iter().copied()));
    }
    assert_eq!(store.used_bytes(), 0);
    let files = std::fs::read_dir(store.path()).map_err(Error::msg)?.count();
    assert_eq!(files, 0);
    // A tape that is dropped without a gradient leaves no file either.
    let tape = GradientTape::new();
    let x = tape.variable(value(1, &[16, 16]));
    let y = checkpoint_with(&policy, |x| Ok(vec![model(&x[0], &value(2, &[16, 16]))?]), &[&x])?;
    assert!(store.used_bytes() > 0);
    drop((y, x, tape));
    assert_eq!(store.used_bytes(), 0);
    Ok(())
}

#[test]
fn second_order_through_values_on_a_disk() -> Result<()> {
    let store = Arc::new(DiskStore::new(std::env::temp_dir(), 1 << 20)?);
    let policy = Policy::save_nothing().names(["h"], Fate::Offload).store(store);
    let tape = GradientTape::new().persistent();
    let x = tape.variable(TrackedTensor::scalar(0.4));
    let y = checkpoint_with(&policy, |x| Ok(vec![tap("h", &x[0].sin()?)?.exp()?]), &[&x])?.swap_remove(0);
    let first = tape.derivative(&y, &x)?;
    let second = tape.derivative(&first, &x)?.to_scalar::<f64>()?;
    let (s, c) = 0.4f64.sin_cos();
    assert!((second - s.exp() * (c * c - s)).abs() < 1e-14, "{second}");
    Ok(())
}

#[test]
fn values_of_a_device_wait_in_host_memory() -> Result<()> {
    let gradient = |store: Option<Arc<dyn autograd_checkpoint::Store>>| -> Result<TrackedTensor> {
        let fate = if store.is_some() { Fate::Offload } else { Fate::Keep };
        let mut policy = Policy::save_nothing().names(["h"], fate);
        if let Some(store) = store {
            policy = policy.store(store);
        }
        let tape = GradientTape::new();
        let x = tape.variable(autograd_core::testing::elsewhere(&value(1, &[4]))?);
        let ys = checkpoint_with(&policy, |x| Ok(vec![tap("h", &x[0].sin()?)?.exp()?.sum()?]), &[&x])?;
        tape.derivative(&ys[0], &x)
    };
    let (kept, moved) = (gradient(None)?, gradient(Some(Arc::new(HostStore)))?);
    assert_eq!(moved.location(), kept.location());
    assert_ne!(moved.location(), autograd_core::DeviceLocation::Cpu);
    assert_eq!(moved.to_flat::<f32>()?, kept.to_flat::<f32>()?);
    Ok(())
}

#[test]
fn what_cannot_be_offloaded_says_why() -> Result<()> {
    let offload = |store: Option<Arc<dyn autograd_checkpoint::Store>>| -> Result<Vec<TrackedTensor>> {
        let mut policy = Policy::save_nothing().ops(["sin"], Fate::Offload);
        if let Some(store) = store {
            policy = policy.store(store);
        }
        let tape = GradientTape::new();
        let x = tape.variable(value(1, &[4]));
        checkpoint_with(&policy, |x| Ok(vec![x[0].sin()?.exp()?]), &[&x])
    };
    let none = offload(None).unwrap_err().to_string();
    assert!(none.contains("no store") && none.contains("policies.rs"), "{none}");
    let host = offload(Some(Arc::new(HostStore))).unwrap_err().to_string();
    assert!(host.contains("host memory already"), "{host}");
    let full = offload(Some(Arc::new(DiskStore::new(std::env::temp_dir(), 8)?))).unwrap_err();
    assert!(matches!(full, Error::Offload { .. }), "{full}");
    // A dual below the tape: the value to move is watched.
    let store: Arc<dyn autograd_checkpoint::Store> = Arc::new(DiskStore::new(std::env::temp_dir(), 1 << 20)?);
    let policy = Policy::save_nothing().ops(["sin"], Fate::Offload).store(store);
    let watched = autograd_forward::jvp(
        |x| {
            let tape = GradientTape::new();
            let x = tape.try_variable(&x[0])?;
            checkpoint_with(&policy, |x| Ok(vec![x[0].sin()?.exp()?]), &[&x])
        },
        &[&value(1, &[4])],
        &[&value(2, &[4])],
    );
    assert!(matches!(watched, Err(Error::UnsupportedMode { mode: "offload", .. })));
    Ok(())
}
