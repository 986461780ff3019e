"""PyTorch's times of the workloads of gpu_host on the same card, eager and compiled, beside ours.

usage: python peers.py OURS.jsonl        OURS.jsonl is what `gpu_host bench OURS.jsonl` wrote
Prints a table in Markdown: milliseconds forward and backward, and ours / compiled.
"""

import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

BATCH, LENGTH, MODEL, HEADS, CLASSES, IMAGES, SIDE = 8, 1024, 1024, 16, 32000, 64, 32
ROWS = BATCH * LENGTH
WARM, TIMED = 5, 20


def numbers(dims, dtype, scale=1.0):
    count = 1
    for extent in dims:
        count *= extent
    i = torch.arange(count, device="cuda", dtype=torch.int64)
    x = scale * ((i * 7919 % 2003).float() / 1001.5 - 1.0)
    return x.reshape(dims).to(dtype)


def block(x, g1, b1, qkv, out, g2, b2, up, down):
    h = F.layer_norm(x, (MODEL,), g1, b1) @ qkv
    q, k, v = (p.reshape(BATCH, LENGTH, HEADS, MODEL // HEADS).transpose(1, 2) for p in h.split(MODEL, 1))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + y.transpose(1, 2).reshape(ROWS, MODEL) @ out
    return x + F.gelu(F.layer_norm(x, (MODEL,), g2, b2) @ up, approximate="tanh") @ down


def convnet(x, *parameters):
    for layer in range(3):
        k, weight, bias = parameters[3 * layer : 3 * layer + 3]
        x = F.relu(F.batch_norm(F.conv2d(x, k, padding=1), None, None, weight, bias, training=True))
        if layer == 1:
            x = F.max_pool2d(x, 2)
    return x


def digits(x, k1, b1, k2, b2, w, b):
    for k, bias in [(k1, b1), (k2, b2)]:
        x = F.max_pool2d(F.relu(F.conv2d(x, k, bias, padding=2)), 2)
    classes = (torch.arange(IMAGES, device="cuda") * 7) % 10
    return F.cross_entropy(x.flatten(1) @ w + b, classes)


def workloads(dtype):
    """Each name with a function, its inputs and the shape of its output."""
    of = lambda *dims, scale=1.0: numbers(dims, dtype, scale)
    rows = (ROWS, MODEL)
    targets = (torch.arange(ROWS, device="cuda") * 613) % CLASSES
    small = [of(*rows, scale=0.02), of(MODEL, scale=0.02), of(MODEL, scale=0.02)]
    small += [of(MODEL, 3 * MODEL, scale=0.02), of(MODEL, MODEL, scale=0.02), of(MODEL, scale=0.02)]
    small += [of(MODEL, scale=0.02), of(MODEL, 4 * MODEL, scale=0.02), of(4 * MODEL, MODEL, scale=0.02)]
    layers = [of(IMAGES, 3, SIDE, SIDE, scale=0.1)]
    for channels, before in [(64, 3), (64, 64), (128, 64)]:
        layers += [of(channels, before, 3, 3, scale=0.1), of(channels, scale=0.1), of(channels, scale=0.1)]
    net = [of(IMAGES, 1, SIDE, SIDE, scale=0.1), of(16, 1, 5, 5, scale=0.1), of(16, scale=0.1)]
    net += [of(32, 16, 5, 5, scale=0.1), of(32, scale=0.1)]
    net += [of(32 * (SIDE // 4) ** 2, 10, scale=0.1), of(10, scale=0.1)]
    norm = lambda x, w, b: F.layer_norm(x, (MODEL,), w, b)
    return [
        ("layer norm", norm, [of(*rows), of(MODEL), of(MODEL)]),
        ("softmax", lambda x: F.softmax(x, -1), [of(*rows)]),
        ("gelu", lambda x: F.gelu(x, approximate="tanh"), [of(*rows)]),
        ("cross entropy", lambda x: F.cross_entropy(x, targets), [of(ROWS, CLASSES)]),
        ("transformer block", block, small),
        ("convnet", convnet, layers),
        ("digits", digits, net),
    ]


def seconds(f, inputs):
    inputs = [x.detach().requires_grad_() for x in inputs]
    ct = torch.ones_like(f(*inputs))
    times = []
    for turn in range(WARM + TIMED):
        torch.cuda.synchronize()
        start = time.perf_counter()
        torch.autograd.grad(f(*inputs), inputs, ct)
        torch.cuda.synchronize()
        if turn >= WARM:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    with open(sys.argv[1]) as file:
        ours = [json.loads(line) for line in file]
    ours = {(o["workload"], o["dtype"]): o for o in ours}
    first = next(iter(ours.values()))
    print(f"{first['card']}, {first['date']}, PyTorch {torch.__version__}\n")
    print("| workload | type | ours ms | captured ms | eager ms | compiled ms | captured / compiled |\n|---|---|---|---|---|---|---|")
    for dtype, name in [(torch.float32, "f32"), (torch.bfloat16, "bf16")]:
        for workload, f, inputs in workloads(dtype):
            torch._dynamo.reset()
            eager, compiled = seconds(f, inputs), seconds(torch.compile(f), inputs)
            own = ours[(workload, name)]["seconds"]
            captured = ours[(workload + ", captured", name)]["seconds"]
            row = [f"{1e3 * t:.3f}" for t in (own, captured, eager, compiled)] + [f"{captured / compiled:.2f}"]
            print(f"| {workload} | {name} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
