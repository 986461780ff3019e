//! The integration tests: one binary.

mod modes;
mod planted;
mod registry;
