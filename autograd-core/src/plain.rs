//! Plain values: numbers in a buffer, seen through a layout; nobody watches them.

use crate::capture::is_capturing;
use crate::deferred::{self, Deferred};
use crate::error::{Error, Result};
use crate::in_place::Obstacle;
use crate::meta::{Meta, dtype_of, kind_of};
use crate::provenance::Cut;
use autograd_kernels::memory::{self, Room};
use autograd_kernels::{Element, Kind, Layout, Shape, Slice, SliceMut, View, bf16, f16};
use candle_core::{CpuStorage, DType, Device, DeviceLocation, Storage, Tensor};
use smallvec::SmallVec;
use std::sync::{Arc, OnceLock};

/// Memory with numbers in it. Dropping it returns the memory to the pool.
// The tag is as wide as what follows it: an enum without gaps is copied in whole words.
#[derive(Debug)]
#[repr(u64)]
pub enum Buffer {
    /// 64-bit floats.
    F64(Vec<f64>),
    /// 32-bit floats.
    F32(Vec<f32>),
    /// Brain floats.
    BF16(Vec<bf16>),
    /// Half floats.
    F16(Vec<f16>),
    /// Bytes.
    U8(Vec<u8>),
    /// 32-bit indices.
    U32(Vec<u32>),
    /// 64-bit indices.
    I64(Vec<i64>),
    /// A candle tensor, read in place. The number is the address of its storage: tensors that
    /// share a storage are locked once a kernel, since two read guards with a writer waiting
    /// between them deadlock.
    Candle(Tensor, usize),
}

macro_rules! buffer_kinds {
    ($($variant:ident),*) => {
        impl Buffer {
            /// A buffer from the pool with room for `len` elements; its content is arbitrary.
            pub fn take(kind: Kind, len: usize) -> Self {
                match kind { $(Kind::$variant => Buffer::$variant(memory::take(len)),)* }
            }

            /// The whole buffer to write; `None` for a candle tensor.
            pub fn slice_mut(&mut self) -> Option<SliceMut<'_>> {
                match self { $(Buffer::$variant(v) => Some(SliceMut::$variant(v)),)* Buffer::Candle(..) => None }
            }

            /// The whole buffer to read; `None` for a candle tensor, which needs a guard.
            pub fn slice(&self) -> Option<Slice<'_>> {
                match self { $(Buffer::$variant(v) => Some(Slice::$variant(v)),)* Buffer::Candle(..) => None }
            }

            /// Moves a whole buffer of `len` elements out into a candle tensor.
            fn into_tensor(mut self, shape: &[usize]) -> Result<Tensor> {
                Ok(match &mut self {
                    $(Buffer::$variant(v) => {
                        // The memory is candle's from here on.
                        memory::release(size_of_val(v.as_slice()));
                        Tensor::from_vec(std::mem::take(v), shape, &Device::Cpu)?
                    })*
                    Buffer::Candle(t, _) => t.clone(),
                })
            }
        }

        impl Drop for Buffer {
            fn drop(&mut self) {
                match self { $(Buffer::$variant(v) => if v.capacity() > 0 { memory::give(std::mem::take(v)) },)* Buffer::Candle(..) => {} }
            }
        }
    };
}

buffer_kinds!(F64, F32, BF16, F16, U8, U32, I64);

/// An element type that buffers hold.
pub(crate) trait Held: Element {
    /// The memory as a buffer; it is already counted as the pool's.
    fn buffer(data: Vec<Self>) -> Buffer;
    /// The numbers of a buffer of this type.
    fn numbers(buffer: &Buffer) -> Option<&[Self]>;
}

#[derive(Debug)]
enum Memory {
    Own(Buffer),
    /// A view: the owner's buffer under another layout. Owners are never views themselves.
    Of(Arc<Plain>),
    /// A view of the one element that `fill` made: a number that the program itself wrote.
    Fill(Arc<Plain>),
    /// Memory of its own that is filled when it is first read.
    Later(Box<Deferred>),
}

