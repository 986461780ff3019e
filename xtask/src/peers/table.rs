//! What the figures say: medians, ratios, memory, and the one line at the end.

use super::contender::{Contender, Memory};
use serde_json::json;
use std::fmt::Write as _;

/// One contender on one workload.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    pub(crate) eager: bool,
    pub(crate) ours: bool,
    /// Milliseconds of each repetition.
    pub(crate) times: Vec<f64>,
    pub(crate) step_mb: Option<Memory>,
    pub(crate) first_s: Option<f64>,
    /// Why the workload cannot be said to it.
    pub(crate) cannot: Option<String>,
    /// Why it has no figures although it should.
    pub(crate) error: Option<String>,
}

impl Measured {
    pub(crate) fn of(contender: &Contender) -> Self {
        Self {
            name: contender.name,
            eager: contender.eager,
            ours: contender.ours,
            times: Vec::new(),
            step_mb: None,
            first_s: None,
            cannot: None,
            error: None,
        }
    }

    fn median(&self) -> Option<f64> {
        if self.error.is_some() { None } else { median(&self.times) }
    }
}

/// All contenders on one workload.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) workload: &'static str,
    /// The FMA rate between the rounds, in GFLOP/s.
    pub(crate) probe: Vec<f64>,
    pub(crate) contenders: Vec<Measured>,
}

impl Row {
    fn ours(&self) -> Option<f64> {
        self.contenders.iter().find(|c| c.ours)?.median()
    }

    /// The fastest peer to which the ratio is taken.
    fn best(&self, graph: bool) -> Option<(&'static str, f64)> {
        let peers = self.contenders.iter().filter(|c| !c.ours && (graph || c.eager));
        let timed = peers.filter_map(|c| Some((c.name, c.median()?)));
        timed.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    fn ratio(&self, graph: bool) -> Option<f64> {
        Some(self.ours()? / self.best(graph)?.1)
    }

    /// MiB beyond inputs, parameters and what is returned, which is the same for everybody.
    fn working_mb(&self, name: &str) -> Option<f64> {
        let returned = self.contenders.iter().find(|c| c.ours)?.step_mb?.returned?;
        let step = self.contenders.iter().find(|c| c.name == name)?.step_mb?.step;
        Some((step - returned).max(0.0))
    }

    /// What should be there and is not.
    fn missing(&self) -> Option<String> {
        let of = |c: &Measured| match (&c.error, &c.cannot, c.times.is_empty()) {
            (Some(error), _, _) => Some(format!("{} on {} ({error})", c.name, self.workload)),
            (None, None, true) => Some(format!("{} on {}", c.name, self.workload)),
            _ => None,
        };
        self.contenders.iter().find_map(of)
    }

    pub(crate) fn print_json(&self, threads: usize) {
        for c in &self.contenders {
            let mut times = c.times.clone();
            times.sort_by(f64::total_cmp);
            let line = json!({
                "workload": self.workload,
                "contender": c.name,
                "threads": threads,
                "median_ms": c.median(),
                "min_ms": times.first(),
                "repetitions": times.len(),
                "step_mb": self.working_mb(c.name),
                "first_s": c.first_s,
                "fma_gflops": median(&self.probe),
                "cannot": c.cannot,
                "error": c.error,
            });
            println!("{line}");
        }
    }
}

/// All rows at one number of threads.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) rows: Vec<Row>,
    pub(crate) threads: usize,
    pub(crate) graph: bool,
    /// How many rows a complete table has.
    pub(crate) expected: usize,
}

