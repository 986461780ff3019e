//! The vector functions against f64 references on dense grids, and at the edges.

use super::{Operand, binary, scalar, unary};
use crate::expr::{Binary, Unary};
use crate::simd::tests::portably;

/// The difference in units in the last place of the reference, as f32.
fn ulps32(y: f32, exact: f64) -> f64 {
    let near = exact as f32;
    if y.is_nan() && near.is_nan() || y == near {
        return 0.0;
    }
    let ulp = (f64::from(f32::from_bits(near.abs().to_bits() + 1)) - f64::from(near.abs())).abs();
    (f64::from(y) - exact).abs() / ulp
}

fn ulps64(y: f64, exact: f64) -> f64 {
    if y.is_nan() && exact.is_nan() || y == exact {
        return 0.0;
    }
    let ulp = f64::from_bits(exact.abs().to_bits() + 1) - exact.abs();
    (y - exact).abs() / ulp
}

/// Every 4099th f32 of both signs between the limits, so all magnitudes, denormals too.
fn grid32(low: f32, high: f32) -> Vec<f32> {
    (0..=u32::MAX / 4099)
        .map(|i| f32::from_bits(i * 4099))
        .filter(|x| (low..=high).contains(x))
        .chain((0..200_000).map(|i| low.max(-20.0) + i as f32 * (high.min(20.0) - low.max(-20.0)) / 2e5))
        .collect()
}

fn grid64(low: f64, high: f64) -> Vec<f64> {
    let from = |x: f32| f64::from(x) * (1.0 + 1e-9);
    grid32(low.max(-3e38) as f32, high.min(3e38) as f32).into_iter().map(from).collect()
}

fn worst32(f: Unary, low: f32, high: f32) -> (f64, f32) {
    let x = grid32(low, high);
    let mut y = vec![0.0; x.len()];
    unary(f, &x, &mut y);
    let mut portable = vec![0.0; x.len()];
    portably(|| unary(f, &x, &mut portable));
    let mut worst = (0.0, 0.0);
    for (i, &x) in x.iter().enumerate() {
        assert!(
            y[i].to_bits() == portable[i].to_bits() || y[i].is_nan() && portable[i].is_nan(),
            "{f:?}({x:e}): AVX2 {:e} and portable {:e} agree",
            y[i],
            portable[i]
        );
        let e = ulps32(y[i], scalar::unary(f, f64::from(x)));
        if e > worst.0 || e.is_nan() {
            worst = (e, x);
        }
    }
    worst
}

fn worst64(f: Unary, low: f64, high: f64) -> (f64, f64) {
    let x = grid64(low, high);
    let mut y = vec![0.0; x.len()];
    unary(f, &x, &mut y);
    let mut portable = vec![0.0; x.len()];
    portably(|| unary(f, &x, &mut portable));
    let mut worst = (0.0, 0.0);
    for (i, &x) in x.iter().enumerate() {
        assert!(y[i].to_bits() == portable[i].to_bits() || y[i].is_nan() && portable[i].is_nan());
        let e = ulps64(y[i], scalar::unary(f, x));
        if e > worst.0 || e.is_nan() {
            worst = (e, x);
        }
    }
    worst
}

const ALL: (f32, f32) = (f32::MIN, f32::MAX);
const HOT: [(Unary, (f32, f32)); 16] = [
    (Unary::Exp, ALL),
    (Unary::Expm1, ALL),
    (Unary::Log, ALL),
    (Unary::Log1p, ALL),
    (Unary::Log2, ALL),
    (Unary::Sin, ALL),
    (Unary::Cos, ALL),
    (Unary::Tanh, ALL),
    (Unary::Erf, ALL),
    (Unary::Sigmoid, ALL),
    (Unary::Softplus, ALL),
    (Unary::Sqrt, ALL),
    (Unary::Rsqrt, ALL),
    (Unary::Recip, ALL),
    (Unary::Round, ALL),
    (Unary::Sign, ALL),
];

/// Two units in the last place, in f32.
const MAX_ULPS_32: f64 = 2.0;
/// Four in f64; the reference functions are within one themselves.
const MAX_ULPS_64: f64 = 4.0;

#[test]
fn f32_functions_stay_within_two_units() {
    let worst: Vec<_> = HOT.iter().map(|&(f, (a, b))| (f, worst32(f, a, b))).collect();
    for (f, (e, x)) in &worst {
        println!("{f:?}: {e:.2} at {x:e}");
    }
    assert!(worst.iter().all(|(_, (e, _))| *e <= MAX_ULPS_32));
}

#[test]
fn f64_functions_stay_within_four_units() {
    let worst: Vec<_> = HOT.iter().map(|&(f, (a, b))| (f, worst64(f, f64::from(a), f64::from(b)))).collect();
    for (f, (e, x)) in &worst {
        println!("{f:?}: {e:.2} at {x:e}");
    }
    assert!(worst.iter().all(|(_, (e, _))| *e <= MAX_ULPS_64));
}

const EVERY: [Unary; 32] = [
    Unary::Neg,
    Unary::Abs,
    Unary::Sign,
    Unary::Recip,
    Unary::Sqrt,
    Unary::Rsqrt,
    Unary::Exp,
    Unary::Expm1,
    Unary::Log,
    Unary::Log1p,
    Unary::Log2,
    Unary::Sin,
    Unary::Cos,
    Unary::Tan,
    Unary::Asin,
    Unary::Acos,
    Unary::Atan,
    Unary::Sinh,
    Unary::Cosh,
    Unary::Tanh,
    Unary::Asinh,
    Unary::Acosh,
    Unary::Atanh,
    Unary::Erf,
    Unary::Lgamma,
    Unary::Digamma,
    Unary::Floor,
    Unary::Ceil,
    Unary::Round,
    Unary::Sigmoid,
    Unary::Relu,
    Unary::Softplus,
];