impl Memory {
    /// The whole buffer to write; `None` for a view and for a candle tensor.
    fn slice_mut(&mut self) -> Option<SliceMut<'_>> {
        match self {
            Self::Own(buffer) => buffer.slice_mut(),
            Self::Later(deferred) => deferred.buffer_mut()?.slice_mut(),
            Self::Of(_) | Self::Fill(_) => None,
        }
    }
}

/// A value that nobody watches.
#[derive(Debug)]
pub struct Plain {
    layout: Layout,
    /// Whether the layout is contiguous: asked at every op, so it is known from the start.
    contiguous: bool,
    dtype: DType,
    device: DeviceLocation,
    /// Whether a function that was being captured made it.
    known: bool,
    memory: Memory,
    /// Why the numbers are not watched, where they come from watched ones.
    cut: OnceLock<Arc<Cut>>,
}

impl Plain {
    /// A value that owns a whole, contiguous buffer.
    #[inline]
    pub(crate) fn own(buffer: Buffer, meta: &Meta) -> Arc<Self> {
        // A call between the fields would have them built elsewhere first, and copied.
        let (room, known) = (Room::take(), is_capturing());
        room.fill(Self {
            layout: Layout::contiguous(meta.shape),
            contiguous: true,
            dtype: meta.dtype,
            device: meta.device,
            known,
            memory: Memory::Own(buffer),
            cut: OnceLock::new(),
        })
    }

    /// A value with the shape, type and device of `like`, in a buffer of its own.
    #[inline]
    pub(crate) fn own_like(buffer: Buffer, like: &Self) -> Arc<Self> {
        if !(like.contiguous && like.layout.offset() == 0) {
            return Self::own(buffer, &like.meta());
        }
        let (room, known) = (Room::take(), is_capturing());
        room.fill(Self {
            layout: like.layout,
            contiguous: true,
            dtype: like.dtype,
            device: like.device,
            known,
            memory: Memory::Own(buffer),
            cut: OnceLock::new(),
        })
    }

    /// A value that is computed when it is first read.
    pub(crate) fn later(deferred: Box<Deferred>, meta: Meta) -> Arc<Self> {
        let (layout, memory) = (Layout::contiguous(meta.shape), Memory::Later(deferred));
        let (dtype, device) = (meta.dtype, meta.device);
        let known = is_capturing();
        Arc::new(Self { layout, contiguous: true, dtype, device, known, memory, cut: OnceLock::new() })
    }

    /// How the numbers will be computed, where nobody has read them yet.
    #[inline]
    pub(crate) fn deferred(&self) -> Option<&Deferred> {
        match &self.memory {
            Memory::Later(deferred) if deferred.is_open() => Some(deferred),
            Memory::Own(_) | Memory::Of(_) | Memory::Fill(_) | Memory::Later(_) => None,
        }
    }

    /// Whether the elements lie one after the other in row-major order.
    #[inline]
    pub fn is_contiguous(&self) -> bool {
        self.contiguous
    }

    /// Whether the elements are those of the buffer in its order, from its start.
    fn is_whole(&self) -> bool {
        self.contiguous && self.layout.offset() == 0
    }

    /// A value made of given elements.
    pub fn from_vec<T: candle_core::WithDType>(data: Vec<T>, shape: Shape) -> Result<Arc<Self>>
    where
        Buffer: From<Vec<T>>,
    {
        if data.len() != shape.elements() {
            let reason = format!("{} elements given", data.len());
            return Err(Error::shape("from_vec", &[shape], reason));
        }
        let meta = Meta { shape, dtype: T::DTYPE, device: DeviceLocation::Cpu };
        Ok(Self::own(Buffer::from(data), &meta))
    }

