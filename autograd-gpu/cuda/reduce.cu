// Sums, and the two utilities of training that read every gradient once: squares for the global
// norm, and unscaling with a check for overflow.
//
// A long sum is cut into parts of `per` elements, one for each block along y; `sum_finish` adds them
// in their order. Where there is one part, `parts` is null and the sum goes to `out`, times `scale`.

template <class T, class A> __device__ inline void put(A sum, T* out, A* parts, u64 at, u64 total, u64 part, double scale) {
    if (parts) parts[part * total + at] = sum;
    else narrow(sum * A(scale), out[at]);
}

// out[o, i] = Σ_j x[o, j, i] over n elements `inner` apart. Blocks: x over outputs, y over parts.
template <class T> __device__ void sum_rows(const T* x, T* out, wide<T>* parts, u64 n, u64 inner, u64 per, double scale) {
    typedef wide<T> A;
    A own = 0;
    u64 from = blockIdx.y * per, to = from + per < n ? from + per : n;
    const T* first = x + blockIdx.x / inner * n * inner + blockIdx.x % inner;
    if (inner == 1 && per == n) {
        each(first, n, [&](u64, A v) { own += v; });
    } else {
        for (u64 j = from + threadIdx.x; j < to; j += blockDim.x) own += widen(first[j * inner]);
    }
    own = sum_over_block(own);
    if (threadIdx.x == 0) put(own, out, parts, blockIdx.x, gridDim.x, blockIdx.y, scale);
}

// out[o, i] = Σ_j x[o, j, i] for n ≥ 32 or so: neighbouring threads on neighbouring i. A block takes
// 32 columns, each warp its share of rows. Blocks: x over 32 columns, y over o, then over parts.
template <class T> __device__ void sum_columns(
    const T* x, T* out, wide<T>* parts, u64 rows, u64 n, u64 outer, u64 per, double scale
) {
    typedef wide<T> A;
    __shared__ A shares[32][33];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    u64 column = (u64)blockIdx.x * 32 + lane, o = blockIdx.y % outer, part = blockIdx.y / outer;
    u64 from = part * per, to = from + per < rows ? from + per : rows;
    A own = 0;
    if (column < n)
        for (u64 row = from + warp; row < to; row += warps) own += widen(x[(o * rows + row) * n + column]);
    shares[warp][lane] = own;
    __syncthreads();
    if (warp == 0 && column < n) {
        A total = 0;
        for (u32 w = 0; w < warps; ++w) total += shares[w][lane];
        put(total, out, parts, o * n + column, outer * n, part, scale);
    }
}

// Dimensions to walk: those that stay, and those that are summed, each with its stride.
struct Walk { u64 kept[4], kept_strides[4], summed[4], summed_strides[4], n; };

// Sums over any dimensions. A block an output.
template <class T> __device__ void sum_any(const T* x, T* out, Walk w, double scale) {
    typedef wide<T> A;
    u64 rest = blockIdx.x;
    for (int d = 3; d >= 0; --d) x += rest % w.kept[d] * w.kept_strides[d], rest /= w.kept[d];
    A own = 0;
    for (u64 j = threadIdx.x; j < w.n; j += blockDim.x) {
        u64 at = 0, rest = j;
        for (int d = 3; d >= 0; --d) at += rest % w.summed[d] * w.summed_strides[d], rest /= w.summed[d];
        own += widen(x[at]);
    }
    own = sum_over_block(own);
    if (threadIdx.x == 0) narrow(own * A(scale), out[blockIdx.x]);
}

// out[i] = scale · Σ parts[s, i]: a thread an output.
template <class T> __device__ void sum_finish(const wide<T>* parts, T* out, u64 splits, u64 n, double scale) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x) {
        wide<T> sum = 0;
        for (u64 s = 0; s < splits; ++s) sum += parts[s * n + i];
        narrow(sum * (wide<T>)scale, out[i]);
    }
}

// parts[part, row] = Σ x² over a part of a row of n. Blocks: x over rows, y over parts.
template <class T> __device__ void sum_squares(const T* x, double* parts, u64 n, u64 per) {
    double own = 0;
    u64 from = blockIdx.y * per, to = from + per < n ? from + per : n;
    x += blockIdx.x * n;
    for (u64 i = from + threadIdx.x; i < to; i += blockDim.x) {
        double v = widen(x[i]);
        own += v * v;
    }
    own = sum_over_block(own);
    if (threadIdx.x == 0) parts[blockIdx.y * (u64)gridDim.x + blockIdx.x] = own;
}

// y = factor · x; bad[b] tells whether block b met an infinity or a NaN in x.
template <class T> __device__ void unscale(const T* x, T* y, u32* bad, double factor, u64 n) {
    typedef wide<T> A;
    u32 own = 0;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x) {
        A v = widen(x[i]);
        own |= !(v - v == A(0));
        narrow(v * A(factor), y[i]);
    }
    own = over_block(own, [](u32 a, u32 b) { return a | b; });
    if (threadIdx.x == 0) bad[blockIdx.x] = own;
}

// 1 where no block met one. One block.
extern "C" __global__ void all_finite(const u32* bad, unsigned char* finite, u64 blocks) {
    u32 own = 0;
    for (u64 b = threadIdx.x; b < blocks; b += blockDim.x) own |= bad[b];
    own = over_block(own, [](u32 a, u32 b) { return a | b; });
    if (threadIdx.x == 0) *finite = !own;
}

#define DEFINE(name, T) \
    extern "C" __global__ void sum_rows_##name(const T* x, T* out, wide<T>* parts, u64 n, u64 inner, u64 per, double scale) { sum_rows(x, out, parts, n, inner, per, scale); } \
    extern "C" __global__ void sum_columns_##name(const T* x, T* out, wide<T>* parts, u64 rows, u64 n, u64 outer, u64 per, double scale) { sum_columns(x, out, parts, rows, n, outer, per, scale); } \
    extern "C" __global__ void sum_any_##name(const T* x, T* out, Walk w, double scale) { sum_any(x, out, w, scale); } \
    extern "C" __global__ void sum_finish_##name(const wide<T>* parts, T* out, u64 splits, u64 n, double scale) { sum_finish(parts, out, splits, n, scale); } \
    extern "C" __global__ void sum_squares_##name(const T* x, double* parts, u64 n, u64 per) { sum_squares(x, parts, n, per); } \
    extern "C" __global__ void unscale_##name(const T* x, T* y, u32* bad, double factor, u64 n) { unscale(x, y, bad, factor, n); }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
