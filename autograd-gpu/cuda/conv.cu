// The convolution y = x ⋆ k and its two gradients as matrix products whose operands are read where
// they lie (implicit GEMM): ⟨y, x ⋆ k⟩ is a sum of x · k · y over places, and each kernel sums over all
// but the rows and columns of what it gives. A block takes a tile of 64 × 64, a thread 4 × 4 of it.
//
// Blocks: x over tiles, columns first; y over groups, then over parts of the summed range. Where
// there is one part, `parts` is null.

constexpr u32 SIDE = 64, DEPTH = 16;

struct Conv {
    u32 batch, channels, height, width, out_channels, kernel_y, kernel_x, out_height, out_width;
    u32 stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x, groups;
    u64 per;
};

// A place of an input or output: an image and a position in its planes.
struct Place { u32 image, y, x; };

__device__ inline Place place(u64 at, u32 height, u32 width) {
    return {(u32)(at / ((u64)height * width)), (u32)(at / width % height), (u32)(at % width)};
}

// A tap of a kernel: a channel and an offset.
struct Tap { u32 channel, y, x; };

__device__ inline Tap tap(u64 at, const Conv& g) {
    return {(u32)(at / (g.kernel_y * g.kernel_x)), (u32)(at / g.kernel_x % g.kernel_y), (u32)(at % g.kernel_x)};
}

// What a tap of an output's place reads; 0 in the border.
template <class T> __device__ inline wide<T> seen(const T* x, const Conv& g, Place at, Tap tap, u32 group) {
    i64 y = (i64)at.y * g.stride_y + tap.y * g.dilation_y - g.pad_y, c = (i64)at.x * g.stride_x + tap.x * g.dilation_x - g.pad_x;
    if (y < 0 || c < 0 || y >= g.height || c >= g.width) return 0;
    u64 plane = (u64)at.image * g.channels + group * (g.channels / g.groups) + tap.channel;
    return widen(x[(plane * g.height + y) * g.width + c]);
}

// The output whose tap reads an input's place; 0 where there is none.
template <class T> __device__ inline wide<T> reader(const T* y, const Conv& g, Place at, Tap tap, u32 group) {
    i64 row = (i64)at.y + g.pad_y - tap.y * g.dilation_y, column = (i64)at.x + g.pad_x - tap.x * g.dilation_x;
    if (row < 0 || column < 0 || row % g.stride_y || column % g.stride_x) return 0;
    row /= g.stride_y, column /= g.stride_x;
    if (row >= g.out_height || column >= g.out_width) return 0;
    u64 plane = (u64)at.image * g.out_channels + group * (g.out_channels / g.groups) + tap.channel;
    return widen(y[(plane * g.out_height + row) * g.out_width + column]);
}

// store(i, j, Σ_k left(i, k) · right(k, j)) over from .. to, for the block's tile of rows × columns.
template <class A, class L, class R, class S>
__device__ inline void product(u64 rows, u64 columns, u64 from, u64 to, L left, R right, S store) {
    __shared__ A ls[DEPTH][SIDE + 1], rs[DEPTH][SIDE + 1];
    u64 across = (columns + SIDE - 1) / SIDE, row = blockIdx.x / across * SIDE, column = blockIdx.x % across * SIDE;
    u32 ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    A own[4][4] = {};
    for (u64 k = from; k < to; k += DEPTH) {
        for (u32 i = threadIdx.x; i < SIDE * DEPTH; i += blockDim.x) {
            // Neighbouring threads on neighbouring k of the left and neighbouring columns of the right.
            u64 lk = k + i % DEPTH, lr = row + i / DEPTH, rk = k + i / SIDE, rc = column + i % SIDE;
            ls[i % DEPTH][i / DEPTH] = lk < to && lr < rows ? left(lr, lk) : A(0);
            rs[i / SIDE][i % SIDE] = rk < to && rc < columns ? right(rk, rc) : A(0);
        }
        __syncthreads();
        for (u32 d = 0; d < DEPTH; ++d)
            for (u32 i = 0; i < 4; ++i)
                for (u32 j = 0; j < 4; ++j) own[i][j] += ls[d][ty + 16 * i] * rs[d][tx + 16 * j];
        __syncthreads();
    }
    for (u32 i = 0; i < 4; ++i)
        for (u32 j = 0; j < 4; ++j) {
            u64 r = row + ty + 16 * i, c = column + tx + 16 * j;
            if (r < rows && c < columns) store(r, c, own[i][j]);
        }
}

