// Normalised rows: layer norm (groups 1, inner 1), group and instance norm (rows are groups of
// channels, inner the positions of a channel), rms norm. A block a row.
//
// Element i of row r belongs to parameter (r % groups) · (n / inner) + i / inner.

struct Affine {
    u64 first, inner;
    __device__ u64 at(u64 i) const { return first + (inner == 1 ? i : i / inner); }
};

__device__ inline Affine affine_of(u64 n, u64 groups, u64 inner) {
    return {blockIdx.x % groups * (n / inner), inner};
}

// y = (x - mean) · rstd · weight + bias; mean and rstd are kept. Variance in two passes: no cancellation.
template <class T> __device__ void row_norm(
    const T* x, const T* weight, const T* bias, T* y, wide<T>* mean, wide<T>* rstd, u64 n, u64 groups, u64 inner, double eps
) {
    typedef wide<T> A;
    x += blockIdx.x * n, y += blockIdx.x * n;
    A own = 0, squares = 0;
    each(x, n, [&](u64, A v) { own += v; });
    A m = sum_over_block(own) / A(n);
    each(x, n, [&](u64, A v) { squares += (v - m) * (v - m); });
    A r = A(1) / sqrt(sum_over_block(squares) / A(n) + A(eps));
    Affine affine = affine_of(n, groups, inner);
    map(y, x, n, [&](u64 i, A v) {
        A scaled = (v - m) * r;
        if (weight) scaled *= widen(weight[affine.at(i)]);
        return bias ? scaled + widen(bias[affine.at(i)]) : scaled;
    });
    if (threadIdx.x == 0) mean[blockIdx.x] = m, rstd[blockIdx.x] = r;
}

// With g = ct · weight and z = (x - mean) · rstd: dx = rstd · (g - mean(g) - z · mean(g · z))
template <class T> __device__ void row_norm_vjp(
    const T* ct, const T* x, const T* weight, const wide<T>* mean, const wide<T>* rstd, T* dx, u64 n, u64 groups, u64 inner
) {
    typedef wide<T> A;
    ct += blockIdx.x * n, x += blockIdx.x * n, dx += blockIdx.x * n;
    A m = mean[blockIdx.x], r = rstd[blockIdx.x], sum = 0, dot = 0;
    Affine affine = affine_of(n, groups, inner);
    auto scaled = [&](u64 i, A c) { return weight ? c * widen(weight[affine.at(i)]) : c; };
    each2(ct, x, n, [&](u64 i, A c, A v) {
        A g = scaled(i, c);
        sum += g;
        dot += g * (v - m) * r;
    });
    A mean_g = sum_over_block(sum) / A(n), mean_gz = sum_over_block(dot) / A(n);
    map2(dx, ct, x, n, [&](u64 i, A c, A v) { return r * (scaled(i, c) - mean_g - (v - m) * r * mean_gz); });
}

// dweight = Σ ct · z and dbias = Σ ct over the rows and positions of a parameter: a block a parameter.
template <class T> __device__ void row_norm_vjp_affine(
    const T* ct, const T* x, const wide<T>* mean, const wide<T>* rstd, T* dweight, T* dbias, u64 rows, u64 n, u64 groups, u64 inner
) {
    typedef wide<T> A;
    u64 per_row = n / inner, group = blockIdx.x / per_row, channel = blockIdx.x % per_row;
    A dot = 0, sum = 0;
    u64 count = rows / groups * inner;
    for (u64 k = threadIdx.x; k < count; k += blockDim.x) {
        u64 row = k / inner * groups + group, at = row * n + channel * inner + k % inner;
        A c = widen(ct[at]);
        sum += c;
        dot += c * (widen(x[at]) - mean[row]) * rstd[row];
    }
    dot = sum_over_block(dot), sum = sum_over_block(sum);
    if (threadIdx.x == 0) narrow(dot, dweight[blockIdx.x]), narrow(sum, dbias[blockIdx.x]);
}

// y = x · rstd · weight with rstd = 1 / √(mean(x²) + eps)
template <class T> __device__ void rms_norm(const T* x, const T* weight, T* y, wide<T>* rstd, u64 n, double eps) {
    typedef wide<T> A;
    x += blockIdx.x * n, y += blockIdx.x * n;
    A own = 0;
    each(x, n, [&](u64, A v) { own += v * v; });
    A r = A(1) / sqrt(sum_over_block(own) / A(n) + A(eps));
    map(y, x, n, [&](u64 i, A v) { return v * r * widen(weight[i]); });
    if (threadIdx.x == 0) rstd[blockIdx.x] = r;
}

// With g = ct · weight: dx = rstd · (g - x · rstd² · mean(g · x))
template <class T> __device__ void rms_norm_vjp(const T* ct, const T* x, const T* weight, const wide<T>* rstd, T* dx, u64 n) {
    typedef wide<T> A;
    ct += blockIdx.x * n, x += blockIdx.x * n, dx += blockIdx.x * n;
    A r = rstd[blockIdx.x], dot = 0;
    each2(ct, x, n, [&](u64 i, A c, A v) { dot += c * widen(weight[i]) * v; });
    A mean_gx = sum_over_block(dot) / A(n);
    map2(dx, ct, x, n, [&](u64 i, A c, A v) { return r * (c * widen(weight[i]) - v * r * r * mean_gx); });
}

// dweight = Σ ct · x · rstd over rows: a block a column.
template <class T> __device__ void rms_norm_vjp_weight(const T* ct, const T* x, const wide<T>* rstd, T* dweight, u64 rows, u64 n) {
    typedef wide<T> A;
    A own = 0;
    for (u64 row = threadIdx.x; row < rows; row += blockDim.x)
        own += widen(ct[row * n + blockIdx.x]) * widen(x[row * n + blockIdx.x]) * rstd[row];
    own = sum_over_block(own);
    if (threadIdx.x == 0) narrow(own, dweight[blockIdx.x]);
}

#define DEFINE(name, T) \
    extern "C" __global__ void row_norm_##name(const T* x, const T* weight, const T* bias, T* y, wide<T>* mean, wide<T>* rstd, u64 n, u64 groups, u64 inner, double eps) { row_norm(x, weight, bias, y, mean, rstd, n, groups, inner, eps); } \
    extern "C" __global__ void row_norm_vjp_##name(const T* ct, const T* x, const T* weight, const wide<T>* mean, const wide<T>* rstd, T* dx, u64 n, u64 groups, u64 inner) { row_norm_vjp(ct, x, weight, mean, rstd, dx, n, groups, inner); } \
    extern "C" __global__ void row_norm_vjp_affine_##name(const T* ct, const T* x, const wide<T>* mean, const wide<T>* rstd, T* dweight, T* dbias, u64 rows, u64 n, u64 groups, u64 inner) { row_norm_vjp_affine(ct, x, mean, rstd, dweight, dbias, rows, n, groups, inner); } \
    extern "C" __global__ void rms_norm_##name(const T* x, const T* weight, T* y, wide<T>* rstd, u64 n, double eps) { rms_norm(x, weight, y, rstd, n, eps); } \
    extern "C" __global__ void rms_norm_vjp_##name(const T* ct, const T* x, const T* weight, const wide<T>* rstd, T* dx, u64 n) { rms_norm_vjp(ct, x, weight, rstd, dx, n); } \
    extern "C" __global__ void rms_norm_vjp_weight_##name(const T* ct, const T* x, const wide<T>* rstd, T* dweight, u64 rows, u64 n) { rms_norm_vjp_weight(ct, x, rstd, dweight, rows, n); }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
