//! Trees: structures of values that transforms take apart and put together again.

use crate::error::{At, Error, Result, Site};
use crate::value::TrackedTensor;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

/// A structure with values at its leaves: a value, a `Vec`, array, slice, tuple, `Option` or map
/// of trees, a reference to one, or a struct of the user's, for which [`tree!`](crate::tree!)
/// writes this implementation.
///
/// Functions that are transformed take and return trees, and gradients have the structure of what
/// they belong to.
///
/// ```
/// use autograd_core::{Result, TrackedTensor, Tree, tree};
///
/// #[derive(Clone)]
/// struct Linear {
///     weight: TrackedTensor,
///     bias: Option<TrackedTensor>,
///     inputs: usize,
/// }
/// tree!(Linear { weight, bias; inputs });
///
/// fn main() -> Result<()> {
///     let weight = TrackedTensor::from_vec(vec![1f64, 2.], &[1, 2])?;
///     let layer = Linear { weight, bias: Some(TrackedTensor::scalar(3.0)), inputs: 2 };
///     assert_eq!(layer.paths(), [".weight", ".bias"]);
///     let twice = layer.map_leaves(|x| x * 2.0)?;
///     assert_eq!(twice.weight.to_flat::<f64>()?, [2.0, 4.0]);
///     assert_eq!(twice.inputs, layer.inputs);
///     Ok(())
/// }
/// ```
pub trait Tree {
    /// The same structure with leaves of its own: what functions get and gradients are. A slice's
    /// is a `Vec`, a reference's is what it refers to.
    type Owned: Tree<Owned = Self::Owned>;

    /// Calls `leaf` with every leaf and its path, in an order that depends on the structure only.
    fn visit<'a>(&'a self, path: &Path<'_>, leaf: &mut dyn FnMut(&Path<'_>, &'a TrackedTensor));

    /// The same structure with what `leaf` gives for every leaf, in the order of
    /// [`visit`](Self::visit).
    ///
    /// # Errors
    /// The first error of `leaf`.
    fn rebuild(&self, leaf: &mut dyn FnMut(&TrackedTensor) -> Result<TrackedTensor>) -> Result<Self::Owned>;

    /// All leaves, in order.
    fn leaves(&self) -> Vec<&TrackedTensor> {
        let mut leaves = Vec::new();
        self.visit(&Path::Root, &mut |_, leaf| leaves.push(leaf));
        leaves
    }

    /// The path of every leaf, as in `.layers[0].weight`; the empty path for a value by itself.
    fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.visit(&Path::Root, &mut |path, _| paths.push(path.to_string()));
        paths
    }

    /// The same structure with `f` of every leaf.
    ///
    /// # Errors
    /// The first error of `f`.
    fn map_leaves(&self, mut f: impl FnMut(&TrackedTensor) -> Result<TrackedTensor>) -> Result<Self::Owned>
    where
        Self: Sized,
    {
        self.rebuild(&mut f)
    }

    /// The same structure with other leaves.
    ///
    /// # Errors
    /// [`Error::TreeMismatch`] where there are not as many as the structure has.
    #[track_caller]
    fn with_leaves(&self, leaves: impl IntoIterator<Item = TrackedTensor>) -> Result<Self::Owned> {
        let site = Site::caller();
        let mut rest = leaves.into_iter();
        let mut missing = 0;
        let made = self.rebuild(&mut |leaf| {
            Ok(rest.next().unwrap_or_else(|| {
                missing += 1;
                leaf.clone()
            }))
        })?;
        let more = rest.count();
        if missing == 0 && more == 0 {
            return Ok(made);
        }
        let want = self.leaves().len();
        let reason = format!("{} leaves given, {want} needed", want + more - missing);
        Err(Error::TreeMismatch { what: "leaves of a tree", reason, at: At::from(site) })
    }
}

/// Where a leaf stands in its tree.
#[derive(Clone, Copy, Debug)]
pub enum Path<'a> {
    /// The tree itself.
    Root,
    /// A field, or a place in a tuple.
    Field(&'a Path<'a>, &'a str),
    /// An element of a list.
    Index(&'a Path<'a>, usize),
    /// An entry of a map.
    Key(&'a Path<'a>, &'a str),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(outer, name) => write!(f, "{outer}.{name}"),
            Path::Index(outer, index) => write!(f, "{outer}[{index}]"),
            Path::Key(outer, key) => write!(f, "{outer}[{key:?}]"),
        }
    }
}

