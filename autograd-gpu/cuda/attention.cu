// Scaled dot product attention without the score matrix (Dao, Fu, Ermon, Rudra, Ré,
// "FlashAttention", 2022). A warp takes a row, its lanes the 32 keys (or queries) of a tile; tiles
// lie in shared memory. Only the log-sum-exp of each row is kept for the backward pass.
//
// q: heads × l × d; y, ct: heads × l × n; k: heads / group × s × d; v: heads / group × s × n; d and n
// at most 128. With `causal`, query i sees keys 0 ..= i. A mask is bytes, 0 where a key is not seen,
// or numbers that are added to the scores, -inf where it is not seen. A row that sees nothing gives
// zeros.

constexpr int TILE = 32;
constexpr int MOST = 128;
// Output columns of a lane.
constexpr int OWN = MOST / 32;

template <class A> struct Tile { A at[TILE][MOST + 1]; };

// Rows first .. first + 32 of a matrix of `rows` × d, zeros behind its end.
template <class T, class A> __device__ inline void fetch(Tile<A>& tile, const T* from, u64 first, u64 rows, u32 d) {
    for (u32 i = threadIdx.x; i < TILE * d; i += blockDim.x) {
        u64 row = first + i / d;
        tile.at[i / d][i % d] = row < rows ? (A)widen(from[row * d + i % d]) : A(0);
    }
}

template <class A> __device__ inline A dot(const A* a, const A* b, u32 d) {
    A sum = 0;
    for (u32 c = 0; c < d; ++c) sum += a[c] * b[c];
    return sum;
}

