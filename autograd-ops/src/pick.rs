//! One element of each row, chosen by a class index: what losses over class indices are made of.
//!
//! Rows are the first dimension, classes the second. A row whose target is the ignored class
//! contributes 0 and gets no gradient, whatever stands in it.

use crate::elsewhere;
use crate::softmax::{all_batched, floats};
use autograd_core::algebra::reshape;
use autograd_core::device::{KernelCall, Tensors};
use autograd_core::kernels::{Layout, Slice, copy, index, memory};
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{DType, Device};
use autograd_core::{
    Error, Grads, Mask, Meta, Prim, Primitive, Result, Rule, Saved, Shape, Signature, SliceMut,
    TrackedTensor, Transpose, Values, View, apply_one, checked_shape, is_float,
};
use std::sync::Arc;

/// y_i = x[i, target_i]; inputs x `[rows, classes]` and the targets `[rows]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pick {
    /// The loss it belongs to, for errors.
    pub(crate) op: &'static str,
    pub(crate) ignore: Option<i64>,
}

/// The transpose of [`Pick`]: y[i, target_i] = x_i, 0 elsewhere; inputs x `[rows]` and the
/// targets `[rows]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unpick {
    pub(crate) pick: Pick,
    pub(crate) classes: usize,
}

impl Pick {
    /// What a device's kernel of this name is told.
    fn call(&self, kernel: &'static str) -> KernelCall {
        let ignored = [i64::from(self.ignore.is_some()), self.ignore.unwrap_or(0)];
        KernelCall::new(kernel, &ignored, &[]).within(self.op)
    }
}

/// The targets as a kernel takes them, and the rows to ignore, whose class is set to 0.
pub(crate) struct Targets {
    pub(crate) classes: Vec<u32>,
    pub(crate) ignored: Vec<usize>,
}

impl Drop for Targets {
    fn drop(&mut self) {
        memory::give(std::mem::take(&mut self.classes));
    }
}

impl Targets {
    /// Reads targets and checks that each one is a class.
    pub(crate) fn read(
        op: &'static str,
        targets: View<'_>,
        classes: usize,
        ignore: Option<i64>,
    ) -> Result<Self> {
        let mut numbers = memory::take::<i64>(targets.layout.elements());
        copy::copy(targets, SliceMut::I64(&mut numbers));
        let mut read = Self { classes: memory::take::<u32>(numbers.len()), ignored: Vec::new() };
        for (row, &number) in numbers.iter().enumerate() {
            if ignore == Some(number) && classes > 0 {
                read.ignored.push(row);
                read.classes[row] = 0;
                continue;
            }
            let class = u32::try_from(number).ok().filter(|&class| (class as usize) < classes);
            let Some(class) = class else {
                memory::give(numbers);
                let reason = format!("target {number} of row {row} is not one of {classes} classes");
                return Err(Error::argument(op, reason));
            };
            read.classes[row] = class;
        }
        memory::give(numbers);
        Ok(read)
    }

    /// As [`read`](Self::read), from a tensor on any device.
    fn from_tensor(
        op: &'static str,
        targets: &autograd_core::Tensor,
        classes: usize,
        ignore: Option<i64>,
    ) -> Result<Self> {
        let numbers = targets.to_device(&Device::Cpu)?.to_dtype(DType::I64)?.to_vec1::<i64>()?;
        let layout = Layout::contiguous(Shape::new(&[numbers.len()]));
        Self::read(op, View { data: Slice::I64(&numbers), layout: &layout }, classes, ignore)
    }

    /// The classes as a column on a device.
    fn tensor(&self, device: &Device) -> Result<autograd_core::Tensor> {
        Ok(autograd_core::Tensor::from_slice(&self.classes, (self.classes.len(), 1), device)?)
    }

    /// A column with 0 in the ignored rows.
    fn cleared(&self, column: &autograd_core::Tensor) -> Result<autograd_core::Tensor> {
        if self.ignored.is_empty() {
            return Ok(column.clone());
        }
        let mut counts = vec![1u8; self.classes.len()];
        self.ignored.iter().for_each(|&row| counts[row] = 0);
        let counts = autograd_core::Tensor::from_vec(counts, (self.classes.len(), 1), column.device())?;
        Ok(counts.where_cond(&column.contiguous()?, &column.zeros_like()?)?)
    }

