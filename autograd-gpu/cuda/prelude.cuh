// What every kernel stands on: element types without headers, packs of 16 bytes, sums over a block.
//
// Half types are stored as their bits and computed in float. Blocks are one-dimensional, of whole
// warps. Reductions are in a fixed order: results do not depend on timing.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct f16 { unsigned short bits; };
struct bf16 { unsigned short bits; };

// The type in which a storage type is computed.
template <class T> struct Wide { typedef float type; };
template <> struct Wide<double> { typedef double type; };
template <class T> using wide = typename Wide<T>::type;

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }
__device__ inline void narrow(float x, float& to) { to = x; }
__device__ inline void narrow(double x, double& to) { to = x; }
#ifndef AUTOGRAD_EMULATED
__device__ inline float widen(f16 x) { float y; asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits)); return y; }
__device__ inline float widen(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
__device__ inline void narrow(float x, f16& to) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x)); }
__device__ inline void narrow(float x, bf16& to) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(x)); }
#else
inline float widen(f16 x) { _Float16 h; memcpy(&h, &x.bits, 2); return (float)h; }
inline float widen(bf16 x) { u32 bits = (u32)x.bits << 16; float y; memcpy(&y, &bits, 4); return y; }
inline void narrow(float x, f16& to) { _Float16 h = (_Float16)x; memcpy(&to.bits, &h, 2); }
inline void narrow(float x, bf16& to) {
    u32 bits;
    memcpy(&bits, &x, 4);
    to.bits = x != x ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
#endif

template <class T> __device__ inline T narrowed(wide<T> x) { T y; narrow(x, y); return y; }

// 16 bytes: the widest access of a thread.
template <class T> struct alignas(16) Pack { T v[16 / sizeof(T)]; };

// f(i, x[i]) for the elements of a row, shared among the threads of the block. Rows start at
// multiples of n, so they are aligned where n is a multiple of a pack.
template <class T, class F> __device__ inline void each(const T* x, u64 n, F f) {
    constexpr int V = 16 / sizeof(T);
    if (n % V == 0) {
        for (u64 i = threadIdx.x; i < n / V; i += blockDim.x) {
            Pack<T> pack = reinterpret_cast<const Pack<T>*>(x)[i];
            for (int j = 0; j < V; ++j) f(i * V + j, widen(pack.v[j]));
        }
    } else {
        for (u64 i = threadIdx.x; i < n; i += blockDim.x) f(i, widen(x[i]));
    }
}

template <class T, class F> __device__ inline void each2(const T* a, const T* b, u64 n, F f) {
    constexpr int V = 16 / sizeof(T);
    if (n % V == 0) {
        for (u64 i = threadIdx.x; i < n / V; i += blockDim.x) {
            Pack<T> pa = reinterpret_cast<const Pack<T>*>(a)[i], pb = reinterpret_cast<const Pack<T>*>(b)[i];
            for (int j = 0; j < V; ++j) f(i * V + j, widen(pa.v[j]), widen(pb.v[j]));
        }
    } else {
        for (u64 i = threadIdx.x; i < n; i += blockDim.x) f(i, widen(a[i]), widen(b[i]));
    }
}

// y[i] = f(i, x[i]).
template <class T, class F> __device__ inline void map(T* y, const T* x, u64 n, F f) {
    constexpr int V = 16 / sizeof(T);
    if (n % V == 0) {
        for (u64 i = threadIdx.x; i < n / V; i += blockDim.x) {
            Pack<T> pack = reinterpret_cast<const Pack<T>*>(x)[i];
            for (int j = 0; j < V; ++j) pack.v[j] = narrowed<T>(f(i * V + j, widen(pack.v[j])));
            reinterpret_cast<Pack<T>*>(y)[i] = pack;
        }
    } else {
        for (u64 i = threadIdx.x; i < n; i += blockDim.x) y[i] = narrowed<T>(f(i, widen(x[i])));
    }
}

// y[i] = f(i, a[i], b[i]).
template <class T, class F> __device__ inline void map2(T* y, const T* a, const T* b, u64 n, F f) {
    constexpr int V = 16 / sizeof(T);
    if (n % V == 0) {
        for (u64 i = threadIdx.x; i < n / V; i += blockDim.x) {
            Pack<T> pa = reinterpret_cast<const Pack<T>*>(a)[i], pb = reinterpret_cast<const Pack<T>*>(b)[i];
            for (int j = 0; j < V; ++j) pa.v[j] = narrowed<T>(f(i * V + j, widen(pa.v[j]), widen(pb.v[j])));
            reinterpret_cast<Pack<T>*>(y)[i] = pa;
        }
    } else {
        for (u64 i = threadIdx.x; i < n; i += blockDim.x) y[i] = narrowed<T>(f(i, widen(a[i]), widen(b[i])));
    }
}

// One value for the whole block: warps by shuffles, then the warps' values in their order. Every
// thread of the block calls it.
template <class A, class F> __device__ inline A over_block(A value, F combine) {
    __shared__ A parts[32];
    for (int step = 16; step > 0; step >>= 1) value = combine(value, __shfl_xor_sync(0xffffffffu, value, step));
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    A total = parts[0];
    for (u32 w = 1; w < blockDim.x / 32; ++w) total = combine(total, parts[w]);
    return total;
}

template <class A> __device__ inline A sum_over_block(A value) {
    return over_block(value, [](A a, A b) { return a + b; });
}

// The larger; NaN where either is.
template <class A> __device__ inline A larger(A a, A b) { return a != a || a > b ? a : b; }
template <class A> __device__ inline A smaller(A a, A b) { return a != a || a < b ? a : b; }

template <class A> __device__ inline A max_over_block(A value) {
    return over_block(value, [](A a, A b) { return larger(a, b); });
}

// An index that is not below its bound: the first thread that meets one tells which, { 1, index, position }.
__device__ inline void report(u64* fault, i64 index, u64 position) {
    if (atomicCAS(fault, 0ull, 1ull) == 0) fault[1] = (u64)index, fault[2] = position;
}

__device__ inline float infinity_of(float) { return __int_as_float(0x7f800000); }
__device__ inline double infinity_of(double) { return __longlong_as_double(0x7ff0000000000000ll); }

// Defines one kernel for each storage type: NAME_f32, NAME_f64, NAME_f16, NAME_bf16.
#define FOR_EACH_FLOAT(DEFINE) DEFINE(f32, float) DEFINE(f64, double) DEFINE(f16, f16) DEFINE(bf16, bf16)

// The same for integers: NAME_u8, NAME_u32, NAME_i64.
#define FOR_EACH_INTEGER(DEFINE) DEFINE(u8, unsigned char) DEFINE(u32, u32) DEFINE(i64, i64)
