//! Products and sums by Einstein's notation.

use crate::matrix::matmul;
use crate::numbers::sound;
use crate::reduce::{Over, sum_over};
use crate::registry::{Case, Family, Op, Sample};
use crate::slice::diagonal;
use autograd_core::algebra::{mul, permute, reshape};
use autograd_core::smallvec::SmallVec;
use autograd_core::{Error, Result, Site, TrackedTensor, checked_shape};
use std::borrow::Borrow;

/// The name of a dimension: a letter, or a place within the ellipsis counted from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Ellipsis(std::cmp::Reverse<usize>),
    Letter(char),
}

type Labels = SmallVec<[Label; 8]>;

/// A value whose dimensions have names.
struct Term {
    value: TrackedTensor,
    labels: Labels,
}

/// Products and sums by Einstein's notation: `einsum("bij,bjk->bik", &[&a, &b])` is a batch of
/// matrix products. A letter in the inputs only is summed over; one that an input has twice reads
/// its diagonal; `...` stands for dimensions that broadcast. Without `->` the result has the
/// ellipsis and then the letters that occur once, in alphabetical order. Extents of a letter are
/// equal, or 1 and broadcast.
///
/// Values are combined in pairs, each by one matrix product, in the order that takes the fewest
/// multiplications; from left to right where that is as good.
///
/// # Errors
/// A specification that cannot be read or does not fit the values; types or devices that differ.
#[track_caller]
pub fn einsum<T: Borrow<TrackedTensor>>(spec: &str, xs: &[T]) -> Result<TrackedTensor> {
    let site = Site::caller();
    contract(spec, xs).map_err(|error| error.or_at(site))
}

fn contract<T: Borrow<TrackedTensor>>(spec: &str, xs: &[T]) -> Result<TrackedTensor> {
    for x in xs {
        sound(x.borrow())?;
    }
    let (mut terms, output) = read(spec, xs)?;
    while terms.len() > 1 {
        let (i, j) = cheapest(&terms, &output);
        let right = terms.remove(j);
        let left = terms.remove(i);
        let needed =
            |label: Label| output.contains(&label) || terms.iter().any(|term| term.labels.contains(&label));
        let product = pair(left, right, &needed)?;
        terms.insert(i, product);
    }
    let Some(last) = terms.pop() else {
        return Err(Error::argument("einsum", "no values"));
    };
    last.summed(&|label| output.contains(&label))?.ordered(&output).map(|term| term.value)
}

/// With more values than this, the next pair is the cheapest one, whatever comes after it.
const SEARCHED: usize = 5;

/// The pair to combine next, the earlier one first.
fn cheapest(terms: &[Term], output: &[Label]) -> (usize, usize) {
    if terms.len() == 2 {
        return (0, 1);
    }
    let mut extents: SmallVec<[(Label, usize); 8]> = SmallVec::new();
    for (label, extent) in terms.iter().flat_map(|t| t.labels.iter().zip(t.value.dims())) {
        match extents.iter_mut().find(|(known, _)| known == label) {
            Some((_, known)) => *known = (*known).max(*extent),
            None => extents.push((*label, *extent)),
        }
    }
    let labels: Vec<Labels> = terms.iter().map(|term| term.labels.clone()).collect();
    order(&labels, output, &extents).1
}

/// The multiplications of the best order, and its first pair.
fn order(terms: &[Labels], output: &[Label], extents: &[(Label, usize)]) -> (f64, (usize, usize)) {
    let mut best = (f64::INFINITY, (0, 1));
    for i in 0..terms.len() {
        for j in i + 1..terms.len() {
            let mut product = terms[i].clone();
            product.extend(terms[j].iter().copied().filter(|label| !terms[i].contains(label)));
            let of = |label: &Label| extents.iter().find(|(known, _)| known == label).map_or(1, |(_, n)| *n);
            let mut work: f64 = product.iter().map(|label| of(label) as f64).product();
            if terms.len() > 2 && terms.len() <= SEARCHED {
                let mut rest: Vec<Labels> = terms.to_vec();
                rest.remove(j);
                rest.remove(i);
                product.retain(|label| output.contains(label) || rest.iter().any(|t| t.contains(label)));
                rest.insert(i, product);
                work += order(&rest, output, extents).0;
            }
            if work < best.0 {
                best = (work, (i, j));
            }
        }
    }
    best
}

