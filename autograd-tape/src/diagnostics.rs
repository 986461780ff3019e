//! Gradients at a glance: which layers vanish, explode or are dead; as data, as text, as a picture.

use crate::norm::{Parts, squares};
use crate::statistics::Statistics;
use autograd_core::algebra::permute;
use autograd_core::{Error, Result, Shape, Site, TrackedTensor, is_float};
use std::borrow::Borrow;
use std::fmt::{self, Write};
use std::path::Path;

/// What is wrong with a layer's gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// Some numbers are NaN or infinite.
    NotFinite,
    /// All numbers are 0: ask [`GradientTape::explain`](crate::GradientTape::explain) why.
    Zero,
    /// Far smaller than those of the other layers.
    Vanishing,
    /// Far larger than those of the other layers.
    Exploding,
    /// Some units (rows along the first dimension) get no gradient at all.
    DeadUnits(usize),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::NotFinite => write!(f, "not finite"),
            Trouble::Zero => write!(f, "all zero"),
            Trouble::Vanishing => write!(f, "vanishing"),
            Trouble::Exploding => write!(f, "exploding"),
            Trouble::DeadUnits(n) => write!(f, "{n} dead units"),
        }
    }
}

/// One gradient of a report.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LayerReport {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// Its numbers.
    pub gradient: Statistics,
    /// What is wrong.
    pub troubles: Vec<Trouble>,
}

/// Where a gradient counts as vanishing or exploding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// How many times smaller or larger than the median of the layers a root mean square may be.
    pub ratio: f64,
    /// The largest norm of one layer.
    pub norm: f64,
}

impl Default for Limits {
    /// Four orders of magnitude around the median, and a norm of 10⁴.
    fn default() -> Self {
        Self { ratio: 1e4, norm: 1e4 }
    }
}

/// What the gradients of a model look like, layer by layer.
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_tape::{GradientReport, Trouble};
///
/// fn main() -> Result<()> {
///     let first = TrackedTensor::from_vec(vec![1e-9f64, -2e-9], &[2])?;
///     let second = TrackedTensor::from_vec(vec![0.1f64, 0.3], &[2])?;
///     let third = TrackedTensor::from_vec(vec![0.2f64, 0.5], &[2])?;
///     let report = GradientReport::of([("first", &first), ("second", &second), ("third", &third)])?;
///     assert_eq!(report.layers[0].troubles, [Trouble::Vanishing]);
///     println!("{report}");
///     report.save(std::env::temp_dir().join("gradients.svg"))?;
///     Ok(())
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GradientReport {
    /// The layers, in the order given: from the input of the model to its output.
    pub layers: Vec<LayerReport>,
    /// The norm of all gradients together.
    pub norm: f64,
    /// By how much a gradient grows from one layer to the one before it, on the way from the output
    /// to the input: the slope of a line through the logarithms. Below 1 they vanish, above they
    /// explode. `None` for fewer than three layers with a gradient.
    pub growth: Option<f64>,
}

impl GradientReport {
    /// A report of named gradients, from the input of the model to its output.
    ///
    /// # Errors
    /// As [`Statistics::of`]; [`Error::InvalidArgument`] for a gradient that is not of a float type.
    #[track_caller]
    pub fn of<N: Into<String>, G: Borrow<TrackedTensor>>(
        named: impl IntoIterator<Item = (N, G)>,
    ) -> Result<Self> {
        Self::within(named, Limits::default())
    }

    /// The same with other limits.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    #[track_caller]
    pub fn within<N: Into<String>, G: Borrow<TrackedTensor>>(
        named: impl IntoIterator<Item = (N, G)>,
        limits: Limits,
    ) -> Result<Self> {
        let site = Site::caller();
        let mut layers = Vec::new();
        for (name, grad) in named {
            let (name, grad): (String, &TrackedTensor) = (name.into(), grad.borrow());
            let gradient = Statistics::of(grad).map_err(|e| e.or_at(site))?;
            if !is_float(grad.dtype()) {
                let reason = format!("{name} is of type {:?}: no gradient", grad.dtype());
                return Err(Error::argument("gradient_report", reason).or_at(site));
            }
            let mut troubles = Vec::new();
            if !gradient.all_finite() {
                troubles.push(Trouble::NotFinite);
            } else if gradient.all_zero() {
                troubles.push(Trouble::Zero);
            } else if grad.rank() > 1 {
                let dead = dead_units(grad, 0).map_err(|e| e.or_at(site))?.len();
                troubles.extend((dead > 0).then_some(Trouble::DeadUnits(dead)));
            }
            layers.push(LayerReport { name, shape: *grad.shape(), gradient, troubles });
        }
        compare(&mut layers, limits);
        let norm = layers.iter().map(|layer| layer.gradient.squares).sum::<f64>().sqrt();
        let growth = growth(&layers);
        Ok(Self { layers, norm, growth })
    }

