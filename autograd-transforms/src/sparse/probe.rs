//! Which elements of an input each element of a linear op's output reads, found by asking the op.
//!
//! An op says of itself only that it is linear. Three questions, each more expensive than the one
//! before, give its structure:
//!
//! 1. Is the output a rearrangement of memory ([`Primitive::view`])? Its layout is the answer.
//! 2. Does it move elements? The numbers 1, 2, 3, … come out where their places are read, and
//!    arbitrary numbers confirm it.
//! 3. Otherwise NaN is put into slabs of one dimension at a time: it passes through every sum,
//!    whatever the coefficients. Slabs are halved, and those that no output reads together are
//!    asked for together (the hierarchy of CasADi's Jacobians). The elements read are taken as the product
//!    over dimensions, which is exact for contractions, convolutions, pools and sums over whole
//!    dimensions, and never too small. Where one output reads more than [`MOST_SLABS`] slabs, it
//!    counts as reading the whole of them.

use super::colouring::column_colouring;
use super::pattern::SparsityPattern;
use autograd_core::algebra::fill;
use autograd_core::smallvec::SmallVec;
use autograd_core::{DType, Layout, Meta, Primitive, Result, Site, TrackedTensor, apply_call, is_float};
use std::collections::HashMap;

/// Where a search stops to tell slabs apart: the finest answer costs that many evaluations at
/// every halving.
const MOST_SLABS: usize = 64;

/// What each element of an output reads of one input.
pub(super) enum Reads {
    /// At most one element: its place, or `None`.
    One(Vec<Option<u32>>),
    /// For each dimension of the input the name of a list of indices, and those lists: the product
    /// of the lists is read.
    Product { names: Vec<SmallVec<[u32; 4]>>, lists: Vec<Vec<Vec<u32>>> },
}

/// An op at its inputs, of which one is asked about.
pub(super) struct Probe<'a> {
    pub(super) op: &'a dyn Primitive,
    /// Its inputs at the level below.
    pub(super) inputs: &'a [&'a TrackedTensor],
    /// The inputs in which it is jointly linear, as the question is put.
    pub(super) linear: &'a dyn Fn(usize) -> bool,
    /// The input asked about.
    pub(super) asked: usize,
    pub(super) site: Site,
}