    /// The candle tensor, read in place; any history that candle keeps for it is cut.
    pub fn from_candle(tensor: &Tensor) -> Result<Arc<Self>> {
        let tensor = tensor.detach();
        let Some(shape) = Shape::try_new(tensor.dims()) else {
            let reason =
                format!("rank {} is above the limit of {}", tensor.rank(), autograd_kernels::MAX_RANK);
            return Err(Error::argument("from_candle", reason));
        };
        let (identity, layout) = {
            let (storage, layout) = tensor.storage_and_layout();
            let address = std::ptr::from_ref::<Storage>(&storage).addr();
            (address, Layout::new(shape, layout.stride(), layout.start_offset()))
        };
        let (dtype, device) = (tensor.dtype(), tensor.device().location());
        let contiguous = layout.is_contiguous();
        Ok(Arc::new(Self {
            layout,
            contiguous,
            dtype,
            device,
            // Somebody else may hold the tensor, and change it.
            known: false,
            memory: Memory::Own(Buffer::Candle(tensor, identity)),
            cut: OnceLock::new(),
        }))
    }

    /// A value of a copy of what a kernel sees, contiguous.
    pub(crate) fn copy_of(view: View<'_>) -> Arc<Self> {
        let dtype = dtype_of(view.kind());
        let meta = Meta { shape: *view.layout.shape(), dtype, device: DeviceLocation::Cpu };
        let mut buffer = Buffer::take(view.kind(), meta.elements());
        if let Some(out) = buffer.slice_mut() {
            autograd_kernels::copy::copy(view, out);
        }
        Self::own(buffer, &meta)
    }

    /// A tensor of the place `location`, which is its device's but for values that a test only
    /// says to be elsewhere.
    pub(crate) fn on_device(tensor: &Tensor, location: DeviceLocation) -> Result<Arc<Self>> {
        let mut plain = Self::from_candle(tensor)?;
        if let Some(plain) = Arc::get_mut(&mut plain) {
            plain.device = location;
        }
        Ok(plain)
    }

    /// The tensor of a value on a device: there no view has another layout than its tensor.
    pub(crate) fn device_tensor(&self) -> Result<Tensor> {
        match (&self.memory, self.buffer()) {
            (Memory::Own(_), Buffer::Candle(tensor, _)) => Ok(tensor.clone()),
            (Memory::Fill(_), Buffer::Candle(tensor, _)) => Ok(tensor.broadcast_as(self.layout.dims())?),
            // The same tensor behind another cut.
            (Memory::Of(owner), Buffer::Candle(tensor, _)) if owner.layout == self.layout => {
                Ok(tensor.clone())
            }
            _ => Err(Error::internal("device", "a view under another layout than its tensor's")),
        }
    }

    /// The layout.
    #[inline]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The element type.
    #[inline]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where the elements are.
    #[inline]
    pub fn device(&self) -> DeviceLocation {
        self.device
    }

    /// The device itself, as candle has it.
    pub(crate) fn candle_device(&self) -> Device {
        match &self.memory {
            Memory::Own(Buffer::Candle(tensor, _)) => tensor.device().clone(),
            Memory::Of(owner) | Memory::Fill(owner) => owner.candle_device(),
            Memory::Own(_) | Memory::Later(_) => Device::Cpu,
        }
    }

    /// Shape, element type and device.
    #[inline]
    pub fn meta(&self) -> Meta {
        Meta { shape: *self.layout.shape(), dtype: self.dtype, device: self.device }
    }

    /// The buffer, which views share with their owner; what was deferred is computed.
    #[inline]
    pub fn buffer(&self) -> &Buffer {
        match &self.memory {
            Memory::Own(buffer) => buffer,
            Memory::Later(deferred) => deferred.buffer(),
            Memory::Of(owner) | Memory::Fill(owner) => owner.buffer(),
        }
    }

    /// The elements in row-major order, where they lie so in memory of our own.
    #[inline]
    pub(crate) fn elements<T: Held>(&self) -> Option<&[T]> {
        if !self.contiguous {
            return None;
        }
        let start = self.layout.offset();
        T::numbers(self.buffer())?.get(start..start + self.layout.elements())
    }

    /// The number that [`fill`](crate::algebra::fill) made this of: what a program may treat as
    /// known. Closed-over values are never literals, even where all their elements are equal.
    pub fn literal(&self) -> Option<f64> {
        let Memory::Fill(owner) = &self.memory else { return None };
        let slice = owner.buffer().slice().filter(|slice| slice.len() == 1)?;
        let one = Layout::contiguous(Shape::new(&[1]));
        let mut number = [0.0f64];
        autograd_kernels::copy::copy(View { data: slice, layout: &one }, SliceMut::F64(&mut number));
        Some(number[0])
    }

