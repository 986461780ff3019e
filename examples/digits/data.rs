//! The handwritten digits that ship with the repository, and batches of them.
//!
//! `data/README.md` says where they are from. The files are in the IDX format: two zeros, the
//! type (8 for bytes), the number of dimensions, each extent as a big-endian u32, the bytes.

use super::Result;
use candle_autograd::TrackedTensor;
use flate2::read::GzDecoder;
use rand::Rng;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Rows and columns of an image.
pub(crate) const SIDE: usize = 28;
const PIXELS: usize = SIDE * SIDE;

/// How far an image is moved at most to make a new one, in pixels.
const FARTHEST: i32 = 1;

/// Images with their labels.
pub(crate) struct Digits {
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

/// Images as N×1×28×28 numbers from 0 (paper) to 1 (ink), and their N labels.
pub(crate) struct Batch {
    pub(crate) images: TrackedTensor,
    pub(crate) labels: TrackedTensor,
}

impl Digits {
    /// The 8,000 images to learn from.
    pub(crate) fn train() -> Result<Self> {
        Self::shipped("mnist-8k-train")
    }

    /// The 2,000 images to be judged by.
    pub(crate) fn test() -> Result<Self> {
        Self::shipped("mnist-2k-test")
    }

    fn shipped(name: &str) -> Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
        Self::read(
            &folder.join(format!("{name}-images.idx3.gz")),
            &folder.join(format!("{name}-labels.idx1.gz")),
        )
    }

    /// Reads a file of images and the file of their labels.
    pub(crate) fn read(images: &Path, labels: &Path) -> Result<Self> {
        let (image_dims, pixels) = read_idx(images)?;
        let (label_dims, labels_read) = read_idx(labels)?;
        if image_dims != [labels_read.len(), SIDE, SIDE] || label_dims.len() != 1 {
            let files = format!("{} and {}", images.display(), labels.display());
            return Err(format!("{files}: {image_dims:?} images do not go with {label_dims:?} labels").into());
        }
        if let Some(label) = labels_read.iter().find(|&&label| label > 9) {
            return Err(format!("{}: {label} is no digit", labels.display()).into());
        }
        Ok(Self { pixels, labels: labels_read })
    }

    /// How many images there are.
    pub(crate) fn len(&self) -> usize {
        self.labels.len()
    }

    /// The label of an image.
    pub(crate) fn label(&self, index: usize) -> u8 {
        self.labels[index]
    }

    /// The chosen images as they are.
    pub(crate) fn batch(&self, chosen: &[usize]) -> Result<Batch> {
        self.batch_with(chosen, |image, ink| ink.extend(image.iter().map(|&pixel| brightness(pixel))))
    }

    /// The chosen images, each moved at random by up to one pixel: a net that saw a digit in
    /// several places looks at its form.
    pub(crate) fn moved_batch(&self, chosen: &[usize], rng: &mut impl Rng) -> Result<Batch> {
        self.batch_with(chosen, |image, ink| {
            let mut distance = || rng.random_range(-FARTHEST..=FARTHEST) as isize;
            let (down, right) = (distance(), distance());
            let inside = |place: Option<usize>| place.filter(|&place| place < SIDE);
            for row in 0..SIDE {
                for column in 0..SIDE {
                    let row = inside(row.checked_add_signed(-down));
                    let column = inside(column.checked_add_signed(-right));
                    let from = row.zip(column).map(|(row, column)| image[row * SIDE + column]);
                    ink.push(from.map_or(0.0, brightness));
                }
            }
        })
    }

    fn batch_with(&self, chosen: &[usize], mut add: impl FnMut(&[u8], &mut Vec<f32>)) -> Result<Batch> {
        let mut ink = Vec::with_capacity(chosen.len() * PIXELS);
        for &index in chosen {
            add(&self.pixels[index * PIXELS..][..PIXELS], &mut ink);
        }
        let labels = chosen.iter().map(|&index| u32::from(self.labels[index])).collect();
        Ok(Batch {
            images: TrackedTensor::from_vec(ink, &[chosen.len(), 1, SIDE, SIDE])?,
            labels: TrackedTensor::from_vec::<u32>(labels, &[chosen.len()])?,
        })
    }
}

fn brightness(pixel: u8) -> f32 {
    f32::from(pixel) / 255.0
}

/// The extents and the bytes of a compressed IDX file.
fn read_idx(path: &Path) -> Result<(Vec<usize>, Vec<u8>)> {
    let about = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| about(&error))?;
    GzDecoder::new(file).read_to_end(&mut bytes).map_err(|error| about(&error))?;
    Ok(parse_idx(bytes).map_err(|error| about(&error))?)
}

fn parse_idx(mut bytes: Vec<u8>) -> std::result::Result<(Vec<usize>, Vec<u8>), String> {
    let &[0, 0, 8, rank] = bytes.first_chunk().ok_or("shorter than an IDX header")? else {
        return Err("not an IDX file of bytes".to_owned());
    };
    let start = 4 + 4 * usize::from(rank);
    let header = bytes.get(4..start).ok_or("ends within its header")?;
    let (extents, _) = header.as_chunks::<4>();
    let dims: Vec<usize> = extents.iter().map(|&extent| u32::from_be_bytes(extent) as usize).collect();
    bytes.drain(..start);
    if dims.iter().product::<usize>() != bytes.len() {
        return Err(format!("announces {dims:?} bytes but holds {}", bytes.len()));
    }
    Ok((dims, bytes))
}
