"""ONNX exports: structure, float and Q/DQ networks in ONNX Runtime (and OpenVINO, when installed), single layers."""
import os

import numpy as np

import export_tables


def relative(x, ref):
    return float(np.linalg.norm(x.astype(np.float64) - ref) / np.linalg.norm(ref.astype(np.float64)))


def sqnr(x, ref):
    return -20 * np.log10(max(relative(x, ref), 1e-30))


def agreement(x, ref):
    return 100 * float((x.argmax(1) == ref.argmax(1)).mean())


def session(model):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = os.cpu_count()
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def forward(s, x, batch=8):
    return np.concatenate([s.run(["logits"], {"images": x[i:i + batch]})[0] for i in range(0, len(x), batch)])


def check_structure(c, path):
    """The checker's full pass, shapes known everywhere, opset, and a dynamic batch."""
    import onnx

    name = path.rsplit("/", 1)[-1]
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    known = {v.name for v in inferred.graph.value_info
             if all(d.HasField("dim_value") or d.dim_param == "batch" for d in v.type.tensor_type.shape.dim)}
    made = {o for n in model.graph.node for o in n.output} - {o.name for o in model.graph.output}
    c.check(made == known, f"{name}: checker, and shapes of {len(known)} of {len(made)} tensors inferred")
    c.check([o.version for o in model.opset_import] == [17], f"{name}: opset 17")
    dim = model.graph.input[0].type.tensor_type.shape.dim[0]
    c.check(dim.dim_param == "batch", f"{name}: batch is dynamic")
    ops = {n.op_type for n in model.graph.node}
    c.check({"LayerNormalization", "Erf", "Slice", "Concat", "Conv"} <= ops, f"{name}: operators {sorted(ops)}")
    return model


def check_batches(c, name, s, x):
    """Batches 1, 3 and 64 load and give the same logits (quantized graphs may flip codes between ORT's kernels)."""
    x = np.resize(x, (64,) + x.shape[1:])
    ref = forward(s, x, 64)
    for batch in (1, 3):
        e = relative(s.run(["logits"], {"images": x[:batch]})[0], ref[:batch])
        c.check(e < (1e-5 if name == "float" else 3e-2), f"{name}: batch {batch} against 64: {e:.1e}")


def check_float(c, run):
    x, ours = run.inputs()
    path = run.export_plain("onnx-float", "float.onnx")
    check_structure(c, path)
    s = session(path)
    check_batches(c, "float", s, x)
    y = forward(s, x)
    e, same = relative(y, ours), int((y.argmax(1) == ours.argmax(1)).sum())
    c.check(e <= 1e-4 and same == len(x), f"float in ONNX Runtime, {len(x)} images: {e:.1e} (1e-4), {same} argmax equal")

    path = run.export_plain("onnx-float", "outside.onnx", "--external-data")
    e = relative(forward(session(path), x[:8]), y[:8])
    c.check(e == 0, f"float with external data: {e:.1e} (0)")

    path = run.export_plain("onnx-fp16", "half.onnx")
    check_structure(c, path)
    h = forward(session(path), x[:16])
    c.check(sqnr(h, ours[:16]) > 50, f"float16: {sqnr(h, ours[:16]):.1f} dB (50)")
    if c.need("float in OpenVINO", "openvino"):
        o = openvino_forward(run.path("float.onnx"), x[:32])
        e = relative(o, ours[:32])
        c.check(e <= 1e-4, f"float in OpenVINO, {len(o)} images: {e:.1e} (1e-4)")
    return y


def check_corrected(c, run):
    """The float network of a file with corrected weights and factors: every form of the graph divides."""
    x, before = run.inputs()
    ours = np.load(run.path("corrected.npy"))
    before = before[:len(ours)]
    path, name = run.export("onnx-float", "corrected.onnx"), run.name
    check_factors(c, run, check_structure(c, path))
    x = x[:len(ours)]
    y = forward(session(path), x)
    same, e = int((y.argmax(1) == ours.argmax(1)).sum()), relative(y, ours)
    c.check(e <= 1e-4 and same == len(x), f"{name}: corrected float network, {len(x)} images: {e:.1e} (1e-4), {same} argmax equal")
    print(f"        {name}: corrected float network against the original: {relative(ours, before):.1e}", flush=True)
    h = sqnr(forward(session(run.export("onnx-fp16", "half.onnx")), x[:16]), ours[:16])
    c.check(h > 50, f"{name}: corrected float16 network: {h:.1f} dB (50)")
    if c.need(f"{name}: corrected float network in OpenVINO", "openvino"):
        e = relative(openvino_forward(path, x), ours)
        c.check(e <= 1e-4, f"{name}: corrected float network in OpenVINO: {e:.1e} (1e-4)")


def check_factors(c, run, model):
    """Each factor of the file once, as its inverse; the tensor divided has the site's name."""
    from onnx import numpy_helper

    want, tail = export_tables.Calib(run).factors, "/inverse_factor"
    have = {i.name[:-len(tail)]: numpy_helper.to_array(i) for i in model.graph.initializer if i.name.endswith(tail)}
    users = {n.output[0] for n in model.graph.node if n.op_type == "Mul" and n.input[1].endswith(tail)}
    same = all((have[n] == np.float32(1) / v).all() for n, v in want.items() if n in have)
    c.check(len(want) > 0 and set(have) == set(want) == users and same, f"{run.name}: factors of {len(have)} GELU outputs ({len(want)})")


