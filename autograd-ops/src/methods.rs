//! The method trait: every op as a method of the value.
//!
//! Each family lists its methods in a macro beside its ops; this trait and the contexts of
//! forward mode are both made from those lists. A row reads `name = path;`, and stands for
//!
//! ```text
//! #[track_caller]
//! fn tanh(&self) -> Result<TrackedTensor> { autograd_ops::elementwise::tanh(self) }
//! fn mul(&self, rhs: impl Into<Operand>) -> Result<TrackedTensor> { autograd_ops::arithmetic::mul(self, rhs) }
//! ```

use crate::numbers::Dim;
use crate::operand::Operand;
use autograd_core::{Result, TrackedTensor};
use std::borrow::Borrow;
use std::ops::RangeBounds;

/// Calls a macro with the methods of each family: the one list of families.
#[macro_export]
#[doc(hidden)]
macro_rules! for_each_family {
    ($($callback:tt)*) => {
        $crate::arithmetic_methods!($($callback)*);
        $crate::elementwise_methods!($($callback)*);
        $crate::compare_methods!($($callback)*);
        $crate::activation_methods!($($callback)*);
        $crate::matrix_methods!($($callback)*);
        $crate::linear_methods!($($callback)*);
        $crate::product_methods!($($callback)*);
        $crate::shape_methods!($($callback)*);
        $crate::slice_methods!($($callback)*);
        $crate::join_methods!($($callback)*);
        $crate::rearrange_methods!($($callback)*);
        $crate::index_methods!($($callback)*);
        $crate::spread_methods!($($callback)*);
        $crate::reduce_methods!($($callback)*);
        $crate::extremum_methods!($($callback)*);
        $crate::order_methods!($($callback)*);
        $crate::scan_methods!($($callback)*);
        $crate::softmax_methods!($($callback)*);
        $crate::loss_methods!($($callback)*);
        $crate::conv_methods!($($callback)*);
        $crate::conv3d_methods!($($callback)*);
        $crate::pool_methods!($($callback)*);
        $crate::norm_methods!($($callback)*);
        $crate::attention_methods!($($callback)*);
        $crate::rotary_methods!($($callback)*);
        $crate::random_methods!($($callback)*);
        $crate::cut_methods!($($callback)*);
        $crate::resample_methods!($($callback)*);
        $crate::scatter_methods!($($callback)*);
        $crate::unfold_methods!($($callback)*);
        $crate::gradient_methods!($($callback)*);
        $crate::linalg_methods!($($callback)*);
        $crate::fft_methods!($($callback)*);
        $crate::put_methods!($($callback)*);
    };
}

/// Families that a feature leaves out have no methods.
#[cfg(not(feature = "linalg"))]
#[macro_export]
#[doc(hidden)]
macro_rules! linalg_methods {
    ($($callback:tt)*) => {};
}

#[cfg(not(feature = "fft"))]
#[macro_export]
#[doc(hidden)]
macro_rules! fft_methods {
    ($($callback:tt)*) => {};
}

macro_rules! trait_methods {
    (
        unary { $($(#[$u:meta])* $unary:ident = $upath:path;)* }
        binary { $($(#[$b:meta])* $binary:ident = $bpath:path;)* }
        other { $($(#[$o:meta])* $other:ident($($arg:ident: $ty:ty),*) -> $out:ty = $opath:path;)* }
    ) => {
        $(
            $(#[$u])*
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($upath), "`].")]
            #[track_caller]
            fn $unary(&self) -> Result<TrackedTensor> {
                $upath(self.as_value())
            }
        )*
        $(
            $(#[$b])*
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($bpath), "`].")]
            #[track_caller]
            fn $binary(&self, rhs: impl Into<Operand>) -> Result<TrackedTensor> {
                $bpath(self.as_value(), rhs)
            }
        )*
        $(
            $(#[$o])*
            ///
            /// # Errors
            #[doc = concat!("As [`", stringify!($opath), "`].")]
            #[track_caller]
            fn $other(&self, $($arg: $ty),*) -> Result<$out> {
                $opath(self.as_value(), $($arg),*)
            }
        )*
    };
}

/// `add_(rhs: ..);` stands for a method that calls [`crate::in_place::add_`] and gives the value
/// again, so that calls chain: `x.add_(&y)?.relu_()?`.
macro_rules! in_place_methods {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*);)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        #[doc = concat!("As [`crate::in_place::", stringify!($name), "`].")]
        #[track_caller]
        fn $name(&mut self, $($arg: $ty),*) -> Result<&mut TrackedTensor> {
            crate::in_place::$name(self.as_value_mut(), $($arg),*)?;
            Ok(self.as_value_mut())
        }
    )*};
}

/// Every op as a method. Implemented for [`TrackedTensor`] only: candle's own methods on `Tensor`
/// would win silently.
pub trait TensorAutograd {
    /// The value itself.
    fn as_value(&self) -> &TrackedTensor;

    /// The value itself, to be bound to another by ops in place.
    fn as_value_mut(&mut self) -> &mut TrackedTensor;

    crate::for_each_family!(trait_methods!);

    in_place_methods! {
        /// x = x + y in place: over x's memory where nothing needs its old content.
        add_(rhs: impl Into<Operand>);
        /// x = x − y in place.
        sub_(rhs: impl Into<Operand>);
        /// x = x · y in place.
        mul_(rhs: impl Into<Operand>);
        /// x = x / y in place.
        div_(rhs: impl Into<Operand>);
        /// x = −x in place.
        neg_();
        /// x = max(x, 0) in place.
        relu_();
        /// x within bounds, in place.
        clamp_(low: impl Into<Operand>, high: impl Into<Operand>);
        /// x with `src` written over the part that the ranges cut out, in place.
        slice_assign_(ranges: &[impl RangeBounds<usize>], src: impl Into<TrackedTensor>);
        /// x with the slices of `src` added at the indices, in place.
        index_add_(indices: impl Into<TrackedTensor>, src: impl Into<TrackedTensor>, dim: impl Dim);
        /// x with the elements of `src` added at the indices, in place.
        scatter_add_(indices: impl Into<TrackedTensor>, src: impl Into<TrackedTensor>, dim: impl Dim);
        /// x with the elements of `src` written at the indices, in place.
        scatter_(indices: impl Into<TrackedTensor>, src: impl Into<TrackedTensor>, dim: impl Dim);
        /// x with slices written or added at indices of its first dimensions, in place.
        index_put_(indices: &[&TrackedTensor], values: impl Into<TrackedTensor>, accumulate: bool);
    }

    /// Values joined along a dimension that they have.
    ///
    /// # Errors
    /// As [`crate::join::cat`].
    #[track_caller]
    fn cat<T: Borrow<TrackedTensor>>(values: &[T], dim: impl Dim) -> Result<TrackedTensor> {
        crate::join::cat(values, dim)
    }

    /// Values of one shape joined along a new dimension.
    ///
    /// # Errors
    /// As [`crate::join::stack`].
    #[track_caller]
    fn stack<T: Borrow<TrackedTensor>>(values: &[T], dim: impl Dim) -> Result<TrackedTensor> {
        crate::join::stack(values, dim)
    }
}

impl TensorAutograd for TrackedTensor {
    fn as_value(&self) -> &TrackedTensor {
        self
    }

    fn as_value_mut(&mut self) -> &mut TrackedTensor {
        self
    }
}
