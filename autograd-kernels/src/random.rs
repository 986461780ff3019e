//! Counter-based random numbers: Philox 4×32 with ten rounds (Salmon, Moraes, Dror, Shaw:
//! "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//!
//! Number i of a key is a function of the key and of i alone: the same on every run, in any order
//! and for any number of threads. A key is two 32-bit words.

use crate::operand::{assert_len, same};
use crate::threads::{DisjointSlice, parallel_for};
use crate::{SliceMut, View, bf16, f16};

/// A generator's key.
pub type Key = [u32; 2];

/// What the words of a key are drawn for: streams of one key have nothing in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Random numbers.
    Draw,
    /// New keys.
    Split,
    /// A new key for a number.
    Fold,
}

/// Words that are made at a time; a multiple of four.
const TILE: usize = 512;

/// Ten rounds of Philox 4×32.
pub fn philox(mut counter: [u32; 4], mut key: Key) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
    }
    counter
}

/// Words `first`, `first + 1`, … of a key's stream; `first` is a multiple of four.
fn words(key: Key, stream: Stream, first: usize, out: &mut [u32]) {
    debug_assert!(first.is_multiple_of(4), "words come in blocks of four");
    for (i, four) in out.chunks_mut(4).enumerate() {
        let block = (first / 4 + i) as u64;
        let made = philox([block as u32, (block >> 32) as u32, stream as u32, 0], key);
        four.copy_from_slice(&made[..four.len()]);
    }
}

/// All keys of a view whose last dimension has extent 2.
fn keys(view: View<'_>) -> Vec<Key> {
    same::<u32>(view).chunks_exact(2).map(|k| [k[0], k[1]]).collect()
}

