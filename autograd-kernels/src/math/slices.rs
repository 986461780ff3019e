//! The functions over slices: one loop for each.

use super::{exponential, logarithm, scalar, trigonometry};
use crate::expr::{Binary, Unary};
use crate::simd::{Float, Vector, map1, map2, map3, vectorised};

/// What a function reads: a number for each element or one for all.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operand<'a, T> {
    /// One for each.
    Each(&'a [T]),
    /// The same for all.
    All(T),
}

impl<T: Copy> Operand<'_, T> {
    /// The operand for these elements alone.
    #[inline]
    pub(crate) fn part(&self, range: std::ops::Range<usize>) -> Operand<'_, T> {
        match self {
            Operand::Each(x) => Operand::Each(&x[range]),
            Operand::All(x) => Operand::All(*x),
        }
    }
}

/// Loops over f of one vector; the closure is always inlined, so that it compiles to registers.
macro_rules! loop1 {
    ($x:ident, $y:ident, |$a:ident: $V:ident| $e:expr) => {
        map1::<$V>(
            $x,
            $y,
            #[inline(always)]
            |$a: $V| $e,
        )
    };
}

vectorised! {
    /// y = f(x).
    ///
    /// # Panics
    /// Panics where the lengths differ.
    pub(crate) fn unary<T, V>(f: Unary, x: &[T], y: &mut [T]) {
        match f {
            Unary::Neg => loop1!(x, y, |a: V| -a),
            Unary::Abs => loop1!(x, y, |a: V| a.abs()),
            Unary::Sign => loop1!(x, y, |a: V| {
                let plain = a.eq(V::num(0.0)).or(a.is_nan());
                plain.select(a, V::num(1.0).or(a.sign_bit()))
            }),
            Unary::Recip => loop1!(x, y, |a: V| V::num(1.0) / a),
            Unary::Sqrt => loop1!(x, y, |a: V| a.sqrt()),
            Unary::Rsqrt => loop1!(x, y, |a: V| V::num(1.0) / a.sqrt()),
            Unary::Exp => loop1!(x, y, |a: V| exponential::exp(a)),
            Unary::Expm1 => loop1!(x, y, |a: V| exponential::expm1(a)),
            Unary::Log => loop1!(x, y, |a: V| logarithm::log(a)),
            Unary::Log1p => loop1!(x, y, |a: V| logarithm::log1p(a)),
            Unary::Log2 => loop1!(x, y, |a: V| logarithm::log2(a)),
            Unary::Sin => loop1!(x, y, |a: V| trigonometry::sin(a)),
            Unary::Cos => loop1!(x, y, |a: V| trigonometry::cos(a)),
            Unary::Tanh => loop1!(x, y, |a: V| exponential::tanh(a)),
            Unary::Erf => loop1!(x, y, |a: V| T::erf(a)),
            Unary::Floor => loop1!(x, y, |a: V| a.floor()),
            Unary::Ceil => loop1!(x, y, |a: V| a.ceil()),
            Unary::Round => loop1!(x, y, |a: V| a.round()),
            Unary::Sigmoid => loop1!(x, y, |a: V| exponential::sigmoid(a)),
            Unary::Relu => loop1!(x, y, |a: V| V::num(0.0).max(a)),
            Unary::Softplus => loop1!(x, y, |a: V| exponential::softplus(a)),
            Unary::Tan | Unary::Asin | Unary::Acos | Unary::Atan | Unary::Sinh | Unary::Cosh
            | Unary::Asinh | Unary::Acosh | Unary::Atanh | Unary::Lgamma | Unary::Digamma => {
                assert_eq!(x.len(), y.len(), "slices of one length");
                for (y, x) in y.iter_mut().zip(x) {
                    *y = T::from_f64(scalar::unary(f, x.to_f64()));
                }
            }
        }
    }
}

#[inline(always)]
fn truth<V: Vector>(mask: V) -> V {
    mask.and(V::num(1.0))
}

#[inline(always)]
fn not<V: Vector>(mask: V) -> V {
    V::num(0.0).eq(V::num(0.0)).without(mask)
}

/// y = f(a, b) over slices and single numbers.
#[inline(always)]
fn loop2<V: Vector>(
    a: Operand<'_, V::Item>,
    b: Operand<'_, V::Item>,
    y: &mut [V::Item],
    f: impl Fn(V, V) -> V,
) {
    match (a, b) {
        (Operand::Each(a), Operand::Each(b)) => map2::<V>(a, b, y, f),
        (Operand::Each(a), Operand::All(b)) => {
            let b = V::splat(b);
            map1::<V>(
                a,
                y,
                #[inline(always)]
                |a| f(a, b),
            );
        }
        (Operand::All(a), Operand::Each(b)) => {
            let a = V::splat(a);
            map1::<V>(
                b,
                y,
                #[inline(always)]
                |b| f(a, b),
            );
        }
        (Operand::All(a), Operand::All(b)) => y.fill(f(V::splat(a), V::splat(b)).lanes()[0]),
    }
}

