//! Gathering: the instructions of a checkpointed region stand together.
//!
//! ```text
//! before                                after
//! %0 = exp x0 : [2]   (region)          %0 = tanh x0 : [2]
//! %1 = tanh x0 : [2]                    %1 = exp x0 : [2]   (region)
//! %2 = sqr %0 : [2]   (region)          %2 = sqr %1 : [2]   (region)
//! %3 = mul %1 %2 : [2]                  %3 = mul %0 %2 : [2]
//! return %3                             return %3
//! ```
//!
//! A tape opens a region for instructions in a row, so what lies between would cut it in two, and
//! what passes from one part to the other would be kept. A region is begun when all that it reads
//! from outside is there, and then it is finished; where regions wait for each other, which no
//! function has but what passes make of one may, one of them is cut.

use super::rewrite::Rewrite;
use autograd_core::{Operand, Program, Result};
use std::collections::BTreeSet;

pub(super) fn gather(old: &Program) -> Result<Program> {
    if old.sections.is_empty() {
        return Ok(old.clone());
    }
    let mut new = Rewrite::of(old);
    for i in order(old) {
        new.keep(i, &old.instructions[i]);
    }
    Ok(new.finish(old))
}

fn order(program: &Program) -> Vec<usize> {
    let n = program.instructions.len();
    let section = |i: usize| program.instructions[i].section;
    // What each instruction and each region waits for, and what waits for each instruction.
    let mut waits: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); n];
    let mut outside: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); program.sections.len()];
    let (mut feeds, mut opens) = (vec![Vec::new(); n], vec![Vec::new(); n]);
    for (i, instruction) in program.instructions.iter().enumerate() {
        for operand in &instruction.operands {
            let Operand::Result { instruction: from, .. } = *operand else { continue };
            if waits[i].insert(from) {
                feeds[from].push(i);
            }
            let apart = |region: &usize| program.around(section(from)).all(|other| other != *region);
            for region in program.around(section(i)).take_while(apart) {
                if outside[region].insert(from) {
                    opens[from].push(region);
                }
            }
        }
    }
    let mut ready: BTreeSet<usize> = (0..n).filter(|&i| waits[i].is_empty()).collect();
    let mut order = Vec::with_capacity(n);
    let mut now = None;
    while let Some(&first) = ready.first() {
        // The first one in the region that is being worked on, or in those around it.
        let within = |around: Option<usize>| {
            ready.iter().copied().find(|&i| {
                let inside = around.is_none() || program.around(section(i)).any(|s| Some(s) == around);
                let mut entered = program.around(section(i)).take_while(|s| Some(*s) != around);
                inside && entered.all(|region| outside[region].is_empty())
            })
        };
        let next = program.around(now).map(Some).chain([None]).find_map(within).unwrap_or(first);
        ready.remove(&next);
        order.push(next);
        now = section(next);
        for &reader in &feeds[next] {
            waits[reader].remove(&next);
            if waits[reader].is_empty() {
                ready.insert(reader);
            }
        }
        for &region in &opens[next] {
            outside[region].remove(&next);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Graph;
    use autograd_core::{Section, TrackedTensor};
    use autograd_ops::TensorAutograd;
    use autograd_tape::{RegionOptions, region};
    use std::sync::Arc;

    fn sections(program: &Program) -> Vec<Option<usize>> {
        program.instructions.iter().map(|step| step.section).collect()
    }

    fn derivative(program: &Program, x: &TrackedTensor) -> Result<Vec<f64>> {
        Graph::from_program(program.clone())?.gradient(&[0], &[0])?.run(&[x])?[0].to_vec1()
    }

    #[test]
    fn a_region_stands_together_again() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![0.5f64, -1.0], &[2])?;
        let f = |x: &[TrackedTensor]| {
            let inner = || region(RegionOptions::new(), || x[0].exp()?.sqr());
            let part = region(RegionOptions::new(), || inner()?.sin()?.neg())?;
            Ok(vec![part.mul(&x[0].tanh()?)?.sum()?])
        };
        let program = crate::capture(f, &[x.meta()])?;
        let want = [Some(1), Some(1), Some(0), Some(0), None, None, None];
        assert_eq!(sections(&program), want);
        // tanh comes between the ops of the inner region.
        let mut apart = Rewrite::of(&program);
        for i in [0, 4, 1, 2, 3, 5, 6] {
            apart.keep(i, &program.instructions[i]);
        }
        let apart = apart.finish(&program);
        assert_eq!(derivative(&apart, &x)?, derivative(&program, &x)?);
        let again = gather(&apart)?;
        assert_eq!(sections(&again), want);
        assert_eq!(derivative(&again, &x)?, derivative(&program, &x)?);
        Ok(())
    }

    #[test]
    fn regions_that_wait_for_each_other_are_cut() -> Result<()> {
        let x = TrackedTensor::from_vec(vec![0.5f64, -1.0], &[2])?;
        let mut program =
            crate::capture(|x| Ok(vec![x[0].exp()?.sqr()?.sin()?.tanh()?.sum()?]), &[x.meta()])?;
        let want = derivative(&program, &x)?;
        let what = || Arc::new(RegionOptions::new());
        program.sections = vec![Section { outer: None, what: what() }, Section { outer: None, what: what() }];
        for (step, section) in program.instructions.iter_mut().zip([0, 1, 0, 1]) {
            step.section = Some(section);
        }
        let cut = gather(&program)?;
        assert_eq!(sections(&cut), [Some(0), Some(1), Some(0), Some(1), None]);
        assert_eq!(derivative(&cut, &x)?, want);
        Ok(())
    }
}
