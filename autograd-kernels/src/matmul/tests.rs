//! The ways of multiplying, with each set of instructions.

use super::*;
use then::Block;

/// Small whole numbers: every sum is exact, so any order and any instructions agree.
fn whole(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7 + seed * 13 + i / 11) % 9) as f32 - 4.0).collect()
}

/// Factors that repeat one row or one column, as those of gradients of sums do.
fn repeated_factors(isa: Isa, [m, k, n]: [usize; 3]) {
    let (a, b) = (whole(k, 1), whole(k, 2));
    let sum: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
    let want: Vec<f32> = whole(m * n, 3).iter().map(|x| x + sum).collect();
    let mut out = whole(m * n, 3);
    multiply(isa, [m, k, n], Matrix::new(&a, 0, 1), Matrix::new(&b, 1, 0), &mut out, true, Then::nothing());
    assert_eq!(out, want, "{isa:?} {m} x {k} x {n}, repeated");
}

#[test]
fn plain_and_fast_instructions_agree_exactly_on_whole_numbers() {
    for [m, k, n] in [
        [4, 4, 4],
        [7, 9, 17],
        [1, 90, 70],
        [70, 90, 1],
        [61, 300, 50],
        [13, 40, 123],
        [9, 100, 75],
        [130, 260, 49],
        [33, 300, 33],
        [70, 1, 90],
        [900, 1, 75],
    ] {
        let (a, b) = (whole(m * k, 1), whole(k * n, 2));
        let mut want = whole(m * n, 3);
        for i in 0..m {
            for j in 0..n {
                want[i * n + j] += (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum::<f32>();
            }
        }
        let flip = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
            (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
        };
        let (at, bt) = (flip(&a, m, k), flip(&b, k, n));
        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|&x| x.into()).collect() };
        let (wide_a, wide_bt) = (wide(&a), wide(&bt));
        for isa in Isa::all() {
            for a in [Matrix::new(&a, k, 1), Matrix::new(&at, 1, m)] {
                for b in [Matrix::new(&b, n, 1), Matrix::new(&bt, 1, k)] {
                    let mut out = whole(m * n, 3);
                    multiply(isa, [m, k, n], a, b, &mut out, true, Then::nothing());
                    assert_eq!(out, want, "{isa:?} {m} x {k} x {n}");
                }
            }
            repeated_factors(isa, [m, k, n]);
            let (a, b) = (Matrix::new(&wide_a, k, 1), Matrix::new(&wide_bt, 1, k));
            let mut out = wide(&whole(m * n, 3));
            multiply(isa, [m, k, n], a, b, &mut out, true, Then::nothing());
            assert_eq!(out, wide(&want), "{isa:?} {m} x {k} x {n} in f64");
        }
    }
}

/// What an epilogue sees: each element of the product once, in its place, with all its terms, and the
/// bias goes where an addition after the product would put it.
#[test]
fn an_epilogue_meets_each_element_once_and_finished() {
    for [m, k, n] in [
        [4, 4, 4],
        [1, 90, 70],
        [70, 90, 1],
        [61, 600, 50],
        [1100, 300, 53],
        [9, 100, 75],
        [70, 1, 90],
        [900, 1, 75],
        [5, 0, 7],
    ] {
        let (a, b, bias) = (whole(m * k, 1), whole(k * n, 2), whole(n, 4));
        for isa in Isa::all() {
            let mut product = vec![f32::NAN; m * n];
            let (left, right) = (Matrix::new(&a, k, 1), Matrix::new(&b, n, 1));
            multiply(isa, [m, k, n], left, right, &mut product, false, Then::nothing());
            // A row of the batch is marked by a number that no other has.
            let mark = |row: usize, column: usize| (row * n + column + 1) as f32 * 1024.0;
            let epilogue = |mut block: Block<'_, f32>| {
                let columns = block.columns();
                block.each_row(|row, part| {
                    assert_eq!(part.len(), columns.len());
                    part.iter_mut().zip(columns.clone()).for_each(|(y, j)| *y += mark(row, j));
                });
            };
            let mut out = vec![f32::NAN; m * n];
            multiply(isa, [m, k, n], left, right, &mut out, false, Then::of(&epilogue).at(3));
            let marked = |i: usize| product[i] + mark(3 + i / n, i % n);
            assert_eq!(out, (0..m * n).map(marked).collect::<Vec<_>>(), "{isa:?} {m} x {k} x {n}");
            let add = |mut block: Block<'_, f32>| add_bias(isa, &bias, &mut block);
            multiply(isa, [m, k, n], left, right, &mut out, false, Then::of(&add));
            let biased = |i: usize| product[i] + bias[i % n];
            assert_eq!(out, (0..m * n).map(biased).collect::<Vec<_>>(), "{isa:?} {m} x {k} x {n}");
        }
    }
}
