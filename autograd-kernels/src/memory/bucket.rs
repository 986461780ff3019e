//! Sizes in classes: from 64 bytes on four to each doubling, from 1 MiB on 32, so that no more than
//! a 33rd of a large buffer lies idle when it is new.

/// log₂ of the smallest bucket's bytes.
const FIRST: usize = 6;

/// log₂ of the bytes from which on buckets are fine.
const FINE: usize = 20;

/// The first fine bucket.
const FINE_FROM: usize = (FINE - FIRST) * 4;

/// The first bucket whose buffers threads share and that is counted: 4 KiB.
pub(super) const SHARED_FROM: usize = (12 - FIRST) * 4;

/// The bytes of a bucket: (4 + r)/4 · 2ᵏ, or (32 + r)/32 · 2ᵏ.
pub(super) const fn bucket_bytes(bucket: usize) -> usize {
    if bucket < FINE_FROM {
        (4 + bucket % 4) << (FIRST - 2 + bucket / 4)
    } else {
        let fine = bucket - FINE_FROM;
        (32 + fine % 32) << (FINE - 5 + fine / 32)
    }
}

/// The smallest bucket that holds so many bytes; `None` for 0 and beyond all memory.
#[inline]
pub(super) fn bucket_above(bytes: usize) -> Option<usize> {
    if bytes == 0 || bytes > isize::MAX as usize / 2 {
        return None;
    }
    let below = bucket_below(bytes.max(1 << FIRST))?;
    Some(if bucket_bytes(below) < bytes { below + 1 } else { below })
}

/// The largest bucket that a buffer of so many bytes can serve; `None` below the smallest.
#[inline]
pub(super) fn bucket_below(bytes: usize) -> Option<usize> {
    let log = bytes.checked_ilog2()? as usize;
    if log < FINE {
        let quarter = (bytes >> (log.checked_sub(2)?)) & 3;
        Some(log.checked_sub(FIRST)? * 4 + quarter)
    } else {
        Some(FINE_FROM + (log - FINE) * 32 + ((bytes >> (log - 5)) & 31))
    }
}

/// The buckets whose buffers serve where one of `bucket` is asked for: none is more than a quarter
/// larger than what `bucket` is the smallest for.
#[inline]
pub(super) fn fitting(bucket: usize) -> std::ops::RangeInclusive<usize> {
    bucket..=if bucket < FINE_FROM { bucket } else { bucket + 7 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_they_promise() {
        for bytes in (1..5000).chain([(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 25_690_112, 3 << 28]) {
            let above = bucket_above(bytes).unwrap();
            assert!(bucket_bytes(above) >= bytes);
            assert!(above == 0 || bucket_bytes(above - 1) < bytes);
            if let Some(below) = bucket_below(bytes) {
                assert!(bucket_bytes(below) <= bytes && bucket_bytes(below + 1) > bytes);
            }
        }
        assert_eq!((bucket_above(0), bucket_below(63)), (None, None));
        assert_eq!(bucket_bytes(SHARED_FROM), 4096);
        assert_eq!((bucket_bytes(FINE_FROM - 1), bucket_bytes(FINE_FROM)), (7 << 17, 1 << 20));
        for bytes in [4097, 1 << 20, (1 << 20) + 1, 3 << 20, (31 << 20) + 1, (63 << 20) + 1] {
            let largest = *fitting(bucket_above(bytes).unwrap()).end();
            assert!(bucket_bytes(largest) * 4 <= bytes * 5);
        }
    }
}
