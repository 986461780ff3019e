//! The contenders: how each is built, started and asked.

use crate::project::{Failure, Project};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// One way to compute the workloads.
#[derive(Debug)]
pub(crate) struct Contender {
    /// As `--peers` names it and the table's head shows it.
    pub(crate) name: &'static str,
    /// Whether the ratio of eager mode is taken to it.
    pub(crate) eager: bool,
    /// Whether it is ours.
    pub(crate) ours: bool,
    program: PathBuf,
    arguments: Vec<String>,
    /// Whether the memory of a step is measured by a process of its own.
    memory_apart: bool,
}

/// What cannot be said to a contender, and why.
const CANNOT: [(&str, &[&str], &str); 4] = [
    ("candle", &["hvp_mlp", "jacfwd_256"], "no forward mode"),
    ("candle", &["stack12_ckpt"], "no checkpointing"),
    (
        "burn",
        &["hvp_mlp", "hvp_mlp_revrev", "hessian_200", "jacrev_256", "jacfwd_256", "per_sample_grads"],
        "no forward mode, no second order, no vmap",
    ),
    (
        "PyTorch compile",
        &["hvp_mlp_revrev", "small_ops"],
        "no double backward; 1000 ops do not compile in time",
    ),
];

/// Builds and installs what is needed.
pub(crate) fn prepare(
    project: &Project,
    graph: bool,
    only: &[String],
    python: Option<&str>,
) -> Result<Vec<Contender>, Failure> {
    let all = ["ours", "PyTorch", "PyTorch compile", "JAX", "candle", "burn"];
    if let Some(unknown) = only.iter().find(|name| !all.contains(&name.as_str())) {
        let known = all.join(", ");
        return Err(Failure::new(format!("`{unknown}` is not a contender; they are {known}")));
    }
    let wanted = |name: &str| {
        name == "ours" || name == "ours, tiles" || only.is_empty() || only.iter().any(|o| o == name)
    };
    let folder = project.root.join("benches/peers");
    let scratch = project.target()?.join("peers");
    let mut contenders = Vec::new();
    let own = bench(project, "peers", "full")?;
    let ours = |name, mode: &str| Contender {
        name,
        eager: true,
        ours: true,
        program: own.clone(),
        arguments: vec!["--mode".into(), mode.into()],
        memory_apart: true,
    };
    // The ratio is that of the first; graphs run as machine code, and as tiles beside.
    if graph {
        contenders.extend([ours("ours", "graph"), ours("ours, tiles", "tiles")]);
    } else {
        contenders.push(ours("ours", "eager"));
    }
    if wanted("PyTorch") || wanted("PyTorch compile") || wanted("JAX") {
        let python = match python {
            Some(path) => path.into(),
            None => environment(&scratch, &folder)?,
        };
        let peer = |name, eager, script: &str, mode: &str| Contender {
            name,
            eager,
            ours: false,
            program: python.clone(),
            arguments: vec![folder.join(script).display().to_string(), "--mode".into(), mode.into()],
            memory_apart: false,
        };
        contenders.push(peer("PyTorch", true, "torch_peer.py", "eager"));
        contenders.push(peer("PyTorch compile", false, "torch_peer.py", "compile"));
        contenders.push(peer("JAX", false, "jax_peer.py", "jit"));
    }
    let native = |name, program| Contender {
        name,
        eager: true,
        ours: false,
        program,
        arguments: Vec::new(),
        memory_apart: true,
    };
    if wanted("candle") {
        contenders.push(native("candle", bench(project, "peers_candle", "nn")?));
    }
    if wanted("burn") {
        let manifest = folder.join("burn/Cargo.toml");
        let target = scratch.join("burn");
        project
            .cargo("build --release --quiet")
            .args(&["--manifest-path", &manifest.display().to_string()])
            .args(&["--target-dir", &target.display().to_string()])
            .pass_or("burn's contender does not build")?;
        contenders.push(native("burn", target.join("release/burn-peer")));
    }
    contenders.retain(|c| wanted(c.name));
    Ok(contenders)
}

/// Builds a bench of the workspace and finds its program.
fn bench(project: &Project, name: &str, features: &str) -> Result<PathBuf, Failure> {
    let line = format!("bench --no-run --quiet --bench {name} --features {features} --message-format json");
    let printed = project.cargo(&line).output("the bench does not build")?;
    let messages = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let program = messages
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    program.ok_or_else(|| Failure::new(format!("cargo built no program for the bench `{name}`")))
}

