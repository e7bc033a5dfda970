#!/usr/bin/env python3
"""Every node test of the package onnx through `nnz predict --input`: right, refused by name, or wrong.

Needs numpy and onnx 1.23.2; NNZ is the program. `nodes.py [WORD]` takes the tests with a word in their name. Exit code 1 when one is wrong.
"""
import json, os, pathlib, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
from onnx.backend.test.loader import load_model_tests

program = os.environ.get("NNZ", "target/release/nnz")
word = sys.argv[1] if len(sys.argv) > 1 else ""
place = pathlib.Path(tempfile.mkdtemp())


def usual(a):
    return isinstance(a, np.ndarray) and a.dtype.name in TYPES


TYPES = {f"{k}{n}" for k, ns in {"float": [16, 32, 64], "int": [8, 16, 32, 64], "uint": [8, 16, 32, 64]}.items() for n in ns} | {"bool"}


def one(case):
    model = case.model
    for inputs, outputs in case.data_sets:
        if not all(usual(a) for a in [*inputs, *outputs]):
            return "left out", "types that no array of NumPy has"
        mine = place / case.name
        mine.mkdir(exist_ok=True)
        onnx.save(model, mine / "model.onnx")
        given = []
        for p, a in zip(model.graph.input, inputs):
            np.save(mine / f"{len(given)}.npy", a)
            given += ["--input", f"{p.name}={mine / f'{len(given)}.npy'}"]
        run = subprocess.run([program, "predict", str(mine / "model.onnx"), *given, "--json"], capture_output=True, text=True)
        if run.returncode == 2:
            return "refused", run.stderr.strip()
        if run.returncode != 0:
            return "WRONG", f"exit code {run.returncode}: {run.stderr.strip()[-300:]}"
        for got, want in zip(json.loads(run.stdout)["outputs"], outputs):
            a = np.array([np.nan if v is None else v for v in np.array(got["values"], dtype=object).ravel()], dtype="f8")
            w = want.astype("f8").ravel()
            w = np.where(np.isinf(w), np.nan, w)
            if list(want.shape) != got["shape"] or not np.allclose(a, w, rtol=max(case.rtol, 1e-3), atol=max(case.atol, 1e-5), equal_nan=True):
                return "WRONG", f"{got['shape']} {a[:4]} for {list(want.shape)} {w[:4]}"
    return "right", ""


cases = [c for c in load_model_tests(kind="node") if word in c.name]
with ThreadPoolExecutor(2) as pool:
    found = list(zip(cases, pool.map(one, cases)))
for case, (verdict, why) in found:
    if verdict == "WRONG" or (word and verdict != "right"):
        print(verdict, case.name, why[:300])
for verdict in ["right", "refused", "left out", "WRONG"]:
    print(verdict, sum(v == verdict for _, (v, _) in found))
(place / "found.json").write_text(json.dumps({c.name: v for c, v in found}, indent=0))
print(place / "found.json")
sys.exit(any(v == "WRONG" for _, (v, _) in found))
