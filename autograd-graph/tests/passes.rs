//! What single passes make of graphs: concatenations of split values' gradients, rearrangements that
//! went away, and bytes that a minimum cut saves.

use autograd_core::{Result, TrackedTensor};
use autograd_graph::{Compiled, Graph, Options, Passes, value_and_grad};
use autograd_ops::{TensorAutograd, random};

/// Fused ops keep what eager ops round to memory: some hundred roundings of f32 against the largest
/// number of an output.
const F32: f64 = 1e-4;

type Loss = fn(&[TrackedTensor]) -> Result<TrackedTensor>;

fn draw(dims: &[usize], seed: u64) -> Result<TrackedTensor> {
    random::normal(&random::key(seed), dims, autograd_core::DType::F32)?.mul(0.3)
}

fn inputs(shapes: &[&[usize]]) -> Result<Vec<TrackedTensor>> {
    shapes.iter().zip(1..).map(|(dims, seed)| draw(dims, seed)).collect()
}

fn step(loss: Loss, x: &[TrackedTensor], passes: Passes) -> Result<Compiled> {
    let metas: Vec<_> = x.iter().map(TrackedTensor::meta).collect();
    Graph::capture(value_and_grad(loss), &metas)?.compile(Options { passes, ..Options::default() })
}

/// The compiled step, whose numbers are those of the function.
fn checked(loss: Loss, x: &[TrackedTensor], passes: Passes) -> Result<Compiled> {
    let compiled = step(loss, x, passes)?;
    compiled.graph().check()?;
    let made = compiled.call(&x.iter().collect::<Vec<_>>())?;
    for (a, b) in made.iter().zip(value_and_grad(loss)(x)?) {
        let (a, b) = (a.to_flat::<f32>()?, b.to_flat::<f32>()?);
        let size = b.iter().fold(0f32, |most, x| most.max(x.abs()));
        let apart = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max);
        assert!(a.len() == b.len() && f64::from(apart) <= F32 * f64::from(size), "{apart:e} of {size:e}");
    }
    Ok(compiled)
}

fn count(compiled: &Compiled, name: &str) -> usize {
    compiled.graph().program().instructions.iter().filter(|i| i.op.name() == name).count()
}

#[test]
fn the_gradient_of_a_value_in_chunks_is_a_concatenation() -> Result<()> {
    let x = inputs(&[&[6, 9]])?;
    let chunks: Loss = |x| {
        let parts = x[0].chunk(3, 1)?;
        parts[0].mul(&parts[1].sigmoid()?)?.add(&parts[2].sqr()?)?.sum()
    };
    let joined = checked(chunks, &x, Passes::ALL)?;
    assert_eq!((count(&joined, "embed"), count(&joined, "cat")), (0, 1), "{}", joined.graph());
    let apart = checked(chunks, &x, Passes { join: false, ..Passes::ALL })?;
    assert_eq!((count(&apart, "embed"), count(&apart, "cat")), (3, 0), "{}", apart.graph());

    // Two neighbours that do not fill the dimension keep zeros around them, once.
    let some: Loss = |x| x[0].narrow(1, 1, 3)?.tanh()?.sum()?.add(&x[0].narrow(1, 4, 2)?.sqr()?.sum()?);
    let joined = checked(some, &x, Passes::ALL)?;
    assert_eq!((count(&joined, "embed"), count(&joined, "cat")), (1, 1), "{}", joined.graph());

    // Windows that overlap are summed.
    let windows: Loss = |x| {
        let (a, b, c) = (x[0].narrow(1, 0, 6)?, x[0].narrow(1, 3, 6)?, x[0].narrow(1, 6, 3)?);
        a.tanh()?.sum()?.add(&b.sqr()?.sum()?)?.add(&c.exp()?.sum()?)?.add(&x[0].sigmoid()?.sum()?)
    };
    let joined = checked(windows, &x, Passes::ALL)?;
    assert_eq!((count(&joined, "embed"), count(&joined, "cat")), (1, 1), "{}", joined.graph());
    Ok(())
}

#[test]
fn one_value_in_two_places_is_in_both() -> Result<()> {
    // The same cotangent belongs to both halves, and to the middle too.
    let x = inputs(&[&[4, 8]])?;
    let halves: Loss = |x| {
        let at = |start: usize| x[0].narrow(1, start, 4);
        at(0)?.add(&at(4)?)?.add(&at(2)?)?.sqr()?.sum()
    };
    let joined = checked(halves, &x, Passes::ALL)?;
    assert_eq!((count(&joined, "embed"), count(&joined, "cat")), (1, 1), "{}", joined.graph());
    Ok(())
}

