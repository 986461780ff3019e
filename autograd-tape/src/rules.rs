//! Other backward passes for chosen ops: what guided backpropagation, DeepLift, relevance
//! propagation and straight-through estimators are made of.

use autograd_core::{
    Cotangents, Error, General, Grads, Mask, Meta, Prim, Primitive, Residual, Residuals, Result, Rule, Saved,
    Signature, TrackedTensor, Values, apply,
};
use autograd_core::{SliceMut, View};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// A backward pass that stands in for an op's own.
///
/// A closure of the same arguments as [`backward`](Self::backward) is one: it reads all inputs and
/// the first output.
pub trait BackwardRule: Send + Sync {
    /// What the rule reads when the inputs `wanted` out of `inputs` are asked for; by default all
    /// inputs and the first output.
    fn residuals(&self, op: &dyn Primitive, wanted: Mask, inputs: usize) -> Residuals {
        let _ = (op, wanted);
        (0..inputs).map(Residual::Input).chain([Residual::Output(0)]).collect()
    }

    /// The cotangent of each wanted input, from those of the outputs: one entry for each input,
    /// `None` for zero.
    ///
    /// # Errors
    /// Whatever the rule reports.
    fn backward(
        &self,
        op: &dyn Primitive,
        wanted: Mask,
        cts: &[Option<TrackedTensor>],
        saved: &Saved<'_>,
    ) -> Result<Grads>;
}

impl<F> BackwardRule for F
where
    F: Fn(&dyn Primitive, Mask, &[Option<TrackedTensor>], &Saved<'_>) -> Result<Grads> + Send + Sync,
{
    fn backward(
        &self,
        op: &dyn Primitive,
        wanted: Mask,
        cts: &[Option<TrackedTensor>],
        saved: &Saved<'_>,
    ) -> Result<Grads> {
        self(op, wanted, cts, saved)
    }
}

/// What a rule set makes of an application.
#[derive(Clone, Default)]
pub enum Choice {
    /// The op's own rule.
    #[default]
    Own,
    /// The op's decomposition; each of its parts is looked up again. An op without one keeps its
    /// own rule.
    Decompose,
    /// Another backward pass.
    Backward(Arc<dyn BackwardRule>),
}

impl fmt::Debug for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Choice::Own => "Own",
            Choice::Decompose => "Decompose",
            Choice::Backward(_) => "Backward(..)",
        })
    }
}

type Chooser = dyn Fn(&dyn Primitive, Mask) -> Choice + Send + Sync;

/// Backward passes by the name of the op, fixed before anything is recorded; see
/// [`GradientTape::with_rules`](crate::GradientTape::with_rules).
///
/// ```
/// use autograd_core::smallvec::smallvec;
/// use autograd_core::{Mask, Primitive, Result, Saved, TrackedTensor, tap};
/// use autograd_tape::{GradientTape, RuleSet};
///
/// fn main() -> Result<()> {
///     // Gradient reversal: what is tapped passes forward, and comes back with its sign changed.
///     let reverse = |_: &dyn Primitive, _: Mask, cts: &[Option<TrackedTensor>], _: &Saved<'_>| {
///         Ok(smallvec![cts[0].as_ref().map(|ct| -ct).transpose()?])
///     };
///     let tape = GradientTape::with_rules(RuleSet::new().on("tap", reverse));
///     let x = tape.variable(TrackedTensor::scalar(3.0));
///     let y = (tap("features", &x)? * 2.0)?;
///     assert_eq!(tape.derivative(&y, &x)?.to_scalar::<f64>()?, -2.0);
///     Ok(())
/// }
/// ```
#[derive(Default)]
pub struct RuleSet {
    named: HashMap<String, Choice>,
    otherwise: Option<Box<Chooser>>,
}

impl fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        map.entries(&self.named);
        if self.otherwise.is_some() {
            map.entry(&"otherwise", &"chosen for each application");
        }
        map.finish()
    }
}

impl RuleSet {
    /// No rules: every op keeps its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another backward pass for the ops of this name.
    #[must_use]
    pub fn on(mut self, op: &str, rule: impl BackwardRule + 'static) -> Self {
        self.named.insert(op.to_owned(), Choice::Backward(Arc::new(rule)));
        self
    }

    /// The ops of this name by their decomposition: their parts are recorded instead.
    #[must_use]
    pub fn decompose(mut self, op: &str) -> Self {
        self.named.insert(op.to_owned(), Choice::Decompose);
        self
    }

