"""Scale tables: each value against the calibration file, by computations that share nothing with the exporter."""
import csv
import importlib
import json
import re
import struct

import numpy as np

LINEAR = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
OTHERS = ("attn.matmul_q_input", "attn.matmul_k_input", "attn.matmul_v_input", "attn.matmul_a_input", "attn.softmax_input",
          "layernorm_input1", "layernorm_input2", "add1_local_input", "add1_residual_input", "add2_local_input",
          "add2_residual_input")
OTHERS_V2 = OTHERS + ("attn.mha_q_input", "attn.mha_k_input")


def literal_keys(depths, others):
    """The toolkit's buffer names, written out."""
    for stage, depth in enumerate(depths):
        for block in range(depth):
            for layer in LINEAR:
                for q in ("_input", "_weight", "_aftergemm"):
                    yield f"layers.{stage}.blocks.{block}.{layer}.{q}_quantizer._amax"
            for other in others:
                yield f"layers.{stage}.blocks.{block}.{other}_quantizer._amax"
        if stage + 1 < len(depths):
            for q in ("_input", "_weight", "_aftergemm"):
                yield f"layers.{stage}.downsample.reduction.{q}_quantizer._amax"


def key_of(site):
    """A site's name as the toolkit spells its quantizer, by table."""
    for other in OTHERS_V2:
        short = other[:-len("_input")] if other.startswith(("attn.matmul", "attn.mha", "add")) else other
        if site.endswith("." + short):
            return site[:-len(short)] + other + "_quantizer._amax"
    return site + "_quantizer._amax"


