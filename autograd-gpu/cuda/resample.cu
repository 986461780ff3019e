// Resampling along a dimension: each output is a weighted sum of a few inputs, by the same matrix as on
// the CPU, whose weights are made in f64 and rounded to the type. A thread an output; the transpose
// gathers too, so that sums are in a fixed order.

enum Method { MEAN, NEAREST, LINEAR, CORNERS };

// From extent `from` to extent `to`, of elements that lie `inner` apart; n outputs.
struct Resample { u64 from, to, inner, method, n; };

// The first input of an output and the one behind it; the second one's share.
struct Line { u64 low, high; double share; };

__device__ inline Line line_of(u64 i, Resample g) {
    double at = 0;
    if (g.method == LINEAR) {
        at = ((double)i + 0.5) * (double)g.from / (double)g.to - 0.5;
        if (at < 0) at = 0;
    } else if (g.to > 1) {
        at = (double)i * ((double)g.from - 1.0) / ((double)g.to - 1.0);
    }
    u64 low = (u64)at;
    if (low > g.from - 1) low = g.from - 1;
    return {low, low + 1 < g.from ? low + 1 : low, at - (double)low};
}

// What an output i has of inputs that lie from x on.
template <class T> __device__ inline wide<T> output(const T* x, u64 i, Resample g) {
    typedef wide<T> A;
    if (g.method == NEAREST) return widen(x[i * g.from / g.to * g.inner]);
    if (g.method == MEAN) {
        u64 start = i * g.from / g.to, end = ((i + 1) * g.from + g.to - 1) / g.to;
        A sum = 0, weight = (A)(1.0 / (double)(end - start));
        for (u64 at = start; at < end; ++at) sum += weight * widen(x[at * g.inner]);
        return sum;
    }
    Line line = line_of(i, g);
    return (A)(1.0 - line.share) * widen(x[line.low * g.inner]) + (A)line.share * widen(x[line.high * g.inner]);
}

template <class T> __device__ void resample(const T* x, T* y, Resample g) {
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < g.n; at += (u64)gridDim.x * blockDim.x) {
        u64 i = at / g.inner % g.to;
        narrow(output(x + at / g.inner / g.to * g.from * g.inner + at % g.inner, i, g), y[at]);
    }
}

// Outputs that lines could make of an input's neighbourhood: a few more than they do.
__device__ inline void readers_of(u64 j, Resample g, u64& first, u64& end) {
    double scale = g.method == LINEAR ? (double)g.to / (double)g.from : ((double)g.to - 1) / ((double)g.from - 1);
    double low = ((double)j - 1) * scale - 2, high = ((double)j + 2) * scale + 2;
    // All outputs read the only input, and those beyond the outermost centres the outermost inputs.
    first = j == 0 || low < 0 ? 0 : (u64)low;
    end = j + 1 == g.from || high > (double)g.to ? g.to : (u64)high;
}

// What an input j gets from cotangents that lie from ct on.
template <class T> __device__ inline wide<T> gathered(const T* ct, u64 j, Resample g) {
    typedef wide<T> A;
    A sum = 0;
    if (g.method == NEAREST) {
        for (u64 i = (j * g.to + g.from - 1) / g.from; i < g.to && i * g.from / g.to == j; ++i) sum += widen(ct[i * g.inner]);
        return sum;
    }
    if (g.method == MEAN) {
        for (u64 i = j * g.to / g.from; i < g.to && i * g.from / g.to <= j; ++i) {
            u64 start = i * g.from / g.to, end = ((i + 1) * g.from + g.to - 1) / g.to;
            sum += (A)(1.0 / (double)(end - start)) * widen(ct[i * g.inner]);
        }
        return sum;
    }
    u64 first, end;
    readers_of(j, g, first, end);
    for (u64 i = first; i < end; ++i) {
        Line line = line_of(i, g);
        if (line.low == j) sum += (A)(1.0 - line.share) * widen(ct[i * g.inner]);
        if (line.high == j) sum += (A)line.share * widen(ct[i * g.inner]);
    }
    return sum;
}

template <class T> __device__ void resample_transposed(const T* ct, T* dx, Resample g) {
    for (u64 at = (u64)blockIdx.x * blockDim.x + threadIdx.x; at < g.n; at += (u64)gridDim.x * blockDim.x) {
        u64 j = at / g.inner % g.from;
        narrow(gathered(ct + at / g.inner / g.from * g.to * g.inner + at % g.inner, j, g), dx[at]);
    }
}

#define DEFINE(name, T) \
    extern "C" __global__ void resample_##name(const T* x, T* y, Resample g) { resample(x, y, g); } \
    extern "C" __global__ void resample_transposed_##name(const T* ct, T* dx, Resample g) { resample_transposed(ct, dx, g); }
FOR_EACH_FLOAT(DEFINE)
#undef DEFINE
