//! The `digits` example in small: its loader reads what is shipped and refuses what is broken, and
//! its net learns.

// The example's own files; what only the whole program calls is unused here.
#[path = "../../examples/digits/data.rs"]
#[allow(dead_code)]
mod data;
#[path = "../../examples/digits/net.rs"]
mod net;
#[path = "../../examples/digits/training.rs"]
#[allow(dead_code)]
mod training;

use candle_autograd::nn::Parameters;
use data::Digits;
use flate2::{Compression, write::GzEncoder};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::io::Write;
use std::path::{Path, PathBuf};
use training::Training;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[test]
fn the_shipped_digits_are_whole() -> Result<()> {
    let (train, test) = (Digits::train()?, Digits::test()?);
    assert_eq!((train.len(), test.len()), (8000, 2000));
    assert_eq!((train.label(0), test.label(0)), (3, 3));
    let batch = test.batch(&[0, 1])?;
    assert_eq!(batch.images.dims(), [2, 1, 28, 28]);
    assert_eq!(batch.labels.to_vec1::<u32>()?, [3, 8]);
    let ink = batch.images.to_flat::<f32>()?;
    assert!(ink.iter().all(|pixel| (0.0..=1.0).contains(pixel)));
    Ok(())
}

/// Half of the training is enough to be far better than a guess.
#[test]
fn an_epoch_on_few_images_lowers_the_loss() -> Result<()> {
    let digits = Digits::train()?;
    let mut rng = StdRng::seed_from_u64(0);
    let parameters = Parameters::from_varmap(&net::variables(&mut rng)?);
    let mut training = Training::new(&digits, 200, parameters, 20, 2, rng)?;
    let mut losses = Vec::new();
    for _ in 0..2 {
        training.epoch(|step| {
            losses.push(step.loss);
            true
        })?;
    }
    assert_eq!(losses.len(), 20);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (before, after) = (mean(&losses[..3]), mean(&losses[17..]));
    assert!(after < 0.7 * before, "{before} to {after}");
    Ok(())
}

#[test]
fn an_epoch_ends_where_it_is_told_to() -> Result<()> {
    let digits = Digits::test()?;
    let mut rng = StdRng::seed_from_u64(0);
    let parameters = Parameters::from_varmap(&net::variables(&mut rng)?);
    let mut steps = 0;
    Training::new(&digits, 40, parameters, 8, 1, rng)?.epoch(|_| {
        steps += 1;
        steps < 2
    })?;
    assert_eq!(steps, 2);
    Ok(())
}

#[test]
fn broken_files_are_named() -> Result<()> {
    let images = [&[0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 28, 0, 0, 0, 28][..], &[0; 784]].concat();
    let label = [0, 0, 8, 1, 0, 0, 0, 1, 7];
    let says = |images: &[u8], labels: &[u8], name: &str| -> Result<String> {
        let (images, labels) =
            (packed(&format!("{name}-images"), images)?, packed(&format!("{name}-labels"), labels)?);
        Ok(Digits::read(&images, &labels).err().map_or_else(String::new, |error| error.to_string()))
    };
    assert_eq!(says(&images, &label, "whole")?, "");
    for (name, images, labels, expected) in [
        ("empty", &[][..], &label[..], "shorter than an IDX header"),
        ("header", &images[..9], &label, "ends within its header"),
        ("magic", &[1, 2, 3, 4, 5], &label, "not an IDX file of bytes"),
        ("cut", &images[..700], &label, "announces [1, 28, 28] bytes but holds 684"),
        ("count", &images, &[0, 0, 8, 1, 0, 0, 0, 2, 7, 7], "do not go with"),
        ("ten", &images, &[0, 0, 8, 1, 0, 0, 0, 1, 10], "10 is no digit"),
    ] {
        let says = says(images, labels, name)?;
        assert!(says.contains(expected) && says.contains(name), "{name}: {says}");
    }
    let missing = Digits::read(Path::new("no/such.gz"), Path::new("no/such.gz"));
    assert!(missing.is_err_and(|error| error.to_string().starts_with("no/such.gz: ")));
    Ok(())
}

/// A compressed file in the tests' own folder.
fn packed(name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("digits-{name}.gz"));
    let mut encoder = GzEncoder::new(std::fs::File::create(&path)?, Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()?;
    Ok(path)
}