/// Checks that a tree has the structure of another one: the same paths.
///
/// # Errors
/// [`Error::TreeMismatch`], which names the first path that differs.
pub fn same_structure<A, B>(what: &'static str, got: &A, want: &B, site: Site) -> Result<()>
where
    A: Tree + ?Sized,
    B: Tree + ?Sized,
{
    let (got, want) = (got.paths(), want.paths());
    if got == want {
        return Ok(());
    }
    let named = |path: &str| if path.is_empty() { "the value itself".to_owned() } else { path.to_owned() };
    let reason = match got.iter().zip(&want).find(|(a, b)| a != b) {
        Some((a, b)) => format!("{} is given where {} is needed", named(a), named(b)),
        None if got.len() < want.len() => format!("{} is missing", named(&want[got.len()])),
        None => format!("{} is one too many", named(&got[want.len()])),
    };
    Err(Error::TreeMismatch { what, reason, at: At::from(site) })
}

impl Tree for TrackedTensor {
    type Owned = TrackedTensor;

    fn visit<'a>(&'a self, path: &Path<'_>, leaf: &mut dyn FnMut(&Path<'_>, &'a TrackedTensor)) {
        leaf(path, self);
    }

    fn rebuild(&self, leaf: &mut dyn FnMut(&TrackedTensor) -> Result<TrackedTensor>) -> Result<Self::Owned> {
        leaf(self)
    }
}

impl<T: Tree + ?Sized> Tree for &T {
    type Owned = T::Owned;

    fn visit<'a>(&'a self, path: &Path<'_>, leaf: &mut dyn FnMut(&Path<'_>, &'a TrackedTensor)) {
        (**self).visit(path, leaf);
    }

    fn rebuild(&self, leaf: &mut dyn FnMut(&TrackedTensor) -> Result<TrackedTensor>) -> Result<Self::Owned> {
        (**self).rebuild(leaf)
    }
}

impl<T: Tree + ?Sized> Tree for Box<T> {
    type Owned = Box<T::Owned>;

    fn visit<'a>(&'a self, path: &Path<'_>, leaf: &mut dyn FnMut(&Path<'_>, &'a TrackedTensor)) {
        (**self).visit(path, leaf);
    }

    fn rebuild(&self, leaf: &mut dyn FnMut(&TrackedTensor) -> Result<TrackedTensor>) -> Result<Self::Owned> {
        (**self).rebuild(leaf).map(Box::new)
    }
}

impl<T: Tree> Tree for [T] {
    type Owned = Vec<T::Owned>;

    fn visit<'a>(&'a self, path: &Path<'_>, leaf: &mut dyn FnMut(&Path<'_>, &'a TrackedTensor)) {
        for (i, tree) in self.iter().enumerate() {
            tree.visit(&Path::Index(path, i), leaf);
        }
    }

    fn rebuild(&self, leaf: &mut dyn FnMut(&TrackedTensor) -> Result<TrackedTensor>) -> Result<Self::Owned> {
        self.iter().map(|tree| tree.rebuild(leaf)).collect()
    }
}

impl<T: Tree> Tree for Vec<T> {
    type Owned = Vec<T::Owned>;

    fn visit<'a>(&'a self, path: &Path<'_>, leaf: &mut dyn FnMut(&Path<'_>, &'a TrackedTensor)) {
        self.as_slice().visit(path, leaf);
    }

    fn rebuild(&self, leaf: &mut dyn FnMut(&TrackedTensor) -> Result<TrackedTensor>) -> Result<Self::Owned> {
        self.as_slice().rebuild(leaf)
    }
}

impl<T: Tree, const N: usize> Tree for [T; N] {
    type Owned = [T::Owned; N];

    fn visit<'a>(&'a self, path: &Path<'_>, leaf: &mut dyn FnMut(&Path<'_>, &'a TrackedTensor)) {
        self.as_slice().visit(path, leaf);
    }

    fn rebuild(&self, leaf: &mut dyn FnMut(&TrackedTensor) -> Result<TrackedTensor>) -> Result<Self::Owned> {
        let made = self.as_slice().rebuild(leaf)?;
        made.try_into().map_err(|_| Error::internal("tree", "an array came back with another length"))
    }
}

impl<T: Tree> Tree for Option<T> {
    type Owned = Option<T::Owned>;