    /// Whether nothing is wrong anywhere.
    pub fn is_healthy(&self) -> bool {
        self.layers.iter().all(|layer| layer.troubles.is_empty())
    }

    /// The report as a picture: for each layer, how many of its numbers are of which magnitude.
    pub fn to_svg(&self) -> String {
        picture(self)
    }

    /// Writes the picture (`.svg`) or the text (`.txt`) to a file.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for another ending, and where the file cannot be written.
    #[track_caller]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let (path, site) = (path.as_ref(), Site::caller());
        let failed = |reason: String| Error::argument("save", reason).or_at(site);
        let text = match path.extension().and_then(|ending| ending.to_str()) {
            Some("svg") => self.to_svg(),
            Some("txt") => self.to_string(),
            _ => return Err(failed(format!("{} ends neither in .svg nor in .txt", path.display()))),
        };
        std::fs::write(path, text).map_err(|e| failed(format!("{}: {e}", path.display())))
    }
}

/// The units along a dimension that are 0 everywhere: of a batch of activations, those that no
/// example switches on; of a weight's gradient, those that learn nothing. Negative dimensions count
/// from the end.
///
/// # Errors
/// [`Error::InvalidArgument`] where there is no such dimension; as [`Statistics::of`].
///
/// ```
/// use autograd_core::{Result, TrackedTensor};
/// use autograd_tape::dead_units;
///
/// fn main() -> Result<()> {
///     // Two examples, three units: the second is never on.
///     let hidden = TrackedTensor::from_vec(vec![1f32, 0., 0., 0., 0., 2.], &[2, 3])?;
///     assert_eq!(dead_units(&hidden, 1)?, [1]);
///     Ok(())
/// }
/// ```
#[track_caller]
pub fn dead_units(x: &TrackedTensor, dim: isize) -> Result<Vec<usize>> {
    let site = Site::caller();
    if let Some(error) = x.failure() {
        return Err(error.clone());
    }
    let Some(dim) = autograd_core::resolve_dim(dim, x.rank()) else {
        let reason = format!("no dimension {dim} in shape {}", x.shape());
        return Err(Error::argument("dead_units", reason).or_at(site));
    };
    let plain = x.beneath().ok_or(Error::ReadWhileCapturing { at: site.into() })?;
    let order: Vec<usize> = std::iter::once(dim).chain((0..x.rank()).filter(|&d| d != dim)).collect();
    let found = permute(&plain, &order).and_then(|front| squares(&front, Parts::Units)?.to_flat::<f64>());
    let units = found.map_err(|e| e.or_at(site))?;
    // A dimension of extent 0 elsewhere: there is nothing to say of any unit.
    if x.elem_count() == 0 {
        return Ok(Vec::new());
    }
    Ok(units.iter().enumerate().filter(|(_, squares)| **squares == 0.0).map(|(i, _)| i).collect())
}

/// Judges layers by one another.
fn compare(layers: &mut [LayerReport], limits: Limits) {
    let mut sizes: Vec<f64> = layers.iter().filter_map(size).collect();
    sizes.sort_by(f64::total_cmp);
    // The median of two is neither.
    let median = (sizes.len() > 2).then(|| sizes[sizes.len() / 2]);
    for layer in layers {
        let Some(own) = size(layer) else { continue };
        if layer.gradient.norm() > limits.norm || median.is_some_and(|median| own > median * limits.ratio) {
            layer.troubles.push(Trouble::Exploding);
        } else if median.is_some_and(|median| own * limits.ratio < median) {
            layer.troubles.push(Trouble::Vanishing);
        }
    }
}

/// The root mean square of a layer whose gradient can be compared.
fn size(layer: &LayerReport) -> Option<f64> {
    let sound = layer.gradient.all_finite() && !layer.gradient.all_zero();
    sound.then(|| layer.gradient.root_mean_square())
}

