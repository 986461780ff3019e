//! The dense kernels against plain loops in f64: matrix products, convolutions, pooling, indexing.

mod bias;
mod conv2d;
mod index;
mod matmul;
mod pool2d;
mod support;