impl Table {
    fn against(&self) -> &'static str {
        if self.graph { "best peer" } else { "best eager peer" }
    }

    /// The table as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        let probe: Vec<f64> = self.rows.iter().flat_map(|row| row.probe.iter().copied()).collect();
        let rate = median(&probe).map_or_else(|| "?".to_owned(), |rate| format!("{rate:.0}"));
        let threads =
            if self.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", self.threads) };
        let _ = writeln!(text, "Medians in ms on {threads}; FMA probe in the same run: {rate} GFLOP/s.\n");
        let names: Vec<&str> =
            self.rows.first().map_or(Vec::new(), |r| r.contenders.iter().map(|c| c.name).collect());
        let _ = writeln!(
            text,
            "| workload | {} | ratio to the {} | step MiB, ours / PyTorch |",
            names.join(" | "),
            self.against()
        );
        let _ = writeln!(text, "|---|{}", "---|".repeat(names.len() + 2));
        for row in &self.rows {
            let _ = write!(text, "| {} |", row.workload);
            for c in &row.contenders {
                let _ = match c.median() {
                    Some(ms) => write!(text, " {} |", figure(ms)),
                    None => write!(text, " – |"),
                };
            }
            let _ = match (row.ratio(self.graph), row.best(self.graph)) {
                (Some(ratio), Some((name, _))) => write!(text, " {ratio:.2} ({name}) |"),
                _ => write!(text, " – |"),
            };
            let memory = |name| row.working_mb(name).map_or_else(|| "–".to_owned(), |mb| format!("{mb:.1}"));
            let _ = writeln!(text, " {} / {} |", memory("ours"), memory("PyTorch"));
        }
        text
    }

    /// The last line: the geometric mean of the ratios, or what is missing.
    pub(crate) fn verdict(&self) -> Result<String, String> {
        if let Some(missing) = self.rows.iter().find_map(Row::missing) {
            return Err(missing);
        }
        if self.rows.len() != self.expected {
            return Err(format!("{} of {} rows", self.rows.len(), self.expected));
        }
        let contenders = self.rows.iter().map(|row| row.contenders.len()).min().unwrap_or(0);
        let all = ALL + usize::from(self.graph);
        if contenders < all {
            return Err(format!("{contenders} of {all} contenders"));
        }
        let mut logs = 0.0;
        let mut worst = ("", 0.0);
        for row in &self.rows {
            let ratio = row.ratio(self.graph).ok_or_else(|| format!("a ratio on {}", row.workload))?;
            logs += ratio.ln();
            if ratio > worst.1 {
                worst = (row.workload, ratio);
            }
        }
        let mean = (logs / self.rows.len() as f64).exp();
        let on = if self.threads == 2 { String::new() } else { format!(" on {} thread(s)", self.threads) };
        Ok(format!(
            "geomean ratio to the {} over {} rows{on}: {mean:.2} (worst: {} {:.2})",
            self.against(),
            self.rows.len(),
            worst.0,
            worst.1
        ))
    }
}

/// How many contenders a complete run has; graphs run as machine code and as tiles.
const ALL: usize = 6;

/// The middle one; `None` of none.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// Three digits that matter.
fn figure(ms: f64) -> String {
    match ms {
        _ if ms >= 100.0 => format!("{ms:.0}"),
        _ if ms >= 10.0 => format!("{ms:.1}"),
        _ if ms >= 0.1 => format!("{ms:.2}"),
        _ => format!("{ms:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(name: &'static str, ours: bool, eager: bool, times: &[f64]) -> Measured {
        Measured {
            name,
            eager,
            ours,
            times: times.to_vec(),
            step_mb: None,
            first_s: None,
            cannot: None,
            error: None,
        }
    }

    fn table(compiled: &[f64]) -> Table {
        let contenders = vec![
            measured("ours", true, true, &[3.0, 1.0, 2.0]),
            measured("PyTorch", false, true, &[4.0]),
            measured("PyTorch compile", false, false, compiled),
            measured("JAX", false, false, &[9.0]),
            measured("candle", false, true, &[8.0]),
            measured("burn", false, true, &[16.0]),
        ];
        let rows = vec![Row { workload: "mlp", probe: vec![100.0], contenders }];
        Table { rows, threads: 2, graph: false, expected: 1 }
    }

    #[test]
    fn the_ratio_is_of_medians_to_the_best_peer_of_the_mode() {
        let mut table = table(&[1.0]);
        let line = table.verdict().unwrap();
        assert_eq!(line, "geomean ratio to the best eager peer over 1 rows: 0.50 (worst: mlp 0.50)");
        table.graph = true;
        assert!(table.verdict().unwrap_err().contains("6 of 7"), "graphs run as tiles too");
        table.rows[0].contenders.insert(1, measured("ours, tiles", true, true, &[2.5]));
        assert!(table.verdict().unwrap().contains("2.00"), "compiled peers count in graph mode");
    }

    #[test]
    fn a_missing_peer_row_or_contender_is_incomplete() {
        assert!(table(&[]).verdict().unwrap_err().contains("PyTorch compile on mlp"));
        let mut short = table(&[1.0]);
        short.expected = 27;
        assert_eq!(short.verdict().unwrap_err(), "1 of 27 rows");
        let mut few = table(&[1.0]);
        few.rows[0].contenders.pop();
        assert_eq!(few.verdict().unwrap_err(), "5 of 6 contenders");
    }
}
