//! `cargo xtask ci`: the whole gate, one step after another.
//!
//! A step is a row of [`STEPS`]. What is quick or likely to fail comes first; the tests come last,
//! so that the output ends with the test runner's own summary.

mod compile_fail;
mod duplicates;
mod features;
mod licences;
mod outside;
mod profiles;
mod spdx;

use crate::project::{Failure, Project};
use std::time::{Duration, Instant};

pub(crate) const COMMAND: crate::Command = crate::Command {
    name: "ci",
    does: "run the whole gate: format, lints, layers, features, docs, tests",
    help: "\
Run the whole gate, stopping at the first step that fails

Usage: cargo xtask ci [OPTIONS]

Options:
      --only STEP[,STEP]  run these steps alone
      --keep-going        run the remaining steps after a failure
      --list              print the steps and what each holds true
",
    run: |project, arguments| gate(project, &Options::read(arguments)?),
};

/// One step of the gate: `sentence` is what holds when it passes.
struct Step {
    name: &'static str,
    sentence: &'static str,
    run: fn(&Project) -> Result<(), Failure>,
}

const STEPS: [Step; 12] = [
    Step { name: "tidy", sentence: "the habits that no compiler checks are kept", run: crate::tidy::check },
    Step { name: "fmt", sentence: "every file is formatted", run: fmt },
    Step {
        name: "licences",
        sentence: "every dependency has a licence that the list allows",
        run: licences::check,
    },
    Step {
        name: "duplicates",
        sentence: "no user builds two versions of a crate without a listed reason",
        run: duplicates::check,
    },
    Step { name: "clippy", sentence: "clippy has no remark on any target", run: clippy },
    Step {
        name: "candle-bert",
        sentence: "the example that builds candle-transformers compiles, without a remark",
        run: candle_bert,
    },
    Step {
        name: "features",
        sentence: "the facade compiles with each feature, and each crate alone",
        run: features::check,
    },
    Step { name: "doc", sentence: "the documentation builds and its links lead somewhere", run: doc },
    Step {
        name: "compile-fail",
        sentence: "what must not compile does not, for the stated reason",
        run: compile_fail::check,
    },
    Step {
        name: "outside",
        sentence: "crates outside the workspace build from single layers",
        run: outside::check,
    },
    Step { name: "test", sentence: "all tests and doc tests pass", run: test },
    Step {
        name: "gpu",
        sentence: "every CUDA kernel compiles and computes what the CPU does",
        run: crate::gpu_check::step,
    },
];

/// The folders of the packages under `tests/outside`, sorted.
fn outside_manifests(project: &Project) -> Result<Vec<std::path::PathBuf>, Failure> {
    let folder = project.root.join("tests/outside");
    let entries = std::fs::read_dir(&folder).map_err(|e| Failure::file(&folder, &e))?;
    let mut manifests: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path().join("Cargo.toml"))
        .filter(|manifest| manifest.is_file())
        .collect();
    manifests.sort();
    Ok(manifests)
}

fn fmt(project: &Project) -> Result<(), Failure> {
    const SENTENCE: &str = "a file is not formatted as rustfmt would (`cargo fmt --all` does it)";
    // Names alone: a whole diff would drown the sentence.
    const NAMES: [&str; 2] = ["--", "-l"];
    let all = project.cargo("fmt --all --check").args(&NAMES);
    all.pass_or(SENTENCE)?;
    for manifest in outside_manifests(project)? {
        let options = ["--check", "--manifest-path"];
        project.cargo("fmt").args(&options).path(&manifest).args(&NAMES).pass_or(SENTENCE)?;
    }
    Ok(())
}

fn clippy(project: &Project) -> Result<(), Failure> {
    project
        .cargo("clippy --workspace --exclude candle_bert --all-targets --features full -- -D warnings")
        .pass_or("the compiler or clippy has a remark")
}

/// A step of its own: candle-transformers is checked, and never built in full.
fn candle_bert(project: &Project) -> Result<(), Failure> {
    project
        .cargo("clippy -p candle_bert --all-targets -- -D warnings")
        .pass_or("the compiler or clippy has a remark on the example")
}

fn doc(project: &Project) -> Result<(), Failure> {
    project
        .cargo("doc --workspace --exclude candle_bert --no-deps --features full")
        .env("RUSTDOCFLAGS", "-D warnings")
        .pass_or("rustdoc has a remark")
}

