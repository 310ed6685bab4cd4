"""Oracle for tests/test_checkpoint_torch.sh: one small Swin in every form that torch and safetensors write.

    torch_forms.py FOLDER    writes the forms and prints the checkpoint_sha256 that all of them must give
"""
import collections
import hashlib
import os
import struct
import sys

import torch

EMBED, DEPTHS, HEADS, WINDOW, CLASSES = 24, (2, 1), (2, 4), 7, 11


def parameters():
    """(key, shape) in official order."""
    yield "patch_embed.proj.weight", (EMBED, 3, 4, 4)
    for key in ("patch_embed.proj.bias", "patch_embed.norm.weight", "patch_embed.norm.bias"):
        yield key, (EMBED,)
    for stage, depth in enumerate(DEPTHS):
        c = EMBED << stage
        for block in range(depth):
            p = f"layers.{stage}.blocks.{block}."
            yield p + "norm1.weight", (c,)
            yield p + "norm1.bias", (c,)
            yield p + "attn.relative_position_bias_table", ((2 * WINDOW - 1) ** 2, HEADS[stage])
            for name, rows, cols in (("attn.qkv", 3 * c, c), ("attn.proj", c, c)):
                yield p + name + ".weight", (rows, cols)
                yield p + name + ".bias", (rows,)
            yield p + "norm2.weight", (c,)
            yield p + "norm2.bias", (c,)
            for name, rows, cols in (("mlp.fc1", 4 * c, c), ("mlp.fc2", c, 4 * c)):
                yield p + name + ".weight", (rows, cols)
                yield p + name + ".bias", (rows,)
        if stage + 1 < len(DEPTHS):
            p = f"layers.{stage}.downsample."
            yield p + "reduction.weight", (2 * c, 4 * c)
            yield p + "norm.weight", (4 * c,)
            yield p + "norm.bias", (4 * c,)
    yield "norm.weight", (c,)
    yield "norm.bias", (c,)
    yield "head.weight", (CLASSES, c)
    yield "head.bias", (CLASSES,)


def digest(state):
    h = hashlib.sha256()
    for key, shape in parameters():
        h.update(key.encode() + b"\0" + struct.pack(f"<{1 + len(shape)}q", len(shape), *shape))
        h.update(state[key].float().contiguous().numpy().tobytes())
    return h.hexdigest()


def relative_index(w):
    g = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij")).flatten(1)
    d = (g[:, :, None] - g[:, None, :]).permute(1, 2, 0) + (w - 1)
    return d[..., 0] * (2 * w - 1) + d[..., 1]


def main(folder):
    g = torch.Generator().manual_seed(20260521)
    # Eighths: every floating-point type holds them.
    state = collections.OrderedDict((k, torch.randint(-120, 121, s, generator=g) / 8) for k, s in parameters())
    official = collections.OrderedDict(state)
    for stage, depth in enumerate(DEPTHS):
        for block in range(depth):
            official[f"layers.{stage}.blocks.{block}.attn.relative_position_index"] = relative_index(WINDOW)
    official["layers.0.blocks.1.attn_mask"] = torch.zeros(4, WINDOW**2, WINDOW**2)

    module = torch.nn.Module()
    for k, v in state.items():
        module.register_parameter(k.replace(".", "__"), torch.nn.Parameter(v.clone()))
    optimizer = torch.optim.AdamW(module.parameters())
    sum(p.sum() for p in module.parameters()).backward()
    optimizer.step()
    training = {"model": official, "optimizer": optimizer.state_dict(), "epoch": 299, "max_accuracy": 81.2,
                "model_ema": {k: v + 1 for k, v in state.items()}, "config": collections.Counter({"a": 1})}
    flat = torch.cat([v.flatten() for v in state.values()])
    views, at = {}, 0
    for k, v in state.items():
        views[k] = flat[at:at + v.numel()].view(v.shape)
        at += v.numel()

    def half(d, t):
        return {k: v.to(t) if v.is_floating_point() else v for k, v in d.items()}

    forms = {"bare": state, "official": {"model": official}, "training": training,
             "state_dict": {"state_dict": {"module." + k: v for k, v in state.items()}},
             "parameters": {k: torch.nn.Parameter(v) for k, v in state.items()},
             "half": {"model": half(official, torch.float16)}, "bfloat16": half(state, torch.bfloat16),
             "double": half(state, torch.float64), "shared": views,
             "transposed": {k: v.t().contiguous().t() if v.ndim == 2 else v for k, v in state.items()}}
    for name, content in forms.items():
        torch.save(content, os.path.join(folder, name + ".pth"))
        torch.save(content, os.path.join(folder, name + "_legacy.pth"), _use_new_zipfile_serialization=False)
    for protocol in (3, 4, 5):
        torch.save(training, os.path.join(folder, f"protocol{protocol}.pth"), pickle_protocol=protocol)
    try:
        from safetensors.torch import save_file
        save_file(dict(official), os.path.join(folder, "official.safetensors"))
        save_file(half(state, torch.bfloat16), os.path.join(folder, "bfloat16.safetensors"))
    except ImportError:
        pass
    print(digest(state))


main(sys.argv[1])
