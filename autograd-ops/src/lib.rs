//! The op gradient registry: every operation with its rule, kernel and checks.
