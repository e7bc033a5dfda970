#!/usr/bin/env python3
"""Constant fan-in (SRigL) against unstructured zeros for one sample on one thread: `benches/condensed/run.py ROUNDS`.

Each round measures both patterns at every shape; medians over rounds. NNZ names the program.
"""
import collections, json, os, statistics, subprocess, sys

nnz = os.environ.get("NNZ", "target/release/nnz")
found = collections.defaultdict(list)
for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 7):
    for shape in ("768x3072", "3072x768", "1024x1024", "4096x4096"):
        command = [nnz, "--json", "--threads", "1", "bench", "kernels", "--shape", shape, "--batch", "1",
                   "--density", "0.05,0.1", "--pattern", "unstructured,per-row"]
        for row in json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout):
            key = (shape, round(row["density"], 2), row["pattern"], row["kernel"])
            found[key].append(row["forward"] * 1e3)
            found[shape, round(row["density"], 2), "dense", "gemm"].append(row["dense_ms"] * 1e3 if row["backward"] is None else None)
print("| outputs x inputs | density | dense µs | unstructured, plan | unstructured, sliced | per-row, sliced | gain over sliced | over plan |")
print("|---|---|---|---|---|---|---|---|")
median = lambda *key: statistics.median(v for v in found[key] if v is not None)
for shape, density in sorted({k[:2] for k in found}):
    at = lambda *key: median(shape, density, *key)
    plan, loose, even = at("unstructured", "plan"), at("unstructured", "sliced"), at("per-row", "sliced")
    print(f"| {shape} | {density} | {at('dense', 'gemm'):.0f} | {plan:.1f} | {loose:.1f} | {even:.1f} | {loose / even:.2f}x | {plan / even:.2f}x |")
