//! Files that hold values until the backward pass needs them.

use autograd_core::kernels::{Slice, bf16, f16};
use autograd_core::{DType, Error, Result, TrackedTensor};
use autograd_tape::{Store, Stowed};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A directory of files, one for each value, with a bound on their bytes.
///
/// The files lie in a directory of their own inside of the one given. Each goes when the value is
/// no longer needed, and the directory with the store and its last value. What is read back is
/// checked against a CRC-32 of what was written.
#[derive(Debug)]
pub struct DiskStore {
    folder: Arc<Folder>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    limit: usize,
    used: AtomicUsize,
    peak: AtomicUsize,
    files: AtomicU64,
}

static NEXT: AtomicU64 = AtomicU64::new(0);

impl DiskStore {
    /// A store of at most `limit` bytes inside of `directory`.
    ///
    /// # Errors
    /// [`Error::Offload`] where the directory does not exist or cannot be written.
    pub fn new(directory: impl AsRef<Path>, limit: usize) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("checkpoint-{}-{number}", std::process::id());
        let path = directory.as_ref().join(name);
        fs::create_dir(&path).map_err(|e| failed(directory.as_ref(), format!("cannot be written: {e}")))?;
        let (used, peak, files) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicU64::new(0));
        Ok(Self { folder: Arc::new(Folder { path, limit, used, peak, files }) })
    }

    /// Bytes that wait now.
    pub fn used_bytes(&self) -> usize {
        self.folder.used.load(Ordering::Relaxed)
    }

    /// The most bytes that ever waited.
    pub fn peak_bytes(&self) -> usize {
        self.folder.peak.load(Ordering::Relaxed)
    }

    /// The directory that holds the files.
    pub fn path(&self) -> &Path {
        &self.folder.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Only an empty directory goes: there is nobody to tell, and nothing of ours in another.
        let _ = fs::remove_dir(&self.path);
    }
}

impl Folder {
    fn reserve(&self, bytes: usize) -> Result<()> {
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.limit)
        });
        match taken {
            Ok(before) => {
                self.peak.fetch_max(before + bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(used) => {
                let reason = format!(
                    "{bytes} bytes more than the {used} there would go over the bound of {}",
                    self.limit
                );
                Err(failed(&self.path, reason))
            }
        }
    }
}

fn failed(place: &Path, reason: impl Into<String>) -> Error {
    Error::Offload { place: place.display().to_string(), reason: reason.into(), at: Default::default() }
}

impl Store for DiskStore {
    fn put(&self, value: &TrackedTensor) -> Result<Box<dyn Stowed>> {
        let folder = &self.folder;
        let bytes = value.meta().bytes();
        folder.reserve(bytes)?;
        let number = folder.files.fetch_add(1, Ordering::Relaxed);
        let path = folder.path.join(format!("{number}.bin"));
        // From here on dropping the entry removes what there is of the file.
        let mut entry = Entry {
            folder: folder.clone(),
            path,
            dtype: value.dtype(),
            dims: value.dims().to_vec(),
            bytes,
            checksum: 0,
        };
        let file = File::create_new(&entry.path).map_err(|e| failed(&entry.path, e.to_string()))?;
        entry.checksum = write(value, file, &entry.path)?;
        Ok(Box::new(entry))
    }
}

/// A value in a file.
#[derive(Debug)]
struct Entry {
    folder: Arc<Folder>,
    path: PathBuf,
    dtype: DType,
    dims: Vec<usize>,
    bytes: usize,
    checksum: u32,
}

