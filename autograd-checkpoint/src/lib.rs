//! Recomputation: plans and policies that trade time for memory.
