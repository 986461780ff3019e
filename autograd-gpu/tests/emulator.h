// CUDA's execution model on a CPU, to check kernels where there is no GPU: the threads of a block
// are threads, blocks run one after the other, shared memory is static, and a barrier joins them.
// Every shuffle must be reached by its whole warp, and blocks are of whole warps.
#pragma once
#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#define AUTOGRAD_EMULATED
#define __global__
#define __device__
#define __shared__ static
using std::exp; using std::expm1; using std::log; using std::log1p; using std::log2; using std::sqrt; using std::pow;
using std::floor; using std::ceil; using std::rint; using std::fabs; using std::sin; using std::cos; using std::tan;
using std::asin; using std::acos; using std::atan; using std::sinh; using std::cosh; using std::tanh; using std::asinh;
using std::acosh; using std::atanh; using std::erf; using std::lgamma; using std::atan2; using std::hypot; using std::copysign;

struct Dim { unsigned x, y, z; };
static thread_local Dim threadIdx, blockIdx;
static Dim blockDim, gridDim;
static std::barrier<>* gate;
static std::vector<std::unique_ptr<std::barrier<>>> warps;

inline void __syncthreads() { gate->arrive_and_wait(); }
inline void sync_warp() { warps[threadIdx.x / 32]->arrive_and_wait(); }
inline float __int_as_float(int bits) { float f; memcpy(&f, &bits, 4); return f; }
inline double __longlong_as_double(long long bits) { double f; memcpy(&f, &bits, 8); return f; }

template <class T> T exchange(T value, unsigned from) {
    static char slots[1024][sizeof(T)];
    memcpy(slots[threadIdx.x], &value, sizeof(T));
    sync_warp();
    T other;
    memcpy(&other, slots[from], sizeof(T));
    sync_warp();
    return other;
}
template <class T> T __shfl_xor_sync(unsigned, T value, int step) { return exchange(value, threadIdx.x ^ step); }
template <class T> T __shfl_sync(unsigned, T value, int lane) { return exchange(value, threadIdx.x / 32 * 32 + lane); }

template <class F> void launch(Dim grid, unsigned threads, F kernel) {
    std::barrier<> barrier(threads);
    gate = &barrier;
    gridDim = grid, blockDim = {threads, 1, 1};
    warps.clear();
    for (unsigned w = 0; w < threads / 32; ++w) warps.push_back(std::make_unique<std::barrier<>>(32));
    std::vector<std::thread> block;
    for (unsigned t = 0; t < threads; ++t)
        block.emplace_back([=] {
            threadIdx = {t, 0, 0};
            for (unsigned y = 0; y < grid.y; ++y)
                for (unsigned x = 0; x < grid.x; ++x) {
                    blockIdx = {x, y, 0};
                    kernel();
                    __syncthreads();
                }
        });
    for (auto& thread : block) thread.join();
}

template <class T> void show(const char* name, const std::vector<T>& values) {
    printf("%s", name);
    for (T v : values) printf(" %.17g", (double)v);
    printf("\n");
}
