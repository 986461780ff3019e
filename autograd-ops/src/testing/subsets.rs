//! Unwanted inputs cost nothing, and change nothing; absent tangents and cotangents are zeros.

use super::Outcome;
use super::compare::{all_close, close, numbers};
use super::first_order::scale_of;
use super::observe::{Observer, Watch};
use super::report::Stop;
use super::sample::draw_like;
use super::subject::Subject;
use autograd_core::smallvec::SmallVec;
use autograd_core::testing::count_evaluations;
use autograd_core::{
    Applied, Call, Cotangents, Error, Grads, Mask, Meta, Residual, Residuals, Result, Rule, Saved,
    TrackedTensor, algebra, is_float,
};
use std::sync::Arc;

/// The same rule on the same numbers; a fused kernel may round otherwise when it gives less.
const SUBSET: f64 = 1e-12;

/// The gradient of each input alone is that of the full call and evaluates no more ops; and each
/// rule by itself, asked for one input, leaves the others alone and reads only what it declares.
pub(crate) fn of_inputs(subject: &Subject<'_>) -> Result<Outcome, Stop> {
    if !subject.is_differentiable() {
        return Ok(Outcome::NothingToCheck);
    }
    let (x, u) = (subject.primals(), subject.cotangents()?);
    let f = |x: &[TrackedTensor]| subject.f(x);
    let (full, most) = count_evaluations(|| subject.modes.vjp(&f, &x, &u));
    let full = full?.1;
    for i in 0..x.len() {
        let alone = |xi: &[TrackedTensor]| {
            let mut x = x.clone();
            x[i] = xi[0].clone();
            subject.f(&x)
        };
        let (got, evaluations) = count_evaluations(|| subject.modes.vjp(&alone, &x[i..=i], &u));
        let place = format!("gradient of input {i} alone,");
        all_close(&place, &got?.1, &full[i..=i], SUBSET)?;
        if evaluations > most {
            let words = format!("evaluates {evaluations} ops, those of all inputs {most}");
            return Err(Stop::broken(&place, words));
        }
    }
    let watch = Watch::new(Arc::new(RuleByRule));
    (subject.case.run)(&watch.over(&subject.inputs))?;
    outputs_add_up(subject, &x, &u, &full)?;
    tangents_add_up(subject, &x)?;
    Ok(Outcome::Checked)
}

/// The gradients of each output alone, the others without cotangents, sum to those of all.
fn outputs_add_up(
    subject: &Subject<'_>,
    x: &[TrackedTensor],
    u: &[TrackedTensor],
    full: &[TrackedTensor],
) -> Result<(), Stop> {
    if u.len() < 2 {
        return Ok(());
    }
    let mut sums: Vec<TrackedTensor> = x.iter().map(algebra::zeros_like).collect::<Result<_>>()?;
    let mut scale = scale_of(&[full])?;
    for j in 0..u.len() {
        let alone = |x: &[TrackedTensor]| Ok(subject.f(x)?.split_off(j).into_iter().take(1).collect());
        let part = subject.modes.vjp(&alone, x, &u[j..=j])?.1;
        scale = scale.max(scale_of(&[&part])?);
        add_all(&mut sums, &part)?;
    }
    all_close("gradient summed over single outputs, input", &sums, full, SUBSET * scale)
}

/// The tangents along each input alone, the others at rest, sum to those along all.
fn tangents_add_up(subject: &Subject<'_>, x: &[TrackedTensor]) -> Result<(), Stop> {
    let v = subject.direction()?;
    let f = |x: &[TrackedTensor]| subject.f(x);
    let full = match subject.modes.jvp(&f, x, &v) {
        // The check of forward mode says so.
        Err(Error::UnsupportedMode { .. }) => return Ok(()),
        both => both?.1,
    };
    let mut sums: Vec<TrackedTensor> = full.iter().map(algebra::zeros_like).collect::<Result<_>>()?;
    let mut scale = scale_of(&[&full])?;
    for i in 0..x.len() {
        let alone = |xi: &[TrackedTensor]| {
            let mut x = x.to_vec();
            x[i] = xi[0].clone();
            subject.f(&x)
        };
        let part = subject.modes.jvp(&alone, &x[i..=i], &v[i..=i])?.1;
        scale = scale.max(scale_of(&[&part])?);
        add_all(&mut sums, &part)?;
    }
    all_close("tangent summed over single inputs, output", &sums, &full, SUBSET * scale)
}

fn add_all(sums: &mut [TrackedTensor], parts: &[TrackedTensor]) -> Result<()> {
    for (sum, part) in sums.iter_mut().zip(parts) {
        *sum = algebra::add(sum, part)?;
    }
    Ok(())
}