def check_qdq(c, run, float_logits):
    x, ours = run.inputs()
    sim = np.load(run.path("sim.npy"))
    path, name = run.export("onnx-qdq", "qdq.onnx"), run.name
    model = check_structure(c, path)
    check_placement(c, run, model)
    s = session(path)
    check_batches(c, name, s, x)
    compare(c, run, "ONNX Runtime", forward(s, x), float_logits, sim, ours)
    check_layers(c, run, model)
    if c.need(f"{name} in OpenVINO", "openvino"):
        compare(c, run, "OpenVINO", openvino_forward(path, x), float_logits, sim, ours)


def compare(c, run, engine, y, y_float, sim, sim_float):
    """Distance to the engine's own float network, beside int8-sim's distance to ours. Both networks are chaotic: an image in
    fifty differs between two right ones, so few images prove nothing. Random weights leave the best class no lead over the
    next, so there agreement is only shown."""
    name = f"{run.name} in {engine}"
    if len(y) < 256:
        c.skip(f"{name}: SQNR and agreement of only {len(y)} images")
        return
    a, b = sqnr(y, y_float), sqnr(sim, sim_float)
    c.check(abs(a - b) <= 0.5, f"{name}, {len(y)} images: SQNR {a:.2f} dB, int8-sim {b:.2f} dB (0.5 apart)")
    a, b = agreement(y, y_float), agreement(sim, sim_float)
    if run.trained:
        c.check(abs(a - b) <= 1.0, f"{name}: agreement {a:.2f} %, int8-sim {b:.2f} % (1 point apart)")
    else:
        print(f"        {name}: agreement {a:.2f} %, int8-sim {b:.2f} %", flush=True)


def openvino_forward(path, x):
    import openvino as ov

    core = ov.Core()
    model = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([model(x[i:i + 8])[model.output(0)] for i in range(0, len(x), 8)])


# ---- where Q/DQ stand -------------------------------------------------------------------------------------------------


