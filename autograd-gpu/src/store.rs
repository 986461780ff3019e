//! Compiled kernels on disk, so that a process need not compile what another has.
//!
//! A file is named by the hash of what it was compiled from: the source's text, the architecture
//! and the compiler's version. It begins with a line that holds the hash of its content; a file that
//! was cut off or changed is none. It appears under its name when it is whole, so that processes can
//! share a folder. Beyond its bound the store drops what was used the longest ago.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

/// The variable that names the folder of compiled kernels; set to nothing, none are kept.
pub const FOLDER: &str = "AUTOGRAD_PTX_CACHE";

/// Bytes that the default store may hold: thousands of kernels.
const MOST_BYTES: u64 = 64 << 20;

/// The first word of a file, which changes with its format.
const MAGIC: &str = "autograd-ptx-1";

/// A folder of compiled kernels.
#[derive(Clone, Debug)]
pub struct PtxStore {
    folder: PathBuf,
    most_bytes: u64,
}

/// What a kernel was compiled from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(u128);

impl Key {
    /// The key of a text, an architecture and a compiler.
    pub fn new(text: &str, architecture: &str, compiler: &str) -> Self {
        let mut hash = Fnv::default();
        for part in [text, architecture, compiler] {
            hash.add(part.as_bytes());
            // Parts are kept apart by a byte that no text has.
            hash.add(&[0xff]);
        }
        Self(hash.0)
    }

    /// The key as a name.
    pub fn name(self) -> String {
        format!("{:032x}", self.0)
    }
}

/// The 128-bit hash of Fowler, Noll and Vo (FNV-1a): the same for every build and machine.
struct Fnv(u128);

impl Default for Fnv {
    fn default() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }

    fn of(text: &str) -> u128 {
        let mut hash = Self::default();
        hash.add(text.as_bytes());
        hash.0
    }
}

impl PtxStore {
    /// A store in a folder, which is made at the first [`put`](Self::put).
    pub fn new(folder: impl Into<PathBuf>, most_bytes: u64) -> Self {
        Self { folder: folder.into(), most_bytes }
    }

    /// The store of this user: in the folder that [`FOLDER`] names, else in the user's cache folder.
    /// `None` where there is neither.
    pub fn of_user() -> Option<Self> {
        let given = |name| std::env::var_os(name).map(PathBuf::from);
        let folder = match given(FOLDER) {
            Some(folder) if folder.as_os_str().is_empty() => return None,
            Some(folder) => folder,
            None => given("XDG_CACHE_HOME")
                .filter(|folder| folder.is_absolute())
                .or_else(|| given("HOME").map(|home| home.join(".cache")))?
                .join("candle-autograd/ptx"),
        };
        Some(Self::new(folder, MOST_BYTES))
    }

    fn path(&self, key: Key) -> PathBuf {
        self.folder.join(key.name()).with_extension("ptx")
    }

    /// What was compiled from `key`, where it is there and whole.
    pub fn get(&self, key: Key) -> Option<String> {
        let path = self.path(key);
        let text = fs::read_to_string(&path).ok()?;
        let (head, ptx) = text.split_once('\n')?;
        if head != header(ptx) {
            // Nobody else will want it either.
            let _ = fs::remove_file(&path);
            return None;
        }
        // Its age counts from its last use; a folder that cannot be written is used all the same.
        let _ = File::options().append(true).open(&path).and_then(|f| f.set_modified(SystemTime::now()));
        Some(ptx.to_owned())
    }

    /// Keeps what was compiled from `key`.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn put(&self, key: Key, ptx: &str) -> io::Result<()> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        fs::create_dir_all(&self.folder)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let scratch = self.folder.join(format!(".{}-{number}.tmp", std::process::id()));
        let written = fs::write(&scratch, format!("{}\n{ptx}", header(ptx)))
            .and_then(|()| fs::rename(&scratch, self.path(key)));
        if written.is_err() {
            let _ = fs::remove_file(&scratch);
        }
        written?;
        self.shrink()
    }

    /// Drops the oldest files until the rest fit.
    fn shrink(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.folder)?.flatten() {
            let path = entry.path();
            // A file may go while we look: another process shrinks too.
            if let (true, Ok(meta)) = (is_ours(&path), entry.metadata()) {
                files.push((meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), meta.len(), path));
            }
        }
        files.sort();
        let mut bytes: u64 = files.iter().map(|file| file.1).sum();
        for (_, size, path) in files {
            if bytes <= self.most_bytes {
                break;
            }
            let _ = fs::remove_file(path);
            bytes -= size;
        }
        Ok(())
    }
}

fn is_ours(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "ptx")
}

fn header(ptx: &str) -> String {
    format!("{MAGIC} {:032x} {}", Fnv::of(ptx), ptx.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("autograd-ptx-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn what_is_put_is_found_again_and_nothing_else() -> io::Result<()> {
        let folder = scratch("found");
        let store = PtxStore::new(&folder, 1 << 20);
        let key = Key::new("text", "sm_90", "13.0");
        assert_eq!(store.get(key), None);
        store.put(key, "ptx\nof a kernel")?;
        assert_eq!(store.get(key).as_deref(), Some("ptx\nof a kernel"));
        for other in [Key::new("text", "sm_80", "13.0"), Key::new("texts", "m_90", "13.0")] {
            assert_eq!(store.get(other), None);
        }
        fs::remove_dir_all(folder)
    }

    #[test]
    fn a_file_that_was_cut_off_or_changed_is_none() -> io::Result<()> {
        let folder = scratch("broken");
        let store = PtxStore::new(&folder, 1 << 20);
        let key = Key::new("text", "sm_90", "13.0");
        for change in [|s: &str| s[..s.len() - 1].to_owned(), |s: &str| s.replace("kernel", "kernal")] {
            store.put(key, "a kernel")?;
            let path = store.path(key);
            fs::write(&path, change(&fs::read_to_string(&path)?))?;
            assert_eq!(store.get(key), None);
            assert!(!path.exists());
        }
        fs::remove_dir_all(folder)
    }

    #[test]
    fn beyond_the_bound_the_oldest_goes() -> io::Result<()> {
        let folder = scratch("bounded");
        let content = "x".repeat(100);
        let one = header(&content).len() as u64 + 101;
        let store = PtxStore::new(&folder, 2 * one);
        let keys: Vec<Key> = ["a", "b", "c"].iter().map(|text| Key::new(text, "", "")).collect();
        for (age, key) in [(300, keys[0]), (200, keys[1])] {
            store.put(key, &content)?;
            let then = SystemTime::now() - std::time::Duration::from_secs(age);
            File::options().append(true).open(store.path(key))?.set_modified(then)?;
        }
        // Used again, the first is no longer the oldest.
        assert!(store.get(keys[0]).is_some());
        store.put(keys[2], &content)?;
        let there: Vec<bool> = keys.iter().map(|key| store.get(*key).is_some()).collect();
        assert_eq!(there, [true, false, true]);
        assert_eq!(fs::read_dir(&folder)?.count(), 2, "nothing is left beside them");
        fs::remove_dir_all(folder)
    }
}