    /// Whether the value is one that a captured function made itself, or a literal: the same at
    /// every run of its program. What is closed over is not known.
    #[inline]
    pub fn is_known(&self) -> bool {
        self.known || matches!(self.memory, Memory::Fill(_))
    }

    /// Whether the memory is ours: not a candle tensor's.
    #[inline]
    pub fn is_own(&self) -> bool {
        match &self.memory {
            Memory::Own(buffer) => !matches!(buffer, Buffer::Candle(..)),
            Memory::Of(owner) | Memory::Fill(owner) => owner.is_own(),
            Memory::Later(_) => true,
        }
    }

    /// The same memory under another layout.
    #[inline]
    pub(crate) fn view(self: &Arc<Self>, layout: Layout) -> Arc<Self> {
        let memory = match &self.memory {
            Memory::Own(_) | Memory::Later(_) => Memory::Of(self.clone()),
            Memory::Of(owner) => Memory::Of(owner.clone()),
            Memory::Fill(owner) => Memory::Fill(owner.clone()),
        };
        let (room, contiguous, cut) = (Room::take(), layout.is_contiguous(), self.cut.clone());
        let (dtype, device, known) = (self.dtype, self.device, self.known);
        room.fill(Self { layout, contiguous, dtype, device, known, memory, cut })
    }

    /// The same numbers in row-major order under a shape of as many, where they lie in that order.
    #[inline]
    pub(crate) fn reshaped(self: &Arc<Self>, shape: &Shape) -> Option<Arc<Self>> {
        let fits = self.contiguous && self.layout.elements() == shape.elements();
        fits.then(|| self.view(Layout::contiguous_from(*shape, self.layout.offset())))
    }

    /// The cut behind which the numbers lie.
    #[inline]
    pub fn cut(&self) -> Option<&Arc<Cut>> {
        self.cut.get()
    }

    /// Notes the cut behind which the numbers lie; a value that has one keeps it.
    pub(crate) fn set_cut(&self, cut: &Arc<Cut>) {
        let _ = self.cut.set(cut.clone());
    }

