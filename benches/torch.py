#!/usr/bin/env python3
"""nnz.torch against PyTorch in the same process: sides in turn, medians.

    cargo build --release -p nnz-py     # or a wheel of it
    python3 benches/torch.py [--rounds 60] [--threads 1,2] [--out results/torch.md]

Needs torch and numpy, and `nnz` importable: with PYTHONPATH=python and the library copied to python/nnz/_nnz.abi3.so, or a wheel.

The network is 784-1000-1000-1000-10 in f32. Masked torch multiplies each weight by its mask in the forward pass, as
torch.nn.utils.prune does. A training step is forward, cross-entropy, backward and SGD with momentum at batch 128; one sample is a forward
pass without gradients, in which masked torch reads weights that were multiplied before. Attached is a dense step whose optimizer
rewires every 100 steps by RigL at density 0.1, measured between two rewirings, against the same without. The parts of a training step
are timed in steps of their own. What a call costs beside its work is the time of a layer of 8 by 8 on one row; importing is timed in
processes of its own.
"""
import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# This file has the name of the package that it measures.
sys.path = [p for p in sys.path if Path(p or ".").resolve() != ROOT / "benches"]
WIDTHS = [784, 1000, 1000, 1000, 10]


def turns(sides, rounds, repeats, single=True):
    """Medians, in milliseconds, of functions that are called some times in turn: of single calls, or, where those are short, of the mean of
    the calls of a turn."""
    for run in sides.values():
        for _ in range(3):
            run()
    times = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            for many in [1] * repeats if single else [repeats]:
                start = time.perf_counter()
                for _ in range(many):
                    run()
                times[name].append((time.perf_counter() - start) / many * 1e3)
    return {name: statistics.median(t) for name, t in times.items()}


