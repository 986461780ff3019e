//! The integration tests: one binary.

mod deep;
mod digits;
mod errors;
mod mission;
mod modes;
mod planted;
mod registry;
mod spike;
