//! Which pixels an answer rests on: one test image of each digit, its saliency, and its
//! integrated gradients.

use super::Result;
use super::canvas::{Area, Canvas, FAINT, FINE, INK, words};
use super::data::{Digits, SIDE};
use super::net::Net;
use autograd_interpret::{integrated_gradients, saliency};
use candle_autograd::nn::Parameters;
use candle_autograd::{TensorAutograd, TrackedTensor};
use plotters::prelude::{PathElement, Rectangle, Text};
use plotters::style::text_anchor::HPos;
use plotters::style::{Color, RGBColor};
use std::path::Path;

/// Points on the way from an empty image to the digit.
const STEPS: usize = 64;

/// Pixels of the picture for each pixel of an image.
const ZOOM: u32 = 4;
const CELL: u32 = ZOOM * SIDE as u32;
const GAP: u32 = 10;
const LEFT: u32 = 190;
const TOP: u32 = 48;
const RIGHT: u32 = 80;

/// The colour of a wrong answer.
const WRONG: RGBColor = RGBColor(200, 30, 30);

/// The colour of a number between −1 and 1.
type Colours<'c> = &'c dyn Fn(f64) -> RGBColor;

/// A digit and what the net makes of it: numbers for each pixel.
struct Seen {
    label: usize,
    answer: usize,
    probability: f32,
    image: Vec<f32>,
    saliency: Vec<f32>,
    gradients: Vec<f32>,
    /// By how much the gradients miss the change of the logit, as a part of it.
    missed: f64,
}

/// Draws the maps to a PNG file, and says in words how well the integrated gradients add up.
pub(crate) fn draw(parameters: &Parameters, digits: &Digits, path: &Path) -> Result<String> {
    let net = Net::new(&parameters.plain()?)?;
    let mut seen = Vec::new();
    for label in 0..10 {
        if let Some(first) = (0..digits.len()).find(|&index| usize::from(digits.label(index)) == label) {
            seen.push(look(&net, &digits.batch(&[first])?.images, label)?);
        }
    }
    let width = LEFT + seen.len() as u32 * (CELL + GAP) + RIGHT;
    let mut canvas = Canvas::new(width, TOP + 3 * (CELL + GAP) + GAP)?;
    let area = canvas.area()?;
    draw_legend(&area, width)?;
    for (column, digit) in (0..).zip(&seen) {
        draw_digit(&area, LEFT + column * (CELL + GAP), digit)?;
    }
    area.present()?;
    drop(area);
    canvas.save(path)?;
    let worst = seen.iter().map(|digit| digit.missed).fold(0.0, f64::max);
    Ok(format!("integrated gradients add up to within {:.2} %", 100.0 * worst))
}

/// Asks for the pixels that the logit of the image's own digit rests on.
fn look(net: &Net, image: &TrackedTensor, label: usize) -> Result<Seen> {
    let logit = |image: &TrackedTensor| net.forward(image)?.narrow(1, label, 1)?.sum();
    let saliency = saliency(logit, image)?;
    let gradients = integrated_gradients(logit, image, None, STEPS)?;

    let probabilities = net.forward(image)?.softmax(1)?.to_flat::<f32>()?;
    let answer = (0..10).max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b])).unwrap_or(label);
    let values = gradients.value().to_flat::<f32>()?;
    let change = f64::from(values.iter().sum::<f32>());
    Ok(Seen {
        label,
        answer,
        probability: probabilities[answer],
        image: image.to_flat()?,
        saliency: saliency.to_flat()?,
        gradients: values,
        missed: (gradients.worst_delta() / change).abs(),
    })
}