template <class A> __device__ inline A warp_max(A x) {
    for (int step = 16; step > 0; step >>= 1) x = larger(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

template <class A> __device__ inline A warp_sum(A x) {
    for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

struct Extent { u64 l, s; u32 d, n, group, causal; double scale; };

// Where the numbers of a mask lie: steps along queries and keys, and along the dimensions of heads.
struct Places { u64 row, key, steps[6]; u32 dims[6], bytes, unused; };

// A mask before the rows of one head.
template <class T> struct Mask {
    const void* data;
    u64 at, row, key;
    bool bytes;

    __device__ inline Mask(const void* mask, const Places& p, u64 head)
        : data(mask), at(0), row(p.row), key(p.key), bytes(p.bytes) {
        for (int i = 5; i >= 0; --i) at += head % p.dims[i] * p.steps[i], head /= p.dims[i];
    }

    // What is added to a score; -inf where the key is not seen.
    __device__ inline wide<T> added(u64 i, u64 j) const {
        typedef wide<T> A;
        if (!data) return A(0);
        u64 place = at + i * row + j * key;
        if (bytes) return ((const unsigned char*)data)[place] ? A(0) : -infinity_of(A());
        return widen(((const T*)data)[place]);
    }
};

// Blocks: x over groups of 4 queries, y over heads; 4 warps.
template <class T> __device__ void attention(
    const T* q, const T* k, const T* v, const void* mask, T* y, wide<T>* lse, Extent e, Places places
) {
    typedef wide<T> A;
    __shared__ Tile<A> tile;
    __shared__ A rows[4][MOST];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u64 head = blockIdx.y, row = (u64)blockIdx.x * 4 + warp;
    k += head / e.group * e.s * e.d, v += head / e.group * e.s * e.n;
    Mask<T> shown(mask, places, head);
    for (u32 c = lane; c < e.d; c += 32) rows[warp][c] = row < e.l ? (A)widen(q[(head * e.l + row) * e.d + c]) : A(0);
    A max = -infinity_of(A()), sum = 0, own[OWN] = {};
    // The last query of the block sees the most keys: every warp walks as far.
    u64 last = (u64)blockIdx.x * 4 + 4;
    u64 end = e.causal ? (last < e.s ? last : e.s) : e.s;
    for (u64 first = 0; first < end; first += TILE) {
        __syncthreads();
        fetch(tile, k, first, e.s, e.d);
        __syncthreads();
        u64 key = first + lane;
        bool seen = row < e.l && key < e.s && (!e.causal || key <= row);
        A more = seen ? shown.added(row, key) : A(0);
        seen = seen && more != -infinity_of(A());
        A score = seen ? dot(rows[warp], tile.at[lane], e.d) * (A)e.scale + more : -infinity_of(A());
        A new_max = larger(max, warp_max(score));
        // Nothing was seen so far: the weights are zero, not exp(-inf + inf).
        A base = new_max == -infinity_of(A()) ? A(0) : new_max;
        A weight = seen ? exp(score - base) : A(0), old = exp(max - base);
        sum = sum * old + warp_sum(weight);
        max = new_max;
        __syncthreads();
        fetch(tile, v, first, e.s, e.n);
        __syncthreads();
        for (int c = 0; c < OWN; ++c) own[c] *= old;
        for (int j = 0; j < TILE; ++j) {
            A w = __shfl_sync(0xffffffffu, weight, j);
            for (int c = 0; c < OWN; ++c)
                if (lane + 32 * c < e.n) own[c] += w * tile.at[j][lane + 32 * c];
        }
    }
    if (row >= e.l) return;
    A scale = sum > A(0) || sum != sum ? A(1) / sum : A(0);
    for (int c = 0; c < OWN; ++c)
        if (y && lane + 32 * c < e.n) narrow(own[c] * scale, y[(head * e.l + row) * e.n + lane + 32 * c]);
    // A row that saw nothing keeps +inf: its weights are zero in the backward pass.
    if (lane == 0) lse[head * e.l + row] = sum == A(0) ? infinity_of(A()) : max + log(sum);
}

// delta[row] = Σ ct · y: a block a row.
template <class T> __device__ void attention_delta(const T* ct, const T* y, wide<T>* delta, u64 d) {
    typedef wide<T> A;
    A own = 0;
    each2(ct + blockIdx.x * d, y + blockIdx.x * d, d, [&](u64, A c, A o) { own += c * o; });
    own = sum_over_block(own);
    if (threadIdx.x == 0) delta[blockIdx.x] = own;
}

// ds_j = p_j (ct · v_j - delta) and dq = scale · Σ_j ds_j k_j; null where one is not wanted. ds, the
// gradient of an added mask, is heads × l × s. Blocks as in the forward pass.
template <class T> __device__ void attention_vjp_q(
    const T* ct, const T* q, const T* k, const T* v, const void* mask, const wide<T>* lse, const wide<T>* delta,
    T* dq, T* ds, Extent e, Places places
) {
    typedef wide<T> A;
    __shared__ Tile<A> tile;
    __shared__ A rows[4][MOST], cts[4][MOST];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u64 head = blockIdx.y, row = (u64)blockIdx.x * 4 + warp;
    k += head / e.group * e.s * e.d, v += head / e.group * e.s * e.n;
    Mask<T> shown(mask, places, head);
    bool real = row < e.l;
    for (u32 c = lane; c < e.d; c += 32) rows[warp][c] = real ? (A)widen(q[(head * e.l + row) * e.d + c]) : A(0);
    for (u32 c = lane; c < e.n; c += 32) cts[warp][c] = real ? (A)widen(ct[(head * e.l + row) * e.n + c]) : A(0);
    A sums = real ? lse[head * e.l + row] : infinity_of(A()), total = real ? delta[head * e.l + row] : A(0), own[OWN] = {};
    u64 last = (u64)blockIdx.x * 4 + 4;
    // ds has zeros for the keys that are too late.
    u64 end = e.causal && !ds ? (last < e.s ? last : e.s) : e.s;
    for (u64 first = 0; first < end; first += TILE) {
        u64 key = first + lane;
        bool seen = real && key < e.s && (!e.causal || key <= row);
        A more = seen ? shown.added(row, key) : A(0);
        seen = seen && more != -infinity_of(A());
        __syncthreads();
        fetch(tile, v, first, e.s, e.n);
        __syncthreads();
        A part = dot(cts[warp], tile.at[lane], e.n);
        __syncthreads();
        fetch(tile, k, first, e.s, e.d);
        __syncthreads();
        A p = seen ? exp(dot(rows[warp], tile.at[lane], e.d) * (A)e.scale + more - sums) : A(0);
        A slope = seen ? p * (part - total) : A(0);
        if (ds && real && key < e.s) narrow(slope, ds[(head * e.l + row) * e.s + key]);
        slope *= (A)e.scale;
        for (int j = 0; j < TILE; ++j) {
            A w = __shfl_sync(0xffffffffu, slope, j);
            for (int c = 0; c < OWN; ++c)
                if (lane + 32 * c < e.d) own[c] += w * tile.at[j][lane + 32 * c];
        }
    }
    if (real && dq)
        for (int c = 0; c < OWN; ++c)
            if (lane + 32 * c < e.d) narrow(own[c], dq[(head * e.l + row) * e.d + lane + 32 * c]);
}

// dv = Σ_i p_i ct_i and dk = scale · Σ_i p_i (ct_i · v - delta_i) q_i over the queries of all heads
// that share the key; null where one is not wanted. Blocks: x over groups of 4 keys, y over key
// heads; 4 warps.
template <class T> __device__ void attention_vjp_kv(
    const T* ct, const T* q, const T* k, const T* v, const void* mask, const wide<T>* lse, const wide<T>* delta,
    T* dk, T* dv, Extent e, Places places
) {
    typedef wide<T> A;
    __shared__ Tile<A> tile;
    __shared__ A keys[4][MOST], values[4][MOST];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u64 shared_head = blockIdx.y, row = (u64)blockIdx.x * 4 + warp;
    bool real = row < e.s;
    for (u32 c = lane; c < e.d; c += 32) keys[warp][c] = real ? (A)widen(k[(shared_head * e.s + row) * e.d + c]) : A(0);
    for (u32 c = lane; c < e.n; c += 32) values[warp][c] = real ? (A)widen(v[(shared_head * e.s + row) * e.n + c]) : A(0);
    A own_k[OWN] = {}, own_v[OWN] = {};
    for (u32 member = 0; member < e.group; ++member) {
        u64 head = shared_head * e.group + member;
        Mask<T> shown(mask, places, head);
        // Queries before the block's first key see none of its keys.
        u64 start = e.causal ? (u64)blockIdx.x * 4 / TILE * TILE : 0;
        for (u64 first = start; first < e.l; first += TILE) {
            u64 query = first + lane;
            bool sees = real && query < e.l && (!e.causal || row <= query);
            A more = sees ? shown.added(query, row) : A(0);
            sees = sees && more != -infinity_of(A());
            __syncthreads();
            fetch(tile, q + head * e.l * e.d, first, e.l, e.d);
            __syncthreads();
            A p = sees ? exp(dot(keys[warp], tile.at[lane], e.d) * (A)e.scale + more - lse[head * e.l + query]) : A(0);
            __syncthreads();
            fetch(tile, ct + head * e.l * e.n, first, e.l, e.n);
            __syncthreads();
            A slope = sees ? p * (dot(values[warp], tile.at[lane], e.n) - delta[head * e.l + query]) * (A)e.scale : A(0);
            for (int j = 0; j < TILE; ++j) {
                A w = __shfl_sync(0xffffffffu, p, j);
                for (int c = 0; c < OWN; ++c)
                    if (lane + 32 * c < e.n) own_v[c] += w * tile.at[j][lane + 32 * c];
            }
            __syncthreads();
            fetch(tile, q + head * e.l * e.d, first, e.l, e.d);
            __syncthreads();
            for (int j = 0; j < TILE; ++j) {
                A w = __shfl_sync(0xffffffffu, slope, j);
                for (int c = 0; c < OWN; ++c)
                    if (lane + 32 * c < e.d) own_k[c] += w * tile.at[j][lane + 32 * c];
            }
        }
    }
    if (real)
        for (int c = 0; c < OWN; ++c) {
            u32 column = lane + 32 * c;
            u64 at = shared_head * e.s + row;
            if (dk && column < e.d) narrow(own_k[c], dk[at * e.d + column]);
            if (dv && column < e.n) narrow(own_v[c], dv[at * e.n + column]);
        }
}

#define DEFINE(name, T) \
    extern "C" __global__ void attention_##name(const T* q, const T* k, const T* v, const void* mask, T* y, wide<T>* lse, Extent e, Places p) { attention(q, k, v, mask, y, lse, e, p); } \
    extern "C" __global__ void attention_delta_##name(const T* ct, const T* y, wide<T>* delta, u64 n) { attention_delta(ct, y, delta, n); } \
    extern "C" __global__ void attention_vjp_q_##name(const T* ct, const T* q, const T* k, const T* v, const void* mask, const wide<T>* lse, const wide<T>* delta, T* dq, T* ds, Extent e, Places p) { attention_vjp_q(ct, q, k, v, mask, lse, delta, dq, ds, e, p); } \
    extern "C" __global__ void attention_vjp_kv_##name(const T* ct, const T* q, const T* k, const T* v, const void* mask, const wide<T>* lse, const wide<T>* delta, T* dk, T* dv, Extent e, Places p) { attention_vjp_kv(ct, q, k, v, mask, lse, delta, dk, dv, e, p); }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
