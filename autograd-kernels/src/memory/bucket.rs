//! Sizes in classes: four to each doubling, from 64 bytes on.

/// log₂ of the smallest bucket's bytes.
const FIRST: usize = 6;

/// The first bucket whose buffers threads share and that is counted: 4 KiB.
pub(super) const SHARED_FROM: usize = (12 - FIRST) * 4;

/// The bytes of a bucket: (4 + r)/4 · 2ᵏ.
pub(super) const fn bucket_bytes(bucket: usize) -> usize {
    (4 + bucket % 4) << (FIRST - 2 + bucket / 4)
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
    let quarter = (bytes >> (log.checked_sub(2)?)) & 3;
    Some(log.checked_sub(FIRST)? * 4 + quarter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_they_promise() {
        for bytes in (1..5000).chain([1 << 20, (1 << 20) + 1, 3 << 28]) {
            let above = bucket_above(bytes).unwrap();
            assert!(bucket_bytes(above) >= bytes);
            assert!(above == 0 || bucket_bytes(above - 1) < bytes);
            if let Some(below) = bucket_below(bytes) {
                assert!(bucket_bytes(below) <= bytes && bucket_bytes(below + 1) > bytes);
            }
        }
        assert_eq!((bucket_above(0), bucket_below(63)), (None, None));
        assert_eq!(bucket_bytes(SHARED_FROM), 4096);
    }
}
