//! The integration tests: one binary.

mod deep;
mod errors;
mod mission;
mod spike;
