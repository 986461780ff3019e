//! The integration tests: one binary.

mod deep;
mod errors;
mod mission;
mod modes;
mod registry;
mod spike;
