//! `cargo xtask peers`: the workloads of `benches/peers/WORKLOADS.md`, ours and the peers' in turns.
//!
//! Each contender of a workload is a process of its own that prepares it and then waits; the
//! contenders are asked in rounds, so that a busy moment of the machine falls on all of them.
//! `contender.rs` knows how each is built and started, `table.rs` what the figures say.

mod contender;
mod table;

use crate::Command;
use crate::project::{Failure, Project};
use contender::{Contender, Worker};
use lexopt::ValueExt as _;
use table::{Measured, Row, Table};

/// The command.
pub(crate) const COMMAND: Command = Command {
    name: "peers",
    does: "time the workloads against PyTorch, JAX, candle and burn",
    help: "\
Times every workload of benches/peers/WORKLOADS.md: ours, PyTorch (eager and compiled), JAX, candle
and burn take turns in one run; the figures are medians, and a probe of the machine's FMA rate
stands beside them. The Python peers are installed into target/peers/venv, burn is built into
target/peers/burn. Ends with status 1 where a peer or a row is missing.

Usage: cargo xtask peers [OPTIONS]

Options:
  --only A,B      these workloads only
  --mode MODE     eager (default): the ratio is to the best of PyTorch eager, candle and burn;
                  graph: ours captured and compiled, the ratio is to the best of all peers
  --threads A,B   numbers of threads, a table each (default 2,1)
  --rounds N      how often each contender is asked (default 5)
  --seconds S     how long it repeats each time (default 0.25)
  --peers A,B     these contenders only (then the run is incomplete)
  --python PATH   an interpreter that has the Python peers, instead of installing them
  --json          a line of JSON for each figure instead of the tables",
    run,
};

/// The rows of the table, of equal weight.
pub(crate) const WORKLOADS: [&str; 27] = [
    "matmul_1024",
    "ew_chain",
    "ew_chain_bcast",
    "small_ops",
    "mlp",
    "convnet",
    "resnet_block",
    "transformer_block",
    "gpt_step",
    "op_softmax",
    "op_log_softmax",
    "op_logsumexp",
    "op_layer_norm",
    "op_gelu",
    "op_mish",
    "op_group_norm",
    "op_batch_norm",
    "op_conv2d",
    "op_max_pool2d",
    "hvp_mlp",
    "hvp_mlp_revrev",
    "hessian_200",
    "jacrev_256",
    "jacfwd_256",
    "per_sample_grads",
    "stack12_plain",
    "stack12_ckpt",
];

/// What the user asked for.
struct Asked {
    workloads: Vec<&'static str>,
    graph: bool,
    threads: Vec<usize>,
    rounds: usize,
    seconds: f64,
    peers: Vec<String>,
    python: Option<String>,
    json: bool,
}

impl Asked {
    fn read(mut arguments: lexopt::Parser) -> Result<Self, Failure> {
        let mut asked = Self {
            workloads: WORKLOADS.to_vec(),
            graph: false,
            threads: vec![2, 1],
            rounds: 5,
            seconds: 0.25,
            peers: Vec::new(),
            python: None,
            json: false,
        };
        while let Some(argument) = arguments.next()? {
            match argument {
                lexopt::Arg::Long("only") => {
                    let names = list(&arguments.value()?.string()?);
                    if let Some(unknown) = names.iter().find(|n| !WORKLOADS.contains(&n.as_str())) {
                        let known = WORKLOADS.join(", ");
                        return Err(Failure::new(format!("`{unknown}` is not a workload; they are {known}")));
                    }
                    asked.workloads.retain(|w| names.iter().any(|n| n == w));
                }
                lexopt::Arg::Long("mode") => {
                    asked.graph = match arguments.value()?.string()?.as_str() {
                        "eager" => false,
                        "graph" => true,
                        other => {
                            return Err(Failure::new(format!("`{other}` is not a mode: eager or graph")));
                        }
                    }
                }
                lexopt::Arg::Long("threads") => {
                    let parsed = list(&arguments.value()?.string()?).iter().map(|n| n.parse()).collect();
                    asked.threads = match parsed {
                        Ok(threads) => threads,
                        Err(error) => return Err(Failure::new(format!("--threads: {error}"))),
                    };
                }
                lexopt::Arg::Long("rounds") => asked.rounds = arguments.value()?.parse::<usize>()?.max(1),
                lexopt::Arg::Long("seconds") => asked.seconds = arguments.value()?.parse()?,
                lexopt::Arg::Long("peers") => asked.peers = list(&arguments.value()?.string()?),
                lexopt::Arg::Long("python") => asked.python = Some(arguments.value()?.string()?),
                lexopt::Arg::Long("json") => asked.json = true,
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(asked)
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn run(project: &Project, arguments: lexopt::Parser) -> Result<(), Failure> {
    let asked = Asked::read(arguments)?;
    let contenders = contender::prepare(project, asked.graph, &asked.peers, asked.python.as_deref())?;
    let mut verdicts = Vec::new();
    for &threads in &asked.threads {
        let mut rows = Vec::new();
        for &workload in &asked.workloads {
            eprintln!("{workload}, {threads} threads");
            let row = measure(&contenders, workload, threads, &asked)?;
            if asked.json {
                row.print_json(threads);
            }
            rows.push(row);
        }
        let table = Table { rows, threads, graph: asked.graph, expected: WORKLOADS.len() };
        if !asked.json {
            println!("{}", table.markdown());
        }
        verdicts.push(table.verdict());
    }
    // The first table is the one on which the targets stand; its verdict is the last line.
    for line in verdicts.iter().skip(1).chain(verdicts.first()).flatten() {
        println!("{line}");
    }
    match verdicts.into_iter().find_map(Result::err) {
        None => Ok(()),
        Some(missing) => Err(Failure::new(format!("incomplete: {missing}"))),
    }
}

/// All contenders on one workload, in rounds.
fn measure(
    contenders: &[Contender],
    workload: &'static str,
    threads: usize,
    asked: &Asked,
) -> Result<Row, Failure> {
    let mut row = Row { workload, probe: Vec::new(), contenders: Vec::new() };
    let mut probe = contenders[0].start("probe", threads)?;
    let mut workers: Vec<(usize, Worker)> = Vec::new();
    for (at, contender) in contenders.iter().enumerate() {
        let mut measured = Measured::of(contender);
        if let Some(reason) = contender.cannot(workload) {
            measured.cannot = Some(reason.to_owned());
        } else {
            measured.step_mb = contender.memory(workload, threads)?;
            let mut worker = contender.start(workload, threads)?;
            match worker.ready() {
                Ok(ready) => {
                    measured.step_mb = measured.step_mb.or(ready.step_mb);
                    measured.first_s = ready.first_s;
                    workers.push((at, worker));
                }
                Err(reason) => measured.error = Some(reason),
            }
        }
        row.contenders.push(measured);
    }
    let _ = probe.ready();
    for round in 0..asked.rounds {
        row.probe.extend(probe.times(0.0).unwrap_or_default());
        // Whoever comes first in one round comes last in another.
        let count = workers.len().max(1);
        workers.rotate_left(round % count);
        for (at, worker) in &mut workers {
            match worker.times(asked.seconds) {
                Ok(times) => row.contenders[*at].times.extend(times),
                Err(reason) => row.contenders[*at].error = Some(reason),
            }
        }
    }
    Ok(row)
}
