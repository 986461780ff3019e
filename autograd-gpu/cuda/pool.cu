// Pooling over the last two dimensions of planes. Backward passes gather, so that sums are in a fixed
// order. The forward pass of max pooling keeps which element of the window was the largest (y is null
// where that alone is asked for).

struct Window {
    u32 height, width, out_height, out_width;
    u32 kernel_y, kernel_x, stride_y, stride_x, pad_y, pad_x;
};

template <class T> __device__ void max_pool2d(const T* x, T* y, u32* chosen, Window w, u64 total) {
    typedef wide<T> A;
    u64 plane_out = (u64)w.out_height * w.out_width, plane_in = (u64)w.height * w.width;
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < total; at += (u64)gridDim.x * blockDim.x) {
        u64 plane = at / plane_out;
        i64 oy = at % plane_out / w.out_width, ox = at % w.out_width;
        i64 y0 = oy * w.stride_y - w.pad_y, x0 = ox * w.stride_x - w.pad_x;
        A best = -infinity_of(A());
        // The window's first element that is in the plane: chosen where all are -inf.
        u32 index = 0xffffffffu;
        for (i64 dy = 0; dy < w.kernel_y; ++dy)
            for (i64 dx = 0; dx < w.kernel_x; ++dx) {
                i64 iy = y0 + dy, ix = x0 + dx;
                if (iy < 0 || ix < 0 || iy >= w.height || ix >= w.width) continue;
                A v = widen(x[plane * plane_in + iy * w.width + ix]);
                // The first of equal maxima, the last of NaNs.
                if (index == 0xffffffffu || v > best || v != v) best = v, index = iy * w.width + ix;
            }
        if (y) narrow(best, y[at]);
        chosen[at] = index;
    }
}

// The first of the windows that cover a place of a plane, which is counted from the border's corner.
struct Cover { i64 y, x; };

__device__ inline Cover first_cover(i64 iy, i64 ix, Window w) {
    return {iy < w.kernel_y ? 0 : (iy - w.kernel_y) / w.stride_y + 1, ix < w.kernel_x ? 0 : (ix - w.kernel_x) / w.stride_x + 1};
}

template <class T> __device__ void max_pool2d_vjp(const T* ct, const u32* chosen, T* dx, Window w, u64 total) {
    typedef wide<T> A;
    u64 plane_out = (u64)w.out_height * w.out_width, plane_in = (u64)w.height * w.width;
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < total; at += (u64)gridDim.x * blockDim.x) {
        u64 plane = at / plane_in;
        i64 inside = at % plane_in, iy = inside / w.width + w.pad_y, ix = inside % w.width + w.pad_x;
        Cover first = first_cover(iy, ix, w);
        A sum = 0;
        for (i64 oy = first.y; oy < w.out_height && oy * w.stride_y <= iy; ++oy)
            for (i64 ox = first.x; ox < w.out_width && ox * w.stride_x <= ix; ++ox) {
                u64 from = plane * plane_out + oy * w.out_width + ox;
                if (chosen[from] == (u32)inside) sum += widen(ct[from]);
            }
        narrow(sum, dx[at]);
    }
}

// The border's zeros count as elements.
template <class T> __device__ void avg_pool2d(const T* x, T* y, Window w, u64 total) {
    typedef wide<T> A;
    u64 plane_out = (u64)w.out_height * w.out_width, plane_in = (u64)w.height * w.width;
    A scale = A(1) / A(w.kernel_y * w.kernel_x);
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < total; at += (u64)gridDim.x * blockDim.x) {
        u64 plane = at / plane_out;
        i64 y0 = (i64)(at % plane_out / w.out_width) * w.stride_y - w.pad_y, x0 = (i64)(at % w.out_width) * w.stride_x - w.pad_x;
        A sum = 0;
        for (i64 iy = y0 < 0 ? 0 : y0; iy < y0 + w.kernel_y && iy < w.height; ++iy)
            for (i64 ix = x0 < 0 ? 0 : x0; ix < x0 + w.kernel_x && ix < w.width; ++ix)
                sum += widen(x[plane * plane_in + iy * w.width + ix]);
        narrow(sum * scale, y[at]);
    }
}

template <class T> __device__ void avg_pool2d_grad(const T* ct, T* dx, Window w, u64 total) {
    typedef wide<T> A;
    u64 plane_out = (u64)w.out_height * w.out_width, plane_in = (u64)w.height * w.width;
    A scale = A(1) / A(w.kernel_y * w.kernel_x);
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < total; at += (u64)gridDim.x * blockDim.x) {
        i64 inside = at % plane_in, iy = inside / w.width + w.pad_y, ix = inside % w.width + w.pad_x;
        Cover first = first_cover(iy, ix, w);
        A sum = 0;
        for (i64 oy = first.y; oy < w.out_height && oy * w.stride_y <= iy; ++oy)
            for (i64 ox = first.x; ox < w.out_width && ox * w.stride_x <= ix; ++ox)
                sum += widen(ct[at / plane_in * plane_out + oy * w.out_width + ox]);
        narrow(sum * scale, dx[at]);
    }
}

#define DEFINE(name, T) \
    extern "C" __global__ void max_pool2d_##name(const T* x, T* y, u32* chosen, Window w, u64 total) { max_pool2d(x, y, chosen, w, total); } \
    extern "C" __global__ void max_pool2d_vjp_##name(const T* ct, const u32* chosen, T* dx, Window w, u64 total) { max_pool2d_vjp(ct, chosen, dx, w, total); } \
    extern "C" __global__ void avg_pool2d_##name(const T* x, T* y, Window w, u64 total) { avg_pool2d(x, y, w, total); } \
    extern "C" __global__ void avg_pool2d_grad_##name(const T* ct, T* dx, Window w, u64 total) { avg_pool2d_grad(ct, dx, w, total); }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
