//! Which dimensions of which arguments are mapped.

use autograd_core::algebra::permute;
use autograd_core::smallvec::SmallVec;
use autograd_core::{Error, Mask, Path, Result, Site, TrackedTensor, Tree, resolve_dim};

/// The mapped dimensions: one for all arguments, or one for each.
///
/// Made from a number (`0`: the first dimension of everything), an array or slice of
/// `Option<isize>` (one for each part of the argument, be it a value or a whole model), or a
/// [`Mask`] of parts whose first dimension is mapped.
#[derive(Clone, Debug)]
pub struct Axes(Kind);

#[derive(Clone, Debug)]
enum Kind {
    All(isize),
    Each(Vec<Option<isize>>),
    First(Mask),
}

impl From<isize> for Axes {
    fn from(dim: isize) -> Self {
        Self(Kind::All(dim))
    }
}

impl From<i32> for Axes {
    fn from(dim: i32) -> Self {
        Self(Kind::All(dim as isize))
    }
}

impl From<Mask> for Axes {
    fn from(parts: Mask) -> Self {
        Self(Kind::First(parts))
    }
}

impl From<&[Option<isize>]> for Axes {
    fn from(dims: &[Option<isize>]) -> Self {
        Self(Kind::Each(dims.to_vec()))
    }
}

impl<const N: usize> From<[Option<isize>; N]> for Axes {
    fn from(dims: [Option<isize>; N]) -> Self {
        Self(Kind::Each(dims.to_vec()))
    }
}

/// The parts of an argument: what stands directly below its root. For each leaf the number of its
/// part, and how many parts there are.
fn parts<P: Tree + ?Sized>(tree: &P) -> (Vec<usize>, usize) {
    let mut numbers = Vec::new();
    let mut last: Option<String> = None;
    let mut count = 0;
    tree.visit(&Path::Root, &mut |path, _| {
        let mut outer = *path;
        while let Path::Field(next, _) | Path::Index(next, _) | Path::Key(next, _) = outer
            && !matches!(next, Path::Root)
        {
            outer = *next;
        }
        let part = outer.to_string();
        if last.as_ref() != Some(&part) {
            count += 1;
            last = Some(part);
        }
        numbers.push(count - 1);
    });
    (numbers, count)
}

/// The mapped dimension of every leaf, resolved.
pub(crate) struct Mapped {
    dims: Vec<Option<usize>>,
    pub(crate) size: usize,
}

impl Mapped {
    /// Checks the dimensions against the arguments.
    pub(crate) fn of<P: Tree + ?Sized>(
        op: &'static str,
        inputs: &P,
        axes: &Axes,
        site: Site,
    ) -> Result<Self> {
        let wrong = |reason: String| Error::argument(op, reason).or_at(site);
        let (part_of, count) = parts(inputs);
        if let Kind::Each(dims) = &axes.0
            && dims.len() != count
        {
            return Err(wrong(format!("{} mapped dimensions given for {count} arguments", dims.len())));
        }
        let paths = inputs.paths();
        let mut dims = Vec::with_capacity(part_of.len());
        let mut size: Option<(usize, usize)> = None;
        for (i, leaf) in inputs.leaves().into_iter().enumerate() {
            if let Some(error) = leaf.failure() {
                return Err(error.clone().or_at(site));
            }
            let dim = match &axes.0 {
                Kind::All(dim) => Some(*dim),
                Kind::Each(dims) => dims[part_of[i]],
                Kind::First(parts) => parts.has(part_of[i]).then_some(0),
            };
            let Some(dim) = dim else {
                dims.push(None);
                continue;
            };
            let place = if paths[i].is_empty() { "the input" } else { &paths[i] };
            let Some(found) = resolve_dim(dim, leaf.rank()) else {
                let shape = leaf.shape();
                return Err(wrong(format!("{place} of shape {shape} has no dimension {dim} to map over")));
            };
            let extent = leaf.dims()[found];
            let (before, at) = *size.get_or_insert((extent, i));
            if before != extent {
                let other = &paths[at];
                return Err(wrong(format!("{place} has {extent} examples, {other} has {before}")));
            }
            dims.push(Some(found));
        }
        let (size, _) = size.ok_or_else(|| wrong("no input is mapped".to_owned()))?;
        Ok(Self { dims, size })
    }

    /// The leaves with the mapped dimension in front, and whether they have one.
    pub(crate) fn in_front<P: Tree + ?Sized>(&self, inputs: &P) -> Result<Vec<(TrackedTensor, bool)>> {
        let moved = |(leaf, dim): (&TrackedTensor, &Option<usize>)| match *dim {
            None => Ok((leaf.clone(), false)),
            Some(0) => Ok((leaf.clone(), true)),
            Some(dim) => {
                let rest = (0..leaf.rank()).filter(|d| *d != dim);
                let order: SmallVec<[usize; 8]> = std::iter::once(dim).chain(rest).collect();
                Ok((permute(leaf, &order)?, true))
            }
        };
        inputs.leaves().into_iter().zip(&self.dims).map(moved).collect()
    }
}
