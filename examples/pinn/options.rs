//! The command line.

use super::Result;
use lexopt::prelude::*;

const HELP: &str = "\
Solves a Poisson problem with a small network, by the Laplacian of that network

Usage: cargo run --release --example pinn -- [OPTIONS]

Options:
  --steps N    training steps              [default: 2000]
  --points N   random points in each step  [default: 256]
  --width N    of the two hidden layers    [default: 32]
  --rate R     learning rate at the start  [default: 0.01]
  --seed N     start of every random choice [default: 0]
  -h, --help   this text";

/// What the user asked for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) steps: usize,
    pub(crate) points: usize,
    pub(crate) width: usize,
    pub(crate) rate: f64,
    pub(crate) seed: u64,
}

impl Options {
    /// The options of this process; `None` where it was asked for help, which is now printed.
    pub(crate) fn read() -> Result<Option<Self>> {
        let mut options = Self { steps: 2000, points: 256, width: 32, rate: 0.01, seed: 0 };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Short('h') | Long("help") => {
                    println!("{HELP}");
                    return Ok(None);
                }
                Long("steps") => options.steps = positive(&mut arguments, "--steps")?,
                Long("points") => options.points = positive(&mut arguments, "--points")?,
                Long("width") => options.width = positive(&mut arguments, "--width")?,
                Long("rate") => {
                    options.rate = arguments.value()?.parse()?;
                    if !(options.rate.is_finite() && options.rate > 0.0) {
                        return Err(format!("--rate {}: a positive number is needed", options.rate).into());
                    }
                }
                Long("seed") => options.seed = arguments.value()?.parse()?,
                other => return Err(format!("{}; --help lists the options", other.unexpected()).into()),
            }
        }
        Ok(Some(options))
    }
}

fn positive(arguments: &mut lexopt::Parser, option: &str) -> Result<usize> {
    match arguments.value()?.parse()? {
        0 => Err(format!("{option} 0: at least 1 is needed").into()),
        number => Ok(number),
    }
}