    /// Carries the cut of operands on to a value computed from them.
    #[inline]
    pub(crate) fn inherit<'a>(&self, operands: impl IntoIterator<Item = &'a Self>) {
        if let Some(cut) = operands.into_iter().find_map(|plain| plain.cut.get()) {
            self.set_cut(cut);
        }
    }

    /// The same memory as a value that a captured function counts as its own.
    pub(crate) fn as_known(self: &Arc<Self>) -> Arc<Self> {
        let mut value = self.without_cut();
        if let Some(value) = Arc::get_mut(&mut value) {
            value.known = true;
        }
        value
    }

    /// The same memory as a value of its own, for another cut.
    pub(crate) fn without_cut(self: &Arc<Self>) -> Arc<Self> {
        let memory = match &self.memory {
            Memory::Own(_) | Memory::Later(_) => Memory::Of(self.clone()),
            Memory::Of(owner) => Memory::Of(owner.clone()),
            Memory::Fill(owner) => Memory::Fill(owner.clone()),
        };
        Arc::new(Self {
            layout: self.layout,
            contiguous: self.contiguous,
            dtype: self.dtype,
            device: self.device,
            known: self.known,
            memory,
            cut: OnceLock::new(),
        })
    }

    /// The one element of this value, repeated: what `fill` makes.
    pub(crate) fn repeated(self: &Arc<Self>, layout: Layout) -> Arc<Self> {
        let (dtype, device, contiguous) = (self.dtype, self.device, layout.is_contiguous());
        let memory = Memory::Fill(self.clone());
        Arc::new(Self { layout, contiguous, dtype, device, known: true, memory, cut: OnceLock::new() })
    }

    /// The value to take apart, where nobody else has it.
    fn alone(self: &mut Arc<Self>) -> Option<&mut Self> {
        if matches!(self.memory, Memory::Later(_)) {
            deferred::close(self);
        }
        Arc::get_mut(self)
    }

    /// The elements to change in place, where nobody else can see them.
    pub(crate) fn unique_mut(self: &mut Arc<Self>) -> Option<SliceMut<'_>> {
        let plain = self.alone()?;
        let whole = plain.contiguous && plain.layout.offset() == 0;
        if whole { plain.memory.slice_mut() } else { None }
    }

    /// The elements in row-major order, to be written over where nobody else can see them: the
    /// memory is this value's alone, or that of a view whose owner is gone.
    pub(crate) fn writable(self: &mut Arc<Self>) -> Result<SliceMut<'_>, Obstacle> {
        if !self.is_own() {
            let cpu = self.device == DeviceLocation::Cpu;
            return Err(if cpu { Obstacle::CandleMemory } else { Obstacle::NoKernel });
        }
        if !self.contiguous {
            return Err(Obstacle::NoKernel);
        }
        let plain = self.alone().ok_or(Obstacle::Shared)?;
        let (start, len) = (plain.layout.offset(), plain.layout.elements());
        let whole = match &mut plain.memory {
            Memory::Of(owner) | Memory::Fill(owner) => {
                owner.alone().ok_or(Obstacle::Shared)?.memory.slice_mut()
            }
            own => own.slice_mut(),
        };
        whole.and_then(|whole| whole.part(start..start + len)).ok_or(Obstacle::NoKernel)
    }

    /// Whether the value is as large as the memory of our own that it keeps alive.
    pub(crate) fn fills_its_memory(&self) -> bool {
        let own = |buffer: &Buffer| buffer.slice().is_some_and(|s| s.len() == self.layout.elements());
        match &self.memory {
            Memory::Own(buffer) => own(buffer),
            Memory::Later(_) => true,
            Memory::Of(owner) => owner.layout.elements() == self.layout.elements() && owner.is_own(),
            Memory::Fill(_) => false,
        }
    }

    /// Whether this handle is the only one to a whole buffer of our own.
    pub(crate) fn is_last(self: &Arc<Self>) -> bool {
        !matches!(self.memory, Memory::Of(_))
            && self.fills_its_memory()
            && self.is_whole()
            && Arc::strong_count(self) == 1
    }

    /// The buffer of a value that [`is_last`](Self::is_last); the value where that is no longer so.
    pub(crate) fn into_buffer(self: Arc<Self>) -> Result<Buffer, Arc<Self>> {
        Arc::try_unwrap(self).map(|plain| match plain.memory {
            Memory::Own(buffer) => buffer,
            Memory::Later(deferred) => {
                deferred.into_buffer().expect("a deferred value has a buffer once it is read")
            }
            Memory::Of(_) | Memory::Fill(_) => unreachable!("a view has no buffer of its own"),
        })
    }

    /// The value as a candle tensor: moved where nobody else has it, otherwise copied.
    pub(crate) fn into_tensor(self: Arc<Self>) -> Result<Tensor> {
        if self.device != DeviceLocation::Cpu {
            return self.device_tensor();
        }
        let whole = self.contiguous && self.layout.offset() == 0;
        match Arc::try_unwrap(self) {
            Ok(Self { layout, memory: Memory::Own(buffer), .. })
                if whole && buffer.slice().is_some_and(|s| s.len() == layout.elements()) =>
            {
                buffer.into_tensor(layout.dims())
            }
            Ok(Self { layout, memory: Memory::Later(deferred), .. }) => match deferred.into_buffer() {
                Some(buffer) => buffer.into_tensor(layout.dims()),
                None => Err(Error::internal("into_tensor", "a deferred value has a buffer once it is read")),
            },
            // The last one to see the whole of an owner's memory.
            Ok(Self { layout, memory: Memory::Of(owner), .. })
                if whole && owner.is_whole() && layout.elements() == owner.layout.elements() =>
            {
                owner.into_tensor()?.reshape(layout.dims()).map_err(Error::from)
            }
            Ok(plain) => plain.to_tensor(),
            Err(shared) => shared.to_tensor(),
        }
    }

    /// A candle tensor with the same numbers in memory of its own. A value that came from candle
    /// and was never rearranged is that tensor again.
    pub(crate) fn to_tensor(&self) -> Result<Tensor> {
        if self.device != DeviceLocation::Cpu {
            return self.device_tensor();
        }
        if let Memory::Own(Buffer::Candle(tensor, _)) = &self.memory {
            return Ok(tensor.clone());
        }
        let Some(kind) = kind_of(self.dtype) else {
            return Err(Error::dtype("to_tensor", self.dtype, "move or convert it with candle first"));
        };
        let mut out = Buffer::take(kind, self.layout.elements());
        open("to_tensor", &[self], |views| {
            let slice =
                out.slice_mut().ok_or_else(|| Error::internal("to_tensor", "no memory of its own"))?;
            autograd_kernels::copy::copy(views[0], slice);
            Ok(())
        })?;
        out.into_tensor(self.layout.dims())
    }
}

