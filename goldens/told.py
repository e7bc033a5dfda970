#!/usr/bin/env python3
"""Attributes and types of ONNX operators, with the answers of ONNX Runtime: goldens/foreign/told.

Needs numpy, onnx 1.23.2 and onnxruntime. Input x is [1, 3, 12, 14] with x[i] = (37 i mod 256) / 255.
"""
import json, pathlib

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as T, helper as h, numpy_helper as nh

ort.set_default_logger_severity(4)
out = pathlib.Path(__file__).resolve().parent / "foreign" / "told"
out.mkdir(parents=True, exist_ok=True)
shape = (1, 3, 12, 14)
x = ((np.arange(np.prod(shape)) * 37 % 256) / 255).astype("f4").reshape(shape)
found = {}


def node(op, i, o, **k):
    return h.make_node(op, i, o.split(), **k)


def case(name, nodes, constants, opset):
    g = h.make_graph(nodes, "g", [h.make_tensor_value_info("x", T.FLOAT, shape)], [h.make_tensor_value_info("y", T.FLOAT, None)],
                     [nh.from_array(np.array(v), k) for k, v in constants.items()])
    m = h.make_model(g, opset_imports=[h.make_opsetid("", opset)], ir_version=10)
    onnx.save(m, out / f"{name}.onnx")
    y = ort.InferenceSession(m.SerializeToString()).run(None, {"x": x})[0]
    found[name] = {"shape": list(y.shape), "values": [float(v) for v in y.ravel()]}


def resize(name, scales, opset=19, sizes=None, region=None, **k):
    inputs, constants = ["x", "", "s"], {}
    if sizes is None:
        constants["s"] = np.array(scales, "f4")
    else:
        inputs, constants["z"] = ["x", "", "", "z"], np.array(sizes)
    if region is not None:
        inputs[1], constants["r"] = "r", np.array(region, "f4")
    case(name, [node("Resize", inputs, "y", **k)], constants, opset)


half = [1, 1, 0.5, 0.5]
resize("antialias", half, mode="linear", antialias=1)
resize("antialias-cubic", [1, 1, 0.6, 0.4], mode="cubic", antialias=1)
resize("ties", [1, 1, 0.7, 0.6], mode="nearest")
resize("ties-fine", [1, 1, 0.55, 0.45], mode="nearest")
resize("cubic", [1, 1, 1.5, 2.0], mode="cubic")
# Corners aligned at extents that scales cut are as in the node tests of ONNX, which ONNX Runtime does not follow.
resize("cubic-exclude", [1, 1, 2, 2], mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1)
resize("axes", [2, 2], mode="linear", axes=[2, 3])
resize("aspect", None, sizes=[20, 20], mode="nearest", axes=[2, 3], keep_aspect_ratio_policy="not_larger")
resize("crop", [1, 1, 0.8, 1.2], region=[0, 0, 0.2, 0.2, 1, 1, 1.3, 0.8], mode="linear", coordinate_transformation_mode="tf_crop_and_resize",
       extrapolation_value=7.0)
resize("symmetric", [1, 1, 1.3, 0.7], mode="linear", coordinate_transformation_mode="half_pixel_symmetric")


def quantize(name, scale, zero=None, opset=21, **k):
    q = ["x", "s"] + (["z"] if zero is not None else [])
    d = ["q", "s"] + (["z"] if zero is not None else [])
    constants = {"s": np.float32(scale), **({"z": zero} if zero is not None else {})}
    case(name, [node("QuantizeLinear", q, "q", **k), node("DequantizeLinear", d, "y")], constants, opset)


quantize("uint16", 1 / 65535, np.array(0, "u2"))
quantize("int16", 1 / 32000, np.array(5, "i2"))
quantize("output-dtype", 1 / 65535, output_dtype=T.UINT16)
for name, flag in [("below", "detect_positive"), ("above", "detect_negative")]:
    nodes = [node("Sub", ["x", "h"], "a"), node("Div", ["a", "zero"], "d"), node("IsInf", ["d"], "i", **{flag: 0}), node("Cast", ["i"], "y", to=1)]
    case(name, nodes, {"h": np.float32(0.5), "zero": np.float32(0)}, 20)
