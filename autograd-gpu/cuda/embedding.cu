// Rows of a table by index, and the gradient of the table.

// y[i, :] = table[index[i], :]. A block a row; the host has checked the indices.
template <class T> __device__ void embedding(const T* table, const i64* index, T* y, u64 n) {
    typedef wide<T> A;
    map(y + blockIdx.x * n, table + index[blockIdx.x] * n, n, [](u64, A v) { return v; });
}

// dtable[r, :] = Σ ct[order[k], :] for k in starts[r] .. starts[r + 1]: `order` lists the positions
// sorted by their index, so that every row is summed in one order by one block, without atomics.
template <class T> __device__ void embedding_vjp(const T* ct, const i64* order, const i64* starts, T* dtable, u64 n) {
    typedef wide<T> A;
    for (u64 i = threadIdx.x; i < n; i += blockDim.x) {
        A sum = 0;
        for (i64 k = starts[blockIdx.x]; k < starts[blockIdx.x + 1]; ++k) sum += widen(ct[order[k] * n + i]);
        narrow(sum, dtable[blockIdx.x * n + i]);
    }
}

#define DEFINE(name, T) \
    extern "C" __global__ void embedding_##name(const T* table, const i64* index, T* y, u64 n) { embedding(table, index, y, n); } \
    extern "C" __global__ void embedding_vjp_##name(const T* ct, const i64* order, const i64* starts, T* dtable, u64 n) { embedding_vjp(ct, order, starts, dtable, n); }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