/// Numbers where functions like to go wrong.
const EDGES: [f64; 22] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    2.5,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    1e-45,
    -1e-45,
    1e-40,
    1e-310,
    5e-324,
    88.7,
    89.5,
    -104.5,
    709.8,
    -745.5,
    1e30,
    -1e30,
];

#[test]
fn edges_are_those_of_the_scalar_functions() {
    for f in EVERY {
        let mut y = [0.0; EDGES.len()];
        unary(f, &EDGES, &mut y);
        for (&x, y) in EDGES.iter().zip(y) {
            let exact = scalar::unary(f, x);
            assert!(ulps64(y, exact) <= MAX_ULPS_64, "{f:?}({x:e}) is {y:e}, not {exact:e}");
            assert!(y.is_nan() || y.is_sign_negative() == exact.is_sign_negative(), "{f:?}({x:e}) {y}");
        }
        let x = EDGES.map(|x| x as f32);
        let mut y = [0f32; EDGES.len()];
        unary(f, &x, &mut y);
        for (x, y) in x.into_iter().zip(y) {
            let exact = scalar::unary(f, f64::from(x));
            assert!(ulps32(y, exact) <= MAX_ULPS_32, "{f:?}({x:e}) is {y:e}, not {exact:e}");
            assert!(y.is_nan() || y.is_sign_negative() == exact.is_sign_negative(), "{f:?}({x:e}) {y}");
        }
    }
}

#[test]
fn a_number_has_one_result_wherever_it_stands() {
    for f in EVERY {
        let x: Vec<f32> = (0..37).map(|i| (i as f32 - 18.0) * 0.37).collect();
        let mut whole = vec![0.0; x.len()];
        unary(f, &x, &mut whole);
        for start in 0..x.len() {
            let mut part = vec![0.0; x.len() - start];
            unary(f, &x[start..], &mut part);
            for (a, b) in whole[start..].iter().zip(&part) {
                assert!(a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(), "{f:?}");
            }
        }
    }
}

#[test]
fn binary_functions_agree_with_the_scalar_ones_for_all_operands() {
    use Binary::{Add, Atan2, Div, Eq, Ge, Gt, Hypot, Le, Lt, Max, Min, Mul, Ne, Pow, Powi, Rem, Sub};
    for f in [Add, Sub, Mul, Div, Rem, Pow, Powi, Atan2, Hypot, Max, Min, Lt, Le, Gt, Ge, Eq, Ne] {
        for &b in EDGES.iter().chain(&[2.0, 3.0, 4.0, -2.0, 7.0]) {
            let check = |a: f64, y: f64| {
                let exact = scalar::binary(f, a, b);
                assert!(ulps64(y, exact) <= MAX_ULPS_64, "{f:?}({a:e}, {b:e}) is {y:e}, not {exact:e}");
            };
            let mut y = [0.0; EDGES.len()];
            binary(f, Operand::Each(&EDGES), Operand::All(b), &mut y);
            EDGES.iter().zip(y).for_each(|(&a, y)| check(a, y));
            binary(f, Operand::Each(&EDGES), Operand::Each(&[b; EDGES.len()]), &mut y);
            EDGES.iter().zip(y).for_each(|(&a, y)| check(a, y));
            for a in EDGES {
                binary(f, Operand::All(a), Operand::Each(&[b]), &mut y[..1]);
                check(a, y[0]);
                binary(f, Operand::All(a), Operand::All(b), &mut y[..1]);
                check(a, y[0]);
            }
        }
    }
}

#[test]
fn digamma_and_polygamma_match_tables() {
    // Abramowitz and Stegun 6.3, 6.4, and identities: ψ(1) = −γ, ψ′(1) = π²/6, ψ″(1) = −2ζ(3).
    // Left of 0 terms of the size of 16 cancel, so small results are exact to those.
    let close = |y: f64, exact: f64| {
        assert!((y - exact).abs() < 4e-15 * exact.abs().max(1.0), "{y} is {exact}");
    };
    let polygamma = |n: f64, x: f64| scalar::binary(Binary::Polygamma, n, x);
    let pi2 = std::f64::consts::PI.powi(2);
    close(scalar::unary(Unary::Digamma, 1.0), -0.577_215_664_901_532_9);
    close(scalar::unary(Unary::Digamma, 0.5), -1.963_510_026_021_423_5);
    close(scalar::unary(Unary::Digamma, 10.0), 2.251_752_589_066_721);
    close(scalar::unary(Unary::Digamma, -0.5), 0.036_489_973_978_576_52);
    close(polygamma(1.0, 1.0), pi2 / 6.0);
    close(polygamma(1.0, 0.5), pi2 / 2.0);
    close(polygamma(2.0, 1.0), -2.404_113_806_319_188_6);
    close(polygamma(1.0, -0.5), pi2 / 2.0 + 4.0);
    close(polygamma(1.0, -2.5), pi2 / 2.0 + 4.0 + 4.0 / 9.0 + 4.0 / 25.0);
    close(polygamma(2.0, -1.5), -14.0 * 1.202_056_903_159_594_2 + 16.0 + 16.0 / 27.0);
    assert_eq!(polygamma(1.0, 0.0), f64::INFINITY);
    assert!(polygamma(1.5, 2.0).is_nan() && polygamma(-1.0, 2.0).is_nan());
}