    fn visit<'a>(&'a self, path: &Path<'_>, leaf: &mut dyn FnMut(&Path<'_>, &'a TrackedTensor)) {
        if let Some(tree) = self {
            tree.visit(path, leaf);
        }
    }

    fn rebuild(&self, leaf: &mut dyn FnMut(&TrackedTensor) -> Result<TrackedTensor>) -> Result<Self::Owned> {
        self.as_ref().map(|tree| tree.rebuild(leaf)).transpose()
    }
}

impl<T: Tree> Tree for BTreeMap<String, T> {
    type Owned = BTreeMap<String, T::Owned>;

    fn visit<'a>(&'a self, path: &Path<'_>, leaf: &mut dyn FnMut(&Path<'_>, &'a TrackedTensor)) {
        for (key, tree) in self {
            tree.visit(&Path::Key(path, key), leaf);
        }
    }

    fn rebuild(&self, leaf: &mut dyn FnMut(&TrackedTensor) -> Result<TrackedTensor>) -> Result<Self::Owned> {
        self.iter().map(|(key, tree)| Ok((key.clone(), tree.rebuild(leaf)?))).collect()
    }
}

/// The entries of a hash map in the order of their keys: its own order differs from map to map.
fn sorted<T>(map: &HashMap<String, T>) -> Vec<(&String, &T)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries
}

#[allow(clippy::implicit_hasher, reason = "the owned map needs a hasher that can be made")]
impl<T: Tree> Tree for HashMap<String, T> {
    type Owned = HashMap<String, T::Owned>;

    fn visit<'a>(&'a self, path: &Path<'_>, leaf: &mut dyn FnMut(&Path<'_>, &'a TrackedTensor)) {
        for (key, tree) in sorted(self) {
            tree.visit(&Path::Key(path, key), leaf);
        }
    }

    fn rebuild(&self, leaf: &mut dyn FnMut(&TrackedTensor) -> Result<TrackedTensor>) -> Result<Self::Owned> {
        sorted(self).into_iter().map(|(key, tree)| Ok((key.clone(), tree.rebuild(leaf)?))).collect()
    }
}

impl Tree for () {
    type Owned = ();

    fn visit<'a>(&'a self, _: &Path<'_>, _: &mut dyn FnMut(&Path<'_>, &'a TrackedTensor)) {}

    fn rebuild(&self, _: &mut dyn FnMut(&TrackedTensor) -> Result<TrackedTensor>) -> Result<Self::Owned> {
        Ok(())
    }
}

macro_rules! tuples {
    ($(($($name:ident $index:tt),*))*) => {$(
        impl<$($name: Tree),*> Tree for ($($name,)*) {
            type Owned = ($($name::Owned,)*);

            fn visit<'a>(&'a self, path: &Path<'_>, leaf: &mut dyn FnMut(&Path<'_>, &'a TrackedTensor)) {
                $(self.$index.visit(&Path::Field(path, stringify!($index)), leaf);)*
            }

            fn rebuild(
                &self,
                leaf: &mut dyn FnMut(&TrackedTensor) -> Result<TrackedTensor>,
            ) -> Result<Self::Owned> {
                Ok(($(self.$index.rebuild(leaf)?,)*))
            }
        }
    )*};
}

tuples! {
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6)
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7)
}

