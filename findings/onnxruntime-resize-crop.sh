#!/usr/bin/env bash
# ONNX Resize with coordinate_transformation_mode `tf_crop_and_resize`: the operator's text maps every output place into the region
# `roi`, whatever the scales are. onnxruntime 1.32.0 on the CPU leaves the region out where all scales are 1 (output as large as
# input) and returns the input unchanged; with any other scale it crops. onnx 1.23.2's own reference evaluator crops in both cases.
# A network that zooms into a region of equal size computes other numbers than its file says, without a word.
#
# Ends with 0 while this is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0
"$work/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

print("onnx", onnx.__version__, "onnxruntime", onnxruntime.__version__)


def model(size):
    node = helper.make_node(
        "Resize", ["x", "roi", "", "sizes"], ["y"],
        mode="linear", coordinate_transformation_mode="tf_crop_and_resize",
    )
    graph = helper.make_graph(
        [node], "crop",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, size, size])],
        [
            helper.make_tensor("roi", TensorProto.FLOAT, [8], [0, 0, 0.25, 0.25, 1, 1, 0.75, 0.75]),
            helper.make_tensor("sizes", TensorProto.INT64, [4], [1, 1, size, size]),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    made.ir_version = 8
    onnx.checker.check_model(made)
    return made


x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
for size in (3, 4):
    made = model(size)
    said = ReferenceEvaluator(made).run(None, {"x": x})[0]
    got = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})[0]
    # By hand: row r of the output lies at 0.25 * 3 + r * 0.5 * 3 / (size - 1) of the input, and columns likewise.
    at = 0.75 + np.arange(size) * 1.5 / (size - 1)
    by_hand = (4 * at[:, None] + at[None, :]).astype(np.float32)
    print(f"size {size}: by hand {by_hand[0]}, onnx {said[0, 0, 0]}, onnxruntime {got[0, 0, 0]}")
    assert np.allclose(said[0, 0], by_hand, atol=1e-5), "the reference evaluator crops no more"
    if size == 3:
        assert np.allclose(got[0, 0], by_hand, atol=1e-5), "onnxruntime crops no more where sizes differ"
    else:
        assert np.array_equal(got, x), "onnxruntime crops now where sizes are equal"
print("onnxruntime returns the input where the size stays, and crops where it changes")
PY
