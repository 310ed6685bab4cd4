"""Peers on a GPU: timm's Swin under torch.compile (mode reduce-overhead, FP16) and eager (FP32 weights, TF32 products).

usage: timm_speed.py [--model swin_tiny_patch4_window7_224] [--batch-size 1,32,64] [--only compile,tf32,fp16]

Images lie on the GPU, weights are random. Prints CSV: peer,batch,median_ms,images_per_s.
"""
import argparse
import statistics
import time

import timm
import torch


def median_ms(run, seconds):
    """Median of single passes, each waited for, after warming up (compilation, recording)."""
    for _ in range(5):
        run()
    torch.cuda.synchronize()
    times, begin = [], time.perf_counter()
    while len(times) < 10 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def model_of(args, dtype):
    return timm.create_model(args.model, pretrained=False).eval().cuda().to(dtype)


def measure(args, peer, batch):
    half = peer != "tf32"
    dtype = torch.float16 if half else torch.float32
    torch.backends.cuda.matmul.allow_tf32 = not half
    torch.backends.cudnn.allow_tf32 = not half
    model = model_of(args, dtype)
    if peer == "compile":
        model = torch.compile(model, mode="reduce-overhead")
    size = model_size(args)
    images = torch.randn(batch, 3, size, size, device="cuda", dtype=dtype)
    with torch.inference_mode():
        ms = median_ms(lambda: model(images), args.seconds)
    print(f"timm {peer},{batch},{ms:.3f},{1e3 * batch / ms:.0f}", flush=True)


def model_size(args):
    return timm.create_model(args.model, pretrained=False).default_cfg["input_size"][-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="swin_tiny_patch4_window7_224")
    parser.add_argument("--batch-size", default="1,32,64")
    parser.add_argument("--only", default="compile,tf32")
    parser.add_argument("--seconds", type=float, default=1)
    args = parser.parse_args()
    print("peer,batch,median_ms,images_per_s")
    for peer in args.only.split(","):
        for batch in args.batch_size.split(","):
            torch._dynamo.reset()
            measure(args, peer, int(batch))


if __name__ == "__main__":
    main()
