//! The fused op: a run of pointwise ops and sums as one expression with several outputs.

use autograd_core::kernels::expr::{Builder, Node, Reg};
use autograd_core::kernels::machine::{Feed, MAX_INPUTS, MAX_OUTPUTS, Prepared, Target};
use autograd_core::kernels::{Element, Kind, Layout, memory};
use autograd_core::smallvec::SmallVec;
use autograd_core::{
    DType, Definition, Error, Mask, Meta, Pointwise, Prim, Primitive, Result, Rule, ScalarExpr, Shape,
    Signature, SliceMut, TrackedTensor, Values, View, algebra, apply, kind_of,
};
use std::any::Any;
use std::sync::Arc;

/// The most inputs and outputs that an executor runs without an allocation.
pub(crate) const MOST_INPUTS: usize = MAX_INPUTS;
pub(crate) const MOST_OUTPUTS: usize = MAX_OUTPUTS;

/// An output of a fused op.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FusedOutput {
    /// The shape that the expression's value is summed to, which broadcasts to the whole shape.
    pub(crate) kept: Shape,
    /// The same elements as the graph's value has them: without dimensions that a sum took away.
    pub(crate) shape: Shape,
    /// What the sum is multiplied with.
    pub(crate) scale: f64,
    /// Whether it is a mask of bytes.
    pub(crate) mask: bool,
}

/// Several pointwise ops and sums evaluated in one pass over their elements.
#[derive(Clone, Debug)]
pub(crate) struct Fused {
    pub(crate) pointwise: Pointwise,
    pub(crate) shape: Shape,
    pub(crate) dtype: DType,
    pub(crate) outputs: Vec<FusedOutput>,
    /// The ops it was made of, for `explain`.
    pub(crate) parts: Vec<&'static str>,
}

impl Fused {
    pub(crate) fn new(
        expr: ScalarExpr,
        shape: Shape,
        dtype: DType,
        outputs: Vec<FusedOutput>,
        parts: Vec<&'static str>,
    ) -> Self {
        let pointwise = Pointwise::shared(Arc::new(Definition::new("fused", expr)), &[]);
        Self { pointwise, shape, dtype, outputs, parts }
    }

    /// The output that is an input as it is.
    pub(crate) fn passed_on(&self, input: usize) -> Option<usize> {
        let program = self.pointwise.expr().program();
        let is = |reg: &u16| matches!(program.nodes()[usize::from(*reg)], Node::Input(i) if usize::from(i) == input);
        program.outputs().iter().position(is)
    }

    /// The same op that also gives an input as it is, in another shape.
    pub(crate) fn passing_on(&self, input: usize, shape: Shape) -> Self {
        let program = self.pointwise.expr().program();
        let mut b = Builder::new();
        let inputs: Vec<Reg> = (0..program.inputs()).map(|i| b.input(i)).collect();
        let to = b.inline(program, &inputs, &[]);
        let mut outputs: Vec<Reg> = program.outputs().iter().map(|&out| to[usize::from(out)]).collect();
        outputs.push(inputs[input]);
        let expr = ScalarExpr::new(b.finish(&outputs, program.inputs(), 0));
        let mut made = self.outputs.clone();
        made.push(FusedOutput { kept: self.shape, shape, scale: 1.0, mask: false });
        Self::new(expr, self.shape, self.dtype, made, self.parts.clone())
    }

    /// The expression ready to run on inputs of these types and layouts.
    pub(crate) fn prepare(&self, inputs: &[(Kind, Layout)]) -> Result<Prepared> {
        let float = kind_of(self.dtype).ok_or_else(|| Error::internal("fused", "a type without kernels"))?;
        let targets: Vec<Target> = self
            .outputs
            .iter()
            .map(|out| Target {
                shape: out.kept,
                kind: if out.mask { Kind::U8 } else { float },
                scale: out.scale,
            })
            .collect();
        Ok(Prepared::new(self.pointwise.expr().program(), inputs, &self.shape, &targets))
    }
}

impl Primitive for Fused {
    fn name(&self) -> &'static str {
        "fused"
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(self.clone()))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let Some(first) = inputs.first() else {
            return Err(Error::internal("fused", "it reads nothing"));
        };
        for input in inputs {
            if Layout::contiguous(input.shape).broadcast_to(&self.shape).is_none() {
                let reason = "an input does not broadcast to the fused shape";
                return Err(Error::shape("fused", &[input.shape, self.shape], reason));
            }
        }
        let made = |out: &FusedOutput| Meta {
            shape: out.shape,
            dtype: if out.mask { DType::U8 } else { self.dtype },
            device: first.device,
        };
        Ok(Signature { outputs: self.outputs.iter().map(made).collect(), aux: SmallVec::new() })
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn operations(&self, _: &[Meta]) -> u64 {
        let summed = self.outputs.iter().filter(|out| out.kept != self.shape).count() as u64;
        (self.pointwise.expr().operations() + summed) * self.shape.elements() as u64
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let layouts: Vec<(Kind, Layout)> = inputs.iter().map(|x| (x.kind(), *x.layout)).collect();
        let prepared = self.prepare(&layouts)?;
        let feeds: Vec<Feed<'_>> = inputs.iter().map(|x| Feed::Read(x.data)).collect();
        let mut sums = memory::take::<f64>(prepared.sums());
        let (kind, len) = prepared.tiles();
        if kind == Kind::F64 {
            let mut tiles = memory::take::<f64>(len);
            prepared.run(&feeds, outputs, f64::slice_mut(&mut tiles), &mut sums, None);
            memory::give(tiles);
        } else {
            let mut tiles = memory::take::<f32>(len);
            prepared.run(&feeds, outputs, f32::slice_mut(&mut tiles), &mut sums, None);
            memory::give(tiles);
        }
        memory::give(sums);
        Ok(())
    }

    fn rule(&self) -> Rule<'_> {
        Rule::Composite
    }

    fn decompose(&self, inputs: &[&TrackedTensor]) -> Result<Option<Values>> {
        let mut wide: SmallVec<[TrackedTensor; 4]> = inputs.iter().map(|x| (*x).clone()).collect();
        if wide.iter().all(|x| *x.shape() != self.shape) {
            wide[0] = algebra::broadcast_to(&wide[0], &self.shape)?;
        }
        let definition = self.pointwise.definition();
        let mut pointwise = self.pointwise.clone();
        if (0..wide.len()).all(|i| definition.masks.has(i)) {
            // Masks say no type: the first is read as a number of the group's.
            wide[0] = algebra::cast(&wide[0], self.dtype)?;
            let masks = Mask::of(wide.len(), |i| i > 0);
            let definition = Definition { masks, ..Definition::new("fused", definition.expr.clone()) };
            pointwise = Pointwise::shared(Arc::new(definition), self.pointwise.params());
        }
        let refs: SmallVec<[&TrackedTensor; 4]> = wide.iter().collect();
        let whole = apply(&pointwise, &refs)?;
        let parts = whole.iter().zip(&self.outputs).map(|(x, out)| {
            let mut x = algebra::sum_to(x, &out.kept)?;
            if out.scale != 1.0 {
                x = algebra::scale(&x, out.scale)?;
            }
            if out.mask {
                x = algebra::cast(&x, DType::U8)?;
            }
            algebra::reshape(&x, &out.shape)
        });
        Ok(Some(parts.collect::<Result<_>>()?))
    }
}
