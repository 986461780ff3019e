"""JAX's side of `cargo xtask peers`: see WORKLOADS.md for the workloads, worker.rs for the protocol."""

import os

from worker import ASKED, serve

os.environ["JAX_PLATFORMS"] = "cpu"
if ASKED.threads == 1:
    # JAX has no other switch for the number of its CPU threads.
    os.sched_setaffinity(0, {0})
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"

import jax
import jax.numpy as jnp
import numpy as np
from jax import grad, hessian, jacfwd, jacrev, jit, jvp, lax, value_and_grad, vmap

W = {}
RNG = np.random.default_rng(0)


def workload(fn):
    W[fn.__name__] = fn
    return fn


def mk(*shape, scale=1.0):
    return jnp.asarray((RNG.standard_normal(shape) * scale).astype(np.float32))


def ones(n):
    return jnp.ones((n,), jnp.float32)


def ints(hi, *shape):
    return jnp.asarray(RNG.integers(0, hi, shape).astype(np.int32))


def step(f, leaves, consts=()):
    """value and grad of scalar f(leaves, consts) w.r.t. every leaf: the value is returned, as every peer computes
    it; consts are jit arguments, so that XLA cannot constant-fold them."""
    leaves, consts = tuple(leaves), tuple(consts)
    g = jit(value_and_grad(lambda p, c: f(*p, *c)))
    return lambda: g(leaves, consts)


def xent(logits, t):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits, -1), t[:, None], 1))


def _matmul(n):
    a, b = mk(n, n), mk(n, n)
    f = jit(lambda a, b: a @ b)
    return (lambda: f(a, b))


@workload
def matmul_1024():
    return _matmul(1024)


@workload
def ew_chain():
    x, w, b = mk(4096, 1024), mk(4096, 1024), mk(4096, 1024)
    return step(lambda x, w, b: jnp.sum(jnp.tanh(x * w + b) * jax.nn.sigmoid(x)), [x, w, b])


@workload
def ew_chain_bcast():
    x, w, b = mk(4096, 1024), mk(1024), mk(1024)
    return step(lambda x, w, b: jnp.sum(jnp.tanh(x * w + b) * jax.nn.sigmoid(x)), [x, w, b])


@workload
def small_ops():
    x, c, d = mk(16), mk(16), mk(16)

    def f(x, c, d):
        y = x
        for i in range(1000):
            r = i % 3
            y = y * c if r == 0 else (y + d if r == 1 else jnp.tanh(y))
        return jnp.sum(y)

    return step(f, [x], [c, d])


def mlp_params():
    return [mk(784, 1024, scale=0.03), mk(1024, scale=0.0), mk(1024, 1024, scale=0.03), mk(1024, scale=0.0),
            mk(1024, 10, scale=0.03), mk(10, scale=0.0)]


def mlp_loss(w1, b1, w2, b2, w3, b3, x, t):
    h = jax.nn.relu(x @ w1 + b1)
    h = jax.nn.relu(h @ w2 + b2)
    return xent(h @ w3 + b3, t)


@workload
def mlp():
    return step(mlp_loss, mlp_params(), [mk(128, 784), ints(10, 128)])


