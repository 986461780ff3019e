//! Plans that count layers and know no costs: every k, √n, binomial, recursive halving.

use crate::plan::{Part, Plan};
use autograd_core::{Error, Result, Site};
use std::ops::Range;

impl Plan {
    /// Every layer keeps what its backward pass reads: no recomputation.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no layers.
    #[track_caller]
    pub fn keep_all(layers: usize) -> Result<Self> {
        at_least_one("layers", layers)?;
        Ok(Self::made("keep all", layers, (0..layers).map(Part::Keep).collect()))
    }

    /// Every layer keeps its input alone, and is evaluated again by itself.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no layers.
    #[track_caller]
    pub fn each(layers: usize) -> Result<Self> {
        at_least_one("layers", layers)?;
        Ok(Self::made("each", layers, (0..layers).map(|i| again(i..i + 1, vec![Part::Keep(i)])).collect()))
    }

    /// Groups of `k` layers: each group keeps its first input and is evaluated again as a whole,
    /// but for the last one, which the backward pass reaches first.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no layers and for groups of none.
    #[track_caller]
    pub fn every(layers: usize, k: usize) -> Result<Self> {
        at_least_one("layers", layers)?;
        at_least_one("layers of a group", k)?;
        Ok(Self::made("every", layers, groups(layers, k)))
    }

    /// Groups of ⌈√n⌉ layers: memory for 2√n states, one more forward pass (Chen and others,
    /// "Training deep nets with sublinear memory cost", 2016).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no layers.
    #[track_caller]
    pub fn square_root(layers: usize) -> Result<Self> {
        at_least_one("layers", layers)?;
        let root = layers.isqrt();
        let k = if root * root == layers { root } else { root + 1 };
        Ok(Self::made("square root", layers, groups(layers, k)))
    }

    /// Halves, again and again: the first half is evaluated again, the second one keeps, and both
    /// are halved in turn down to pairs. n/2 · log₂(n/2) evaluations more, log₂ n states.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no layers.
    #[track_caller]
    pub fn halving(layers: usize) -> Result<Self> {
        fn halves(layers: Range<usize>) -> Vec<Part> {
            if layers.len() <= 2 {
                return layers.map(Part::Keep).collect();
            }
            let middle = layers.start + layers.len() / 2;
            let mut parts = vec![again(layers.start..middle, halves(layers.start..middle))];
            parts.extend(halves(middle..layers.end));
            parts
        }
        at_least_one("layers", layers)?;
        Ok(Self::made("halving", layers, halves(0..layers)))
    }

    /// The fewest evaluations for layers of equal cost where `states` states can be stored, the
    /// chain's input among them: Revolve (Griewank and Walther, "Algorithm 799: revolve", 2000).
    ///
    /// A chain of l layers is evaluated t(l, s) = r·l − β(s + 1, r − 1) times beyond its forward
    /// pass, with β(s, r) = C(s + r, s) and r the smallest number with l ≤ β(s, r).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no layers or no states.
    #[track_caller]
    pub fn binomial(layers: usize, states: usize) -> Result<Self> {
        at_least_one("layers", layers)?;
        at_least_one("states", states)?;
        Ok(Self::made("binomial", layers, revolve(0..layers, states)))
    }
}

/// t(l, s): the fewest evaluations beyond the forward pass.
pub fn binomial_recomputations(layers: usize, states: usize) -> u128 {
    if layers <= 1 {
        return 0;
    }
    if states == 0 {
        return u128::MAX;
    }
    let (l, s) = (layers as u128, states as u128);
    if s == 1 {
        return l * (l - 1) / 2;
    }
    // β(s, r) for r = 1, 2, …: β(s, r) = β(s, r − 1) · (s + r) / r.
    let mut r = 1;
    let mut reach = s + 1;
    while reach < l {
        r += 1;
        reach = reach * (s + r) / r;
    }
    // β(s + 1, r − 1) = β(s, r) · r / (s + 1).
    r * l - reach * r / (s + 1)
}

/// Revolve's schedule: stores a state in the middle, reverses what is behind it with one store
/// fewer, and then what is before it.
fn revolve(layers: Range<usize>, states: usize) -> Vec<Part> {
    let mut parts = Vec::new();
    let (mut start, mut left) = (layers.start, states);
    while layers.end - start > 1 {
        let length = layers.end - start;
        let (split, inner) = if left == 1 { (length - 1, 1) } else { (split_of(length, left), left) };
        parts.push(again(start..start + split, revolve(start..start + split, inner)));
        start += split;
        left = (left - 1).max(1);
    }
    parts.push(Part::Keep(start));
    parts
}

/// Where the next state is stored: the m that attains t(l, s) = m + t(l − m, s − 1) + t(m, s).
fn split_of(length: usize, states: usize) -> usize {
    let total = |m: usize| {
        m as u128 + binomial_recomputations(length - m, states - 1) + binomial_recomputations(m, states)
    };
    (1..length).min_by_key(|m| total(*m)).unwrap_or(1)
}

fn groups(layers: usize, k: usize) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut start = 0;
    while layers - start > k {
        parts.push(again(start..start + k, (start..start + k).map(Part::Keep).collect()));
        start += k;
    }
    parts.extend((start..layers).map(Part::Keep));
    parts
}

/// Layers that are evaluated again.
pub(crate) fn again(layers: Range<usize>, parts: Vec<Part>) -> Part {
    Part::Recompute { layers, parts, offload: false }
}

#[track_caller]
fn at_least_one(what: &str, number: usize) -> Result<()> {
    match number {
        0 => Err(Error::argument("plan", format!("there are no {what}")).or_at(Site::caller())),
        _ => Ok(()),
    }
}
