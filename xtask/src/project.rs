//! Where the workspace lies, how to run cargo in it, and how a chore fails.

use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The workspace that the chores work on.
pub(crate) struct Project {
    /// The folder of the root `Cargo.toml`.
    pub(crate) root: PathBuf,
}

impl Project {
    /// Finds the workspace from the environment that `cargo run` sets.
    ///
    /// The folder baked in at compile time is only the fallback: two worktrees may share a target
    /// folder, and then the binary may stem from the other one.
    pub(crate) fn find() -> Result<Self, Failure> {
        let here =
            std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
        match Path::new(&here).parent() {
            Some(root) if root.join("Cargo.toml").is_file() => Ok(Self { root: root.into() }),
            _ => Err(Failure::new(format!("no workspace stands above `{here}`; run it as `cargo xtask`"))),
        }
    }

    /// A cargo command line, run in the root, with words split at spaces.
    pub(crate) fn cargo(&self, arguments: &str) -> Run {
        let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut command = Command::new(program);
        command.stderr(Stdio::inherit()).args(arguments.split_whitespace()).current_dir(&self.root);
        Run { command, shown: format!("cargo {arguments}") }
    }

    /// What `cargo metadata` says, from what is already on this machine.
    pub(crate) fn metadata(&self, options: &str) -> Result<Value, Failure> {
        let line = format!("metadata --offline --format-version 1 {options}");
        let printed = self.cargo(line.trim_end()).output(
            "cargo could not describe the workspace offline; `cargo fetch --locked` brings what is missing",
        )?;
        serde_json::from_str(&printed)
            .map_err(|error| Failure::new(format!("the answer of cargo metadata is not JSON ({error})")))
    }

    /// A path as seen from the root, for messages.
    pub(crate) fn relative<'p>(&self, path: &'p Path) -> std::path::Display<'p> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }

    /// The target folder that cargo uses for the workspace.
    pub(crate) fn target(&self) -> Result<PathBuf, Failure> {
        let metadata = self.metadata("--no-deps")?;
        match metadata["target_directory"].as_str() {
            Some(folder) => Ok(folder.into()),
            None => Err(Failure::new("cargo metadata names no target folder")),
        }
    }
}

/// A command about to run, with the words that repeat it by hand.
pub(crate) struct Run {
    command: Command,
    shown: String,
}

impl Run {
    /// Adds arguments.
    pub(crate) fn args(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        for argument in arguments {
            self.shown.push(' ');
            self.shown.push_str(argument);
        }
        self
    }

    /// Adds a path, shown relative to the root, where the command runs.
    pub(crate) fn path(mut self, path: &Path) -> Self {
        let root = self.command.get_current_dir().unwrap_or(Path::new(""));
        let relative = path.strip_prefix(root).unwrap_or(path).to_owned();
        self.command.arg(&relative);
        self.shown.push(' ');
        self.shown.push_str(&relative.to_string_lossy());
        self
    }

    /// Lets cargo report errors and warnings only.
    pub(crate) fn quietly(mut self) -> Self {
        self.command.env("CARGO_TERM_QUIET", "true");
        self
    }

    /// Sets a variable, also in the words that repeat the command.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self.shown = format!("{name}={value:?} {}", self.shown);
        self
    }

    /// Drops what the command writes to standard error.
    pub(crate) fn unheard(mut self) -> Self {
        self.command.stderr(Stdio::null());
        self
    }

    /// The words that repeat the command.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// Runs with the terminal's own output; a failure says `sentence`.
    pub(crate) fn pass_or(mut self, sentence: &str) -> Result<(), Failure> {
        match self.command.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(Failure::new(sentence).repeated_by(self.shown)),
            Err(error) => Err(self.cannot_start(&error)),
        }
    }

    /// Runs and returns what it wrote to standard output; a failure says `sentence`.
    pub(crate) fn output(self, sentence: &str) -> Result<String, Failure> {
        let repeat = self.shown.clone();
        let (passed, printed) = self.output_either_way()?;
        if passed { Ok(printed) } else { Err(Failure::new(sentence).repeated_by(repeat)) }
    }

    /// Runs and returns whether it succeeded, and its standard output.
    pub(crate) fn output_either_way(mut self) -> Result<(bool, String), Failure> {
        match self.command.output() {
            Ok(done) => Ok((done.status.success(), String::from_utf8_lossy(&done.stdout).into_owned())),
            Err(error) => Err(self.cannot_start(&error)),
        }
    }

    /// Runs and returns the exit status, if it came to one; what it prints is dropped.
    pub(crate) fn code(mut self) -> Result<Option<i32>, Failure> {
        match self.command.stdout(Stdio::null()).status() {
            Ok(status) => Ok(status.code()),
            Err(error) => Err(self.cannot_start(&error)),
        }
    }

    fn cannot_start(&self, error: &std::io::Error) -> Failure {
        let program = self.command.get_program().to_string_lossy().into_owned();
        Failure::new(format!("`{program}` could not be started ({error})")).repeated_by(self.shown.clone())
    }
}

/// Why a chore stopped: one sentence, and the command that repeats what failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) sentence: String,
    pub(crate) repeat: Option<String>,
}

impl Failure {
    pub(crate) fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), repeat: None }
    }

    /// A failure to read or write a file of the project.
    pub(crate) fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::new(format!("`{}`: {error}", path.display()))
    }

    pub(crate) fn repeated_by(mut self, command: impl Into<String>) -> Self {
        self.repeat.get_or_insert(command.into());
        self
    }
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Self {
        Self::new(format!("{error}; `cargo xtask --help` lists the commands"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.repeat {
            Some(repeat) => write!(f, "{}; repeat with `{repeat}`", self.sentence),
            None => f.write_str(&self.sentence),
        }
    }
}
