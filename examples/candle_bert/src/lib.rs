//! Holds nothing: the example is `cargo run --release --example candle_bert`.
