// The largest or smallest elements over some dimensions, and where they are: the first of equal ones;
// NaN wins over all. `y` or `chosen` is null where it is not wanted.

// Floats are compared in the type in which they are computed, integers as such.
template <class T> __device__ inline wide<T> compared(T x) { return widen(x); }
__device__ inline i64 compared(unsigned char x) { return x; }
__device__ inline i64 compared(u32 x) { return x; }
__device__ inline i64 compared(i64 x) { return x; }

constexpr u64 NOWHERE = ~0ull;

// A number and its place among those that are compared.
template <class A> struct Found { A value; u64 at; };

template <class A> __device__ inline Found<A> better(Found<A> a, Found<A> b, bool max) {
    if (a.at == NOWHERE || b.at == NOWHERE) return a.at == NOWHERE ? b : a;
    bool left = a.value != a.value, right = b.value != b.value;
    if (left != right) return left ? a : b;
    if (left || a.value == b.value) return a.at < b.at ? a : b;
    return (a.value > b.value) == max ? a : b;
}

template <class A> __device__ inline Found<A> best_of_block(Found<A> own, bool max) {
    __shared__ A values[32];
    __shared__ u64 places[32];
    for (int step = 16; step > 0; step >>= 1) {
        A value = __shfl_xor_sync(0xffffffffu, own.value, step);
        u64 at = __shfl_xor_sync(0xffffffffu, own.at, step);
        own = better(own, Found<A>{value, at}, max);
    }
    if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = own.value, places[threadIdx.x / 32] = own.at;
    __syncthreads();
    for (u32 w = 0; w < blockDim.x / 32; ++w) own = better(own, Found<A>{values[w], places[w]}, max);
    return own;
}

// Dimensions to walk: those that stay, and those that go, each with its stride.
struct Walk { u64 kept[4], kept_strides[4], gone[4], gone_strides[4], n; };

__device__ inline u64 place_of(u64 j, const u64* dims, const u64* strides) {
    u64 at = 0;
    for (int d = 3; d >= 0; --d) at += j % dims[d] * strides[d], j /= dims[d];
    return at;
}

// A block an output.
template <class T> __device__ void extremum(const T* x, T* y, u32* chosen, Walk w, u64 max) {
    typedef decltype(compared(T())) A;
    x += place_of(blockIdx.x, w.kept, w.kept_strides);
    Found<A> own = {A(0), NOWHERE};
    for (u64 j = threadIdx.x; j < w.n; j += blockDim.x)
        own = better(own, Found<A>{compared(x[place_of(j, w.gone, w.gone_strides)]), j}, max);
    own = best_of_block(own, max);
    if (threadIdx.x) return;
    if (y) y[blockIdx.x] = x[place_of(own.at, w.gone, w.gone_strides)];
    if (chosen) chosen[blockIdx.x] = (u32)own.at;
}

// Of n elements `inner` apart: a thread an output.
template <class T> __device__ void extremum_columns(const T* x, T* y, u32* chosen, u64 n, u64 inner, u64 total, u64 max) {
    typedef decltype(compared(T())) A;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += (u64)gridDim.x * blockDim.x) {
        const T* first = x + i / inner * n * inner + i % inner;
        Found<A> own = {compared(*first), 0};
        for (u64 j = 1; j < n; ++j) own = better(own, Found<A>{compared(first[j * inner]), j}, max);
        if (y) y[i] = first[own.at * inner];
        if (chosen) chosen[i] = (u32)own.at;
    }
}

#define DEFINE(name, T) \
    extern "C" __global__ void extremum_##name(const T* x, T* y, u32* chosen, Walk w, u64 max) { extremum(x, y, chosen, w, max); } \
    extern "C" __global__ void extremum_columns_##name(const T* x, T* y, u32* chosen, u64 n, u64 inner, u64 total, u64 max) { extremum_columns(x, y, chosen, n, inner, total, max); }
FOR_EACH_FLOAT(DEFINE)
FOR_EACH_INTEGER(DEFINE)
#undef DEFINE
