#!/usr/bin/env python3
"""The node tests of the package onnx: written as files, run in one process, counted by operator.

Needs numpy, ml_dtypes and onnx 1.23.2.

    nodes.py write DIR [WORD..]   one folder per test: model.onnx, and data.onnx with inputs and outputs as constants
    nodes.py sample FOUND DIR     the smallest right test of each operator, and those that were once wrong
    nodes.py functions DIR        files with functions: two calls, calls without end, and calls whose number doubles with each function
    nodes.py table FOUND          docs/src/onnx-nodes.md from what `cargo run -p nnz-onnx --example nodes DIR` prints
"""
import collections, datetime, pathlib, re, sys

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
            # Without the place of the file and the name of the node.
            why[op][re.sub(r"^\S*onnx: (\S+ `[^`]*`: )?", "", reason)] += 1
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


def functions(place):
    place.mkdir(parents=True, exist_ok=True)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    tensor = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [None])

    def save(name, nodes, fs):
        graph = helper.make_graph(nodes, "net", [tensor("x")], [tensor("y")])
        onnx.save(helper.make_model(graph, functions=fs, opset_imports=opsets, ir_version=10), place / name)

    leaky = helper.make_node("LeakyRelu", ["a"], ["t"])
    a = leaky.attribute.add()
    a.name, a.ref_attr_name, a.type = "alpha", "slope", onnx.AttributeProto.FLOAT
    leak = helper.make_function("own", "Leak", ["a"], ["b"], [leaky, helper.make_node("Identity", ["t"], ["b"])], opsets, ["slope"])
    call = lambda f, i, o, **k: helper.make_node(f, [i], [o], domain="own", **k)
    save("calls.onnx", [call("Leak", "x", "t", slope=0.5), call("Leak", "t", "y", slope=0.5)], [leak])
    endless = helper.make_function("own", "Self", ["a"], ["b"], [call("Self", "a", "b")], opsets)
    save("self.onnx", [call("Self", "x", "y")], [endless])
    many = 16
    fs = [helper.make_function("own", "F0", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opsets)]
    for k in range(1, 7):
        calls = [call(f"F{k - 1}", f"a{i}" if i else "a", f"a{i + 1}" if i + 1 < many else "b") for i in range(many)]
        fs.append(helper.make_function("own", f"F{k}", ["a"], ["b"], calls, opsets))
    save("bomb.onnx", [call("F6", "x", "y")], fs)


def operators(graph):
    for node in graph.node:
        yield node.op_type
        for a in node.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                yield from operators(a.g)


def sample(found, place):
    rights = {line.split("\t")[0] for line in open(found, encoding="utf-8") if "\tright\t" in line}
    best, kept = {}, []
    for case in load_model_tests(kind="node"):
        if case.name not in rights:
            continue
        size = case.model.ByteSize() + sum(np.asarray(a).nbytes if isinstance(a, np.ndarray) else 64 for s in case.data_sets for side in s for a in side)
        if any(k in case.name for k in KEPT) and "expanded" not in case.name and size < 4000:
            kept.append(case.name)
        for op in set(operators(case.model.graph)):
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
    return single[-1].op_type if single else "Constant"


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(pathlib.Path(sys.argv[2]), sys.argv[3:])
    elif sys.argv[1] == "functions":
        functions(pathlib.Path(sys.argv[2]))
    elif sys.argv[1] == "sample":
        sample(sys.argv[2], pathlib.Path(sys.argv[3]))
    else:
        BY_NAME = {c.name: c.model for c in load_model_tests(kind="node")}
        table(sys.argv[2])
