// Sorting along a dimension, in the CPU's order: equal elements keep theirs, and NaN is the largest.
// Tiles are sorted in shared memory by a bitonic network (Batcher, 1968), then sorted runs are merged
// in pairs: an element's place is its place in its own run and its rank in the other.
//
// An element is compared as a whole number whose order is the element's, then by its index, so that no
// two are equal and any network gives the same.

constexpr u32 MOST = 1024;
constexpr u64 SIGN = 1ull << 63;

// -0 is 0, and every NaN the same.
__device__ inline u64 key_of(double x) {
    if (x != x) return ~0ull;
    u64 bits = (u64)__double_as_longlong(x == 0 ? 0.0 : x);
    return bits & SIGN ? ~bits : bits | SIGN;
}
template <class T> __device__ inline u64 key_of(T x) { return key_of((double)widen(x)); }
__device__ inline u64 key_of(unsigned char x) { return x; }
__device__ inline u64 key_of(u32 x) { return x; }
__device__ inline u64 key_of(i64 x) { return (u64)x ^ SIGN; }

__device__ inline bool before(u64 key, u32 index, u64 other, u32 other_index) {
    return key < other || (key == other && index < other_index);
}

// Lines of n elements that lie `inner` apart, `total` of them.
struct Lines { u64 n, inner, total; };

// Where a line of x begins.
__device__ inline u64 start_of(u64 line, Lines g) { return line / g.inner * g.n * g.inner + line % g.inner; }

// Runs of 2 · blockDim elements, of a line each: a block a run. The threads are a power of two.
template <class T> __device__ void sort_tiles(const T* x, u64* keys, u32* indices, Lines g, u64 descending) {
    __shared__ u64 tile_keys[MOST];
    __shared__ u32 tile_indices[MOST];
    u32 tile = 2 * blockDim.x;
    u64 runs = (g.n + tile - 1) / tile, line = blockIdx.x / runs, first = blockIdx.x % runs * tile;
    x += start_of(line, g);
    for (u32 i = threadIdx.x; i < tile; i += blockDim.x) {
        bool real = first + i < g.n;
        u64 key = real ? key_of(x[(first + i) * g.inner]) : 0;
        // What fills a tile up comes behind everything.
        tile_keys[i] = !real ? ~0ull : descending ? ~key : key;
        tile_indices[i] = real ? (u32)(first + i) : ~0u;
    }
    for (u32 run = 2; run <= tile; run <<= 1)
        for (u32 step = run >> 1; step > 0; step >>= 1) {
            __syncthreads();
            u32 a = 2 * threadIdx.x - (threadIdx.x & (step - 1)), b = a + step;
            u64 left = tile_keys[a], right = tile_keys[b];
            u32 left_index = tile_indices[a], right_index = tile_indices[b];
            // Runs alternate in their order, so that two of them make one that rises and falls.
            if (before(right, right_index, left, left_index) == !(a & run)) {
                tile_keys[a] = right, tile_keys[b] = left;
                tile_indices[a] = right_index, tile_indices[b] = left_index;
            }
        }
    __syncthreads();
    for (u32 i = threadIdx.x; i < tile && first + i < g.n; i += blockDim.x) {
        keys[line * g.n + first + i] = tile_keys[i];
        indices[line * g.n + first + i] = tile_indices[i];
    }
}

// Pairs of runs of `run` elements become one each. Threads walk by the grid.
extern "C" __global__ void merge_runs(const u64* keys, const u32* indices, u64* to_keys, u32* to_indices, Lines g, u64 run) {
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < g.total * g.n; at += (u64)gridDim.x * blockDim.x) {
        u64 i = at % g.n, line = at - i, pair = i / (2 * run) * 2 * run;
        bool second = i - pair >= run;
        u64 low = second ? pair : pair + run < g.n ? pair + run : g.n, other = low;
        u64 high = low + run < g.n ? low + run : g.n;
        u64 key = keys[at];
        u32 index = indices[at];
        while (low < high) {
            u64 middle = (low + high) / 2;
            if (before(keys[line + middle], indices[line + middle], key, index)) low = middle + 1;
            else high = middle;
        }
        u64 to = line + i - (second ? run : 0) + (low - other);
        to_keys[to] = key, to_indices[to] = index;
    }
}

// The first `count` of each line, and their indices. Threads walk by the grid.
template <class T> __device__ void take_sorted(const T* x, const u32* sorted, T* values, u32* indices, Lines g, u64 count) {
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < g.total * count; at += (u64)gridDim.x * blockDim.x) {
        u64 line = at / (g.inner * count) * g.inner + at % g.inner;
        u32 index = sorted[line * g.n + at / g.inner % count];
        values[at] = x[start_of(line, g) + index * g.inner];
        indices[at] = index;
    }
}

extern "C" __global__ void take_sorted_1(const unsigned char* x, const u32* sorted, unsigned char* values, u32* indices, Lines g, u64 count) { take_sorted(x, sorted, values, indices, g, count); }
extern "C" __global__ void take_sorted_2(const unsigned short* x, const u32* sorted, unsigned short* values, u32* indices, Lines g, u64 count) { take_sorted(x, sorted, values, indices, g, count); }
extern "C" __global__ void take_sorted_4(const u32* x, const u32* sorted, u32* values, u32* indices, Lines g, u64 count) { take_sorted(x, sorted, values, indices, g, count); }
extern "C" __global__ void take_sorted_8(const u64* x, const u32* sorted, u64* values, u32* indices, Lines g, u64 count) { take_sorted(x, sorted, values, indices, g, count); }

#define DEFINE(name, T) \
    extern "C" __global__ void sort_tiles_##name(const T* x, u64* keys, u32* indices, Lines g, u64 descending) { sort_tiles(x, keys, indices, g, descending); }
FOR_EACH_FLOAT(DEFINE)
FOR_EACH_INTEGER(DEFINE)
#undef DEFINE