/// The values with named dimensions, and the names of the result's.
fn read<T: Borrow<TrackedTensor>>(spec: &str, xs: &[T]) -> Result<(Vec<Term>, Labels)> {
    let fail = |why: &str| Error::argument("einsum", format!("\"{spec}\": {why}"));
    let (inputs, output) = match spec.split_once("->") {
        Some((inputs, output)) => (inputs, Some(output)),
        None => (spec, None),
    };
    let inputs: Vec<&str> = inputs.split(',').collect();
    if inputs.len() != xs.len() {
        return Err(fail(&format!("{} inputs are named, {} values given", inputs.len(), xs.len())));
    }
    let mut terms = Vec::with_capacity(xs.len());
    for (names, x) in inputs.iter().zip(xs) {
        let x: &TrackedTensor = x.borrow();
        let letters = names.chars().filter(char::is_ascii_alphabetic).count();
        let labels =
            labels(names, x.rank().saturating_sub(letters)).ok_or_else(|| fail("it cannot be read"))?;
        if labels.len() != x.rank() {
            return Err(fail(&format!("\"{names}\" does not name the dimensions of shape {}", x.shape())));
        }
        terms.push(Term { value: x.clone(), labels }.without_repetition()?);
    }
    let count = |label: &Label| terms.iter().filter(|term| term.labels.contains(label)).count();
    let ellipsis = terms.iter().flat_map(|term| &term.labels).filter(|l| matches!(l, Label::Ellipsis(_)));
    let widest =
        ellipsis.map(|l| if let Label::Ellipsis(place) = l { place.0 + 1 } else { 0 }).max().unwrap_or(0);
    let output = match output {
        Some(names) => labels(names, widest).ok_or_else(|| fail("its result cannot be read"))?,
        None => {
            // A letter that one input has twice is no longer seen twice: count in the text.
            let times = |c: char| spec.chars().filter(|&other| other == c).count();
            let mut all: Labels = terms.iter().flat_map(|term| term.labels.iter().copied()).collect();
            all.retain(|label| match label {
                Label::Ellipsis(_) => true,
                Label::Letter(c) => times(*c) == 1,
            });
            all.sort_unstable();
            all.dedup();
            all
        }
    };
    for (i, label) in output.iter().enumerate() {
        if count(label) == 0 {
            return Err(fail("its result has a dimension that no input has"));
        }
        if output[..i].contains(label) {
            return Err(fail("its result names a dimension twice"));
        }
    }
    Ok((terms, output))
}

