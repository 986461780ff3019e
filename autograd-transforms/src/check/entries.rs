//! The comparisons of a check: entry by entry, or by projections.

use super::GradCheck;
use super::difference::{Difference, numbers, sample};
use super::report::{Comparison, Report, Table, place};
use super::trees::{replaced, unit};
use crate::linearize::pullback;
use autograd_core::{Result, Site, Tree, is_float};
use autograd_forward::jvp;

impl GradCheck {
    /// Every entry of every block of the Jacobian.
    pub(super) fn full<P, O>(
        &self,
        f: &impl Fn(&P) -> Result<O>,
        primals: &P,
        unstable: Option<String>,
        site: Site,
    ) -> Result<Report>
    where
        P: Tree<Owned = P>,
        O: Tree<Owned = O>,
    {
        let (y, pull) = pullback(f, primals)?;
        // rows[output leaf][element] is the gradient of that element, leaf by leaf.
        let mut rows: Vec<Vec<Vec<Vec<f64>>>> = Vec::new();
        let zeros = y.rebuild(&mut |y| autograd_core::algebra::zeros_like(y))?;
        for (j, leaf) in y.leaves().into_iter().enumerate() {
            let mut of_leaf = Vec::new();
            for element in 0..if is_float(leaf.dtype()) { leaf.elem_count() } else { 0 } {
                let ct = unit(&zeros, j, element)?;
                let pulled = pull.apply(&ct).map_err(|e| e.or_at(site))?;
                of_leaf.push(pulled.leaves().into_iter().map(numbers).collect::<Result<_>>()?);
            }
            rows.push(of_leaf);
        }
        let mut table = Table::new("reverse");
        let analytic = |i: usize, column: usize, j: usize, row: usize| rows[j][row][i][column];
        self.columns(f, primals, &y, site, analytic, &mut table)?;
        if self.forward {
            table.mode("forward");
            let zeros = primals.rebuild(&mut |x| autograd_core::algebra::zeros_like(x))?;
            let mut columns: Vec<Vec<Vec<Vec<f64>>>> = Vec::new();
            for (i, leaf) in primals.leaves().into_iter().enumerate() {
                let along = (0..leaf.elem_count()).map(|element| {
                    let (_, dy) = jvp(f, primals, &unit(&zeros, i, element)?)?;
                    dy.leaves().into_iter().map(numbers).collect::<Result<Vec<_>>>()
                });
                columns.push(along.collect::<Result<_>>()?);
            }
            let analytic = |i: usize, column: usize, j: usize, row: usize| columns[i][column][j][row];
            self.columns(f, primals, &y, site, analytic, &mut table)?;
        }
        Ok(table.finish(unstable))
    }

    /// Compares all entries, column by column: `analytic` of (input leaf, its element, output
    /// leaf, its element).
    pub(super) fn columns<P, O>(
        &self,
        f: &impl Fn(&P) -> Result<O>,
        primals: &P,
        y: &O,
        site: Site,
        analytic: impl Fn(usize, usize, usize, usize) -> f64,
        table: &mut Table,
    ) -> Result<()>
    where
        P: Tree<Owned = P>,
        O: Tree<Owned = O>,
    {
        let (inputs, outputs) = (primals.paths(), y.paths());
        for (i, x) in primals.leaves().into_iter().enumerate() {
            for column in 0..x.elem_count() {
                let mut u = vec![0.0; x.elem_count()];
                u[column] = 1.0;
                let along = Difference::new(f, primals, i, &u, self.scheme, self.step)?;
                let slopes = along.slopes(y, site)?;
                for (j, y) in y.leaves().into_iter().enumerate() {
                    for (row, slope) in slopes[j].iter().enumerate().filter(|_| is_float(y.dtype())) {
                        let tolerance = self.allowed(x.dtype(), y.dtype(), slope.numeric, slope.noise);
                        let comparison = Comparison {
                            mode: table.current(),
                            input: inputs[i].clone(),
                            input_index: place(column, x.dims()),
                            output: outputs[j].clone(),
                            output_index: place(row, y.dims()),
                            analytic: analytic(i, column, j, row),
                            numeric: slope.numeric,
                            tolerance,
                        };
                        table.add(comparison, || along.has_kink(j, row, tolerance))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// vᵀJu for each pair of leaves.
    pub(super) fn projected<P, O>(
        &self,
        f: &impl Fn(&P) -> Result<O>,
        primals: &P,
        unstable: Option<String>,
        site: Site,
    ) -> Result<Report>
    where
        P: Tree<Owned = P>,
        O: Tree<Owned = O>,
    {
        let (y, pull) = pullback(f, primals)?;
        let (inputs, outputs) = (primals.paths(), y.paths());
        let mut table = Table::new("reverse");
        let zeros = y.rebuild(&mut |y| autograd_core::algebra::zeros_like(y))?;
        let flat_zeros = primals.rebuild(&mut |x| autograd_core::algebra::zeros_like(x))?;
        for (i, x) in primals.leaves().into_iter().enumerate() {
            let u = sample(x.elem_count(), self.seed.wrapping_add(2 * i as u64))?;
            let along = Difference::new(f, primals, i, &u, self.scheme, self.step)?;
            let slopes = along.slopes(&y, site)?;
            for (j, leaf) in y.leaves().into_iter().enumerate().filter(|(_, y)| is_float(y.dtype())) {
                let v = sample(leaf.elem_count(), self.seed.wrapping_add(2 * j as u64 + 1))?;
                let numeric = slopes[j].iter().zip(&v).map(|(slope, v)| slope.numeric * v).sum::<f64>();
                let noise = slopes[j].iter().zip(&v).map(|(s, v)| s.noise * v.abs()).sum::<f64>();
                let pulled = pull.apply(&replaced(&zeros, j, &v)?).map_err(|e| e.or_at(site))?;
                let rows = numbers(pulled.leaves()[i])?;
                let mut found = vec![("reverse", dot(&rows, &u))];
                if self.forward {
                    let (_, dy) = jvp(f, primals, &replaced(&flat_zeros, i, &u)?)?;
                    found.push(("forward", dot(&numbers(dy.leaves()[j])?, &v)));
                }
                for (mode, analytic) in found {
                    table.mode(mode);
                    let tolerance = self.allowed(x.dtype(), leaf.dtype(), numeric, noise);
                    let comparison = Comparison {
                        mode,
                        input: inputs[i].clone(),
                        input_index: Vec::new(),
                        output: outputs[j].clone(),
                        output_index: Vec::new(),
                        analytic,
                        numeric,
                        tolerance,
                    };
                    table.add(comparison, || {
                        let mut rows = 0..leaf.elem_count();
                        rows.try_fold(false, |any, row| Ok(any || along.has_kink(j, row, tolerance)?))
                    })?;
                }
            }
        }
        Ok(table.finish(unstable))
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
