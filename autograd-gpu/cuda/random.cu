// Random numbers by Philox 4x32-10: word i of a stream of a key is a function of the three, exactly as
// on the CPU, so both give the same bits. (Normal numbers go through the device's logarithm and cosine,
// whose last bits are their own.) Threads walk by the grid.

// What the words of a key are drawn for.
constexpr u32 DRAW = 0, SPLIT = 1, FOLD = 2;

struct Words { u32 at[4]; };

__device__ inline Words philox(u64 block, u32 stream, const u32* key) {
    u32 counter[4] = {(u32)block, (u32)(block >> 32), stream, 0}, k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; ++round) {
        u64 a = (u64)counter[0] * 0xD2511F53u, b = (u64)counter[2] * 0xCD9E8D57u;
        u32 next[4] = {(u32)(b >> 32) ^ counter[1] ^ k0, (u32)b, (u32)(a >> 32) ^ counter[3] ^ k1, (u32)a};
        for (int j = 0; j < 4; ++j) counter[j] = next[j];
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return {{counter[0], counter[1], counter[2], counter[3]}};
}

// Numbers in [0, 1) of as many random bits as the type holds; rounding cannot give 1.
__device__ inline double unit(u32 high, u32 low) {
    return (double)(((u64)high << 32 | low) >> 11) * (1.0 / 9007199254740992.0);
}
__device__ inline void unit(u32 word, float& to) { to = (float)(word >> 8) * (1.0f / 16777216.0f); }
__device__ inline void unit(u32 word, f16& to) { narrow((float)(word >> 21) / 2048.0f, to); }
__device__ inline void unit(u32 word, bf16& to) { narrow((float)(word >> 24) / 256.0f, to); }

// Calls f(a block's words, the output's part of the key, the block's number): each of `keys` fills n
// elements, `each` of them by a block.
template <class T, class F> __device__ inline void for_each_block(T* y, const u32* key, u64 keys, u64 n, u64 each, F f) {
    u64 blocks = (n + each - 1) / each;
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < blocks * keys; at += (u64)gridDim.x * blockDim.x)
        f(philox(at % blocks, DRAW, key + at / blocks * 2), y + at / blocks * n, at % blocks * each);
}

// A word an element.
template <class T> __device__ void uniform(const u32* key, T* y, u64 keys, u64 n) {
    for_each_block(y, key, keys, n, 4, [=](Words words, T* own, u64 first) {
        for (u64 j = 0; j < 4 && first + j < n; ++j) unit(words.at[j], own[first + j]);
    });
}

// Two words an element.
__device__ inline void uniform(const u32* key, double* y, u64 keys, u64 n) {
    for_each_block(y, key, keys, n, 2, [=](Words words, double* own, u64 first) {
        own[first] = unit(words.at[0], words.at[1]);
        if (first + 1 < n) own[first + 1] = unit(words.at[2], words.at[3]);
    });
}

// The method of Box and Muller: a block an element.
template <class T> __device__ void normal(const u32* key, T* y, u64 keys, u64 n) {
    for_each_block(y, key, keys, n, 1, [=](Words words, T* own, u64 i) {
        // 1 - u is never 0.
        double radius = 1.0 - unit(words.at[0], words.at[1]), angle = unit(words.at[2], words.at[3]);
        narrow((wide<T>)(sqrt(-2.0 * log(radius)) * cos(6.283185307179586 * angle)), own[i]);
    });
}

// y = x / (1 - rate) where the element's word is at least the threshold rate · 2³², else 0. It is its own
// transpose: the backward pass runs it on ct.
template <class T> __device__ void dropout(const T* x, T* y, const u32* key, u64 keys, u64 threshold, double scale, u64 n) {
    for_each_block(y, key, keys, n, 4, [=](Words words, T* own, u64 first) {
        for (u64 j = 0; j < 4 && first + j < n; ++j) {
            // The scale is rounded to the type first, as the CPU does.
            wide<T> v = widen(x[own + first + j - y]);
            narrow(words.at[j] >= threshold ? v * (wide<T>)scale : (wide<T>)0, own[first + j]);
        }
    });
}

// n new keys from each key.
extern "C" __global__ void split_key(const u32* key, u32* y, u64 keys, u64 n) {
    u64 blocks = (n + 1) / 2;
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < blocks * keys; at += (u64)gridDim.x * blockDim.x) {
        Words words = philox(at % blocks, SPLIT, key + at / blocks * 2);
        u32* own = y + at / blocks * n * 2;
        for (u64 j = 0; j < 4 && at % blocks * 4 + j < n * 2; ++j) own[at % blocks * 4 + j] = words.at[j];
    }
}

// A new key for a number, from each key.
extern "C" __global__ void fold_in(const u32* key, u32* y, u64 keys, u64 number) {
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < keys; at += (u64)gridDim.x * blockDim.x) {
        Words words = philox(number, FOLD, key + at * 2);
        y[at * 2] = words.at[0], y[at * 2 + 1] = words.at[1];
    }
}

#define DEFINE(name, T) \
    extern "C" __global__ void uniform_##name(const u32* key, T* y, u64 keys, u64 n) { uniform(key, y, keys, n); } \
    extern "C" __global__ void normal_##name(const u32* key, T* y, u64 keys, u64 n) { normal(key, y, keys, n); } \
    extern "C" __global__ void dropout_##name(const T* x, T* y, const u32* key, u64 keys, u64 threshold, double scale, u64 n) { dropout(x, y, key, keys, threshold, scale, n); }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
