//! The chores of the workspace: `cargo xtask COMMAND`.
//!
//! One file holds one command; [`COMMANDS`] is the list of them, and `cargo xtask --help`
//! prints it. A new command is a new file with a `COMMAND` constant and a line in the table.

mod arrows;
mod ci;
mod coverage;
mod gpu_check;
mod loom;
mod overhead;
mod peers;
mod project;
mod sanitize;
mod soak;
mod tidy;

use project::{Failure, Project};
use std::process::ExitCode;

/// One chore: its name, a sentence for the overview, its own help, and what it does.
struct Command {
    name: &'static str,
    does: &'static str,
    help: &'static str,
    run: fn(&Project, lexopt::Parser) -> Result<(), Failure>,
}

const COMMANDS: [Command; 9] = [
    ci::COMMAND,
    tidy::COMMAND,
    coverage::COMMAND,
    loom::COMMAND,
    overhead::COMMAND,
    peers::COMMAND,
    sanitize::COMMAND,
    soak::COMMAND,
    gpu_check::COMMAND,
];

fn main() -> ExitCode {
    match dispatch(lexopt::Parser::from_env()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(mut arguments: lexopt::Parser) -> Result<(), Failure> {
    let name = match arguments.next()? {
        None => return print_overview(),
        Some(lexopt::Arg::Short('h') | lexopt::Arg::Long("help")) => return print_overview(),
        Some(lexopt::Arg::Value(name)) => name.to_string_lossy().into_owned(),
        Some(other) => return Err(other.unexpected().into()),
    };
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        let known = COMMANDS.map(|command| command.name).join(", ");
        return Err(Failure::new(format!("`{name}` is not a command; the commands are {known}")));
    };
    // Each command's help is answered here, so that no command can forget it.
    if std::env::args().skip(2).any(|a| a == "--help" || a == "-h") {
        println!("{}", command.help.trim_end());
        return Ok(());
    }
    (command.run)(&Project::find()?, arguments)
}

fn print_overview() -> Result<(), Failure> {
    println!("The chores of the workspace\n\nUsage: cargo xtask COMMAND [OPTIONS]\n\nCommands:");
    for command in &COMMANDS {
        println!("  {:<10} {}", command.name, command.does);
    }
    println!("\n`cargo xtask COMMAND --help` says more about one of them.");
    Ok(())
}