/// Doc tests run too: cargo adds them where no target is named.
fn test(project: &Project) -> Result<(), Failure> {
    project
        .cargo("test --workspace --exclude candle_bert --features full --no-fail-fast")
        .pass_or("a test or doc test fails, or does not compile")
}

/// What the command line asks for.
#[derive(Debug, Default, PartialEq)]
struct Options {
    only: Vec<String>,
    list: bool,
    keep_going: bool,
}

impl Options {
    fn read(mut arguments: lexopt::Parser) -> Result<Self, Failure> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next()? {
            match argument {
                lexopt::Arg::Long("only") => {
                    let names = arguments.value()?.to_string_lossy().into_owned();
                    options.only.extend(names.split(',').map(str::to_owned));
                }
                lexopt::Arg::Long("list") => options.list = true,
                lexopt::Arg::Long("keep-going") => options.keep_going = true,
                other => return Err(other.unexpected().into()),
            }
        }
        for name in &options.only {
            if !STEPS.iter().any(|step| step.name == name) {
                let known = STEPS.map(|step| step.name).join(", ");
                let says = format!("`{name}` is not a step; the steps are {known}");
                return Err(Failure::new(says));
            }
        }
        Ok(options)
    }

    fn wants(&self, step: &Step) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == step.name)
    }
}

fn gate(project: &Project, options: &Options) -> Result<(), Failure> {
    if options.list {
        for step in &STEPS {
            println!("{:<13} {}", step.name, step.sentence);
        }
        return Ok(());
    }
    let start = Instant::now();
    let mut failures = Vec::new();
    let mut passed = 0;
    for step in STEPS.iter().filter(|step| options.wants(step)) {
        let Err(failure) = run(step, project) else {
            passed += 1;
            continue;
        };
        failures.push(failure);
        if !options.keep_going {
            break;
        }
    }
    let time = shown(start.elapsed());
    if let Some(failure) = failures.pop() {
        // With several failures, the last sentence is the one that the command ends with.
        for earlier in failures {
            println!("{earlier}");
        }
        return Err(failure);
    }
    let steps = if passed == 1 { "step" } else { "steps" };
    println!("==> passed: {passed} {steps} in {time}");
    Ok(())
}

/// Runs one step between its headline and its time; a failure begins with the step's name.
fn run(step: &Step, project: &Project) -> Result<(), Failure> {
    println!("==> {}: {}", step.name, step.sentence);
    let start = Instant::now();
    let outcome = (step.run)(project);
    let time = shown(start.elapsed());
    match outcome {
        Ok(()) => {
            println!("    {} passed in {time}", step.name);
            Ok(())
        }
        Err(mut failure) => {
            println!("    {} failed after {time}", step.name);
            failure.sentence = format!("{} failed: {}", step.name, failure.sentence);
            Err(failure.repeated_by(format!("cargo xtask ci --only {}", step.name)))
        }
    }
}

fn shown(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.1} s", time.as_secs_f64()),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Options, Failure> {
        Options::read(lexopt::Parser::from_args(arguments))
    }

    #[test]
    fn options_choose_the_steps() {
        let options = read(&["--only", "fmt,tidy"]).expect("both steps exist");
        let chosen: Vec<_> = STEPS.iter().filter(|s| options.wants(s)).collect();
        assert_eq!(chosen.len(), 2);
        let all = read(&[]).expect("no option is fine");
        assert!(STEPS.iter().all(|step| all.wants(step)));
    }

    #[test]
    fn an_unknown_step_is_an_error_that_lists_the_steps() {
        let failure = read(&["--only", "fnt"]).expect_err("there is no such step");
        assert!(failure.to_string().contains("compile-fail"), "{failure}");
    }

    #[test]
    fn a_failing_step_names_itself_and_what_repeats_it() {
        let project = Project { root: "x".into() };
        let step = Step { name: "fmt", sentence: "it holds", run: |_| Err(Failure::new("it does not hold")) };
        let failure = run(&step, &project).expect_err("the step fails");
        assert_eq!(
            failure.to_string(),
            "fmt failed: it does not hold; repeat with `cargo xtask ci --only fmt`"
        );
    }
}
