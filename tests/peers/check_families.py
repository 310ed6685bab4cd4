"""Random-weight models of timm, torchvision and transformers, saved as those libraries save them and run by ours.

usage: check_families.py BUILD_DIR [--all] [--backend cpu|cuda] [--update]
Every model's logits must be within 1e-4 relative L2 of its library's (in float32, on the CPU), ours in float32 on the
backend, and forms of one model must share their checkpoint_sha256. --all adds the large variants. --update writes tests/golden/families.txt: logits of networks whose
weights C and Python make alike (tests/support/trained.h), computed by timm. Skips (77) where torch is missing; a missing
library is counted.
"""
import os
import subprocess
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
import rng  # noqa: E402

try:
    import torch
    from safetensors.torch import save_file
except ImportError:
    print("skipped: no torch or safetensors")
    sys.exit(77)
torch.set_grad_enabled(False)
torch.set_num_threads(min(8, os.cpu_count() or 1))

BUILD = sys.argv[1]
BACKEND = sys.argv[sys.argv.index("--backend") + 1] if "--backend" in sys.argv else "cpu"
TOOL = os.path.join(BUILD, "tests", "tool_logits")
counts = {"passed": 0, "failed": 0, "skipped": 0}


# ---- official keys of a library's own --------------------------------------------------------------------------------
def official_timm(key):
    parts = key.split(".")
    if parts[0] == "layers" and parts[2] == "downsample":
        parts[1] = str(int(parts[1]) - 1)
    return ".".join(parts).replace("head.fc.", "head.")


