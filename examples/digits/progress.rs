//! What a training says of itself: a bar while an epoch runs, a line when it is over.

use super::training::Step;
use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// 80 columns; where there are fewer, the figures are cut off and do not wrap.
const STYLE: &str = "{prefix} {bar:12.cyan} {pos:>4}/{len}  {wide_msg}";

/// The progress of one epoch. The bar shows only on a terminal; the line at the end always does.
pub(crate) struct Progress {
    bar: ProgressBar,
    title: String,
    start: Instant,
    took: Duration,
    images: usize,
    loss: f64,
    correct: usize,
}

impl Progress {
    /// The progress of epoch `epoch` of `epochs`, of so many images.
    pub(crate) fn new(epoch: usize, epochs: usize, images: usize) -> Self {
        let title = format!("epoch {epoch}/{epochs}");
        let style = ProgressStyle::with_template(STYLE).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(images as u64).with_style(style.progress_chars("━╸─"));
        bar.set_prefix(title.clone());
        Self { bar, title, start: Instant::now(), took: Duration::ZERO, images: 0, loss: 0.0, correct: 0 }
    }

    /// Counts a step.
    pub(crate) fn add(&mut self, step: Step) {
        self.took = self.start.elapsed();
        self.images += step.images;
        self.loss += step.loss * step.images as f64;
        self.correct += step.correct;
        self.bar.set_position(self.images as u64);
        self.bar.set_message(self.figures());
    }

    /// Replaces the bar by a line that stays.
    pub(crate) fn finish(self, test_accuracy: f64) {
        let figures = self.figures();
        self.bar.finish_and_clear();
        println!("{}  {figures}  test accuracy {:.2} %", self.title, 100.0 * test_accuracy);
    }

    fn figures(&self) -> String {
        let images = self.images as f64;
        let rate = images / self.took.as_secs_f64();
        let accuracy = 100.0 * self.correct as f64 / images;
        format!("loss {:.4}  accuracy {accuracy:5.2} %  {rate:.0} images/s", self.loss / images)
    }
}