/// The factor from one layer to the one before it: least squares through the logarithms.
fn growth(layers: &[LayerReport]) -> Option<f64> {
    let points: Vec<(f64, f64)> =
        layers.iter().rev().filter_map(size).enumerate().map(|(i, size)| (i as f64, size.ln())).collect();
    if points.len() < 3 {
        return None;
    }
    let n = points.len() as f64;
    let (mx, my) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let (covariance, variance) =
        points.iter().fold((0.0, 0.0), |(c, v), (x, y)| (c + (x - mx) * (y - my), v + (x - mx).powi(2)));
    Some((covariance / variance).exp())
}

/// Decades from 10⁻¹⁴ to 10⁴, as the bins of a histogram fall into them.
fn decades(s: &Statistics) -> [usize; DECADES] {
    let mut bars = [0; DECADES];
    for (bin, count) in s.magnitudes.iter().enumerate() {
        // The middle of the bin, on a logarithmic scale.
        let exponent = f64::from(Statistics::FIRST_EXPONENT) + bin as f64 + 0.5;
        let decade = (exponent * std::f64::consts::LOG10_2).floor() as i32 - FIRST_DECADE;
        bars[decade.clamp(0, DECADES as i32 - 1) as usize] += count;
    }
    bars
}

const FIRST_DECADE: i32 = -14;
const DECADES: usize = 19;

impl fmt::Display for GradientReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let wide = |text: &dyn Fn(&LayerReport) -> String, title: &str| {
            let longest = self.layers.iter().map(|layer| text(layer).chars().count()).max();
            longest.unwrap_or(0).max(title.chars().count())
        };
        let name = wide(&|layer| layer.name.clone(), "layer");
        let shape = wide(&|layer| layer.shape.to_string(), "shape");
        let head = ["norm", "rms", "largest", "zeros"].map(|title| format!("{title:>9}")).join(" ");
        writeln!(f, "{:name$}  {:shape$}  {head}  1e-14 … 1e4", "layer", "shape")?;
        for layer in &self.layers {
            let s = &layer.gradient;
            let zeros = if s.count == 0 { 0.0 } else { 100.0 * s.zeros as f64 / s.count as f64 };
            let bars = decades(s);
            let tallest = bars.iter().max().copied().unwrap_or(0).max(1);
            let picture: String = bars.iter().map(|n| BARS[(n * 8).div_ceil(tallest)]).collect();
            let numbers =
                [s.norm(), s.root_mean_square(), s.largest()].map(|x| format!("{x:9.2e}")).join(" ");
            let (title, dims) = (&layer.name, layer.shape.to_string());
            write!(f, "{title:name$}  {dims:shape$}  {numbers} {zeros:8.1}%  {picture}")?;
            for trouble in &layer.troubles {
                write!(f, "  {trouble}")?;
            }
            writeln!(f)?;
        }
        write!(f, "all together: norm {:.3e}", self.norm)?;
        if let Some(growth) = self.growth {
            write!(f, "; from layer to layer towards the input, times {growth:.3}")?;
        }
        writeln!(f)
    }
}

/// The picture's room for names, and the size of a cell.
const LEFT: f64 = 240.0;
const CELL: (f64, f64) = (28.0, 22.0);