def official_torchvision(key):
    parts = key.split(".")
    if parts[0] != "features":
        return key
    if parts[1] == "0":
        return "patch_embed.%s.%s" % ("proj" if parts[2] == "0" else "norm", parts[3])
    at = int(parts[1]) - 1
    if at % 2:
        return "layers.%d.downsample.%s" % (at // 2, ".".join(parts[2:]))
    rest = ".".join(parts[3:])
    if parts[3] == "mlp":
        rest = rest.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
    return "layers.%d.blocks.%s.%s" % (at // 2, parts[2], rest)


def official_transformers(key):
    for a, b in (("swinv2.", ""), ("swin.", ""), ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
                 ("embeddings.norm", "patch_embed.norm"), ("encoder.layers", "layers"), ("classifier.", "head."),
                 ("layernorm_before", "norm1"), ("layernorm_after", "norm2"), ("attention.output.dense", "attn.proj"),
                 ("attention.o_proj", "attn.proj"), ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"),
                 ("attention.self.continuous_position_bias_mlp", "attn.cpb_mlp"),
                 ("attention.relative_position_bias.", "attn."), ("attention.self.", "attn."), ("attention.", "attn.")):
        if key.startswith(a) if a in ("swin.", "swinv2.") else a in key:
            key = key.replace(a, b, 1)
    return key.replace("layernorm.", "norm.") if key.startswith("layernorm.") else key


def fill(model, official, v2, seed):
    """Trained-like weights by official key; what is no official parameter (split q, k, v) has a stream of its own."""
    for name, p in model.named_parameters():
        p.copy_(torch.from_numpy(rng.trained(official(name), tuple(p.shape), v2, seed)))
    model.eval()
    return model


def share_qkv(model, official, v2, seed):
    """transformers: query, key and value are thirds of the official tensor."""
    for name, p in model.named_parameters():
        key = official(name)
        for i, forms in enumerate((("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"))):
            for form in forms:
                if ".attn.%s." % form not in key:
                    continue
                if v2 and key.endswith("bias"):
                    p.copy_(torch.from_numpy(rng.trained(key.replace(form + ".bias", "qkv"[i] + "_bias"),
                                                         tuple(p.shape), v2, seed)))
                else:
                    whole = rng.trained(key.replace(form, "qkv"), (3 * p.shape[0],) + tuple(p.shape[1:]), v2, seed)
                    p.copy_(torch.from_numpy(whole[i * p.shape[0]:(i + 1) * p.shape[0]].copy()))
    return model


def join_bias(model, official, v2, seed):
    """torchvision V2: one bias, whose middle third its forward zeroes."""
    if v2:
        for name, p in model.named_parameters():
            key = official(name)
            if key.endswith("qkv.bias"):
                c = p.shape[0] // 3
                for i, part in ((0, "q_bias"), (2, "v_bias")):
                    p[i * c:(i + 1) * c] = torch.from_numpy(
                        rng.trained(key.replace("qkv.bias", part), (c,), v2, seed))
    return model


# ---- running -----------------------------------------------------------------------------------------------------------
def images(n, size):
    return rng.normal(20260 + size, n * 3 * size * size).astype(np.float32).reshape(n, 3, size, size)


def ours(path, x, extra=()):
    """extra: the configuration, if the checkpoint does not determine it, and its options."""
    cfg_file, *options = extra or ["-"]
    with tempfile.TemporaryDirectory() as d:
        x.tofile(d + "/in")
        r = subprocess.run([TOOL, path, d + "/in", d + "/out", cfg_file, BACKEND, "fp32", *options],
                           capture_output=True, text=True)
        if r.returncode:
            raise RuntimeError(r.stderr.strip()[-600:])
        return np.fromfile(d + "/out", np.float32).reshape(len(x), -1), r.stdout.split()


def check(name, state, x, want, extra=(), container="safetensors"):
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "model." + container)
        if container == "pth":
            torch.save(state, path)
        else:
            save_file({k: v.contiguous() for k, v in state.items()}, path)
        try:
            got, said = ours(path, x, extra)
        except RuntimeError as e:
            print("%-46s FAILED: %s" % (name, e))
            counts["failed"] += 1
            return None
    e = np.linalg.norm(got.astype(np.float64) - want) / np.linalg.norm(want)
    ok = e <= 1e-4 and np.array_equal(got.argmax(1), want.argmax(1))
    counts["passed" if ok else "failed"] += 1
    print("%-46s relative L2 %.1e %s %s" % (name, e, "ok" if ok else "FAILED", said[0]))
    return said[3]


def cfg(name):
    return os.path.join(ROOT, "configs", name + ".yaml")


def run_timm(name, v2, seed, size, window, config, classes=1000, n=1, **kw):
    import timm
    m = timm.create_model(name, num_classes=classes, img_size=size, window_size=window, **kw)
    fill(m, official_timm, v2, seed)
    x = images(n, size)
    want = m(torch.from_numpy(x)).double().numpy()
    extra = [cfg(config)] if config else []
    return m, x, want, check("timm " + name + " %d/w%d" % (size, window), m.state_dict(), x, want, extra)


def with_library(name, fn, *args):
    try:
        __import__(name)
    except ImportError:
        print("%s: skipped, not installed" % name)
        counts["skipped"] += 1
        return None
    return fn(*args)


def all_timm(everything):
    sha = {}
    jobs = [("swin_tiny_patch4_window7_224", False, 224, 7, None), ("swin_small_patch4_window7_224", False, 224, 7, None),
            ("swinv2_tiny_window8_256", True, 256, 8, "swinv2_tiny_patch4_window8_256"),
            ("swinv2_tiny_window16_256", True, 256, 16, "swinv2_tiny_patch4_window16_256"),
            ("swinv2_base_window16_256", True, 256, 16, "swinv2_base_patch4_window16_256")]
    if everything:
        jobs += [("swin_base_patch4_window7_224", False, 224, 7, None),
                 ("swin_large_patch4_window7_224", False, 224, 7, None),
                 ("swin_base_patch4_window12_384", False, 384, 12, None),
                 ("swin_large_patch4_window12_384", False, 384, 12, None),
                 ("swinv2_small_window8_256", True, 256, 8, "swinv2_small_patch4_window8_256"),
                 ("swinv2_base_window8_256", True, 256, 8, "swinv2_base_patch4_window8_256"),
                 ("swinv2_small_window16_256", True, 256, 16, "swinv2_small_patch4_window16_256")]
        for size, win in ((256, 16), (384, 24)):
            for v in ("base", "large"):
                n = "swinv2_%s_window12to%d_192to%d" % (v, win, size)
                jobs.append((n, True, size, win,
                             "swinv2_%s_patch4_window12to%d_192to%d_22kto1k_ft" % (v, win, size)))
    for name, v2, size, window, config in jobs:
        m, x, want, sha[name] = run_timm(name, v2, 1, size, window, config)
        if name in ("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"):
            state = {official_timm(k): v for k, v in m.state_dict().items()}
            extra = [cfg(config)] if config else []
            same = check("  official names, .pth under 'model'", {"model": state}, x, want, extra, "pth")
            old = {k.replace("head.", "head.fc."): v for k, v in state.items()}
            check("  timm, merging at the end, head.fc", old, x, want, extra)
            for form in (same,):
                if form != sha[name]:
                    print("  checkpoint_sha256 differs between forms of %s" % name)
                    counts["failed"] += 1
    return sha


def variations():
    """Windows and image sizes that no released model has, a head of 22k classes, a table of another window."""
    import timm
    v2 = dict(v2=True, seed=3)
    make = timm.create_model
    for size, window, pretrained in ((384, 12, 0), (384, 24, 12), (512, 8, 0), (256, 16, 12)):
        m = make("swinv2_tiny_window8_256", num_classes=50, img_size=size, window_size=window,
                 pretrained_window_sizes=(pretrained,) * 3 + (min(pretrained, size // 32),))
        fill(m, official_timm, **v2)
        x = images(1, size)
        opts = ["DATA.IMG_SIZE", str(size), "MODEL.SWINV2.WINDOW_SIZE", str(window)]
        if pretrained:
            opts += ["MODEL.SWINV2.PRETRAINED_WINDOW_SIZES", "[%d,%d,%d,%d]" % ((pretrained,) * 3 + (min(pretrained, size // 32),))]
        check("V2-T at %d, window %d, pretrained %d" % (size, window, pretrained), m.state_dict(), x,
              m(torch.from_numpy(x)).double().numpy(), [cfg("swinv2_tiny_patch4_window8_256")] + opts)
    for size, window in ((448, 7), (384, 12), (512, 16), (384, 24)):
        m = fill(make("swin_tiny_patch4_window7_224", num_classes=50, img_size=size, window_size=window), official_timm,
                 False, 3)
        x = images(1, size)
        check("T at %d, window %d" % (size, window), m.state_dict(), x, m(torch.from_numpy(x)).double().numpy(),
              [cfg("swin_tiny_patch4_window7_224"), "DATA.IMG_SIZE", str(size), "MODEL.SWIN.WINDOW_SIZE",
               str(window)])
    m = fill(make("swin_tiny_patch4_window7_224", num_classes=21841), official_timm, False, 3)
    x = images(1, 224)
    check("T with a head of 22k", m.state_dict(), x, m(torch.from_numpy(x)).double().numpy())

    # The official recipe for fine-tuning at another window: each table interpolated over its square.
    small = fill(make("swin_tiny_patch4_window7_224", num_classes=50), official_timm, False, 3)
    large = make("swin_tiny_patch4_window7_224", num_classes=50, img_size=384, window_size=12)
    state = dict(small.state_dict())
    for k, v in large.state_dict().items():
        if k.endswith("relative_position_bias_table"):
            side, to = int(state[k].shape[0] ** 0.5), int(v.shape[0] ** 0.5)
            grid = state[k].T.reshape(1, -1, side, side)
            state[k] = torch.nn.functional.interpolate(grid, size=(to, to), mode="bicubic").reshape(-1, to * to).T
    large.load_state_dict(state)
    large.eval()
    x = images(1, 384)
    check("T of window 7 at 384, window 12", small.state_dict(), x, large(torch.from_numpy(x)).double().numpy(),
          [cfg("swin_tiny_patch4_window7_224"), "DATA.IMG_SIZE", "384", "MODEL.SWIN.WINDOW_SIZE", "12"])


def all_torchvision(everything, sha):
    import torchvision
    jobs = [("swin_t", False, 224, "swin_tiny_patch4_window7_224"), ("swin_v2_t", True, 256, "swinv2_tiny_window8_256")]
    if everything:
        jobs += [("swin_s", False, 224, "swin_small_patch4_window7_224"), ("swin_b", False, 224, None),
                 ("swin_v2_s", True, 256, None), ("swin_v2_b", True, 256, None)]
    for name, v2, size, same in jobs:
        m = getattr(torchvision.models, name)()
        fill(m, official_torchvision, v2, 1)
        join_bias(m, official_torchvision, v2, 1)
        x = images(1, size)
        h = check("torchvision " + name, m.state_dict(), x, m(torch.from_numpy(x)).double().numpy())
        if sha and same and h != sha[same]:
            print("  checkpoint_sha256 differs from timm's of the same values")
            counts["failed"] += 1


def all_transformers(sha):
    import transformers
    kinds = ((transformers.SwinConfig, transformers.SwinForImageClassification, False, 224, 7,
              "swin_tiny_patch4_window7_224", "swin_tiny_patch4_window7_224"),
             (transformers.Swinv2Config, transformers.Swinv2ForImageClassification, True, 256, 8,
              "swinv2_tiny_patch4_window8_256", "swinv2_tiny_window8_256"))
    for config, model, v2, size, window, yaml, same in kinds:
        m = model(config(image_size=size, window_size=window, num_labels=1000))
        fill(m, official_transformers, v2, 1)
        share_qkv(m, official_transformers, v2, 1)
        x = images(1, size)
        want = m(torch.from_numpy(x)).logits.double().numpy()
        extra = [cfg(yaml)]
        forms = [check("transformers %s, state dict" % model.__name__, m.state_dict(), x, want, extra)]
        with tempfile.TemporaryDirectory() as d:
            m.save_pretrained(d)
            from safetensors.torch import load_file
            forms.append(check("transformers %s, save_pretrained" % model.__name__, load_file(d + "/model.safetensors"),
                               x, want, extra))
        for h in forms:
            if sha and h != sha[same]:
                print("  checkpoint_sha256 differs from timm's of the same values")
                counts["failed"] += 1


def update():
    """Logits that tests/test_families.c compares with; 10 classes keep the file small."""
    rows = [("swin_tiny_patch4_window7_224", "swin_tiny_patch4_window7_224", False, 224, 7, {}),
            ("swin_tiny_c24_patch4_window8_256", "swin_tiny_patch4_window7_224", False, 256, 8,
             {"num_heads": (4, 8, 16, 32)}),
            ("swinv2_tiny_patch4_window8_256", "swinv2_tiny_window8_256", True, 256, 8, {})]
    import timm
    with open(os.path.join(ROOT, "tests", "golden", "families.txt"), "w") as f:
        f.write("# config, then 2 rows of 10 logits: seed 7, images rng.normal(20260 + size); by check_families.py --update\n")
        for config, name, v2, size, window, kw in rows:
            m = timm.create_model(name, num_classes=10, img_size=size, window_size=window, **kw)
            fill(m, official_timm, v2, 7)
            y = m.double()(torch.from_numpy(images(2, size)).double()).numpy()
            f.write(config + "\n" + "".join(" ".join("%.9g" % v for v in row) + "\n" for row in y))
            print(config, np.round(y[0, :4], 3), "std %.3f" % y.std())


if __name__ == "__main__":
    if "--update" in sys.argv:
        update()
        sys.exit(0)
    sha = with_library("timm", all_timm, "--all" in sys.argv)
    if sha:
        variations()
    with_library("torchvision", all_torchvision, "--all" in sys.argv, sha)
    with_library("transformers", all_transformers, sha)
    print("%(passed)d passed, %(failed)d failed, %(skipped)d libraries skipped" % counts)
    sys.exit(1 if counts["failed"] else 0)
