//! Which training examples an answer is owed to.

use crate::control::{Control, progress};
use crate::function::numbers;
use autograd_core::algebra::{add, mul, scale, sub};
use autograd_core::{Error, Result, Site, TrackedTensor};
use autograd_ops::TensorAutograd;
use autograd_tape::GradientTape;

/// The loss of one example (or of several) as a function of the parameters.
pub type Loss<'f> = dyn Fn(&[TrackedTensor]) -> Result<TrackedTensor> + 'f;

/// Parameters as they were during training, and the learning rate there.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The parameters.
    pub parameters: Vec<TrackedTensor>,
    /// The step size of the training at that time.
    pub learning_rate: f64,
}

fn gradient(loss: &Loss<'_>, parameters: &[TrackedTensor]) -> Result<Vec<TrackedTensor>> {
    gradient_of(loss, parameters, &vec![true; parameters.len()])
}

/// The gradients of the watched ones among the parameters.
fn gradient_of(
    loss: &Loss<'_>,
    parameters: &[TrackedTensor],
    watched: &[bool],
) -> Result<Vec<TrackedTensor>> {
    let tape = GradientTape::new();
    let both = parameters.iter().zip(watched);
    let values: Vec<TrackedTensor> = both
        .map(|(p, &watched)| if watched { tape.try_variable(p) } else { Ok(p.clone()) })
        .collect::<Result<_>>()?;
    let sources: Vec<&TrackedTensor> =
        values.iter().zip(watched).filter_map(|(value, &watched)| watched.then_some(value)).collect();
    tape.gradient(&loss(&values)?, &sources)
}

fn dot(a: &[TrackedTensor], b: &[TrackedTensor]) -> Result<f64> {
    let mut sum = 0.0;
    for (a, b) in a.iter().zip(b) {
        sum += numbers(&mul(a, b)?)?.iter().sum::<f64>();
    }
    Ok(sum)
}

/// Σ over checkpoints of the learning rate times ∇(loss of the training example) · ∇(loss of the
/// test example), for each training example (TracIn, Pruthi et al. 2020): by how much training on
/// it lowered the test example's loss.
///
/// Captum's `TracInCP` gives the same numbers for losses that are summed. Its `TracInCPFast` looks
/// at the weight of the last layer and not at its bias: [`only`](Self::only) that weight.
#[derive(Clone, Debug)]
pub struct TracIn {
    checkpoints: Vec<Checkpoint>,
    only: Option<Vec<usize>>,
    control: Control,
}

impl TracIn {
    /// Along these checkpoints of a training.
    pub fn new(checkpoints: Vec<Checkpoint>) -> Self {
        Self { checkpoints, only: None, control: Control::default() }
    }

    /// By way of these parameters alone, by their numbers in a checkpoint's list: those of the last
    /// layers say much for little work. The others are constants.
    #[must_use]
    pub fn only(mut self, parameters: &[usize]) -> Self {
        self.only = Some(parameters.to_vec());
        self
    }

    progress!();

    /// The influence of each training example.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where [`only`](Self::only) names a parameter twice, or one that a
    /// checkpoint lacks; [`Error::Cancelled`] where the progress callback says so; whatever a loss
    /// reports.
    #[track_caller]
    pub fn influence(&self, train: &[&Loss<'_>], test: &Loss<'_>) -> Result<Vec<f64>> {
        let site = Site::caller();
        let run = || {
            let mut scores = vec![0.0; train.len()];
            let total = self.checkpoints.len() * train.len();
            let mut done = 0;
            for Checkpoint { parameters, learning_rate } in &self.checkpoints {
                let watched = self.watched(parameters.len())?;
                let wanted = gradient_of(test, parameters, &watched)?;
                for (score, loss) in scores.iter_mut().zip(train) {
                    *score += learning_rate * dot(&gradient_of(loss, parameters, &watched)?, &wanted)?;
                    done += 1;
                    self.control.report("tracin", done, total)?;
                }
            }
            Ok(scores)
        };
        run().map_err(|e: Error| e.or_at(site))
    }

    /// Which of `count` parameters matter.
    fn watched(&self, count: usize) -> Result<Vec<bool>> {
        let Some(only) = &self.only else { return Ok(vec![true; count]) };
        let mut watched = vec![false; count];
        for &i in only {
            match watched.get_mut(i) {
                Some(seen @ false) => *seen = true,
                Some(true) => return Err(Error::argument("tracin", format!("parameter {i} is named twice"))),
                None => {
                    let reason = format!("there is no parameter {i}: a checkpoint has {count}");
                    return Err(Error::argument("tracin", reason));
                }
            }
        }
        Ok(watched)
    }
}

/// Influence functions (Koh and Liang 2017): by how much the test loss would fall if a training
/// example counted more, ∇test · (H + damping)⁻¹ ∇train, H the Hessian of the training loss.
///
/// The system is solved once by conjugate gradients on Hessian-vector products; H is never formed.
/// Captum's `NaiveInfluenceFunction` gives the same numbers where `hessian_reg` is the damping and
/// `projection_dim` leaves nothing out; directions of negative curvature, which it drops, are an
/// error here.
#[derive(Clone, Debug)]
pub struct InfluenceFunctions {
    damping: f64,
    tolerance: f64,
    rounds: usize,
    control: Control,
}

impl Default for InfluenceFunctions {
    fn default() -> Self {
        Self::new()
    }
}

impl InfluenceFunctions {
    /// Damping 0.01, residuals of 1e-8, at most 1,000 products.
    pub fn new() -> Self {
        Self { damping: 0.01, tolerance: 1e-8, rounds: 1000, control: Control::default() }
    }

