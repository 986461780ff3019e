//! Sums over any dimensions, squares for norms, and unscaling.

use super::{
    Argument, BLOCK, Draft, Plan, Structure, blocks_for, parts_of, real, suffix, threads_for, whole, wide,
};
use autograd_core::device::KernelCall;
use autograd_core::{DType, Shape, SumOver, is_float};

/// Columns from which on neighbouring threads take neighbouring ones.
const WIDE: usize = 16;

/// The most blocks that a grid has in its second dimension.
const MOST_DOWN: usize = 65535;

/// Neighbouring dimensions of one kind: how many elements, and whether they are summed.
pub(super) type Run = (usize, bool);

/// The dimensions of x as runs of those that stay and those that are summed.
pub(super) fn runs(x: &Shape, kept: &Shape) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (&extent, &left) in x.dims().iter().zip(kept.dims()).filter(|(extent, _)| **extent != 1) {
        let summed = left != extent;
        match runs.last_mut() {
            Some(last) if last.1 == summed => last.0 *= extent,
            _ => runs.push((extent, summed)),
        }
    }
    runs
}

/// A sum of the only input.
pub(super) fn sum(mut draft: Draft<'_>, sum: &SumOver) -> Option<Plan> {
    let x = draft.inputs[0];
    let runs = runs(&x.shape, &sum.kept);
    if !is_float(x.dtype) {
        return integers(draft, &runs);
    }
    let suffix = draft.suffix([0])?;
    let (outer, n, inner) = match runs[..] {
        [(n, true)] => (1, n, 1),
        [(rows, false), (n, true)] => (rows, n, 1),
        [(n, true), (inner, false)] => (1, n, inner),
        [(outer, false), (n, true), (inner, false)] => (outer, n, inner),
        _ => return any(draft, &runs, suffix, sum.scale),
    };
    let (total, by_columns) = (outer * inner, inner >= WIDE);
    let blocks = if by_columns { outer * inner.div_ceil(32) } else { total };
    let (splits, per) = parts_of(n, blocks, if by_columns { 64 } else { 4096 });
    if by_columns && outer * splits > MOST_DOWN {
        return any(draft, &runs, suffix, sum.scale);
    }
    let parts = if splits > 1 { draft.room(wide(x.dtype), splits * total) } else { Argument::Null };
    let (from, to) = (Argument::Input(0), Argument::Output(0));
    if by_columns {
        let arguments = vec![
            from,
            to.clone(),
            parts.clone(),
            whole(n),
            whole(inner),
            whole(outer),
            whole(per),
            real(sum.scale),
        ];
        let entry = format!("sum_columns_{suffix}");
        draft.launch("reduce", entry, [inner.div_ceil(32), outer * splits], 256, arguments)?;
    } else {
        let arguments =
            vec![from, to.clone(), parts.clone(), whole(n), whole(inner), whole(per), real(sum.scale)];
        draft.launch("reduce", format!("sum_rows_{suffix}"), [total, splits], threads_for(per), arguments)?;
    }
    if splits > 1 {
        finish(&mut draft, suffix, parts, to, splits, total, sum.scale)?;
    }
    draft.done()
}

/// Extents and strides of the runs that stay, then of those that are summed, four of each: as many as
/// eight dimensions make.
pub(super) fn walks(runs: &[Run]) -> Structure {
    let mut stride = 1;
    let mut places = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    for &(extent, summed) in runs.iter().rev() {
        let (extents, strides) = &mut places[usize::from(summed)];
        extents.push(extent);
        strides.push(stride);
        stride *= extent;
    }
    let mut walk = Structure::default();
    for (extents, strides) in &mut places {
        extents.resize(4.max(extents.len()), 1);
        strides.resize(4.max(strides.len()), 0);
        for numbers in [&*extents, &*strides] {
            for &number in numbers.iter().rev() {
                walk = walk.u64(number);
            }
        }
    }
    walk
}

/// How many elements stay, and how many are summed to each.
fn counts(runs: &[Run]) -> (usize, usize) {
    let count = |summed: bool| runs.iter().filter(|run| run.1 == summed).map(|run| run.0).product();
    (count(false), count(true))
}

