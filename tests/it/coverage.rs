//! The coverage table, from executed checks: `docs/coverage.md`.
//!
//! `cargo xtask coverage` writes it, `cargo xtask coverage --check` and this test hold it.

use crate::modes::Workspace;
use crate::registry::all;
use autograd_ops::registry::Op;
use autograd_ops::testing::{Check, Report, check_case};
use std::fmt::Write;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/coverage.md");

/// What a column shows for an op.
fn cell(report: &Report, checks: &[Check]) -> &'static str {
    if report.is_flat() {
        "flat"
    } else if checks.iter().all(|check| report.is_covered(*check)) {
        "yes"
    } else if checks.iter().any(|check| report.gaps.iter().any(|gap| gap.check == *check)) {
        "no"
    } else {
        "–"
    }
}

fn plain(report: &Report, check: Check) -> &'static str {
    match (report.is_covered(check), report.executed(check)) {
        (true, _) => "yes",
        (false, 0) if report.gaps.iter().all(|gap| gap.check != check) => "–",
        (false, _) => "no",
    }
}

fn kernels(report: &Report) -> String {
    match report.kernels {
        Some(0) => "view".to_owned(),
        Some(1) => "yes".to_owned(),
        Some(n) => format!("{n} kernels"),
        None => "–".to_owned(),
    }
}

const COLUMNS: [&str; 9] =
    ["jvp", "vjp", "second order", "batch", "fused CPU kernel", "f64", "f32", "bf16", "f16"];

fn row(report: &Report) -> [String; 9] {
    [
        cell(report, &[Check::Forward, Check::Adjoint]).to_owned(),
        cell(report, &[Check::Reverse]).to_owned(),
        cell(report, &[Check::SecondOrder]).to_owned(),
        plain(report, Check::Batch).to_owned(),
        kernels(report),
        plain(report, Check::Values).to_owned(),
        plain(report, Check::F32).to_owned(),
        plain(report, Check::BF16).to_owned(),
        plain(report, Check::F16).to_owned(),
    ]
}

fn table(reports: &[(Op, Report)]) -> String {
    let mut text = String::from(
        "# Coverage\n\nWritten by `cargo xtask coverage` from the checks that the harness executed on every case of every op:\n\
         \"yes\" was checked and holds, \"flat\" is a derivative that is zero almost everywhere and was checked to be, \"–\" has\n\
         nothing to check (no float comes in or goes out), \"no\" is a typed error of the op, named below the table. A fused\n\
         CPU kernel is one pass; \"view\" moves nothing.\n\n| op |",
    );
    for column in COLUMNS {
        let _ = write!(text, " {column} |");
    }
    text += "\n|---|";
    text += &"---|".repeat(COLUMNS.len());
    text.push('\n');
    let mut counts = [0; 9];
    for (op, report) in reports {
        let row = row(report);
        let _ = writeln!(text, "| {} | {} |", op.name, row.join(" | "));
        for (count, cell) in counts.iter_mut().zip(&row) {
            *count += usize::from(matches!(cell.as_str(), "yes" | "flat" | "view"));
        }
    }
    text += "\n## Exceptions\n\n";
    for (op, report) in reports {
        for check in Check::ALL {
            let mut gaps = report.gaps.iter().filter(|gap| gap.check == check);
            if let Some(gap) = gaps.next() {
                // The line of the source would make the table stale with every edit.
                let reason =
                    gap.reason.rsplit_once(" (at ").map_or(gap.reason.as_str(), |(reason, _)| reason);
                let _ = writeln!(text, "- {}, {check}: {reason}", op.name);
            }
        }
    }
    let counted: Vec<String> =
        COLUMNS.iter().zip(counts).map(|(column, count)| format!("{column} {count}")).collect();
    let _ = writeln!(text, "\n{} ops: {}.", reports.len(), counted.join(", "));
    text
}

#[test]
fn the_coverage_table_is_fresh() {
    let mut reports = Vec::new();
    for op in all() {
        let mut report = Report::default();
        for case in (op.cases)() {
            match check_case(&op, &case, &Workspace) {
                Ok(found) => report.add(found),
                Err(failure) => panic!("{failure}"),
            }
        }
        reports.push((op, report));
    }
    let text = table(&reports);
    if std::env::var_os("WRITE_COVERAGE").is_some() {
        std::fs::write(PATH, &text).expect("the table can be written");
    }
    let known = std::fs::read_to_string(PATH).unwrap_or_default();
    println!("{}", text.trim_end().lines().last().unwrap_or_default());
    assert!(known == text, "docs/coverage.md is stale: `cargo xtask coverage` writes it");
}
