//! `cargo xtask loom`: the thread pool under every interleaving of its threads.

use crate::Command;
use crate::project::{Failure, Project};

/// The command.
pub(crate) const COMMAND: Command = Command {
    name: "loom",
    does: "run the thread pool's models through every interleaving",
    help: "\
Runs the thread pool of autograd-kernels under loom, which replaces its atomics, locks and threads
and tries every interleaving with up to two preemptions. The build has a folder of its own, since
everything is compiled with `--cfg loom`.

Usage: cargo xtask loom",
    run,
};

fn run(project: &Project, mut arguments: lexopt::Parser) -> Result<(), Failure> {
    if let Some(extra) = arguments.next()? {
        return Err(extra.unexpected().into());
    }
    let folder = project.target()?.join("loom");
    project
        .cargo("test -p autograd-kernels --features parallel --lib models")
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", &folder.to_string_lossy())
        .pass_or("an interleaving breaks the thread pool")
}
