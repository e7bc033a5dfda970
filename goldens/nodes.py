#!/usr/bin/env python3
"""The node tests of the package onnx: written as files, run in one process, counted by operator.

Needs numpy, ml_dtypes and onnx 1.23.2.

    nodes.py write DIR [WORD..]   one folder per test: model.onnx, and data.onnx with inputs and outputs as constants
    nodes.py sample FOUND DIR     the smallest right test of each operator, and those that were once wrong
    nodes.py table FOUND          docs/src/onnx-nodes.md from what `cargo run -p nnz-onnx --example nodes DIR` prints
"""
import collections, datetime, pathlib, sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.loader import load_model_tests


def constants(name, value, dtype, graph, said):
    """Adds a value as constants: a list as `name/0`, `name/1`, with their number among the metadata."""
    if value is None:
        said[name] = "none"
    elif isinstance(value, list):
        said[name] = str(len(value))
        for i, v in enumerate(value):
            constants(f"{name}/{i}", v, None, graph, said)
    elif isinstance(value, TensorProto):
        t = TensorProto()
        t.CopyFrom(value)
        t.name = name
        graph.initializer.append(t)
    else:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def write(place, words, names=None):
    for case in load_model_tests(kind="node"):
        if words and not any(w in case.name for w in words) or names is not None and case.name not in names:
            continue
        mine = place / case.name
        mine.mkdir(parents=True, exist_ok=True)
        onnx.save(case.model, mine / "model.onnx")
        graph = helper.make_graph([], "data", [], [])
        # The looser of the test's own bounds and those of sums in another order.
        said = {"rtol": str(max(case.rtol, 1e-3)), "atol": str(max(case.atol, 1e-5))}
        [(inputs, outputs)] = case.data_sets
        for side, values in [("in", inputs), ("out", outputs)]:
            said[side] = str(len(values))
            for i, v in enumerate(values):
                constants(f"{side}/{i}", v, None, graph, said)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        helper.set_model_props(model, said)
        onnx.save(model, mine / "data.onnx")




def table(found):
    rows = collections.defaultdict(collections.Counter)
    why = collections.defaultdict(collections.Counter)
    tests = {c.name: c for c in load_model_tests(kind="node")}
    for line in open(found, encoding="utf-8"):
        name, verdict, reason = line.rstrip("\n").split("\t")
        case = tests.pop(name)
        # A test of a function's body is named after the function.
        op = whose(case.name, case.model)
        rows[op][verdict] += 1
        if verdict != "right":
            why[op][reason.split("`: ", 1)[-1]] += 1
    assert not tests, f"not run: {sorted(tests)[:5]}"
    total = sum(rows.values(), collections.Counter())
    print("# Node tests of ONNX\n")
    print(f"Made by `goldens/nodes.py table` on {datetime.date.today()}, from the {total.total()} node tests of the Python package onnx {onnx.__version__}")
    print("(`onnx.backend.test.loader`): small graphs with inputs and outputs. A test is *right* if type, shape and numbers of every output match,")
    print("*refused* if a message names the operator or type that is not computed, *wrong* otherwise. Numbers match within the test's own bounds,")
    print("at least 1e-3 relative and 1e-5 absolute. A function's expanded body counts with the function.\n")
    print(f"Of {total.total()} tests {total['right']} are right ({100 * total['right'] / total.total():.1f} %), {total['refused']} refused and {total['wrong']} wrong.\n")
    print("    nodes.py write cases\n    cargo run -p nnz-onnx --example nodes cases > found\n    nodes.py table found > docs/src/onnx-nodes.md\n")
    print("| operator | right | refused | wrong | why |\n|---|---|---|---|---|")
    for op in sorted(rows):
        r = rows[op]
        reason = "; ".join(w.replace("|", "\\|")[:110] for w, _ in why[op].most_common(2))
        print(f"| {op} | {r['right'] or ''} | {r['refused'] or ''} | {r['wrong'] or ''} | {reason} |")


# Signs of zero, corners, 16 bits, types.
KEPT = "mod_mixed_sign_float align_corners fp16 _bfloat16 cast_FLOAT_to_FLOAT8E4M3FN cast_FLOAT_to_INT4 loop13 if_seq scan9 bitshift_left_uint16".split()


def sample(found, place):
    rights = {line.split("\t")[0] for line in open(found, encoding="utf-8") if "\tright\t" in line}
    best, kept = {}, []
    for case in load_model_tests(kind="node"):
        if case.name not in rights:
            continue
        size = case.model.ByteSize() + sum(np.asarray(a).nbytes if isinstance(a, np.ndarray) else 64 for s in case.data_sets for side in s for a in side)
        if any(k in case.name for k in KEPT) and "expanded" not in case.name and size < 4000:
            kept.append(case.name)
        for op in {n.op_type for n in case.model.graph.node}:
            if size < 20000 and (op not in best or (size, case.name) < best[op]):
                best[op] = (size, case.name)
    write(place, [], {*kept, *(name for _, name in best.values())})


def whose(name, model):
    single = [n for n in model.graph.node if n.op_type not in ("Constant",)]
    if "_expanded" not in name and len(single) == 1:
        return single[0].op_type
    if "_expanded" in name:
        plain = name.split("_expanded")[0]
        other = BY_NAME.get(plain)
        if other is not None:
            return whose(plain, other)
    if name.startswith("test_optional"):
        return "Optional"
    if name.startswith("test_sequence") or name.startswith("test_split_to_sequence"):
        return "Sequence"
    return single[-1].op_type


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(pathlib.Path(sys.argv[2]), sys.argv[3:])
    elif sys.argv[1] == "sample":
        sample(sys.argv[2], pathlib.Path(sys.argv[3]))
    else:
        BY_NAME = {c.name: c.model for c in load_model_tests(kind="node")}
        table(sys.argv[2])