/// Calls `f(words, first element, part of the output)` tile by tile: each key fills its equal
/// part of the output, with `per` words for each element.
fn for_each_tile(key_view: View<'_>, out: SliceMut<'_>, per: usize, f: impl Fn(&[u32], SliceMut<'_>) + Sync) {
    let keys = keys(key_view);
    if out.is_empty() || keys.is_empty() {
        return;
    }
    let (elements, tile) = (out.len() / keys.len(), TILE / per);
    assert!(elements * keys.len() == out.len(), "{} elements for {} keys", out.len(), keys.len());
    let tiles = elements.div_ceil(tile);
    let out = DisjointSlice::new(out);
    // Some tiles a task, so that a task is worth handing out.
    let (total, batch) = (tiles * keys.len(), 16);
    parallel_for(total.div_ceil(batch), &|task| {
        for at in task * batch..total.min((task + 1) * batch) {
            let (key, first) = (at / tiles, at % tiles * tile);
            let len = tile.min(elements - first);
            let mut buffer = [0; TILE];
            let drawn = &mut buffer[..len * per];
            words(keys[key], Stream::Draw, first * per, drawn);
            let start = key * elements + first;
            // SAFETY: tiles do not overlap, and each is visited once.
            f(drawn, unsafe { out.part(start..start + len) });
        }
    });
}

/// out = 1 with probability 1 − `rate`, else 0; each key fills its equal part.
///
/// # Panics
/// Panics where `out` is not U8 or does not divide among the keys, or the keys are not U32.
pub fn keep(keys: View<'_>, rate: f64, out: SliceMut<'_>) {
    // A word below the threshold is dropped: all of them for 1, none for 0.
    let threshold = (rate.clamp(0.0, 1.0) * 4_294_967_296.0) as u64;
    for_each_tile(keys, out, 1, |words, out| {
        let SliceMut::U8(out) = out else { panic!("a mask is U8") };
        for (out, &word) in out.iter_mut().zip(words) {
            *out = u8::from(u64::from(word) >= threshold);
        }
    });
}

/// A number in [0, 1) of 24 random bits.
fn unit_f32(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// A number in [0, 1) of 53 random bits.
fn unit_f64(words: &[u32]) -> f64 {
    let bits = (u64::from(words[0]) << 32 | u64::from(words[1])) >> 11;
    bits as f64 * (1.0 / 9_007_199_254_740_992.0)
}

/// Numbers uniform in [0, 1); each key fills its equal part.
///
/// # Panics
/// Panics where `out` is not of a float type or does not divide among the keys.
pub fn uniform(keys: View<'_>, out: SliceMut<'_>) {
    let per = if matches!(out, SliceMut::F64(_)) { 2 } else { 1 };
    for_each_tile(keys, out, per, |words, out| match out {
        SliceMut::F64(out) => out.iter_mut().zip(words.chunks_exact(2)).for_each(|(o, w)| *o = unit_f64(w)),
        SliceMut::F32(out) => out.iter_mut().zip(words).for_each(|(o, &w)| *o = unit_f32(w)),
        // Truncated, so that rounding cannot give 1.
        SliceMut::BF16(out) => {
            out.iter_mut().zip(words).for_each(|(o, &w)| *o = bf16::from_f32((w >> 24) as f32 / 256.0));
        }
        SliceMut::F16(out) => {
            out.iter_mut().zip(words).for_each(|(o, &w)| *o = f16::from_f32((w >> 21) as f32 / 2048.0));
        }
        other => panic!("random numbers of type {:?}", other.kind()),
    });
}

/// Numbers of the normal distribution (mean 0, deviation 1) by the method of Box and Muller; each
/// key fills its equal part.
///
/// # Panics
/// As [`uniform`].
pub fn normal(keys: View<'_>, out: SliceMut<'_>) {
    let one = |w: &[u32]| {
        // 1 − u is never 0.
        let (radius, angle) = (1.0 - unit_f64(&w[..2]), unit_f64(&w[2..]));
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    };
    for_each_tile(keys, out, 4, |words, out| {
        let numbers = words.chunks_exact(4).map(one);
        match out {
            SliceMut::F64(out) => out.iter_mut().zip(numbers).for_each(|(o, x)| *o = x),
            SliceMut::F32(out) => out.iter_mut().zip(numbers).for_each(|(o, x)| *o = x as f32),
            SliceMut::BF16(out) => out.iter_mut().zip(numbers).for_each(|(o, x)| *o = bf16::from_f64(x)),
            SliceMut::F16(out) => out.iter_mut().zip(numbers).for_each(|(o, x)| *o = f16::from_f64(x)),
            other => panic!("random numbers of type {:?}", other.kind()),
        }
    });
}

/// `n` new keys from each key.
///
/// # Panics
/// Panics where `out` is not U32 or has not 2·n words for each key.
pub fn split(from: View<'_>, n: usize, mut out: SliceMut<'_>) {
    let from = keys(from);
    assert_len("the new keys", &out, from.len() * n * 2);
    let Some(out) = out.u32s_mut() else { panic!("keys are U32") };
    for (key, out) in from.iter().zip(out.chunks_exact_mut((2 * n).max(1))) {
        words(*key, Stream::Split, 0, out);
    }
}

/// A new key for a number, from each key.
///
/// # Panics
/// Panics where `out` is not U32 or has not two words for each key.
pub fn fold_in(from: View<'_>, number: u64, mut out: SliceMut<'_>) {
    let from = keys(from);
    assert_len("the new keys", &out, from.len() * 2);
    let Some(out) = out.u32s_mut() else { panic!("keys are U32") };
    for (key, out) in from.iter().zip(out.chunks_exact_mut(2)) {
        let made = philox([number as u32, (number >> 32) as u32, Stream::Fold as u32, 0], *key);
        out.copy_from_slice(&made[..2]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Element, Layout, Shape};

    // The known answers of the authors' Random123 library.
    #[test]
    fn philox_gives_the_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    fn moments(x: &[f64]) -> (f64, f64) {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        (mean, x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64)
    }

    #[test]
    fn draws_have_their_moments() {
        let layout = Layout::contiguous(Shape::new(&[2]));
        let key = View { data: u32::slice(&[7, 1]), layout: &layout };
        let mut x = vec![0f64; 100_001];
        uniform(key, f64::slice_mut(&mut x));
        let (mean, variance) = moments(&x);
        assert!((mean - 0.5).abs() < 0.004 && (variance - 1.0 / 12.0).abs() < 0.002);
        assert!(x.iter().all(|x| (0.0..1.0).contains(x)));
        normal(key, f64::slice_mut(&mut x));
        let (mean, variance) = moments(&x);
        assert!(mean.abs() < 0.013 && (variance - 1.0).abs() < 0.02);
        let mut mask = vec![0u8; 100_001];
        keep(key, 0.25, u8::slice_mut(&mut mask));
        let kept = mask.iter().map(|&m| f64::from(m)).sum::<f64>() / mask.len() as f64;
        assert!((kept - 0.75).abs() < 0.006);
    }

    #[test]
    fn every_key_fills_its_part_as_it_would_alone() {
        let (one, two) = (Layout::contiguous(Shape::new(&[2])), Layout::contiguous(Shape::new(&[2, 2])));
        let both = [3u32, 4, 5, 6];
        let mut whole = vec![0f32; 2 * 1030];
        uniform(View { data: u32::slice(&both), layout: &two }, f32::slice_mut(&mut whole));
        for (key, part) in both.chunks(2).zip(whole.chunks(1030)) {
            let mut alone = vec![0f32; 1030];
            uniform(View { data: u32::slice(key), layout: &one }, f32::slice_mut(&mut alone));
            assert_eq!(part, alone);
        }
    }
}
