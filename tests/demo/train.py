"""Train the embedded demo's network: a small Swin of our own, official key names, float16 .safetensors.

    build/tests/make_images --output train_set --train 4000 --val 0 --seed 7
    build/tests/make_images --output val_set --train 0 --val 200
    python3 tests/demo/train.py --images train_set --val val_set --output demo.safetensors

Needs PyTorch and Pillow, and a GPU to be done in minutes. The toolkit itself never runs this file: the trained
checkpoint is committed beside it, with its configuration in configs/swin_demo_patch4_window7_112.yaml. Train with other
seeds than the demo's own (1), so that none of its pictures is trained on.

The committed checkpoint was made in parts (--start goes on from a checkpoint): 20 epochs in 150 s on an H100 over 52,000
pictures of hardness 0.4, 1 and 1.4, drawn before classes had usual colors; then a few epochs on a CPU over 10,000
pictures of hardness 0.3 to 0.5, as make_images draws them now.
"""
import argparse
import json
import math
import os
import struct
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image

SIDE, SHORT = 112, 128  # the network's input; the short side before the crop: int(256 / 224 * SIDE)
DIM, DEPTHS, HEADS, WINDOW, PATCH = 32, (2, 4, 2), (1, 2, 4), 7, 4
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# ---- the network -----------------------------------------------------------------------------------------

def windows(x, w):
    """(B, H, W, C) -> (B * windows, w * w, C)"""
    b, h, _, c = x.shape
    n = h // w
    return x.view(b, n, w, n, w, c).transpose(2, 3).reshape(b * n * n, w * w, c)


def unwindows(x, w, h):
    n, c = h // w, x.shape[-1]
    return x.view(-1, n, n, w, w, c).transpose(2, 3).reshape(-1, h, h, c)


def relative_position_index(w):
    y, x = np.divmod(np.arange(w * w), w)
    dy, dx = y[:, None] - y[None] + w - 1, x[:, None] - x[None] + w - 1
    return torch.from_numpy(dy * (2 * w - 1) + dx)


def attention_mask(h, w, shift):
    """(windows, w * w, w * w): -100 between tokens that only the cyclic shift brought together."""
    region = np.zeros(h, np.int64)
    region[h - w:h - shift], region[h - shift:] = 1, 2
    ids = torch.from_numpy(3 * region[:, None] + region[None]).view(1, h, h, 1)
    ids = windows(ids, w).squeeze(-1)
    return (ids[:, :, None] != ids[:, None, :]).float() * -100.0


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.randn((2 * WINDOW - 1) ** 2, heads) * 0.02)
        self.register_buffer("index", relative_position_index(WINDOW).flatten(), persistent=False)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x, mask):
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.index].view(n, n, self.heads).permute(2, 0, 1)
        score = (q @ k.transpose(2, 3)) * (c // self.heads) ** -0.5 + bias
        if mask is not None:
            score = score.view(-1, len(mask), self.heads, n, n) + mask[:, None]
            score = score.view(b, self.heads, n, n)
        return self.proj((score.softmax(-1).to(v.dtype) @ v).transpose(1, 2).reshape(b, n, c))


class Mlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim, side, heads, odd):
        super().__init__()
        self.side, self.shift = side, WINDOW // 2 if odd and side > WINDOW else 0
        self.norm1, self.attn = nn.LayerNorm(dim), Attention(dim, heads)
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim)
        mask = attention_mask(side, WINDOW, self.shift) if self.shift else None
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x):
        s = self.shift
        y = self.norm1(x).unflatten(1, (self.side, self.side)).roll((-s, -s), (1, 2))
        y = unwindows(self.attn(windows(y, WINDOW), self.mask), WINDOW, self.side).roll((s, s), (1, 2))
        x = x + y.flatten(1, 2)
        return x + self.mlp(self.norm2(x))


class Merge(nn.Module):
    def __init__(self, dim, side):
        super().__init__()
        self.side = side
        self.norm, self.reduction = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x):
        x = x.unflatten(1, (self.side, self.side))
        x = torch.cat([x[:, dy::2, dx::2] for dx in (0, 1) for dy in (0, 1)], -1).flatten(1, 2)
        return self.reduction(self.norm(x))


class Stage(nn.Module):
    def __init__(self, i):
        super().__init__()
        dim, side = DIM << i, (SIDE // PATCH) >> i
        self.blocks = nn.Sequential(*(Block(dim, side, HEADS[i], b % 2) for b in range(DEPTHS[i])))
        self.downsample = Merge(dim, side) if i + 1 < len(DEPTHS) else nn.Identity()

    def forward(self, x):
        return self.downsample(self.blocks(x))


class PatchEmbed(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj, self.norm = nn.Conv2d(3, DIM, PATCH, PATCH), nn.LayerNorm(DIM)

    def forward(self, x):
        return self.norm(self.proj(x).flatten(2).transpose(1, 2))


class Swin(nn.Module):
    def __init__(self, classes):
        super().__init__()
        last = DIM << (len(DEPTHS) - 1)
        self.patch_embed = PatchEmbed()
        self.layers = nn.Sequential(*(Stage(i) for i in range(len(DEPTHS))))
        self.norm, self.head = nn.LayerNorm(last), nn.Linear(last, classes)
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=m.in_features ** -0.5)  # 0.02 would stall a network this narrow
                if m.bias is not None:
                    nn.init.zeros_(m.bias)

    def forward(self, x):
        return self.head(self.norm(self.layers(self.patch_embed(x))).mean(1))


# ---- pictures --------------------------------------------------------------------------------------------

def read_picture(path):
    """Short side to SHORT, then the middle SHORT x SHORT: training crops SIDE x SIDE out of it."""
    im = Image.open(path).convert("RGB")
    scale = SHORT / min(im.size)
    im = im.resize([SHORT if v == min(im.size) else int(v * scale) for v in im.size], Image.BICUBIC)
    x, y = (im.width - SHORT) // 2, (im.height - SHORT) // 2
    return np.asarray(im.crop((x, y, x + SHORT, y + SHORT)))


def read_set(folder, pool):
    classes = sorted(os.listdir(folder))
    paths = [(os.path.join(folder, c, f), i) for i, c in enumerate(classes)
             for f in sorted(os.listdir(os.path.join(folder, c)))]
    pixels = np.stack(list(pool.map(read_picture, [p for p, _ in paths], chunksize=64)))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor([i for _, i in paths]), classes


def normalise(x):
    mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (MEAN, STD))
    return (x.float() / 255 - mean) / std


