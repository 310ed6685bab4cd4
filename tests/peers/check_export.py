"""Holds swin-export's files against the engines that read them and against independent computations.

usage: check_export.py --bin DIR --tools DIR --cfg Y --resume CKPT --data-path DIR --work DIR [--images 768] [--modes 1,2,3]
                       [--families 1,2] [--images2 256] [--recover none,fast]   (fast+heads: both at once)
The checkpoint given is a Swin V1; a small Swin V2 of random weights follows it through the same checks. Modes are calibrated without
recovery; mode 3 once more with it, which changes weights and divides GELU's channels. --images2 is for the V2, of whose networks
only SQNR is judged, not agreement, which wants more images.
Prints a line for each check with its number and its bar; a check whose package is not installed is skipped and counted.
Exit: 0 all that ran held, 1 one did not.
"""
import argparse
import importlib
import os
import subprocess
import sys

import numpy as np

import export_onnx
import export_tables

FORMATS = {  # format: what the file is called
    "ft-scales": "ft_scales.npz", "ft-weights": "ft_weights.npz", "tensorrt-cache": "trt.cache", "onnxruntime": "ort",
    "openvino-fq": "fq.json", "pytorch": "amax.safetensors", "csv": "sites.csv", "json": "sites.json",
}


class Checks:
    def __init__(self):
        self.ran, self.failed, self.skipped = 0, 0, 0

    def check(self, ok, text):
        self.ran += 1
        self.failed += not ok
        print(("ok      " if ok else "FAILED  ") + text, flush=True)

    def need(self, text, *packages):
        """Whether all packages are there; prints and counts a skip otherwise."""
        for name in packages:
            try:
                importlib.import_module(name)
            except ImportError:
                self.skip(f"{text}: no {name}")
                return False
        return True

    def skip(self, text):
        self.skipped += 1
        print(f"skipped {text}", flush=True)


V2 = """MODEL:
  TYPE: swinv2
  NAME: swinv2_random
  NUM_CLASSES: 50
  SWINV2: {EMBED_DIM: 96, DEPTHS: [2, 2, 2], NUM_HEADS: [3, 6, 12], WINDOW_SIZE: 8, PRETRAINED_WINDOW_SIZES: [6, 6, 3]}
DATA:
  IMG_SIZE: 128
"""


def random_v2(args):
    """A small Swin V2: its first stage has shifted windows, its last one window."""
    cfg, ckpt = (os.path.join(args.work, n) for n in ("v2.yaml", "v2.safetensors"))
    with open(cfg, "w") as f:
        f.write(V2)
    subprocess.run([f"{args.tools}/tool_random_model", cfg, ckpt, "5"], check=True)
    return cfg, ckpt


class Run:
    """One checkpoint, one int8 mode, one level of recovery: its calibration file and everything exported from it."""

    def __init__(self, args, family, cfg, resume, mode, recover, first):
        self.args, self.family, self.mode, self.cfg, self.resume = args, family, mode, cfg, resume
        self.recover, self.first = recover, first or self  # first: the family's first run, which has the float network's logits
        self.images = args.images if family == 1 else args.images2
        self.name = f"V{family} mode {mode}" + ("" if recover == "none" else " " + recover)
        self.trained = family == 1
        self.dir = os.path.join(args.work, f"v{family}_mode{mode}_{recover}")
        os.makedirs(self.dir, exist_ok=True)
        self.calib = self.path("calib.h5")

    def path(self, name):
        return os.path.join(self.dir, name)

    def call(self, program, *words):
        command = [program, "--cfg", self.cfg, "--resume", self.resume, "--quiet", *words]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def calibrate(self):
        a = self.args
        backend = ["--backend", "cpu"] if self.recover != "none" else []  # whose network can divide GELU's channels
        self.call(f"{a.bin}/swin-calib", "--data-path", a.data_path, "--num-calib-batch", str(a.calib_batches),
                  "--calib-batchsz", "8", "--int8-mode", str(self.mode), "--recover", self.recover.replace("+", ","),
                  "--calib-output-path", self.calib, *backend)

    def export(self, name, output, *words):
        self.call(f"{self.args.bin}/swin-export", "--calib", self.calib, "--format", name, "--output",
                  self.path(output), *words)
        return self.path(output)

    def export_plain(self, name, output, *words):
        """From the checkpoint as it is, without the calibration file."""
        self.call(f"{self.args.bin}/swin-export", "--format", name, "--output", self.path(output), *words)
        return self.path(output)

    def refused(self, name, output, *words):
        command = [f"{self.args.bin}/swin-export", "--calib", self.calib, "--cfg", self.cfg, "--resume", self.resume,
                   *(["--format", name, "--output", self.path(output)] if name else []), *words]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, done.stderr.strip()

    def sites(self):
        """Our own network and int8-sim on the same images."""
        a = self.args
        self.call(f"{a.tools}/tool_sites", "--data-path", a.data_path, "--limit", str(self.images), "--calib", self.calib,
                  "--output", self.dir, *([] if self.first is self else ["--sim-only"]))

    def inputs(self):
        """The images, and our float network's logits of them."""
        return np.load(self.first.path("images.npy")), np.load(self.first.path("logits.npy"))


def runs(args):
    """Modes and levels of recovery; the latter for mode 3 alone."""
    for recover in args.recover.split(","):
        for mode in map(int, args.modes.split(",")):
            if recover == "none" or mode == 3:
                yield mode, recover


def main():
    ap = argparse.ArgumentParser()
    for flag in ("--bin", "--tools", "--cfg", "--resume", "--data-path", "--work"):
        ap.add_argument(flag, required=True)
    ap.add_argument("--images", type=int, default=768)
    ap.add_argument("--images2", type=int, default=256)
    ap.add_argument("--calib-batches", type=int, default=10)
    ap.add_argument("--modes", default="1,2,3")
    ap.add_argument("--families", default="1,2")
    ap.add_argument("--recover", default="none,fast")
    a = ap.parse_args()
    c = Checks()
    for family in map(int, a.families.split(",")):
        cfg, resume = random_v2(a) if family == 2 else (a.cfg, a.resume)
        first, float_logits = None, None
        for mode, recover in runs(a):
            run = Run(a, family, cfg, resume, mode, recover, first)
            first = first or run
            run.calibrate()
            run.sites()
            export_tables.check(c, run, FORMATS)
            if not c.need(f"{run.name} ONNX", "onnx", "onnxruntime"):
                continue
            if float_logits is None:
                float_logits = export_onnx.check_float(c, run)
            if recover != "none":
                export_onnx.check_corrected(c, run)
            export_onnx.check_qdq(c, run, float_logits)
        os.remove(first.path("images.npy"))
    print(f"{c.ran} checks ran, {c.failed} failed, {c.skipped} skipped")
    return c.failed > 0


if __name__ == "__main__":
    sys.exit(main())
