//! Operators, curvature, sparse derivatives and implicit functions against dense oracles.

mod curvature;
mod dense;
mod implicit;
mod operators;
mod sparse;