template <class T> __device__ inline void store_to(T* out, wide<T>* parts, u64 at, u64 total, u64 part, wide<T> v) {
    if (parts) parts[part * total + at] = v;
    else narrow(v, out[at]);
}

// y: rows are output channels, columns places, sums over taps.
template <class T> __device__ void conv2d(const T* x, const T* k, T* y, wide<T>* parts, const Conv& g) {
    u32 group = blockIdx.y % g.groups, part = blockIdx.y / g.groups, own = g.out_channels / g.groups;
    u64 taps = (u64)g.channels / g.groups * g.kernel_y * g.kernel_x, plane = (u64)g.out_height * g.out_width;
    u64 places = g.batch * plane, from = part * g.per, to = from + g.per < taps ? from + g.per : taps;
    product<wide<T>>(own, places, from, to,
        [&](u64 o, u64 t) { return widen(k[(group * own + o) * taps + t]); },
        [&](u64 t, u64 p) { return seen(x, g, place(p, g.out_height, g.out_width), tap(t, g), group); },
        [&](u64 o, u64 p, wide<T> v) {
            store_to(y, parts, (p / plane * g.out_channels + group * own + o) * plane + p % plane, places * g.out_channels, part, v);
        });
}

// dx: rows are input channels, columns places of x, sums over output channels and taps.
template <class T> __device__ void conv2d_input_grad(const T* k, const T* ct, T* dx, wide<T>* parts, const Conv& g) {
    u32 group = blockIdx.y % g.groups, part = blockIdx.y / g.groups;
    u32 own = g.channels / g.groups, outs = g.out_channels / g.groups, window = g.kernel_y * g.kernel_x;
    u64 taps = (u64)outs * window, plane = (u64)g.height * g.width, places = g.batch * plane;
    u64 from = part * g.per, to = from + g.per < taps ? from + g.per : taps;
    product<wide<T>>(own, places, from, to,
        [&](u64 c, u64 t) { return widen(k[((group * outs + t / window) * own + c) * window + t % window]); },
        [&](u64 t, u64 p) { return reader(ct, g, place(p, g.height, g.width), tap(t, g), group); },
        [&](u64 c, u64 p, wide<T> v) {
            store_to(dx, parts, (p / plane * g.channels + group * own + c) * plane + p % plane, places * g.channels, part, v);
        });
}

// dk: rows are output channels, columns taps, sums over places of y.
template <class T> __device__ void conv2d_weight_grad(const T* x, const T* ct, T* dk, wide<T>* parts, const Conv& g) {
    u32 group = blockIdx.y % g.groups, part = blockIdx.y / g.groups, own = g.out_channels / g.groups;
    u64 taps = (u64)g.channels / g.groups * g.kernel_y * g.kernel_x, plane = (u64)g.out_height * g.out_width;
    u64 places = g.batch * plane, from = part * g.per, to = from + g.per < places ? from + g.per : places;
    product<wide<T>>(own, taps, from, to,
        [&](u64 o, u64 p) { return widen(ct[(p / plane * g.out_channels + group * own + o) * plane + p % plane]); },
        [&](u64 p, u64 t) { return seen(x, g, place(p, g.out_height, g.out_width), tap(t, g), group); },
        [&](u64 o, u64 t, wide<T> v) {
            store_to(dk, parts, (group * own + o) * taps + t, g.out_channels * taps, part, v);
        });
}

#define DEFINE(name, T) \
    extern "C" __global__ void conv2d_##name(const T* x, const T* k, T* y, wide<T>* parts, Conv g) { conv2d(x, k, y, parts, g); } \
    extern "C" __global__ void conv2d_input_grad_##name(const T* k, const T* ct, T* dx, wide<T>* parts, Conv g) { conv2d_input_grad(k, ct, dx, parts, g); } \
    extern "C" __global__ void conv2d_weight_grad_##name(const T* x, const T* ct, T* dk, wide<T>* parts, Conv g) { conv2d_weight_grad(x, ct, dk, parts, g); }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
