//! The table of all hand-made kernels.

use std::borrow::Cow;

/// What every kernel begins with.
pub(crate) const PRELUDE: &str = include_str!("../cuda/prelude.cuh");

/// One translation unit of CUDA C++: a text and the kernels in it.
#[derive(Clone, Debug)]
pub struct Source {
    name: Cow<'static, str>,
    text: String,
    entries: Vec<String>,
}

impl Source {
    pub(crate) fn new(name: impl Into<Cow<'static, str>>, text: String, entries: Vec<String>) -> Self {
        Self { name: name.into(), text, entries }
    }

    /// The name, unique among the sources of a process if the caller keeps generated names so.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole text, prelude included: it includes no file.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The kernels in it.
    pub fn entries(&self) -> &[String] {
        &self.entries
    }
}

/// Each file with the kernels in it, which exist for every float type.
const FILES: [(&str, &str, &[&str]); 8] = [
    (
        "softmax",
        include_str!("../cuda/softmax.cu"),
        &["softmax", "softmax_vjp", "log_softmax", "log_softmax_vjp", "logsumexp", "logsumexp_vjp"],
    ),
    ("cross_entropy", include_str!("../cuda/cross_entropy.cu"), &["cross_entropy", "cross_entropy_vjp"]),
    (
        "norm",
        include_str!("../cuda/norm.cu"),
        &[
            "row_norm",
            "row_norm_vjp",
            "row_norm_vjp_affine",
            "rms_norm",
            "rms_norm_vjp",
            "rms_norm_vjp_weight",
        ],
    ),
    ("reduce", include_str!("../cuda/reduce.cu"), &["sum_rows", "sum_columns", "sum_squares", "unscale"]),
    ("dropout", include_str!("../cuda/dropout.cu"), &["dropout"]),
    ("pool", include_str!("../cuda/pool.cu"), &["max_pool2d", "max_pool2d_vjp"]),
    ("embedding", include_str!("../cuda/embedding.cu"), &["embedding", "embedding_vjp"]),
    (
        "attention",
        include_str!("../cuda/attention.cu"),
        &["attention", "attention_delta", "attention_vjp_q", "attention_vjp_kv"],
    ),
];

/// The float types, as kernels name them.
const TYPES: [&str; 4] = ["f32", "f64", "f16", "bf16"];

/// All hand-made kernels.
pub fn sources() -> Vec<Source> {
    let source = |(name, text, kernels): &(&'static str, &str, &[&str])| {
        let entries = kernels.iter().flat_map(|k| TYPES.iter().map(move |t| format!("{k}_{t}"))).collect();
        Source::new(*name, format!("{PRELUDE}\n{text}"), entries)
    };
    FILES.iter().map(source).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that the table lacks would be neither compiled nor launched.
    #[test]
    fn the_table_names_every_kernel_of_every_file() {
        for (name, text, kernels) in FILES {
            let mut defined: Vec<&str> = text
                .match_indices("__global__ void ")
                .filter_map(|(at, found)| text[at + found.len()..].split("_##name").next())
                .collect();
            let mut listed = kernels.to_vec();
            defined.sort_unstable();
            listed.sort_unstable();
            assert_eq!(defined, listed, "kernels of {name}");
        }
    }
}
