//! One block of memory for a whole program: values lie at offsets that were planned before.
//!
//! Who runs a plan asks for the regions that one step reads and writes; the arena checks that no
//! written region overlaps another one and hands out slices. Nothing is allocated or locked.

use crate::{Element, Kind, Slice, SliceMut, bf16, f16};
use smallvec::SmallVec;

/// Regions begin at multiples of this many bytes: a cache line, and more than any element needs.
pub const ALIGNMENT: usize = 64;

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; ALIGNMENT]);

/// Where a value lies in an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first byte, a multiple of [`ALIGNMENT`].
    pub offset: usize,
    /// The element type.
    pub kind: Kind,
    /// How many elements.
    pub len: usize,
}

impl Region {
    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.len * self.kind.size()
    }

    /// Whether the two have a byte in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (self.offset..self.offset + self.bytes(), other.offset..other.offset + other.bytes());
        a.start < b.end && b.start < a.end
    }
}

/// A few slices: most steps have no more operands than this, so that handing them out allocates
/// nothing.
pub type Slices<T> = SmallVec<[T; 16]>;

/// A block of memory.
#[derive(Debug)]
pub struct Arena {
    lines: Vec<Line>,
}

impl Arena {
    /// A block of at least so many bytes, all zero.
    pub fn new(bytes: usize) -> Self {
        Self { lines: vec![Line([0; ALIGNMENT]); bytes.div_ceil(ALIGNMENT)] }
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.lines.len() * ALIGNMENT
    }

    /// The regions as slices: those to read, and those to write.
    ///
    /// # Panics
    /// Panics where a region is not aligned, leaves the arena, or is written and overlaps another.
    pub fn open<'a>(
        &'a mut self,
        reads: &[Region],
        writes: &[Region],
    ) -> (Slices<Slice<'a>>, Slices<SliceMut<'a>>) {
        let bytes = self.bytes();
        for region in reads.iter().chain(writes) {
            assert!(region.offset % ALIGNMENT == 0, "a region begins at a cache line");
            assert!(region.offset + region.bytes() <= bytes, "a region lies within the arena");
        }
        for (i, write) in writes.iter().enumerate() {
            let apart = |other: &Region| !write.overlaps(other);
            assert!(reads.iter().all(apart), "a region that is written is not read");
            assert!(writes[i + 1..].iter().all(apart), "regions that are written do not overlap");
        }
        let start = self.lines.as_mut_ptr().cast::<u8>();
        // SAFETY: all regions lie within the block, which is borrowed exclusively for 'a, and
        // written ones overlap no other (asserted above). Every bit pattern is a number of every
        // kind, and the memory was initialised.
        unsafe {
            let reads = reads.iter().map(|r| slice(start, r)).collect();
            let writes = writes.iter().map(|r| slice_mut(start, r)).collect();
            (reads, writes)
        }
    }
}

/// # Safety
/// The region lies within the block that begins at `start`, aligned to [`ALIGNMENT`], which lives
/// for 'a and is not written meanwhile.
unsafe fn slice<'a>(start: *mut u8, region: &Region) -> Slice<'a> {
    /// # Safety
    /// As for the outer function.
    unsafe fn of<'a, T: Element>(start: *mut u8, region: &Region) -> Slice<'a> {
        // SAFETY: the caller's promise; the offset is a multiple of a cache line, which is more
        // than T needs.
        T::slice(unsafe { std::slice::from_raw_parts(start.add(region.offset).cast::<T>(), region.len) })
    }
    // SAFETY: the caller's promise, for each of the types.
    unsafe {
        match region.kind {
            Kind::F64 => of::<f64>(start, region),
            Kind::F32 => of::<f32>(start, region),
            Kind::BF16 => of::<bf16>(start, region),
            Kind::F16 => of::<f16>(start, region),
            Kind::U8 => of::<u8>(start, region),
            Kind::U32 => of::<u32>(start, region),
            Kind::I64 => of::<i64>(start, region),
        }
    }
}

/// # Safety
/// As for [`slice`], and nobody else uses the region for 'a.
unsafe fn slice_mut<'a>(start: *mut u8, region: &Region) -> SliceMut<'a> {
    /// # Safety
    /// As for the outer function.
    unsafe fn of<'a, T: Element>(start: *mut u8, region: &Region) -> SliceMut<'a> {
        // SAFETY: as in `slice`, and the region is this slice's alone.
        let data =
            unsafe { std::slice::from_raw_parts_mut(start.add(region.offset).cast::<T>(), region.len) };
        T::slice_mut(data)
    }
    // SAFETY: the caller's promise, for each of the types.
    unsafe {
        match region.kind {
            Kind::F64 => of::<f64>(start, region),
            Kind::F32 => of::<f32>(start, region),
            Kind::BF16 => of::<bf16>(start, region),
            Kind::F16 => of::<f16>(start, region),
            Kind::U8 => of::<u8>(start, region),
            Kind::U32 => of::<u32>(start, region),
            Kind::I64 => of::<i64>(start, region),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(offset: usize, kind: Kind, len: usize) -> Region {
        Region { offset, kind, len }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut arena = Arena::new(300);
        assert_eq!(arena.bytes(), 320);
        let (a, b) = (region(0, Kind::F32, 16), region(64, Kind::F64, 8));
        {
            let (_, mut writes) = arena.open(&[], &[a, b]);
            writes[0].f32s_mut().expect("of its kind").fill(1.5);
            writes[1].f64s_mut().expect("of its kind").fill(2.5);
        }
        let (reads, _) = arena.open(&[a, b, a], &[region(128, Kind::U8, 3)]);
        assert_eq!(reads[2].f32s(), Some(&[1.5f32; 16][..]));
        assert_eq!(reads[1].f64s(), Some(&[2.5f64; 8][..]));
    }

    #[test]
    #[should_panic(expected = "is not read")]
    fn a_written_region_is_not_read() {
        Arena::new(256).open(&[region(0, Kind::F32, 17)], &[region(64, Kind::F32, 1)]);
    }

    #[test]
    #[should_panic(expected = "do not overlap")]
    fn written_regions_do_not_overlap() {
        Arena::new(256).open(&[], &[region(0, Kind::F32, 17), region(64, Kind::F32, 1)]);
    }

    #[test]
    #[should_panic(expected = "within the arena")]
    fn a_region_lies_within() {
        Arena::new(256).open(&[region(192, Kind::F32, 17)], &[]);
    }
}
