"""The twins of runtime/base/rng.h and tests/support/trained.c in NumPy, for the oracles."""
import math

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def next_u64(state, n):
    """The n numbers that SplitMix64 makes after `state` (an int)."""
    with np.errstate(over="ignore"):
        z = np.uint64(state & 0xFFFFFFFFFFFFFFFF) + GOLDEN * np.arange(1, n + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def normal(state, n):
    """swin_rng_normal, n times: float64."""
    u = (next_u64(state, 2 * n) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return np.sqrt(-2.0 * np.log(1.0 - u[0::2])) * np.cos(6.283185307179586476925 * u[1::2])


def fnv1a(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


def size_of(key, shape, v2):
    """Mean and standard deviation of one tensor: the table of tests/support/trained.h."""
    weight = key.endswith(".weight")
    if "norm" in key and weight:
        in_block = key.startswith("layers.") and "downsample" not in key
        return (0.5 if v2 and in_block else 1.0), 0.25
    if key.endswith("bias_table"):
        return 0.0, 0.5
    if key.endswith("logit_scale"):
        return 3.0, 1.5
    if "cpb_mlp.0" in key:
        return 0.0, 1.0
    if weight and "cpb_mlp.2" not in key:
        inputs = math.prod(shape[1:])
        return 0.0, (1.5 if key == "patch_embed.proj.weight" else 1.2) / math.sqrt(inputs)
    return 0.0, 0.1


def trained(key, shape, v2, seed):
    """One tensor under its official key: float32."""
    mean, sd = size_of(key, shape, v2)
    state = (seed * int(GOLDEN) + fnv1a(key)) & 0xFFFFFFFFFFFFFFFF
    n = math.prod(shape)
    return (mean + sd * normal(state, n)).astype(np.float32).reshape(shape)
