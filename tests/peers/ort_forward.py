"""Times our forward and onnxruntime's CPU provider (or OpenVINO) on the same network, in turns, with as many threads each.

usage: ort_forward.py --bench build/tests/bench_forward --onnx FILE [--model tiny] [--batch 8] [--threads 2] [--rounds 5]
                      [--int8 MODE] [--openvino]

FILE is the network as ONNX with a dynamic or fitting batch: `swin-export --format onnx-float` makes it, onnx-qdq for --int8.
Prints the median of both in ms and their ratio, ours to theirs: at least as fast means at most 1. Exit: 0 so, 1 slower, 77 no
such engine.
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
    words += [f"int8={a.int8}"] if a.int8 else []
    out = subprocess.run(words + (["clock=cpu"] if a.cpu_clock else []), check=True, capture_output=True, text=True).stdout
    found = dict(line.split(" ", 1) for line in out.splitlines() if " " in line)
    if a.int8:
        return float(found["int8_ms"]), float(found["int8_speedup"])
    return float(found["forward_ms"]), float(found["observed_ratio"])


def session(a):
    o = ort.SessionOptions()
    o.intra_op_num_threads, o.inter_op_num_threads = a.threads, 1
    o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    if a.cpu_clock:
        o.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(a.onnx, o, providers=["CPUExecutionProvider"])


def openvino_call(a, x):
    try:
        import openvino as ov
    except ImportError as e:
        print(f"skipped: {e}")
        sys.exit(77)
    core = ov.Core()
    model = core.read_model(a.onnx)
    model.reshape(list(x.shape))
    options = {"INFERENCE_NUM_THREADS": a.threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return f"OpenVINO {ov.__version__.split('-')[0]}", lambda: request.infer([x])


def onnxruntime_call(a, x):
    s = session(a)
    name = s.get_inputs()[0].name
    return f"onnxruntime {ort.__version__}", lambda: s.run(None, {name: x})


def theirs(a, call):
    clock, times = time.process_time if a.cpu_clock else time.perf_counter, []
    for _ in range(6):
        start = clock()
        call()
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
    p.add_argument("--int8", type=int, choices=(1, 2, 3), help="our integer network of this mode, instead of float32")
    p.add_argument("--openvino", action="store_true", help="against OpenVINO")
    p.add_argument("--cpu-clock", action="store_true", help="processor time instead of wall time: for a busy machine")
    a = p.parse_args()
    x = np.random.default_rng(0).standard_normal((a.batch, 3, 224, 224), dtype=np.float32)
    peer, call = openvino_call(a, x) if a.openvino else onnxruntime_call(a, x)
    theirs(a, call)
    rounds = []
    for _ in range(a.rounds):
        (mine, beside), other = ours(a), theirs(a, call)
        rounds.append((mine / other, mine, other, beside))
        print(f"round: ours {mine:.1f} ms, {peer} {other:.1f} ms, ratio {mine / other:.3f}", flush=True)
    ratio, mine, other, beside = (statistics.median(r[i] for r in rounds) for i in range(4))
    last = f"over our float32 {beside:.2f} (bar: 2.2)" if a.int8 else f"observed {beside:.3f} (bar: 1.25)"
    print(f"batch {a.batch}, {a.threads} threads: ours {mine:.1f} ms, {peer} {other:.1f} ms, ratio {ratio:.3f} (bar: 1), {last}")
    return 0 if ratio <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