/// Runs the reverse rule of each application for each input alone.
#[derive(Debug)]
struct RuleByRule;

impl Observer for RuleByRule {
    fn wants_hints(&self) -> bool {
        true
    }

    fn see(&self, call: &Call<'_>, inputs: &[&TrackedTensor], _: &[bool], applied: &Applied) -> Result<()> {
        let rule = call.op.rule();
        let all = match rule {
            Rule::Linear(linear, _) => linear,
            Rule::Bilinear(a, b, _) => Mask::one(a).with(b),
            Rule::General(_) => Mask::first(inputs.len()),
            // Expressions leave the unwanted out by construction; the others have no rule.
            Rule::Pointwise(_) | Rule::Composite | Rule::Flat | Rule::Opaque(_) => return Ok(()),
        };
        let all = all.and(Mask::of(inputs.len(), |i| is_float(inputs[i].dtype())));
        let application = Application { name: call.op.name(), rule, inputs, applied };
        let cts = application.cotangents()?;
        let full = application.pull(all, all, &cts)?;
        for i in all.iter() {
            // Recorded for all inputs and asked for one; recorded for one.
            for recorded in [all, Mask::one(i)] {
                let part = application.pull(recorded, Mask::one(i), &cts)?;
                application.compare(i, &part, &full)?;
            }
        }
        Ok(())
    }
}

/// One application of an op whose rule is looked at.
struct Application<'a> {
    name: &'static str,
    rule: Rule<'a>,
    inputs: &'a [&'a TrackedTensor],
    applied: &'a Applied,
}

impl Application<'_> {
    fn cotangents(&self) -> Result<Cotangents> {
        let draw = |(j, y): (usize, &TrackedTensor)| {
            let drawn = || draw_like(y, &["rule", self.name], j);
            is_float(y.dtype()).then(drawn).transpose()
        };
        self.applied.outputs.iter().enumerate().map(draw).collect()
    }

    fn residuals(&self, recorded: Mask) -> Residuals {
        match self.rule {
            Rule::Linear(_, transpose) | Rule::Bilinear(_, _, transpose) => {
                transpose.residuals(recorded, self.inputs.len(), self.rule)
            }
            Rule::General(general) => general.residuals(recorded),
            Rule::Pointwise(_) | Rule::Composite | Rule::Flat | Rule::Opaque(_) => Residuals::new(),
        }
    }

    /// The rule for `wanted` inputs, with what it declared for the `recorded` ones.
    fn pull(&self, recorded: Mask, wanted: Mask, cts: &Cotangents) -> Result<Grads> {
        let residuals = self.residuals(recorded);
        let values: Vec<Option<TrackedTensor>> = residuals
            .iter()
            .map(|residual| match *residual {
                Residual::Input(i) => Some(self.inputs[i].clone()),
                Residual::Output(j) => Some(self.applied.outputs[j].clone()),
                Residual::Aux(k) => self.applied.aux.get(k).cloned(),
            })
            .collect();
        let inputs: SmallVec<[Meta; 4]> = self.inputs.iter().map(|x| x.meta()).collect();
        let outputs: SmallVec<[Meta; 2]> = self.applied.outputs.iter().map(TrackedTensor::meta).collect();
        let saved = Saved {
            op: self.name,
            residuals: &residuals,
            values: &values,
            inputs: &inputs,
            outputs: &outputs,
        };
        match self.rule {
            Rule::Linear(_, transpose) | Rule::Bilinear(_, _, transpose) => {
                transpose.transpose(wanted, cts, &saved)
            }
            Rule::General(general) => general.vjp(wanted, cts, &saved),
            Rule::Pointwise(_) | Rule::Composite | Rule::Flat | Rule::Opaque(_) => Ok(Grads::new()),
        }
    }

    fn compare(&self, i: usize, part: &Grads, full: &Grads) -> Result<()> {
        let broken = |reason: String| Error::internal(self.name, reason);
        if let Some(k) = (0..part.len()).find(|&k| k != i && part[k].is_some()) {
            return Err(broken(format!(
                "asked for the cotangent of input {i}, its rule also gives input {k}"
            )));
        }
        let zeros = || vec![0.0; self.inputs[i].elem_count()];
        let of = |grads: &Grads| grads.get(i).and_then(Option::as_ref).map_or_else(|| Ok(zeros()), numbers);
        close("", &of(part)?, &of(full)?, SUBSET).map_err(|_| {
            broken(format!("its cotangent of input {i} changes when the others are not asked for"))
        })
    }
}
