#!/usr/bin/env bash
# A graph whose weight is a `sparse_initializer`, which the ONNX format has for zeros since IR 6. onnxruntime 1.32.0 runs it, and onnx
# 1.23.2's checker finds nothing wrong; but the same onnx's strict shape inference takes the weight for a number without axes, its version
# converter says that the weight is undefined, and onnxruntime's own quantizer refuses the model for an unknown tensor. A network that is
# stored sparse can be run, and hardly anything else be done with it, until it is written dense.
#
# Ends with 0 while this is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0
WORK=$work "$work/venv/bin/python" - <<'PY'
import os
import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, shape_inference, version_converter
from onnxruntime.quantization import quantize_dynamic

print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)
work = pathlib.Path(os.environ["WORK"])
dense = np.zeros((3, 4), np.float32)
dense[0, 0], dense[1, 1] = 1, 2
x = np.array([[1, 10, 100], [2, 20, 200]], np.float32)


def model(sparse):
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    values, places = dense[dense != 0], np.flatnonzero(dense)
    weight = helper.make_sparse_tensor(numpy_helper.from_array(values, "w"), numpy_helper.from_array(places, ""), dense.shape)
    graph = helper.make_graph(
        [node], "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        [] if sparse else [numpy_helper.from_array(dense, "w")],
        sparse_initializer=[weight] if sparse else [],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    made.ir_version = 8
    onnx.checker.check_model(made)
    return made


def quantize(made, name):
    onnx.save(made, work / name)
    quantize_dynamic(work / name, work / f"small-{name}")


uses = {
    "strict shape inference": lambda made, _: shape_inference.infer_shapes(made, strict_mode=True),
    "version converter": lambda made, _: version_converter.convert_version(made, 18),
    "dynamic quantization": quantize,
}
for name in ("dense.onnx", "sparse.onnx"):
    made = model(name == "sparse.onnx")
    y = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})[0]
    assert np.array_equal(y, x @ dense), "onnxruntime does not run it"
    for use, run in uses.items():
        try:
            run(made, name)
            said = "done"
        except Exception as e:
            said = f"refused: {' '.join(str(e).split())[:110]}"
        print(f"{name:12} {use:24} {said}")
        assert said.startswith("refused") == (name == "sparse.onnx"), f"{use} has changed"
print("ONNX Runtime runs sparse initializers; shape inference, the version converter and the quantizer refuse them")
PY
