//! The ops of this crate with the cases that check them, as those of `autograd-ops`.

use crate::{ScanOptions, custom_jvp, custom_vjp, scan, scan_with};
use autograd_core::{Result, TrackedTensor};
use autograd_ops::TensorAutograd;
use autograd_ops::registry::{Case, Family, Op, Sample};

/// The loop and the custom rules.
pub fn ops() -> Vec<Op> {
    let op = |name, formula, cases| Op { name, family: Family::Control, formula, cases };
    vec![
        op("scan", "(state, yₜ) = body(state, xₜ) over a sequence", scans),
        op("custom_vjp", "a function with a reverse rule of its own", || {
            vec![
                Case::new("its own derivative", vec![Sample::float(&[3])], |x| {
                    let y = custom_vjp(
                        |x| Ok(vec![x[0].tanh()?]),
                        |_, y, ct| Ok(vec![ct[0].mul(y[0].sqr()?.neg()?.add(1.0)?)?]),
                        &[&x[0]],
                    )?;
                    Ok(y[0].clone())
                }),
                Case::many("two of each", vec![Sample::float(&[2, 2]), Sample::float(&[2])], |x| {
                    custom_vjp(
                        |x| Ok(vec![x[0].matmul(&x[1])?, x[0].sum()?]),
                        |x, _, ct| {
                            let rows = ct[0].unsqueeze(1)?.mul(x[1].unsqueeze(0)?)?.add(&ct[1])?;
                            Ok(vec![rows, x[0].t()?.matmul(&ct[0])?])
                        },
                        &[&x[0], &x[1]],
                    )
                }),
            ]
        }),
        op("custom_jvp", "a function with a forward rule of its own", || {
            vec![
                Case::new("its own derivative", vec![Sample::between(&[2, 2], 0.5, 1.5)], |x| {
                    let y = custom_jvp(
                        |x| Ok(vec![x[0].log()?]),
                        |x, _, dx| Ok(vec![dx[0].div(&x[0])?]),
                        &[&x[0]],
                    )?;
                    Ok(y[0].clone())
                }),
                Case::many("two of each", vec![Sample::float(&[3]), Sample::float(&[3])], |x| {
                    custom_jvp(
                        |x| Ok(vec![x[0].mul(&x[1])?, x[0].sin()?]),
                        |x, _, dx| {
                            let product = dx[0].mul(&x[1])?.add(x[0].mul(&dx[1])?)?;
                            Ok(vec![product, x[0].cos()?.mul(&dx[0])?])
                        },
                        &[&x[0], &x[1]],
                    )
                }),
            ]
        }),
    ]
}

fn scans() -> Vec<Case> {
    // A recurrent cell: hₜ = tanh(W·h + xₜ), with W closed over; its results are h².
    fn cell(x: &[TrackedTensor], options: ScanOptions) -> Result<Vec<TrackedTensor>> {
        let (start, rows, w) = (&x[0], &x[1], &x[2]);
        let step = |h: &[TrackedTensor], x: &[TrackedTensor]| {
            let next = w.matmul(&h[0])?.add(&x[0])?.tanh()?;
            Ok((vec![next.clone()], vec![next.sqr()?]))
        };
        let (state, results) = scan_with(step, &[start], &[rows], &options)?;
        Ok(vec![state[0].clone(), results[0].clone()])
    }
    let inputs = || vec![Sample::float(&[2]), Sample::float(&[3, 2]), Sample::float(&[2, 2])];
    let recurrent = |label: &str, options| Case::many(label, inputs(), move |x| cell(x, options));
    vec![
        recurrent("states kept", ScanOptions::default()),
        recurrent("states recomputed", ScanOptions { recompute: true, ..ScanOptions::default() }),
        recurrent("from the end", ScanOptions { reverse: true, ..ScanOptions::default() }),
        Case::many("two states, no results", vec![Sample::float(&[]), Sample::float(&[4])], |x| {
            let step = |s: &[TrackedTensor], x: &[TrackedTensor]| {
                Ok((vec![s[0].mul(&x[0])?, s[1].add(s[0].mul(&s[1])?)?], vec![]))
            };
            Ok(scan(step, &[&x[0], &x[0]], &[&x[1]])?.0)
        }),
        Case::new("results only", vec![Sample::float(&[3, 2])], |x| {
            let (_, ys) = scan(|_, x| Ok((vec![], vec![x[0].exp()?])), &[], &[&x[0]])?;
            Ok(ys[0].clone())
        }),
        Case::new("a length instead of a sequence", vec![Sample::float(&[2])], |x| {
            let options = ScanOptions { length: Some(3), ..ScanOptions::default() };
            let (state, _) = scan_with(|s, _| Ok((vec![s[0].sin()?], vec![])), &[&x[0]], &[], &options)?;
            Ok(state[0].clone())
        }),
        Case::many("no steps", vec![Sample::float(&[2]), Sample::float(&[0, 2])], |x| {
            let step = |s: &[TrackedTensor], x: &[TrackedTensor]| {
                let next = s[0].mul(&x[0])?;
                Ok((vec![next.clone()], vec![next]))
            };
            let (state, ys) = scan(step, &[&x[0]], &[&x[1]])?;
            Ok(vec![state[0].clone(), ys[0].clone()])
        }),
        Case::many("a loop in a loop", vec![Sample::float(&[]), Sample::float(&[2, 2])], |x| {
            let row = |s: &[TrackedTensor], row: &[TrackedTensor]| {
                let inner =
                    |s: &[TrackedTensor], x: &[TrackedTensor]| Ok((vec![s[0].mul(&x[0])?.sin()?], vec![]));
                let (s, _) = scan(inner, &[&s[0]], &[&row[0]])?;
                Ok((vec![s[0].clone()], vec![s[0].clone()]))
            };
            let (state, ys) = scan(row, &[&x[0]], &[&x[1]])?;
            Ok(vec![state[0].clone(), ys[0].clone()])
        }),
    ]
}
