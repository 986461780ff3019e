//! Which layer of a candle model has a wrong gradient.

use autograd_core::{Error, Result, Site};
use candle_core::{DType, Device, Tensor, Var};
use std::fmt;

/// A layer of candle code with its name.
pub type Layer<'a> = (&'a str, &'a dyn Fn(&Tensor) -> candle_core::Result<Tensor>);

/// What was found of one gradient.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Finding {
    /// Candle's gradient agrees with differences.
    Right,
    /// It does not: in some direction the slope is between two numbers, and candle's gradient
    /// gives another.
    Wrong {
        /// The slope in that direction by candle's gradient.
        candle: f64,
        /// The one-sided slopes by differences, the lower one first.
        between: (f64, f64),
    },
    /// The result depends on it, and candle has no gradient: an op on every path drops it.
    Missing,
}

/// What was found of one layer, with respect to its input or a variable.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LayerFinding {
    /// The layer's name.
    pub layer: String,
    /// "input", or "variable" with its shape.
    pub of: String,
    /// The finding.
    pub finding: Finding,
}

/// What [`diagnose`] found, layer by layer.
#[derive(Clone, Debug)]
pub struct Diagnosis(Vec<LayerFinding>);

impl Diagnosis {
    /// All findings, in the order of the layers.
    pub fn findings(&self) -> &[LayerFinding] {
        &self.0
    }

    /// The first finding that is not [`Finding::Right`].
    pub fn first_wrong(&self) -> Option<&LayerFinding> {
        self.0.iter().find(|found| found.finding != Finding::Right)
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for LayerFinding { layer, of, finding } in &self.0 {
            match finding {
                Finding::Right => writeln!(f, "{layer}: gradient of the {of} is right")?,
                Finding::Wrong { candle, between: (low, high) } => writeln!(
                    f,
                    "{layer}: gradient of the {of} is WRONG: slope {candle:.6} where differences give {low:.6} to {high:.6}"
                )?,
                Finding::Missing => {
                    writeln!(f, "{layer}: gradient of the {of} is MISSING: the result depends on it")?;
                }
            }
        }
        Ok(())
    }
}

