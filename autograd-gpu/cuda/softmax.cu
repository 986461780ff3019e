// The softmax family over contiguous rows of n: a block a row, two passes.

// The row's maximum, and the sum of exp(x - maximum) beside it: one pass with running rescaling.
template <class A> struct Peak { A max, sum; };

template <class A> __device__ inline Peak<A> joined(Peak<A> a, Peak<A> b) {
    A max = larger(a.max, b.max);
    // An empty or all -inf side counts nothing, and inf - inf is not computed.
    A left = a.max == max ? a.sum : a.sum * exp(a.max - max);
    A right = b.max == max ? b.sum : b.sum * exp(b.max - max);
    return {max, left + right};
}

template <class T> __device__ inline Peak<wide<T>> peak_of(const T* x, u64 n) {
    typedef wide<T> A;
    Peak<A> own = {-infinity_of(A()), A(0)};
    each(x, n, [&](u64, A v) {
        if (v <= own.max) {
            own.sum += v == own.max ? A(1) : exp(v - own.max);
        } else {
            own.sum = own.sum * (own.sum == A(0) ? A(0) : exp(own.max - v)) + A(1);
            own.max = v;
        }
    });
    A max = max_over_block(own.max);
    A scaled = own.sum == A(0) || own.max == max ? own.sum : own.sum * exp(own.max - max);
    return {max, sum_over_block(scaled)};
}

// y = exp(x - max) / sum
template <class T> __device__ void softmax(const T* x, T* y, u64 n) {
    typedef wide<T> A;
    x += blockIdx.x * n, y += blockIdx.x * n;
    Peak<A> peak = peak_of(x, n);
    A scale = A(1) / peak.sum;
    map(y, x, n, [&](u64, A v) { return exp(v - peak.max) * scale; });
}

// dx = y · (ct - Σ ct · y)
template <class T> __device__ void softmax_vjp(const T* ct, const T* y, T* dx, u64 n) {
    typedef wide<T> A;
    ct += blockIdx.x * n, y += blockIdx.x * n, dx += blockIdx.x * n;
    A own = 0;
    each2(ct, y, n, [&](u64, A c, A v) { own += c * v; });
    A dot = sum_over_block(own);
    map2(dx, ct, y, n, [&](u64, A c, A v) { return v * (c - dot); });
}

// y = x - max - ln sum
template <class T> __device__ void log_softmax(const T* x, T* y, u64 n) {
    typedef wide<T> A;
    x += blockIdx.x * n, y += blockIdx.x * n;
    Peak<A> peak = peak_of(x, n);
    A log_sum = log(peak.sum);
    map(y, x, n, [&](u64, A v) { return v - peak.max - log_sum; });
}

// dx = ct - exp(y) · Σ ct
template <class T> __device__ void log_softmax_vjp(const T* ct, const T* y, T* dx, u64 n) {
    typedef wide<T> A;
    ct += blockIdx.x * n, y += blockIdx.x * n, dx += blockIdx.x * n;
    A own = 0;
    each(ct, n, [&](u64, A c) { own += c; });
    A total = sum_over_block(own);
    map2(dx, ct, y, n, [&](u64, A c, A v) { return c - exp(v) * total; });
}

// out = max + ln sum; a row of -inf gives -inf, one with +inf gives +inf.
template <class T> __device__ void logsumexp(const T* x, T* out, u64 n) {
    typedef wide<T> A;
    Peak<A> peak = peak_of(x + blockIdx.x * n, n);
    A infinite = infinity_of(A());
    bool edge = peak.max == infinite || peak.max == -infinite;
    if (threadIdx.x == 0) narrow(edge ? peak.max : peak.max + log(peak.sum), out[blockIdx.x]);
}

// dx = ct · exp(x - out)
template <class T> __device__ void logsumexp_vjp(const T* ct, const T* x, const T* out, T* dx, u64 n) {
    typedef wide<T> A;
    A c = widen(ct[blockIdx.x]), o = widen(out[blockIdx.x]);
    map(dx + blockIdx.x * n, x + blockIdx.x * n, n, [&](u64, A v) { return c * exp(v - o); });
}

#define DEFINE(name, T) \
    extern "C" __global__ void softmax_##name(const T* x, T* y, u64 n) { softmax(x, y, n); } \
    extern "C" __global__ void softmax_vjp_##name(const T* ct, const T* y, T* dx, u64 n) { softmax_vjp(ct, y, dx, n); } \
    extern "C" __global__ void log_softmax_##name(const T* x, T* y, u64 n) { log_softmax(x, y, n); } \
    extern "C" __global__ void log_softmax_vjp_##name(const T* ct, const T* y, T* dx, u64 n) { log_softmax_vjp(ct, y, dx, n); } \
    extern "C" __global__ void logsumexp_##name(const T* x, T* out, u64 n) { logsumexp(x, out, n); } \
    extern "C" __global__ void logsumexp_vjp_##name(const T* ct, const T* x, const T* out, T* dx, u64 n) { logsumexp_vjp(ct, x, out, dx, n); }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
