//! Reverse mode: gradient tapes over candle tensors.