    /// Their own rule for the ops of this name, whatever [`otherwise`](Self::otherwise) says.
    #[must_use]
    pub fn keep(mut self, op: &str) -> Self {
        self.named.insert(op.to_owned(), Choice::Own);
        self
    }

    /// What becomes of ops that no other entry names: `choose` sees the op and which inputs the
    /// tape watches.
    #[must_use]
    pub fn otherwise(
        mut self,
        choose: impl Fn(&dyn Primitive, Mask) -> Choice + Send + Sync + 'static,
    ) -> Self {
        self.otherwise = Some(Box::new(choose));
        self
    }

    /// What becomes of an application.
    pub(crate) fn choice(&self, op: &dyn Primitive, watched: Mask) -> Choice {
        match (self.named.get(op.name()), &self.otherwise) {
            (Some(choice), _) => choice.clone(),
            (None, Some(choose)) => choose(op, watched),
            (None, None) => Choice::Own,
        }
    }
}

/// An op with another backward pass, as it is recorded.
pub(crate) struct Replaced {
    op: Prim,
    rule: Arc<dyn BackwardRule>,
    inputs: usize,
}

impl Replaced {
    pub(crate) fn new(op: &dyn Primitive, rule: Arc<dyn BackwardRule>, inputs: usize) -> Arc<Self> {
        Arc::new(Self { op: op.keep(), rule, inputs })
    }
}

impl fmt::Debug for Replaced {
    // The address tells two rules apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Replaced({:?}, {:p})", &*self.op, Arc::as_ptr(&self.rule))
    }
}

impl General for Replaced {
    fn residuals(&self, wanted: Mask) -> Residuals {
        self.rule.residuals(&*self.op, wanted, self.inputs)
    }

    fn vjp(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let grads = self.rule.backward(&*self.op, wanted, cts, saved)?;
        if grads.len() != self.inputs {
            let reason = format!("its rule gave {} cotangents for {} inputs", grads.len(), self.inputs);
            return Err(Error::internal(self.op.name(), reason));
        }
        Ok(grads)
    }
}

// Everything but the rule is the op's own: a replay evaluates it again.
impl Primitive for Replaced {
    fn name(&self) -> &'static str {
        self.op.name()
    }
    fn label(&self) -> Option<&str> {
        self.op.label()
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(Self { op: self.op.clone(), rule: self.rule.clone(), inputs: self.inputs }))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        self.op.infer(inputs)
    }
    fn scratch(&self, inputs: &[Meta]) -> usize {
        self.op.scratch(inputs)
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        self.op.eval_into(inputs, outputs)
    }
    fn rule(&self) -> Rule<'_> {
        Rule::General(self)
    }
    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        apply(&*self.op, inputs).map(Some)
    }
}