/// Runs layers one after another, and compares candle's gradient of each, at the values that
/// really arrive there, with differences in random directions: of its input, and of every variable
/// that candle's graph reaches. Several layers can be given as one; the names are yours.
///
/// At a kink any slope between the two one-sided ones is right. In f32 a deviation below 2 %
/// cannot be told from rounding; a model in f64 is checked to 10⁻⁵. Variables are moved a little
/// while the layer runs, and put back to the bit.
///
/// ```
/// use autograd_core::Result;
/// use autograd_nn::{Finding, diagnose};
/// use candle_core::{Device, Tensor};
///
/// fn main() -> Result<()> {
///     let x = Tensor::new(&[[[[0.1f64, 0.5], [0.9, 0.3]]]], &Device::Cpu)?;
///     let found = diagnose(&[("square", &|x| x.sqr()), ("pool", &|x| x.max_pool2d(2))], &x)?;
///     let wrong = found.first_wrong().expect("candle spreads the gradient of a maximum over its window");
///     assert_eq!(wrong.layer, "pool");
///     assert!(matches!(wrong.finding, Finding::Wrong { .. }));
///     Ok(())
/// }
/// ```
///
/// # Errors
/// [`Error::InvalidArgument`] for an input that is not of f32 or f64; whatever a layer reports.
#[track_caller]
pub fn diagnose(layers: &[Layer<'_>], x: &Tensor) -> Result<Diagnosis> {
    let site = Site::caller();
    if !matches!(x.dtype(), DType::F32 | DType::F64) {
        let reason = format!("differences need f32 or f64, and the input is {:?}", x.dtype());
        return Err(Error::argument("diagnose", reason).or_at(site));
    }
    let mut found = Vec::new();
    let mut x = x.detach();
    for (name, f) in layers {
        x = check(name, f, &x, &mut found).map_err(|error| error.or_at(site))?;
    }
    Ok(Diagnosis(found))
}

/// Directions in which a gradient is compared.
const DIRECTIONS: usize = 4;

/// Checks one layer and gives its value.
fn check(
    name: &str,
    f: &dyn Fn(&Tensor) -> candle_core::Result<Tensor>,
    x: &Tensor,
    found: &mut Vec<LayerFinding>,
) -> Result<Tensor> {
    let leaf = Var::from_tensor(x)?;
    let y = f(leaf.as_tensor())?;
    let nodes = y.sorted_nodes();
    let vars: Vec<Tensor> = nodes.iter().filter(|node| node.is_variable()).map(|t| (*t).clone()).collect();
    let mut random = Random(0x5eed);
    let ct = random.signs(y.dims())?.to_dtype(y.dtype())?;
    let grads = if y.track_op() { Some((&y * &ct)?.sum_all()?.backward()?) } else { None };
    let weigh = |y: &Tensor| -> Result<f64> {
        let weighed = (y.to_dtype(DType::F64)? * ct.to_dtype(DType::F64)?)?;
        Ok(weighed.sum_all()?.to_vec0::<f64>()?)
    };
    let mut report = |of: String, finding: Finding| {
        found.push(LayerFinding { layer: name.to_owned(), of, finding });
    };
    let grad = grads.as_ref().and_then(|grads| grads.get(leaf.as_tensor()));
    let at = |moved: &Tensor| weigh(&f(moved)?);
    report("input".to_owned(), compare(x, grad, &at, &mut random)?);
    for var in vars.iter().filter(|var| var.id() != leaf.id() && var.rank() > 0) {
        let saved = var.copy()?;
        let grad = grads.as_ref().and_then(|grads| grads.get(var));
        let at = |moved: &Tensor| {
            var.slice_set(&moved.contiguous()?, 0, 0)?;
            let weighed = f(x).map_err(Error::from).and_then(|y| weigh(&y));
            var.slice_set(&saved, 0, 0)?;
            weighed
        };
        let finding = compare(&saved, grad, &at, &mut random)?;
        report(format!("variable of shape {:?}", var.dims()), finding);
    }
    Ok(y.detach())
}

/// Compares the slopes of a function in random directions with those of a gradient.
fn compare(
    x: &Tensor,
    grad: Option<&Tensor>,
    at: &dyn Fn(&Tensor) -> Result<f64>,
    random: &mut Random,
) -> Result<Finding> {
    // Rounding of f32 is 10⁻⁷ of the values; divided by the step it must stay below the tolerance.
    let (step, tolerance) = if x.dtype() == DType::F64 { (1e-6, 1e-5) } else { (4e-3, 2e-2) };
    let here = at(x)?;
    let count = x.elem_count().max(1) as f64;
    for _ in 0..DIRECTIONS {
        let direction = random.signs(x.dims())?.to_dtype(x.dtype())?;
        let moved = |by: f64| -> Result<f64> { at(&(x + (&direction * by)?)?) };
        let (up, down) = ((moved(step)? - here) / step, (here - moved(-step)?) / step);
        let (low, high) = (up.min(down), up.max(down));
        let slope = match grad {
            Some(grad) => {
                let product = (grad.to_dtype(DType::F64)? * direction.to_dtype(DType::F64)?)?;
                product.sum_all()?.to_vec0::<f64>()?
            }
            None => 0.0,
        };
        // The two sides differ by the curvature along the step, too.
        let room = tolerance * (low.abs().max(high.abs()).max(slope.abs()) + count.sqrt() * tolerance);
        let within = slope >= low - room && slope <= high + room;
        if !within {
            return Ok(match grad {
                Some(_) => Finding::Wrong { candle: slope, between: (low, high) },
                None => Finding::Missing,
            });
        }
    }
    Ok(Finding::Right)
}

/// Random signs (SplitMix64), the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Numbers of ±(0.5 to 1.5), so that sums do not cancel by chance.
    fn signs(&mut self, dims: &[usize]) -> Result<Tensor> {
        let count = dims.iter().product::<usize>();
        let one = |bits: u64| {
            let size = 0.5 + (bits >> 11) as f64 / (1u64 << 53) as f64;
            if bits & 1 == 0 { size } else { -size }
        };
        let numbers: Vec<f64> = (0..count).map(|_| one(self.next())).collect();
        Ok(Tensor::from_vec(numbers, dims, &Device::Cpu)?)
    }
}
