//! `cargo xtask sanitize`: the tests of tapes and threads under valgrind.

use crate::Command;
use crate::project::{Failure, Project};

/// The command.
pub(crate) const COMMAND: Command = Command {
    name: "sanitize",
    does: "run the tests of tapes and threads under valgrind's memcheck",
    help: "\
Runs autograd-tape's tests of tapes on many threads under valgrind's memcheck: reads and writes
outside of an allocation or after its end, decisions on numbers that nobody wrote, and memory that
nothing points to any more. Needs valgrind (`apt-get install valgrind`) and some minutes.

Locks here are futexes, which valgrind's helgrind does not know: it takes what they order for
races. Orders are checked by loom instead (`cargo xtask loom`, and the models among
autograd-tape's tests).

Usage: cargo xtask sanitize",
    run,
};

/// The exit status by which valgrind tells its own findings from a test's failure.
const FOUND: &str = "9";

fn run(project: &Project, mut arguments: lexopt::Parser) -> Result<(), Failure> {
    if let Some(extra) = arguments.next()? {
        return Err(extra.unexpected().into());
    }
    let runner = format!(
        "valgrind --quiet --error-exitcode={FOUND} --leak-check=full --errors-for-leak-kinds=definite \
         --show-leak-kinds=definite --fair-sched=yes"
    );
    // The workspace's own features: nothing is built twice for this.
    project
        .cargo("test --workspace --features full --test threads")
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", &runner)
        .pass_or("valgrind found an error, or is not installed")
}
