// Running sums along a dimension.

// Lines of n elements that lie `inner` apart, `total` of them; from the other end where they are reversed.
struct Lines { u64 n, inner, total, reversed; };

__device__ inline u64 start_of(u64 line, Lines g) { return line / g.inner * g.n * g.inner + line % g.inner; }
__device__ inline u64 turned(u64 k, Lines g) { return (g.reversed ? g.n - 1 - k : k) * g.inner; }

// The sums of the block's values up to each thread's, behind `carry`, which becomes the last of them.
template <class A> __device__ inline A running_sum(A value, A& carry) {
    __shared__ A sums[32];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (u32 step = 1; step < 32; step <<= 1) {
        A before = __shfl_up_sync(0xffffffffu, value, step);
        if (lane >= step) value += before;
    }
    __syncthreads();
    if (lane == 31) sums[warp] = value;
    __syncthreads();
    A before = carry;
    for (u32 w = 0; w < blockDim.x / 32; ++w) {
        if (w < warp) before += sums[w];
        carry += sums[w];
    }
    return before + value;
}

// A block a line, as many elements at a time as it has threads.
template <class T> __device__ void cumsum(const T* x, T* y, Lines g) {
    typedef wide<T> A;
    x += start_of(blockIdx.x, g), y += start_of(blockIdx.x, g);
    A carry = 0;
    for (u64 first = 0; first < g.n; first += blockDim.x) {
        u64 k = first + threadIdx.x;
        A sum = running_sum(k < g.n ? (A)widen(x[turned(k, g)]) : A(0), carry);
        if (k < g.n) narrow(sum, y[turned(k, g)]);
    }
}

// A thread a line.
template <class T> __device__ void cumsum_columns(const T* x, T* y, Lines g) {
    typedef wide<T> A;
    for (u64 line = (u64)blockIdx.x * blockDim.x + threadIdx.x; line < g.total; line += (u64)gridDim.x * blockDim.x) {
        u64 start = start_of(line, g);
        A sum = 0;
        for (u64 k = 0; k < g.n; ++k) {
            sum += widen(x[start + turned(k, g)]);
            narrow(sum, y[start + turned(k, g)]);
        }
    }
}

#define DEFINE(name, T) \
    extern "C" __global__ void cumsum_##name(const T* x, T* y, Lines g) { cumsum(x, y, g); } \
    extern "C" __global__ void cumsum_columns_##name(const T* x, T* y, Lines g) { cumsum_columns(x, y, g); }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