/// Makes a struct of the user's a [`Tree`](crate::Tree): `tree!(Mlp { first, second })` names the fields
/// that are trees, and after a semicolon those that are copied as they are:
/// `tree!(Linear { weight, bias; inputs })`. The places of a tuple struct are named by number:
/// `tree!(Pair { 0, 1 })`.
///
/// `tree!(Linear { weight; inputs })` stands for
///
/// ```text
/// impl Tree for Linear {
///     type Owned = Linear;
///     fn visit<'a>(&'a self, path: &Path<'_>, leaf: &mut dyn FnMut(&Path<'_>, &'a TrackedTensor)) {
///         self.weight.visit(&Path::Field(path, "weight"), leaf);
///     }
///     fn rebuild(&self, leaf: &mut dyn FnMut(&TrackedTensor) -> Result<TrackedTensor>) -> Result<Linear> {
///         Ok(Linear { weight: self.weight.rebuild(leaf)?, inputs: self.inputs.clone() })
///     }
/// }
/// ```
#[macro_export]
macro_rules! tree {
    ($name:ident { $($field:tt),* $(,)? }) => {
        $crate::tree!($name { $($field),* ; });
    };
    ($name:ident { $($field:tt),* ; $($kept:tt),* $(,)? }) => {
        impl $crate::Tree for $name {
            type Owned = $name;

            fn visit<'a>(
                &'a self,
                path: &$crate::Path<'_>,
                leaf: &mut dyn FnMut(&$crate::Path<'_>, &'a $crate::TrackedTensor),
            ) {
                $($crate::Tree::visit(
                    &self.$field,
                    &$crate::Path::Field(path, stringify!($field)),
                    leaf,
                );)*
            }

            fn rebuild(
                &self,
                leaf: &mut dyn FnMut(&$crate::TrackedTensor) -> $crate::Result<$crate::TrackedTensor>,
            ) -> $crate::Result<$name> {
                Ok($name {
                    $($field: $crate::Tree::rebuild(&self.$field, leaf)?,)*
                    $($kept: ::core::clone::Clone::clone(&self.$kept),)*
                })
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair(TrackedTensor, Vec<TrackedTensor>);
    tree!(Pair { 0, 1 });

    fn number(x: f64) -> TrackedTensor {
        TrackedTensor::scalar(x)
    }

    fn numbers(tree: &(impl Tree + ?Sized)) -> Vec<f64> {
        tree.leaves().iter().map(|x| x.to_scalar().unwrap_or(f64::NAN)).collect()
    }

    #[test]
    fn leaves_have_paths_and_an_order() -> Result<()> {
        let map: HashMap<String, _> = ["b", "a"].map(|key| (key.to_owned(), number(1.0))).into();
        let tree = (Pair(number(2.0), vec![number(3.0)]), map, [Some(number(4.0)), None], ());
        let want = [".0.0", ".0.1[0]", ".1[\"a\"]", ".1[\"b\"]", ".2[0]"];
        assert_eq!(tree.paths(), want);
        assert_eq!(numbers(&tree), [2.0, 3.0, 1.0, 1.0, 4.0]);
        let twice = tree.map_leaves(|x| x * 2.0)?;
        assert_eq!(numbers(&twice), [4.0, 6.0, 2.0, 2.0, 8.0]);
        assert_eq!(twice.paths(), want);
        Ok(())
    }

    #[test]
    fn a_slice_of_references_owns_a_list() -> Result<()> {
        let (a, b) = (number(1.0), number(2.0));
        let slice: &[&TrackedTensor] = &[&a, &b];
        let owned: Vec<TrackedTensor> = slice.rebuild(&mut |x| Ok(x.clone()))?;
        assert_eq!(numbers(&owned), [1.0, 2.0]);
        assert_eq!(a.paths(), [""]);
        Ok(())
    }

    #[test]
    fn other_leaves_must_be_as_many() -> Result<()> {
        let tree = [number(1.0), number(2.0)];
        assert_eq!(numbers(&tree.with_leaves([number(5.0), number(6.0)])?), [5.0, 6.0]);
        for count in [1, 3] {
            let failed = tree.with_leaves((0..count).map(|_| number(0.0)));
            let Err(error) = failed else { panic!("{count} leaves fit two places") };
            assert!(error.to_string().contains(&format!("{count} leaves given, 2 needed")), "{error}");
            assert!(error.site().is_some());
        }
        Ok(())
    }

    #[test]
    fn the_first_difference_is_named() {
        let check = |got: &dyn Fn() -> Vec<TrackedTensor>, want: usize| {
            let want: Vec<_> = (0..want).map(|_| number(0.0)).collect();
            same_structure("the tangents", &got(), &want, Site::caller()).err().map(|e| e.to_string())
        };
        let two = || vec![number(1.0), number(1.0)];
        assert_eq!(check(&two, 2), None);
        let missing = check(&two, 3).unwrap_or_default();
        assert!(missing.starts_with("the tangents: [2] is missing"), "{missing}");
        let more = check(&two, 1).unwrap_or_default();
        assert!(more.starts_with("the tangents: [1] is one too many"), "{more}");
        let (got, want) = ([Some(number(0.0)), None], [None, Some(number(0.0))]);
        let other = same_structure("the tangents", &got, &want, Site::caller());
        let other = other.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(other.starts_with("the tangents: [0] is given where [1] is needed"), "{other}");
    }
}