def measure(threads, rounds, density):
    import torch
    import torch.nn.functional as F
    import torch.nn.utils.prune as torch_prune
    from torch import nn

    import nnz.torch

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)

    def network():
        layers = []
        for a, b in zip(WIDTHS, WIDTHS[1:]):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    dense = network()
    nnz.torch.prune(dense, density=density, distribution="uniform", prune_head=True)
    sparse = nnz.torch.compile(copy.deepcopy(dense), note=None)
    masked = copy.deepcopy(dense)
    for layer in masked:
        if isinstance(layer, nn.Linear):
            torch_prune.custom_from_mask(layer, "weight", layer.weight != 0)
    x, y, one = torch.randn(128, 784), torch.randint(0, 10, (128,)), torch.randn(1, 784)
    assert torch.allclose(sparse(x), masked(x), atol=1e-4), "both sides compute the same"

    def step(model, optimizer):
        def run():
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

        return run

    def sgd(model):
        return torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)

    def single(model):
        def run():
            with torch.no_grad():
                model(one)

        return run

    def parts(model, optimizer):
        """Medians, in milliseconds, of the parts of a step."""
        times = []
        for _ in range(rounds):
            at = [time.perf_counter()]
            optimizer.zero_grad()
            at.append(time.perf_counter())
            answer = model(x)
            at.append(time.perf_counter())
            loss = F.cross_entropy(answer, y)
            at.append(time.perf_counter())
            loss.backward()
            at.append(time.perf_counter())
            optimizer.step()
            at.append(time.perf_counter())
            times.append([b - a for a, b in zip(at, at[1:])])
        zero, forward, loss, backward, update = (statistics.median(t) * 1e3 for t in zip(*times))
        return {"forward": forward, "loss": loss, "backward": backward, "optimizer": zero + update}

    found = {}
    found["train"] = turns({"masked": step(masked, sgd(masked)), "nnz": step(sparse, sgd(sparse))}, rounds, 3)
    sides = {"masked": parts(masked, sgd(masked)), "nnz": parts(sparse, sgd(sparse))}
    for part in sides["nnz"]:
        found[f"part {part}"] = {name: side[part] for name, side in sides.items()}
    # The kindest to the other side: weights that were multiplied once.
    found["one"] = turns({"masked": single(dense.eval()), "nnz": single(sparse.eval())}, rounds, 20, False)
    for name, make in (("sgd", sgd), ("adam", lambda m: torch.optim.Adam(m.parameters(), 1e-4))):
        plain, attached = network(), network()
        optimizer = make(attached)
        handle = nnz.torch.attach(optimizer, "rigl", 0.1, module=attached, every=1_000_000, prune_head=True)
        assert abs(handle.density - 0.1) < 1e-3
        of_plain = make(plain)
        found[f"attached {name}"] = turns({"masked": step(plain, of_plain), "nnz": step(attached, optimizer)}, rounds, 3)
        sides = {"masked": parts(plain, of_plain), "nnz": parts(attached, optimizer)}
        for part in ("backward", "optimizer"):
            found[f"share {name} {part}"] = {side: times[part] for side, times in sides.items()}
    small, row = nn.Linear(8, 8), torch.randn(1, 8)
    nnz.torch.prune(small, density=0.1)
    layer = nnz.torch.compile(copy.deepcopy(small), density=1.0, note=None)
    found["call forward"] = turns({"masked": lambda: small(row).detach(), "nnz": lambda: layer(row).detach()}, rounds, 100, False)
    with torch.no_grad():
        found["call forward without gradients"] = turns({"masked": lambda: small(row), "nnz": lambda: layer(row)}, rounds, 100, False)
    both = lambda module: lambda: module(row).sum().backward()
    found["call forward and backward"] = turns({"masked": both(small), "nnz": both(layer)}, rounds, 100, False)
    # Where a layer pays: against a plain dense one, without masks.
    shapes = {
        "linear 1000x1000, batch 128": (lambda: nn.Linear(1000, 1000), torch.randn(128, 1000)),
        "conv 64x64x3x3, 32 images of 16x16": (lambda: nn.Conv2d(64, 64, 3, padding=1), torch.randn(32, 64, 16, 16)),
    }
    for name, (make, x0) in shapes.items():
        for d in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5):
            plain = make()
            nnz.torch.prune(plain, density=d)
            twin = nnz.torch.compile(copy.deepcopy(plain), density=1.0)
            x1 = x0.clone().requires_grad_()
            g = torch.randn_like(plain(x0))

            def both(layer):
                def run():
                    layer(x1).backward(g)

                return run

            found[f"pays {name}|{d}"] = turns({"masked": both(plain), "nnz": both(twin)}, max(5, rounds // 4), 2)
    return found


def imports(rounds=9):
    """Medians, in milliseconds, of importing `nnz`, and `nnz.torch` after torch, without the start of Python."""
    code = "import time{0}; start = time.perf_counter(); import {1}; print(time.perf_counter() - start)"
    run = lambda *names: float(subprocess.run([sys.executable, "-c", code.format(*names)], stdout=subprocess.PIPE, text=True, check=True).stdout)
    return [statistics.median(run(*names) for _ in range(rounds)) * 1e3 for names in (("", "nnz"), (", torch, numpy", "nnz.torch"))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.rounds, args.density)))
        return
    load = os.getloadavg()[0]
    rows, torch_version = [], subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True, check=True
    ).stdout.strip()
    for threads in map(int, args.threads.split(",")):
        env = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, "--one", str(threads), "--rounds", str(args.rounds), "--density", str(args.density)]
        found = json.loads(subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])
        for case, side in found.items():
            rows.append((case, threads, side["masked"], side["nnz"]))
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    lines = [
        "# nnz.torch against PyTorch",
        "",
        f"{time.strftime('%Y-%m-%d')}, `python3 benches/torch.py --rounds {args.rounds}`: {cpu}, {os.cpu_count()} cores, load {load:.1f} at the",
        f"start, PyTorch {torch_version}, Python {platform.python_version()}. An MLP 784-1000-1000-1000-10 in f32 at density {args.density:g} in every",
        "layer; medians of milliseconds, sides in turn in one process, the same number of threads for both.",
        "",
        "| case | threads | masked PyTorch ms | nnz ms | speed |",
        "|---|---|---|---|---|",
    ]
    names = {"train": "training step, batch 128, SGD with momentum", "one": "one sample, forward"}
    for case, threads, old, new in rows:
        if case in names:
            lines.append(f"| {names[case]} | {threads} | {old:.3f} | {new:.3f} | {old / new:.1f}x |")
    lines += [
        "",
        "The parts of such a training step, each the median of its own:",
        "",
        "| part | threads | masked PyTorch ms | nnz ms |",
        "|---|---|---|---|",
    ]
    lines += [f"| {case[5:]} | {threads} | {old:.3f} | {new:.3f} |" for case, threads, old, new in rows if case.startswith("part")]
    lines += [
        "",
        "Masked PyTorch multiplies weights by masks in every forward pass of training; for one sample its weights were multiplied before.",
        "",
        "What attaching RigL at density 0.1 to the optimizer of a dense step costs between two rewirings:",
        "",
        "| optimizer | threads | dense step ms | attached ms | cost |",
        "|---|---|---|---|---|",
    ]
    for case, threads, old, new in rows:
        if case.startswith("attached"):
            lines.append(f"| {case.split()[1].upper() if 'sgd' in case else 'Adam'} | {threads} | {old:.3f} | {new:.3f} | {(new / old - 1) * 100:+.1f}% |")
    lines += [
        "",
        "Where that comes from. The backward pass also masks gradients, one pass over them; the step of the optimizer gathers the connections of weights and",
        "gradients, updates them, and writes them back: each reads or writes nearly every line of memory of a weight once.",
        "",
        "| optimizer | part | threads | dense step ms | attached ms |",
        "|---|---|---|---|---|",
    ]
    for case, threads, old, new in rows:
        if case.startswith("share"):
            _, optimizer, part = case.split()
            lines.append(f"| {'SGD' if optimizer == 'sgd' else 'Adam'} | {part} | {threads} | {old:.3f} | {new:.3f} |")
    lines += [
        "",
        "What a call costs beside its work: a layer of 8 by 8 on one row.",
        "",
        "| call | threads | PyTorch µs | nnz µs | of a call that works 1 ms |",
        "|---|---|---|---|---|",
    ]
    for case, threads, old, new in rows:
        if case.startswith("call"):
            lines.append(f"| {case[5:]} | {threads} | {old * 1e3:.1f} | {new * 1e3:.1f} | {new * 100:.1f}% |")
    alone, with_torch = imports()
    lines += ["", f"Importing `nnz` takes {alone:.0f} ms, and `nnz.torch` {with_torch:.0f} ms after torch and numpy."]
    lines += [
        "",
        "Where one layer pays, forward and backward, against a plain dense one; the time of PyTorch over that of nnz:",
        "",
        "| layer | threads | 0.02 | 0.05 | 0.1 | 0.2 | 0.3 | 0.5 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    pays = {}
    for case, threads, old, new in rows:
        if case.startswith("pays"):
            pays.setdefault((case[5:].split("|")[0], threads), []).append(f"{old / new:.2f}")
    lines += [f"| {name} | {threads} | {' | '.join(ratios)} |" for (name, threads), ratios in pays.items()]
    lines += ["", "| aim | threads | measured | met |", "|---|---|---|---|"]

    def aim(what, threads, measured, met):
        lines.append(f"| {what} | {threads} | {measured} | {'yes' if met else 'no'} |")

    for case, threads, old, new in rows:
        if case in names:
            aim(f"{names[case]}: 5 times as fast", threads, f"{old / new:.1f}x", old / new >= 5.0)
        elif case.startswith("attached"):
            aim(f"attached to {'SGD' if 'sgd' in case else 'Adam'}: at most 3%", threads, f"{(new / old - 1) * 100:+.1f}%", new / old <= 1.03)
        elif case.startswith("call forward") and "backward" not in case:
            aim(f"{case[5:]}: less than 2% of a call that works 1 ms", threads, f"{new * 100:.1f}%", new < 0.02)
    aim("importing `nnz`: less than 150 ms", 1, f"{alone:.0f} ms", alone < 150)
    aim("importing `nnz.torch` after torch: less than 150 ms", 1, f"{with_torch:.0f} ms", with_torch < 150)
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
