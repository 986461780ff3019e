//! The trilinear form ⟨y, x ⋆ k⟩ as a primitive, and how a batch of such forms becomes one.

use autograd_core::device::{KernelCall, Tensors};
use autograd_core::kernels::conv2d::{Conv2d as Geometry, conv2d as convolve};
use autograd_core::kernels::conv2d::{conv2d_input_grad, conv2d_weight_grad};
use autograd_core::kernels::conv2d::{conv2d_input_grad_then, conv2d_then};
use autograd_core::kernels::machine::Epilogue;
use autograd_core::smallvec::{SmallVec, smallvec};
use autograd_core::{
    At, DType, Error, Finishes, Grads, Mask, Meta, Prim, Primitive, Result, Rule, Saved, Shape, Signature,
    SliceMut, TrackedTensor, Transpose, Values, View, algebra, apply_one, checked_shape, is_float,
};
use std::sync::Arc;

/// The three arguments of the form ⟨y, x ⋆ k⟩.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Input,
    Kernel,
    Output,
}

/// The derivative of ⟨y, x ⋆ k⟩ in one argument, from the other two in the order of [`Role`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Contraction {
    pub(super) geometry: Geometry,
    pub(super) gives: Role,
}

impl Contraction {
    pub(super) fn reads(&self) -> [Role; 2] {
        match self.gives {
            Role::Input => [Role::Kernel, Role::Output],
            Role::Kernel => [Role::Input, Role::Output],
            Role::Output => [Role::Input, Role::Kernel],
        }
    }
}

pub(super) fn dims(g: &Geometry, role: Role) -> [usize; 4] {
    match role {
        Role::Input => [g.batch, g.in_channels, g.height, g.width],
        Role::Kernel => [g.out_channels, g.in_channels / g.groups, g.kernel_h, g.kernel_w],
        Role::Output => [g.batch, g.out_channels, g.out_height(), g.out_width()],
    }
}

crate::saved::datum! {
    enum Role { 0 => Input {}, 1 => Kernel {}, 2 => Output {} }
}
crate::saved::datum!(Geometry {
    batch,
    in_channels,
    height,
    width,
    out_channels,
    kernel_h,
    kernel_w,
    stride,
    padding,
    dilation,
    groups
});

crate::saved::stored! {
    "convolution" => Contraction { geometry, gives }, |op, x| x.len() == 2 && sound(&op.geometry);
}

/// Whether there is such a convolution, and its extents are such that sums and products of them
/// are numbers.
fn sound(g: &Geometry) -> bool {
    let moves = [g.stride, g.padding, g.dilation];
    let all = [g.batch, g.in_channels, g.height, g.width, g.out_channels, g.kernel_h, g.kernel_w, g.groups];
    let small = all.iter().chain(moves.iter().flatten()).all(|n| *n < 1 << 24);
    let steps = g.stride.iter().chain(&g.dilation).all(|n| *n > 0);
    let groups =
        g.groups > 0 && g.in_channels.is_multiple_of(g.groups) && g.out_channels.is_multiple_of(g.groups);
    small && steps && groups && g.kernel_h > 0 && g.kernel_w > 0
}

impl Primitive for Contraction {
    crate::saved::by_tag!();
    fn name(&self) -> &'static str {
        match self.gives {
            Role::Input => "conv2d_input_grad",
            Role::Kernel => "conv2d_weight_grad",
            Role::Output => "conv2d",
        }
    }

    fn keep(&self) -> Prim {
        Prim::Shared(Arc::new(*self))
    }

    fn infer(&self, inputs: &[Meta]) -> Result<Signature> {
        let [a, b] = inputs else {
            return Err(Error::internal(self.name(), format!("{} inputs where it has two", inputs.len())));
        };
        if !is_float(a.dtype) {
            return Err(Error::dtype(self.name(), a.dtype, "convert to a float type with to_dtype"));
        }
        if a.dtype != b.dtype {
            let dtypes = vec![a.dtype, b.dtype];
            return Err(Error::DTypeMismatch { op: self.name(), dtypes, at: At::default() });
        }
        let [ra, rb] = self.reads();
        if a.shape.dims() != dims(&self.geometry, ra) || b.shape.dims() != dims(&self.geometry, rb) {
            return Err(Error::shape(
                self.name(),
                &[a.shape, b.shape],
                "they are not those of the convolution",
            ));
        }
        Ok(Signature::one(a.with_shape(Shape::new(&dims(&self.geometry, self.gives)))))
    }

    fn eval_into(&self, inputs: &[View<'_>], outputs: &mut [SliceMut<'_>]) -> Result<()> {
        let (a, b, out) = (inputs[0], inputs[1], outputs[0].reborrow());
        match self.gives {
            Role::Input => conv2d_input_grad(&self.geometry, b, a, out),
            Role::Kernel => conv2d_weight_grad(&self.geometry, a, b, out),
            Role::Output => convolve(&self.geometry, a, b, out),
        }
        Ok(())
    }

    // An image that is not finite is computed again.
    fn finishes(&self, inputs: &[Meta]) -> Option<Finishes> {
        let float = matches!(inputs[0].dtype, DType::F32 | DType::F64);
        (float && self.gives != Role::Kernel).then_some(Finishes::Repeatedly)
    }

    fn eval_then(&self, inputs: &[View<'_>], then: Epilogue<'_>) -> Result<()> {
        let (a, b) = (inputs[0], inputs[1]);
        match self.gives {
            Role::Input => conv2d_input_grad_then(&self.geometry, b, a, then),
            Role::Output => conv2d_then(&self.geometry, a, b, then),
            Role::Kernel => return Err(Error::internal(self.name(), "its gradient has no epilogue")),
        }
        Ok(())
    }

    fn eval_candle(&self, inputs: &[autograd_core::Tensor]) -> Result<Option<Tensors>> {
        super::elsewhere::contraction(self, inputs)
    }

    fn kernel(&self) -> Option<KernelCall> {
        let g = &self.geometry;
        let pairs = [g.stride, g.padding, g.dilation].concat();
        let integers: SmallVec<[i64; 8]> = pairs.iter().chain([&g.groups]).map(|&n| n as i64).collect();
        Some(KernelCall::new(self.name(), &integers, &[]))
    }

    fn rule(&self) -> Rule<'_> {
        Rule::Bilinear(0, 1, self)
    }

    fn batch(&self, batched: Mask, inputs: &[&TrackedTensor], size: usize) -> Result<Option<Values>> {
        let reads = self.reads();
        let lacking = (0..2).find(|&i| !batched.has(i)).map(|i| reads[i]);
        let fold = Fold { geometry: self.geometry, lacking, size };
        if size == 0 {
            let shape = fold.with_batch(&dims(&self.geometry, self.gives))?;
            let meta = inputs[0].meta().with_shape(shape);
            return Ok(Some(smallvec![algebra::fill(0.0, &meta, inputs[0])?]));
        }
        let mut folded: SmallVec<[TrackedTensor; 2]> = SmallVec::new();
        for (i, role) in reads.into_iter().enumerate() {
            folded.push(if batched.has(i) { fold.pack(role, inputs[i])? } else { inputs[i].clone() });
        }
        let op = Self { geometry: fold.folded(), gives: self.gives };
        let y = apply_one(&op, &[&folded[0], &folded[1]])?;
        Ok(Some(smallvec![fold.unpack(self.gives, &y)?]))
    }
}

