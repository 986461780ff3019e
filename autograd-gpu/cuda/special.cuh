// Functions of one or two numbers that CUDA's library lacks or defines otherwise, for generated kernels.

// A number as an integer of a type, as Rust's `as`: cut off, held within the type's bounds, 0 for NaN.
template <class A> __device__ inline void cut_off(A x, unsigned char& to) {
    to = x > A(0) ? x < A(255) ? (unsigned char)x : 255 : 0;
}
template <class A> __device__ inline void cut_off(A x, u32& to) {
    to = x > A(0) ? x < A(4294967296.0) ? (u32)x : 0xffffffffu : 0;
}
template <class A> __device__ inline void cut_off(A x, i64& to) {
    const A bound = A(9223372036854775808.0);
    if (x != x) to = 0;
    else if (x >= bound) to = 0x7fffffffffffffffll;
    else if (x < -bound) to = -0x7fffffffffffffffll - 1;
    else to = (i64)x;
}

template <class A> __device__ inline A sign_of(A x) { return x != x ? x : A(x > A(0)) - A(x < A(0)); }
template <class A> __device__ inline A sigmoid_of(A x) {
    A e = exp(-fabs(x));
    return x >= A(0) ? A(1) / (A(1) + e) : e / (A(1) + e);
}
template <class A> __device__ inline A relu_of(A x) { return x <= A(0) ? A(0) : x; }
template <class A> __device__ inline A softplus_of(A x) { return larger(x, A(0)) + log1p(exp(-fabs(x))); }
template <class A> __device__ inline A rem_of(A a, A b) { return a - b * floor(a / b); }

// aⁿ for a whole n by squaring; 0⁰ = 1.
template <class A> __device__ inline A powi_of(A a, A n) {
    A base = n < A(0) ? A(1) / a : a, power = A(1);
    for (u64 k = (u64)fabs(n); k; k >>= 1) {
        if (k & 1) power *= base;
        base *= base;
    }
    return power;
}

// ψ⁽ⁿ⁾(x): up by the recurrence, then the asymptotic series (Abramowitz and Stegun 6.3.18, 6.4.11).
template <class A> __device__ inline A polygamma_of(A order, A x) {
    const double bernoulli[10] = {1.0 / 6, -1.0 / 30, 1.0 / 42, -1.0 / 30, 5.0 / 66, -691.0 / 2730, 7.0 / 6, -3617.0 / 510, 43867.0 / 798, -174611.0 / 330};
    int n = (int)order;
    double z = x, sum = 0, factorial = 1;
    for (int i = 2; i <= n; ++i) factorial *= i;
    // The poles of ψ: signed at ±0, of no sign at -1, -2, … Those of its derivatives come from the sum.
    if (n == 0 && z == 0) return A(copysign(infinity_of(double()), -z));
    if (n == 0 && z < 0 && z == floor(z)) return A(infinity_of(double()) - infinity_of(double()));
    // The series needs z beyond its order.
    for (; z < 16 + n; z += 1) sum += pow(z, -(double)(n + 1));
    if (n == 0) {
        double tail = log(z) - 0.5 / z, power = 1 / (z * z);
        for (int k = 0; k < 10; ++k, power /= z * z) tail -= bernoulli[k] / (2 * (k + 1)) * power;
        return A(tail - sum);
    }
    // Σ 1 / (z + k)^(n + 1), by Euler and Maclaurin.
    double s = n + 1, tail = pow(z, -n) / n + 0.5 * pow(z, -s), term = s * pow(z, -s - 1), fact = 2;
    for (int k = 0; k < 10; ++k) {
        tail += bernoulli[k] / fact * term;
        term *= (s + 2 * k + 1) * (s + 2 * k + 2) / (z * z);
        fact *= (2 * k + 3) * (2 * k + 4);
    }
    double whole = factorial * (sum + tail);
    return A(n % 2 ? whole : -whole);
}
template <class A> __device__ inline A digamma_of(A x) { return polygamma_of(A(0), x); }
