//! Ops as data: each file with ops lists them by a tag, their parameters and what their operands
//! must be, from which they are stored and made again.

use autograd_core::smallvec::SmallVec;
use autograd_core::{DType, Mask, Meta, Parameter, Prim, SavedOp, Shape, interned, sound_shape};
use std::slice::Iter;

/// A parameter of an op, or a struct of them.
pub(crate) trait Datum: Sized {
    /// Appends it.
    fn store(&self, to: &mut Vec<Parameter>);

    /// Takes what [`store`](Self::store) appended; `None` where that is not next.
    fn load(from: &mut Iter<'_, Parameter>) -> Option<Self>;
}

/// An op that data makes again.
pub(crate) trait Stored: Datum {
    /// Names it among the ops of all crates.
    const TAG: &'static str;
}

pub(crate) fn saved(op: &impl Stored) -> SavedOp {
    SavedOp::new(op_tag(op), parameters(op))
}

fn op_tag<T: Stored>(_: &T) -> &'static str {
    T::TAG
}

fn parameters(op: &impl Datum) -> Vec<Parameter> {
    let mut parameters = Vec::new();
    op.store(&mut parameters);
    parameters
}

/// A struct or an enum whose fields are data.
macro_rules! datum {
    (enum $name:ident { $($number:literal => $variant:ident { $($field:ident),* }),* $(,)? }) => {
        impl $crate::saved::Datum for $name {
            fn store(&self, to: &mut Vec<autograd_core::Parameter>) {
                match self {
                    $(Self::$variant { $($field),* } => {
                        to.push(autograd_core::Parameter::Whole($number));
                        $($crate::saved::Datum::store($field, to);)*
                    })*
                }
            }
            fn load(from: &mut std::slice::Iter<'_, autograd_core::Parameter>) -> Option<Self> {
                match from.next()? {
                    $(autograd_core::Parameter::Whole($number) => {
                        Some(Self::$variant { $($field: $crate::saved::Datum::load(from)?),* })
                    })*
                    _ => None,
                }
            }
        }
    };
    ($name:ident { $($field:tt),* }) => {
        impl $crate::saved::Datum for $name {
            #[allow(unused_variables, reason = "some ops have no parameters")]
            fn store(&self, to: &mut Vec<autograd_core::Parameter>) {
                $($crate::saved::Datum::store(&self.$field, to);)*
            }
            #[allow(unused_variables, reason = "some ops have no parameters")]
            fn load(from: &mut std::slice::Iter<'_, autograd_core::Parameter>) -> Option<Self> {
                Some(Self { $($field: $crate::saved::Datum::load(from)?),* })
            }
        }
    };
}
pub(crate) use datum;

/// The ops of a file: tag, parameters, and whether they fit the operands, whose number is checked
/// there too. `"flip" => Flip { dim }, |op, x| ..;` says how `Flip` is stored, and is an arm of the
/// file's `rebuild`.
macro_rules! stored {
    ($($tag:literal => $op:ident { $($field:tt),* }, $fits:expr;)*) => {
        $(
            $crate::saved::datum!($op { $($field),* });
            impl $crate::saved::Stored for $op {
                const TAG: &'static str = $tag;
            }
        )*
        pub(crate) fn rebuild(
            tag: &str,
            parameters: &[autograd_core::Parameter],
            operands: &[autograd_core::Meta],
        ) -> Option<autograd_core::Prim> {
            match tag {
                $($tag => {
                    let fits: fn(&$op, &[autograd_core::Meta]) -> bool = $fits;
                    $crate::saved::again(parameters, operands, fits)
                })*
                _ => None,
            }
        }
    };
}
pub(crate) use stored;

/// Stored as its file lists it.
macro_rules! by_tag {
    () => {
        fn saved(&self) -> Option<autograd_core::SavedOp> {
            Some($crate::saved::saved(self))
        }
    };
}
pub(crate) use by_tag;

/// The op of these parameters, where there are neither more nor fewer and it fits its operands.
pub(crate) fn again<T: Datum + autograd_core::Primitive>(
    parameters: &[Parameter],
    operands: &[Meta],
    fits: fn(&T, &[Meta]) -> bool,
) -> Option<Prim> {
    let mut from = parameters.iter();
    let op = T::load(&mut from)?;
    (from.next().is_none() && fits(&op, operands)).then(|| op.keep())
}

/// Whether there are `n` operands, the first of which has all these dimensions.
pub(crate) fn has(x: &[Meta], n: usize, dims: impl IntoIterator<Item = usize>) -> bool {
    x.len() == n && dims.into_iter().all(|dim| dim < x[0].shape.rank())
}

