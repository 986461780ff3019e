"""PyTorch's side of `cargo xtask peers`: see WORKLOADS.md for the workloads, worker.rs for the protocol."""

import os

from worker import ASKED, serve

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(ASKED.threads)
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import torch
import torch.nn.functional as F
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.utils.checkpoint import checkpoint


def mk(*shape, scale=1.0, req=True, g=None):
    t = torch.randn(*shape) * scale
    return t.requires_grad_(req)


def maybe_compile(f):
    return torch.compile(f) if ASKED.mode == "compile" else f


def step(f, leaves):
    """fwd+bwd of scalar f(*leaves) w.r.t. every leaf."""
    cf = maybe_compile(f)

    def run():
        y = cf(*leaves)
        return y.detach(), torch.autograd.grad(y, leaves)

    return run


W = {}


def workload(fn):
    W[fn.__name__] = fn
    return fn


# ------------------------------------------------------------------ ceilings
def _matmul(n):
    a, b = mk(n, n, req=False), mk(n, n, req=False)
    f = maybe_compile(lambda a, b: a @ b)
    return (lambda: f(a, b))


@workload
def matmul_1024():
    return _matmul(1024)


# --------------------------------------------------------------- elementwise
@workload
def ew_chain():
    x, w, b = mk(4096, 1024), mk(4096, 1024), mk(4096, 1024)
    return step(lambda x, w, b: (torch.tanh(x * w + b) * torch.sigmoid(x)).sum(), [x, w, b])


@workload
def ew_chain_bcast():
    x, w, b = mk(4096, 1024), mk(1024), mk(1024)
    return step(lambda x, w, b: (torch.tanh(x * w + b) * torch.sigmoid(x)).sum(), [x, w, b])


@workload
def small_ops():
    x, c, d = mk(16), mk(16, req=False), mk(16, req=False)

    def f(x):
        y = x
        for i in range(1000):
            r = i % 3
            y = y * c if r == 0 else (y + d if r == 1 else torch.tanh(y))
        return y.sum()

    return step(f, [x])


# ---------------------------------------------------------------------- nets
def mlp_params():
    return [mk(784, 1024, scale=0.03), mk(1024, scale=0.0),
            mk(1024, 1024, scale=0.03), mk(1024, scale=0.0),
            mk(1024, 10, scale=0.03), mk(10, scale=0.0)]


def mlp_loss(x, t):
    def f(w1, b1, w2, b2, w3, b3):
        h = torch.relu(x @ w1 + b1)
        h = torch.relu(h @ w2 + b2)
        return F.cross_entropy(h @ w3 + b3, t)
    return f


@workload
def mlp():
    x, t = mk(128, 784, req=False), torch.randint(0, 10, (128,))
    return step(mlp_loss(x, t), mlp_params())


@workload
def convnet():
    x, t = mk(32, 3, 32, 32, req=False), torch.randint(0, 10, (32,))
    p = [mk(32, 3, 3, 3, scale=0.1), mk(32, scale=0.), mk(64, 32, 3, 3, scale=0.06), mk(64, scale=0.),
         mk(128, 64, 3, 3, scale=0.04), mk(128, scale=0.), mk(8192, 10, scale=0.02), mk(10, scale=0.)]

    def f(k1, b1, k2, b2, k3, b3, w, b):
        h = torch.relu(F.conv2d(x, k1, b1, padding=1))
        h = torch.relu(F.conv2d(h, k2, b2, padding=1))
        h = F.max_pool2d(h, 2)
        h = torch.relu(F.conv2d(h, k3, b3, padding=1))
        h = F.max_pool2d(h, 2)
        return F.cross_entropy(h.flatten(1) @ w + b, t)

    return step(f, p)


@workload
def resnet_block():
    g = mk(16, 64, 32, 32, req=False)
    p = [mk(16, 64, 32, 32), mk(64, 64, 3, 3, scale=0.05), torch.ones(64, requires_grad=True), mk(64, scale=0.),
         mk(64, 64, 3, 3, scale=0.05), torch.ones(64, requires_grad=True), mk(64, scale=0.)]

    def f(x, k1, s1, o1, k2, s2, o2):
        h = F.batch_norm(F.conv2d(x, k1, padding=1), None, None, s1, o1, training=True)
        h = torch.relu(h)
        h = F.batch_norm(F.conv2d(h, k2, padding=1), None, None, s2, o2, training=True)
        return (torch.relu(h + x) * g).sum()

    return step(f, p)


