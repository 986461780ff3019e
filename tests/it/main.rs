//! The integration tests: one binary.

mod modes;
mod registry;