    /// Runs a kernel on the classes, as a view of the given shape.
    pub(crate) fn with_view<R>(&self, shape: &[usize], kernel: impl FnOnce(View<'_>) -> R) -> R {
        let layout = Layout::contiguous(Shape::new(shape));
        kernel(View { data: Slice::U32(&self.classes), layout: &layout })
    }

    /// Sets the ignored rows, `width` elements each, to 0.
    pub(crate) fn clear_ignored(&self, out: SliceMut<'_>, width: usize) {
        fn clear<T: Copy + Default>(out: &mut [T], rows: &[usize], width: usize) {
            for row in rows {
                out[row * width..][..width].fill(T::default());
            }
        }
        match out {
            SliceMut::F64(out) => clear(out, &self.ignored, width),
            SliceMut::F32(out) => clear(out, &self.ignored, width),
            SliceMut::BF16(out) => clear(out, &self.ignored, width),
            SliceMut::F16(out) => clear(out, &self.ignored, width),
            SliceMut::U8(out) => clear(out, &self.ignored, width),
            SliceMut::U32(out) => clear(out, &self.ignored, width),
            SliceMut::I64(out) => clear(out, &self.ignored, width),
        }
    }
}

/// The error for rows and targets that do not fit: x is `[rows, classes]` of a float type, the
/// targets are `[rows]` integers.
pub(crate) fn check(op: &'static str, x: &Meta, targets: &Meta) -> Result<()> {
    floats(op, x)?;
    if is_float(targets.dtype) {
        return Err(Error::dtype(op, targets.dtype, "class indices are u8, u32 or i64"));
    }
    if x.shape.rank() != 2 || targets.shape.dims() != &x.shape.dims()[..1] {
        let reason = "rows of classes and one target for each row are needed";
        return Err(Error::shape(op, &[x.shape, targets.shape], reason));
    }
    Ok(())
}

/// Which rows count; `None` where all do.
pub(crate) fn counting_rows(targets: &TrackedTensor, ignore: Option<i64>) -> Result<Option<TrackedTensor>> {
    ignore.map(|class| crate::compare::ne(targets, class)).transpose()
}

/// Applies an op over rows to inputs with a batch dimension: it is folded into the rows.
pub(crate) fn batch_rows(
    op: &dyn Primitive,
    batched: Mask,
    inputs: &[&TrackedTensor],
    size: usize,
) -> Result<Option<Values>> {
    let inputs = all_batched(op.name(), batched, inputs, size)?;
    let rows = inputs[0].dims()[1];
    let folded = |x: &TrackedTensor| {
        let mut dims: SmallVec<[usize; 8]> = smallvec![size * rows];
        dims.extend_from_slice(&x.dims()[2..]);
        reshape(x, &checked_shape(op.name(), &dims)?)
    };
    let folded: SmallVec<[TrackedTensor; 4]> = inputs.iter().map(folded).collect::<Result<_>>()?;
    let refs: SmallVec<[&TrackedTensor; 4]> = folded.iter().collect();
    let y = apply_one(op, &refs)?;
    let mut dims: SmallVec<[usize; 8]> = smallvec![size, rows];
    dims.extend_from_slice(&y.dims()[1..]);
    Ok(Some(smallvec![reshape(&y, &checked_shape(op.name(), &dims)?)?]))
}

crate::saved::stored! {
    "pick_class" => Pick { op, ignore }, |_, x| x.len() == 2;
    "place_class" => Unpick { pick, classes }, |_, x| x.len() == 2;
}

impl Primitive for Pick {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "pick_class"
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        check(self.op, &inputs[0], &inputs[1])?;
        Ok(Signature::one(inputs[0].with_shape(inputs[1].shape)))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let &[rows, classes] = inputs[0].layout.dims() else {
            return Err(Error::internal(self.op, "its shapes were not inferred"));
        };
        let targets = Targets::read(self.op, inputs[1], classes, self.ignore)?;
        targets.with_view(&[rows, 1], |at| index::gather(inputs[0], 1, at, outputs[0].reborrow()));
        targets.clear_ignored(outputs[0].reborrow(), 1);
        Ok(())
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(self.call("pick_class"))
    }
    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        let (x, classes) = (&inputs[0], inputs[0].dims()[1]);
        let targets = Targets::from_tensor(self.op, &inputs[1], classes, self.ignore)?;
        let at = targets.tensor(x.device())?;
        let picked = if x.elem_count() == 0 { x.sum_keepdim(1)? } else { x.contiguous()?.gather(&at, 1)? };
        elsewhere::one(targets.cleared(&picked)?.squeeze(1)?)
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::one(0), self)
    }
    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        batch_rows(self, batched, inputs, size)
    }
}

impl Transpose for Pick {
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let op = Unpick { pick: *self, classes: saved.inputs[0].shape.dims()[1] };
        let targets = saved.input(1)?;
        let back = |ct: &TrackedTensor| apply_one(&op, &[ct, targets]);
        Ok(smallvec![cts[0].as_ref().map(back).transpose()?, None])
    }
}

impl Primitive for Unpick {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        "place_class"
    }
    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }
    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let shape = checked_shape(self.pick.op, &[inputs[0].shape.elements(), self.classes])?;
        let y = inputs[0].with_shape(shape);
        check(self.pick.op, &y, &inputs[1])?;
        Ok(Signature::one(y))
    }
    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let rows = inputs[0].layout.elements();
        let targets = Targets::read(self.pick.op, inputs[1], self.classes, self.pick.ignore)?;
        let column = inputs[0].layout.reshape(Shape::new(&[rows, 1]));
        let column = column.ok_or_else(|| Error::internal(self.pick.op, "a row is not a column"))?;
        let x = View { data: inputs[0].data, layout: &column };
        let whole = Shape::new(&[rows, self.classes]);
        copy::fill(0.0, outputs[0].reborrow());
        targets.with_view(&[rows, 1], |at| index::scatter(outputs[0].reborrow(), &whole, 1, at, x));
        targets.clear_ignored(outputs[0].reborrow(), self.classes);
        Ok(())
    }
    fn kernel(&self) -> Option<KernelCall> {
        Some(self.pick.call("place_class"))
    }
    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        let targets = Targets::from_tensor(self.pick.op, &inputs[1], self.classes, self.pick.ignore)?;
        let column = inputs[0].flatten_all()?.unsqueeze(1)?;
        let shape = Shape::new(&[column.dims()[0], self.classes]);
        let zeros = elsewhere::zeros(&shape, &column)?;
        if zeros.elem_count() == 0 {
            return elsewhere::one(zeros);
        }
        let at = targets.tensor(column.device())?;
        elsewhere::one(zeros.scatter_add(&at, &targets.cleared(&column)?.contiguous()?, 1)?)
    }
    fn rule(&self) -> Rule<'_> {
        Rule::Linear(Mask::one(0), self)
    }
    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        batch_rows(self, batched, inputs, size)
    }
}

impl Transpose for Unpick {
    fn transpose(&self, _: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let targets = saved.input(1)?;
        let back = |ct: &TrackedTensor| apply_one(&self.pick, &[ct, targets]);
        Ok(smallvec![cts[0].as_ref().map(back).transpose()?, None])
    }
}