/// The labels of a part of a specification, with `hidden` dimensions for an ellipsis.
fn labels(names: &str, hidden: usize) -> Option<Labels> {
    let mut labels = Labels::new();
    let mut rest = names.trim();
    let mut seen = false;
    while let Some(c) = rest.chars().next() {
        if let Some(behind) = rest.strip_prefix("...") {
            if seen {
                return None;
            }
            seen = true;
            labels.extend((0..hidden).rev().map(|place| Label::Ellipsis(std::cmp::Reverse(place))));
            rest = behind;
            continue;
        }
        if c.is_ascii_alphabetic() {
            labels.push(Label::Letter(c));
        } else if !c.is_whitespace() {
            return None;
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(labels)
}

impl Term {
    fn extent(&self, label: Label) -> Option<usize> {
        self.labels.iter().position(|&l| l == label).map(|d| self.value.dims()[d])
    }

    /// Dimensions of one name replaced by their diagonal.
    fn without_repetition(mut self) -> Result<Self> {
        while let Some((a, b)) = repeated(&self.labels) {
            if self.value.dims()[a] != self.value.dims()[b] {
                let reason = format!("dimensions {a} and {b} have one name and different extents");
                return Err(Error::shape("einsum", &[*self.value.shape()], reason));
            }
            let label = self.labels[a];
            self.value = diagonal(&self.value, 0, a as isize, b as isize)?;
            self.labels.remove(b);
            self.labels.remove(a);
            self.labels.push(label);
        }
        Ok(self)
    }

    /// Summed over the dimensions that are not needed.
    fn summed(mut self, needed: &dyn Fn(Label) -> bool) -> Result<Self> {
        let dims = (0..self.labels.len()).filter(|&d| !needed(self.labels[d])).collect();
        let over = Over { dims, keepdim: false };
        if !over.dims.is_empty() {
            self.value = sum_over(&self.value, over)?;
            self.labels.retain(|label| needed(*label));
        }
        Ok(self)
    }

    /// Without a dimension of extent 1.
    fn squeezed(mut self, label: Label) -> Result<Self> {
        if let Some(d) = self.labels.iter().position(|&l| l == label) {
            let mut dims: SmallVec<[usize; 8]> = SmallVec::from_slice(self.value.dims());
            dims.remove(d);
            self.labels.remove(d);
            self.value = reshape(&self.value, &checked_shape("einsum", &dims)?)?;
        }
        Ok(self)
    }

    /// With its dimensions in this order.
    fn ordered(mut self, labels: &[Label]) -> Result<Self> {
        let place = |label: &Label| self.labels.iter().position(|l| l == label);
        let order: Option<SmallVec<[usize; 8]>> = labels.iter().map(place).collect();
        let order = order.filter(|order| order.len() == self.labels.len());
        let order = order.ok_or_else(|| Error::internal("einsum", "a dimension was lost"))?;
        if !order.iter().enumerate().all(|(to, &from)| to == from) {
            self.value = permute(&self.value, &order)?;
        }
        self.labels = labels.iter().copied().collect();
        Ok(self)
    }

    /// As a value of these extents, in this order of its dimensions.
    fn shaped(self, order: &[Label], extents: &[usize]) -> Result<TrackedTensor> {
        reshape(&self.ordered(order)?.value, &checked_shape("einsum", extents)?)
    }
}

/// Two dimensions of one name.
fn repeated(labels: &[Label]) -> Option<(usize, usize)> {
    (0..labels.len()).find_map(|a| Some((a, (a + 1..labels.len()).find(|&b| labels[a] == labels[b])?)))
}

/// The product of two terms, summed over the dimensions that are not needed.
fn pair(mut a: Term, mut b: Term, needed: &dyn Fn(Label) -> bool) -> Result<Term> {
    // An extent of 1 beside a larger one broadcasts: the product does not depend on it.
    for label in a.labels.clone() {
        match (a.extent(label), b.extent(label)) {
            (Some(m), Some(n)) if m == n => {}
            (Some(1), Some(_)) => a = a.squeezed(label)?,
            (Some(_), Some(1)) => b = b.squeezed(label)?,
            (Some(m), Some(n)) => {
                let reason = format!("extents {m} and {n} of one name");
                return Err(Error::shape("einsum", &[*a.value.shape(), *b.value.shape()], reason));
            }
            _ => {}
        }
    }
    a = a.summed(&|label| needed(label) || b.labels.contains(&label))?;
    b = b.summed(&|label| needed(label) || a.labels.contains(&label))?;
    let both = |label: &&Label| b.labels.contains(label);
    let batch: Labels = a.labels.iter().filter(both).filter(|l| needed(**l)).copied().collect();
    let inner: Labels = a.labels.iter().filter(both).filter(|l| !needed(**l)).copied().collect();
    let rows: Labels = a.labels.iter().filter(|l| !both(l)).copied().collect();
    let columns: Labels = b.labels.iter().filter(|l| !a.labels.contains(l)).copied().collect();
    let dims = |term: &Term, labels: &[Label]| -> SmallVec<[usize; 8]> {
        labels.iter().filter_map(|&label| term.extent(label)).collect()
    };
    let (batch_dims, row_dims) = (dims(&a, &batch), dims(&a, &rows));
    let (inner_dims, column_dims) = (dims(&a, &inner), dims(&b, &columns));
    let join =
        |parts: &[&[Label]]| -> Labels { parts.iter().flat_map(|part| part.iter().copied()).collect() };
    let whole = [&batch_dims[..], &row_dims, &column_dims].concat();
    let labels = join(&[&batch, &rows, &columns]);
    let value = if inner.is_empty() {
        let ones = vec![1; column_dims.len()];
        let a = a.shaped(&join(&[&batch, &rows]), &[&batch_dims[..], &row_dims, &ones].concat())?;
        let ones = vec![1; row_dims.len()];
        let b = b.shaped(&join(&[&batch, &columns]), &[&batch_dims[..], &ones, &column_dims].concat())?;
        mul(&a, &b)?
    } else {
        let product = |dims: &[usize]| dims.iter().product::<usize>();
        let (m, k, n) = (product(&row_dims), product(&inner_dims), product(&column_dims));
        let lead: &[usize] = if batch.is_empty() { &[] } else { &[product(&batch_dims)] };
        let a = a.shaped(&join(&[&batch, &rows, &inner]), &[lead, &[m, k]].concat())?;
        let b = b.shaped(&join(&[&batch, &inner, &columns]), &[lead, &[k, n]].concat())?;
        reshape(&matmul(&a, b)?, &checked_shape("einsum", &whole)?)?
    };
    Ok(Term { value, labels })
}

/// The ops of this file.
pub fn ops() -> Vec<Op> {
    fn case(spec: &'static str, dims: &[&[usize]]) -> Case {
        Case::new(spec, dims.iter().map(|d| Sample::float(d)).collect(), move |x| einsum(spec, x))
    }
    let cases = || {
        vec![
            case("ij,jk->ik", &[&[2, 3], &[3, 4]]),
            case("ij,jk", &[&[2, 3], &[3, 2]]),
            case("bij,bjk->bik", &[&[2, 2, 3], &[2, 3, 2]]),
            case("ij->ji", &[&[2, 3]]),
            case("ij->", &[&[2, 3]]),
            case("ii->i", &[&[3, 3]]),
            case("ii", &[&[3, 3]]),
            case("i,j->ij", &[&[2], &[3]]),
            case("i,i->", &[&[3], &[3]]),
            case("ij,ij->i", &[&[2, 3], &[2, 3]]),
            case("bhqd,bhkd->bhqk", &[&[1, 2, 2, 3], &[1, 2, 3, 3]]),
            case("ij,jk,kl->il", &[&[2, 2], &[2, 3], &[3, 2]]),
            case("...ij,jk->...ik", &[&[2, 2, 3], &[3, 2]]),
            case("...i,...i->...", &[&[2, 1, 3], &[4, 3]]),
            case("ij,ij->ij", &[&[2, 1], &[2, 3]]),
            case("ij,k->i", &[&[2, 3], &[2]]),
        ]
    };
    let formula = "products and sums by Einstein's notation";
    vec![Op { name: "einsum", family: Family::Matrix, formula, cases }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(dims: &[usize]) -> Result<TrackedTensor> {
        TrackedTensor::from_vec((1..=dims.iter().product()).map(|i: usize| i as f64).collect(), dims)
    }

    #[test]
    fn values_are_those_of_loops() -> Result<()> {
        let (a, b) = (numbers(&[2, 3])?, numbers(&[3, 2])?);
        assert_eq!(einsum("ij,jk->ki", &[&a, &b])?.to_vec2::<f64>()?, [[22., 49.], [28., 64.]]);
        assert_eq!(einsum("ij,jk", &[&a, &b])?.to_vec2::<f64>()?, [[22., 28.], [49., 64.]]);
        assert_eq!(einsum("ii", &[&numbers(&[3, 3])?])?.to_vec0::<f64>()?, 15.);
        assert_eq!(einsum("ba", &[&a])?.dims(), [3, 2]);
        assert_eq!(einsum("...a,...a->...", &[&a, &a])?.to_vec1::<f64>()?, [14., 77.]);
        assert_eq!(einsum("ij,k->i", &[&a, &numbers(&[2])?])?.to_vec1::<f64>()?, [18., 45.]);
        Ok(())
    }

    /// A long chain of products with a vector at its end begins at the vector.
    #[test]
    fn the_order_takes_the_fewest_multiplications() -> Result<()> {
        let first = |spec: &str, dims: &[&[usize]]| -> Result<(usize, usize)> {
            let xs = dims.iter().map(|d| numbers(d)).collect::<Result<Vec<_>>>()?;
            let (terms, output) = read(spec, &xs)?;
            Ok(cheapest(&terms, &output))
        };
        assert_eq!(first("ij,jk,k->i", &[&[4, 4], &[4, 4], &[4]])?, (1, 2));
        assert_eq!(first("i,ij,jk->k", &[&[4], &[4, 4], &[4, 4]])?, (0, 1));
        // 2·9·2 and then 2·2·9, not 9·2·9 and then 2·9·9.
        assert_eq!(first("ij,jk,kl->il", &[&[2, 9], &[9, 2], &[2, 9]])?, (0, 1));
        // As good either way: from left to right.
        assert_eq!(first("ij,jk,kl->il", &[&[3, 3], &[3, 3], &[3, 3]])?, (0, 1));
        // The first pair is the cheaper one, and leaves more to do.
        assert_eq!(first("ab,bc,cd->ad", &[&[2, 1], &[1, 9], &[9, 3]])?, (1, 2));
        // Too many to search: the cheapest pair.
        let many: Vec<&[usize]> = vec![&[4, 4], &[4, 4], &[4, 4], &[4, 4], &[4, 4], &[4]];
        assert_eq!(first("ab,bc,cd,de,ef,f->a", &many)?, (4, 5));
        Ok(())
    }

    #[test]
    fn unreadable_specifications_are_typed_errors() -> Result<()> {
        let a = numbers(&[2, 3])?;
        for spec in ["ij,jk->ik", "ijk->i", "ij->ik", "i1->i", "ij->ii", "ii->i", "... ...->i", ""] {
            let error = einsum(spec, &[&a]).expect_err("it must fail");
            assert_eq!(error.site().map(|s| s.file()), Some(file!()), "{spec}: {error}");
        }
        Ok(())
    }
}
