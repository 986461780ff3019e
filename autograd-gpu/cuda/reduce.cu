// Sums, and the two utilities of training that read every gradient once: the square of the global
// norm, and unscaling with a check for overflow.

// Sums of rows of n elements, `inner` apart: out[o, i] = Σ_j x[o, j, i]. A block a row.
template <class T> __device__ void sum_rows(const T* x, T* out, u64 n, u64 inner) {
    typedef wide<T> A;
    A own = 0;
    if (inner == 1) {
        each(x + blockIdx.x * n, n, [&](u64, A v) { own += v; });
    } else {
        const T* first = x + blockIdx.x / inner * n * inner + blockIdx.x % inner;
        for (u64 j = threadIdx.x; j < n; j += blockDim.x) own += widen(first[j * inner]);
    }
    own = sum_over_block(own);
    if (threadIdx.x == 0) narrow(own, out[blockIdx.x]);
}

// Sums over the first dimension of rows × n, neighbouring threads on neighbouring columns: a block
// of 32 × warps takes 32 columns; each warp its share of rows.
template <class T> __device__ void sum_columns(const T* x, T* out, u64 rows, u64 n) {
    typedef wide<T> A;
    __shared__ A parts[32][33];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    u64 column = (u64)blockIdx.x * 32 + lane;
    A own = 0;
    if (column < n)
        for (u64 row = warp; row < rows; row += warps) own += widen(x[row * n + column]);
    parts[warp][lane] = own;
    __syncthreads();
    if (warp == 0 && column < n) {
        A total = 0;
        for (u32 w = 0; w < warps; ++w) total += parts[w][lane];
        narrow(total, out[column]);
    }
}

// partial[b] = Σ x² over the block's share; the host adds a few hundred of them in their order.
template <class T> __device__ void sum_squares(const T* x, double* partial, u64 n) {
    double own = 0;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x) {
        double v = widen(x[i]);
        own += v * v;
    }
    own = sum_over_block(own);
    if (threadIdx.x == 0) partial[blockIdx.x] = own;
}

// x ← factor · x; overflowed[b] tells whether the block met an infinity or a NaN.
template <class T> __device__ void unscale(T* x, double factor, u32* overflowed, u64 n) {
    typedef wide<T> A;
    u32 own = 0;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x) {
        A v = widen(x[i]);
        own |= !(v - v == A(0));
        narrow(v * A(factor), x[i]);
    }
    own = over_block(own, [](u32 a, u32 b) { return a | b; });
    if (threadIdx.x == 0) overflowed[blockIdx.x] = own;
}

#define DEFINE(name, T) \
    extern "C" __global__ void sum_rows_##name(const T* x, T* out, u64 n, u64 inner) { sum_rows(x, out, n, inner); } \
    extern "C" __global__ void sum_columns_##name(const T* x, T* out, u64 rows, u64 n) { sum_columns(x, out, rows, n); } \
    extern "C" __global__ void sum_squares_##name(const T* x, double* partial, u64 n) { sum_squares(x, partial, n); } \
    extern "C" __global__ void unscale_##name(T* x, double factor, u32* overflowed, u64 n) { unscale(x, factor, overflowed, n); }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
