//! Integrals of gradients that jump: a way divided at its bends.

use crate::function::numbers;
use crate::integrated::Path;
use crate::slopes::slopes;
use autograd_core::algebra::{add, mul, sub};
use autograd_core::{Result, TrackedTensor};
use autograd_ops::TensorAutograd;
use std::rc::Rc;

/// The way of each example, with what is wanted of it.
pub(crate) struct Line<'a> {
    pub(crate) path: &'a Path<'a>,
    /// The greatest |delta| of an example.
    pub(crate) tolerance: f64,
    /// The most evaluations of an example.
    pub(crate) most: usize,
}

/// A point on the way: where, the output, its slope along the way, and its gradient.
struct Point {
    t: f64,
    y: f64,
    slope: f64,
    gradient: Vec<f64>,
}

/// A part of the way whose ends are known.
struct Interval {
    example: usize,
    left: Rc<Point>,
    right: Rc<Point>,
    /// The end whose tangent is believed to hold on all of it, and where a look must confirm that.
    straight: Option<(Side, f64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

impl Interval {
    fn new(example: usize, left: Rc<Point>, right: Rc<Point>) -> Self {
        Self { example, left, right, straight: None }
    }

    fn width(&self) -> f64 {
        self.right.t - self.left.t
    }

    fn end(&self, side: Side) -> &Point {
        match side {
            Side::Left => &self.left,
            Side::Right => &self.right,
        }
    }

    /// Where the tangents at the ends meet, if they do inside, and how near to it a look must be
    /// taken so that a bend between the look and the place changes nothing that counts.
    fn meeting(&self, allowed: f64) -> Option<(f64, f64)> {
        let bend = self.left.slope - self.right.slope;
        let rise = self.right.y - self.left.y - self.right.slope * self.width();
        let at = self.left.t + rise / bend;
        // Not `clamp`: of a tiny interval even the smallest distance is too much.
        let near = (0.25 * allowed / bend.abs()).max(1e-14).min(0.01 * self.width());
        (at.is_finite() && at - near > self.left.t && at + near < self.right.t).then_some((at, near))
    }

    /// Whether the function is straight between the ends, as far as they tell.
    fn is_straight(&self, allowed: f64) -> bool {
        let trapezoid = 0.5 * (self.left.slope + self.right.slope) * self.width();
        let bend = (self.left.slope - self.right.slope).abs() * self.width();
        (trapezoid - (self.right.y - self.left.y)).abs() <= allowed && bend <= allowed
    }

    /// Whether a point inside lies on the tangent of an end, and has its slope.
    fn confirms(&self, side: Side, point: &Point, allowed: f64) -> bool {
        let end = self.end(side);
        let foretold = end.y + end.slope * (point.t - end.t);
        (point.y - foretold).abs() <= allowed && (point.slope - end.slope).abs() * self.width() <= allowed
    }

    /// Both parts, of which nothing is believed.
    fn halves(self, point: Point) -> [Self; 2] {
        let point = Rc::new(point);
        [Self::new(self.example, self.left, point.clone()), Self::new(self.example, point, self.right)]
    }
}

/// Where an interval is looked into that has no better place: not its middle, which models favour.
const INSIDE: f64 = 0.381_966;

impl Line<'_> {
    /// The gradient's mean on the way of each example, for all inputs one after the other, and how
    /// often the busiest example was evaluated.
    pub(crate) fn means(&self, low: &[f64], high: &[f64]) -> Result<(Vec<Vec<f64>>, usize)> {
        let examples = low.len();
        let ends = self.sample(&(0..examples).flat_map(|e| [(e, 0.0), (e, 1.0)]).collect::<Vec<_>>())?;
        let width = ends.first().map_or(0, |point| point.gradient.len());
        let mut means = vec![vec![0.0; width]; examples];
        let mut taken = vec![2; examples];
        let mut open = Vec::new();
        let mut ends = ends.into_iter().map(Rc::new);
        for example in 0..examples {
            if let (Some(left), Some(right)) = (ends.next(), ends.next()) {
                open.push(Interval::new(example, left, right));
            }
        }
        // The error that an interval may have: its share of half the tolerance, and what rounding
        // of the outputs hides.
        let allowed = |interval: &Interval| {
            let size = 1.0 + low[interval.example].abs() + high[interval.example].abs();
            (0.5 * self.tolerance * interval.width()).max(f64::EPSILON * 16.0 * size)
        };
        while !open.is_empty() {
            let at_once = if self.path.examples.batched { self.path.control.rows.max(1) } else { 1 };
            let mut asked = Vec::new();
            let mut waiting = Vec::new();
            for interval in open.split_off(open.len().saturating_sub(at_once)) {
                let example = interval.example;
                let settled = interval.straight.is_none() && interval.is_straight(allowed(&interval));
                if settled || taken[example] >= self.most || interval.width() < 1e-13 {
                    let half = 0.5 * interval.width();
                    add_gradients(&mut means[example], &[(half, &*interval.left), (half, &*interval.right)]);
                    continue;
                }
                taken[example] += 1;
                let meeting = interval.meeting(allowed(&interval)).filter(|_| interval.straight.is_none());
                let look = match (interval.straight, meeting) {
                    (Some((_, t)), _) => t,
                    (None, Some((at, near))) => at - near,
                    // Tangents that do not meet inside say nothing of where the bends are.
                    (None, None) => interval.left.t + INSIDE * interval.width(),
                };
                asked.push((example, look));
                waiting.push((interval, meeting));
            }
            for (point, (interval, meeting)) in self.sample(&asked)?.into_iter().zip(waiting) {
                let allowed = allowed(&interval);
                let example = interval.example;
                if let Some((side, _)) = interval.straight {
                    if interval.confirms(side, &point, allowed) {
                        add_gradients(&mut means[example], &[(interval.width(), interval.end(side))]);
                    } else {
                        open.extend(interval.halves(point));
                    }
                    continue;
                }
                let left = interval.confirms(Side::Left, &point, allowed);
                let right = interval.confirms(Side::Right, &point, allowed);
                let [mut before, mut after] = interval.halves(point);
                // Just before the only bend of an interval, the left tangent still holds; the right one
                // must hold just behind it.
                match meeting {
                    Some((at, near)) if left => after.straight = Some((Side::Right, at + near)),
                    Some((at, near)) if right && at - 3.0 * near > before.left.t => {
                        before.straight = Some((Side::Left, at - 3.0 * near));
                    }
                    _ => {}
                }
                open.extend([before, after]);
            }
            let done = taken.iter().copied().max().unwrap_or(0);
            self.path.control.report(self.path.op, done.min(self.most), self.most)?;
        }
        Ok((means, taken.into_iter().max().unwrap_or(0)))
    }

    /// Points on the ways of examples.
    fn sample(&self, at: &[(usize, f64)]) -> Result<Vec<Point>> {
        let path = self.path;
        let at_once = if path.examples.batched { path.control.rows.max(1) } else { 1 };
        let mut points = Vec::new();
        for part in at.chunks(at_once) {
            let (inputs, ways) = self.inputs(part)?;
            let chosen: Vec<usize> = part.iter().map(|(example, _)| *example).collect();
            let found = slopes(path.f, &inputs, &path.target.of(&chosen))?;
            let y = numbers(&found.y)?;
            let gradients = found.gradients.iter().map(numbers).collect::<Result<Vec<_>>>()?;
            for (i, (&(_, t), y)) in part.iter().zip(y).enumerate() {
                let (mut gradient, mut slope) = (Vec::new(), 0.0);
                for (all, way) in gradients.iter().zip(&ways) {
                    let each = all.len() / part.len();
                    let row = i * each..(i + 1) * each;
                    slope += all[row.clone()].iter().zip(&way[row.clone()]).map(|(g, w)| g * w).sum::<f64>();
                    gradient.extend_from_slice(&all[row]);
                }
                points.push(Point { t, y, slope, gradient });
            }
        }
        Ok(points)
    }

    /// The inputs at points, and the ways that lead through them.
    fn inputs(&self, part: &[(usize, f64)]) -> Result<(Vec<TrackedTensor>, Vec<Vec<f64>>)> {
        let path = self.path;
        let (mut inputs, mut ways) = (Vec::new(), Vec::new());
        for (start, end) in path.start.iter().zip(path.end) {
            let (start, end) = if path.examples.batched {
                let rows: Vec<u32> = part.iter().map(|(example, _)| *example as u32).collect();
                let rows = TrackedTensor::from_vec(rows, &[part.len()])?;
                (start.index_select(&rows, 0)?, end.index_select(&rows, 0)?)
            } else {
                (start.clone(), end.clone())
            };
            let way = sub(&end, &start)?;
            let mut dims = vec![1; end.rank()];
            if path.examples.batched {
                dims[0] = part.len();
            }
            let t = part.iter().map(|(_, t)| *t).collect();
            let t = TrackedTensor::from_vec(t, &dims)?.to_dtype(end.dtype())?;
            inputs.push(add(&start, &mul(&way, &t)?)?);
            ways.push(numbers(&way)?);
        }
        Ok((inputs, ways))
    }
}

fn add_gradients(mean: &mut [f64], parts: &[(f64, &Point)]) {
    for (weight, point) in parts {
        for (sum, g) in mean.iter_mut().zip(&point.gradient) {
            *sum += weight * g;
        }
    }
}