    /// What is added to the Hessian's diagonal, which must make it positive.
    #[must_use]
    pub fn damping(mut self, damping: f64) -> Self {
        self.damping = damping;
        self
    }

    /// The residual at which the solver ends, relative to the right side.
    #[must_use]
    pub fn tolerance(mut self, tolerance: f64) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// The most Hessian-vector products.
    #[must_use]
    pub fn rounds(mut self, rounds: usize) -> Self {
        self.rounds = rounds;
        self
    }

    progress!();

    /// The influence of each training example. `whole` is the training loss that the parameters
    /// minimise.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the damped Hessian is not positive, or the solver does not
    /// converge; [`Error::Cancelled`] where the progress callback, which hears of the solver's products,
    /// says so; whatever a loss reports.
    #[track_caller]
    pub fn influence(
        &self,
        train: &[&Loss<'_>],
        whole: &Loss<'_>,
        test: &Loss<'_>,
        parameters: &[TrackedTensor],
    ) -> Result<Vec<f64>> {
        let site = Site::caller();
        let run = || {
            let direction = self.solve(whole, parameters, &gradient(test, parameters)?)?;
            train.iter().map(|loss| dot(&gradient(loss, parameters)?, &direction)).collect::<Result<Vec<_>>>()
        };
        run().map_err(|e: Error| e.or_at(site))
    }

    /// (H + damping)⁻¹ b.
    fn solve(
        &self,
        loss: &Loss<'_>,
        parameters: &[TrackedTensor],
        b: &[TrackedTensor],
    ) -> Result<Vec<TrackedTensor>> {
        let product = |v: &[TrackedTensor]| -> Result<Vec<TrackedTensor>> {
            // H v = ∇(∇loss · v), both gradients in reverse.
            let tape = GradientTape::new().persistent();
            let variables: Vec<TrackedTensor> =
                parameters.iter().map(|p| tape.try_variable(p)).collect::<Result<_>>()?;
            let sources: Vec<&TrackedTensor> = variables.iter().collect();
            let first = tape.gradient(&loss(&variables)?, &sources)?;
            let mut along: Option<TrackedTensor> = None;
            for (g, v) in first.iter().zip(v).filter(|(g, _)| tape.watches(g)) {
                let part = g.mul(v)?.sum()?;
                along = Some(match along {
                    Some(sum) => add(&sum, &part)?,
                    None => part,
                });
            }
            let curved = match along {
                Some(along) => tape.gradient_detached(&along, &sources)?,
                // A loss that is linear in all parameters has no curvature.
                None => v.iter().map(autograd_core::algebra::zeros_like).collect::<Result<_>>()?,
            };
            curved.iter().zip(v).map(|(h, v)| add(h, &scale(v, self.damping)?)).collect()
        };
        let op = "influence";
        let mut x: Vec<TrackedTensor> =
            b.iter().map(autograd_core::algebra::zeros_like).collect::<Result<_>>()?;
        let (mut rest, mut way) = (b.to_vec(), b.to_vec());
        let mut size = dot(&rest, &rest)?;
        let goal = size * self.tolerance * self.tolerance;
        for round in 1..=self.rounds {
            if size <= goal {
                return Ok(x);
            }
            let curved = product(&way)?;
            let curvature = dot(&way, &curved)?;
            if curvature.is_nan() || curvature <= 0.0 {
                let reason =
                    format!("the damped Hessian is not positive (curvature {curvature:e}): add damping");
                return Err(Error::argument(op, reason));
            }
            let step = size / curvature;
            let along = |a: &[TrackedTensor], b: &[TrackedTensor], t: f64| -> Result<Vec<TrackedTensor>> {
                a.iter().zip(b).map(|(a, b)| add(a, &scale(b, t)?)).collect()
            };
            x = along(&x, &way, step)?;
            rest = rest.iter().zip(&curved).map(|(r, c)| sub(r, &scale(c, step)?)).collect::<Result<_>>()?;
            let next = dot(&rest, &rest)?;
            way = along(&rest, &way, next / size)?;
            size = next;
            self.control.report(op, round, self.rounds)?;
        }
        if size <= goal {
            return Ok(x);
        }
        let reason = format!(
            "conjugate gradients left a residual of {:e} after {} products",
            size.sqrt(),
            self.rounds
        );
        Err(Error::argument(op, reason))
    }
}
