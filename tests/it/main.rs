//! The integration tests, in one binary.

mod modes;
mod registry;
