//! A tape as a picture: what was recorded, what it keeps, and how strong its gradients are.

use crate::explain::Trace;
use crate::inspect::{Operation, TapeNode, label};
use crate::node::{Slot, Step};
use crate::sweep::{Nodes, sweep};
use crate::tape::GradientTape;
use autograd_core::algebra::ones_like;
use autograd_core::{
    Drawing, DrawnNode, Level, Look, Result, Site, TrackedTensor, bytes_in_words, meta_in_words,
};

impl GradientTape {
    /// The recorded nodes as a picture: op, shape, size, and the bytes kept for the backward pass.
    /// What is spent has no nodes.
    ///
    /// ```
    /// use autograd_core::{Result, TrackedTensor};
    /// use autograd_tape::GradientTape;
    ///
    /// fn main() -> Result<()> {
    ///     let tape = GradientTape::new();
    ///     let x = tape.variable(TrackedTensor::scalar(3.0));
    ///     let y = (&x * &x)?;
    ///     let picture = std::env::temp_dir().join("tape.svg");
    ///     tape.drawing().save(&picture)?;
    ///     assert!(tape.to_svg().contains("mul"));
    ///     Ok(())
    /// }
    /// ```
    pub fn drawing(&self) -> Drawing {
        draw(&self.nodes(), &self.labels(), None)
    }

    /// The same with the norm of the gradient of `target` (summed, where it has several elements)
    /// at every node that it depends on. A gradient that is zero or not finite stands out. The tape
    /// stays as it is.
    ///
    /// # Errors
    /// As [`gradient`](Self::gradient) for a target; what a rule reports.
    ///
    /// ```
    /// use autograd_core::{Result, TrackedTensor};
    /// use autograd_tape::GradientTape;
    ///
    /// fn main() -> Result<()> {
    ///     let tape = GradientTape::new();
    ///     let x = tape.variable(TrackedTensor::scalar(3.0));
    ///     let y = (&x * &x)?;
    ///     assert!(tape.drawing_of(&y)?.to_dot().contains("|gradient| 6"));
    ///     Ok(())
    /// }
    /// ```
    #[track_caller]
    pub fn drawing_of(&self, target: &TrackedTensor) -> Result<Drawing> {
        let site = Site::caller();
        self.check_live(site)?;
        let slot = self.find(target, "target", site)?.slot;
        let variables = self.with_record(|record| {
            let nodes = record.nodes.iter().enumerate();
            let is_variable = nodes.filter(|(_, node)| matches!(node.step, Step::Variable));
            is_variable.map(|(id, _)| Slot { node: id as u32, output: 0 }).collect::<Vec<_>>()
        });
        let level = self.shared.level().unwrap_or_else(Level::fresh);
        let nodes = Nodes::Shared { tape: &self.shared, level, recording: false };
        let mut trace = Trace::default();
        let seeds = vec![(slot, ones_like(target)?)];
        crate::anomaly::unchecked(|| sweep(nodes, seeds, &[], &variables, &mut [&mut trace]))?;
        Ok(draw(&self.nodes(), &self.labels(), Some(&trace)))
    }

    /// The names that values were given with `tap`.
    fn labels(&self) -> Vec<Option<String>> {
        self.with_record(|record| {
            let label = |node: &crate::node::Node| match &node.step {
                Step::Apply(op) => op.label().map(str::to_owned),
                Step::Variable | Step::Released => None,
            };
            record.nodes.iter().map(label).collect()
        })
    }
}

fn draw(nodes: &[TapeNode], labels: &[Option<String>], trace: Option<&Trace>) -> Drawing {
    let mut drawing = Drawing::new();
    for (node, name) in nodes.iter().zip(labels) {
        let mut lines = vec![format!("%{} {}", node.id, label(&node.operation))];
        lines.extend(name.iter().map(|name| format!("{name:?}")));
        lines.extend(node.outputs.iter().map(meta_in_words));
        if node.kept_bytes > 0 {
            lines.push(format!("keeps {}", bytes_in_words(node.kept_bytes)));
        }
        let constants = node.inputs.iter().filter(|input| input.is_none()).count();
        if constants > 0 {
            lines.push(format!("{constants} constant{}", if constants == 1 { "" } else { "s" }));
        }
        let mut look = match node.operation {
            Operation::Variable => Look::Input,
            Operation::Primitive(_) | Operation::Custom(_) => Look::Step,
            Operation::Cut => Look::Faded,
        };
        if let Some(norm) = trace.and_then(|trace| trace.norm(node.id)) {
            lines.push(format!("|gradient| {norm:.3e}"));
            let finite = trace.is_none_or(|trace| trace.is_finite(node.id));
            if norm == 0.0 || !finite {
                look = Look::Alarming;
            }
        }
        let hint = node.site.to_string();
        let from: Vec<usize> = node.inputs.iter().flatten().map(|(id, _)| *id).collect();
        drawing.node(DrawnNode { lines, hint, look }, from);
    }
    drawing
}

#[cfg(test)]
mod tests {
    use super::*;
    use autograd_core::algebra::{mul, scale, sum_to};
    use autograd_core::{Error, Shape, tap};

    #[test]
    fn shapes_bytes_names_and_norms_are_drawn() -> Result<()> {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::from_vec(vec![3f64, 4.], &[2])?);
        let hidden = tap("hidden", &mul(&x, &x)?)?;
        let y = sum_to(&hidden, &Shape::SCALAR)?;
        let _aside = scale(&x, 0.0)?;
        let plain = tape.to_dot();
        assert!(
            plain.contains("%1 mul\\n[2] F64, 16 B\\nkeeps 32 B") && plain.contains("\\\"hidden\\\""),
            "{plain}"
        );
        assert!(!plain.contains("|gradient|"));
        let with = tape.drawing_of(&y)?;
        let text: Vec<String> = with.nodes().iter().map(|node| node.lines.join(" ")).collect();
        assert!(text[0].contains("|gradient| 1.000e1") && text[2].contains("|gradient| 1.414e0"), "{text:?}");
        assert_eq!(with.edges(), [(0, 1), (0, 1), (1, 2), (2, 3), (0, 4)]);
        // Nothing was spent.
        assert_eq!(tape.derivative(&y, &x)?.to_vec1::<f64>()?, [6., 8.]);
        assert!(matches!(tape.drawing_of(&y), Err(Error::SpentTape { .. })));
        assert!(tape.drawing().nodes().is_empty());
        Ok(())
    }

    #[test]
    fn a_dead_gradient_stands_out() -> Result<()> {
        let tape = GradientTape::new();
        let x = tape.variable(TrackedTensor::scalar(1.0));
        let y = scale(&scale(&x, 0.0)?, 2.0)?;
        let drawing = tape.drawing_of(&y)?;
        let looks: Vec<Look> = drawing.nodes().iter().map(|node| node.look).collect();
        assert_eq!(looks, [Look::Alarming, Look::Step, Look::Step]);
        Ok(())
    }
}
