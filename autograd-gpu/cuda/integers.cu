// Sums of integers over any dimensions. They are made modulo 2⁶⁴ and cut to the type, as on the CPU,
// so their order does not matter.
//
// A long sum is cut into parts of `per` elements, one for each block along y, which
// `sum_integers_finish` adds. Where there is one part, `parts` is null.

// Dimensions to walk: those that stay, and those that are summed, each with its stride.
struct Walk { u64 kept[4], kept_strides[4], summed[4], summed_strides[4], n; };

// Blocks: x over outputs, y over parts.
template <class T> __device__ void sum_integers(const T* x, T* out, u64* parts, Walk w, u64 per) {
    u64 rest = blockIdx.x, own = 0, from = blockIdx.y * per, to = from + per < w.n ? from + per : w.n;
    for (int d = 3; d >= 0; --d) x += rest % w.kept[d] * w.kept_strides[d], rest /= w.kept[d];
    for (u64 j = from + threadIdx.x; j < to; j += blockDim.x) {
        u64 at = 0, left = j;
        for (int d = 3; d >= 0; --d) at += left % w.summed[d] * w.summed_strides[d], left /= w.summed[d];
        own += (u64)x[at];
    }
    own = sum_over_block(own);
    if (threadIdx.x) return;
    if (parts) parts[blockIdx.y * (u64)gridDim.x + blockIdx.x] = own;
    else out[blockIdx.x] = (T)own;
}

// out[i] = Σ parts[s, i]: a thread an output.
template <class T> __device__ void sum_integers_finish(const u64* parts, T* out, u64 splits, u64 n) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x) {
        u64 sum = 0;
        for (u64 s = 0; s < splits; ++s) sum += parts[s * n + i];
        out[i] = (T)sum;
    }
}

#define DEFINE(name, T) \
    extern "C" __global__ void sum_integers_##name(const T* x, T* out, u64* parts, Walk w, u64 per) { sum_integers(x, out, parts, w, per); } \
    extern "C" __global__ void sum_integers_finish_##name(const u64* parts, T* out, u64 splits, u64 n) { sum_integers_finish(parts, out, splits, n); }
FOR_EACH_INTEGER(DEFINE)
#undef DEFINE
