//! What a check found.

use autograd_core::{Error, Result, Site};
use std::fmt;

/// One comparison of a derivative with a difference.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Which derivative was checked: "reverse", "forward" or "given".
    pub mode: &'static str,
    /// The path of the input leaf; empty for a value by itself.
    pub input: String,
    /// The element of the input leaf; empty for a projection and for a number.
    pub input_index: Vec<usize>,
    /// The path of the output leaf; empty for a value by itself.
    pub output: String,
    /// The element of the output leaf; empty for a projection and for a number.
    pub output_index: Vec<usize>,
    /// What differentiation gave.
    pub analytic: f64,
    /// What differences gave.
    pub numeric: f64,
    /// How far they may be apart.
    pub tolerance: f64,
}

impl Comparison {
    /// Whether the two agree. NaN agrees with nothing.
    pub fn agrees(&self) -> bool {
        (self.analytic - self.numeric).abs() <= self.tolerance
    }

    /// The difference in units of the tolerance.
    fn severity(&self) -> f64 {
        let severity = (self.analytic - self.numeric).abs() / self.tolerance;
        if severity.is_nan() { f64::INFINITY } else { severity }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} mode, d output{}{:?} / d input{}{:?}: analytic {:e}, numeric {:e}, allowed difference {:e}",
            self.mode,
            self.output,
            self.output_index,
            self.input,
            self.input_index,
            self.analytic,
            self.numeric,
            self.tolerance
        )
    }
}

/// The result of a check.
#[derive(Clone, Debug)]
#[must_use]
pub struct Report {
    /// How many derivatives were compared.
    pub compared: usize,
    /// Where they disagree.
    pub failures: Vec<Comparison>,
    /// Where they disagree and the function has a kink or a jump inside the stencil: differences
    /// mean nothing there. Move the point, or make the step smaller.
    pub kinks: Vec<Comparison>,
    /// What differs between two runs of the same work, if anything does.
    pub unstable: Option<String>,
    /// The comparison that came closest to failing, or failed worst.
    pub worst: Option<Comparison>,
}

impl Report {
    /// Whether no derivative is wrong and two runs give the same. Kinks do not count.
    pub fn passed(&self) -> bool {
        self.failures.is_empty() && self.unstable.is_none()
    }

    /// Nothing where the check passed.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the report where it did not.
    #[track_caller]
    pub fn require(&self) -> Result<()> {
        if self.passed() {
            return Ok(());
        }
        Err(Error::argument("gradcheck", self.to_string()).or_at(Site::caller()))
    }
}

/// How many lines of each kind a report prints.
const LINES: usize = 10;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wrong, kinks) = (self.failures.len(), self.kinks.len());
        write!(f, "{} derivatives compared, {wrong} wrong, {kinks} at a kink", self.compared)?;
        if let Some(unstable) = &self.unstable {
            write!(f, "\nnot deterministic: {unstable}")?;
        }
        for (name, list) in [("wrong", &self.failures), ("kink", &self.kinks)] {
            for comparison in list.iter().take(LINES) {
                write!(f, "\n{name}: {comparison}")?;
            }
            if list.len() > LINES {
                write!(f, "\n{name}: {} more", list.len() - LINES)?;
            }
        }
        match &self.worst {
            Some(worst) if wrong + kinks == 0 => write!(f, "\nclosest: {worst}"),
            _ => Ok(()),
        }
    }
}

/// A report while it is made.
pub(super) struct Table {
    mode: &'static str,
    report: Report,
}

impl Table {
    pub(super) fn new(mode: &'static str) -> Self {
        let (failures, kinks) = (Vec::new(), Vec::new());
        Self { mode, report: Report { compared: 0, failures, kinks, unstable: None, worst: None } }
    }

    pub(super) fn mode(&mut self, mode: &'static str) {
        self.mode = mode;
    }

    pub(super) fn current(&self) -> &'static str {
        self.mode
    }

    /// Files a comparison; whether there is a kink is asked where it disagrees.
    pub(super) fn add(
        &mut self,
        comparison: Comparison,
        has_kink: impl FnOnce() -> Result<bool>,
    ) -> Result<()> {
        let report = &mut self.report;
        report.compared += 1;
        if report.worst.as_ref().is_none_or(|worst| worst.severity() < comparison.severity()) {
            report.worst = Some(comparison.clone());
        }
        if !comparison.agrees() {
            if has_kink()? {
                report.kinks.push(comparison);
            } else {
                report.failures.push(comparison);
            }
        }
        Ok(())
    }

    pub(super) fn finish(self, unstable: Option<String>) -> Report {
        Report { unstable, ..self.report }
    }
}

/// The index of an element by dimension.
pub(super) fn place(element: usize, dims: &[usize]) -> Vec<usize> {
    let mut rest = element;
    let mut index: Vec<usize> = dims
        .iter()
        .rev()
        .map(|&extent| {
            let at = rest % extent.max(1);
            rest /= extent.max(1);
            at
        })
        .collect();
    index.reverse();
    index
}
