//! Step `duplicates`: a user of the crates does not build two versions of the same thing.
//!
//! Two versions that cargo could not unify are a finding, unless `xtask/duplicates.txt` lists them
//! with the reason. What only tests, examples and build scripts of ours need does not count: no
//! user builds it.

use crate::project::{Failure, Project};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const EXCEPTIONS: &str = "xtask/duplicates.txt";

/// Crate names with the versions that stand beside each other.
type Versions = BTreeMap<String, BTreeSet<String>>;

pub(super) fn check(project: &Project) -> Result<(), Failure> {
    let metadata = project.metadata("--all-features")?;
    let path = project.root.join(EXCEPTIONS);
    let text = std::fs::read_to_string(&path).map_err(|e| Failure::file(&path, &e))?;
    let listed = read_exceptions(&text).map_err(Failure::new)?;
    let objections = compare(&duplicates(&metadata), &listed);
    for objection in &objections {
        println!("{objection}");
    }
    match objections.len() {
        0 => Ok(()),
        n => Err(Failure::new(format!(
            "{n} crates are duplicated otherwise than {EXCEPTIONS} lists; \
             `cargo tree -d -e normal` shows who brings them"
        ))),
    }
}

/// Crates that the published members need in several incompatible versions.
fn duplicates(metadata: &Value) -> Versions {
    let mut nodes = BTreeMap::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        nodes.insert(text(&node["id"]), node);
    }
    let mut packages = BTreeMap::new();
    for package in list(&metadata["packages"]) {
        packages.insert(text(&package["id"]), package);
    }
    let members = list(&metadata["workspace_members"]).map(text);
    // `publish = false` is an empty list of registries.
    let published = |id: &&str| packages[id]["publish"].as_array().is_none_or(|to| !to.is_empty());
    let mut waiting: Vec<&str> = members.filter(published).collect();
    let mut seen = BTreeSet::new();
    let mut versions = Versions::new();
    while let Some(id) = waiting.pop() {
        if !seen.insert(id) {
            continue;
        }
        let package = packages[id];
        let version = compatibility(text(&package["version"])).to_owned();
        versions.entry(text(&package["name"]).to_owned()).or_default().insert(version);
        let normal = |dependency: &&Value| list(&dependency["dep_kinds"]).any(|k| k["kind"].is_null());
        waiting.extend(list(&nodes[id]["deps"]).filter(normal).map(|d| text(&d["pkg"])));
    }
    versions.retain(|_, versions| versions.len() > 1);
    versions
}

/// The part of a version that two compatible releases share: `1`, `0.3`, `0.0.7`.
fn compatibility(version: &str) -> &str {
    let digits = match version.trim_start_matches(['0', '.']).find(['.', '-', '+']) {
        Some(after) => version.len() - version.trim_start_matches(['0', '.']).len() + after,
        None => version.len(),
    };
    &version[..digits]
}

/// Reads `name 1, 2: reason` lines; `#` begins a comment.
fn read_exceptions(text: &str) -> Result<Versions, String> {
    let mut listed = Versions::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = || format!("{EXCEPTIONS}:{}: not of the form `name 1, 2: reason`", index + 1);
        let (what, reason) = line.split_once(':').ok_or_else(wrong)?;
        let (name, versions) = what.split_once(' ').ok_or_else(wrong)?;
        if reason.split_whitespace().count() < 3 {
            return Err(wrong());
        }
        let versions = versions.split(',').map(|version| version.trim().to_owned());
        listed.insert(name.to_owned(), versions.collect());
    }
    Ok(listed)
}

/// What is duplicated but not listed, and what is listed but no longer so.
fn compare(found: &Versions, listed: &Versions) -> Vec<String> {
    let joined =
        |versions: &BTreeSet<String>| versions.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let mut objections = Vec::new();
    for (name, versions) in found {
        if listed.get(name) != Some(versions) {
            let versions = joined(versions);
            objections.push(format!(
                "{name} is there in versions {versions}: \
                 unify them, or list them with the reason"
            ));
        }
    }
    for name in listed.keys().filter(|name| !found.contains_key(*name)) {
        objections.push(format!("{name} is no longer duplicated: delete its line"));
    }
    objections
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A published crate `ours` that needs `a 1` normally and `a 2` in the given way.
    fn metadata(kind: &Value, version: &str) -> Value {
        let package = |id: &str, name: &str, version: &str| {
            json!({
                "id": id, "name": name, "version": version, "publish": null,
            })
        };
        json!({
            "workspace_members": ["ours"],
            "packages": [
                package("ours", "ours", "0.1.0"),
                package("a1", "a", "1.0.0"),
                package("a2", "a", version),
            ],
            "resolve": {"nodes": [
                {"id": "ours", "deps": [
                    {"pkg": "a1", "dep_kinds": [{"kind": null}]},
                    {"pkg": "a2", "dep_kinds": [{"kind": kind}]},
                ]},
                {"id": "a1", "deps": []},
                {"id": "a2", "deps": []},
            ]},
        })
    }

    #[test]
    fn two_versions_among_normal_dependencies_are_found() {
        let found = duplicates(&metadata(&json!(null), "2.0.0"));
        assert_eq!(found["a"].iter().collect::<Vec<_>>(), ["1", "2"]);
        assert!(duplicates(&metadata(&json!("dev"), "2.0.0")).is_empty());
        assert!(duplicates(&metadata(&json!("build"), "2.0.0")).is_empty());
        assert!(duplicates(&metadata(&json!(null), "1.7.0")).is_empty());
    }

    #[test]
    fn unpublished_members_do_not_count() {
        let mut chore = metadata(&json!(null), "2.0.0");
        chore["packages"][0]["publish"] = json!([]);
        assert!(duplicates(&chore).is_empty());
    }

    #[test]
    fn compatibility_ends_at_the_first_number_that_is_not_zero() {
        let found = ["1.2.3", "0.3.4", "0.0.7", "10.0.1", "0.11.1+x", "2.0.0-rc.1"].map(compatibility);
        assert_eq!(found, ["1", "0.3", "0.0.7", "10", "0.11", "2"]);
    }

    #[test]
    fn unlisted_and_stale_exceptions_are_found() {
        let found = duplicates(&metadata(&json!(null), "2.0.0"));
        let compared =
            |listed: &str| compare(&found, &read_exceptions(listed).expect("it is well formed")).len();
        assert_eq!(compared("# nothing listed\n"), 1);
        assert_eq!(compared("a 1, 2: b still needs 1\n"), 0);
        assert_eq!(compared("a 1, 3: b still needs 1\n"), 1);
        assert_eq!(compared("a 1, 2: b still needs 1\nb 1, 2: not any more\n"), 1);
    }

    #[test]
    fn an_exception_without_reason_is_an_error() {
        assert!(read_exceptions("a 1, 2").is_err());
        assert!(read_exceptions("a 1, 2: because").is_err());
        assert!(read_exceptions("a: no versions are here").is_err());
    }
}