def conv(x, k, b=None):
    y = lax.conv_general_dilated(x, k, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NCHW", "OIHW", "NCHW"))
    return y if b is None else y + b[None, :, None, None]


def maxpool(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")


@workload
def convnet():
    p = [mk(32, 3, 3, 3, scale=0.1), mk(32, scale=0.), mk(64, 32, 3, 3, scale=0.06), mk(64, scale=0.),
         mk(128, 64, 3, 3, scale=0.04), mk(128, scale=0.), mk(8192, 10, scale=0.02), mk(10, scale=0.)]

    def f(k1, b1, k2, b2, k3, b3, w, b, x, t):
        h = jax.nn.relu(conv(x, k1, b1))
        h = jax.nn.relu(conv(h, k2, b2))
        h = maxpool(h)
        h = jax.nn.relu(conv(h, k3, b3))
        h = maxpool(h)
        return xent(h.reshape(32, -1) @ w + b, t)

    return step(f, p, [mk(32, 3, 32, 32), ints(10, 32)])


def batch_norm(x, w, b, eps=1e-5):
    m = jnp.mean(x, (0, 2, 3), keepdims=True)
    v = jnp.var(x, (0, 2, 3), keepdims=True)
    return (x - m) * lax.rsqrt(v + eps) * w[None, :, None, None] + b[None, :, None, None]


@workload
def resnet_block():
    p = [mk(16, 64, 32, 32), mk(64, 64, 3, 3, scale=0.05), ones(64), mk(64, scale=0.),
         mk(64, 64, 3, 3, scale=0.05), ones(64), mk(64, scale=0.)]

    def f(x, k1, s1, o1, k2, s2, o2, g):
        h = jax.nn.relu(batch_norm(conv(x, k1), s1, o1))
        h = batch_norm(conv(h, k2), s2, o2)
        return jnp.sum(jax.nn.relu(h + x) * g)

    return step(f, p, [mk(16, 64, 32, 32)])


B, T, D, H = 8, 128, 256, 8
NP_BLOCK = 12


def block_params():
    return [ones(D), mk(D, scale=0.), mk(D, 3 * D, scale=0.05), mk(3 * D, scale=0.), mk(D, D, scale=0.05), mk(D, scale=0.),
            ones(D), mk(D, scale=0.), mk(D, 4 * D, scale=0.05), mk(4 * D, scale=0.), mk(4 * D, D, scale=0.05), mk(D, scale=0.)]


def causal_mask():
    return jnp.triu(jnp.full((T, T), -jnp.inf, jnp.float32), 1)


def layer_norm(x, w, b, eps=1e-5):
    m = jnp.mean(x, -1, keepdims=True)
    v = jnp.var(x, -1, keepdims=True)
    return (x - m) * lax.rsqrt(v + eps) * w + b


def block(x, p, mask):
    g1, o1, wqkv, bqkv, wo, bo, g2, o2, w1, b1, w2, b2 = p
    h = layer_norm(x, g1, o1)
    q, k, v = jnp.transpose((h @ wqkv + bqkv).reshape(B, T, 3, H, D // H), (2, 0, 3, 1, 4))
    s = (q @ jnp.swapaxes(k, -1, -2)) * (D // H) ** -0.5 + mask
    a = jax.nn.softmax(s, -1) @ v
    x = x + jnp.swapaxes(a, 1, 2).reshape(B, T, D) @ wo + bo
    h = layer_norm(x, g2, o2)
    return x + jax.nn.gelu(h @ w1 + b1, approximate=True) @ w2 + b2


@workload
def transformer_block():
    def f(x, *r):
        p, (g, mask) = r[:NP_BLOCK], r[NP_BLOCK:]
        return jnp.sum(block(x, p, mask) * g)
    return step(f, [mk(B, T, D), *block_params()], [mk(B, T, D), causal_mask()])


@workload
def gpt_step():
    L, V = 4, 1024
    p = [mk(V, D, scale=0.02), mk(T, D, scale=0.02), ones(D), mk(D, scale=0.), mk(D, V, scale=0.02)]
    for _ in range(L):
        p += block_params()

    def f(wte, wpe, gf, of, head, *r):
        bp, (tok, tgt, mask) = r[:-3], r[-3:]
        x = wte[tok] + wpe
        for i in range(L):
            x = block(x, bp[i * NP_BLOCK:(i + 1) * NP_BLOCK], mask)
        return xent((layer_norm(x, gf, of) @ head).reshape(B * T, V), tgt)

    return step(f, p, [ints(V, B, T), ints(V, B * T), causal_mask()])


def _single(f, *leaves, out=None):
    g = mk(*(out or leaves[0].shape))
    return step(lambda *a: jnp.sum(f(*a[:-1]) * a[-1]), leaves, [g])


@workload
def op_softmax():
    return _single(lambda x: jax.nn.softmax(x, -1), mk(4096, 1024))


@workload
def op_log_softmax():
    return _single(lambda x: jax.nn.log_softmax(x, -1), mk(4096, 1024))


@workload
def op_layer_norm():
    return _single(layer_norm, mk(4096, 1024), mk(1024), mk(1024))


@workload
def op_gelu():
    return _single(lambda x: jax.nn.gelu(x, approximate=True), mk(4096, 1024))


@workload
def op_mish():
    return _single(jax.nn.mish, mk(4096, 1024))


@workload
def op_logsumexp():
    return _single(lambda x: jax.nn.logsumexp(x, -1), mk(4096, 1024), out=(4096,))


@workload
def op_group_norm():
    def f(x, w, b):
        y = x.reshape(32, 8, -1)
        m, v = jnp.mean(y, -1, keepdims=True), jnp.var(y, -1, keepdims=True)
        return ((y - m) * lax.rsqrt(v + 1e-5)).reshape(x.shape) * w[None, :, None, None] + b[None, :, None, None]
    return _single(f, mk(32, 64, 32, 32), mk(64), mk(64))


@workload
def op_batch_norm():
    return _single(batch_norm, mk(32, 64, 32, 32), mk(64), mk(64))


@workload
def op_conv2d():
    return _single(conv, mk(16, 64, 32, 32), mk(64, 64, 3, 3, scale=0.05))


@workload
def op_max_pool2d():
    return _single(maxpool, mk(16, 64, 32, 32), out=(16, 64, 16, 16))


@workload
def hvp_mlp():
    c = (mk(128, 784), ints(10, 128))
    p = tuple(mlp_params())
    v = tuple(mk(*q.shape) for q in p)
    h = jit(lambda p, v, c: jvp(grad(lambda p: mlp_loss(*p, *c)), (p,), (v,))[1])
    return (lambda: h(p, v, c))


@workload
def hvp_mlp_revrev():
    c = (mk(128, 784), ints(10, 128))
    p = tuple(mlp_params())
    v = tuple(mk(*q.shape) for q in p)

    def dot(p, v, c):
        g = grad(lambda p: mlp_loss(*p, *c))(p)
        return sum(jnp.vdot(a, b) for a, b in zip(g, v))

    h = jit(grad(dot))
    return (lambda: h(p, v, c))


def small_loss(th, x, t):
    w1, b1 = th[:80].reshape(8, 10), th[80:90]
    w2, b2 = th[90:190].reshape(10, 10), th[190:200]
    return xent(jnp.tanh(x @ w1 + b1) @ w2 + b2, t)


@workload
def hessian_200():
    th, x, t = mk(200, scale=.3), mk(32, 8), ints(10, 32)
    h = jit(hessian(small_loss))
    return (lambda: h(th, x, t))


def _jac(tr):
    w = (mk(256, 256, scale=.06), mk(256, scale=.1), mk(256, 256, scale=.06), mk(256, scale=.1))
    x = mk(256)
    j = jit(tr(lambda x, w: jnp.tanh(jnp.tanh(x @ w[0] + w[1]) @ w[2] + w[3])))
    return (lambda: j(x, w))


@workload
def jacrev_256():
    return _jac(jacrev)


@workload
def jacfwd_256():
    return _jac(jacfwd)


@workload
def per_sample_grads():
    x, t = mk(128, 784), ints(10, 128)
    p = (mk(784, 64, scale=.03), mk(64, scale=0.), mk(64, 10, scale=.1), mk(10, scale=0.))

    def f(p, x, t):
        return xent((jax.nn.relu(x @ p[0] + p[1]) @ p[2] + p[3])[None], t[None])

    g = jit(vmap(grad(f), in_axes=(None, 0, 0)))
    return (lambda: g(p, x, t))


def _stack(ckpt, L=12):
    p = []
    for _ in range(L):
        p += block_params()

    def f(x, *r):
        bp, (g, mask) = r[:-2], r[-2:]
        blk = jax.checkpoint(block) if ckpt else block
        for i in range(L):
            x = blk(x, tuple(bp[i * NP_BLOCK:(i + 1) * NP_BLOCK]), mask)
        return jnp.sum(x * g)

    leaves, consts = (mk(B, T, D), *p), (mk(B, T, D), causal_mask())
    g = jit(value_and_grad(lambda p, c: f(*p, *c)))
    return (lambda: g(leaves, consts))


@workload
def stack12_plain():
    return _stack(False)


@workload
def stack12_ckpt():
    return _stack(True)


serve(W, jax.block_until_ready)
