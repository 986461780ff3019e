//! The model from a folder, or one with random weights.

use crate::layers::{Embeddings, Layer};
use candle_autograd::ops::random;
use candle_autograd::{Error, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertEncoder, BertModel, Config, HiddenAct};
use std::collections::HashMap;
use std::path::Path;
use tokenizers::Tokenizer;

/// BERT in both forms: candle-transformers' own, and layers that candle can differentiate.
pub(crate) struct Model {
    pub(crate) config: Config,
    pub(crate) own: BertModel,
    pub(crate) own_encoder: BertEncoder,
    pub(crate) embeddings: Embeddings,
    pub(crate) layers: Vec<Layer>,
    tokenizer: Option<Tokenizer>,
}

impl Model {
    /// Loads `config.json`, `model.safetensors` and `tokenizer.json`.
    pub(crate) fn load(folder: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|e| Error::msg(format!("{}: {e}", path.display())))
        };
        let config = serde_json::from_slice(&read("config.json")?).map_err(Error::msg)?;
        let mut tokenizer = Tokenizer::from_file(folder.join("tokenizer.json")).map_err(Error::msg)?;
        // One text at a time: what fills up a batch would be attended to like words.
        tokenizer.with_padding(None);
        let vb = VarBuilder::from_buffered_safetensors(read("model.safetensors")?, DType::F32, &Device::Cpu)?;
        Self::build(config, &vb, Some(tokenizer))
    }

    /// A model of MiniLM's size with random weights from a seed.
    pub(crate) fn random(seed: u64) -> Result<Self> {
        let config = Config {
            hidden_size: 384,
            num_hidden_layers: 6,
            intermediate_size: 1536,
            vocab_size: 8192,
            hidden_act: HiddenAct::Gelu,
            ..Config::default()
        };
        let (size, wide) = (config.hidden_size, config.intermediate_size);
        let mut tensors = HashMap::new();
        let mut key = random::key(seed);
        let mut add = |name: String, dims: &[usize], scale: f64, shift: f64| -> Result<()> {
            let keys = random::split(&key, 2)?;
            let drawn = random::normal(&keys[0], dims, DType::F32)?.into_tensor()?;
            tensors.insert(name, drawn.affine(scale, shift)?);
            key = keys[1].clone();
            Ok(())
        };
        for (name, rows) in [
            ("word_embeddings", config.vocab_size),
            ("position_embeddings", config.max_position_embeddings),
            ("token_type_embeddings", config.type_vocab_size),
        ] {
            add(format!("embeddings.{name}.weight"), &[rows, size], 0.05, 0.0)?;
        }
        let mut norms = vec!["embeddings.LayerNorm".to_owned()];
        for i in 0..config.num_hidden_layers {
            let layer = format!("encoder.layer.{i}");
            let squares = [
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
            ];
            let all = squares.iter().map(|name| (*name, size, size));
            for (name, rows, columns) in
                all.chain([("intermediate.dense", wide, size), ("output.dense", size, wide)])
            {
                add(format!("{layer}.{name}.weight"), &[rows, columns], 0.06, 0.0)?;
                add(format!("{layer}.{name}.bias"), &[rows], 0.02, 0.0)?;
            }
            norms.push(format!("{layer}.attention.output.LayerNorm"));
            norms.push(format!("{layer}.output.LayerNorm"));
        }
        for name in norms {
            add(format!("{name}.weight"), &[size], 0.1, 1.0)?;
            add(format!("{name}.bias"), &[size], 0.1, 0.0)?;
        }
        Self::build(config, &VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu), None)
    }

    fn build(config: Config, vb: &VarBuilder, tokenizer: Option<Tokenizer>) -> Result<Self> {
        if config.hidden_act != HiddenAct::Gelu {
            return Err(Error::msg("the example's layers have the activation gelu; the model has another"));
        }
        let vb = if vb.contains_tensor("bert.embeddings.word_embeddings.weight") {
            vb.pp("bert")
        } else {
            vb.clone()
        };
        let layers =
            (0..config.num_hidden_layers).map(|i| Layer::load(&config, &vb.pp(format!("encoder.layer.{i}"))));
        let layers = layers.collect::<candle_core::Result<_>>()?;
        Ok(Self {
            own: BertModel::load(vb.clone(), &config)?,
            own_encoder: BertEncoder::load(vb.pp("encoder"), &config)?,
            embeddings: Embeddings::load(&config, &vb.pp("embeddings"))?,
            layers,
            tokenizer,
            config,
        })
    }

    /// The tokens of a text, and how they are written. Without a tokenizer a word is a token, with
    /// a number made of its letters.
    pub(crate) fn tokens(&self, text: &str) -> Result<(Vec<u32>, Vec<String>)> {
        let (ids, words) = match &self.tokenizer {
            Some(tokenizer) => {
                let found = tokenizer.encode(text, true).map_err(Error::msg)?;
                (found.get_ids().to_vec(), found.get_tokens().to_vec())
            }
            None => {
                let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
                let number = |word: &String| {
                    let hash = word.bytes().fold(17u32, |hash, byte| hash.wrapping_mul(31) ^ u32::from(byte));
                    hash % self.config.vocab_size as u32
                };
                (words.iter().map(number).collect(), words)
            }
        };
        if ids.is_empty() || ids.len() > self.config.max_position_embeddings {
            let most = self.config.max_position_embeddings;
            return Err(Error::msg(format!("the text has {} tokens; 1 to {most} are possible", ids.len())));
        }
        Ok((ids, words))
    }

    /// candle-transformers' own result for these tokens.
    pub(crate) fn own_output(&self, tokens: &[u32]) -> Result<Tensor> {
        let ids = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        Ok(self.own.forward(&ids, &ids.zeros_like()?, None)?)
    }

    /// The result of the layers that candle can differentiate, from the words' vectors.
    pub(crate) fn output(&self, words: &Tensor) -> candle_core::Result<Tensor> {
        self.layers.iter().try_fold(self.embeddings.complete(words)?, |x, layer| layer.forward(&x))
    }
}
