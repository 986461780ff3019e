//! Rules about manifests: the layers of the workspace, and its lints in every crate.

use super::Finding;
use crate::arrows::{WITHOUT_CANDLE, allowed};
use toml::de::{DeTable, DeValue};

/// Crates with `unsafe` code cannot take the workspace's `forbid`, so they carry lints of their
/// own.
const OWN_LINTS: [&str; 3] = ["autograd-kernels", "autograd-gpu", "autograd-graph"];

pub(super) fn check(path: &str, text: &str) -> Vec<Finding> {
    let manifest = match DeTable::parse(text) {
        Ok(manifest) => manifest.into_inner(),
        Err(error) => return vec![Finding::new(path, 1, format!("not TOML: {error}"))],
    };
    let Some(name) = package_name(&manifest) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let mut object = |offset: usize, says: String| {
        let line = text[..offset].matches('\n').count() + 1;
        findings.push(Finding::new(path, line, says));
    };
    match allowed(name) {
        Some(targets) => {
            for (dependency, offset) in dependencies(&manifest) {
                let ours = allowed(dependency).is_some();
                if ours && !targets.contains(&dependency) {
                    object(
                        offset,
                        format!("{name} must not depend on {dependency}; xtask/src/arrows.rs has the layers"),
                    );
                }
                if WITHOUT_CANDLE.contains(&name) && dependency.starts_with("candle") {
                    object(offset, format!("{name} must not know candle"));
                }
            }
        }
        None if is_published(&manifest) && !stands_outside(path) => {
            object(0, format!("{name} has no row in xtask/src/arrows.rs"));
        }
        None => {}
    }
    let lints = table(&manifest, "lints");
    let inherits = lints
        .and_then(|lints| lints.get("workspace"))
        .and_then(|value| value.get_ref().as_bool())
        .unwrap_or(false);
    let own = OWN_LINTS.contains(&name) && lints.is_some();
    if !inherits && !own && !stands_outside(path) {
        object(0, format!("{name} does not take the workspace's lints: add `[lints] workspace = true`"));
    }
    findings
}

/// Packages that are no members: those that show that the crates can be used from outside, and a
/// peer that only its bench builds.
fn stands_outside(path: &str) -> bool {
    path.starts_with("tests/outside/") || path.starts_with("benches/peers/")
}

fn package_name<'m>(manifest: &'m DeTable<'_>) -> Option<&'m str> {
    table(manifest, "package")?.get("name")?.get_ref().as_str()
}

fn is_published(manifest: &DeTable<'_>) -> bool {
    let publish = table(manifest, "package").and_then(|package| package.get("publish"));
    publish.and_then(|value| value.get_ref().as_bool()) != Some(false)
}

fn table<'m, 'i>(of: &'m DeTable<'i>, name: &str) -> Option<&'m DeTable<'i>> {
    of.get(name)?.get_ref().as_table()
}

/// Every crate that the package needs to be built, with the offset of its key. What only tests
/// need is free.
fn dependencies<'m>(manifest: &'m DeTable<'_>) -> Vec<(&'m str, usize)> {
    let targets = table(manifest, "target").into_iter().flat_map(|targets| targets.values());
    let places = std::iter::once(manifest).chain(targets.filter_map(|t| t.get_ref().as_table()));
    let mut found = Vec::new();
    for place in places {
        for kind in ["dependencies", "build-dependencies"] {
            for (key, value) in table(place, kind).into_iter().flatten() {
                found.push((package_of(key.get_ref(), value.get_ref()), key.span().start));
            }
        }
    }
    found
}

/// The package behind a dependency's key, which may be another name for it.
fn package_of<'m>(key: &'m str, value: &'m DeValue<'_>) -> &'m str {
    let renamed = value.as_table().and_then(|table| table.get("package"));
    renamed.and_then(|name| name.get_ref().as_str()).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::lines;

    fn found(name: &str, rest: &str) -> Vec<usize> {
        let text = format!("[package]\nname = \"{name}\"\n[lints]\nworkspace = true\n{rest}");
        lines(&check("crate/Cargo.toml", &text))
    }

    #[test]
    fn every_spelling_of_a_wrong_arrow_is_found() {
        for rest in [
            "[dependencies]\nautograd-tape.workspace = true",
            "[dependencies]\nautograd-tape = { path = \"../autograd-tape\" }",
            "[dependencies]\ntape = { package = \"autograd-tape\", path = \"x\" }",
            "\n[dependencies.autograd-tape]\npath = \"x\"",
            "[build-dependencies]\nautograd-tape = \"0.1\"",
            "[target.'cfg(unix)'.dependencies]\nautograd-tape = \"0.1\"",
        ] {
            assert_eq!(found("autograd-core", rest), [6], "{rest}");
        }
        assert_eq!(found("autograd-tape", "[dependencies]\nautograd-ops.workspace = true"), [6]);
    }

    #[test]
    fn right_arrows_pass() {
        let core = "[dependencies]\nautograd-kernels.workspace = true\nthiserror = \"2\"";
        assert!(found("autograd-core", core).is_empty());
        let tests = "[dev-dependencies]\nautograd-tape.workspace = true";
        assert!(found("autograd-core", tests).is_empty());
    }

    #[test]
    fn candle_in_the_kernels_is_found() {
        let candle = "[dependencies]\ncandle-core.workspace = true";
        assert_eq!(found("autograd-kernels", candle), [6]);
        assert!(found("autograd-core", candle).is_empty());
    }

    #[test]
    fn a_crate_without_row_or_lints_is_found() {
        assert_eq!(found("autograd-new", ""), [1]);
        let example = "[package]\nname = \"big\"\npublish = false\n[lints]\nworkspace = true";
        assert!(check("examples/big/Cargo.toml", example).is_empty());
        let bare = "[package]\nname = \"autograd-core\"";
        assert_eq!(lines(&check("autograd-core/Cargo.toml", bare)), [1]);
        let own = "[package]\nname = \"autograd-gpu\"\n[lints.rust]\nmissing_docs = \"deny\"";
        assert!(check("autograd-gpu/Cargo.toml", own).is_empty());
        let outside = "[package]\nname = \"alone\"\n[workspace]";
        assert!(check("tests/outside/alone/Cargo.toml", outside).is_empty());
    }
}
