//! `cargo xtask overhead`: what an op costs beside its arithmetic, against candle.

use crate::Command;
use crate::project::{Failure, Project};

/// The command.
pub(crate) const COMMAND: Command = Command {
    name: "overhead",
    does: "time recording, the backward pass and values without a tape against candle",
    help: "\
Times ops on tiny tensors in release mode: recording and backward against candle's own `Var`,
values without a tape against bare candle, and recording as a share of an op at 64 Ki elements.
All contenders take turns in one run; the figures are medians.

Usage: cargo xtask overhead",
    run,
};

fn run(project: &Project, mut arguments: lexopt::Parser) -> Result<(), Failure> {
    if let Some(extra) = arguments.next()? {
        return Err(extra.unexpected().into());
    }
    project.cargo("bench --quiet --bench overhead").pass_or("the bench `overhead` did not run to its end")
}
