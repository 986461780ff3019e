//! The integration tests: one binary.

mod candle_methods;
mod control;
mod coverage;
mod deep;
mod digits;
mod errors;
mod fixtures;
mod mission;
mod modes;
mod planted;
mod registry;
mod spike;
