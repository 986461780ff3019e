//! CUDA kernels for candle-autograd.