B, T, D, H = 8, 128, 256, 8
MASK = None


def block_params():
    return [torch.ones(D, requires_grad=True), mk(D, scale=0.), mk(D, 3 * D, scale=0.05), mk(3 * D, scale=0.),
            mk(D, D, scale=0.05), mk(D, scale=0.),
            torch.ones(D, requires_grad=True), mk(D, scale=0.), mk(D, 4 * D, scale=0.05), mk(4 * D, scale=0.),
            mk(4 * D, D, scale=0.05), mk(D, scale=0.)]


NP_BLOCK = 12


def causal_mask():
    return torch.full((T, T), float("-inf")).triu(1)


def block(x, p, mask, sdpa):
    g1, o1, wqkv, bqkv, wo, bo, g2, o2, w1, b1, w2, b2 = p
    h = F.layer_norm(x, (D,), g1, o1, 1e-5)
    q, k, v = (h @ wqkv + bqkv).reshape(B, T, 3, H, D // H).permute(2, 0, 3, 1, 4).unbind(0)
    if sdpa:
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        s = (q @ k.transpose(-1, -2)) * (D // H) ** -0.5 + mask
        a = torch.softmax(s, -1) @ v
    a = a.transpose(1, 2).reshape(B, T, D)
    x = x + a @ wo + bo
    h = F.layer_norm(x, (D,), g2, o2, 1e-5)
    return x + F.gelu(h @ w1 + b1, approximate="tanh") @ w2 + b2


def _tblock(sdpa):
    x, g, mask = mk(B, T, D), mk(B, T, D, req=False), causal_mask()
    return step(lambda x, *p: (block(x, p, mask, sdpa) * g).sum(), [x, *block_params()])


@workload
def transformer_block():
    return _tblock(False)


def _gpt(sdpa, L=4, V=1024):
    tok, tgt, mask = torch.randint(0, V, (B, T)), torch.randint(0, V, (B * T,)), causal_mask()
    p = [mk(V, D, scale=0.02), mk(T, D, scale=0.02), torch.ones(D, requires_grad=True), mk(D, scale=0.), mk(D, V, scale=0.02)]
    for _ in range(L):
        p += block_params()

    def f(wte, wpe, gf, of, head, *bp):
        x = F.embedding(tok, wte) + wpe
        for i in range(L):
            x = block(x, bp[i * NP_BLOCK:(i + 1) * NP_BLOCK], mask, sdpa)
        x = F.layer_norm(x, (D,), gf, of, 1e-5)
        return F.cross_entropy((x @ head).reshape(B * T, V), tgt)

    return step(f, p)


@workload
def gpt_step():
    return _gpt(False)


# ----------------------------------------------------------------- single ops
def _single(f, *leaves, out=None):
    g = mk(*(out or leaves[0].shape), req=False)
    return step(lambda *a: (f(*a) * g).sum(), list(leaves))


@workload
def op_softmax():
    return _single(lambda x: torch.softmax(x, -1), mk(4096, 1024))


@workload
def op_log_softmax():
    return _single(lambda x: torch.log_softmax(x, -1), mk(4096, 1024))


@workload
def op_layer_norm():
    return _single(lambda x, w, b: F.layer_norm(x, (1024,), w, b), mk(4096, 1024), mk(1024), mk(1024))


@workload
def op_gelu():
    return _single(lambda x: F.gelu(x, approximate="tanh"), mk(4096, 1024))


@workload
def op_mish():
    return _single(F.mish, mk(4096, 1024))


@workload
def op_logsumexp():
    return _single(lambda x: torch.logsumexp(x, -1), mk(4096, 1024), out=(4096,))


@workload
def op_group_norm():
    return _single(lambda x, w, b: F.group_norm(x, 8, w, b), mk(32, 64, 32, 32), mk(64), mk(64))


@workload
def op_batch_norm():
    return _single(lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True), mk(32, 64, 32, 32), mk(64), mk(64))


@workload
def op_conv2d():
    return _single(lambda x, k: F.conv2d(x, k, padding=1), mk(16, 64, 32, 32), mk(64, 64, 3, 3, scale=0.05))


@workload
def op_max_pool2d():
    return _single(lambda x: F.max_pool2d(x, 2), mk(16, 64, 32, 32), out=(16, 64, 16, 16))


# -------------------------------------------------- higher order / transforms
@workload
def hvp_mlp():
    x, t = mk(128, 784, req=False), torch.randint(0, 10, (128,))
    p = tuple(q.detach() for q in mlp_params())
    v = tuple(torch.randn_like(q) for q in p)
    f = mlp_loss(x, t)
    g = grad(f, argnums=tuple(range(6)))
    h = maybe_compile(lambda p, v: jvp(lambda *q: g(*q), p, v)[1])
    return (lambda: h(p, v))


@workload
def hvp_mlp_revrev():
    x, t = mk(128, 784, req=False), torch.randint(0, 10, (128,))
    p = mlp_params()
    v = [torch.randn_like(q) for q in p]
    f = mlp_loss(x, t)
    if ASKED.mode == "compile":
        raise NotImplementedError("torch.compile (AOTAutograd) does not support double backward")

    def run():
        g = torch.autograd.grad(f(*p), p, create_graph=True)
        return torch.autograd.grad(g, p, v)

    return run


def small_loss(x, t):
    def f(th):
        w1, b1 = th[:80].reshape(8, 10), th[80:90]
        w2, b2 = th[90:190].reshape(10, 10), th[190:200]
        return F.cross_entropy(torch.tanh(x @ w1 + b1) @ w2 + b2, t)
    return f


@workload
def hessian_200():
    x, t = mk(32, 8, req=False), torch.randint(0, 10, (32,))
    th = mk(200, scale=0.3, req=False)
    h = maybe_compile(hessian(small_loss(x, t)))
    return (lambda: h(th))


def _jac(tr):
    w1, b1, w2, b2 = mk(256, 256, scale=.06, req=False), mk(256, scale=.1, req=False), mk(256, 256, scale=.06, req=False), mk(256, scale=.1, req=False)
    x = mk(256, req=False)
    j = maybe_compile(tr(lambda x: torch.tanh(torch.tanh(x @ w1 + b1) @ w2 + b2)))
    return (lambda: j(x))


@workload
def jacrev_256():
    return _jac(jacrev)


@workload
def jacfwd_256():
    return _jac(jacfwd)


@workload
def per_sample_grads():
    x, t = mk(128, 784, req=False), torch.randint(0, 10, (128,))
    p = (mk(784, 64, scale=.03, req=False), mk(64, scale=.0, req=False), mk(64, 10, scale=.1, req=False), mk(10, scale=.0, req=False))

    def f(p, x, t):
        w1, b1, w2, b2 = p
        return F.cross_entropy((torch.relu(x @ w1 + b1) @ w2 + b2)[None], t[None])

    g = maybe_compile(vmap(grad(f), in_dims=(None, 0, 0)))
    return (lambda: g(p, x, t))


def _stack(ckpt, L=12):
    x, g, mask = mk(B, T, D), mk(B, T, D, req=False), causal_mask()
    p = []
    for _ in range(L):
        p += block_params()

    def blk(x, *p):
        return block(x, p, mask, False)

    def f(x, *p):
        for i in range(L):
            q = p[i * NP_BLOCK:(i + 1) * NP_BLOCK]
            x = checkpoint(blk, x, *q, use_reentrant=False) if ckpt else blk(x, *q)
        return (x * g).sum()

    return step(f, [x, *p])


@workload
def stack12_plain():
    return _stack(False)


@workload
def stack12_ckpt():
    return _stack(True)


torch.set_num_threads(ASKED.threads)
torch.manual_seed(0)
serve(W, lambda results: results)
