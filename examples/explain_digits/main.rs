//! Ten digits, and what a net's answers to them rest on, by eight methods.
//!
//! ```text
//! cargo run --release --example explain_digits
//! ```
//!
//! Loads the net that the example `digits` saved, or trains one, and writes a page with embedded
//! pictures: a column for each method, with what it certifies and how fast the answer vanishes when
//! the pixels that it finds most important are taken away. `methods.rs` asks, `page.rs` writes.

#[path = "../digits/data.rs"]
mod data;
mod methods;
#[path = "../digits/net.rs"]
mod net;
mod page;
#[path = "../digits/training.rs"]
#[cfg_attr(feature = "graph", expect(dead_code, reason = "graphs are for the example `digits`"))]
mod training;

use candle_autograd::nn::Parameters;
use candle_core::{DType, Device, Var};
use candle_nn::VarMap;
use data::Digits;
use lexopt::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use training::{Training, accuracy};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const HELP: &str = "\
Explains ten digits by eight methods, on one page

Usage: cargo run --release --example explain_digits -- [OPTIONS]

Options:
  --net FILE       parameters as the example digits saves them  [default: out/digits.safetensors]
  --epochs N       epochs of training where there is no such file  [default: 3]
  --complete T     how nearly integrated gradients must add up  [default: 1e-6]
  --out FILE       the page  [default: out/explained.html]
  -h, --help       this text";

/// Images in a training step.
const BATCH: usize = 32;

/// How a shell names the end by Ctrl-C.
const ENDED_BY_CTRL_C: u8 = 130;

fn main() -> ExitCode {
    let stop = Arc::new(AtomicBool::new(false));
    match run(&stop) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("explain_digits: {error}");
            if stop.load(Ordering::Relaxed) { ExitCode::from(ENDED_BY_CTRL_C) } else { ExitCode::FAILURE }
        }
    }
}

fn run(stop: &Arc<AtomicBool>) -> Result<()> {
    let (mut file, mut out) = (PathBuf::from("out/digits.safetensors"), PathBuf::from("out/explained.html"));
    let (mut epochs, mut complete) = (3, 1e-6);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Short('h') | Long("help") => {
                println!("{HELP}");
                return Ok(());
            }
            Long("net") => file = arguments.value()?.into(),
            Long("out") => out = arguments.value()?.into(),
            Long("epochs") => epochs = arguments.value()?.parse()?,
            Long("complete") => complete = arguments.value()?.parse()?,
            other => return Err(format!("{}; --help lists the options", other.unexpected()).into()),
        }
    }
    let set = stop.clone();
    // The first Ctrl-C cancels the method at work, the second ends the program at once.
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::Relaxed) {
            std::process::exit(ENDED_BY_CTRL_C.into());
        }
    })?;
    let test = Digits::test()?;
    let variables = if file.exists() { load(&file)? } else { train(&file, epochs, stop)? };
    println!(
        "net      {} ({:.2} % right)",
        file.display(),
        100.0 * accuracy(&Parameters::from_varmap(&variables), &test)?
    );
    // Certificates are about the method, not about rounding: everything is computed in f64.
    let variables = in_f64(&variables)?;
    let net = net::Net::new(&Parameters::from_varmap(&variables).plain()?)?;
    let explained = methods::explain(&net, &test, complete, stop)?;
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let sheet = out.with_extension("png");
    page::sheet(&explained)?.save(&sheet)?;
    std::fs::write(&out, page::html(&explained)?)?;
    println!("page     {}", out.display());
    println!("pictures {}", sheet.display());
    Ok(())
}

/// The variables of a file.
fn load(file: &Path) -> Result<VarMap> {
    let map = VarMap::new();
    for (name, tensor) in candle_core::safetensors::load(file, &Device::Cpu)? {
        insert(&map, &name, &tensor)?;
    }
    Ok(map)
}

/// New variables, trained and saved.
fn train(file: &Path, epochs: usize, stop: &AtomicBool) -> Result<VarMap> {
    println!("there is no {}: training for {epochs} epochs", file.display());
    let mut rng = StdRng::seed_from_u64(0);
    let variables = net::variables(&mut rng)?;
    let digits = Digits::train()?;
    let parameters = Parameters::from_varmap(&variables);
    let mut training = Training::new(&digits, digits.len(), parameters, BATCH, epochs, rng)?;
    for epoch in 1..=epochs {
        let (mut correct, mut images, mut loss) = (0, 0, 0.0);
        training.epoch(|step| {
            correct += step.correct;
            images += step.images;
            loss += step.loss * step.images as f64;
            !stop.load(Ordering::Relaxed)
        })?;
        if stop.load(Ordering::Relaxed) {
            return Err("cancelled before the net was trained".into());
        }
        let (share, loss) = (100.0 * correct as f64 / images as f64, loss / images as f64);
        println!("epoch {epoch}: loss {loss:.4}, {share:.2} % of the training images right");
    }
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    variables.save(file)?;
    Ok(variables)
}

fn in_f64(variables: &VarMap) -> Result<VarMap> {
    let map = VarMap::new();
    let data = variables.data().lock().unwrap_or_else(PoisonError::into_inner);
    for (name, variable) in data.iter() {
        insert(&map, name, &variable.as_tensor().to_dtype(DType::F64)?)?;
    }
    Ok(map)
}

fn insert(map: &VarMap, name: &str, value: &candle_core::Tensor) -> Result<()> {
    let mut data = map.data().lock().unwrap_or_else(PoisonError::into_inner);
    data.insert(name.to_owned(), Var::from_tensor(value)?);
    Ok(())
}
