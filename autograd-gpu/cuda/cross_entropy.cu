// Cross entropy of rows of n logits with class indices: a block a row. The log-sum-exp is kept for
// the backward pass, so that probabilities are never stored. A row whose target is the ignored
// class counts nothing; any other target that is no class is reported.

struct Ignore { i64 given, target; };

__device__ inline bool skips(Ignore ignore, i64 target) { return ignore.given && target == ignore.target; }

template <class T> __device__ inline wide<T> log_sum(const T* x, u64 n) {
    typedef wide<T> A;
    A own = -infinity_of(A());
    each(x, n, [&](u64, A v) { own = larger(own, v); });
    A max = max_over_block(own), sum = 0;
    each(x, n, [&](u64, A v) { sum += v == max ? A(1) : exp(v - max); });
    A total = sum_over_block(sum);
    // A row of -inf, or one with +inf.
    return max - max == A(0) ? max + log(total) : max;
}

template <class T> __device__ void cross_entropy(
    const T* x, const i64* targets, T* loss, wide<T>* lse, u64* fault, u64 n, Ignore ignore
) {
    typedef wide<T> A;
    x += blockIdx.x * n;
    A total = log_sum(x, n);
    if (threadIdx.x == 0) {
        i64 target = targets[blockIdx.x];
        bool skip = skips(ignore, target), sound = target >= 0 && target < (i64)n;
        if (!skip && !sound) report(fault, target, blockIdx.x);
        lse[blockIdx.x] = total;
        narrow(skip || !sound ? A(0) : total - widen(x[target]), loss[blockIdx.x]);
    }
}

// dx = ct · (exp(x - lse) - [i = target])
template <class T> __device__ void cross_entropy_vjp(
    const T* ct, const T* x, const i64* targets, const wide<T>* lse, T* dx, u64* fault, u64 n, Ignore ignore
) {
    typedef wide<T> A;
    x += blockIdx.x * n, dx += blockIdx.x * n;
    i64 target = targets[blockIdx.x];
    bool skip = skips(ignore, target);
    if (!skip && (target < 0 || target >= (i64)n) && threadIdx.x == 0) report(fault, target, blockIdx.x);
    A c = widen(ct[blockIdx.x]), sum = lse ? lse[blockIdx.x] : log_sum(x, n);
    map(dx, x, n, [&](u64 i, A v) {
        // What stands in an ignored row, infinities included, reaches no gradient.
        if (skip) return A(0);
        A p = exp(v - sum);
        return c * ((i64)i == target ? p - A(1) : p);
    });
}

#define DEFINE(name, T) \
    extern "C" __global__ void cross_entropy_##name(const T* x, const i64* targets, T* loss, wide<T>* lse, u64* fault, u64 n, Ignore ignore) { cross_entropy(x, targets, loss, lse, fault, n, ignore); } \
    extern "C" __global__ void cross_entropy_vjp_##name(const T* ct, const T* x, const i64* targets, const wide<T>* lse, T* dx, u64* fault, u64 n, Ignore ignore) { cross_entropy_vjp(ct, x, targets, lse, dx, fault, n, ignore); }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
