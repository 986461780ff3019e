//! What a contender does: prepares one workload, says that it is ready, and times repetitions when
//! asked. All contenders speak this protocol, so that `cargo xtask peers` can let them take turns:
//!
//! - `PROGRAM --workload NAME --threads N` prints one line of JSON when it is ready, or
//!   `{"error": …}`; then for each line `SECONDS` on standard input it repeats for that long (once
//!   at least) and prints the times in milliseconds as a JSON array.
//! - with `--memory` it prints the memory of one step instead and ends. The allocator is told by
//!   `MALLOC_MMAP_THRESHOLD_` to give large blocks back at once, so that the resident set tells.

use std::fmt::Display;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

/// How often a workload runs before it is timed.
const WARM_UP: usize = 3;

/// The arguments of a contender.
pub(crate) struct Arguments {
    pub(crate) workload: String,
    pub(crate) threads: usize,
    pub(crate) mode: String,
    pub(crate) memory: bool,
}

impl Arguments {
    /// What the command line says; `None` where it was not `cargo xtask peers` that asked.
    pub(crate) fn read() -> Option<Self> {
        let words: Vec<String> = std::env::args().collect();
        let of = |name: &str| words.iter().position(|w| w == name).and_then(|at| words.get(at + 1));
        Some(Self {
            workload: of("--workload")?.clone(),
            threads: of("--threads")?.parse().ok()?,
            mode: of("--mode").map_or_else(|| "eager".to_owned(), Clone::clone),
            memory: words.iter().any(|w| w == "--memory"),
        })
    }
}

/// Says why the workload cannot run here.
pub(crate) fn refuse(error: impl Display) {
    let text = error.to_string().lines().next().unwrap_or_default().replace(['"', '\\'], "'");
    println!("{{\"error\": \"{text}\"}}");
}

/// Serves one workload until standard input ends. `run` holds its results until it returns.
pub(crate) fn serve<E: Display>(mut run: impl FnMut() -> Result<(), E>) {
    for _ in 0..WARM_UP {
        if let Err(error) = run() {
            return refuse(error);
        }
    }
    println!("{{\"ready\": true}}");
    for line in std::io::stdin().lock().lines() {
        let Some(seconds) = line.ok().and_then(|line| line.trim().parse().ok()) else { return };
        let limit = Duration::from_secs_f64(seconds);
        let (mut times, start) = (Vec::new(), Instant::now());
        while times.is_empty() || start.elapsed() < limit {
            let clock = Instant::now();
            if let Err(error) = run() {
                return refuse(error);
            }
            times.push(format!("{:.5}", clock.elapsed().as_secs_f64() * 1e3));
        }
        println!("[{}]", times.join(", "));
        let _ = std::io::stdout().flush();
    }
}

/// MiB of one step, gradients included, by the resident set: the peak during it beyond what was
/// resident before it, when `trim` had given back what it could.
pub(crate) fn resident_step<E: Display>(
    mut run: impl FnMut() -> Result<(), E>,
    trim: impl FnOnce(),
) -> Result<f64, E> {
    run()?;
    trim();
    // Writing 5 resets the peak (Linux, proc_pid_clear_refs(5)).
    let reset = std::fs::write("/proc/self/clear_refs", "5").is_ok();
    let before = status("VmRSS:");
    run()?;
    Ok(if reset { status("VmHWM:") - before } else { f64::NAN })
}

/// A figure of `/proc/self/status`, in MiB.
fn status(name: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib / 1024.0)
}
