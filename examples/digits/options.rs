//! The command line.

use super::Result;
use lexopt::prelude::*;
use std::path::PathBuf;

const HELP: &str = "\
Trains a convolutional net on handwritten digits and shows what it looks at

Usage: cargo run --release --example digits -- [OPTIONS]

Options:
  --epochs N   how often every training image is seen  [default: 6]
  --batch N    images in a training step               [default: 32]
  --limit N    training images to use, of 8000         [default: all]
  --seed N     start of every random choice            [default: 0]
  --out DIR    folder for the model and the pictures   [default: out]
  --graph      compile the training step (needs --features jit, or graph)
  -h, --help   this text

Ctrl-C ends the training early: the model and the pictures are written all the same.
A second Ctrl-C stops at once.";

/// What the user asked for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) epochs: usize,
    pub(crate) batch: usize,
    pub(crate) limit: Option<usize>,
    pub(crate) seed: u64,
    pub(crate) out: PathBuf,
    pub(crate) graph: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { epochs: 6, batch: 32, limit: None, seed: 0, out: PathBuf::from("out"), graph: false }
    }
}

impl Options {
    /// The options of this process; `None` where it was asked for help, which is now printed.
    pub(crate) fn read() -> Result<Option<Self>> {
        let mut options = Self::default();
        let mut arguments = lexopt::Parser::from_env();
        while let Some(argument) = arguments.next()? {
            match argument {
                Short('h') | Long("help") => {
                    println!("{HELP}");
                    return Ok(None);
                }
                Long("epochs") => options.epochs = positive(&mut arguments, "--epochs")?,
                Long("batch") => options.batch = positive(&mut arguments, "--batch")?,
                Long("limit") => options.limit = Some(positive(&mut arguments, "--limit")?),
                Long("seed") => options.seed = number(&mut arguments, "--seed")?,
                Long("out") => options.out = arguments.value()?.into(),
                Long("graph") => options.graph = true,
                other => return Err(format!("{}; --help lists the options", other.unexpected()).into()),
            }
        }
        Ok(Some(options))
    }
}

fn positive(arguments: &mut lexopt::Parser, option: &str) -> Result<usize> {
    match number(arguments, option)? {
        0 => Err(format!("{option} 0: at least 1 is needed").into()),
        number => Ok(number as usize),
    }
}

fn number(arguments: &mut lexopt::Parser, option: &str) -> Result<u64> {
    let value = arguments.value()?;
    Ok(value.parse().map_err(|_| format!("{option} {}: not a whole number", value.to_string_lossy()))?)
}
