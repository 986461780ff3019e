// CUDA's execution model on a CPU, to check kernels where there is no GPU. The threads of a block are
// fibers that run one after the other until each waits at a barrier; blocks follow each other. So
// runs repeat to the bit, and threads that wait at different barriers are found (`launch` gives
// false) where a GPU would hang. Every shuffle must be reached by its whole warp.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <ucontext.h>
#include <utility>
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
static Dim threadIdx, blockIdx, blockDim, gridDim;

enum class State { Ready, AtBlock, AtWarp, Done };
struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    State state;
};
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static void (*body)(void*);
static void* closure;

inline void wait_in(State state) {
    Fiber& own = fibers[threadIdx.x];
    own.state = state;
    swapcontext(&own.context, &scheduler);
}
inline void __syncthreads() { wait_in(State::AtBlock); }
inline void sync_warp() { wait_in(State::AtWarp); }
inline void run_fiber() { body(closure); wait_in(State::Done); }

inline bool run_block(unsigned threads) {
    constexpr size_t STACK = 64 * 1024;
    if (fibers.size() < threads) fibers.resize(threads);
    for (unsigned t = 0; t < threads; ++t) {
        Fiber& fiber = fibers[t];
        if (!fiber.stack) fiber.stack = std::make_unique<char[]>(STACK);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, run_fiber, 0);
        fiber.state = State::Ready;
    }
    for (;;) {
        bool ran = false, done = true;
        for (unsigned t = 0; t < threads; ++t) {
            if (fibers[t].state != State::Ready) continue;
            threadIdx = {t, 0, 0};
            swapcontext(&scheduler, &fibers[t].context);
            ran = true;
        }
        for (unsigned warp = 0; warp < threads; warp += 32) {
            bool all = true;
            for (unsigned t = warp; t < warp + 32; ++t) all &= fibers[t].state == State::AtWarp;
            for (unsigned t = warp; all && t < warp + 32; ++t) fibers[t].state = State::Ready;
        }
        bool all = true;
        for (unsigned t = 0; t < threads; ++t) {
            all &= fibers[t].state == State::AtBlock || fibers[t].state == State::Done;
            done &= fibers[t].state == State::Done;
        }
        if (done) return true;
        for (unsigned t = 0; all && t < threads; ++t)
            if (fibers[t].state == State::AtBlock) fibers[t].state = State::Ready;
        if (!ran) return false;
    }
}

inline float __int_as_float(int bits) { float f; memcpy(&f, &bits, 4); return f; }
inline double __longlong_as_double(long long bits) { double f; memcpy(&f, &bits, 8); return f; }
inline long long __double_as_longlong(double x) { long long bits; memcpy(&bits, &x, 8); return bits; }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

static char slots[1024][32];
template <class T> T exchange(T value, unsigned from) {
    static_assert(sizeof(T) <= sizeof slots[0]);
    memcpy(slots[threadIdx.x], &value, sizeof(T));
    sync_warp();
    T other;
    memcpy(&other, slots[from], sizeof(T));
    sync_warp();
    return other;
}
template <class T> T __shfl_xor_sync(unsigned, T value, int step) { return exchange(value, threadIdx.x ^ step); }
template <class T> T __shfl_up_sync(unsigned, T value, unsigned step) {
    return exchange(value, threadIdx.x % 32 < step ? threadIdx.x : threadIdx.x - step);
}
template <class T> T __shfl_sync(unsigned, T value, int lane) { return exchange(value, threadIdx.x / 32 * 32 + lane); }
inline unsigned __ballot_sync(unsigned, bool own) {
    unsigned votes = 0;
    for (int lane = 0; lane < 32; ++lane) votes |= (unsigned)__shfl_sync(0u, (int)own, lane) << lane;
    return votes;
}
template <class T> T atomicAdd(T* to, T value) { T old = *to; *to += value; return old; }
template <class T> T atomicCAS(T* to, T expected, T value) {
    T old = *to;
    if (old == expected) *to = value;
    return old;
}

template <class F> bool launch(Dim grid, unsigned threads, F kernel) {
    gridDim = grid, blockDim = {threads, 1, 1};
    body = [](void* f) { (*(F*)f)(); };
    closure = &kernel;
    for (unsigned y = 0; y < grid.y; ++y)
        for (unsigned x = 0; x < grid.x; ++x) {
            blockIdx = {x, y, 0};
            if (!run_block(threads)) return false;
        }
    return true;
}

// A kernel with its arguments where the driver's cuLaunchKernel expects them: an address for each.
template <class... P, size_t... I>
bool launch_at(void (*kernel)(P...), Dim grid, unsigned threads, void** arguments, std::index_sequence<I...>) {
    return launch(grid, threads, [&] { kernel(*(P*)arguments[I]...); });
}
template <class... P> bool launch_at(void (*kernel)(P...), Dim grid, unsigned threads, void** arguments) {
    return launch_at(kernel, grid, threads, arguments, std::index_sequence_for<P...>());
}

template <class T> void show(const char* name, const std::vector<T>& values) {
    printf("%s", name);
    for (T v : values) printf(" %.17g", (double)v);
    printf("\n");
}
