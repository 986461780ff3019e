//! CUDA kernels for candle-autograd.
//!
//! Nothing is here yet: ops on a CUDA tensor give `Error::UnsupportedDevice`, which names the op
//! and the device.