class Calib:
    """A run's calibration file; where h5py is missing, what the json export says of it."""

    def __init__(self, run):
        try:
            self.read(run.calib)
        except ImportError:
            words = [] if run.recover == "none" else ["--weights-out", run.path("json.safetensors")]
            self.read_json(run.export("json", "calib.json", *words))
        blocks = {tuple(map(int, re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", n).groups()))
                  for n in self.sites if ".blocks." in n}
        self.v2 = any(".mha_q" in n for n in self.sites)
        self.depths = [1 + max(b for s, b in blocks if s == stage) for stage in range(1 + max(s for s, b in blocks))]

    def read(self, path):
        import h5py

        with h5py.File(path) as f:
            self.sites = {n: dict(f["sites"][n].attrs) for n in f["sites"]}
            self.weight = {n: float(f["weights"][n].attrs["amax"]) for n in f["weights"]}
            self.channel = {n: f["weights"][n]["amax_channel"][:] for n in f["weights"]}
            factors = f.get("corrections/factors", {})
            self.factors = {n: factors[n][:] for n in factors}
            heads = f.get("corrections/heads", {})
            self.several = {n: heads[n][:] for n in heads}

    def read_json(self, path):
        table = json.load(open(path))
        self.sites = table["sites"]
        self.weight = {n: w["amax"] for n, w in table["weights"].items()}
        self.channel = {n: np.float32(w["amax_channel"]) for n, w in table["weights"].items()}
        self.factors = {n: np.float32(s["factors"]) for n, s in table["sites"].items() if "factors" in s}
        self.several = {n: np.float32(s["channel_scales"]) for n, s in table["sites"].items() if "channel_scales" in s}

    def amax(self, site):
        if site.endswith("._weight"):
            return self.weight[site[:-len("._weight")]]
        return float(np.float32(self.sites[site]["amax"]))

    def enabled(self):
        return [n for n, a in self.sites.items() if a["enabled"] and not n.endswith("._weight")]


def ft_list(f, stage, block):
    """swin.md 4.2, in float64."""
    b, v = f"layers.{stage}.blocks.{block}.", np.zeros(96)

    def four(at, site):
        a = f.amax(site)
        v[at:at + 4] = a, a / 127, a / 127 ** 2, 127 / a

    order = ("attn.qkv._input", "attn.qkv._aftergemm", "attn.proj._input", "attn.proj._aftergemm", "attn.matmul_q",
             "attn.matmul_k", "attn.matmul_v", "attn.matmul_a", "attn.softmax_input", "mlp.fc1._input",
             "mlp.fc1._aftergemm", "mlp.fc2._input", "mlp.fc2._aftergemm") + (
                 ("attn.mha_q", "attn.mha_k") if f.v2 else ("add1_residual", "add2_residual"))
    for i, site in enumerate(order):
        four(4 * i, b + site)
    for i, layer in enumerate(LINEAR):
        w = f.amax(f"{b}{layer}._weight")
        v[72 + i] = w
        v[77 + i] = f.amax(f"{b}{layer}._input") * w / (127 * f.amax(f"{b}{layer}._aftergemm"))
    q, k, val, a = (f.amax(f"{b}attn.matmul_{x}") for x in "qkva")
    if f.v2:
        q, k = f.amax(b + "attn.mha_q"), f.amax(b + "attn.mha_k")
    v[81] = q * k / (127 * f.amax(b + "attn.softmax_input"))
    v[82] = v[87] = a * val / (127 * f.amax(b + "attn.proj._input"))
    v[85], v[86] = q * k / 127 ** 2, 127 / a
    if stage + 1 < len(f.depths):
        r = f"layers.{stage}.downsample.reduction."
        four(60, r + "_input")
        four(64, r + "_aftergemm")
        v[76] = f.amax(r + "_weight")
        v[83] = f.amax(r + "_input") * v[76] / (127 * f.amax(r + "_aftergemm"))
    return v


def check(c, run, formats):
    if not c.need(f"{run.name} tables", "h5py"):
        return None
    f = Calib(run)
    if run.mode == 3:
        return check_mode3(c, run, f, formats)
    follows = not (f.v2 and run.mode == 2)  # FasterTransformer's V2 engine has one mode
    paths = {name: run.export(name, output) for name, output in formats.items() if follows or not name.startswith("ft-")}
    if follows:
        check_ft(c, run, f, paths)
    for name in set(formats) - set(paths):
        code, words = run.refused(name, formats[name])
        c.check(code == 1 and "--int8-mode 1" in words, f"{run.name} {name} refused: {words}")
    check_pytorch(c, run, f, paths["pytorch"])
    check_tensorrt(c, f, paths["tensorrt-cache"])
    if c.need("onnxruntime's tables", "onnxruntime", "flatbuffers"):
        check_onnxruntime(c, f, paths["onnxruntime"])
    check_openvino(c, f, paths["openvino-fq"])
    if follows and c.need(f"{run.name} corrections", "safetensors"):
        check_corrections(c, run, formats)
    check_people(c, f, paths)


def check_mode3(c, run, f, formats):
    """Zero points: tables that cannot say them refuse, and say why."""
    people, after = ("csv", "json"), run.path("corrected.safetensors")
    for name in sorted(set(formats) - set(people)):
        code, words = run.refused(name, formats[name], "--weights-out", after)
        c.check(code == 1 and "symmetric" in words and "layers.0.blocks.0" in words, f"{run.name} {name} refused: {words}")
    if run.recover == "none":
        check_people(c, f, {name: run.export(name, formats[name]) for name in people})
        return
    code, words = run.refused(None, None, "--weights-out", after)
    c.check(code == 1 and "divided by" in words, f"{run.name} --weights-out alone refused: {words}")
    for name in people:
        code, words = run.refused(name, formats[name])
        c.check(code == 1 and "--weights-out" in words, f"{run.name} {name} without corrected weights refused")
    check_people(c, f, {name: run.export(name, formats[name], "--weights-out", after) for name in people})
    if c.need(f"{run.name} corrected weights", "safetensors"):
        import h5py
        from safetensors.numpy import load_file

        got = load_file(after)
        with h5py.File(run.calib) as h:
            new = {k: v[:] for k, v in h["corrections/weights"].items()}
        same = all((got[k] == v).all() for k, v in new.items())
        c.check(same, f"{run.name}: --weights-out has the {len(new)} corrected tensors")


def check_ft(c, run, f, paths):
    lists, worst = np.load(paths["ft-scales"]), 0.0
    names = [f"layers.{s}.blocks.{b}" for s, d in enumerate(f.depths) for b in range(d)]
    for n in names:
        _, s, _, b = n.split(".")
        want = ft_list(f, int(s), int(b))
        ok = lists[n].shape == (96,) and (lists[n][want == 0] == 0).all()
        worst = max(worst, float((np.abs(lists[n] - want) / np.where(want == 0, 1, want)).max()) if ok else np.inf)
    c.check(lists.files == names and worst <= 1e-7, f"FT scale lists of {len(names)} blocks, value by value: {worst:.1e} (1e-7)")
    w = np.load(paths["ft-weights"])
    want = (17 if f.v2 else 16) * sum(f.depths) + 5 * len(f.depths) + 6
    c.check(len(w.files) == want, f"FT weights: {len(w.files)} tensors ({want})")
    same = all((w[f"{n}.amaxList"] == lists[n]).all() and (w[f"{n}.h_amaxList"] == lists[n]).all() for n in names)
    c.check(same, "FT weights: scale lists are those of ft-scales")
    check_ft_packing(c, w, names[0])
    if c.need("FT weights against the checkpoint", "safetensors"):
        from safetensors.numpy import load_file

        saved = run.path("weights.safetensors")
        run.call(f"{run.args.bin}/swin-export", "--calib", run.calib, "--weights-out", saved)
        ckpt = load_file(saved)
        plain = [n for n in w.files if n in ckpt]
        same = all(w[n].dtype == np.float16 and (w[n] == ckpt[n].astype(np.float16)).all() for n in plain)
        c.check(same and len(plain) > 10 * len(names), f"FT weights: {len(plain)} tensors are the checkpoint's in float16")


def check_corrections(c, run, formats):
    """A file that changes weights: scales do not leave without them, and both leave with --weights-out."""
    import shutil

    import h5py
    from safetensors.numpy import load_file

    before, after, plain = run.path("weights.safetensors"), run.path("corrected.safetensors"), run.calib
    run.calib = run.path("corrected.h5")
    shutil.copy(plain, run.calib)
    old = load_file(before)
    new = {"head.bias": old["head.bias"] + 1, "layers.0.blocks.0.mlp.fc1.weight": old["layers.0.blocks.0.mlp.fc1.weight"] * 0.9}
    with h5py.File(run.calib, "r+") as f:
        for key, value in new.items():
            f[f"corrections/weights/{key}"] = np.float32(value)
    tables = [n for n in formats if n != "ft-weights"]
    for name in tables:
        code, words = run.refused(name, "refused_" + formats[name])
        c.check(code == 1 and "--weights-out" in words, f"{run.name} {name} without corrected weights refused")
    for name in tables:
        run.export(name, "with_" + formats[name], "--weights-out", after)
    got = load_file(after)
    same = got.keys() == old.keys() and all((got[k] == np.float32(new.get(k, old[k]))).all() for k in old)
    c.check(same, f"{run.name}: --weights-out is the checkpoint with {len(new)} corrected tensors")
    if c.need("corrected weights in ONNX", "onnx"):
        import onnx

        model = onnx.load(run.export("onnx-qdq", "corrected.onnx"))
        const = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
        fc1 = "layers.0.blocks.0.mlp.fc1.weight"
        e = np.abs(const[fc1 + "/codes"] * const[fc1 + "/scale"] - new[fc1].T) / const[fc1 + "/scale"]
        c.check((const["head.bias"] == new["head.bias"]).all() and e.max() <= 0.501,
                f"{run.name}: onnx-qdq has the corrected weights, to {e.max():.3f} of a step")
    run.calib = plain


def check_ft_packing(c, w, block):
    """The kernel's order, walked the other way round: for each number of the packed table, where it came from."""
    plain, packed = (w[f"{block}.attn.{p}relative_position_bias"] for p in ("", "trt_"))
    if packed.size == 0:
        head = w[f"{block}.attn.qkv.weight"].shape[1] // plain.shape[0]
        c.check(plain.shape[-1] > 256 or head != 32, f"FT weights: no packed table, head size {head}")
        return
    n, s = plain.shape[-1], packed.shape[-1]
    warps_m, warps_n = (2, 2) if s == 64 else (1, 4)
    want = np.full(s * s, -30000, np.float16)
    for i in range(s * s):
        row, lane = divmod(i // 2, 32)  # 64 numbers in a row, a pair for each lane
        warp, quad = divmod(row, 4)
        pass_i, in_pass = divmod(warp, warps_m * warps_n)
        pass_m, pass_n = divmod(pass_i, s // (16 * warps_n))
        m = (pass_m * warps_m + in_pass % warps_m) * 16 + quad // 2 * 8 + lane // 4
        k = (pass_n * warps_n + in_pass // warps_m) * 16 + quad % 2 * 8 + lane % 4 * 2 + i % 2
        if m < n and k < n:
            want[i] = plain[0, m, k]
    c.check((packed[0].reshape(-1) == want).all(), f"FT weights: position bias {n}x{n} packed for the {s}x{s} kernel")


def check_pytorch(c, run, f, path):
    if not c.need("the PyTorch table", "safetensors"):
        return
    from safetensors.numpy import load_file

    table, other = load_file(path), np.load(run.export("pytorch", "amax.npz"))
    want = set(literal_keys(f.depths, OTHERS_V2 if f.v2 else OTHERS))
    c.check(set(table) == want, f"PyTorch table: {len(table)} literal keys")
    by_key = {key_of(s): f.amax(s) for s in f.sites}
    same = all(table[k].shape == () and table[k] == np.float32(by_key[k]) and other[k] == table[k] for k in want)
    c.check(same, "PyTorch table: each amax, in .safetensors and .npz")


def check_tensorrt(c, f, path):
    lines = open(path).read().splitlines()
    c.check(re.fullmatch(r"TRT-\d+-EntropyCalibration2", lines[0]) is not None, f"TensorRT cache: header {lines[0]}")
    table = {}
    for line in lines[1:]:
        name, code = line.rsplit(": ", 1)
        table[name] = struct.unpack(">f", bytes.fromhex(code.rjust(8, "0")))[0]
    want = {n: float(np.float32(f.sites[n]["scale"])) for n in f.enabled()}
    c.check(table == want, f"TensorRT cache: {len(table)} scales, round trip exact")


def check_onnxruntime(c, f, folder):
    kv = importlib.import_module("onnxruntime.quantization.CalTableFlatBuffers.TrtTable")
    calibrate = importlib.import_module("onnxruntime.quantization.calibrate")
    want = {n: f.amax(n) for n in f.enabled()}
    table = kv.TrtTable.GetRootAsTrtTable(bytearray(open(f"{folder}/calibration.flatbuffers", "rb").read()), 0)
    pairs = [(table.Dict(i).Key().decode(), np.float32(table.Dict(i).Value().decode())) for i in range(table.DictLength())]
    c.check(dict(pairs) == want and pairs == sorted(pairs), f"onnxruntime flatbuffers: {len(pairs)} values, keys sorted")
    text = dict(line.rsplit(" ", 1) for line in open(f"{folder}/calibration.cache").read().splitlines())
    c.check({k: np.float32(v) for k, v in text.items()} == want, f"onnxruntime cache: {len(text)} values")
    data = {k: calibrate.TensorData.from_dict(v) for k, v in json.load(open(f"{folder}/calibration.json")).items()}
    same = all(d.range_value == (np.float32(-want[k]), np.float32(want[k])) for k, d in data.items())
    c.check(same and set(data) == set(want), f"onnxruntime json: {len(data)} ranges")


def fake_quantize(x, low, high, levels):
    """OpenVINO's FakeQuantize with equal input and output limits."""
    q = np.rint((np.clip(x, low, high) - low) / (high - low) * (levels - 1))
    return q / (levels - 1) * (high - low) + low


def check_fake_quantize(c, table, f):
    """The limits given to OpenVINO's own operator, on values between and beyond the codes."""
    import openvino as ov

    n = f.enabled()[0]
    step = f.amax(n) / 127
    x = np.float32((np.arange(-140, 140, 0.125) + 0.0625) * step)  # no ties
    worst = 0.0
    for levels, qmin in ((255, -127), (256, -128)):
        e = table["activations"][n][f"levels_{levels}"]
        p = ov.opset13.parameter([len(x)], np.float32)
        limits = [np.float32(e[k]) for k in ("input_low", "input_high", "output_low", "output_high")]
        net = ov.Model([ov.opset13.fake_quantize(p, *limits, levels)], [p], "fq")
        got = ov.Core().compile_model(net, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]
        worst = max(worst, float(np.abs(got / step - np.clip(np.rint(x / step), qmin, 127)).max()))
    c.check(worst < 1e-3, f"OpenVINO's FakeQuantize with these limits makes our codes: off by {worst:.1e} codes")


def check_openvino(c, f, path):
    table, worst = json.load(open(path)), 0.0
    for n in f.enabled():
        a, x = f.amax(n), np.linspace(-1.2, 1.2, 997) * f.amax(n)
        for levels, qmin in ((255, -127), (256, -128)):
            e = table["activations"][n][f"levels_{levels}"]
            got = fake_quantize(x, e["input_low"], e["input_high"], levels)
            want = np.clip(np.rint(x / (a / 127)), qmin, 127) * (a / 127)
            worst = max(worst, float(np.abs(got - want).max() / a))
            if (e["input_low"], e["input_high"]) != (e["output_low"], e["output_high"]):
                worst = np.inf
    c.check(set(table["activations"]) == set(f.enabled()) and worst < 1e-6, f"OpenVINO limits against our codes: {worst:.1e}")
    if c.need("limits in OpenVINO", "openvino"):
        check_fake_quantize(c, table, f)
    same = all(np.allclose(table["weights"][n]["high_channel"], np.where(v > 0, v, 127), rtol=1e-6)
               for n, v in f.channel.items())
    c.check(same, f"OpenVINO limits of {len(f.channel)} weights, channel by channel")


def check_people(c, f, paths):
    rows = {r["site"]: r for r in csv.DictReader(open(paths["csv"]))}
    sites = json.load(open(paths["json"]))["sites"]
    same = set(rows) == set(sites) == set(f.sites)
    for n, a in f.sites.items():
        for key in ("amax", "min", "max", "scale"):
            same = same and np.float32(rows[n][key]) == np.float32(sites[n][key]) == np.float32(a[key])
        for key in ("zero_point", "qmin", "qmax", "enabled"):
            same = same and int(rows[n][key]) == int(sites[n][key]) == int(a[key])
        same = same and rows[n]["kind"] == sites[n]["kind"]
        want = [float(v) for v in f.factors.get(n, [])]
        same = same and [np.float32(v) for v in rows[n]["factors"].split()] == want == [
            np.float32(v) for v in sites[n].get("factors", [])]
    c.check(same, f"csv and json: {len(rows)} sites, factors of {len(f.factors)}")