rng = np.random.default_rng(3)
draw = lambda *s: rng.normal(0, 0.5, s).astype("f4")
lines = [node("Reshape", ["x", "as"], "r")]
constants = {"as": np.array([12, 3, 14])}
for name, op, k, dirs, extra in [
    ("lstm", "LSTM", {}, 1, ["b", "", "h", "c", "p"]),
    ("lstm-two-ways", "LSTM", {"direction": "bidirectional"}, 2, ["b", "l"]),
    ("lstm-back", "LSTM", {"direction": "reverse"}, 1, []),
    ("gru", "GRU", {}, 1, ["b", "", "h"]),
    ("gru-late", "GRU", {"linear_before_reset": 1, "direction": "bidirectional"}, 2, ["b", "l"]),
]:
    gates = 4 if op == "LSTM" else 3
    all = {"w": draw(dirs, gates * 5, 14), "u": draw(dirs, gates * 5, 5), "b": draw(dirs, gates * 10), "h": draw(dirs, 3, 5), "c": draw(dirs, 3, 5),
           "p": draw(dirs, 15), "l": np.array([12, 5, 9], "i4")}
    used = {n: v for n, v in all.items() if n in ["w", "u", *extra]}
    case(name, lines + [node(op, ["r", "w", "u", *extra], "y", hidden_size=5, **k)], {**constants, **used}, 14)
    last = [node(op, ["r", "w", "u", *extra], "q y" if op == "GRU" else "q z y", hidden_size=5, **k)]
    case(name + "-state", lines + last, {**constants, **used}, 14)
case("top", [node("TopK", ["x", "k"], "y i", axis=2)], {"k": np.array([3])}, 14)
case("top-smallest", [node("TopK", ["x", "k"], "v i", axis=-1, largest=0), node("Cast", ["i"], "y", to=1)], {"k": np.array([4])}, 14)
places, updates = rng.permuted(np.tile(np.arange(14), (1, 3, 12, 1)), axis=3)[..., :5], draw(1, 3, 12, 5)
for reduction in ["none", "add", "max"]:
    case(f"scatter-elements-{reduction}", [node("ScatterElements", ["x", "i", "u"], "y", axis=3, reduction=reduction)], {"i": places - 14, "u": updates}, 18)
    case(f"scatter-nd-{reduction}", [node("ScatterND", ["x", "i", "u"], "y", reduction=reduction)], {"i": np.array([[0, 2, 3], [0, -3, 11]]), "u": draw(2, 14)}, 18)
(out / "want.json").write_text(json.dumps({n: {"shape": c["shape"], "values": [float(f"{v:.9g}") for v in c["values"]]} for n, c in found.items()}))

# Weights of other types.
w = np.array([[1.5, -2.25, 0.5], [3.0, 0.125, -1.0]])
for name, kind in [("f16", T.FLOAT16), ("f64", T.DOUBLE), ("bf16", T.BFLOAT16)]:
    nodes = [node("Cast", ["x"], "c", to=kind), node("MatMul", ["c", "w"], "m"), node("Cast", ["m"], "y", to=T.FLOAT)]
    g = h.make_graph(nodes, "g", [h.make_tensor_value_info("x", T.FLOAT, [1, 2])], [h.make_tensor_value_info("y", T.FLOAT, [1, 3])],
                     [h.make_tensor("w", kind, w.shape, w.ravel())])
    onnx.save(h.make_model(g, opset_imports=[h.make_opsetid("", 20)], ir_version=10), out / f"weights-{name}.onnx")

# Constants of which only nonzeros are written.
def sparse(name, numbers, flat=True):
    at = np.flatnonzero(numbers) if flat else np.argwhere(numbers)
    return h.make_sparse_tensor(nh.from_array(numbers[numbers != 0], name), nh.from_array(at.astype("i8"), ""), numbers.shape)


numbers = np.array([[0, 3, 0], [-2, 0, 7]])
parts = {"floats": numbers.astype("f4"), "halves": numbers.astype("f2"), "doubles": numbers / 3, "integers": numbers, "bytes": numbers.astype("i1"),
         "none": np.zeros((2, 3), "f4")}
nodes = [node("Constant", [], "constant", sparse_value=sparse("", numbers.astype("f4"), False)), node("MatMul", ["x", "constant"], "y")]
g = h.make_graph(nodes, "g", [h.make_tensor_value_info("x", T.FLOAT, [1, 2])], [h.make_tensor_value_info("y", T.FLOAT, [1, 3])],
                 sparse_initializer=[sparse(n, v, n != "bytes") for n, v in parts.items()])
onnx.save(h.make_model(g, opset_imports=[h.make_opsetid("", 20)], ir_version=10), out / "sparse.onnx")