/// The op's own reverse rule, for a rule that changes it or declines.
///
/// # Errors
/// What the op's rule reports; a flat or composite op has none.
pub fn own_backward(
    op: &dyn Primitive,
    wanted: Mask,
    cts: &[Option<TrackedTensor>],
    saved: &Saved<'_>,
) -> Result<Grads> {
    match op.rule() {
        Rule::Pointwise(pointwise) => pointwise.vjp(wanted, &Cotangents::from(cts), saved),
        Rule::Linear(_, transpose) | Rule::Bilinear(_, _, transpose) => {
            transpose.transpose(wanted, cts, saved)
        }
        Rule::General(general) => general.vjp(wanted, cts, saved),
        Rule::Opaque(opaque) => {
            let inputs = (0..saved.inputs.len()).map(|i| saved.input(i)).collect::<Result<Vec<_>>>()?;
            let ct = cts[0].as_ref().ok_or_else(|| Error::internal(op.name(), "it has no cotangent"))?;
            opaque.backward(wanted, ct, &inputs)
        }
        Rule::Composite | Rule::Flat => {
            Err(Error::mode(op.name(), "reverse mode", "it has no reverse rule of its own"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GradientTape;
    use autograd_core::algebra::{mul, neg, scale};
    use autograd_core::smallvec::smallvec;

    /// Ten times the gradient that passes.
    fn tenfold(_: &dyn Primitive, _: Mask, cts: &[Option<TrackedTensor>], _: &Saved<'_>) -> Result<Grads> {
        Ok(smallvec![cts[0].as_ref().map(|ct| scale(ct, 10.0)).transpose()?])
    }

    fn three() -> TrackedTensor {
        TrackedTensor::scalar(3.0)
    }

    #[test]
    fn a_named_op_has_another_gradient_and_others_keep_theirs() -> Result<()> {
        let tape = GradientTape::with_rules(RuleSet::new().on("neg", tenfold));
        let x = tape.variable(three());
        let y = mul(&neg(&x)?, &x)?;
        // −3·1 by the product's own rule, 3·10 by the other one.
        assert_eq!(tape.derivative(&y, &x)?.to_scalar::<f64>()?, 27.0);
        Ok(())
    }

    #[test]
    fn the_rule_reads_inputs_and_output() -> Result<()> {
        let rule = |op: &dyn Primitive, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>| {
            assert_eq!((op.name(), wanted.iter().collect::<Vec<_>>()), ("mul", vec![0]));
            let product = mul(saved.input(0)?, saved.output(0)?)?;
            Ok(smallvec![cts[0].as_ref().map(|ct| mul(ct, &product)).transpose()?, None])
        };
        let tape = GradientTape::with_rules(RuleSet::new().on("mul", rule));
        let x = tape.variable(three());
        let y = mul(&x, &TrackedTensor::scalar(5.0))?;
        assert_eq!(tape.derivative(&y, &x)?.to_scalar::<f64>()?, 45.0);
        Ok(())
    }

    #[test]
    fn the_rest_is_chosen_application_by_application() -> Result<()> {
        let choose = |op: &dyn Primitive, _: Mask| match op.name() {
            "mul" => Choice::Own,
            _ => Choice::Backward(Arc::new(tenfold)),
        };
        let tape = GradientTape::with_rules(RuleSet::new().keep("neg").otherwise(choose));
        let x = tape.variable(three());
        let y = mul(&scale(&neg(&x)?, 2.0)?, &TrackedTensor::scalar(2.0))?;
        assert_eq!(tape.derivative(&y, &x)?.to_scalar::<f64>()?, -20.0);
        Ok(())
    }

    #[test]
    fn a_region_that_is_replayed_keeps_the_rule() -> Result<()> {
        let tape = GradientTape::with_rules(RuleSet::new().on("neg", tenfold));
        let x = tape.variable(three());
        let y = crate::region(crate::RegionOptions::new(), || neg(&mul(&x, &x)?))?;
        assert_eq!(tape.derivative(&y, &x)?.to_scalar::<f64>()?, 60.0);
        Ok(())
    }

    #[test]
    fn what_a_rule_gives_is_not_differentiated_again() -> Result<()> {
        let tape = GradientTape::with_rules(RuleSet::new().on("neg", tenfold)).persistent();
        let x = tape.variable(three());
        let y = neg(&mul(&x, &x)?)?;
        let dy = tape.derivative(&y, &x)?;
        assert_eq!(tape.derivative(&y, &x)?.to_scalar::<f64>()?, 60.0);
        assert!(matches!(tape.derivative(&dy, &x), Err(Error::Untracked { .. })));
        Ok(())
    }

    #[test]
    fn a_rule_with_too_few_cotangents_is_named() -> Result<()> {
        let none = |_: &dyn Primitive, _: Mask, _: &[Option<TrackedTensor>], _: &Saved<'_>| Ok(Grads::new());
        let tape = GradientTape::with_rules(RuleSet::new().on("neg", none));
        let x = tape.variable(three());
        let error = tape.derivative(&neg(&x)?, &x).map(|_| ()).expect_err("the rule is wrong");
        assert!(error.to_string().contains("0 cotangents for 1 inputs"), "{error}");
        Ok(())
    }

    #[test]
    fn an_op_that_has_no_derivative_can_be_given_one() -> Result<()> {
        use autograd_core::{CustomOp, Tensor, custom};
        struct Round;
        impl CustomOp for Round {
            fn name(&self) -> &'static str {
                "round_by_hand"
            }
            fn forward(&self, inputs: &[&Tensor]) -> Result<Tensor> {
                Ok(inputs[0].round()?)
            }
            fn backward(&self, _: &Tensor, _: &[&Tensor]) -> Result<Vec<Tensor>> {
                Err(Error::msg("not asked"))
            }
        }
        let tape = GradientTape::with_rules(RuleSet::new().on("round_by_hand", tenfold));
        let x = tape.variable(TrackedTensor::scalar(1.7));
        let y = custom(Round, &[&x])?;
        assert_eq!(tape.derivative(&y, &x)?.to_scalar::<f64>()?, 10.0);
        Ok(())
    }
}
