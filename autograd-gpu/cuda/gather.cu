// Elements by index along one dimension, elements added or written by index, and the class of each
// row. Elements that only move are moved as so many bytes.

// dims, and the steps along them of what is read: 0 along the dimension that the index leads.
struct Read { u64 n, bound, step; u64 x[8], at[8]; u32 dims[8]; };

// y[p] = x[p with its coordinate along a dimension replaced by index[p]].
template <class T> __device__ void gather(const T* x, const i64* index, T* y, u64* fault, Read r) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < r.n; i += (u64)gridDim.x * blockDim.x) {
        u64 from = 0, at = 0, rest = i;
        for (int d = 7; d >= 0; --d) {
            u64 c = rest % r.dims[d];
            rest /= r.dims[d];
            from += c * r.x[d], at += c * r.at[d];
        }
        i64 k = index[at];
        bool sound = k >= 0 && k < (i64)r.bound;
        if (!sound) report(fault, k, at);
        y[i] = sound ? x[from + k * r.step] : T(0);
    }
}

// The lines of indices along a dimension, `count` each: dims of the others, and the steps along them
// and along that one of y, of the indices and of the source.
struct Write { u64 lines, count, bound, step, at_step, source_step; u64 y[8], at[8], source[8]; u32 dims[8]; };

// put(y[p with its coordinate replaced by index[p]], source[p]): a thread a line, in the line's
// order, so that the last of equal indices is the last, and sums are in a fixed order.
template <class T, class F>
__device__ inline void by_lines(const i64* index, const T* source, T* y, u64* fault, const Write& w, F put) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < w.lines; i += (u64)gridDim.x * blockDim.x) {
        u64 to = 0, at = 0, from = 0, rest = i;
        for (int d = 7; d >= 0; --d) {
            u64 c = rest % w.dims[d];
            rest /= w.dims[d];
            to += c * w.y[d], at += c * w.at[d], from += c * w.source[d];
        }
        for (u64 j = 0; j < w.count; ++j, at += w.at_step, from += w.source_step) {
            i64 k = index[at];
            if (k < 0 || k >= (i64)w.bound) report(fault, k, at);
            else put(y[to + k * w.step], source[from]);
        }
    }
}

template <class T> __device__ void scatter(const i64* index, const T* source, T* y, u64* fault, Write w) {
    by_lines(index, source, y, fault, w, [](T& to, T x) { to = x; });
}

template <class T> __device__ void scatter_add(const i64* index, const T* source, T* y, u64* fault, Write w) {
    by_lines(index, source, y, fault, w, [](T& to, T x) { narrow(widen(to) + widen(x), to); });
}

struct Ignored { i64 given, target; };

// The class of a row; -1 for one that is ignored, or reported.
__device__ inline i64 class_of(const i64* targets, u64 row, u64 classes, Ignored ignored, u64* fault) {
    i64 target = targets[row];
    if (ignored.given && target == ignored.target) return -1;
    if (target >= 0 && target < (i64)classes) return target;
    report(fault, target, row);
    return -1;
}

// y[i] = x[i, target]; 0 for a row that is ignored.
template <class T> __device__ void pick_class(const T* x, const i64* targets, T* y, u64* fault, u64 rows, u64 classes, Ignored ignored) {
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < rows; i += (u64)gridDim.x * blockDim.x) {
        i64 own = class_of(targets, i, classes, ignored, fault);
        y[i] = own < 0 ? T(0) : x[i * classes + own];
    }
}

// y[i, target] = x[i], and 0 elsewhere.
template <class T> __device__ void place_class(const T* x, const i64* targets, T* y, u64* fault, u64 rows, u64 classes, Ignored ignored) {
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < rows * classes; at += (u64)gridDim.x * blockDim.x) {
        u64 row = at / classes;
        y[at] = class_of(targets, row, classes, ignored, fault) == (i64)(at % classes) ? x[row] : T(0);
    }
}

extern "C" __global__ void gather_1(const unsigned char* x, const i64* index, unsigned char* y, u64* fault, Read r) { gather(x, index, y, fault, r); }
extern "C" __global__ void gather_2(const unsigned short* x, const i64* index, unsigned short* y, u64* fault, Read r) { gather(x, index, y, fault, r); }
extern "C" __global__ void gather_4(const u32* x, const i64* index, u32* y, u64* fault, Read r) { gather(x, index, y, fault, r); }
extern "C" __global__ void gather_8(const u64* x, const i64* index, u64* y, u64* fault, Read r) { gather(x, index, y, fault, r); }
extern "C" __global__ void scatter_1(const i64* index, const unsigned char* source, unsigned char* y, u64* fault, Write w) { scatter(index, source, y, fault, w); }
extern "C" __global__ void scatter_2(const i64* index, const unsigned short* source, unsigned short* y, u64* fault, Write w) { scatter(index, source, y, fault, w); }
extern "C" __global__ void scatter_4(const i64* index, const u32* source, u32* y, u64* fault, Write w) { scatter(index, source, y, fault, w); }
extern "C" __global__ void scatter_8(const i64* index, const u64* source, u64* y, u64* fault, Write w) { scatter(index, source, y, fault, w); }
extern "C" __global__ void pick_class_2(const unsigned short* x, const i64* targets, unsigned short* y, u64* fault, u64 rows, u64 classes, Ignored ignored) { pick_class(x, targets, y, fault, rows, classes, ignored); }
extern "C" __global__ void pick_class_4(const u32* x, const i64* targets, u32* y, u64* fault, u64 rows, u64 classes, Ignored ignored) { pick_class(x, targets, y, fault, rows, classes, ignored); }
extern "C" __global__ void pick_class_8(const u64* x, const i64* targets, u64* y, u64* fault, u64 rows, u64 classes, Ignored ignored) { pick_class(x, targets, y, fault, rows, classes, ignored); }
extern "C" __global__ void place_class_2(const unsigned short* x, const i64* targets, unsigned short* y, u64* fault, u64 rows, u64 classes, Ignored ignored) { place_class(x, targets, y, fault, rows, classes, ignored); }
extern "C" __global__ void place_class_4(const u32* x, const i64* targets, u32* y, u64* fault, u64 rows, u64 classes, Ignored ignored) { place_class(x, targets, y, fault, rows, classes, ignored); }
extern "C" __global__ void place_class_8(const u64* x, const i64* targets, u64* y, u64* fault, u64 rows, u64 classes, Ignored ignored) { place_class(x, targets, y, fault, rows, classes, ignored); }

#define DEFINE(name, T) \
    extern "C" __global__ void scatter_add_##name(const i64* index, const T* source, T* y, u64* fault, Write w) { scatter_add(index, source, y, fault, w); }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
