//! Whether two runs of the same work give the same.

use super::difference::numbers;
use crate::linearize::pullback;
use autograd_core::{Result, TrackedTensor, Tree, is_float};
use autograd_ops::random;

/// The elements of every leaf.
type Numbers = Vec<Vec<f64>>;

/// What differs between two runs of the same work, if anything does.
pub(super) fn unstable<P, O>(f: &impl Fn(&P) -> Result<O>, primals: &P, seed: u64) -> Result<Option<String>>
where
    P: Tree<Owned = P>,
    O: Tree<Owned = O>,
{
    let run = || -> Result<(Numbers, Numbers, Vec<String>)> {
        let (y, pull) = pullback(f, primals)?;
        let zeros = y.rebuild(&mut |y| autograd_core::algebra::zeros_like(y))?;
        let seeds = zeros.rebuild(&mut |y| {
            if is_float(y.dtype()) {
                random::normal(&random::key(seed), y.dims(), y.dtype())
            } else {
                Ok(y.clone())
            }
        })?;
        let pulled = pull.apply(&seeds)?;
        let all = |leaves: Vec<&TrackedTensor>| leaves.into_iter().map(numbers).collect::<Result<Vec<_>>>();
        Ok((all(y.leaves())?, all(pulled.leaves())?, y.paths()))
    };
    let (first, second) = (run()?, run()?);
    let same =
        |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
    let differs = |a: &[Vec<f64>], b: &[Vec<f64>]| a.iter().zip(b).position(|(a, b)| !same(a, b));
    if first.2 != second.2 {
        return Ok(Some("two evaluations gave outputs of different structure".to_owned()));
    }
    if let Some(j) = differs(&first.0, &second.0) {
        return Ok(Some(format!("two evaluations differ in output {j}{}", first.2[j])));
    }
    let paths = primals.paths();
    Ok(differs(&first.1, &second.1).map(|i| format!("two backward passes differ at input {i}{}", paths[i])))
}
