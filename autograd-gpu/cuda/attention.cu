// Scaled dot product attention without the score matrix (Dao, Fu, Ermon, Rudra, Ré,
// "FlashAttention", 2022). A warp takes a row, its lanes the 32 keys (or queries) of a tile; tiles
// lie in shared memory. Only the log-sum-exp of each row is kept for the backward pass.
//
// q, y, ct: heads × l × d; k, v: heads / group × s × d; d at most 128. With `causal`, query i sees
// keys 0 ..= i. A row that sees nothing gives zeros.

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

struct Extent { u64 l, s; u32 d, group; u32 causal; double scale; };

// Blocks: x over groups of 4 queries, y over heads; 4 warps.
template <class T> __device__ void attention(const T* q, const T* k, const T* v, T* y, wide<T>* lse, Extent e) {
    typedef wide<T> A;
    __shared__ Tile<A> tile;
    __shared__ A rows[4][MOST];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u64 head = blockIdx.y, row = (u64)blockIdx.x * 4 + warp;
    k += head / e.group * e.s * e.d, v += head / e.group * e.s * e.d;
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
        bool seen = key < e.s && (!e.causal || key <= row);
        A score = seen ? dot(rows[warp], tile.at[lane], e.d) * (A)e.scale : -infinity_of(A());
        A new_max = larger(max, warp_max(score));
        // Nothing was seen so far: the weights are zero, not exp(-inf + inf).
        A base = new_max == -infinity_of(A()) ? A(0) : new_max;
        A weight = seen ? exp(score - base) : A(0), old = exp(max - base);
        sum = sum * old + warp_sum(weight);
        max = new_max;
        __syncthreads();
        fetch(tile, v, first, e.s, e.d);
        __syncthreads();
        for (int c = 0; c < OWN; ++c) own[c] *= old;
        for (int j = 0; j < TILE; ++j) {
            A w = __shfl_sync(0xffffffffu, weight, j);
            for (int c = 0; c < OWN; ++c)
                if (lane + 32 * c < e.d) own[c] += w * tile.at[j][lane + 32 * c];
        }
    }
    if (row >= e.l) return;
    A scale = sum > A(0) || sum != sum ? A(1) / sum : A(0);
    for (int c = 0; c < OWN; ++c)
        if (y && lane + 32 * c < e.d) narrow(own[c] * scale, y[(head * e.l + row) * e.d + lane + 32 * c]);
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

// dq = scale · Σ_j p_j (ct · v_j - delta) k_j. Blocks as in the forward pass.
template <class T> __device__ void attention_vjp_q(
    const T* ct, const T* q, const T* k, const T* v, const wide<T>* lse, const wide<T>* delta, T* dq, Extent e
) {
    typedef wide<T> A;
    __shared__ Tile<A> tile;
    __shared__ A rows[4][MOST], cts[4][MOST];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u64 head = blockIdx.y, row = (u64)blockIdx.x * 4 + warp;
    k += head / e.group * e.s * e.d, v += head / e.group * e.s * e.d;
    bool real = row < e.l;
    for (u32 c = lane; c < e.d; c += 32) {
        rows[warp][c] = real ? (A)widen(q[(head * e.l + row) * e.d + c]) : A(0);
        cts[warp][c] = real ? (A)widen(ct[(head * e.l + row) * e.d + c]) : A(0);
    }
    A sums = real ? lse[head * e.l + row] : infinity_of(A()), total = real ? delta[head * e.l + row] : A(0), own[OWN] = {};
    u64 last = (u64)blockIdx.x * 4 + 4;
    u64 end = e.causal ? (last < e.s ? last : e.s) : e.s;
    for (u64 first = 0; first < end; first += TILE) {
        u64 key = first + lane;
        bool seen = key < e.s && (!e.causal || key <= row);
        __syncthreads();
        fetch(tile, v, first, e.s, e.d);
        __syncthreads();
        A part = dot(cts[warp], tile.at[lane], e.d);
        __syncthreads();
        fetch(tile, k, first, e.s, e.d);
        __syncthreads();
        A p = seen ? exp(dot(rows[warp], tile.at[lane], e.d) * (A)e.scale - sums) : A(0);
        A slope = p * (part - total) * (A)e.scale;
        for (int j = 0; j < TILE; ++j) {
            A w = __shfl_sync(0xffffffffu, slope, j);
            for (int c = 0; c < OWN; ++c)
                if (lane + 32 * c < e.d) own[c] += w * tile.at[j][lane + 32 * c];
        }
    }
    if (real)
        for (int c = 0; c < OWN; ++c)
            if (lane + 32 * c < e.d) narrow(own[c], dq[(head * e.l + row) * e.d + lane + 32 * c]);
}

