#!/usr/bin/env bash
# ONNX Resize with coordinate_transformation_mode `align_corners` and a scale that gives a fractional extent, such as 0.6 of 4 = 2.4,
# of which the output has 2 places. onnx 1.23.2's reference evaluator (and its node test `resize_downsample_scales_cubic_align_corners`)
# maps place r to r (4 - 1) / (2.4 - 1), so that the last place lies at 2.14 of the input; onnxruntime 1.32.0 on the CPU maps it to
# r (4 - 1) / (2 - 1), so that it lies on the last corner. Both read the same valid file, and where the extent is whole they agree.
# A network that shrinks by such scales gives other numbers than it was checked with.
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


def model(scale):
    node = helper.make_node(
        "Resize", ["x", "", "scales"], ["y"], mode="linear", coordinate_transformation_mode="align_corners"
    )
    graph = helper.make_graph(
        [node], "corners",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1, None])],
        [helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 1, scale])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    made.ir_version = 8
    onnx.checker.check_model(made)
    return made


# The value of a place is where it lies.
x = np.arange(4, dtype=np.float32).reshape(1, 1, 1, 4)
for scale in (0.5, 0.6, 1.5, 1.7):
    made = model(scale)
    said = ReferenceEvaluator(made).run(None, {"x": x})[0].ravel()
    got = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})[0].ravel()
    last = len(got) - 1
    fractional, whole = last * 3 / (4 * scale - 1), last * 3 / max(last, 1)
    print(f"scale {scale}: {len(got)} places, the last at {said[-1]:.3f} (onnx) and {got[-1]:.3f} (onnxruntime)")
    assert len(said) == len(got) == int(4 * scale)
    assert np.isclose(said[-1], fractional, atol=1e-4), "the reference evaluator counts whole places now"
    assert np.isclose(got[-1], whole, atol=1e-4), "onnxruntime counts fractions now"
    assert np.isclose(said[-1], got[-1], atol=1e-4) == (scale in (0.5, 1.5)), "they agree where they did not"
print("they agree where the extent is whole, and nowhere else")
PY
