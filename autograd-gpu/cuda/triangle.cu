// Triangles of matrices: what is not kept is zero, whose bits are zeros in every type. Threads walk by
// the grid.

// column - row ≤ diagonal is kept, or ≥ for the upper one.
struct Triangle { u64 rows, columns; i64 diagonal; u64 upper, n; };

template <class T> __device__ void triangle(const T* x, T* y, Triangle t) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < t.n; i += (u64)gridDim.x * blockDim.x) {
        i64 right = (i64)(i % t.columns) - (i64)(i / t.columns % t.rows);
        y[i] = (t.upper ? right >= t.diagonal : right <= t.diagonal) ? x[i] : T(0);
    }
}

extern "C" __global__ void triangle_1(const unsigned char* x, unsigned char* y, Triangle t) { triangle(x, y, t); }
extern "C" __global__ void triangle_2(const unsigned short* x, unsigned short* y, Triangle t) { triangle(x, y, t); }
extern "C" __global__ void triangle_4(const u32* x, u32* y, Triangle t) { triangle(x, y, t); }
extern "C" __global__ void triangle_8(const u64* x, u64* y, Triangle t) { triangle(x, y, t); }
