//! The command line.

use super::Result;
use lexopt::prelude::*;

const HELP: &str = "\
Trains a transformer on this project's own texts within a memory budget that it would not fit

Usage: cargo run --release --example checkpoint_stack -- [OPTIONS]

Options:
  --budget-mb N  megabytes that a training step may use  [default: 100]
  --steps N      training steps                          [default: 30]
  --layers N     transformer blocks                      [default: 12]
  --width N      width of the blocks, a multiple of 32   [default: 256]
  --batch N      sequences in a step                     [default: 8]
  --tokens N     characters in a sequence                [default: 128]
  --disk DIR     let states wait in files of DIR, where that saves work
  -h, --help     this text

The budget is for activations, cotangents, scratch and gradients; parameters come on top.";

/// What the user asked for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) budget: usize,
    pub(crate) steps: usize,
    pub(crate) layers: usize,
    pub(crate) width: usize,
    pub(crate) batch: usize,
    pub(crate) tokens: usize,
    pub(crate) disk: Option<std::path::PathBuf>,
}

impl Options {
    /// The options of this process; `None` where it was asked for help, which is now printed.
    pub(crate) fn read() -> Result<Option<Self>> {
        let mut options = Self {
            budget: 100_000_000,
            steps: 30,
            layers: 12,
            width: 256,
            batch: 8,
            tokens: 128,
            disk: None,
        };
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Short('h') | Long("help") => {
                    println!("{HELP}");
                    return Ok(None);
                }
                Long("budget-mb") => {
                    let megabytes = positive(&mut arguments, "--budget-mb")?;
                    options.budget = megabytes.checked_mul(1_000_000).ok_or("--budget-mb: too many")?;
                }
                Long("steps") => options.steps = positive(&mut arguments, "--steps")?,
                Long("layers") => options.layers = positive(&mut arguments, "--layers")?,
                Long("width") => options.width = positive(&mut arguments, "--width")?,
                Long("batch") => options.batch = positive(&mut arguments, "--batch")?,
                Long("tokens") => options.tokens = positive(&mut arguments, "--tokens")?,
                Long("disk") => options.disk = Some(arguments.value()?.into()),
                other => return Err(format!("{}; --help lists the options", other.unexpected()).into()),
            }
        }
        if !options.width.is_multiple_of(32) {
            return Err(format!("--width {}: a multiple of 32 is needed", options.width).into());
        }
        Ok(Some(options))
    }
}

fn positive(arguments: &mut lexopt::Parser, option: &str) -> Result<usize> {
    let value = arguments.value()?;
    match value.parse() {
        Ok(0) => Err(format!("{option} 0: at least 1 is needed").into()),
        Ok(number) => Ok(number),
        Err(_) => Err(format!("{option} {}: not a whole number", value.to_string_lossy()).into()),
    }
}
