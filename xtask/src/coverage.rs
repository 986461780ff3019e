//! `cargo xtask coverage`: the table of what every op supports, from executed checks.

use crate::Command;
use crate::project::{Failure, Project};

/// The command.
pub(crate) const COMMAND: Command = Command {
    name: "coverage",
    does: "write docs/coverage.md from the checks that the harness executes",
    help: "\
Runs every check on every op and writes what was executed to docs/coverage.md; the last line counts
ops and how many have each mode.

Usage: cargo xtask coverage [--check]

Options:
      --check  fail where the table is stale, and write nothing
",
    run,
};

const LINE: &str =
    "test -p candle-autograd --features full,linalg,fft --test it the_coverage_table_is_fresh -- --nocapture";

fn run(project: &Project, mut arguments: lexopt::Parser) -> Result<(), Failure> {
    let mut write = true;
    while let Some(argument) = arguments.next()? {
        match argument {
            lexopt::Arg::Long("check") => write = false,
            other => return Err(other.unexpected().into()),
        }
    }
    if !write {
        return check(project);
    }
    project
        .cargo(LINE)
        .env("WRITE_COVERAGE", "1")
        .pass_or("a check of an op fails; `cargo test --features full --test it registry` says which")?;
    print_last_line(project)
}

/// Whether the table says what the harness finds.
pub(crate) fn check(project: &Project) -> Result<(), Failure> {
    project.cargo(LINE).pass_or("docs/coverage.md is stale: `cargo xtask coverage` writes it")?;
    print_last_line(project)
}

fn print_last_line(project: &Project) -> Result<(), Failure> {
    let path = project.root.join("docs/coverage.md");
    let text = std::fs::read_to_string(&path).map_err(|e| Failure::file(&path, &e))?;
    println!("{}", text.trim_end().lines().last().unwrap_or_default());
    Ok(())
}
