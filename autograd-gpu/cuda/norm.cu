// Normalised rows: layer norm (groups 1, inner 1), group and instance norm (rows are groups of
// channels, inner the positions of a channel), rms norm: a block a row. Batch norm: a block a channel.
//
// Element i of row r belongs to parameter (r % groups) · (n / inner) + i / inner.

struct Affine {
    u64 first, inner;
    __device__ u64 at(u64 i) const { return first + (inner == 1 ? i : i / inner); }
};

__device__ inline Affine affine_of(u64 n, u64 groups, u64 inner) {
    return {blockIdx.x % groups * (n / inner), inner};
}

// y = (x - mean) · rstd · weight + bias, where y is wanted; mean and rstd are kept. Variance in two passes: no cancellation.
template <class T> __device__ void row_norm(
    const T* x, const T* weight, const T* bias, T* y, wide<T>* mean, wide<T>* rstd, u64 n, u64 groups, u64 inner, double eps
) {
    typedef wide<T> A;
    x += blockIdx.x * n;
    if (y) y += blockIdx.x * n;
    A own = 0, squares = 0;
    each(x, n, [&](u64, A v) { own += v; });
    A m = sum_over_block(own) / A(n);
    each(x, n, [&](u64, A v) { squares += (v - m) * (v - m); });
    A r = A(1) / sqrt(sum_over_block(squares) / A(n) + A(eps));
    Affine affine = affine_of(n, groups, inner);
    if (y)
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

// dweight = Σ ct · z and dbias = Σ ct over the rows and positions of a parameter; either may be
// null. A block a parameter.
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
    if (threadIdx.x == 0 && dweight) narrow(dot, dweight[blockIdx.x]);
    if (threadIdx.x == 0 && dbias) narrow(sum, dbias[blockIdx.x]);
}

// The same for one parameter a column, over a part of `per` rows: dweights[part, column] and
// dbiases[part, column]; either may be null, and so may mean, for 0. Blocks: x over 32 columns, y over
// parts; each warp takes its share of rows.
template <class T> __device__ void row_norm_vjp_columns(
    const T* ct, const T* x, const wide<T>* mean, const wide<T>* rstd, wide<T>* dweights, wide<T>* dbiases, u64 rows, u64 n, u64 per
) {
    typedef wide<T> A;
    __shared__ A dots[32][33], sums[32][33];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    u64 column = (u64)blockIdx.x * 32 + lane, from = blockIdx.y * per, to = from + per < rows ? from + per : rows;
    A dot = 0, sum = 0;
    if (column < n)
        for (u64 row = from + warp; row < to; row += warps) {
            A c = widen(ct[row * n + column]), m = mean ? mean[row] : A(0);
            sum += c;
            dot += c * (widen(x[row * n + column]) - m) * rstd[row];
        }
    dots[warp][lane] = dot, sums[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || column >= n) return;
    dot = 0, sum = 0;
    for (u32 w = 0; w < warps; ++w) dot += dots[w][lane], sum += sums[w][lane];
    if (dweights) dweights[blockIdx.y * n + column] = dot;
    if (dbiases) dbiases[blockIdx.y * n + column] = sum;
}

// y = x · rstd · weight with rstd = 1 / √(mean(x²) + eps)
template <class T> __device__ void rms_norm(const T* x, const T* weight, T* y, wide<T>* rstd, u64 n, double eps) {
    typedef wide<T> A;
    x += blockIdx.x * n;
    if (y) y += blockIdx.x * n;
    A own = 0;
    each(x, n, [&](u64, A v) { own += v * v; });
    A r = A(1) / sqrt(sum_over_block(own) / A(n) + A(eps));
    if (y) map(y, x, n, [&](u64 i, A v) { return weight ? v * r * widen(weight[i]) : v * r; });
    if (threadIdx.x == 0) rstd[blockIdx.x] = r;
}

// With g = ct · weight: dx = rstd · (g - x · rstd² · mean(g · x))
template <class T> __device__ void rms_norm_vjp(const T* ct, const T* x, const T* weight, const wide<T>* rstd, T* dx, u64 n) {
    typedef wide<T> A;
    ct += blockIdx.x * n, x += blockIdx.x * n, dx += blockIdx.x * n;
    A r = rstd[blockIdx.x], dot = 0;
    auto scaled = [&](u64 i, A c) { return weight ? c * widen(weight[i]) : c; };
    each2(ct, x, n, [&](u64 i, A c, A v) { dot += scaled(i, c) * v; });
    A mean_gx = sum_over_block(dot) / A(n);
    map2(dx, ct, x, n, [&](u64 i, A c, A v) { return r * (scaled(i, c) - v * r * r * mean_gx); });
}

// Where element k of a channel lies in batch × channels × inner.
struct Channel {
    u64 channels, inner;
    __device__ u64 at(u64 k) const { return (k / inner * channels + blockIdx.x) * inner + k % inner; }
};