impl Probe<'_> {
    /// What output `output`, of meta `made`, reads of the input asked about.
    ///
    /// # Errors
    /// What the op reports.
    pub(super) fn reads(&self, output: usize, made: &Meta) -> Result<Reads> {
        let x = self.inputs[self.asked];
        if x.elem_count() == 0 || made.elements() == 0 {
            return Ok(Reads::One(vec![None; made.elements()]));
        }
        let layouts: SmallVec<[Layout; 4]> =
            self.inputs.iter().map(|x| Layout::contiguous(*x.shape())).collect();
        let layout_refs: SmallVec<[&Layout; 4]> = layouts.iter().collect();
        if output == 0
            && let Some((input, layout)) = self.op.view(made, &layout_refs)
        {
            let place = |element| (input == self.asked).then(|| layout.index_of(element) as u32);
            return Ok(Reads::One((0..made.elements()).map(place).collect()));
        }
        if let Some(places) = self.movement(output)? {
            return Ok(Reads::One(places));
        }
        self.product(output, made)
    }

    /// The output where the input asked about holds `elements`: zeros in the other linear inputs,
    /// ones where the op would multiply by a float, everything else as it is.
    fn evaluate(&self, output: usize, elements: Vec<f64>, dtype: DType) -> Result<Vec<f64>> {
        let mut values: SmallVec<[TrackedTensor; 4]> = SmallVec::new();
        let mut elements = Some(elements);
        for (i, input) in self.inputs.iter().enumerate() {
            let float = is_float(input.dtype());
            let constant = |number| fill(number, &input.meta().with_dtype(dtype), input);
            values.push(match elements.take_if(|_| i == self.asked) {
                Some(elements) => {
                    autograd_core::algebra::cast(&TrackedTensor::from_vec(elements, input.dims())?, dtype)?
                }
                None if (self.linear)(i) => constant(0.0)?,
                None if float => constant(1.0)?,
                None => (*input).clone(),
            });
        }
        let refs: SmallVec<[&TrackedTensor; 4]> = values.iter().collect();
        let made = apply_call(self.op, &refs, false, self.site)?.outputs;
        autograd_core::algebra::cast(&made[output], DType::F64)?.to_flat::<f64>()
    }

    /// The place that each element is moved from; `None` where the op does more than move.
    fn movement(&self, output: usize) -> Result<Option<Vec<Option<u32>>>> {
        let n = self.inputs[self.asked].elem_count();
        let arbitrary: Vec<f64> = (0..n as u64).map(arbitrary_number).collect();
        let counted = (1..=n).map(|i| i as f64).collect();
        // An op that takes no f64 is asked in its own type below.
        let (Ok(counted), Ok(confirmed)) = (
            self.evaluate(output, counted, DType::F64),
            self.evaluate(output, arbitrary.clone(), DType::F64),
        ) else {
            return Ok(None);
        };
        let mut places = Vec::with_capacity(counted.len());
        for (place, number) in counted.into_iter().zip(confirmed) {
            if place == 0.0 && number == 0.0 {
                places.push(None);
                continue;
            }
            let from = place - 1.0;
            let moved = from.fract() == 0.0
                && (0.0..n as f64).contains(&from)
                && rounds_to(arbitrary[from as usize], number);
            if !moved {
                return Ok(None);
            }
            places.push(Some(from as u32));
        }
        Ok(Some(places))
    }

    /// The indices that each output reads along each dimension.
    fn product(&self, output: usize, made: &Meta) -> Result<Reads> {
        let rank = self.inputs[self.asked].rank();
        let mut names = vec![SmallVec::new(); made.elements()];
        let mut lists = Vec::with_capacity(rank);
        for dim in 0..rank {
            let found = self.slabs(output, dim)?;
            for (names, name) in names.iter_mut().zip(found.names) {
                names.push(name);
            }
            lists.push(found.lists);
        }
        if rank == 0 {
            // A scalar input: no dimension to ask about.
            let reads = self.affected(output, |_| true)?;
            return Ok(Reads::One(reads.into_iter().map(|read| read.then_some(0)).collect()));
        }
        Ok(Reads::Product { names, lists })
    }

    /// Which outputs change to NaN with the elements at which `marked` holds.
    fn affected(&self, output: usize, marked: impl Fn(usize) -> bool) -> Result<Vec<bool>> {
        let x = self.inputs[self.asked];
        let elements = (0..x.elem_count()).map(|i| if marked(i) { f64::NAN } else { 0.0 }).collect();
        Ok(self.evaluate(output, elements, x.dtype())?.into_iter().map(f64::is_nan).collect())
    }

    /// The slabs of one dimension that each output reads.
    fn slabs(&self, output: usize, dim: usize) -> Result<Named> {
        let dims = self.inputs[self.asked].dims();
        let (extent, inner) = (dims[dim], dims[dim + 1..].iter().product::<usize>());
        let slab_of = |element: usize| element / inner % extent;
        let mut size = extent.next_power_of_two();
        let whole = self.affected(output, |_| true)?;
        let mut found = Named::new(whole.into_iter().map(|read| if read { vec![0u32] } else { Vec::new() }));
        while size > 1 {
            let half = size / 2;
            // The halves of each list's blocks, and colours under which no list has two alike.
            let halves: Vec<Vec<usize>> = found.lists.iter().map(|list| split(list, half, extent)).collect();
            if halves.iter().any(|list| list.len() > MOST_SLABS) {
                break;
            }
            let blocks = extent.div_ceil(half);
            let colouring = column_colouring(&SparsityPattern::from_rows(&halves, blocks)?);
            if colouring.count() > MOST_SLABS {
                break;
            }
            let mut next: Vec<Vec<u32>> = vec![Vec::new(); found.names.len()];
            for colour in 0..colouring.count() as u32 {
                let hit =
                    self.affected(output, |element| colouring.colours()[slab_of(element) / half] == colour)?;
                for ((list, name), _) in next.iter_mut().zip(&found.names).zip(hit).filter(|(_, hit)| *hit) {
                    let blocks = halves[*name as usize].iter().copied();
                    list.extend(
                        blocks.filter(|&b| colouring.colours()[b] == colour).map(|block| block as u32),
                    );
                }
            }
            for list in &mut next {
                list.sort_unstable();
            }
            found = Named::new(next);
            size = half;
        }
        for list in &mut found.lists {
            let slabs = |block: u32| block * size as u32..((block + 1) * size as u32).min(extent as u32);
            *list = list.iter().flat_map(|&block| slabs(block)).collect();
        }
        Ok(found)
    }
}

/// Whether `number` is `exact`, possibly on its way through f32. Narrower types are asked with NaN:
/// they cannot tell counted numbers apart.
fn rounds_to(exact: f64, number: f64) -> bool {
    number == exact || number == f64::from(exact as f32)
}

/// The halves of blocks that exist.
fn split(blocks: &[u32], half: usize, extent: usize) -> Vec<usize> {
    let halves = blocks.iter().flat_map(|&block| [2 * block as usize, 2 * block as usize + 1]);
    halves.filter(|block| block * half < extent).collect()
}

/// A list for each output, equal lists kept once.
struct Named {
    names: Vec<u32>,
    lists: Vec<Vec<u32>>,
}

impl Named {
    fn new(lists: impl IntoIterator<Item = Vec<u32>>) -> Self {
        let mut known: HashMap<Vec<u32>, u32> = HashMap::new();
        let mut made = Self { names: Vec::new(), lists: Vec::new() };
        for list in lists {
            let name = match known.get(&list) {
                Some(name) => *name,
                None => {
                    let name = made.lists.len() as u32;
                    made.lists.push(list.clone());
                    known.insert(list, name);
                    name
                }
            };
            made.names.push(name);
        }
        made
    }
}

/// A number in [1, 2) that has nothing to do with its neighbours (splitmix64).
fn arbitrary_number(i: u64) -> f64 {
    let mut z = i.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    1.0 + (z >> 11) as f64 / (1u64 << 53) as f64
}
