//! What is known of a value without its numbers.

use autograd_kernels::{Kind, Shape};
use candle_core::{DType, DeviceLocation};

/// Shape, element type and device of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The shape.
    pub shape: Shape,
    /// The element type.
    pub dtype: DType,
    /// Where the elements are.
    pub device: DeviceLocation,
}

impl Meta {
    /// The same with another shape.
    pub fn with_shape(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    /// The same with another element type.
    pub fn with_dtype(self, dtype: DType) -> Self {
        Self { dtype, ..self }
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// Bytes of all elements.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.size_in_bytes()
    }
}

/// The kernels' name for an element type, where they know it.
pub fn kind_of(dtype: DType) -> Option<Kind> {
    match dtype {
        DType::F64 => Some(Kind::F64),
        DType::F32 => Some(Kind::F32),
        DType::BF16 => Some(Kind::BF16),
        DType::F16 => Some(Kind::F16),
        DType::U8 => Some(Kind::U8),
        DType::U32 => Some(Kind::U32),
        DType::I64 => Some(Kind::I64),
        _ => None,
    }
}

/// The element type that kernels know as `kind`.
pub fn dtype_of(kind: Kind) -> DType {
    match kind {
        Kind::F64 => DType::F64,
        Kind::F32 => DType::F32,
        Kind::BF16 => DType::BF16,
        Kind::F16 => DType::F16,
        Kind::U8 => DType::U8,
        Kind::U32 => DType::U32,
        Kind::I64 => DType::I64,
    }
}

/// Whether values of an element type have a derivative.
pub fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F64 | DType::F32 | DType::BF16 | DType::F16)
}

/// The dimension that a possibly negative number names among `rank` (−1 is the last), if any.
pub fn resolve_dim(dim: isize, rank: usize) -> Option<usize> {
    let dim = if dim < 0 { dim + rank as isize } else { dim };
    usize::try_from(dim).ok().filter(|&d| d < rank)
}
