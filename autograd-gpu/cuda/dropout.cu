// Dropout by Philox 4x32-10: element i of a key is word i of the key's first stream, exactly as on
// the CPU, so both give the same mask. It is its own transpose: the backward pass runs it on ct.

__device__ inline void philox(u32 counter[4], u32 k0, u32 k1) {
    for (int round = 0; round < 10; ++round) {
        u64 a = (u64)counter[0] * 0xD2511F53u, b = (u64)counter[2] * 0xCD9E8D57u;
        u32 next[4] = {(u32)(b >> 32) ^ counter[1] ^ k0, (u32)b, (u32)(a >> 32) ^ counter[3] ^ k1, (u32)a};
        for (int j = 0; j < 4; ++j) counter[j] = next[j];
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
}

// Blocks: x over a key's n elements, y over keys. y = x / (1 - rate) where the word is at least the threshold rate · 2³², else 0.
template <class T> __device__ void dropout(const T* x, T* y, const u32* key, u64 threshold, double scale, u64 n) {
    u64 blocks = (n + 3) / 4;
    x += blockIdx.y * n, y += blockIdx.y * n, key += blockIdx.y * 2;
    for (u64 block = (u64)blockIdx.x * blockDim.x + threadIdx.x; block < blocks; block += (u64)gridDim.x * blockDim.x) {
        u32 words[4] = {(u32)block, (u32)(block >> 32), 0, 0};
        philox(words, key[0], key[1]);
        for (u64 j = 0; j < 4 && block * 4 + j < n; ++j) {
            u64 i = block * 4 + j;
            // The scale is rounded to the type first, as the CPU does.
            narrow(words[j] >= threshold ? widen(x[i]) * (wide<T>)scale : (wide<T>)0, y[i]);
        }
    }
}

#define DEFINE(name, T) \
    extern "C" __global__ void dropout_##name(const T* x, T* y, const u32* key, u64 threshold, double scale, u64 n) { dropout(x, y, key, threshold, scale, n); }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