/// A row for each layer, a column for each decade, the darker the more numbers; a tick at the root
/// mean square.
fn picture(report: &GradientReport) -> String {
    let rows = report.layers.len() as f64;
    let (width, height) = (LEFT + CELL.0 * DECADES as f64 + 180.0, CELL.1 * (rows + 3.0));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"monospace\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for decade in (0..DECADES).step_by(2) {
        let (x, power) = (LEFT + CELL.0 * decade as f64, FIRST_DECADE + decade as i32);
        let y = CELL.1;
        let _ = writeln!(svg, "<text x=\"{x:.0}\" y=\"{y:.0}\">1e{power}</text>");
    }
    for (row, layer) in report.layers.iter().enumerate() {
        let top = CELL.1 * (row as f64 + 1.5);
        let text = top + CELL.1 * 0.7;
        let colour = if layer.troubles.is_empty() { "#222" } else { "#b3261e" };
        let name = escaped(&layer.name);
        let _ = writeln!(svg, "<text x=\"8\" y=\"{text:.1}\" fill=\"{colour}\">{name}</text>");
        for (decade, &n) in decades(&layer.gradient).iter().enumerate() {
            let share = n as f64 / layer.gradient.count.max(1) as f64;
            let (x, w, h) = (LEFT + CELL.0 * decade as f64, CELL.0 - 1.0, CELL.1 - 2.0);
            // The square root makes small shares visible.
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" fill=\"#2b6ca3\" \
                 fill-opacity=\"{:.3}\" stroke=\"#eee\"/>",
                share.sqrt()
            );
        }
        if let Some(size) = size(layer) {
            let at = (size.log10() - f64::from(FIRST_DECADE)).clamp(0.0, DECADES as f64);
            let (x, bottom) = (LEFT + CELL.0 * at, top + CELL.1 - 2.0);
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\" stroke=\"#d9822b\" \
                 stroke-width=\"3\"/>"
            );
        }
        let troubles: Vec<String> = layer.troubles.iter().map(ToString::to_string).collect();
        let (x, troubles) = (LEFT + CELL.0 * DECADES as f64 + 8.0, escaped(&troubles.join(", ")));
        let _ = writeln!(svg, "<text x=\"{x:.0}\" y=\"{text:.1}\" fill=\"{colour}\">{troubles}</text>");
    }
    let foot = CELL.1 * (rows + 2.5);
    let _ = writeln!(
        svg,
        "<text x=\"8\" y=\"{foot:.1}\">share of the numbers of each magnitude; the tick is their root mean \
         square; all together: norm {:.3e}</text>\n</svg>",
        report.norm
    );
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(number: f64, dims: &[usize]) -> Result<TrackedTensor> {
        TrackedTensor::from_vec(vec![number; dims.iter().product()], dims)
    }

    #[test]
    fn every_trouble_is_named() -> Result<()> {
        let mut half = vec![0.0; 6];
        half[0] = 0.1;
        let grads = [
            ("vanishing", filled(1e-9, &[4])?),
            ("fine", filled(0.1, &[2, 3])?),
            ("dead", TrackedTensor::from_vec(half, &[3, 2])?),
            ("also fine", filled(-0.2, &[5])?),
            ("zero", filled(0.0, &[3])?),
            ("exploding", filled(1e6, &[2])?),
            ("nan", filled(f64::NAN, &[2])?),
        ];
        let report = GradientReport::of(grads.iter().map(|(name, grad)| (*name, grad)))?;
        let found: Vec<_> = report.layers.iter().map(|layer| layer.troubles.as_slice()).collect();
        let want: [&[Trouble]; 7] = [
            &[Trouble::Vanishing],
            &[],
            &[Trouble::DeadUnits(2)],
            &[],
            &[Trouble::Zero],
            &[Trouble::Exploding],
            &[Trouble::NotFinite],
        ];
        assert_eq!(found, want);
        assert!(!report.is_healthy());
        let text = report.to_string();
        for word in
            ["vanishing", "exploding", "2 dead units", "all zero", "not finite", "also fine", "[2, 3]"]
        {
            assert!(text.contains(word), "{word} in\n{text}");
        }
        let svg = report.to_svg();
        assert!(svg.contains("2 dead units") && svg.trim_end().ends_with("</svg>"), "{svg}");
        Ok(())
    }

    #[test]
    fn growth_from_layer_to_layer() -> Result<()> {
        let grads: Vec<(String, TrackedTensor)> = (0..6)
            .map(|i| Ok((format!("layer {i}"), filled(0.5f64.powi(5 - i), &[3])?)))
            .collect::<Result<_>>()?;
        let report = GradientReport::of(grads.iter().map(|(n, g)| (n.as_str(), g)))?;
        let Some(growth) = report.growth else { panic!("six layers have a slope") };
        // Exactly half at each layer, through logarithms and a fit.
        assert!((growth - 0.5).abs() < 1e-12, "{growth}");
        assert!(report.is_healthy());
        let two = GradientReport::of(grads.into_iter().take(2))?;
        assert!(two.growth.is_none() && two.is_healthy());
        Ok(())
    }

    #[test]
    fn bad_input() -> Result<()> {
        let whole = TrackedTensor::from_vec(vec![1u32], &[1])?;
        assert!(matches!(GradientReport::of([("x", &whole)]), Err(Error::InvalidArgument { .. })));
        assert!(matches!(dead_units(&filled(1.0, &[2])?, 1), Err(Error::InvalidArgument { .. })));
        assert_eq!(dead_units(&filled(1.0, &[2, 0])?, -2)?, Vec::<usize>::new());
        let none = GradientReport::of(Vec::<(String, TrackedTensor)>::new())?;
        assert!(none.is_healthy() && none.norm == 0.0 && none.to_svg().contains("</svg>"));
        assert!(none.save("report.png").is_err());
        Ok(())
    }
}