macro_rules! from_vec {
    ($($variant:ident $ty:ty),*) => {
        $(impl From<Vec<$ty>> for Buffer {
            fn from(data: Vec<$ty>) -> Self {
                memory::adopt(size_of_val(data.as_slice()));
                Buffer::$variant(data)
            }
        }

        impl Held for $ty {
            #[inline]
            fn buffer(data: Vec<Self>) -> Buffer {
                Buffer::$variant(data)
            }

            #[inline]
            fn numbers(buffer: &Buffer) -> Option<&[Self]> {
                if let Buffer::$variant(data) = buffer { Some(data) } else { None }
            }
        })*
    };
}

from_vec!(F64 f64, F32 f32, BF16 bf16, F16 f16, U8 u8, U32 u32, I64 i64);

/// Runs a kernel on the values' memory. Candle storages are locked for reading meanwhile, each
/// one once.
pub(crate) fn open<R>(
    op: &'static str,
    inputs: &[&Plain],
    kernel: impl FnOnce(&[View<'_>]) -> Result<R>,
) -> Result<R> {
    let mut guards: SmallVec<[(usize, _); 2]> = SmallVec::new();
    for plain in inputs {
        if let Buffer::Candle(tensor, identity) = plain.buffer()
            && guards.iter().all(|(known, _)| known != identity)
        {
            guards.push((*identity, tensor.storage_and_layout().0));
        }
    }
    let mut views: SmallVec<[View<'_>; 4]> = SmallVec::new();
    for plain in inputs {
        let buffer = plain.buffer();
        let data = match (buffer.slice(), buffer) {
            (Some(slice), _) => slice,
            (None, Buffer::Candle(_, identity)) => {
                let found = guards.iter().find(|(known, _)| known == identity);
                let storage = found.map(|(_, guard)| &**guard);
                storage.and_then(candle_slice).ok_or_else(|| unsupported(op, plain))?
            }
            _ => return Err(unsupported(op, plain)),
        };
        views.push(View { data, layout: &plain.layout });
    }
    kernel(&views)
}

pub(crate) fn unsupported(op: &'static str, plain: &Plain) -> Error {
    if plain.device == DeviceLocation::Cpu {
        Error::dtype(op, plain.dtype, "f64, f32, bf16, f16, u8, u32 and i64 are")
    } else {
        Error::UnsupportedDevice { op, device: plain.device, at: Default::default() }
    }
}

pub(crate) fn candle_slice(storage: &Storage) -> Option<Slice<'_>> {
    let Storage::Cpu(cpu) = storage else {
        return None;
    };
    Some(match cpu {
        CpuStorage::F64(v) => Slice::F64(v),
        CpuStorage::F32(v) => Slice::F32(v),
        CpuStorage::BF16(v) => Slice::BF16(v),
        CpuStorage::F16(v) => Slice::F16(v),
        CpuStorage::U8(v) => Slice::U8(v),
        CpuStorage::U32(v) => Slice::U32(v),
        CpuStorage::I64(v) => Slice::I64(v),
        _ => return None,
    })
}
