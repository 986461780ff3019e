// Cross entropy of rows of n logits with class indices: a block a row. The log-sum-exp is kept for
// the backward pass, so that probabilities are never stored. A negative target's row counts nothing.

template <class T> __device__ void cross_entropy(const T* x, const i64* targets, wide<T>* loss, wide<T>* lse, u64 n) {
    typedef wide<T> A;
    x += blockIdx.x * n;
    A own = -infinity_of(A());
    each(x, n, [&](u64, A v) { own = larger(own, v); });
    A max = max_over_block(own), sum = 0;
    each(x, n, [&](u64, A v) { sum += exp(v - max); });
    A total = max + log(sum_over_block(sum));
    if (threadIdx.x == 0) {
        i64 target = targets[blockIdx.x];
        lse[blockIdx.x] = total;
        loss[blockIdx.x] = target < 0 ? A(0) : total - widen(x[target]);
    }
}

// dx = ct · (exp(x - lse) - [i = target])
template <class T> __device__ void cross_entropy_vjp(
    const wide<T>* ct, const T* x, const i64* targets, const wide<T>* lse, T* dx, u64 n
) {
    typedef wide<T> A;
    i64 target = targets[blockIdx.x];
    A c = target < 0 ? A(0) : ct[blockIdx.x], sum = lse[blockIdx.x];
    map(dx + blockIdx.x * n, x + blockIdx.x * n, n, [&](u64 i, A v) {
        A p = exp(v - sum);
        return c * ((i64)i == target ? p - A(1) : p);
    });
}

#define DEFINE(name, T) \
    extern "C" __global__ void cross_entropy_##name(const T* x, const i64* targets, wide<T>* loss, wide<T>* lse, u64 n) { cross_entropy(x, targets, loss, lse, n); } \
    extern "C" __global__ void cross_entropy_vjp_##name(const wide<T>* ct, const T* x, const i64* targets, const wide<T>* lse, T* dx, u64 n) { cross_entropy_vjp(ct, x, targets, lse, dx, n); }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
