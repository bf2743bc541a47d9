#!/usr/bin/env python3
"""The yardstick of kto's attention on a GPU: torch's scaled_dot_product_attention by its flash and cuDNN backends, bf16, causal, 8
sequences of 2,048 tokens: "dense64" has 32 heads of 64 over 4 key-value heads, "dense128" 32 of 128 over 8.

Prints "BACKEND SHAPE DIRECTION TFLOP/S" lines: the medians of CUDA events, and the better of grouped heads and of keys and values
repeated for every head. Operations are counted as causal ones: 4 a key and feature forward, 10 backward.
"""

import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

SEQUENCES, LENGTH, HEADS = 8, 2048, 32
SHAPES = {"dense64": (64, 4), "dense128": (128, 8)}
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
WARM_UP, TIMINGS, INPUTS = 3, 21, 2  # two sets of inputs in turn, so that none stays in the cache


def median_seconds(work):
    for i in range(WARM_UP):
        work(i % INPUTS)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(TIMINGS)]
    for i, (begin, end) in enumerate(events):
        begin.record()
        work(i % INPUTS)
        end.record()
    torch.cuda.synchronize()
    return sorted(begin.elapsed_time(end) for begin, end in events)[TIMINGS // 2] * 1e-3


def measure(head_dim, kv_heads):
    """Seconds forward and backward."""

    def draw(heads):
        return torch.randn(SEQUENCES, LENGTH, heads, head_dim, device="cuda", dtype=torch.bfloat16).transpose(1, 2)

    inputs = [[x.requires_grad_() for x in (draw(HEADS), draw(kv_heads), draw(kv_heads))] for _ in range(INPUTS)]
    gradients = [draw(HEADS) for _ in range(INPUTS)]

    def attend(i):
        return scaled_dot_product_attention(*inputs[i], is_causal=True, enable_gqa=kv_heads != HEADS)

    with torch.no_grad():
        forward = median_seconds(attend)
    outputs = [attend(i) for i in range(INPUTS)]
    return forward, median_seconds(
        lambda i: torch.autograd.grad(outputs[i], inputs[i], gradients[i], retain_graph=True)
    )


def main():
    if not torch.cuda.is_available():
        sys.exit("bench_attention: this Python's torch finds no GPU")
    for shape, (head_dim, kv_heads) in SHAPES.items():
        flops = SEQUENCES * LENGTH * (LENGTH + 1) / 2 * HEADS * head_dim * 4
        for name, backend in BACKENDS.items():
            best = [float("inf")] * 2
            for heads in (kv_heads, HEADS):
                try:
                    with sdpa_kernel(backend):
                        best = [min(pair) for pair in zip(best, measure(head_dim, heads))]
                except RuntimeError as error:  # a backend may refuse a shape
                    print(f"{name} {shape}, {heads} kv heads: {str(error).splitlines()[0][:150]}", file=sys.stderr)
            for direction, seconds, share in zip(("forward", "backward"), best, (1, 2.5)):
                if seconds < float("inf"):
                    print(name, shape, direction, f"{share * flops / seconds * 1e-12:.1f}", flush=True)


if __name__ == "__main__":
    main()