#[test]
fn rearrangements_sink_into_products_and_behind_pointwise_ops() -> Result<()> {
    // (x·w)ᵀ is wᵀ·xᵀ; what is pointwise over transposed values is transposed itself, and the product
    // of that reads it as it lies.
    let x = inputs(&[&[70, 80], &[80, 90], &[70, 60]])?;
    let products: Loss = |x| {
        let h = x[0].matmul(&x[1])?.tanh()?.t()?;
        let gate = x[0].matmul(&x[1])?.sigmoid()?.t()?;
        h.mul(&gate)?.relu()?.matmul(&x[2])?.t()?.exp()?.sum()
    };
    let copies = |compiled: &Compiled| compiled.explain().steps.iter().filter(|s| s.name == "copy").count();
    let metas: Vec<_> = x.iter().map(TrackedTensor::meta).collect();
    let forward = |passes: Passes| {
        Graph::capture(|x| Ok(vec![products(x)?]), &metas)?.compile(Options { passes, ..Options::default() })
    };
    let kept = Passes { sink: false, ..Passes::ALL };
    assert_eq!(copies(&forward(Passes::ALL)?), 0, "{}", forward(Passes::ALL)?.explain());
    assert!(copies(&forward(kept)?) > 0, "{}", forward(kept)?.explain());
    let (sunk, kept) = (checked(products, &x, Passes::ALL)?, checked(products, &x, kept)?);
    assert!(copies(&sunk) < copies(&kept), "{} {}", sunk.explain(), kept.explain());
    assert!(sunk.explain().bytes_moved < kept.explain().bytes_moved);

    // Two turns are one, and a turn and its inverse are none.
    let turns: Loss = |x| {
        let turned = x[0].t()?.t()?.reshape([80, 70])?.reshape([70, 80])?;
        turned.matmul(&x[1])?.sum()
    };
    let sunk = checked(turns, &x, Passes::ALL)?;
    let first = sunk.graph().program().instructions.iter().find(|i| i.op.name() == "matmul");
    assert_eq!(first.map(|i| i.operands[0]), Some(autograd_core::Operand::Input(0)), "{}", sunk.graph());
    Ok(())
}

#[test]
fn a_product_and_its_bias_become_one_op() -> Result<()> {
    let x = inputs(&[&[70, 80], &[80, 90], &[90], &[5, 14, 80], &[1, 90], &[70, 90], &[1]])?;
    let apart = Passes { linear: false, ..Passes::ALL };
    let folds: [(Loss, usize, usize); 8] = [
        (|x| x[0].matmul(&x[1])?.add(&x[2])?.gelu()?.sum(), 1, 0),
        (|x| x[2].add(&x[0].matmul(&x[1])?)?.tanh()?.sum(), 1, 0),
        // Batches are one product of all rows, and a bias may be a row.
        (|x| x[3].matmul(&x[1])?.add(&x[4])?.tanh()?.sum(), 1, 0),
        // A weight that is out × in already.
        (|x| x[0].t()?.matmul(&x[5])?.add(&x[2])?.tanh()?.sum(), 1, 0),
        // Somebody else reads the product.
        (|x| x[0].matmul(&x[1])?.tanh()?.add(&x[0].matmul(&x[1])?.add(&x[2])?.sin()?)?.sum(), 0, 1),
        // Not one number for each column.
        (|x| x[0].matmul(&x[1])?.add(&x[5])?.tanh()?.sum(), 0, 1),
        (|x| x[0].matmul(&x[1])?.add(&x[6])?.tanh()?.sum(), 0, 1),
        (|x| x[0].matmul(&x[1])?.add(0.5)?.tanh()?.sum(), 0, 1),
    ];
    for (k, (loss, linear, matmul)) in folds.into_iter().enumerate() {
        let metas: Vec<_> = x.iter().map(TrackedTensor::meta).collect();
        let graph = Graph::capture(|x| Ok(vec![loss(x)?]), &metas)?;
        let forward = |passes| graph.compile(Options { passes, ..Options::default() });
        let counts = |compiled: &Compiled| (count(compiled, "linear"), count(compiled, "matmul"));
        let (folded, plain) = (forward(Passes::ALL)?, forward(apart)?);
        assert_eq!(counts(&folded), (linear, matmul), "{k}: {}", folded.graph());
        assert_eq!(counts(&plain), (0, 1), "{k}: {}", plain.graph());
        let (folded, plain) = (checked(loss, &x, Passes::ALL)?, checked(loss, &x, apart)?);
        let (folded, plain) = (folded.explain(), plain.explain());
        assert!(folded.bytes_moved <= plain.bytes_moved, "{k}: {folded} {plain}");
        assert!(folded.planned_bytes <= plain.planned_bytes, "{k}: {folded} {plain}");
    }
    // The activation and its argument are both kept: nothing passes over the product but to read it.
    let kept = |x: &[TrackedTensor]| {
        let z = x[0].matmul(&x[1])?.add(&x[2])?;
        Ok(vec![z.gelu()?, z])
    };
    let metas: Vec<_> = x.iter().map(TrackedTensor::meta).collect();
    let moved = |passes| {
        let compiled = Graph::capture(kept, &metas)?.compile(Options { passes, ..Options::default() })?;
        Ok::<_, autograd_core::Error>(compiled.explain().bytes_moved)
    };
    assert!(moved(Passes::ALL)? < moved(apart)?);
    Ok(())
}

const TOKENS: usize = 64;
const WIDTH: usize = 64;

