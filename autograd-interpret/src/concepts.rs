//! Concepts as directions in a layer: TCAV.

use crate::function::{Function, numbers};
use crate::layer::layer_slopes;
use crate::regression::least_squares;
use crate::taps::activation;
use crate::target::Target;
use autograd_core::{Error, Result, Site, TrackedTensor};

/// A direction in a layer's space that tells examples of a concept from others (Kim et al. 2018).
///
/// [`score`](Self::score) and [`magnitude`](Self::magnitude) are `sign_count` and `magnitude` of
/// Captum's `TCAV`, for the same direction. Captum's default classifier is trained by stochastic
/// steps on a part of the examples; here the regression is solved, on all of them.
#[derive(Clone, Debug)]
pub struct Concept {
    layer: String,
    direction: Vec<f64>,
    accuracy: Option<f64>,
}

/// Rounds of Newton's method; the ridge keeps separable examples from running away.
const ROUNDS: usize = 50;
const RIDGE: f64 = 1e-2;

impl Concept {
    /// A direction that was found elsewhere, of any length, in the order of the layer's elements.
    pub fn along(layer: &str, direction: &[f64]) -> Self {
        Self { layer: layer.to_owned(), direction: direction.to_vec(), accuracy: None }
    }

    /// The normal of the plane between a layer's values for examples of the concept and for
    /// others, of length 1: by logistic regression on values that are centred and scaled.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the layer is not tapped once, or a side has no examples;
    /// whatever `f` reports.
    #[track_caller]
    pub fn fit(
        f: &Function<'_>,
        layer: &str,
        examples: &[TrackedTensor],
        others: &[TrackedTensor],
    ) -> Result<Self> {
        let site = Site::caller();
        Self::run(f, layer, examples, others).map_err(|e| e.or_at(site))
    }

    fn run(
        f: &Function<'_>,
        layer: &str,
        examples: &[TrackedTensor],
        others: &[TrackedTensor],
    ) -> Result<Self> {
        let mut rows = rows_of(&activation(f, examples, layer)?)?;
        let positive = rows.len();
        rows.extend(rows_of(&activation(f, others, layer)?)?);
        if positive == 0 || positive == rows.len() {
            return Err(Error::argument("concept", "both sides need examples"));
        }
        let width = rows[0].len();
        // Centred and scaled: a layer's elements may be of any size.
        let n = rows.len() as f64;
        let means: Vec<f64> = (0..width).map(|j| rows.iter().map(|row| row[j]).sum::<f64>() / n).collect();
        let spread = |j: usize| (rows.iter().map(|row| (row[j] - means[j]).powi(2)).sum::<f64>() / n).sqrt();
        let scales: Vec<f64> = (0..width).map(spread).map(|s| if s > 0.0 { s } else { 1.0 }).collect();
        let scaled: Vec<Vec<f64>> = rows
            .iter()
            .map(|row| {
                let inside = row.iter().zip(&means).zip(&scales).map(|((x, mean), scale)| (x - mean) / scale);
                inside.chain([1.0]).collect()
            })
            .collect();
        let label = |i: usize| f64::from(u8::from(i < positive));
        let mut weights = vec![0.0; width + 1];
        for _ in 0..ROUNDS {
            let odds: Vec<f64> = scaled.iter().map(|row| dot(row, &weights)).collect();
            let chance = |odds: f64| 1.0 / (1.0 + (-odds).exp());
            // Newton's step is a weighted regression of a working response.
            let curvature: Vec<f64> =
                odds.iter().map(|&o| (chance(o) * (1.0 - chance(o))).max(1e-9)).collect();
            let response: Vec<f64> =
                odds.iter().enumerate().map(|(i, &o)| o + (label(i) - chance(o)) / curvature[i]).collect();
            let next = least_squares(&scaled, &response, &curvature, RIDGE)?;
            let moved = next.iter().zip(&weights).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            weights = next;
            if moved < 1e-8 {
                break;
            }
        }
        let right =
            scaled.iter().enumerate().filter(|(i, row)| (dot(row, &weights) > 0.0) == (*i < positive));
        let accuracy = right.count() as f64 / n;
        let mut direction: Vec<f64> = weights[..width].iter().zip(&scales).map(|(w, s)| w / s).collect();
        let size = dot(&direction, &direction).sqrt();
        if size > 0.0 {
            direction.iter_mut().for_each(|d| *d /= size);
        }
        Ok(Self { layer: layer.to_owned(), direction, accuracy: Some(accuracy) })
    }

    /// The direction, in the order of the layer's elements.
    pub fn direction(&self) -> &[f64] {
        &self.direction
    }

    /// The share of its own examples that a fitted plane puts on the right side; nothing where the
    /// direction was given.
    pub fn accuracy(&self) -> Option<f64> {
        self.accuracy
    }

    /// For each example, how fast the target grows in the concept's direction.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the layer is not tapped once, or has not as many elements as
    /// the direction; whatever `f` reports.
    #[track_caller]
    pub fn sensitivities(
        &self,
        f: &Function<'_>,
        inputs: &[TrackedTensor],
        target: &Target,
    ) -> Result<Vec<f64>> {
        let site = Site::caller();
        let run = || {
            let slopes = rows_of(&layer_slopes(f, inputs, target, &self.layer)?.gradient)?;
            if let Some(row) = slopes.iter().find(|row| row.len() != self.direction.len()) {
                let (layer, own) = (row.len(), self.direction.len());
                let reason = format!("the direction has {own} elements, and `{}` has {layer}", self.layer);
                return Err(Error::argument("concept", reason));
            }
            Ok(slopes.iter().map(|row| dot(row, &self.direction)).collect())
        };
        run().map_err(|e: Error| e.or_at(site))
    }

    /// The mean of the [`sensitivities`](Self::sensitivities), which grows with the direction's length.
    ///
    /// # Errors
    /// As [`sensitivities`](Self::sensitivities).
    #[track_caller]
    pub fn magnitude(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<f64> {
        let found = self.sensitivities(f, inputs, target)?;
        Ok(found.iter().sum::<f64>() / found.len().max(1) as f64)
    }

    /// The share of examples whose target grows in the concept's direction: the TCAV score.
    ///
    /// # Errors
    /// As [`sensitivities`](Self::sensitivities).
    #[track_caller]
    pub fn score(&self, f: &Function<'_>, inputs: &[TrackedTensor], target: &Target) -> Result<f64> {
        let found = self.sensitivities(f, inputs, target)?;
        let positive = found.iter().filter(|s| **s > 0.0).count();
        Ok(positive as f64 / found.len().max(1) as f64)
    }
}

fn rows_of(value: &TrackedTensor) -> Result<Vec<Vec<f64>>> {
    let count = value.dims().first().copied().unwrap_or(0);
    let all = numbers(value)?;
    let each = all.len().checked_div(count).unwrap_or(0);
    Ok(all.chunks(each.max(1)).map(<[f64]>::to_vec).collect())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