def augment(x):
    """One random crop for each picture, mirrored half of the time, a quarter turn now and then."""
    room = SHORT - SIDE + 1
    at = torch.randint(room, (len(x), 2, 1), device=x.device)
    rows, cols = (at[:, a] + torch.arange(SIDE, device=x.device) for a in (0, 1))
    x = x.gather(2, rows[:, None, :, None].expand(-1, 3, -1, SHORT))
    x = x.gather(3, cols[:, None, None, :].expand(-1, 3, SIDE, -1))
    if torch.rand(()) < 0.5:
        x = x.flip(3)
    return x.rot90(int(torch.randint(4, ())), (2, 3))


# ---- training --------------------------------------------------------------------------------------------

@torch.no_grad()
def accuracy(net, x, y):
    net.eval()
    cut = (SHORT - SIDE) // 2
    hits = 0
    for at in range(0, len(x), 500):
        part = normalise(x[at:at + 500, :, cut:cut + SIDE, cut:cut + SIDE].to(y.device))
        hits += int((net(part).argmax(1) == y[at:at + 500]).sum())
    return 100.0 * hits / len(x)


def save(net, path):
    """safetensors by hand: the length of a JSON header, the header, then the numbers, here float16."""
    header, blobs, at = {"__metadata__": {"format": "pt"}}, [], 0
    for key, v in net.state_dict().items():
        blob = v.detach().cpu().numpy().astype("<f2").tobytes()
        header[key] = {"dtype": "F16", "shape": list(v.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def load(net, path):
    with open(path, "rb") as f:
        size, = struct.unpack("<Q", f.read(8))
        header, blob = json.loads(f.read(size)), f.read()
    header.pop("__metadata__", None)
    parts = {k: np.frombuffer(blob[slice(*v["data_offsets"])], "<f2").reshape(v["shape"]) for k, v in header.items()}
    net.load_state_dict({k: torch.from_numpy(v.astype(np.float32)) for k, v in parts.items()})


def optimizer(net, args, steps, fused):
    """AdamW without decay on vectors; warm-up, then a cosine that ends with the steps or with the time allowed."""
    matrices = [p for p in net.parameters() if p.ndim > 1]
    vectors = [p for p in net.parameters() if p.ndim <= 1]
    opt = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
                            lr=args.lr, fused=fused)
    began = time.time()

    def factor(i):
        done = min(1, max(i / steps, (time.time() - began) / args.seconds))
        return min(1, (i + 1) / (0.05 * steps + 1)) * 0.5 * (1 + math.cos(math.pi * done))

    return opt, torch.optim.lr_scheduler.LambdaLR(opt, factor)


def batches(count, args, device):
    """Positions of each step's pictures, every epoch in a new order."""
    for _ in range(args.epochs):
        yield from torch.randperm(count, device=device)[:count - count % args.batch].split(args.batch)


def train(net, x, y, args, device):
    steps = len(x) // args.batch * args.epochs
    opt, rate = optimizer(net, args, steps, fused=device == "cuda")
    began = time.time()
    net.train()
    for step, pick in enumerate(batches(len(x), args, device)):
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = F.cross_entropy(net(normalise(augment(x[pick]))), y[pick], label_smoothing=0.05)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        rate.step()
        if step % max(1, steps // 20) == 0:
            print(f"step {step} of {steps}: loss {loss.item():.4f}, {time.time() - began:.0f} s", flush=True)
        if time.time() - began > args.seconds:
            print(f"out of time after {step + 1} steps")
            break


def run(args):
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with ProcessPoolExecutor() as pool:
        sets = [read_set(os.path.join(folder, "train"), pool) for folder in args.images]
        vals = [(folder, read_set(os.path.join(folder, "val"), pool)) for folder in args.val]
    x, y = torch.cat([s[0] for s in sets]).to(device), torch.cat([s[1] for s in sets]).to(device)
    net = Swin(len(sets[0][2])).to(device)
    if args.start:
        load(net, args.start)
    print(f"{len(x)} training images, {sum(p.numel() for p in net.parameters())} parameters")
    train(net, x, y, args, device)
    save(net, args.output)
    load(net, args.output)
    for folder, (vx, vy, _) in vals:
        print(f"{folder}: top-1 of the stored float16 weights {accuracy(net, vx, vy.to(device)):.2f} %")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--images", nargs="+", required=True, help="folders whose train/ make_images filled")
    p.add_argument("--val", nargs="*", default=[], help="folders whose val/ is looked at in the end")
    p.add_argument("--output", required=True)
    p.add_argument("--start", help="a checkpoint of this script to go on from")
    p.add_argument("--epochs", type=int, default=40)
    p.add_argument("--batch", type=int, default=256)
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--seconds", type=float, default=1e9, help="time allowed for the steps")
    run(p.parse_args())


if __name__ == "__main__":
    main()
