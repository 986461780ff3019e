//! Every public method of candle's `Tensor` that gives a tensor is covered, flat, or excluded
//! with the reason: `tests/fixtures/candle_methods.tsv`.
//!
//! The list was made from candle-core's source. The test holds it against the version in
//! Cargo.lock, our methods, and the coverage table, which is made from executed checks; where the
//! source of that version is on this machine, against it too.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

const LIST: &str = include_str!("../fixtures/candle_methods.tsv");
const VERSION: &str = "0.11.1";
/// Where `Tensor` has methods.
const FILES: [&str; 7] =
    ["tensor.rs", "conv.rs", "tensor_cat.rs", "sort.rs", "indexer.rs", "custom_op.rs", "npy.rs"];

/// Our methods, from the lists that make them.
fn methods() -> BTreeSet<&'static str> {
    let mut names = BTreeSet::new();
    macro_rules! collect {
        (
            unary { $($(#[$u:meta])* $unary:ident = $upath:path;)* }
            binary { $($(#[$b:meta])* $binary:ident = $bpath:path;)* }
            other { $($(#[$o:meta])* $other:ident($($arg:ident: $ty:ty),*) -> $out:ty = $opath:path;)* }
        ) => {
            $(names.insert(stringify!($unary));)*
            $(names.insert(stringify!($binary));)*
            $(names.insert(stringify!($other));)*
        };
    }
    autograd_ops::for_each_family!(collect!);
    names
}

/// The rows of the coverage table: the vjp column of each op.
fn coverage() -> HashMap<&'static str, &'static str> {
    let table = include_str!("../../docs/coverage.md");
    let rows = table.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let op = cells.next()?;
        cells.next()?;
        Some((op, cells.next()?))
    });
    rows.collect()
}

fn rows() -> Vec<[&'static str; 4]> {
    let row = |line: &'static str| {
        let mut cells = line.split('\t');
        std::array::from_fn(|_| cells.next().unwrap_or_default())
    };
    LIST.lines().filter(|line| !line.starts_with('#')).map(row).collect()
}

#[test]
fn every_method_is_accounted_for() {
    let (methods, coverage) = (methods(), coverage());
    for [name, status, ours, op] in rows() {
        match status {
            "covered" | "flat" => {
                // `::cat` is an associated function of the trait.
                let known = ours.starts_with("::") || methods.contains(ours);
                assert!(known, "candle's {name}: there is no method {ours}");
                let vjp = coverage.get(op).unwrap_or_else(|| panic!("candle's {name}: no op {op}"));
                let want = if status == "flat" { ["flat", "flat"] } else { ["yes", "yes"] };
                assert!(want.contains(vjp), "candle's {name} is {status}, and the table says {vjp} of {op}");
            }
            "excluded" => assert!(ours.len() > 10, "candle's {name} is excluded without a reason"),
            _ => panic!("candle's {name}: what is {status:?}?"),
        }
    }
}

#[test]
fn the_list_belongs_to_the_version_in_use() {
    let lock = include_str!("../../Cargo.lock");
    let entry = format!("name = \"candle-core\"\nversion = \"{VERSION}\"\n");
    assert!(lock.contains(&entry), "candle-core is no longer {VERSION}: make the list again");
    assert!(LIST.contains(&format!("candle-core {VERSION}")));
}

/// The source of that version in cargo's registry, if it is there.
fn source() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let indices = std::fs::read_dir(home.join("registry/src")).ok()?;
    let found = indices.flatten().map(|index| index.path().join(format!("candle-core-{VERSION}/src")));
    found.into_iter().find(|path| path.is_dir())
}

/// The names of methods that give tensors in a file of candle's.
fn tensor_methods(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut inside = false;
    let mut signature = String::new();
    for line in text.lines() {
        if line.starts_with("impl Tensor {") || line.starts_with("impl crate::Tensor {") {
            inside = true;
        } else if line == "}" {
            inside = false;
        }
        if !inside {
            continue;
        }
        let code = line.trim();
        for family in ["unary_op!(", "binary_op!(", "binary_op_scalar!(", "broadcast_binary_op!("] {
            if let Some(rest) = code.strip_prefix(family) {
                found.extend(rest.split([',', ')']).next().map(str::to_owned));
            }
        }
        if line.starts_with("    pub fn ") {
            signature.clear();
        }
        if line.starts_with("    pub fn ") || !signature.is_empty() {
            signature.push_str(code);
            signature.push(' ');
            if code.ends_with('{') {
                let gives = signature.split("->").nth(1).unwrap_or_default();
                let gives = gives.split("where").next().unwrap_or_default();
                let words: Vec<&str> = gives.split(|c: char| !c.is_alphanumeric()).collect();
                if !gives.contains('&') && words.iter().any(|word| ["Self", "Tensor"].contains(word)) {
                    let name = signature["pub fn ".len()..].split(['(', '<']).next();
                    found.extend(name.map(str::to_owned));
                }
                signature.clear();
            }
        }
    }
    found
}

#[test]
fn the_list_is_that_of_the_source() {
    let Some(source) = source() else {
        println!("SKIPPED: the source of candle-core {VERSION} is not in cargo's registry on this machine");
        return;
    };
    let mut found = BTreeSet::new();
    for file in FILES {
        let text = std::fs::read_to_string(source.join(file)).expect("candle has this file");
        found.extend(tensor_methods(text.split("#[cfg(test)]").next().unwrap_or_default()));
    }
    let mut listed: BTreeSet<String> = rows().iter().map(|row| row[0].to_owned()).collect();
    // A method of the trait `IndexOp`.
    listed.remove("i");
    let missing: Vec<_> = found.difference(&listed).collect();
    let extra: Vec<_> = listed.difference(&found).collect();
    assert!(missing.is_empty() && extra.is_empty(), "missing {missing:?}, extra {extra:?}");
}
