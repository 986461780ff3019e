//! Sets of input positions, kept once each and named by numbers: what structure detection
//! computes with.

use autograd_core::{Error, Result};
use std::collections::HashMap;

/// The name of a set. Equal names are equal sets.
pub(super) type SetId = u32;

/// The set without members.
pub(super) const EMPTY: SetId = 0;

/// The most members that all sets together may have: 1 GiB of them. A function that needs more is
/// dense, and a dense Jacobian is the better choice.
const MOST_MEMBERS: usize = 1 << 28;

/// All sets of one detection.
#[derive(Debug)]
pub(super) struct IndexSets {
    starts: Vec<usize>,
    members: Vec<u32>,
    unions: HashMap<(SetId, SetId), SetId>,
}

impl IndexSets {
    /// The empty set, and {i} under the name i + 1 for each of `n` inputs.
    pub(super) fn of_inputs(n: usize) -> Result<Self> {
        let count = u32::try_from(n).ok().filter(|&n| n < u32::MAX - 1);
        let count = count.ok_or_else(|| {
            Error::argument("jacobian_sparsity", format!("{n} inputs do not fit into 32-bit indices"))
        })?;
        let starts = std::iter::once(0).chain(0..=n).collect();
        Ok(Self { starts, members: (0..count).collect(), unions: HashMap::new() })
    }

    /// The members, ascending.
    pub(super) fn members(&self, id: SetId) -> &[u32] {
        &self.members[self.starts[id as usize]..self.starts[id as usize + 1]]
    }

    /// The union of two sets.
    pub(super) fn union(&mut self, a: SetId, b: SetId) -> Result<SetId> {
        let (a, b) = (a.min(b), a.max(b));
        if a == b || a == EMPTY {
            return Ok(b);
        }
        if let Some(known) = self.unions.get(&(a, b)) {
            return Ok(*known);
        }
        let merged = merge(self.members(a), self.members(b));
        // A set that holds the other is the union: structures that stop growing cost nothing.
        let id = if merged.len() == self.members(a).len() {
            a
        } else if merged.len() == self.members(b).len() {
            b
        } else {
            self.push(&merged)?
        };
        self.unions.insert((a, b), id);
        Ok(id)
    }

    /// The union of many sets; the list is used up as working memory.
    pub(super) fn union_of(&mut self, ids: &mut Vec<SetId>) -> Result<SetId> {
        /// Up to here pairs are merged, and remembered.
        const FEW: usize = 8;
        ids.sort_unstable();
        ids.dedup();
        if ids.len() <= FEW {
            return ids.drain(..).try_fold(EMPTY, |union, id| self.union(union, id));
        }
        let mut all: Vec<u32> = ids.iter().flat_map(|&id| self.members(id)).copied().collect();
        all.sort_unstable();
        all.dedup();
        let same = ids.iter().copied().find(|&id| self.members(id).len() == all.len());
        ids.clear();
        same.map_or_else(|| self.push(&all), Ok)
    }

    fn push(&mut self, members: &[u32]) -> Result<SetId> {
        if self.members.len() + members.len() > MOST_MEMBERS {
            let reason = "the function is too dense for a sparse structure; take a dense Jacobian";
            return Err(Error::argument("jacobian_sparsity", reason));
        }
        self.members.extend_from_slice(members);
        self.starts.push(self.members.len());
        u32::try_from(self.starts.len() - 2)
            .map_err(|_| Error::argument("jacobian_sparsity", "more than 2³² different rows"))
    }
}

/// Two ascending lists as one.
fn merge(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut merged = Vec::with_capacity(a.len() + b.len());
    let (mut i, mut j) = (0, 0);
    while let (Some(&x), Some(&y)) = (a.get(i), b.get(j)) {
        merged.push(x.min(y));
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    merged.extend_from_slice(&a[i..]);
    merged.extend_from_slice(&b[j..]);
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unions_are_shared_where_they_are_equal() -> Result<()> {
        let mut sets = IndexSets::of_inputs(30)?;
        assert!(sets.members(EMPTY).is_empty());
        let both = sets.union(4, 2)?;
        assert_eq!(sets.members(both), [1, 3]);
        assert_eq!(sets.union(2, 4)?, both);
        assert_eq!(sets.union(both, 4)?, both, "a set that holds the other is the union");
        let many = sets.union_of(&mut (5..=20).chain([both]).collect())?;
        assert_eq!(sets.members(many).len(), 18);
        assert_eq!(sets.union_of(&mut (6..=20).chain([many]).collect())?, many);
        Ok(())
    }
}
