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

/// A file of kernels, which are named by what they exist for.
struct File {
    name: &'static str,
    text: &'static str,
    /// For every float type.
    floats: &'static [&'static str],
    /// For every integer type.
    integers: &'static [&'static str],
    /// For elements of every size.
    sizes: &'static [&'static str],
    /// By their own names.
    others: &'static [&'static str],
}

/// The float types, the integer types and the sizes of elements, as kernels name them.
const FLOATS: [&str; 4] = ["f32", "f64", "f16", "bf16"];
const INTEGERS: [&str; 3] = ["u8", "u32", "i64"];
const SIZES: [&str; 4] = ["1", "2", "4", "8"];

impl File {
    const fn new(name: &'static str, text: &'static str) -> Self {
        Self { name, text, floats: &[], integers: &[], sizes: &[], others: &[] }
    }

    const fn floats(self, floats: &'static [&'static str]) -> Self {
        Self { floats, ..self }
    }

    const fn integers(self, integers: &'static [&'static str]) -> Self {
        Self { integers, ..self }
    }

    const fn sizes(self, sizes: &'static [&'static str]) -> Self {
        Self { sizes, ..self }
    }

    const fn others(self, others: &'static [&'static str]) -> Self {
        Self { others, ..self }
    }

    /// The kernels in it.
    fn entries(&self) -> Vec<String> {
        let each = |kernels: &'static [&'static str], kinds: &'static [&'static str]| {
            kernels.iter().flat_map(move |kernel| kinds.iter().map(move |kind| format!("{kernel}_{kind}")))
        };
        let others = self.others.iter().map(|kernel| (*kernel).to_owned());
        each(self.floats, &FLOATS)
            .chain(each(self.integers, &INTEGERS))
            .chain(each(self.sizes, &SIZES))
            .chain(others)
            .collect()
    }
}

/// The file of a name with its text.
macro_rules! file {
    ($name:literal) => {
        File::new($name, include_str!(concat!("../cuda/", $name, ".cu")))
    };
}

const FILES: [File; 17] = [
    file!("softmax").floats(&[
        "softmax",
        "softmax_vjp",
        "log_softmax",
        "log_softmax_vjp",
        "logsumexp",
        "logsumexp_vjp",
    ]),
    file!("cross_entropy").floats(&["cross_entropy", "cross_entropy_vjp"]),
    file!("norm").floats(&[
        "row_norm",
        "row_norm_vjp",
        "row_norm_vjp_affine",
        "row_norm_vjp_columns",
        "rms_norm",
        "rms_norm_vjp",
        "channel_norm",
        "channel_norm_vjp",
    ]),
    file!("reduce")
        .floats(&["sum_rows", "sum_columns", "sum_any", "sum_finish", "sum_squares", "unscale"])
        .others(&["all_finite"]),
    file!("integers").integers(&["sum_integers", "sum_integers_finish"]),
    file!("extremum").floats(&["extremum", "extremum_columns"]).integers(&["extremum", "extremum_columns"]),
    file!("sort")
        .floats(&["sort_tiles"])
        .integers(&["sort_tiles"])
        .sizes(&["take_sorted"])
        .others(&["merge_runs"]),
    file!("scan").floats(&["cumsum", "cumsum_columns"]),
    file!("random").floats(&["uniform", "normal", "dropout"]).others(&["split_key", "fold_in"]),
    file!("pool").floats(&["max_pool2d", "max_pool2d_vjp", "avg_pool2d", "avg_pool2d_grad"]),
    file!("resample").floats(&["resample", "resample_transposed"]),
    file!("embedding").floats(&["index_select", "index_add"]).others(&[
        "count_indices",
        "starts_of_rows",
        "order_indices",
    ]),
    file!("gather").floats(&["scatter_add"]).sizes(&["gather", "scatter"]).others(&[
        "pick_class_2",
        "pick_class_4",
        "pick_class_8",
        "place_class_2",
        "place_class_4",
        "place_class_8",
    ]),
    file!("attention").floats(&["attention", "attention_delta", "attention_vjp_q", "attention_vjp_kv"]),
    file!("copy").sizes(&["copy"]).others(&["index_of_u8", "index_of_u32"]),
    file!("triangle").sizes(&["triangle"]),
    file!("conv").floats(&["conv2d", "conv2d_input_grad", "conv2d_weight_grad"]),
];

/// All hand-made kernels.
pub fn sources() -> Vec<Source> {
    FILES
        .iter()
        .map(|file| Source::new(file.name, format!("{PRELUDE}\n{}", file.text), file.entries()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that the table lacks would be neither compiled nor launched.
    #[test]
    fn the_table_names_every_kernel_of_every_file() {
        for file in &FILES {
            // By the preprocessor where there is one for each type.
            let defined = |kernel: &str| match kernel.strip_suffix("_##name") {
                None => vec![kernel.to_owned()],
                Some(kernel) => {
                    let named = |kind: &&str| format!("{kernel}_{kind}");
                    let kinds = |kernels: &[&str], kinds: &[&str]| match kernels.contains(&kernel) {
                        true => kinds.iter().map(named).collect(),
                        false => Vec::new(),
                    };
                    let made = [kinds(file.floats, &FLOATS), kinds(file.integers, &INTEGERS)].concat();
                    if made.is_empty() { vec![kernel.to_owned()] } else { made }
                }
            };
            let mut defined: Vec<String> = file
                .text
                .match_indices("__global__ void ")
                .filter_map(|(at, found)| file.text[at + found.len()..].split('(').next())
                .flat_map(defined)
                .collect();
            let mut listed = file.entries();
            defined.sort_unstable();
            listed.sort_unstable();
            assert_eq!(defined, listed, "kernels of {}", file.name);
        }
    }
}
