//! The single-op workloads of `benches/peers/WORKLOADS.md` under criterion, forward and backward:
//! `cargo bench --bench kernels --features full`. `cargo xtask peers` sets the same repetitions
//! beside those of PyTorch, JAX, candle and burn; here they are compared with themselves over time.

// The workloads are the peers'; not every one of them is an op.
#[path = "peers/workloads.rs"]
mod workloads;

use criterion::{BenchmarkId, Criterion};
use std::hint::black_box;
use std::time::Duration;
use workloads::build;

/// Small enough to be repeated many times.
const OPS: [&str; 15] = [
    "matmul_1024",
    "ew_chain",
    "ew_chain_bcast",
    "small_ops",
    "mlp",
    "op_softmax",
    "op_log_softmax",
    "op_logsumexp",
    "op_layer_norm",
    "op_gelu",
    "op_mish",
    "op_group_norm",
    "op_batch_norm",
    "op_conv2d",
    "op_max_pool2d",
];

fn ops(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("forward and backward");
    group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for name in OPS {
        let (leaves, function) = build(name).expect("a workload of the list can be built");
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| black_box(function(&leaves).expect("a workload that was built runs")));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    ops(&mut criterion);
    criterion.final_summary();
}