// dv = Σ_i p_i ct_i and dk = scale · Σ_i p_i (ct_i · v - delta_i) q_i over the queries of all heads
// that share the key; null where one is not wanted. Blocks: x over groups of 4 keys, y over key
// heads; 4 warps.
template <class T> __device__ void attention_vjp_kv(
    const T* ct, const T* q, const T* k, const T* v, const wide<T>* lse, const wide<T>* delta, T* dk, T* dv, Extent e
) {
    typedef wide<T> A;
    __shared__ Tile<A> tile;
    __shared__ A keys[4][MOST], values[4][MOST];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u64 shared_head = blockIdx.y, row = (u64)blockIdx.x * 4 + warp;
    bool real = row < e.s;
    for (u32 c = lane; c < e.d; c += 32) {
        keys[warp][c] = real ? (A)widen(k[(shared_head * e.s + row) * e.d + c]) : A(0);
        values[warp][c] = real ? (A)widen(v[(shared_head * e.s + row) * e.d + c]) : A(0);
    }
    A own_k[OWN] = {}, own_v[OWN] = {};
    for (u32 member = 0; member < e.group; ++member) {
        u64 head = shared_head * e.group + member;
        // Queries before the block's first key see none of its keys.
        u64 start = e.causal ? (u64)blockIdx.x * 4 / TILE * TILE : 0;
        for (u64 first = start; first < e.l; first += TILE) {
            u64 query = first + lane;
            bool sees = real && query < e.l && (!e.causal || row <= query);
            __syncthreads();
            fetch(tile, q + head * e.l * e.d, first, e.l, e.d);
            __syncthreads();
            A p = sees ? exp(dot(keys[warp], tile.at[lane], e.d) * (A)e.scale - lse[head * e.l + query]) : A(0);
            __syncthreads();
            fetch(tile, ct + head * e.l * e.d, first, e.l, e.d);
            __syncthreads();
            A slope = sees ? p * (dot(values[warp], tile.at[lane], e.d) - delta[head * e.l + query]) * (A)e.scale : A(0);
            for (int j = 0; j < TILE; ++j) {
                A w = __shfl_sync(0xffffffffu, p, j);
                for (int c = 0; c < OWN; ++c)
                    if (lane + 32 * c < e.d) own_v[c] += w * tile.at[j][lane + 32 * c];
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
        for (int c = 0; c < OWN; ++c)
            if (lane + 32 * c < e.d) {
                u64 at = (shared_head * e.s + row) * e.d + lane + 32 * c;
                if (dk) narrow(own_k[c], dk[at]);
                if (dv) narrow(own_v[c], dv[at]);
            }
}

#define DEFINE(name, T) \
    extern "C" __global__ void attention_##name(const T* q, const T* k, const T* v, T* y, wide<T>* lse, Extent e) { attention(q, k, v, y, lse, e); } \
    extern "C" __global__ void attention_delta_##name(const T* ct, const T* y, wide<T>* delta, u64 d) { attention_delta(ct, y, delta, d); } \
    extern "C" __global__ void attention_vjp_q_##name(const T* ct, const T* q, const T* k, const T* v, const wide<T>* lse, const wide<T>* delta, T* dq, Extent e) { attention_vjp_q(ct, q, k, v, lse, delta, dq, e); } \
    extern "C" __global__ void attention_vjp_kv_##name(const T* ct, const T* q, const T* k, const T* v, const wide<T>* lse, const wide<T>* delta, T* dk, T* dv, Extent e) { attention_vjp_kv(ct, q, k, v, lse, delta, dk, dv, e); }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