/// Layers with activations of several pointwise ops.
fn layers(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    let layer = |h: TrackedTensor, w: &[TrackedTensor]| -> Result<TrackedTensor> {
        h.matmul(&w[0])?.add(&w[1])?.gelu()?.mul(1.5)?.tanh()
    };
    x[1..].chunks(2).try_fold(x[0].clone(), layer)?.sqr()?.mean()
}

fn transformer(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    let block = |x: TrackedTensor, p: &[TrackedTensor]| -> Result<TrackedTensor> {
        let h = x.layer_norm(&p[0], &p[1], 1e-5)?;
        let qkv = h.matmul(&p[2])?.chunk(3, 2)?;
        let heads = |x: &TrackedTensor| x.reshape([4, TOKENS, 4, WIDTH / 4])?.transpose(1, 2);
        let (q, k, v) = (heads(&qkv[0])?, heads(&qkv[1])?, heads(&qkv[2])?);
        let a = q.scaled_dot_product_attention(&k, &v, None, true, None)?;
        let a = a.transpose(1, 2)?.reshape([4, TOKENS, WIDTH])?;
        let x = (x + a.matmul(&p[3])?)?;
        let h = x.layer_norm(&p[0], &p[1], 1e-5)?.matmul(&p[4])?.gelu()?;
        x + h.matmul(&p[5])?
    };
    x[1..].chunks(6).try_fold(x[0].clone(), block)?.sqr()?.mean()
}

fn convolutions(x: &[TrackedTensor]) -> Result<TrackedTensor> {
    let block = |x: TrackedTensor, w: &[TrackedTensor]| -> Result<TrackedTensor> {
        let h = x.conv2d(&w[0], 1, 1, 1, 1)?.silu()?;
        (h.conv2d(&w[1], 1, 1, 1, 1)?.softplus()? + &x)?.mish()
    };
    x[1..].chunks(2).try_fold(x[0].clone(), block)?.sqr()?.mean()
}

fn nets() -> Result<Vec<(&'static str, Loss, Vec<TrackedTensor>)>> {
    let repeated = |first: &[usize], each: &[&[usize]], times: usize| -> Result<Vec<TrackedTensor>> {
        let shapes = (0..times).flat_map(|_| each.iter().map(|dims| dims.to_vec()));
        std::iter::once(first.to_vec()).chain(shapes).zip(1..).map(|(dims, seed)| draw(&dims, seed)).collect()
    };
    let w = WIDTH;
    let block: [&[usize]; 6] = [&[w], &[w], &[w, 3 * w], &[w, w], &[w, 4 * w], &[4 * w, w]];
    Ok(vec![
        ("layers", layers, repeated(&[256, 128], &[&[128, 128], &[128]], 4)?),
        ("transformer", transformer, repeated(&[4, TOKENS, WIDTH], &block, 3)?),
        ("convolutions", convolutions, repeated(&[4, 8, 32, 32], &[&[8, 8, 3, 3]], 6)?),
    ])
}

#[test]
fn recomputation_never_takes_more_memory() -> Result<()> {
    for (name, loss, x) in nets()? {
        let none = Passes { rematerialise: false, min_cut: false, ..Passes::ALL };
        let bytes = |passes: Passes| -> Result<usize> {
            let compiled = checked(loss, &x, passes)?;
            println!("{name}: {} bytes moved", compiled.explain().bytes_moved);
            Ok(compiled.planned_bytes())
        };
        let kept = bytes(none)?;
        let greedy = bytes(Passes { rematerialise: true, ..none })?;
        let cut = bytes(Passes { min_cut: true, ..none })?;
        let best = bytes(Passes::ALL)?;
        println!("{name}: {kept} bytes kept, {greedy} greedy, {cut} by a cut, {best} by default");
        assert!(greedy <= kept && cut <= kept && best == greedy.min(cut), "{name}");
    }
    Ok(())
}

#[test]
fn a_transformers_gradient_holds_no_zeros_around_parts() -> Result<()> {
    let (_, loss, x) = nets()?.swap_remove(1);
    let joined = checked(loss, &x, Passes::ALL)?;
    assert_eq!((count(&joined, "embed"), count(&joined, "cat")), (0, 3), "{}", joined.explain());
    Ok(())
}

#[test]
fn fusion_leaves_no_groups_that_wait_for_each_other() -> Result<()> {
    // The product joins the early tanh. The sum must then not join the exp that it reads: a path from
    // that one leads back to it through the product's group, by a member made long before.
    let x = inputs(&[&[8, 16], &[8, 16]])?;
    let f = |x: &[TrackedTensor]| -> Result<Vec<TrackedTensor>> {
        let early = x[0].tanh()?;
        let between = early.softmax(-1)?;
        let exp = x[1].exp()?;
        let product = exp.softmax(-1)?.mul(&early)?;
        Ok(vec![product, between.add(&exp)?])
    };
    let metas: Vec<_> = x.iter().map(TrackedTensor::meta).collect();
    let compiled = Graph::capture(f, &metas)?.compile(Options::default())?;
    let refs: Vec<&TrackedTensor> = x.iter().collect();
    for (a, b) in compiled.call(&refs)?.iter().zip(f(&x)?) {
        let apart = a.sub(&b)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(f64::from(apart) <= F32, "{apart:e}");
    }
    Ok(())
}