/// The names of the rows, and the scale of the colours at the right.
fn draw_legend(area: &Area<'_>, width: u32) -> Result<()> {
    let rows = [
        ["image", "and the net's answer"],
        ["saliency", "|∂ logit / ∂ pixel|"],
        ["integrated gradients", "what each pixel adds"],
    ];
    for (row, [name, note]) in (0..).zip(rows) {
        let middle = TOP + row * (CELL + GAP) + CELL / 2;
        area.draw(&Text::new(name, at(LEFT - 16, middle - 11), words(16, HPos::Right, &INK)))?;
        area.draw(&Text::new(note, at(LEFT - 16, middle + 12), words(13, HPos::Right, &FAINT)))?;
    }
    let scales: [(Colours<'_>, &str, &str); 2] =
        [(&heat, "most", "none"), (&|t| diverging(2.0 * t - 1.0), "for", "against")];
    for (row, (colour, high, low)) in (1..).zip(scales) {
        let (left, top) = (width - RIGHT + 2, TOP + row * (CELL + GAP));
        for line in 0..CELL {
            let colour = colour(1.0 - f64::from(line) / f64::from(CELL - 1));
            let bar = [at(left, top + line), at(left + 10, top + line + 1)];
            area.draw(&Rectangle::new(bar, colour.filled()))?;
        }
        let note = words(12, HPos::Left, &FAINT);
        area.draw(&Text::new(high, at(left + 15, top + 6), note.clone()))?;
        area.draw(&Text::new(low, at(left + 15, top + CELL - 7), note))?;
    }
    Ok(())
}

/// One column: the answer, the image, and the two maps, each brought to its own scale.
fn draw_digit(area: &Area<'_>, left: u32, digit: &Seen) -> Result<()> {
    let right = digit.answer == digit.label;
    let answer =
        format!("{} {} {:.1} %", digit.answer, if right { "·" } else { "✗" }, 100.0 * digit.probability);
    let colour = if right { &INK } else { &WRONG };
    area.draw(&Text::new(answer, at(left + CELL / 2, TOP - 18), words(15, HPos::Center, colour)))?;
    let maps: [(&[f32], Colours<'_>); 3] =
        [(&digit.image, &paper), (&digit.saliency, &heat), (&digit.gradients, &diverging)];
    for (row, (values, colour)) in (0..).zip(maps) {
        let top = TOP + row * (CELL + GAP);
        let scale = scale_of(values);
        for (pixel, value) in (0..).zip(values) {
            let (x, y) = (left + ZOOM * (pixel % SIDE as u32), top + ZOOM * (pixel / SIDE as u32));
            let square = [at(x, y), at(x + ZOOM, y + ZOOM)];
            area.draw(&Rectangle::new(square, colour(f64::from(value / scale).clamp(-1.0, 1.0)).filled()))?;
        }
        let corners = [(0, 0), (CELL, 0), (CELL, CELL), (0, CELL), (0, 0)];
        let frame = corners.map(|(x, y)| at(left + x, top + y));
        area.draw(&PathElement::new(frame, INK.mix(0.35).stroke_width(FINE)))?;
    }
    Ok(())
}

/// The size that one pixel in a hundred exceeds: a few very large values must not leave the others
/// without colour.
fn scale_of(values: &[f32]) -> f32 {
    let mut sizes: Vec<f32> = values.iter().map(|value| value.abs()).collect();
    sizes.sort_by(f32::total_cmp);
    sizes[sizes.len() * 99 / 100].max(f32::MIN_POSITIVE)
}

/// A place in the finished picture, as plotters counts.
fn at(x: u32, y: u32) -> (i32, i32) {
    ((FINE * x) as i32, (FINE * y) as i32)
}

/// White paper to black ink.
fn paper(ink: f64) -> RGBColor {
    let grey = (255.0 * (1.0 - ink)).round() as u8;
    RGBColor(grey, grey, grey)
}

/// 0 to 1, from dark to bright.
fn heat(value: f64) -> RGBColor {
    rgb(colorous::INFERNO.eval_continuous(value))
}

/// −1 (blue) by 0 (white) to 1 (red).
fn diverging(value: f64) -> RGBColor {
    rgb(colorous::RED_BLUE.eval_continuous(0.5 - 0.5 * value))
}

fn rgb(colour: colorous::Color) -> RGBColor {
    RGBColor(colour.r, colour.g, colour.b)
}
