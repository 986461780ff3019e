//! `cargo xtask sanitize`: the tests of tapes, threads and kernels under tools that see what went
//! wrong where no test fails.

use crate::Command;
use crate::project::{Failure, Project, Run};

/// The command.
pub(crate) const COMMAND: Command = Command {
    name: "sanitize",
    does: "run the tests of threads under valgrind, and those of kernels under AddressSanitizer",
    help: "\
Runs three tools, each first on a mistake that was planted for it (autograd-kernels/examples/
planted.rs): one that is silent there is worth nothing.

memcheck   autograd-tape's tests of tapes on many threads: reads and writes outside of an allocation
           or after its end, decisions on numbers that nobody wrote, and memory that nothing points
           to any more
helgrind   those of these tests whose threads share parameters and ops, and no lock: races.
           xtask/helgrind.supp names what it takes for races within std, with the reasons
address    the tests of autograd-kernels, where the unsafe code is, under AddressSanitizer and
           LeakSanitizer, machine code and thread pool included

Locks here are futexes, which helgrind does not know: it takes what they order for races, so tests
whose threads share one tape are not for it. ThreadSanitizer has the same trouble with a std that was
not built for it. These orders are checked by loom instead (`cargo xtask loom`, and the models among
autograd-tape's tests).

Needs valgrind (`apt-get install valgrind`) and some minutes. AddressSanitizer is a flag of nightly
compilers, which RUSTC_BOOTSTRAP=1 unlocks; its build has a folder of its own.

Usage: cargo xtask sanitize",
    run,
};

/// The exit status by which a tool tells its own findings from a test's failure.
const FOUND: i32 = 9;

/// How cargo is told to run programs in valgrind.
const RUNNER: &str = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER";

fn run(project: &Project, mut arguments: lexopt::Parser) -> Result<(), Failure> {
    if let Some(extra) = arguments.next()? {
        return Err(extra.unexpected().into());
    }
    memcheck(project)?;
    helgrind(project)?;
    address(project)
}

/// A cargo command line under the tool `how`.
type Under<'a> = &'a dyn Fn(&str) -> Run;

fn memcheck(project: &Project) -> Result<(), Failure> {
    let runner = format!(
        "valgrind --quiet --error-exitcode={FOUND} --leak-check=full --errors-for-leak-kinds=definite \
         --show-leak-kinds=definite --fair-sched=yes"
    );
    let under: Under<'_> = &|line| project.cargo(line).env(RUNNER, &runner);
    finds("memcheck", "overrun", under)?;
    // The workspace's own features: nothing is built twice for this.
    under("test --workspace --features full --test threads")
        .pass_or("memcheck found an error, or valgrind is not installed")
}

fn helgrind(project: &Project) -> Result<(), Failure> {
    let list = project.root.join("xtask/helgrind.supp");
    let runner = format!(
        "valgrind --tool=helgrind --quiet --error-exitcode={FOUND} --fair-sched=yes --suppressions={}",
        list.display()
    );
    let under: Under<'_> = &|line| project.cargo(line).env(RUNNER, &runner);
    finds("helgrind", "race", under)?;
    // One test at a time, and each begins alone: what is made once for the process, behind a lock, is
    // there before its threads start.
    under("test --workspace --features full --test threads -- --test-threads=1 eight_tapes tapes_inside")
        .pass_or("helgrind found a race")
}

fn address(project: &Project) -> Result<(), Failure> {
    let folder = project.target()?.join("address");
    let options = format!("exitcode={FOUND}");
    // A target that is named keeps the flags away from build scripts.
    let under: Under<'_> = &|line| {
        let line = line.replacen(' ', " --target x86_64-unknown-linux-gnu ", 1);
        project
            .cargo(&line)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", "-Zsanitizer=address")
            .env("ASAN_OPTIONS", &options)
            .env("CARGO_TARGET_DIR", &folder.to_string_lossy())
    };
    finds("AddressSanitizer", "overrun", under)?;
    under("test -p autograd-kernels --features parallel,jit --lib --tests")
        .pass_or("AddressSanitizer found an error in the kernels")
}

/// Checks that a tool reports the planted mistake.
fn finds(tool: &str, mistake: &str, under: Under<'_>) -> Result<(), Failure> {
    let planted =
        under(&format!("run -p autograd-kernels --features parallel,jit --example planted -- {mistake}"));
    let (shown, code) = (planted.shown().to_owned(), planted.unheard().code()?);
    if code == Some(FOUND) {
        println!("{tool} reports the planted {mistake}");
        return Ok(());
    }
    let sentence = match code {
        Some(0) => format!("{tool} does not see the planted {mistake}"),
        _ => format!("{tool} could not be run on the planted {mistake}"),
    };
    Err(Failure::new(sentence).repeated_by(shown))
}
