//! The integration tests: one binary.

mod candle_code;
mod deep;
mod digits;
mod errors;
mod in_place;
mod mission;
mod modes;
mod planted;
mod porting;
mod registry;
mod spike;
