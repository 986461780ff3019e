//! Step `features`: every capability of the facade compiles by itself, and so does every crate.

use crate::project::{Failure, Project};
use serde_json::Value;

/// The root package, whose features are the capabilities.
const FACADE: &str = "candle-autograd";

/// Features that a machine without their device cannot be asked to build.
const SKIPPED: [&str; 1] = ["gpu"];

pub(super) fn check(project: &Project) -> Result<(), Failure> {
    let metadata = project.metadata("--no-deps")?;
    let lines = command_lines(&metadata);
    for line in &lines {
        println!("    cargo {line}");
        project.cargo(line).quietly().pass_or("a choice of features does not compile")?;
    }
    Ok(())
}

/// One `cargo check` for each choice: the facade with nothing, with each feature, with its default
/// and with `full`; then each published crate with nothing.
fn command_lines(metadata: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let (facade, crates): (Vec<_>, Vec<_>) = packages
        .filter(|package| package["publish"].as_array().is_none_or(|to| !to.is_empty()))
        .partition(|package| package["name"] == FACADE);
    for package in facade {
        lines.push(format!("check -p {FACADE} --no-default-features"));
        lines.push(format!("check -p {FACADE}"));
        let features = package["features"].as_object().into_iter().flatten();
        for (feature, _) in features {
            if feature != "default" && !SKIPPED.contains(&feature.as_str()) {
                lines.push(format!("check -p {FACADE} --no-default-features --features {feature}"));
            }
        }
    }
    for package in crates {
        let name = package["name"].as_str().unwrap_or_default();
        lines.push(format!("check -p {name} --no-default-features"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_new_feature_adds_its_check() {
        let lines = command_lines(&json!({"packages": [
            {"name": "autograd-core", "publish": null, "features": {}},
            {"name": "candle-autograd", "publish": null,
                "features": {"default": ["tape"], "tape": [], "new": [], "full": [], "gpu": []}},
            {"name": "xtask", "publish": [], "features": {}},
        ]}));
        let facade = "check -p candle-autograd";
        assert_eq!(
            lines,
            [
                format!("{facade} --no-default-features"),
                facade.to_owned(),
                format!("{facade} --no-default-features --features full"),
                format!("{facade} --no-default-features --features new"),
                format!("{facade} --no-default-features --features tape"),
                "check -p autograd-core --no-default-features".to_owned(),
            ]
        );
    }
}
