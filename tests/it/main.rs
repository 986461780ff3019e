//! The integration tests: one binary.

mod candle_code;
mod candle_defects;
mod candle_methods;
#[cfg(feature = "graph")]
mod checkpointed_graphs;
mod checkpoints;
mod control;
#[cfg(all(feature = "linalg", feature = "fft"))]
mod coverage;
mod deep;
mod deferred;
mod digits;
mod dimensions;
mod elsewhere;
mod errors;
mod factors;
#[cfg(all(feature = "linalg", feature = "fft"))]
mod fixtures;
mod in_place;
mod known_figures;
mod mission;
mod modes;
#[cfg(feature = "graph")]
mod optimisers;
mod planted;
mod porting;
mod registry;
#[cfg(all(feature = "linalg", feature = "fft"))]
mod residuals;
#[cfg(feature = "graph")]
mod rewritten_checkpoints;
mod spike;