// As row_norm over the batch and the positions of each channel.
template <class T> __device__ void channel_norm(
    const T* x, const T* weight, const T* bias, T* y, wide<T>* mean, wide<T>* rstd, u64 count, Channel channel, double eps
) {
    typedef wide<T> A;
    A own = 0, squares = 0;
    for (u64 k = threadIdx.x; k < count; k += blockDim.x) own += widen(x[channel.at(k)]);
    A m = sum_over_block(own) / A(count);
    for (u64 k = threadIdx.x; k < count; k += blockDim.x) {
        A v = widen(x[channel.at(k)]) - m;
        squares += v * v;
    }
    A r = A(1) / sqrt(sum_over_block(squares) / A(count) + A(eps));
    A scale = weight ? r * widen(weight[blockIdx.x]) : r, shift = bias ? widen(bias[blockIdx.x]) : A(0);
    for (u64 k = threadIdx.x; y && k < count; k += blockDim.x)
        narrow((widen(x[channel.at(k)]) - m) * scale + shift, y[channel.at(k)]);
    if (threadIdx.x == 0) mean[blockIdx.x] = m, rstd[blockIdx.x] = r;
}

// dx, dweight and dbias of channel_norm, each null where it is not wanted.
template <class T> __device__ void channel_norm_vjp(
    const T* ct, const T* x, const T* weight, const wide<T>* mean, const wide<T>* rstd, T* dx, T* dweight, T* dbias,
    u64 count, Channel channel
) {
    typedef wide<T> A;
    A m = mean[blockIdx.x], r = rstd[blockIdx.x], sum = 0, dot = 0;
    for (u64 k = threadIdx.x; k < count; k += blockDim.x) {
        A c = widen(ct[channel.at(k)]);
        sum += c;
        dot += c * (widen(x[channel.at(k)]) - m) * r;
    }
    sum = sum_over_block(sum), dot = sum_over_block(dot);
    if (threadIdx.x == 0 && dweight) narrow(dot, dweight[blockIdx.x]);
    if (threadIdx.x == 0 && dbias) narrow(sum, dbias[blockIdx.x]);
    if (!dx) return;
    A scale = weight ? r * widen(weight[blockIdx.x]) : r;
    sum /= A(count), dot /= A(count);
    for (u64 k = threadIdx.x; k < count; k += blockDim.x) {
        u64 at = channel.at(k);
        narrow(scale * (widen(ct[at]) - sum - (widen(x[at]) - m) * r * dot), dx[at]);
    }
}

#define DEFINE(name, T) \
    extern "C" __global__ void row_norm_##name(const T* x, const T* weight, const T* bias, T* y, wide<T>* mean, wide<T>* rstd, u64 n, u64 groups, u64 inner, double eps) { row_norm(x, weight, bias, y, mean, rstd, n, groups, inner, eps); } \
    extern "C" __global__ void row_norm_vjp_##name(const T* ct, const T* x, const T* weight, const wide<T>* mean, const wide<T>* rstd, T* dx, u64 n, u64 groups, u64 inner) { row_norm_vjp(ct, x, weight, mean, rstd, dx, n, groups, inner); } \
    extern "C" __global__ void row_norm_vjp_affine_##name(const T* ct, const T* x, const wide<T>* mean, const wide<T>* rstd, T* dweight, T* dbias, u64 rows, u64 n, u64 groups, u64 inner) { row_norm_vjp_affine(ct, x, mean, rstd, dweight, dbias, rows, n, groups, inner); } \
    extern "C" __global__ void rms_norm_##name(const T* x, const T* weight, T* y, wide<T>* rstd, u64 n, double eps) { rms_norm(x, weight, y, rstd, n, eps); } \
    extern "C" __global__ void rms_norm_vjp_##name(const T* ct, const T* x, const T* weight, const wide<T>* rstd, T* dx, u64 n) { rms_norm_vjp(ct, x, weight, rstd, dx, n); } \
    extern "C" __global__ void row_norm_vjp_columns_##name(const T* ct, const T* x, const wide<T>* mean, const wide<T>* rstd, wide<T>* dweights, wide<T>* dbiases, u64 rows, u64 n, u64 per) { row_norm_vjp_columns(ct, x, mean, rstd, dweights, dbiases, rows, n, per); } \
    extern "C" __global__ void channel_norm_##name(const T* x, const T* weight, const T* bias, T* y, wide<T>* mean, wide<T>* rstd, u64 count, Channel channel, double eps) { channel_norm(x, weight, bias, y, mean, rstd, count, channel, eps); } \
    extern "C" __global__ void channel_norm_vjp_##name(const T* ct, const T* x, const T* weight, const wide<T>* mean, const wide<T>* rstd, T* dx, T* dweight, T* dbias, u64 count, Channel channel) { channel_norm_vjp(ct, x, weight, mean, rstd, dx, dweight, dbias, count, channel); }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