vectorised! {
    /// y = f(a, b).
    ///
    /// # Panics
    /// Panics where the lengths differ.
    pub(crate) fn binary<T, V>(f: Binary, a: Operand<'_, T>, b: Operand<'_, T>, y: &mut [T]) {
        match f {
            Binary::Add => loop2::<V>(a, b, y, #[inline(always)] |a, b| a + b),
            Binary::Sub => loop2::<V>(a, b, y, #[inline(always)] |a, b| a - b),
            Binary::Mul => loop2::<V>(a, b, y, #[inline(always)] |a, b| a * b),
            Binary::Div => loop2::<V>(a, b, y, #[inline(always)] |a, b| a / b),
            // The vector operations give b where either is NaN.
            Binary::Max => loop2::<V>(a, b, y, #[inline(always)] |a, b| a.is_nan().select(a, a.max(b))),
            Binary::Min => loop2::<V>(a, b, y, #[inline(always)] |a, b| a.is_nan().select(a, a.min(b))),
            Binary::Lt => loop2::<V>(a, b, y, #[inline(always)] |a, b| truth(a.lt(b))),
            Binary::Le => loop2::<V>(a, b, y, #[inline(always)] |a, b| truth(a.le(b))),
            Binary::Gt => loop2::<V>(a, b, y, #[inline(always)] |a, b| truth(b.lt(a))),
            Binary::Ge => loop2::<V>(a, b, y, #[inline(always)] |a, b| truth(b.le(a))),
            Binary::Eq => loop2::<V>(a, b, y, #[inline(always)] |a, b| truth(a.eq(b))),
            Binary::Ne => loop2::<V>(a, b, y, #[inline(always)] |a, b| truth(not(a.eq(b)))),
            Binary::Pow | Binary::Powi => power::<T, V>(f, a, b, y),
            Binary::Rem | Binary::Atan2 | Binary::Hypot | Binary::Polygamma => {
                each(a, b, y, |a, b| T::from_f64(scalar::binary(f, a.to_f64(), b.to_f64())));
            }
        }
    }
}

/// y = f(a, b) number by number.
#[inline(always)]
fn each<T: Float>(a: Operand<'_, T>, b: Operand<'_, T>, y: &mut [T], f: impl Fn(T, T) -> T) {
    let at = |o: Operand<'_, T>, i: usize| match o {
        Operand::Each(x) => x[i],
        Operand::All(x) => x,
    };
    for (i, y) in y.iter_mut().enumerate() {
        *y = f(at(a, i), at(b, i));
    }
}

/// aᵇ: products for small whole exponents, else the scalar function.
#[inline(always)]
fn power<T: Float, V: Vector<Item = T>>(f: Binary, a: Operand<'_, T>, b: Operand<'_, T>, y: &mut [T]) {
    if let (Operand::Each(x), Operand::All(n)) = (a, b) {
        match n.to_f64() {
            1.0 => return y.copy_from_slice(x),
            2.0 => return loop1!(x, y, |a: V| a * a),
            3.0 => return loop1!(x, y, |a: V| a * a * a),
            4.0 => return loop1!(x, y, |a: V| (a * a) * (a * a)),
            -1.0 => return loop1!(x, y, |a: V| V::num(1.0) / a),
            -2.0 => return loop1!(x, y, |a: V| V::num(1.0) / (a * a)),
            // √ gives −0 and NaN where the power gives 0 and ∞: at −0 and −∞.
            0.5 => {
                return loop1!(x, y, |a: V| {
                    let root = a.sqrt() + V::num(0.0);
                    a.eq(V::num(f64::NEG_INFINITY)).select(V::num(f64::INFINITY), root)
                });
            }
            _ => {}
        }
    }
    match f {
        Binary::Pow => each(a, b, y, T::powf),
        _ => each(a, b, y, |a, b| T::from_f64(scalar::binary(f, a.to_f64(), b.to_f64()))),
    }
}

#[inline(always)]
fn choose<V: Vector>(c: V, a: V, b: V) -> V {
    c.eq(V::num(0.0)).select(b, a)
}

vectorised! {
    /// y = a where c is not 0 (NaN counts as not 0), else b.
    ///
    /// # Panics
    /// Panics where the lengths differ.
    pub(crate) fn select<T, V>(c: &[T], a: Operand<'_, T>, b: Operand<'_, T>, y: &mut [T]) {
        match (a, b) {
            (Operand::Each(a), Operand::Each(b)) => map3::<V>(c, a, b, y, #[inline(always)] |c, a, b| choose(c, a, b)),
            (Operand::Each(a), Operand::All(b)) => {
                let b = V::splat(b);
                map2::<V>(c, a, y, #[inline(always)] |c, a| choose(c, a, b));
            }
            (Operand::All(a), Operand::Each(b)) => {
                let a = V::splat(a);
                map2::<V>(c, b, y, #[inline(always)] |c, b| choose(c, a, b));
            }
            (Operand::All(a), Operand::All(b)) => {
                let (a, b) = (V::splat(a), V::splat(b));
                map1::<V>(c, y, #[inline(always)] |c| choose(c, a, b));
            }
        }
    }
}
