//! An image with its border, arranged so that neighbouring outputs read neighbouring elements.

use crate::float::Float;

/// The index of a padded image: `rows` × `phases` × `columns` elements for each channel.
///
/// Padded row r is row r + `top` of the image. Padded column t is column t + `left` and lies in
/// phase t mod `phases` at index t / `phases`, so that a convolution with that stride steps through
/// one phase element by element. What lies outside the image is zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) phases: usize,
    pub(super) top: isize,
    pub(super) left: isize,
}

impl Frame {
    /// Elements of a padded row.
    pub(super) fn row(&self) -> usize {
        self.phases * self.columns
    }

    /// Elements of a padded channel.
    pub(super) fn plane(&self) -> usize {
        self.rows * self.row()
    }

    /// Where padded row r, padded column t lies.
    pub(super) fn at(&self, r: usize, t: usize) -> usize {
        r * self.row() + t % self.phases * self.columns + t / self.phases
    }

    /// Pads whole channels.
    pub(super) fn fill<T: Float>(&self, image: &[T], out: &mut [T]) {
        if self.plane() == 0 {
            return;
        }
        let size = self.height * self.width;
        for phase in 0..self.phases {
            let span = self.span(phase);
            for (channel, out) in out.chunks_exact_mut(self.plane()).enumerate() {
                let image = &image[channel * size..][..size];
                for (r, out) in out.chunks_exact_mut(self.row()).enumerate() {
                    let out = &mut out[phase * self.columns..][..self.columns];
                    let source = r.checked_add_signed(self.top).filter(|&row| row < self.height);
                    let Some(source) = source.filter(|_| span.from < span.to) else {
                        out.fill(T::ZERO);
                        continue;
                    };
                    let source = &image[source * self.width..][..self.width];
                    out[..span.from].fill(T::ZERO);
                    out[span.to..].fill(T::ZERO);
                    take_every(self.phases, &source[span.first..], &mut out[span.from..span.to]);
                }
            }
        }
    }

    /// Which elements of a phase lie inside the image.
    fn span(&self, phase: usize) -> Span {
        // Element t is column t·phases + shift.
        let shift = phase as isize + self.left;
        let from = (-shift).max(0).unsigned_abs().div_ceil(self.phases).min(self.columns);
        let room = (self.width as isize - shift).max(0).unsigned_abs();
        let to = room.div_ceil(self.phases).clamp(from, self.columns);
        let first = (from * self.phases).checked_add_signed(shift).unwrap_or(0);
        Span { from, to, first }
    }
}

/// Elements `from .. to` of a phase are inside the image, the first of them its column `first`.
struct Span {
    from: usize,
    to: usize,
    first: usize,
}

/// `out[t] = source[t·step]`.
fn take_every<T: Float>(step: usize, source: &[T], out: &mut [T]) {
    match step {
        1 => out.copy_from_slice(&source[..out.len()]),
        // Pairs, so that it becomes a shuffle of vectors; the last one may lack its second.
        2 => {
            let Some((last, out)) = out.split_last_mut() else { return };
            *last = source[2 * out.len()];
            for (out, pair) in out.iter_mut().zip(source.chunks_exact(2)) {
                *out = pair[0];
            }
        }
        step => out.iter_mut().enumerate().for_each(|(t, out)| *out = source[t * step]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_where_the_index_says() {
        let (height, width) = (3, 5);
        let image: Vec<f32> = (1..31).map(|x| x as f32).collect();
        for phases in 1..4 {
            for (top, left) in [(0, 0), (-2, -3), (1, 2), (-1, 4), (2, -9)] {
                let frame = Frame { height, width, rows: 6, columns: 7, phases, top, left };
                let mut out = vec![f32::NAN; 2 * frame.plane()];
                frame.fill(&image, &mut out);
                for channel in 0..2 {
                    for r in 0..6 {
                        for t in 0..7 * phases {
                            let (row, column) = (r as isize + top, t as isize + left);
                            let inside = (0..3).contains(&row) && (0..5).contains(&column);
                            let want = match inside {
                                true => image[channel * 15 + (row * 5 + column) as usize],
                                false => 0.0,
                            };
                            let got = out[channel * frame.plane() + frame.at(r, t)];
                            assert_eq!(got, want, "{frame:?} row {r} column {t}");
                        }
                    }
                }
            }
        }
    }
}