impl Transpose for Contraction {
    // The form is symmetric: the cotangent takes the place of what was given, and the wanted
    // input's place is given.
    fn transpose(&self, wanted: Mask, cts: &[Option<TrackedTensor>], saved: &Saved<'_>) -> Result<Grads> {
        let mut grads: Grads = smallvec![None; 2];
        let Some(ct) = &cts[0] else { return Ok(grads) };
        let reads = self.reads();
        for i in wanted.iter() {
            let partner = saved.input(1 - i)?;
            let op = Self { geometry: self.geometry, gives: reads[i] };
            let in_order = if reads[1 - i] < self.gives { [partner, ct] } else { [ct, partner] };
            grads[i] = Some(apply_one(&op, &in_order)?);
        }
        Ok(grads)
    }
}

/// A batch of convolutions as one: the batch dimension joins the images where the kernels lack
/// it, the output channels where the inputs lack it, the input channels where the outputs lack
/// it, and the groups where all three have it.
struct Fold {
    geometry: Geometry,
    lacking: Option<Role>,
    size: usize,
}

impl Fold {
    fn folded(&self) -> Geometry {
        let (g, b) = (self.geometry, self.size);
        match self.lacking {
            Some(Role::Kernel) => Geometry { batch: b * g.batch, ..g },
            Some(Role::Input) => Geometry { out_channels: b * g.out_channels, ..g },
            Some(Role::Output) => Geometry { in_channels: b * g.in_channels, ..g },
            None => Geometry {
                in_channels: b * g.in_channels,
                out_channels: b * g.out_channels,
                groups: b * g.groups,
                ..g
            },
        }
    }

    fn with_batch(&self, dims: &[usize]) -> Result<Shape> {
        let mut all: SmallVec<[usize; 8]> = smallvec![self.size];
        all.extend_from_slice(dims);
        checked_shape("conv2d", &all)
    }

    /// How a batched operand is cut, with the batch in front, and the order in which the parts
    /// must stand to be merged. Channels are cut into groups, which stay outermost.
    fn plan(&self, role: Role) -> (SmallVec<[usize; 8]>, &'static [usize]) {
        let g = &self.geometry;
        let [a, b, c, d] = dims(g, role);
        let (groups, per) = (g.groups, |channels: usize| channels / g.groups);
        match (self.lacking, role) {
            (Some(Role::Kernel), _) | (None, Role::Kernel) => {
                (smallvec![self.size, a, b, c, d], &[0, 1, 2, 3, 4])
            }
            (Some(Role::Input), Role::Kernel) => {
                (smallvec![self.size, groups, per(a), b, c, d], &[1, 0, 2, 3, 4, 5])
            }
            (Some(_), Role::Input | Role::Output) => {
                (smallvec![self.size, a, groups, per(b), c, d], &[1, 2, 0, 3, 4, 5])
            }
            (Some(Role::Output), Role::Kernel) | (None, Role::Input | Role::Output) => {
                (smallvec![self.size, a, b, c, d], &[1, 0, 2, 3, 4])
            }
        }
    }

    fn pack(&self, role: Role, x: &TrackedTensor) -> Result<TrackedTensor> {
        let (cut, order) = self.plan(role);
        let x = algebra::permute(&algebra::reshape(x, &checked_shape("conv2d", &cut)?)?, order)?;
        algebra::reshape(&x, &Shape::new(&dims(&self.folded(), role)))
    }

    fn unpack(&self, role: Role, y: &TrackedTensor) -> Result<TrackedTensor> {
        let (cut, order) = self.plan(role);
        let parts: SmallVec<[usize; 8]> = order.iter().map(|&from| cut[from]).collect();
        let mut back: SmallVec<[usize; 8]> = smallvec![0; order.len()];
        for (to, &from) in order.iter().enumerate() {
            back[from] = to;
        }
        let y = algebra::permute(&algebra::reshape(y, &checked_shape("conv2d", &parts)?)?, &back)?;
        algebra::reshape(&y, &self.with_batch(&dims(&self.geometry, role))?)
    }
}
