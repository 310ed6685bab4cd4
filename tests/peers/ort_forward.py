"""Times our float32 forward and onnxruntime's CPU provider on the same network, in turns, with as many threads each.

usage: ort_forward.py --bench build/tests/bench_forward --onnx FILE [--model tiny] [--batch 8] [--threads 2] [--rounds 5]

FILE is the network as ONNX with a dynamic or fitting batch: `swin-export --format onnx-float` makes it. Prints the median
of both in ms and their ratio, ours to theirs: at least as fast means at most 1. Exit: 0 so, 1 slower, 77 no onnxruntime.
"""
import argparse
import statistics
import subprocess
import sys
import time

try:
    import numpy as np
    import onnxruntime as ort
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)


def ours(a):
    """Median ms of a few forwards by bench_forward, and the slowdown by observers."""
    words = [a.bench, f"model={a.model}", f"batch={a.batch}", f"threads={a.threads}", "repeats=5"]
    out = subprocess.run(words + (["clock=cpu"] if a.cpu_clock else []), check=True, capture_output=True, text=True).stdout
    found = dict(line.split(" ", 1) for line in out.splitlines() if " " in line)
    return float(found["forward_ms"]), float(found["observed_ratio"])


def session(a):
    o = ort.SessionOptions()
    o.intra_op_num_threads, o.inter_op_num_threads = a.threads, 1
    o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    if a.cpu_clock:
        o.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(a.onnx, o, providers=["CPUExecutionProvider"])


def theirs(a, s, x):
    clock = time.process_time if a.cpu_clock else time.perf_counter
    name, times = s.get_inputs()[0].name, []
    for _ in range(6):
        start = clock()
        s.run(None, {name: x})
        times.append(clock() - start)
    return 1e3 * statistics.median(times[1:])


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--bench", required=True)
    p.add_argument("--onnx", required=True)
    p.add_argument("--model", default="tiny")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--cpu-clock", action="store_true", help="processor time instead of wall time: for a busy machine")
    a = p.parse_args()
    s = session(a)
    x = np.random.default_rng(0).standard_normal((a.batch, 3, 224, 224), dtype=np.float32)
    theirs(a, s, x)
    rounds = []
    for _ in range(a.rounds):
        (mine, observed), other = ours(a), theirs(a, s, x)
        rounds.append((mine / other, mine, other, observed))
        print(f"round: ours {mine:.1f} ms, onnxruntime {ort.__version__} {other:.1f} ms, ratio {mine / other:.3f}", flush=True)
    ratio = statistics.median(r[0] for r in rounds)
    print(f"batch {a.batch}, {a.threads} threads: ours {statistics.median(r[1] for r in rounds):.1f} ms, onnxruntime "
          f"{statistics.median(r[2] for r in rounds):.1f} ms, ratio {ratio:.3f} (bar: 1), "
          f"observed {statistics.median(r[3] for r in rounds):.3f} (bar: 1.25)")
    return 0 if ratio <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