/// The Python interpreter of a scratch environment that has the peers.
fn environment(scratch: &Path, folder: &Path) -> Result<PathBuf, Failure> {
    let home = scratch.join("venv");
    let python = home.join("bin/python");
    let stamp = home.join("installed.txt");
    let requirements = folder.join("requirements.txt");
    let wanted = std::fs::read_to_string(&requirements)
        .map_err(|error| Failure::new(format!("benches/peers/requirements.txt: {error}")))?;
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    eprintln!("installing the Python peers into {}", home.display());
    let run = |program: &Path, arguments: &[&str], sentence: &str| {
        let done = Command::new(program).args(arguments).stdout(Stdio::null()).status();
        if done.is_ok_and(|status| status.success()) { Ok(()) } else { Err(Failure::new(sentence)) }
    };
    let home = home.display().to_string();
    run(Path::new("python3"), &["-m", "venv", &home], "python3 cannot make a virtual environment")?;
    let list = requirements.display().to_string();
    run(&python, &["-m", "pip", "install", "-q", "-r", &list], "pip cannot install the Python peers")?;
    std::fs::write(&stamp, wanted)
        .map_err(|error| Failure::new(format!("the scratch environment cannot be marked: {error}")))?;
    Ok(python)
}

impl Contender {
    /// Why it cannot compute a workload.
    pub(crate) fn cannot(&self, workload: &str) -> Option<&'static str> {
        let known = CANNOT.iter().find(|(name, rows, _)| *name == self.name && rows.contains(&workload));
        known.map(|(_, _, reason)| *reason)
    }

    fn command(&self, workload: &str, threads: usize) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(["--workload", workload, "--threads", &threads.to_string()]);
        command.env("RAYON_NUM_THREADS", threads.to_string()).env("RUST_BACKTRACE", "0");
        // Second order in candle; read once for each thread at its first backward pass.
        if matches!(workload, "hvp_mlp_revrev" | "hessian_200") {
            command.env("CANDLE_GRAD_DO_NOT_DETACH", "1");
        }
        command.stderr(Stdio::null());
        command
    }

    /// MiB of one step, from a process of its own; `None` where the worker itself says it.
    pub(crate) fn memory(&self, workload: &str, threads: usize) -> Result<Option<Memory>, Failure> {
        if !self.memory_apart {
            return Ok(None);
        }
        let mut command = self.command(workload, threads);
        command.arg("--memory").env("MALLOC_MMAP_THRESHOLD_", "65536");
        let output = command.output().map_err(|error| self.cannot_start(&error))?;
        let line: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        Ok(Memory::of(&line))
    }

    /// Starts a worker.
    pub(crate) fn start(&self, workload: &str, threads: usize) -> Result<Worker, Failure> {
        let mut command = self.command(workload, threads);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| self.cannot_start(&error))?;
        let (Some(ask), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failure::new(format!("{} has no pipes", self.name)));
        };
        Ok(Worker { child, ask: Some(ask), answers: BufReader::new(answers) })
    }

    fn cannot_start(&self, error: &std::io::Error) -> Failure {
        Failure::new(format!("{} does not start ({}): {error}", self.name, self.program.display()))
    }
}

/// The memory of one step, in MiB, what is returned included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) step: f64,
    /// What is returned, where the contender says it.
    pub(crate) returned: Option<f64>,
}

impl Memory {
    fn of(line: &Value) -> Option<Self> {
        Some(Self { step: line["step_mb"].as_f64()?, returned: line["returned_mb"].as_f64() })
    }
}

/// What a worker says when it is ready.
pub(crate) struct Ready {
    pub(crate) step_mb: Option<Memory>,
    /// Seconds of the first repetition, with compilation.
    pub(crate) first_s: Option<f64>,
}

/// A contender that holds one workload ready.
pub(crate) struct Worker {
    child: Child,
    ask: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    fn answer(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => Err("it ended without an answer".to_owned()),
            Err(error) => Err(error.to_string()),
            Ok(_) => {
                let value: Value =
                    serde_json::from_str(&line).map_err(|_| format!("it said `{}`", line.trim()))?;
                match value["error"].as_str() {
                    Some(reason) => Err(reason.to_owned()),
                    None => Ok(value),
                }
            }
        }
    }

    /// Waits until the workload is prepared.
    pub(crate) fn ready(&mut self) -> Result<Ready, String> {
        let line = self.answer()?;
        Ok(Ready { step_mb: Memory::of(&line), first_s: line["first_s"].as_f64() })
    }

    /// Repeats for some seconds: the milliseconds of each repetition.
    pub(crate) fn times(&mut self, seconds: f64) -> Result<Vec<f64>, String> {
        let pipe = self.ask.as_mut().ok_or("it was told to end")?;
        writeln!(pipe, "{seconds}").and_then(|()| pipe.flush()).map_err(|error| error.to_string())?;
        let line = self.answer()?;
        let times = line.as_array().ok_or("it gave no times")?;
        Ok(times.iter().filter_map(Value::as_f64).collect())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A closed pipe tells it to end; one that does not listen any more is stopped.
        drop(self.ask.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