def several_of(f, site, count):
    """The scales of a site's `count` heads, or channels, from those of heads or of channels."""
    v = np.asarray(f.several[site], np.float32)
    return v[::len(v) // count] if len(v) >= count else np.repeat(v, count // len(v))


def check_placement(c, run, model):
    from onnx import numpy_helper

    f = export_tables.Calib(run)
    enabled = {n for n, a in f.sites.items() if a["enabled"]}
    scales = {n: a["scale"] for n, a in f.sites.items()}
    points = {n: a["zero_point"] for n, a in f.sites.items()}
    channel = {n + "._weight": v for n, v in f.channel.items()}

    const = {i.name: i for i in model.graph.initializer}

    def value(name):
        return numpy_helper.to_array(const[name])

    quantized = {n.input[0].removesuffix("/own"): n for n in model.graph.node if n.op_type == "QuantizeLinear"}
    weights = {n.output[0].replace(".weight", "._weight"): n for n in model.graph.node
               if n.op_type == "DequantizeLinear" and n.input[0] in const}
    have = set(quantized) | set(weights)
    c.check(have == enabled, f"{run.name}: Q/DQ at {len(have)} sites, {len(enabled)} are enabled")
    exact = all(value(n.input[1]) == np.float32(scales[s]) and int(value(n.input[2])) == points[s]
                for s, n in quantized.items())
    for s in set(f.several) & enabled:  # scales of heads: multiplied before Q/DQ
        factor = value(f"{s}/own/factor").ravel()
        exact = exact and np.allclose(factor * several_of(f, s, factor.size), np.float32(scales[s]), 1e-6, 0)
    c.check(exact, f"{run.name}: scales and zero points are the file's")
    worst = max(np.abs(value(n.input[1]) - channel[s] / np.float32(127)).max() for s, n in weights.items())
    axes = {a.i for n in weights.values() for a in n.attribute if a.name == "axis"}
    c.check(worst <= 1e-9 and axes == {1}, f"{run.name}: weight scales per channel, axis {axes}, off by {worst:.1e}")
    codes = max(int(np.abs(value(n.input[0]).astype(int)).max()) for n in weights.values())
    c.check(codes == 127, f"{run.name}: weight codes up to {codes}")


# ---- single layers ----------------------------------------------------------------------------------------------------


def cut(model, inputs, output):
    """The part of the model between tensors, as a model of its own; inputs: {name: shape}."""
    from onnx import TensorProto, helper

    wanted, nodes = {output}, []
    for n in reversed(model.graph.node):
        if any(o in wanted for o in n.output):
            nodes.insert(0, n)
            wanted |= {i for i in n.input if i not in inputs}
    const = [i for i in model.graph.initializer if i.name in wanted]
    graph = helper.make_graph(nodes, "part", [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
                              [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)], const)
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return part


def run_part(part, feeds, output):
    return session(part.SerializeToString()).run([output], feeds)[0]


def check_layers(c, run, model):
    """Each Linear, GELU and product of attention, fed what int8-sim fed it, against what int8-sim made of it."""
    sites = np.load(run.path("sites.npz"))
    made = {o for n in model.graph.node for o in n.output}
    f = export_tables.Calib(run)
    scale = {n: several_of(f, n, sites[n].shape[-1]) if n in f.several and n in sites.files else float(a["scale"])
             for n, a in f.sites.items()}
    worst, off, total, layers = 0.0, 0, 0, 0
    for name in sites.files:
        if name.endswith("._aftergemm"):
            got, want = linear_part(model, made, sites, name)
        elif name.endswith(".mlp.fc2._input"):
            got, want = gelu_part(model, made, sites, name)
        elif ".mha_" in name:
            got, want = normal_part(model, made, sites, name)
            if name in f.several:  # what Q/DQ gives is in the tensor's scale
                got = got * (scale[name] / np.float32(f.sites[name]["scale"]))
        elif name.endswith(".softmax_input"):
            got, want = score_part(model, made, sites, name)
        elif name.endswith(".attn.proj._input"):
            got, want = value_part(model, sites, name)
            if f"{name}/dq" in made:
                got = np.rint(got / scale[name]).clip(-127, 127) * scale[name]
        else:
            continue
        step = np.abs(got - want) / scale[name]
        worst, off, total, layers = max(worst, float(step.max())), off + int((step > 0.5).sum()), total + step.size, layers + 1
    c.check(layers > 0 and worst <= 1.001 and off <= 1e-3 * total,
            f"{run.name}: {layers} layers on equal input: worst {worst:.3f} codes (1), {off} of {total} codes differ")


def linear_part(model, made, sites, name):
    x = name.replace("._aftergemm", "._input")
    out = f"{name}/dq" if f"{name}/dq" in made else name
    return run_part(cut(model, {x: ["rows", sites[x].shape[1]]}, out), {x: sites[x]}, out), sites[name]


def gelu_part(model, made, sites, name):
    """fc1's bias, GELU, and the division by its factors."""
    x = name.replace(".fc2._input", ".fc1._aftergemm")
    out = f"{name}/dq" if f"{name}/dq" in made else name
    return run_part(cut(model, {x: ["rows", sites[x].shape[1]]}, out), {x: sites[x]}, out), sites[name]


def heads_of(sites, module):
    """Windows kept, tokens, heads, head size, from the shapes of what was kept."""
    scores, q = sites[f"{module}.softmax_input"], sites[f"{module}.matmul_q"]
    n = scores.shape[1]
    windows = q.shape[0] // n
    heads = scores.shape[0] // (n * windows)
    return windows, n, heads, q.shape[1] // heads


def operand(sites, module, part, kind="matmul"):
    w, n, h, d = heads_of(sites, module)
    return np.ascontiguousarray(sites[f"{module}.{kind}_{part}"].reshape(w, n, h, d).transpose(0, 2, 1, 3))


def normal_part(model, made, sites, name):
    """V2: queries or keys, normalised; keys come out turned."""
    module, part = name.rsplit(".mha_", 1)
    x = operand(sites, module, part)[None]
    out = f"{name}/dq" if f"{name}/dq" in made else name
    got = run_part(cut(model, {f"{module}.matmul_{part}": list(x.shape)}, out), {f"{module}.matmul_{part}": x}, out)[0]
    w, n, h, d = heads_of(sites, module)
    return (got.transpose(0, 3, 1, 2) if part == "k" else got.transpose(0, 2, 1, 3)).reshape(w * n, h * d), sites[name]


def score_part(model, made, sites, name):
    module = name.rsplit(".", 1)[0]
    kind = "mha" if f"{module}.mha_q" in sites.files else "matmul"
    q, k = operand(sites, module, "q", kind), operand(sites, module, "k", kind).transpose(0, 1, 3, 2)
    feeds = {f"{module}.{kind}_q": q, f"{module}.{kind}_k": np.ascontiguousarray(k)}
    out = f"{name}/dq" if f"{name}/dq" in made else name
    got = run_part(cut(model, {n: list(v.shape) for n, v in feeds.items()}, out), feeds, out)
    return got.reshape(-1, got.shape[-1]), sites[name]


def value_part(model, sites, name):
    """Softmax of raw scores times v, for the windows kept; the mask is cut down to them."""
    from onnx import numpy_helper

    module = name.rsplit(".proj", 1)[0]
    w, n, h, d = heads_of(sites, module)
    feeds = {f"{module}.softmax_input": sites[f"{module}.softmax_input"].reshape(1, w, h, n, n),
             f"{module}.matmul_v": operand(sites, module, "v")[None]}
    out = f"{module}/weighted_sum"
    part = cut(model, {k: list(v.shape) for k, v in feeds.items()}, out)
    for i, t in enumerate(part.graph.initializer):
        if t.name.endswith("attn_mask"):
            part.graph.initializer[i].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t)[:w], t.name))
    got = run_part(part, feeds, out)
    return got[0].transpose(0, 2, 1, 3).reshape(w * n, h * d), sites[name]
