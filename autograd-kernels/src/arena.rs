//! One block of memory for a whole program: values lie at offsets that were planned before.
//!
//! Who runs a plan asks for the regions that one step reads and writes; the arena checks that no
//! written region overlaps another one and hands out slices. Nothing is allocated or locked.

use crate::threads::{Disjoint, DisjointSlice, parallel_for};
use crate::{Element, Kind, Slice, SliceMut, bf16, f16};
use smallvec::SmallVec;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

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

    /// The whole block, to be opened.
    pub fn lend(&mut self) -> Lent<'_> {
        let (start, bytes) = (self.lines.as_mut_ptr().cast::<u8>(), self.bytes());
        Lent { start, bytes, memory: PhantomData }
    }

    /// The regions as slices: those to read, and those to write.
    ///
    /// # Panics
    /// As [`Lent::open`].
    pub fn open<'a>(
        &'a mut self,
        reads: &[Region],
        writes: &[Region],
    ) -> (Slices<Slice<'a>>, Slices<SliceMut<'a>>) {
        self.lend().opened(reads, writes)
    }
}

/// An arena, or a part of one, that somebody else owns.
///
/// Its memory begins at a multiple of [`ALIGNMENT`] and is initialised; for 'm it is this value's
/// alone.
#[derive(Debug)]
pub struct Lent<'m> {
    start: *mut u8,
    bytes: usize,
    memory: PhantomData<&'m mut [u8]>,
}

impl<'m> Lent<'m> {
    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The regions as slices: those to read, and those to write.
    ///
    /// # Panics
    /// Panics where a region is not aligned, leaves the arena, or is written and overlaps another.
    pub fn open(&mut self, reads: &[Region], writes: &[Region]) -> (Slices<Slice<'_>>, Slices<SliceMut<'_>>) {
        let own = Lent { start: self.start, bytes: self.bytes, memory: PhantomData };
        own.opened(reads, writes)
    }

    fn opened(self, reads: &[Region], writes: &[Region]) -> (Slices<Slice<'m>>, Slices<SliceMut<'m>>) {
        let bytes = self.bytes;
        for region in reads.iter().chain(writes) {
            assert!(region.offset % ALIGNMENT == 0, "a region begins at a cache line");
            assert!(region.offset + region.bytes() <= bytes, "a region lies within the arena");
        }
        for (i, write) in writes.iter().enumerate() {
            let apart = |other: &Region| !write.overlaps(other);
            assert!(reads.iter().all(apart), "a region that is written is not read");
            assert!(writes[i + 1..].iter().all(apart), "regions that are written do not overlap");
        }
        let start = self.start;
        // SAFETY: all regions lie within the block, which is this value's alone for 'm, and written
        // ones overlap no other (asserted above). Every bit pattern is a number of every
        // kind, and the memory was initialised.
        unsafe {
            let reads = reads.iter().map(|r| slice(start, r)).collect();
            let writes = writes.iter().map(|r| slice_mut(start, r)).collect();
            (reads, writes)
        }
    }
}

/// Runs f(memory, block, parts of the outputs) for every block, on all threads: each worker has
/// `each` bytes of the memory, each output is cut in as many equal parts as there are blocks. There
/// are as many workers as the memory has room for.
///
/// # Panics
/// Panics where the memory does not begin at a multiple of [`ALIGNMENT`] or has no room for a
/// worker, `each` is no such multiple, or an output cannot be cut so.
pub fn for_each_block(
    blocks: usize,
    memory: &mut [u8],
    each: usize,
    outputs: &mut [SliceMut<'_>],
    f: &(dyn Fn(&mut Lent<'_>, usize, &mut [SliceMut<'_>]) + Sync),
) {
    assert!(
        each.is_multiple_of(ALIGNMENT) && memory.as_ptr().align_offset(ALIGNMENT) == 0,
        "blocks: alignment"
    );
    assert!(
        outputs.iter().all(|out| out.len().is_multiple_of(blocks.max(1))),
        "blocks: equal parts of outputs"
    );
    let workers = memory.len().checked_div(each).unwrap_or(blocks).min(blocks);
    assert!(workers > 0 || blocks == 0, "blocks: memory for a worker");
    let mut parts: Slices<(DisjointSlice<'_>, usize)> = Slices::new();
    for out in outputs.iter_mut() {
        let len = out.len() / blocks.max(1);
        parts.push((DisjointSlice::new(out.reborrow()), len));
    }
    let (memory, next) = (Disjoint::new(memory), AtomicUsize::new(0));
    parallel_for(workers, &|worker| {
        // SAFETY: each worker has a part of its own.
        let own = unsafe { memory.part(worker * each..(worker + 1) * each) };
        let mut lent = Lent { start: own.as_mut_ptr(), bytes: each, memory: PhantomData };
        loop {
            let block = next.fetch_add(1, Ordering::Relaxed);
            if block >= blocks {
                break;
            }
            let mut own: Slices<SliceMut<'_>> = Slices::new();
            for (out, len) in &parts {
                // SAFETY: each block is worked on once, and parts of different blocks are apart.
                own.push(unsafe { out.part(block * len..(block + 1) * len) });
            }
            f(&mut lent, block, &mut own);
        }
    });
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
    fn blocks_have_memory_and_parts_of_their_own() {
        let mut arena = Arena::new(128);
        let (mut whole, mut one) = (vec![0f32; 12], vec![0u32; 4]);
        let (_, mut memory) = arena.open(&[], &[region(0, Kind::U8, 128)]);
        let SliceMut::U8(memory) = &mut memory[0] else { panic!("of its kind") };
        let own = region(0, Kind::F32, 3);
        let outputs = &mut [SliceMut::F32(&mut whole), SliceMut::U32(&mut one)];
        for_each_block(4, memory, 64, outputs, &|lent, block, parts| {
            lent.open(&[], &[own]).1[0].f32s_mut().expect("of its kind").fill(block as f32);
            let (read, _) = lent.open(&[own], &[]);
            let [SliceMut::F32(a), SliceMut::U32(b)] = parts else { panic!("of their kinds") };
            a.copy_from_slice(read[0].f32s().expect("of its kind"));
            b.fill(10 * block as u32);
        });
        assert_eq!(whole, [0., 0., 0., 1., 1., 1., 2., 2., 2., 3., 3., 3.]);
        assert_eq!(one, [0, 10, 20, 30]);
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