impl Drop for Entry {
    fn drop(&mut self) {
        // A file that was never made, or is gone already, is what is wanted.
        let _ = fs::remove_file(&self.path);
        self.folder.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes that are converted at a time.
const CHUNK: usize = 1 << 16;

/// Writes a value's elements, little-endian, and gives their checksum.
fn write(value: &TrackedTensor, mut to: impl Write, path: &Path) -> Result<u32> {
    let mut sum = crc32fast::Hasher::new();
    let mut chunk = Vec::with_capacity(CHUNK);
    macro_rules! elements {
        ($data:expr, $ty:ty) => {{
            let data: &[$ty] = $data;
            data.chunks(CHUNK / size_of::<$ty>()).try_for_each(|part| {
                chunk.clear();
                part.iter().for_each(|v| chunk.extend_from_slice(&v.to_le_bytes()));
                sum.update(&chunk);
                to.write_all(&chunk)
            })
        }};
    }
    let plain = value.plain().ok_or_else(|| failed(path, "a transform watches the value"))?;
    let whole = plain.is_contiguous() && plain.layout().offset() == 0;
    let slice = plain.buffer().slice().filter(|slice| whole && slice.len() == value.elem_count());
    let written: io::Result<()> = match slice {
        Some(Slice::F64(data)) => elements!(data, f64),
        Some(Slice::F32(data)) => elements!(data, f32),
        Some(Slice::BF16(data)) => elements!(data, bf16),
        Some(Slice::F16(data)) => elements!(data, f16),
        Some(Slice::U8(data)) => elements!(data, u8),
        Some(Slice::U32(data)) => elements!(data, u32),
        Some(Slice::I64(data)) => elements!(data, i64),
        // A view, or a candle tensor: its elements in order.
        None => match value.dtype() {
            DType::F64 => elements!(&value.to_flat::<f64>()?, f64),
            DType::F32 => elements!(&value.to_flat::<f32>()?, f32),
            DType::BF16 => elements!(&value.to_flat::<bf16>()?, bf16),
            DType::F16 => elements!(&value.to_flat::<f16>()?, f16),
            other => return Err(Error::dtype("offload", other, "f64, f32, bf16 and f16 are")),
        },
    };
    written.and_then(|()| to.flush()).map_err(|e| failed(path, e.to_string()))?;
    Ok(sum.finalize())
}

impl Stowed for Entry {
    fn fetch(&self) -> Result<TrackedTensor> {
        let mut sum = crc32fast::Hasher::new();
        let mut file = File::open(&self.path).map_err(|e| failed(&self.path, e.to_string()))?;
        let mut chunk = vec![0; CHUNK];
        macro_rules! elements {
            ($ty:ty) => {{
                let mut data: Vec<$ty> = Vec::with_capacity(self.bytes / size_of::<$ty>());
                let mut left = self.bytes;
                while left > 0 {
                    let part = &mut chunk[..left.min(CHUNK)];
                    file.read_exact(part).map_err(|e| failed(&self.path, e.to_string()))?;
                    sum.update(part);
                    let (elements, _) = part.as_chunks::<{ size_of::<$ty>() }>();
                    data.extend(elements.iter().map(|bytes| <$ty>::from_le_bytes(*bytes)));
                    left -= part.len();
                }
                if sum.finalize() != self.checksum {
                    return Err(failed(&self.path, "the file is not what was written: its checksum differs"));
                }
                TrackedTensor::from_vec(data, &self.dims)
            }};
        }
        match self.dtype {
            DType::F64 => elements!(f64),
            DType::F32 => elements!(f32),
            DType::BF16 => elements!(bf16),
            DType::F16 => elements!(f16),
            other => Err(Error::dtype("offload", other, "f64, f32, bf16 and f16 are")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(count: usize) -> TrackedTensor {
        let data: Vec<f32> = (0..count).map(|i| (i as f32).sin()).collect();
        TrackedTensor::from_vec(data, &[count]).unwrap()
    }

    /// A disk that takes so many bytes and no more.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            let taken = data.len().min(self.0);
            self.0 -= taken;
            Ok(taken)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_disk_that_is_full_is_an_error_that_says_so() {
        let error = write(&value(50_000), Full(100_000), Path::new("/there")).unwrap_err();
        assert!(matches!(&error, Error::Offload { place, .. } if place == "/there"), "{error}");
        assert!(error.to_string().contains("no storage space"), "{error}");
    }

    #[test]
    fn values_come_back_equal_and_files_go() {
        let directory = std::env::temp_dir();
        let store = DiskStore::new(&directory, 1 << 20).unwrap();
        let path = store.path().to_path_buf();
        let entry = store.put(&value(50_000)).unwrap();
        assert_eq!(store.used_bytes(), 200_000);
        let (a, b) = (entry.fetch().unwrap(), value(50_000));
        assert_eq!(a.to_flat::<f32>().unwrap(), b.to_flat::<f32>().unwrap());
        drop(entry);
        assert_eq!((store.used_bytes(), store.peak_bytes()), (0, 200_000));
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        drop(store);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_was_changed_is_noticed() {
        let store = DiskStore::new(std::env::temp_dir(), 1 << 20).unwrap();
        let entry = store.put(&value(1000)).unwrap();
        let file = fs::read_dir(store.path()).unwrap().next().unwrap().unwrap().path();
        let mut bytes = fs::read(&file).unwrap();
        bytes[2000] ^= 1;
        fs::write(&file, &bytes).unwrap();
        let error = entry.fetch().unwrap_err().to_string();
        assert!(error.contains("checksum"), "{error}");
        fs::write(&file, &bytes[..100]).unwrap();
        assert!(matches!(entry.fetch().unwrap_err(), Error::Offload { .. }));
    }

    #[test]
    fn the_bound_holds_and_nothing_is_left() {
        let store = DiskStore::new(std::env::temp_dir(), 10_000).unwrap();
        let first = store.put(&value(2000)).unwrap();
        let error = store.put(&value(2000)).unwrap_err().to_string();
        assert!(error.contains("bound of 10000"), "{error}");
        assert_eq!(fs::read_dir(store.path()).unwrap().count(), 1);
        drop(first);
        assert!(store.put(&value(2000)).is_ok());
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_an_error() {
        let error = DiskStore::new("/proc/self/no/such/place", 1).unwrap_err();
        assert!(matches!(&error, Error::Offload { place, .. } if place.contains("no/such")), "{error}");
        // The directory goes between two values.
        let store = DiskStore::new(std::env::temp_dir(), 1 << 20).unwrap();
        fs::remove_dir(store.path()).unwrap();
        assert!(matches!(store.put(&value(10)).unwrap_err(), Error::Offload { .. }));
        assert_eq!(store.used_bytes(), 0);
    }
}
