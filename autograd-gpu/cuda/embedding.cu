// Rows of a table by index, and the gradient of the table: rows added by index. The positions of
// each row are sorted first (counted, summed, placed), so that one block adds a row's terms in one
// order, without atomics on floats.

// y[i, :] = table[index[i], :]. A block a row of y.
template <class T> __device__ void index_select(const T* table, const i64* index, T* y, u64* fault, u64 rows, u64 n) {
    i64 row = index[blockIdx.x];
    y += blockIdx.x * n;
    if (row < 0 || row >= (i64)rows) {
        if (threadIdx.x == 0) report(fault, row, blockIdx.x);
        for (u64 i = threadIdx.x; i < n; i += blockDim.x) narrow(wide<T>(0), y[i]);
        return;
    }
    map(y, table + row * n, n, [](u64, wide<T> v) { return v; });
}

// counts[r] = how many of the indices are r.
extern "C" __global__ void count_indices(const i64* index, u64* counts, u64* fault, u64 rows, u64 count) {
    for (u64 k = (u64)blockIdx.x * blockDim.x + threadIdx.x; k < count; k += (u64)gridDim.x * blockDim.x) {
        i64 row = index[k];
        if (row < 0 || row >= (i64)rows) report(fault, row, k);
        else atomicAdd(counts + row, 1ull);
    }
}

// starts[r] = counts[0] + … + counts[r - 1], and starts[rows] their sum: one block.
extern "C" __global__ void starts_of_rows(const u64* counts, u64* starts, u64 rows) {
    __shared__ u64 shares[1024];
    u64 per = (rows + blockDim.x - 1) / blockDim.x, first = threadIdx.x * per;
    u64 last = first + per < rows ? first + per : rows, sum = 0;
    for (u64 r = first; r < last; ++r) sum += counts[r];
    shares[threadIdx.x] = sum;
    __syncthreads();
    u64 before = 0;
    for (u32 t = 0; t < threadIdx.x; ++t) before += shares[t];
    for (u64 r = first; r < last; ++r) starts[r] = before, before += counts[r];
    if (threadIdx.x == blockDim.x - 1) starts[rows] = before;
}

// order[starts[r] ..] = the positions of index r, ascending: a warp a row, which reads all indices.
extern "C" __global__ void order_indices(const i64* index, const u64* starts, u64* order, u64 rows, u64 count) {
    u32 lane = threadIdx.x % 32;
    u64 row = ((u64)blockIdx.x * blockDim.x + threadIdx.x) / 32;
    if (row >= rows || starts[row] == starts[row + 1]) return;
    u64 next = starts[row];
    for (u64 first = 0; first < count && next < starts[row + 1]; first += 32) {
        bool hit = first + lane < count && index[first + lane] == (i64)row;
        u32 hits = __ballot_sync(0xffffffffu, hit);
        if (hit) order[next + __popc(hits & ((1u << lane) - 1))] = first + lane;
        next += __popc(hits);
    }
}

// y[r, :] = x[r, :] + Σ source[order[k], :] for k in starts[r] .. starts[r + 1]. A block a row.
template <class T> __device__ void index_add(
    const T* x, const T* source, const u64* order, const u64* starts, T* y, u64 n
) {
    u64 row = blockIdx.x;
    for (u64 i = threadIdx.x; i < n; i += blockDim.x) {
        wide<T> sum = widen(x[row * n + i]);
        for (u64 k = starts[row]; k < starts[row + 1]; ++k) sum += widen(source[order[k] * n + i]);
        narrow(sum, y[row * n + i]);
    }
}

#define DEFINE(name, T) \
    extern "C" __global__ void index_select_##name(const T* table, const i64* index, T* y, u64* fault, u64 rows, u64 n) { index_select(table, index, y, fault, rows, n); } \
    extern "C" __global__ void index_add_##name(const T* x, const T* source, const u64* order, const u64* starts, T* y, u64 n) { index_add(x, source, order, starts, y, n); }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