/// Runs of more than one that is summed: each output walks them.
fn any(mut draft: Draft<'_>, runs: &[Run], suffix: &str, scale: f64) -> Option<Plan> {
    let (total, n) = counts(runs);
    let arguments = vec![Argument::Input(0), Argument::Output(0), walks(runs).u64(n).done(), real(scale)];
    draft.launch("reduce", format!("sum_any_{suffix}"), [total, 1], threads_for(n), arguments)?;
    draft.done()
}

/// A sum of integers, modulo 2⁶⁴.
fn integers(mut draft: Draft<'_>, runs: &[Run]) -> Option<Plan> {
    let suffix = match draft.inputs[0].dtype {
        DType::U8 => "u8",
        DType::U32 => "u32",
        DType::I64 => "i64",
        _ => return None,
    };
    let (total, n) = counts(runs);
    let (splits, per) = parts_of(n, total, 4096);
    let parts = if splits > 1 { draft.room(DType::I64, splits * total) } else { Argument::Null };
    let (from, to, walk) = (Argument::Input(0), Argument::Output(0), walks(runs).u64(n).done());
    let arguments = vec![from, to.clone(), parts.clone(), walk, whole(per)];
    let entry = format!("sum_integers_{suffix}");
    draft.launch("integers", entry, [total, splits], threads_for(per), arguments)?;
    if splits > 1 {
        let arguments = vec![parts, to, whole(splits), whole(total)];
        let entry = format!("sum_integers_finish_{suffix}");
        draft.launch("integers", entry, [blocks_for(total), 1], BLOCK as usize, arguments)?;
    }
    draft.done()
}

/// out[i] = scale · Σ parts[s, i].
pub(super) fn finish(
    draft: &mut Draft<'_>,
    suffix: &str,
    parts: Argument,
    out: Argument,
    splits: usize,
    n: usize,
    scale: f64,
) -> Option<()> {
    let arguments = vec![parts, out, whole(splits), whole(n), real(scale)];
    draft.launch("reduce", format!("sum_finish_{suffix}"), [blocks_for(n), 1], BLOCK as usize, arguments)
}

/// Σx² in f64, of everything or of each unit along the first dimension.
pub(super) fn squares(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let x = draft.inputs[0];
    let units = if call.integers[0] == 1 { x.shape.dims().first().copied().unwrap_or(1) } else { 1 };
    let n = x.elements() / units;
    let entry = format!("sum_squares_{}", draft.suffix([0])?);
    let (splits, per) = parts_of(n, units, 4096);
    let parts = draft.room(DType::F64, splits * units);
    let arguments = vec![Argument::Input(0), parts.clone(), whole(n), whole(per)];
    draft.launch("reduce", entry, [units, splits], threads_for(per), arguments)?;
    finish(&mut draft, "f64", parts, Argument::Output(0), splits, units, 1.0)?;
    draft.done()
}

/// x · factor in x's type, and whether x is finite.
pub(super) fn unscale(mut draft: Draft<'_>, call: &KernelCall) -> Option<Plan> {
    let x = draft.inputs[0];
    if draft.signature.outputs[0].dtype != x.dtype {
        return None;
    }
    let (n, blocks) = (x.elements(), blocks_for(x.elements()));
    let bad = draft.room(DType::U32, blocks);
    let arguments = vec![Argument::Input(0), Argument::Output(0), bad.clone(), real(call.reals[0]), whole(n)];
    let entry = format!("unscale_{}", suffix(x.dtype)?);
    draft.launch("reduce", entry, [blocks, 1], BLOCK as usize, arguments)?;
    let arguments = vec![bad, Argument::Output(1), whole(blocks)];
    draft.launch("reduce", "all_finite".to_owned(), [1, 1], BLOCK as usize, arguments)?;
    draft.done()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_kind_are_one_run() {
        let of = |x: &[usize], kept: &[usize]| runs(&Shape::new(x), &Shape::new(kept));
        assert_eq!(of(&[2, 1, 3, 4], &[2, 1, 1, 1]), [(2, false), (12, true)]);
        assert_eq!(of(&[2, 3, 1, 4], &[1, 3, 1, 4]), [(2, true), (12, false)]);
        assert_eq!(of(&[1, 1], &[1, 1]), []);
    }
}
