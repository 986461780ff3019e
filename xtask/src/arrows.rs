//! Which crate of the workspace may depend on which.
//!
//! `cargo xtask tidy` holds every manifest against this table. Dev-dependencies are free: a test
//! may compare crates that must not know each other.

/// Each crate with the workspace crates that it may depend on, lower layers first.
pub(crate) const ARROWS: [(&str, &[&str]); 13] = [
    ("autograd-kernels", &[]),
    ("autograd-core", &["autograd-kernels"]),
    ("autograd-gpu", &["autograd-core"]),
    ("autograd-ops", &["autograd-core", "autograd-kernels"]),
    ("autograd-tape", &["autograd-core"]),
    ("autograd-forward", &["autograd-core", "autograd-ops"]),
    ("autograd-checkpoint", &["autograd-core", "autograd-tape"]),
    (
        "autograd-transforms",
        &["autograd-core", "autograd-ops", "autograd-tape", "autograd-forward", "autograd-checkpoint"],
    ),
    (
        "autograd-graph",
        &[
            "autograd-core",
            "autograd-ops",
            "autograd-kernels",
            "autograd-tape",
            "autograd-checkpoint",
            "autograd-gpu",
        ],
    ),
    ("autograd-interpret", &["autograd-core", "autograd-ops", "autograd-tape", "autograd-transforms"]),
    ("autograd-nn", &["autograd-core", "autograd-ops", "autograd-tape"]),
    (
        "candle-autograd",
        &[
            "autograd-kernels",
            "autograd-core",
            "autograd-gpu",
            "autograd-ops",
            "autograd-tape",
            "autograd-forward",
            "autograd-checkpoint",
            "autograd-transforms",
            "autograd-graph",
            "autograd-interpret",
            "autograd-nn",
        ],
    ),
    // The gate builds before, and without, what it judges.
    ("xtask", &[]),
];

/// Crates that must stay free of candle as well.
pub(crate) const WITHOUT_CANDLE: [&str; 1] = ["autograd-kernels"];

/// The workspace crates that `name` may depend on; `None` for a crate that the table lacks.
pub(crate) fn allowed(name: &str) -> Option<&'static [&'static str]> {
    ARROWS.iter().find(|(from, _)| *from == name).map(|(_, to)| *to)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table that allowed a cycle would not be layers.
    #[test]
    fn every_arrow_points_to_an_earlier_row() {
        for (row, (from, to)) in ARROWS.iter().enumerate() {
            for target in *to {
                let at = ARROWS.iter().position(|(name, _)| name == target);
                assert!(at.is_some_and(|at| at < row), "{from} -> {target} points up");
            }
        }
    }

    #[test]
    fn the_facade_may_use_every_layer() {
        let layers = ARROWS.iter().map(|(name, _)| *name);
        let facade = allowed("candle-autograd").expect("the facade has a row");
        for layer in layers.filter(|name| name.starts_with("autograd-")) {
            assert!(facade.contains(&layer), "{layer}");
        }
    }
}
