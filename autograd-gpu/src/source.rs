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

/// A file: its name, its text, the kernels in it that exist for every float type, and the others.
type File = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const FILES: [File; 11] = [
    (
        "softmax",
        include_str!("../cuda/softmax.cu"),
        &["softmax", "softmax_vjp", "log_softmax", "log_softmax_vjp", "logsumexp", "logsumexp_vjp"],
        &[],
    ),
    ("cross_entropy", include_str!("../cuda/cross_entropy.cu"), &["cross_entropy", "cross_entropy_vjp"], &[]),
    (
        "norm",
        include_str!("../cuda/norm.cu"),
        &[
            "row_norm",
            "row_norm_vjp",
            "row_norm_vjp_affine",
            "row_norm_vjp_columns",
            "rms_norm",
            "rms_norm_vjp",
            "channel_norm",
            "channel_norm_vjp",
        ],
        &[],
    ),
    (
        "reduce",
        include_str!("../cuda/reduce.cu"),
        &["sum_rows", "sum_columns", "sum_any", "sum_finish", "sum_squares", "unscale"],
        &["all_finite"],
    ),
    ("dropout", include_str!("../cuda/dropout.cu"), &["dropout"], &[]),
    ("pool", include_str!("../cuda/pool.cu"), &["max_pool2d", "max_pool2d_vjp"], &[]),
    (
        "embedding",
        include_str!("../cuda/embedding.cu"),
        &["index_select", "index_add"],
        &["count_indices", "starts_of_rows", "order_indices"],
    ),
    (
        "gather",
        include_str!("../cuda/gather.cu"),
        &["scatter_add"],
        &[
            "gather_1",
            "gather_2",
            "gather_4",
            "gather_8",
            "scatter_1",
            "scatter_2",
            "scatter_4",
            "scatter_8",
            "pick_class_2",
            "pick_class_4",
            "pick_class_8",
            "place_class_2",
            "place_class_4",
            "place_class_8",
        ],
    ),
    (
        "attention",
        include_str!("../cuda/attention.cu"),
        &["attention", "attention_delta", "attention_vjp_q", "attention_vjp_kv"],
        &[],
    ),
    (
        "copy",
        include_str!("../cuda/copy.cu"),
        &[],
        &["copy_1", "copy_2", "copy_4", "copy_8", "index_of_u8", "index_of_u32"],
    ),
    ("conv", include_str!("../cuda/conv.cu"), &["conv2d", "conv2d_input_grad", "conv2d_weight_grad"], &[]),
];

/// The float types, as kernels name them.
const TYPES: [&str; 4] = ["f32", "f64", "f16", "bf16"];

/// All hand-made kernels.
pub fn sources() -> Vec<Source> {
    let source = |&(name, text, typed, others): &File| {
        let typed = typed.iter().flat_map(|k| TYPES.iter().map(move |t| format!("{k}_{t}")));
        let entries = typed.chain(others.iter().map(|k| (*k).to_owned())).collect();
        Source::new(name, format!("{PRELUDE}\n{text}"), entries)
    };
    FILES.iter().map(source).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that the table lacks would be neither compiled nor launched.
    #[test]
    fn the_table_names_every_kernel_of_every_file() {
        for (name, text, typed, others) in FILES {
            let mut defined: Vec<&str> = text
                .match_indices("__global__ void ")
                .filter_map(|(at, found)| text[at + found.len()..].split('(').next())
                .map(|name| name.trim_end_matches("_##name"))
                .collect();
            let mut listed = [typed, others].concat();
            defined.sort_unstable();
            listed.sort_unstable();
            assert_eq!(defined, listed, "kernels of {name}");
        }
    }
}
