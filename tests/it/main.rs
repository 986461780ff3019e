//! The integration tests: one binary.

mod deep;
mod digits;
mod errors;
mod in_place;
mod mission;
mod modes;
mod planted;
mod registry;
mod spike;
