//! Step `compile-fail`: what the types forbid stays forbidden, for the reason that we state.
//!
//! The files of `tests/compile_fail` become binaries of one scratch package under the target
//! folder, each beside a control that must compile, so that no case can fail for want of an
//! import. One `cargo check` answers for all of them.

mod case;

use super::profiles;
use crate::project::{Failure, Project};
use case::Case;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

const CASES: &str = "tests/compile_fail";

pub(super) fn check(project: &Project) -> Result<(), Failure> {
    let cases = read_cases(project)?;
    let scratch = project.target()?.join("compile-fail");
    write_scratch(project, &cases, &scratch)?;
    let messages = compile(project, &scratch)?;
    let objections: Vec<String> = cases.iter().flat_map(|case| case.judge(&messages)).collect();
    for objection in &objections {
        println!("{CASES}/{objection}");
    }
    match objections.len() {
        0 => {
            println!("    cases, each with its control: {}", cases.len());
            Ok(())
        }
        n => Err(Failure::new(format!("{CASES} is not as its files say in {n} places, listed above"))),
    }
}

fn read_cases(project: &Project) -> Result<Vec<Case>, Failure> {
    let folder = project.root.join(CASES);
    let entries = std::fs::read_dir(&folder).map_err(|e| Failure::file(&folder, &e))?;
    let mut cases = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let text = std::fs::read_to_string(&path).map_err(|e| Failure::file(&path, &e))?;
            cases.push(Case::read(&name, &text).map_err(Failure::new)?);
        }
    }
    if cases.is_empty() {
        return Err(Failure::new(format!("{CASES} holds no case")));
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

/// Writes the package: its manifest, the lock file of the workspace, and the controls. The cases
/// themselves stay where they are, so that messages name the file that one edits.
fn write_scratch(project: &Project, cases: &[Case], scratch: &Path) -> Result<(), Failure> {
    let write =
        |path: &Path, text: &str| std::fs::write(path, text).map_err(|error| Failure::file(path, &error));
    std::fs::create_dir_all(scratch).map_err(|e| Failure::file(scratch, &e))?;
    for case in cases {
        let path = scratch.join(format!("{}.rs", case.control_name()));
        write(&path, &case.control)?;
    }
    let metadata = project.metadata("--no-deps")?;
    let text = manifest(&project.root, &metadata, cases);
    write(&scratch.join("Cargo.toml"), &text)?;
    let lock = scratch.join("Cargo.lock");
    std::fs::copy(project.root.join("Cargo.lock"), &lock).map_err(|e| Failure::file(&lock, &e))?;
    Ok(())
}

/// The scratch package depends on the facade, and on candle as the facade does.
fn manifest(root: &Path, metadata: &Value, cases: &[Case]) -> String {
    let mut text = format!(
        "[package]\nname = \"compile-fail\"\nedition = \"2024\"\nautobins = false\n\n[workspace]\n\n\
         [dependencies]\ncandle-autograd = {{ path = {root:?}, features = [\"full\"] }}\n"
    );
    let mut add = |line: std::fmt::Arguments<'_>| {
        text.write_fmt(line).expect("writing to a string never fails");
    };
    for dependency in candle_dependencies(metadata) {
        let name = dependency["name"].as_str().unwrap_or_default();
        match (dependency["path"].as_str(), dependency["req"].as_str()) {
            (Some(path), _) => add(format_args!("{name} = {{ path = {path:?} }}\n")),
            (None, version) => add(format_args!("{name} = {:?}\n", version.unwrap_or("*"))),
        }
    }
    for case in cases {
        let file = root.join(CASES).join(format!("{}.rs", case.name));
        let (name, control) = (&case.name, case.control_name());
        add(format_args!("\n[[bin]]\nname = {name:?}\npath = {file:?}\n"));
        add(format_args!("\n[[bin]]\nname = {control:?}\npath = \"{control}.rs\"\n"));
    }
    text
}

fn candle_dependencies(metadata: &Value) -> impl Iterator<Item = &Value> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let facade = packages.filter(|package| package["name"] == "candle-autograd");
    let dependencies = facade.filter_map(|package| package["dependencies"].as_array()).flatten();
    dependencies.filter(|dependency| {
        let candle = ["candle-core", "candle-nn"].iter().any(|name| dependency["name"] == *name);
        candle && dependency["kind"].is_null()
    })
}

/// Cargo's messages about every binary. That some fail is the point; that the facade does not
/// compile, or that cargo cannot begin, is not.
fn compile(project: &Project, scratch: &Path) -> Result<Vec<Value>, Failure> {
    let target = project.target()?;
    let profiles = profiles::write(project)?;
    let run = project
        .cargo("check --offline --bins --keep-going --message-format=json")
        .args(&["--config"])
        .path(&profiles)
        .args(&["--manifest-path"])
        .path(&scratch.join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", &target.to_string_lossy())
        .unheard();
    let repeat = run.shown().to_owned();
    let printed = run.output_either_way()?.1;
    let lines = printed.lines().map(serde_json::from_str);
    let messages: Vec<Value> = lines.filter_map(Result::ok).collect();
    let began = messages.iter().any(|message| message["reason"] == "build-finished");
    let broken: Vec<_> = messages.iter().filter(|m| is_of_a_library(m)).collect();
    if began && broken.is_empty() {
        Ok(messages)
    } else {
        for error in broken {
            println!("{}", error["message"]["rendered"].as_str().unwrap_or("?"));
        }
        let says = "the facade that the cases use does not compile";
        Err(Failure::new(says).repeated_by(repeat))
    }
}

/// Whether a message is an error in something that the binaries depend on.
fn is_of_a_library(message: &Value) -> bool {
    let kinds = message["target"]["kind"].as_array();
    message["message"]["level"] == "error" && kinds.is_some_and(|k| !k.contains(&"bin".into()))
}