/// The op of this crate that a tag and parameters describe, on operands of these shapes and types;
/// `None` for a tag that is not this crate's, or parameters or operands that are not the op's.
pub fn rebuild(tag: &str, parameters: &[Parameter], operands: &[Meta]) -> Option<Prim> {
    type Rebuild = fn(&str, &[Parameter], &[Meta]) -> Option<Prim>;
    let files: &[Rebuild] = &[
        crate::attention::rebuild,
        crate::conv::rebuild,
        crate::extremum::rebuild,
        crate::gradient::rebuild,
        crate::index::rebuild,
        crate::join::rebuild,
        crate::linear::rebuild,
        crate::matrix::rebuild,
        crate::norm::rebuild,
        crate::order::rebuild,
        crate::pick::rebuild,
        crate::pool::rebuild,
        crate::product::rebuild,
        crate::random::rebuild,
        crate::rearrange::rebuild,
        crate::reduce::rebuild,
        crate::resample::rebuild,
        crate::row_cross_entropy::rebuild,
        crate::scan::rebuild,
        crate::scatter::rebuild,
        crate::shape::rebuild,
        crate::slice::rebuild,
        crate::softmax::rebuild,
        crate::spread::rebuild,
        crate::unfold::rebuild,
        #[cfg(feature = "fft")]
        crate::fft::rebuild,
        #[cfg(feature = "linalg")]
        crate::linalg::rebuild,
    ];
    files.iter().find_map(|rebuild| rebuild(tag, parameters, operands))
}

macro_rules! whole {
    ($($ty:ty),*) => {
        $(impl Datum for $ty {
            fn store(&self, to: &mut Vec<Parameter>) {
                // Signed numbers by their bits.
                to.push(Parameter::Whole(*self as u64));
            }
            fn load(from: &mut Iter<'_, Parameter>) -> Option<Self> {
                match from.next()? {
                    Parameter::Whole(n) => Some(*n as $ty).filter(|number| *number as u64 == *n),
                    _ => None,
                }
            }
        })*
    };
}

whole!(usize, u64, isize, i64);

macro_rules! single {
    ($($ty:ty: $store:expr, $pattern:pat => $load:expr;)*) => {
        $(impl Datum for $ty {
            fn store(&self, to: &mut Vec<Parameter>) {
                let store: fn(&Self) -> Parameter = $store;
                to.push(store(self));
            }
            fn load(from: &mut Iter<'_, Parameter>) -> Option<Self> {
                match from.next()? {
                    $pattern => $load,
                    _ => None,
                }
            }
        })*
    };
}

single! {
    bool: |x| Parameter::Flag(*x), Parameter::Flag(x) => Some(*x);
    f64: |x| Parameter::Number(*x), Parameter::Number(x) => Some(*x);
    DType: |x| Parameter::Type(*x), Parameter::Type(x) => Some(*x);
    Shape: |x| Parameter::shape(x), Parameter::Shape(x) => sound_shape(x);
    Mask: |x| Parameter::Whole(x.bits()),
        Parameter::Whole(x) => Some(Mask::of(Mask::CAPACITY, |i| x >> i & 1 == 1));
    &'static str: |x| Parameter::Text((*x).to_owned()), Parameter::Text(x) => Some(interned(x));
}

impl<T: Datum> Datum for Option<T> {
    fn store(&self, to: &mut Vec<Parameter>) {
        to.push(Parameter::Flag(self.is_some()));
        self.iter().for_each(|x| x.store(to));
    }
    fn load(from: &mut Iter<'_, Parameter>) -> Option<Self> {
        match bool::load(from)? {
            true => T::load(from).map(Some),
            false => Some(None),
        }
    }
}

impl<const N: usize> Datum for [usize; N] {
    fn store(&self, to: &mut Vec<Parameter>) {
        to.push(Parameter::Shape(self.to_vec()));
    }
    fn load(from: &mut Iter<'_, Parameter>) -> Option<Self> {
        match from.next()? {
            Parameter::Shape(all) => all.as_slice().try_into().ok(),
            _ => None,
        }
    }
}

impl Datum for SmallVec<[(usize, usize, usize); 4]> {
    fn store(&self, to: &mut Vec<Parameter>) {
        to.push(Parameter::Shape(self.iter().flat_map(|&(a, b, c)| [a, b, c]).collect()));
    }
    fn load(from: &mut Iter<'_, Parameter>) -> Option<Self> {
        match from.next()? {
            Parameter::Shape(all) if all.len().is_multiple_of(3) => {
                Some(all.chunks(3).map(|three| (three[0], three[1], three[2])).collect())
            }
            _ => None,
        }
    }
}
