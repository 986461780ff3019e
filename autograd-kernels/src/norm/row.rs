//! The kernels over one row (or one channel of it), in vectors.

use crate::lanes::prefetch;
use crate::simd::{Float, Vector, fold, load_at, map1, map2, store_at, vectorised};
use std::cell::Cell;

/// Σ of the vectors that f makes of x's; a NaN or 0 that f makes of padding is not counted.
#[inline(always)]
fn total<T: Float, V: Vector<Item = T>>(x: &[T], pad: T, f: impl Fn(V, V) -> V) -> f64 {
    fold::<V>(
        x,
        T::ZERO,
        pad,
        f,
        #[inline(always)]
        |a, b| a + b,
    )
    .sum()
}

vectorised! {
    /// Σ x.
    pub(super) fn sum<T, V>(x: &[T]) -> f64 {
        total::<T, V>(x, T::ZERO, #[inline(always)] |sum, x| sum + x)
    }
}

vectorised! {
    /// Σ (x − mean)². The next row is on its way meanwhile.
    pub(super) fn squares<T, V>(x: &[T], mean: f64) -> f64 {
        let m = V::num(mean);
        let next = Cell::new(x.as_ptr().wrapping_add(x.len()));
        total::<T, V>(x, T::from_f64(mean), #[inline(always)] |sum, x| {
            prefetch(next.get());
            next.set(next.get().wrapping_add(V::LANES));
            (x - m).fma(x - m, sum)
        })
    }
}

vectorised! {
    /// y = (x − mean)·rstd·weight + bias.
    pub(super) fn normalise<T, V>(
        x: &[T],
        mean: f64,
        rstd: f64,
        weight: &[T],
        bias: &[T],
        y: &mut [T],
    ) {
        let (m, r) = (V::num(mean), V::num(rstd));
        let n = y.len();
        assert!(x.len() == n && weight.len() == n && bias.len() == n, "rows of one length");
        let mut i = 0;
        while i < n {
            let hat = (load_at::<V>(x, i) - m) * r;
            store_at(hat.fma(load_at(weight, i), load_at(bias, i)), y, i);
            i += V::LANES;
        }
    }
}

vectorised! {
    /// With x̂ = (x − mean)·rstd and g = ct·weight: adds ct·x̂ to dw and ct to db; returns Σ g and
    /// Σ g·x̂.
    pub(super) fn sums<T, V>(
        ct: &[T],
        x: &[T],
        weight: &[T],
        mean: f64,
        rstd: f64,
        dw: &mut [T],
        db: &mut [T],
    ) -> (f64, f64) {
        let (m, r) = (V::num(mean), V::num(rstd));
        let (mut g_sum, mut gx_sum) = (V::num(0.0), V::num(0.0));
        let n = x.len();
        assert!(ct.len() == n && weight.len() == n && dw.len() == n && db.len() == n);
        let mut i = 0;
        while i < n {
            let c = load_at::<V>(ct, i);
            let hat = (load_at::<V>(x, i) - m) * r;
            let g = c * load_at(weight, i);
            // Padding has ct = 0, so it adds nothing.
            g_sum = g_sum + g;
            gx_sum = g.fma(hat, gx_sum);
            store_at(c.fma(hat, load_at(dw, i)), dw, i);
            store_at(c + load_at(db, i), db, i);
            i += V::LANES;
        }
        (g_sum.sum(), gx_sum.sum())
    }
}

vectorised! {
    /// dx = rstd·(ct·weight − g_mean − x̂·gx_mean).
    pub(super) fn spread<T, V>(
        ct: &[T],
        x: &[T],
        weight: &[T],
        stats: (f64, f64),
        means: (f64, f64),
        dx: &mut [T],
    ) {
        let (m, r) = (V::num(stats.0), V::num(stats.1));
        let (g, gx) = (V::num(means.0), V::num(means.1));
        let n = dx.len();
        assert!(ct.len() == n && x.len() == n && weight.len() == n, "rows of one length");
        let mut i = 0;
        while i < n {
            let hat = (load_at::<V>(x, i) - m) * r;
            let lost = hat.fma(gx, g);
            store_at(r * (load_at::<V>(ct, i) * load_at(weight, i) - lost), dx, i);
            i += V::LANES;
        }
    }
}

vectorised! {
    /// (Σ ct, Σ ct·(x − mean)).
    pub(super) fn channel_sums<T, V>(ct: &[T], x: &[T], mean: f64) -> (f64, f64) {
        let m = V::num(mean);
        let mut sums = [(V::num(0.0), V::num(0.0)); 2];
        let n = x.len();
        assert_eq!(ct.len(), n, "rows of one length");
        let mut i = 0;
        while i < n {
            for (c_sum, cx_sum) in &mut sums {
                if i < n {
                    let c = load_at::<V>(ct, i);
                    *c_sum = *c_sum + c;
                    *cx_sum = c.fma(load_at::<V>(x, i) - m, *cx_sum);
                }
                i += V::LANES;
            }
        }
        ((sums[0].0 + sums[1].0).sum(), (sums[0].1 + sums[1].1).sum())
    }
}

vectorised! {
    /// y = (x − mean)·scale + shift.
    pub(super) fn scale<T, V>(x: &[T], mean: f64, scale: f64, shift: f64, y: &mut [T]) {
        let (m, a, b) = (V::num(mean), V::num(scale), V::num(shift));
        map1::<V>(x, y, #[inline(always)] |x| (x - m).fma(a, b));
    }
}

vectorised! {
    /// dx = a·ct + b·(x − mean) + c.
    pub(super) fn combine<T, V>(
        ct: &[T],
        x: &[T],
        mean: f64,
        factors: (f64, f64, f64),
        dx: &mut [T],
    ) {
        let (m, a) = (V::num(mean), V::num(factors.0));
        let (b, c) = (V::num(factors.1), V::num(factors.2));
        map2::<V>(ct, x, dx, #[inline(always)] |ct, x| ct.fma(a, (x - m).fma(b, c)));
    }
}
