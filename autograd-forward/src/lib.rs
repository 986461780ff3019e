//! Forward mode: dual numbers over candle tensors.
