//! The loops over slices, one vector at a time.
//!
//! What is left over at the end goes through the same vector code in a padded buffer, so a
//! number's result does not depend on where it stands.

use super::Vector;

/// A buffer as long as the longest vector, with the numbers of `x` and then repeats of the last:
/// padding that can cause no overflow or slow path that the numbers themselves do not cause.
#[inline(always)]
fn padded<V: Vector>(x: &[V::Item]) -> V {
    let mut buffer = [x[x.len() - 1]; 8];
    buffer[..x.len()].copy_from_slice(x);
    // SAFETY: no vector has more than 8 lanes.
    unsafe { V::load(buffer.as_ptr()) }
}

#[inline(always)]
fn store_part<V: Vector>(v: V, y: &mut [V::Item]) {
    y.copy_from_slice(&v.lanes()[..y.len()]);
}

/// y = f(x).
///
/// # Panics
/// Panics where the lengths differ; so do all loops of this module.
#[inline(always)]
pub(crate) fn map1<V: Vector>(x: &[V::Item], y: &mut [V::Item], f: impl Fn(V) -> V) {
    let n = y.len();
    assert_eq!(x.len(), n, "slices of one length");
    let whole = n - n % V::LANES;
    let (from, to) = (x.as_ptr(), y.as_mut_ptr());
    let mut i = 0;
    while i < whole {
        // SAFETY: i + LANES ≤ whole ≤ n, the length of both.
        unsafe { f(V::load(from.add(i))).store(to.add(i)) };
        i += V::LANES;
    }
    if whole < n {
        store_part(f(padded(&x[whole..])), &mut y[whole..]);
    }
}

/// y = f(a, b).
#[inline(always)]
pub(crate) fn map2<V: Vector>(a: &[V::Item], b: &[V::Item], y: &mut [V::Item], f: impl Fn(V, V) -> V) {
    let n = y.len();
    assert!(a.len() == n && b.len() == n, "slices of one length");
    let whole = n - n % V::LANES;
    let (a_at, b_at, to) = (a.as_ptr(), b.as_ptr(), y.as_mut_ptr());
    let mut i = 0;
    while i < whole {
        // SAFETY: i + LANES ≤ whole ≤ n, the length of all.
        unsafe { f(V::load(a_at.add(i)), V::load(b_at.add(i))).store(to.add(i)) };
        i += V::LANES;
    }
    if whole < n {
        store_part(f(padded(&a[whole..]), padded(&b[whole..])), &mut y[whole..]);
    }
}

/// y = f(a, b, c).
#[inline(always)]
pub(crate) fn map3<V: Vector>(
    a: &[V::Item],
    b: &[V::Item],
    c: &[V::Item],
    y: &mut [V::Item],
    f: impl Fn(V, V, V) -> V,
) {
    let n = y.len();
    assert!(a.len() == n && b.len() == n && c.len() == n, "slices of one length");
    let whole = n - n % V::LANES;
    let (a_at, b_at, c_at, to) = (a.as_ptr(), b.as_ptr(), c.as_ptr(), y.as_mut_ptr());
    let mut i = 0;
    while i < whole {
        // SAFETY: i + LANES ≤ whole ≤ n, the length of all.
        unsafe {
            f(V::load(a_at.add(i)), V::load(b_at.add(i)), V::load(c_at.add(i))).store(to.add(i));
        }
        i += V::LANES;
    }
    if whole < n {
        let (a, b, c) = (padded(&a[whole..]), padded(&b[whole..]), padded(&c[whole..]));
        store_part(f(a, b, c), &mut y[whole..]);
    }
}

/// Folds vectors of x into four accumulators (so that no addition waits for the last) that start
/// as `start`; the numbers left over at the end stand among `pad`s. Returns the accumulators
/// joined by `join`.
#[inline(always)]
pub(crate) fn fold<V: Vector>(
    x: &[V::Item],
    start: V::Item,
    pad: V::Item,
    step: impl Fn(V, V) -> V,
    join: impl Fn(V, V) -> V,
) -> V {
    let n = x.len();
    let mut acc = [V::splat(start); 4];
    let from = x.as_ptr();
    let mut i = 0;
    while i + 4 * V::LANES <= n {
        for (k, acc) in acc.iter_mut().enumerate() {
            // SAFETY: i + 4·LANES ≤ n.
            *acc = step(*acc, unsafe { V::load(from.add(i + k * V::LANES)) });
        }
        i += 4 * V::LANES;
    }
    while i + V::LANES <= n {
        // SAFETY: i + LANES ≤ n.
        acc[0] = step(acc[0], unsafe { V::load(from.add(i)) });
        i += V::LANES;
    }
    if i < n {
        let mut buffer = [pad; 8];
        buffer[..n - i].copy_from_slice(&x[i..]);
        // SAFETY: no vector has more than 8 lanes.
        acc[1] = step(acc[1], unsafe { V::load(buffer.as_ptr()) });
    }
    join(join(acc[0], acc[1]), join(acc[2], acc[3]))
}

/// The vector that starts at `i`, with zeros for what lies beyond the end.
#[inline(always)]
pub(crate) fn load_at<V: Vector>(x: &[V::Item], i: usize) -> V {
    if i + V::LANES <= x.len() {
        // SAFETY: checked just now.
        unsafe { V::load(x.as_ptr().add(i)) }
    } else {
        let mut buffer = [V::Item::default(); 8];
        buffer[..x.len() - i].copy_from_slice(&x[i..]);
        // SAFETY: no vector has more than 8 lanes.
        unsafe { V::load(buffer.as_ptr()) }
    }
}

/// Stores a vector at `i`, without what lies beyond the end.
#[inline(always)]
pub(crate) fn store_at<V: Vector>(v: V, y: &mut [V::Item], i: usize) {
    if i + V::LANES <= y.len() {
        // SAFETY: checked just now.
        unsafe { v.store(y.as_mut_ptr().add(i)) };
    } else {
        store_part(v, &mut y[i..]);
    }
}
