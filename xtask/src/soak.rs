//! `cargo xtask soak`: the random tests at length, in release mode.
//!
//! A row of [`SOAKS`] is a test that reads from the environment how much it does; ordinary test
//! runs do a little of each.

use crate::Command;
use crate::project::{Failure, Project};

/// The command.
pub(crate) const COMMAND: Command = Command {
    name: "soak",
    does: "run the random tests at length",
    help: "\
Run the random tests at length, in release mode, one after another

Usage: cargo xtask soak [OPTIONS]

Options:
      --only NAME   run this one alone
      --count N     how many programs each runs, instead of its own number
      --list        print them and what each does
",
    run,
};

/// One long test.
struct Soak {
    name: &'static str,
    does: &'static str,
    /// The test binary, and the test in it.
    binary: &'static str,
    test: &'static str,
    /// The variable that says how much it does.
    variable: &'static str,
    count: u64,
}

const SOAKS: [Soak; 2] = [
    Soak {
        name: "in-place",
        does: "random programs with in-place ops against their functional twins",
        binary: "it",
        test: "in_place::random_programs_in_place_equal_their_functional_twins",
        variable: "CANDLE_AUTOGRAD_PROGRAMS",
        count: 10_000,
    },
    Soak {
        name: "graphs",
        does: "random graphs: eager mode, interpreter, optimised, tiles and machine code",
        binary: "random",
        test: "random_graphs_agree_with_eager_mode",
        variable: "GRAPHS",
        count: 10_000,
    },
];

fn run(project: &Project, mut arguments: lexopt::Parser) -> Result<(), Failure> {
    let (mut only, mut count) = (None, None);
    while let Some(argument) = arguments.next()? {
        match argument {
            lexopt::Arg::Long("only") => only = Some(arguments.value()?.to_string_lossy().into_owned()),
            lexopt::Arg::Long("count") => {
                let given = arguments.value()?.to_string_lossy().into_owned();
                let parsed = given.parse::<u64>();
                count = Some(parsed.map_err(|_| Failure::new(format!("`{given}` is not a number")))?);
            }
            lexopt::Arg::Long("list") => {
                SOAKS.iter().for_each(|soak| println!("{:<12} {}", soak.name, soak.does));
                return Ok(());
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let chosen: Vec<&Soak> = SOAKS.iter().filter(|s| only.as_ref().is_none_or(|o| o == s.name)).collect();
    if chosen.is_empty() {
        let known = SOAKS.each_ref().map(|soak| soak.name).join(", ");
        return Err(Failure::new(format!("there is no such soak; there are {known}")));
    }
    for soak in chosen {
        println!("==> {}: {}", soak.name, soak.does);
        project
            .cargo(&format!("test --release --workspace --features full --test {}", soak.binary))
            .args(&["--", "--exact", soak.test, "--nocapture"])
            .env(soak.variable, &count.unwrap_or(soak.count).to_string())
            .pass_or("a random program went wrong; the message names its seed")?;
    }
    Ok(())
}
