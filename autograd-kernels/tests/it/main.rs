//! Kernels against plain references in f64, over random shapes, strides and types.

#![expect(unreachable_pub, reason = "a test binary has no public interface")]

mod machine;
mod norm;
mod reduce;
mod softmax;
mod support;
