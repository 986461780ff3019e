// Elements moved from one layout to another, and indices as 64-bit integers. A copy knows no type,
// only how many bytes an element has. Threads walk by the grid.

// Where both sides begin, and their steps: one that leads backwards is a number modulo 2⁶⁴.
struct Walk { u64 n, from_start, to_start; u64 from[8], to[8]; u32 dims[8]; };

template <class T> __device__ void copy(const T* x, T* y, Walk w) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < w.n; i += (u64)gridDim.x * blockDim.x) {
        u64 from = w.from_start, to = w.to_start, rest = i;
        for (int d = 7; d >= 0; --d) {
            u64 c = rest % w.dims[d];
            rest /= w.dims[d];
            from += c * w.from[d], to += c * w.to[d];
        }
        y[to] = x[from];
    }
}

extern "C" __global__ void copy_1(const unsigned char* x, unsigned char* y, Walk w) { copy(x, y, w); }
extern "C" __global__ void copy_2(const unsigned short* x, unsigned short* y, Walk w) { copy(x, y, w); }
extern "C" __global__ void copy_4(const u32* x, u32* y, Walk w) { copy(x, y, w); }
extern "C" __global__ void copy_8(const u64* x, u64* y, Walk w) { copy(x, y, w); }

template <class T> __device__ void index(const T* x, i64* y, u64 n) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (u64)gridDim.x * blockDim.x) y[i] = (i64)x[i];
}

extern "C" __global__ void index_of_u8(const unsigned char* x, i64* y, u64 n) { index(x, y, n); }
extern "C" __global__ void index_of_u32(const u32* x, i64* y, u64 n) { index(x, y, n); }
