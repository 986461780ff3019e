//! Losses over steps and over time, in two charts.

use super::Result;
use super::canvas::{Area, Canvas, FINE, INK, font};
use plotters::prelude::{ChartBuilder, IntoLogRange, LineSeries, PathElement, SeriesLabelPosition};
use plotters::style::{Color, RGBColor, WHITE};
use std::path::Path;

const COLOURS: [RGBColor; 2] = [RGBColor(31, 119, 180), RGBColor(214, 96, 22)];

/// Width and height of the picture.
const SIZE: (u32, u32) = (1100, 480);

/// What a method did: the loss after each step, and when.
pub(crate) struct Run {
    pub(crate) name: String,
    points: Vec<(f64, f64)>,
}

impl Run {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), points: Vec::new() }
    }

    /// Adds a step: the seconds since the start, and the loss.
    pub(crate) fn add(&mut self, seconds: f64, loss: f64) {
        self.points.push((seconds, loss));
    }

    /// The latest loss.
    pub(crate) fn last(&self) -> f64 {
        self.points.last().map_or(f64::INFINITY, |(_, loss)| *loss)
    }

    /// How many steps were taken.
    pub(crate) fn steps(&self) -> usize {
        self.points.len().saturating_sub(1)
    }

    /// How long it took.
    pub(crate) fn seconds(&self) -> f64 {
        self.points.last().map_or(0.0, |(seconds, _)| *seconds)
    }

    /// When a loss was reached.
    pub(crate) fn seconds_to(&self, loss: f64) -> Option<f64> {
        self.points.iter().find(|point| point.1 <= loss).map(|(seconds, _)| *seconds)
    }
}

/// Writes both charts to a PNG file.
pub(crate) fn draw(runs: &[Run], path: &Path) -> Result<()> {
    let mut canvas = Canvas::new(SIZE.0, SIZE.1)?;
    let area = canvas.area()?;
    let (left, right) = area.split_horizontally(FINE * SIZE.0 / 2);
    // Gradient descent takes many times the steps: the chart over steps shows its first ones.
    let steps = runs.iter().map(Run::steps).min().unwrap_or(1).max(1) as f64;
    let by_steps: Vec<Vec<(f64, f64)>> = runs
        .iter()
        .map(|run| run.points.iter().enumerate().map(|(step, point)| (step as f64, point.1)).collect())
        .collect();
    let seconds = runs.iter().map(Run::seconds).fold(0.0, f64::max);
    let by_seconds: Vec<Vec<(f64, f64)>> = runs.iter().map(|run| run.points.clone()).collect();
    chart(&left, "steps", steps, runs, &by_steps)?;
    chart(&right, "seconds", seconds, runs, &by_seconds)?;
    area.present()?;
    drop((left, right, area));
    canvas.save(path)
}

fn chart(area: &Area<'_>, what: &str, end: f64, runs: &[Run], lines: &[Vec<(f64, f64)>]) -> Result<()> {
    let shown = || lines.iter().flatten().filter(|point| point.0 <= end).map(|point| point.1.max(1e-12));
    let range = shown().fold(f64::MAX, f64::min) / 1.5..shown().fold(f64::MIN_POSITIVE, f64::max) * 1.5;
    let mut chart = ChartBuilder::on(area)
        .margin(16 * FINE)
        .x_label_area_size(44 * FINE)
        .y_label_area_size(72 * FINE)
        .build_cartesian_2d(0.0..end, range.log_scale())?;
    chart
        .configure_mesh()
        .x_desc(what)
        .y_desc("training loss")
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&|x| format!("{}", (x * 1e3).round() / 1e3))
        .y_label_formatter(&|loss| format!("{loss}"))
        .axis_desc_style(font(16).color(&INK))
        .label_style(font(14).color(&INK))
        .axis_style(INK.mix(0.6).stroke_width(FINE))
        .bold_line_style(INK.mix(0.15))
        .light_line_style(INK.mix(0.05))
        .draw()?;
    for ((run, line), colour) in runs.iter().zip(lines).zip(COLOURS) {
        let inside = line.iter().copied().filter(|point| point.0 <= end);
        let series = chart.draw_series(LineSeries::new(inside, colour.stroke_width(2 * FINE)))?;
        series.label(&run.name).legend(move |(x, y)| {
            PathElement::new([(x, y), (x + 22 * FINE as i32, y)], colour.stroke_width(2 * FINE))
        });
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .margin(12 * FINE)
        .legend_area_size(30 * FINE)
        .label_font(font(14).color(&INK))
        .background_style(WHITE.mix(0.85))
        .draw()?;
    Ok(())
}
