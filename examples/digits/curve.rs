//! The training curve: loss and accuracy over the epochs, in two charts.

use super::Result;
use super::canvas::{Area, Canvas, FINE, INK, font};
use super::training::Step;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{
    BitMapBackend, Cartesian2d, ChartBuilder, ChartContext, Circle, IntoLogRange, LineSeries, PathElement,
    SeriesLabelPosition,
};
use plotters::style::{Color, RGBColor, WHITE};
use std::ops::Range;
use std::path::Path;

const BLUE: RGBColor = RGBColor(31, 119, 180);
const ORANGE: RGBColor = RGBColor(214, 96, 22);

/// Width and height of the picture.
const SIZE: (u32, u32) = (960, 720);

/// The accuracy axis leaves room above 100 % for a line.
const TOP_PERCENT: f64 = 100.5;

/// How much a step counts in a smoothed line.
const NEWEST: f64 = 0.02;

/// What happened so far; time is counted in epochs.
pub(crate) struct Curve {
    images: usize,
    images_in_epoch: usize,
    losses: Points,
    learnt: Points,
    tested: Points,
}

type Points = Vec<(f64, f64)>;

impl Curve {
    /// The curve of a training with so many images in an epoch.
    pub(crate) fn new(images_in_epoch: usize) -> Self {
        let (losses, learnt, tested) = (Points::new(), Points::new(), Points::new());
        Self { images: 0, images_in_epoch, losses, learnt, tested }
    }

    /// Adds a step of the training.
    pub(crate) fn add_step(&mut self, step: Step) {
        self.images += step.images;
        self.losses.push((self.epoch(), step.loss));
        self.learnt.push((self.epoch(), 100.0 * step.correct as f64 / step.images as f64));
    }

    /// Adds the accuracy on the test images, from 0 to 1.
    pub(crate) fn add_accuracy(&mut self, accuracy: f64) {
        self.tested.push((self.epoch(), 100.0 * accuracy));
    }

    /// The latest accuracy on the test images, from 0 to 1.
    pub(crate) fn last_accuracy(&self) -> f64 {
        self.tested.last().map_or(0.0, |(_, accuracy)| accuracy / 100.0)
    }

    fn epoch(&self) -> f64 {
        self.images as f64 / self.images_in_epoch as f64
    }

    /// Writes the curve to a PNG file.
    pub(crate) fn draw(&self, path: &Path) -> Result<()> {
        let mut canvas = Canvas::new(SIZE.0, SIZE.1)?;
        let area = canvas.area()?;
        let (above, below) = area.split_vertically(FINE * SIZE.1 / 2);
        self.draw_loss(&above)?;
        self.draw_accuracy(&below)?;
        area.present()?;
        drop((above, below, area));
        canvas.save(path)
    }

    fn draw_loss(&self, area: &Area<'_>) -> Result<()> {
        let all = self.losses.iter().map(|&(_, loss)| loss.max(1e-6));
        let range = all.clone().fold(f64::MAX, f64::min) / 1.5..all.fold(f64::MIN_POSITIVE, f64::max) * 1.5;
        let mut chart =
            chart(area, "cross entropy", 0.0..self.epoch(), range.log_scale(), &|loss| format!("{loss}"))?;
        chart.draw_series(LineSeries::new(self.losses.clone(), BLUE.mix(0.25).stroke_width(FINE)))?;
        let line = LineSeries::new(smoothed(&self.losses), BLUE.stroke_width(2 * FINE));
        let series = chart.draw_series(line)?;
        series.label("training loss").legend(|at| sample(at, BLUE));
        legend(&mut chart, SeriesLabelPosition::UpperRight)
    }

    fn draw_accuracy(&self, area: &Area<'_>) -> Result<()> {
        let learnt = smoothed(&self.learnt);
        // The first steps are little better than guesses; the axis shows what comes after.
        let lowest = self.tested.iter().map(|&(_, accuracy)| accuracy).fold(100.0, f64::min);
        let bottom = if lowest > 90.0 { 90.0 } else { (lowest / 10.0).floor() * 10.0 };
        let mut chart = chart(area, "accuracy", 0.0..self.epoch(), bottom..TOP_PERCENT, &|percent| {
            format!("{percent:.0} %")
        })?;
        let shown = learnt.into_iter().filter(|&(_, accuracy)| accuracy >= bottom);
        let series = chart.draw_series(LineSeries::new(shown, BLUE.stroke_width(2 * FINE)))?;
        series.label("training images, moved").legend(|at| sample(at, BLUE));
        let series =
            chart.draw_series(LineSeries::new(self.tested.clone(), ORANGE.stroke_width(2 * FINE)))?;
        series.label("test images").legend(|at| sample(at, ORANGE));
        let dots = self.tested.iter().map(|&at| Circle::new(at, 4 * FINE, ORANGE.filled()));
        chart.draw_series(dots)?;
        legend(&mut chart, SeriesLabelPosition::LowerRight)
    }
}

type Chart<'p, 'q, Y> = ChartContext<'p, BitMapBackend<'q>, Cartesian2d<RangedCoordf64, Y>>;

/// An empty chart over the epochs, with axes and labels.
fn chart<'p, 'q, Y>(
    area: &'p Area<'q>,
    what: &str,
    epochs: Range<f64>,
    values: impl AsRangedCoord<CoordDescType = Y, Value = f64>,
    label: &dyn Fn(&f64) -> String,
) -> Result<Chart<'p, 'q, Y>>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .margin(16 * FINE)
        .x_label_area_size(44 * FINE)
        .y_label_area_size(72 * FINE)
        .build_cartesian_2d(epochs, values)?;
    chart
        .configure_mesh()
        .x_desc("epochs")
        .y_desc(what)
        .x_labels(8)
        .y_labels(6)
        .x_label_formatter(&|epoch| format!("{}", (epoch * 1e3).round() / 1e3))
        .y_label_formatter(label)
        .axis_desc_style(font(16).color(&INK))
        .label_style(font(14).color(&INK))
        .axis_style(INK.mix(0.6).stroke_width(FINE))
        .bold_line_style(INK.mix(0.15))
        .light_line_style(INK.mix(0.05))
        .draw()?;
    Ok(chart)
}

fn legend<'p, 'q: 'p, Y>(chart: &mut Chart<'p, 'q, Y>, position: SeriesLabelPosition) -> Result<()>
where
    Y: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(position)
        .margin(12 * FINE)
        .legend_area_size(30 * FINE)
        .label_font(font(15).color(&INK))
        .background_style(WHITE.mix(0.85))
        .draw()?;
    Ok(())
}

/// The line that stands for a series in the legend.
fn sample((x, y): (i32, i32), colour: RGBColor) -> PathElement<(i32, i32)> {
    PathElement::new([(x, y), (x + 22 * FINE as i32, y)], colour.stroke_width(2 * FINE))
}

/// The exponentially weighted mean of what came before each point.
fn smoothed(points: &[(f64, f64)]) -> Points {
    let (mut sum, mut weight) = (0.0, 0.0);
    let smooth = points.iter().map(|&(x, y)| {
        sum += NEWEST * (y - sum);
        weight += NEWEST * (1.0 - weight);
        (x, sum / weight)
    });
    smooth.collect()
}
