//! Typed slices under one name each: what a kernel reads and writes.

use crate::Layout;
use half::{bf16, f16};

/// An element type that kernels know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// Brain float, computed in f32.
    BF16,
    /// Half float, computed in f32.
    F16,
    /// Unsigned byte; masks are 0 or 1.
    U8,
    /// 32-bit unsigned integer: indices.
    U32,
    /// 64-bit signed integer: indices.
    I64,
}

impl Kind {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Kind::F64 | Kind::I64 => 8,
            Kind::F32 | Kind::U32 => 4,
            Kind::BF16 | Kind::F16 => 2,
            Kind::U8 => 1,
        }
    }

    /// Whether values of this kind have a derivative.
    pub fn is_float(self) -> bool {
        matches!(self, Kind::F64 | Kind::F32 | Kind::BF16 | Kind::F16)
    }
}

macro_rules! kinds {
    ($($variant:ident $ty:ty, $read:ident, $write:ident);* $(;)?) => {
        /// A shared slice of one of the element types.
        #[derive(Clone, Copy, Debug)]
        pub enum Slice<'a> {
            $(#[doc = concat!("Elements of type `", stringify!($ty), "`.")] $variant(&'a [$ty]),)*
        }

        /// An exclusive slice of one of the element types.
        #[derive(Debug)]
        pub enum SliceMut<'a> {
            $(#[doc = concat!("Elements of type `", stringify!($ty), "`.")] $variant(&'a mut [$ty]),)*
        }

        impl<'a> Slice<'a> {
            /// The element type.
            pub fn kind(&self) -> Kind {
                match self { $(Slice::$variant(_) => Kind::$variant,)* }
            }

            /// The number of elements.
            pub fn len(&self) -> usize {
                match self { $(Slice::$variant(s) => s.len(),)* }
            }

            /// Whether there is no element.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// A part of it.
            ///
            /// # Panics
            /// Panics where the range does not lie within the slice.
            pub fn part(&self, range: std::ops::Range<usize>) -> Slice<'a> {
                match self { $(Slice::$variant(s) => Slice::$variant(&s[range]),)* }
            }

            $(
                #[doc = concat!("The slice as `", stringify!($ty), "`, or `None` where it is of another type.")]
                pub fn $read(&self) -> Option<&'a [$ty]> {
                    match self { Slice::$variant(s) => Some(s), _ => None }
                }
            )*
        }

        impl SliceMut<'_> {
            /// The element type.
            pub fn kind(&self) -> Kind {
                match self { $(SliceMut::$variant(_) => Kind::$variant,)* }
            }

            /// The number of elements.
            pub fn len(&self) -> usize {
                match self { $(SliceMut::$variant(s) => s.len(),)* }
            }

            /// Whether there is no element.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// The same memory for a shorter while.
            pub fn reborrow(&mut self) -> SliceMut<'_> {
                match self { $(SliceMut::$variant(s) => SliceMut::$variant(s),)* }
            }

            /// The elements of a range; `None` where they are not all there.
            pub fn part(self, range: std::ops::Range<usize>) -> Option<Self> {
                Some(match self { $(SliceMut::$variant(s) => SliceMut::$variant(s.get_mut(range)?),)* })
            }

            /// The same memory to read.
            pub fn as_slice(&self) -> Slice<'_> {
                match self { $(SliceMut::$variant(s) => Slice::$variant(s),)* }
            }

            $(
                #[doc = concat!("The slice as `", stringify!($ty), "`, or `None` where it is of another type.")]
                pub fn $write(&mut self) -> Option<&mut [$ty]> {
                    match self { SliceMut::$variant(s) => Some(s), _ => None }
                }
            )*
        }

        $(
            impl Element for $ty {
                const KIND: Kind = Kind::$variant;
                fn slice(data: &[Self]) -> Slice<'_> { Slice::$variant(data) }
                fn slice_mut(data: &mut [Self]) -> SliceMut<'_> { SliceMut::$variant(data) }
                fn read<'a>(slice: &Slice<'a>) -> Option<&'a [Self]> { slice.$read() }
                fn write<'a>(slice: &'a mut SliceMut<'_>) -> Option<&'a mut [Self]> { slice.$write() }
            }
        )*
    };
}

kinds! {
    F64 f64, f64s, f64s_mut;
    F32 f32, f32s, f32s_mut;
    BF16 bf16, bf16s, bf16s_mut;
    F16 f16, f16s, f16s_mut;
    U8 u8, u8s, u8s_mut;
    U32 u32, u32s, u32s_mut;
    I64 i64, i64s, i64s_mut;
}

/// A Rust type that is one of the [`Kind`]s.
pub trait Element: Copy + Default + Send + Sync + PartialOrd + std::fmt::Debug + 'static {
    /// Its kind.
    const KIND: Kind;
    /// A slice of it under the common name.
    fn slice(data: &[Self]) -> Slice<'_>;
    /// An exclusive slice of it under the common name.
    fn slice_mut(data: &mut [Self]) -> SliceMut<'_>;
    /// The elements, where the slice is of this type.
    fn read<'a>(slice: &Slice<'a>) -> Option<&'a [Self]>;
    /// The elements to write, where the slice is of this type.
    fn write<'a>(slice: &'a mut SliceMut<'_>) -> Option<&'a mut [Self]>;
}

/// A tensor to read: a whole buffer and where in it the elements lie.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The whole buffer.
    pub data: Slice<'a>,
    /// Where the elements lie in it.
    pub layout: &'a Layout,
}

impl<'a> View<'a> {
    /// The element type.
    pub fn kind(&self) -> Kind {
        self.data.kind()
    }

    /// The elements as one slice, where the layout is contiguous and the type is `T`.
    pub fn contiguous<T: Element>(&self) -> Option<&'a [T]> {
        let data = T::read(&self.data)?;
        let (start, len) = (self.layout.offset(), self.layout.elements());
        if len == 0 {
            return Some(&[]);
        }
        self.layout.is_contiguous().then(|| &data[start..start + len])
    }
}
