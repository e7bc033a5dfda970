#!/usr/bin/env python3
"""The race of sparse linear layers: nnz beside PyTorch, SparseProp, SciPy, ONNX Runtime and DeepSparse.

    python3 benches/peers/sparse.py

makes an environment of its own (target/peers), installs the peers, builds nnz's side (the example `sparse_race`), compares
outputs, and only then takes times. Everybody gets the same pattern and the same numbers. Within a round every arm runs once,
one after the other, so that a busy machine slows all alike; what is printed is the median over rounds with the tenth and
ninetieth percentile. A peer that does not install is reported as such.

Options: --quick (few rounds, small shapes: to see that it runs), --threads 1,2, --rounds N, --python PYTHON (an
interpreter that has the peers, instead of an environment), --out results/sparse-race (.md and .json, after every case), --hold
"CMD" (every case, less than a minute, is run by this command, which may wait until the machine is quiet), --go-on (keep the cases
that stand in OUT.json; a case holds the load it ran under), --cases 0,3 (only these, in the order of `cases`).
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = ["numpy", "torch", "scipy", "onnx", "onnxruntime", "sparseprop", "deepsparse==1.8.0"]


def options():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--quick", action="store_true")
    p.add_argument("--threads", default="1,2")
    p.add_argument("--rounds", type=int, default=11)
    p.add_argument("--python")
    p.add_argument("--out", default=str(ROOT / "results" / "sparse-race"))
    p.add_argument("--hold", default="")
    p.add_argument("--go-on", action="store_true")
    p.add_argument("--cases")
    p.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    p.add_argument("--case", type=int, help=argparse.SUPPRESS)
    return p.parse_args()


def target():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def prepare(args):
    """The interpreter with the peers, and which of them are there."""
    python, state = args.python, {}
    if not python:
        home = target() / "peers"
        python = str(home / "bin" / "python")
        if not pathlib.Path(python).exists():
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    for peer in PEERS:
        name = peer.split("==")[0]
        probe = f"import importlib.metadata as m; import {name}; print(m.version('{name}'))"
        there = subprocess.run([python, "-c", probe], capture_output=True, text=True)
        why = there.stderr
        if there.returncode and not args.python:
            put = subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", peer],
                                 capture_output=True, text=True)
            there = subprocess.run([python, "-c", probe], capture_output=True, text=True)
            why = put.stderr if put.returncode else there.stderr
        lines = [line for line in why.strip().splitlines() if "rror" in line] or ["unknown"]
        state[name] = there.stdout.strip() if not there.returncode else "does not install: " + lines[-1].strip()[:160]
    return python, state


class Nnz:
    """The other side of the pipe: crates/nnz-engine/examples/sparse_race.rs."""

    def __init__(self, threads):
        program = target() / "release" / "examples" / "sparse_race"
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask(op="threads", threads=threads)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"nnz's side ended on {request}")
        return json.loads(answer)


def timed(f, repeat):
    f()
    start = time.perf_counter()
    for _ in range(repeat):
        f()
    return (time.perf_counter() - start) / repeat


def race(arms, rounds, least):
    """{name: callable(repeat) -> seconds each} to {name: [low, median, high]} in seconds."""
    repeats = {n: max(1, int(least / max(f(1), 1e-7))) for n, f in arms.items()}
    times = {n: [] for n in arms}
    for _ in range(rounds):
        for name, f in arms.items():
            times[name].append(f(repeats[name]))
    spread = lambda t: [sorted(t)[round(q * (len(t) - 1))] for q in (0.1, 0.5, 0.9)]
    return {n: spread(t) for n, t in times.items()}


def near(name, got, want):
    import numpy as np
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    error = np.abs(got - want).max() / np.abs(want).max()
    if not error < 1e-4:
        raise ValueError(f"{name} computes something else: relative error {error:.1e}")


def pattern(rows, cols, density, rng):
    import numpy as np
    mask = rng.random((rows, cols)) < density
    mask[:, 0] |= ~mask.any(1)
    starts = np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(np.uint32)
    values = rng.standard_normal(int(starts[-1])).astype(np.float32)
    dense = np.zeros((rows, cols), np.float32)
    dense[mask] = values
    return mask, starts, np.nonzero(mask)[1].astype(np.uint32), values, dense


def layer(nnz, threads, rows, cols, density, batch, rounds, least):
    """One layer: forward, backward, step of everybody."""
    import warnings
    import numpy as np
    import torch
    warnings.filterwarnings("ignore", message="Sparse")
    rng = np.random.default_rng(1)
    mask, starts, columns, values, dense = pattern(rows, cols, density, rng)
    x, g = (rng.standard_normal((batch, n)).astype(np.float32) for n in (cols, rows))
    with tempfile.TemporaryDirectory() as folder:
        for name, a in dict(starts=starts, columns=columns, values=values, x=x, g=g).items():
            a.tofile(f"{folder}/{name}")
        at = nnz.ask(op="layer", dir=folder, rows=rows, cols=cols, batch=batch)["layer"]
        ours = {n: np.fromfile(f"{folder}/{n}", np.float32) for n in ("y", "dx", "dw", "frozen")}
    y, dx, dw = x @ dense.T, g @ dense, (g.T @ x)[mask]
    for name, want in dict(y=y, dx=dx, dw=dw, frozen=y).items():
        near(f"nnz, {name}", ours[name], want.ravel())

    arms = {}
    for what in ("forward", "backward", "pack", "update", "frozen"):
        arms[f"nnz {what}"] = lambda n, w=what: nnz.ask(op="time", layer=at, what=w, repeat=n)["seconds"]

    def add(name, forward, backward=None):
        arms[f"{name} forward"] = lambda n: timed(forward, n)
        if backward:
            arms[f"{name} backward"] = lambda n: timed(backward, n)

    for name, kind in (("torch f32", torch.float32), ("torch bf16", torch.bfloat16)):
        tx, tg, tw = (torch.from_numpy(a).to(kind) for a in (x, g, dense))
        ty, tdx, tdw = tg.clone(), tx.clone(), tw.clone()
        # Both layouts of W; whichever is faster on this machine counts.
        two = tw.t().contiguous()
        forms = [lambda x=tx, w=w, y=ty: torch.mm(x, w, out=y) for w in (tw.t(), two)]
        fast = min(forms, key=lambda f: min(timed(f, 2) for _ in range(3)))

        def back(tg=tg, tw=tw, tx=tx, tdx=tdx, tdw=tdw):
            torch.mm(tg, tw, out=tdx)
            torch.mm(tg.t(), tx, out=tdw)
        if kind == torch.float32:
            fast(), back()
            near("torch f32, y", ty, y), near("torch f32, dw", tdw.numpy()[mask], dw)
        add(name, fast, back)

    crow, col = torch.from_numpy(starts.astype(np.int64)), torch.from_numpy(columns.astype(np.int64))
    w = torch.sparse_csr_tensor(crow, col, torch.from_numpy(values), (rows, cols))
    wt = torch.from_numpy(dense.T.copy()).to_sparse_csr()
    xt, gt = torch.from_numpy(x.T.copy()), torch.from_numpy(g.T.copy())
    tx = torch.from_numpy(x)
    near("torch CSR, y", (w @ xt).T, y), near("torch CSR, dx", (wt @ gt).T, dx)
    near("torch CSR, dw", torch.sparse.sampled_addmm(w, gt, tx, beta=0).values(), dw)
    add("torch CSR", lambda: w @ xt, lambda: (wt @ gt, torch.sparse.sampled_addmm(w, gt, tx, beta=0)))

    try:
        import scipy.sparse as ss
        sw = ss.csr_matrix((values, columns.astype(np.int32), starts.astype(np.int32)), shape=(rows, cols))
        sx = np.ascontiguousarray(x.T)
        near("scipy, y", (sw @ sx).T, y)
        if threads == 1:
            add("scipy", lambda: sw @ sx)
    except ImportError:
        pass

    try:
        from sparseprop.modules import SparseLinear
        lin = SparseLinear(torch.from_numpy(dense))
        leaf, tg = torch.from_numpy(x).requires_grad_(), torch.from_numpy(g)
        near("sparseprop, y", lin(leaf).detach(), y)
        add("sparseprop", lambda: lin(leaf))
        arms["sparseprop step"] = lambda n: timed(lambda: lin(leaf).backward(tg), n)
    except Exception as why:  # an extension that was built for another machine fails in many ways
        print("sparseprop:", why, file=sys.stderr)

    times = race(arms, rounds, least)
    nnz.ask(op="forget")
    total = lambda *names: sum(times[n][1] for n in names)
    steps = {"nnz": total("nnz forward", "nnz backward", "nnz pack")}
    for name in ("torch f32", "torch bf16", "torch CSR"):
        steps[name] = total(f"{name} forward", f"{name} backward")
    if "sparseprop step" in times:
        steps["sparseprop"] = total("sparseprop step")
    flop = 2 * len(values) * batch
    return dict(rows=rows, cols=cols, density=density, batch=batch, threads=threads, nonzeros=len(values),
                seconds=times, step=steps, over={n: t / steps["nnz"] for n, t in steps.items() if n != "nnz"},
                gflops={w: f * flop / times[f"nnz {w}"][1] / 1e9 for w, f in (("forward", 1), ("backward", 2))})


def epoch(nnz, threads, widths, density, batch, rounds, steps):
    """Seconds an epoch of 60,000 rows: nnz's trainer, PyTorch with masks."""
    import torch
    torch.set_flush_denormal(True)
    data = torch.randint(0, 256, (60000, widths[0]), dtype=torch.uint8)
    labels = torch.randint(0, widths[-1], (60000,))
    linears = [torch.nn.Linear(a, b) for a, b in zip(widths, widths[1:])]
    masks = [(torch.rand_like(l.weight) < density).float() for l in linears[:-1]]
    with torch.no_grad():
        for l, m in zip(linears, masks):
            l.weight.mul_(m)
    net = torch.nn.Sequential(*[m for l in linears for m in (l, torch.nn.ReLU())][:-1])
    opt = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, foreach=True)
    order, at = torch.randperm(60000), [0]

    def step():
        at[0] = (at[0] + batch) % (60000 - batch)
        rows = order[at[0]:at[0] + batch]
        x = data[rows].float().mul_(1 / 255).sub_(0.13).div_(0.31)
        loss = torch.nn.functional.cross_entropy(net(x), labels[rows])
        opt.zero_grad(set_to_none=True)
        loss.backward()
        with torch.no_grad():
            for l, m in zip(linears, masks):
                l.weight.grad.mul_(m)
        opt.step()
        loss.item()

    model = "mlp:" + "-".join(map(str, widths))
    ours = {d: nnz.ask(op="trainer", model=model, density=density, batch=batch, storage=d)["trainer"]
            for d in ("sparse", "masked")}
    arms = {"torch masked": lambda n: timed(step, n)}
    for storage, trainer in ours.items():
        arms[f"nnz {storage}"] = lambda n, t=trainer: nnz.ask(op="train", trainer=t, repeat=n)["seconds"]
    for f in arms.values():
        f(5)
    times = {n: [] for n in arms}
    for _ in range(rounds):
        for n, f in arms.items():
            times[n].append(f(steps) * 60000 / batch)
    nnz.ask(op="forget")
    spread = lambda t: [sorted(t)[round(q * (len(t) - 1))] for q in (0.1, 0.5, 0.9)]
    times = {n: spread(t) for n, t in times.items()}
    return dict(model=model, density=density, batch=batch, threads=threads, seconds=times,
                over=times["torch masked"][1] / times["nnz sparse"][1])


def inference(nnz, threads, widths, density, batch, rounds, least):
    """One or a few samples through a sparse perceptron."""
    import numpy as np
    import torch
    rng = np.random.default_rng(2)
    layers = [pattern(b, a, density if b != widths[-1] else 1.0, rng) for a, b in zip(widths, widths[1:])]
    x = rng.standard_normal((batch, widths[0])).astype(np.float32)
    scale = [np.float32(1 / np.sqrt(density * a)) for a in widths[:-1]]
    want = x
    for i, (l, s) in enumerate(zip(layers, scale)):
        want = want @ (l[4] * s).T
        want = np.maximum(want, 0) if i + 1 < len(layers) else want
    with tempfile.TemporaryDirectory() as folder:
        x.tofile(f"{folder}/x")
        for i, (_, starts, columns, values, _) in enumerate(layers):
            for name, a in dict(starts=starts, columns=columns, values=values * scale[i]).items():
                a.tofile(f"{folder}/{name}{i}")
        at = nnz.ask(op="mlp", dir=folder, widths=widths, batch=batch)["mlp"]
        near("nnz, perceptron", np.fromfile(f"{folder}/y", np.float32), want.ravel())
        missing, arms = [], {"nnz": lambda n: nnz.ask(op="infer", mlp=at, repeat=n)["seconds"]}
        nets = [torch.from_numpy(l[4] * s) for l, s in zip(layers, scale)]
        tx = torch.from_numpy(x)

        def torch_net():
            h = tx
            for i, w in enumerate(nets):
                h = torch.nn.functional.linear(h, w)
                h = torch.relu_(h) if i + 1 < len(nets) else h
            return h
        with torch.inference_mode():
            near("torch, perceptron", torch_net(), want)

        def torch_arm(n):
            with torch.inference_mode():
                return timed(torch_net, n)
        arms["torch f32"] = torch_arm
        model = f"{folder}/net.onnx"
        try:
            import onnx
            import onnx.helper as oh
            from onnx import numpy_helper
            nodes, inits, last = [], [], "x"
            for i, w in enumerate(nets):
                inits.append(numpy_helper.from_array(w.numpy().T.copy(), f"w{i}"))
                nodes.append(oh.make_node("MatMul", [last, f"w{i}"], [f"z{i}"]))
                last = f"z{i}"
                if i + 1 < len(nets):
                    nodes.append(oh.make_node("Relu", [last], [f"a{i}"]))
                    last = f"a{i}"
            shape = lambda n, d: oh.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [batch, d])
            graph = oh.make_graph(nodes, "net", [shape("x", widths[0])], [shape(last, widths[-1])], inits)
            onnx.save(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 13)], ir_version=8), model)
            import onnxruntime as ort
            o = ort.SessionOptions()
            o.intra_op_num_threads = threads
            session = ort.InferenceSession(model, o, providers=["CPUExecutionProvider"])
            near("ONNX Runtime", session.run(None, {"x": x})[0], want)
            arms["ONNX Runtime dense"] = lambda n: timed(lambda: session.run(None, {"x": x}), n)
        except ImportError as why:
            print("onnxruntime:", why, file=sys.stderr)
        try:
            import deepsparse
            engine = deepsparse.compile_model(model, batch_size=batch, num_cores=threads)
            near("DeepSparse", engine.run([x])[0], want)  # one that answers wrongly does not take part
            arms["DeepSparse"] = lambda n: timed(lambda: engine.run([x]), n)
        except Exception as why:
            print("deepsparse:", why, file=sys.stderr)
            missing.append(f"DeepSparse: {why}")
        times = race(arms, rounds, least)
    nnz.ask(op="forget")
    return dict(widths=widths, density=density, batch=batch, threads=threads, seconds=times, missing=missing,
                over={n: t[1] / times["nnz"][1] for n, t in times.items() if n != "nnz"})


def cases(quick):
    """(kind, arguments) of everything that is raced on one number of threads."""
    if quick:
        return [("layers", (256, 256, 0.05, 128)), ("epochs", ([784, 100, 10], 0.05, 128)),
                ("inference", ([784, 100, 10], 0.05, 1)), ("inference", ([784, 100, 10], 0.05, 8))]
    shapes = [(4096, 4096, 0.1, 128), (4096, 4096, 0.05, 128), (4096, 4096, 0.02, 128), (4096, 4096, 0.01, 128),
              (1024, 1024, 0.1, 128), (1024, 1024, 0.05, 128), (4096, 4096, 0.05, 32), (4096, 4096, 0.05, 8),
              (4096, 4096, 0.05, 1), (1024, 1024, 0.2, 128), (1024, 1024, 0.5, 128)]
    nets = [784, 1000, 1000, 1000, 10], [1024, 4096, 4096, 10]
    return ([("layers", s) for s in shapes] + [("epochs", (nets[0], 0.05, 128))]
            + [("inference", (n, 0.05, b)) for b in (1, 8) for n in nets])


def work(args):
    """One case on one number of threads, in a process of its own, so that every library starts with it."""
    import torch
    threads = args.worker
    torch.set_num_threads(threads)
    nnz, (kind, what) = Nnz(threads), cases(args.quick)[args.case]
    rounds, least = (3, 0.002) if args.quick else (args.rounds, 0.03)
    if kind == "layers":
        out = layer(nnz, threads, *what, rounds, least)
    elif kind == "epochs":
        out = epoch(nnz, threads, *what, rounds, 2 if args.quick else 15)
    else:
        out = inference(nnz, threads, *what, rounds, least)
    over = out["over"] if isinstance(out["over"], dict) else {"torch masked": out["over"]}
    print(f"  {kind} {what}: " + ", ".join(f"{n} {v:.2f}x" for n, v in over.items()), file=sys.stderr, flush=True)
    print(json.dumps(dict(out, load=round(os.getloadavg()[0], 1))))


def cpu():
    for line in open("/proc/cpuinfo") if pathlib.Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def table(head, rows):
    return "\n".join(["| " + " | ".join(r) + " |" for r in [head, ["---"] * len(head)] + rows])


def ms(t):
    return f"{t[1] * 1e3:.3g} ({t[0] * 1e3:.3g}-{t[2] * 1e3:.3g})"


def report(record):
    """The record in Markdown."""
    x = lambda over, n: f"{over[n]:.2f}x" if n in over else "-"
    layers = [l for r in record["runs"].values() for l in r["layers"]]
    peers = ["torch f32", "torch bf16", "torch CSR", "sparseprop"]
    lines = [[f"{l['rows']}x{l['cols']}", str(l["density"]), str(l["batch"]), str(l["threads"]),
              f"{l['step']['nnz'] * 1e3:.3g}", *(x(l["over"], p) for p in peers),
              f"{l['gflops']['forward']:.0f} / {l['gflops']['backward']:.0f}"] for l in layers]
    head = ["layer", "density", "batch", "threads", "nnz step ms", *(f"over {p}" for p in peers), "GFLOP/s fwd / bwd"]
    text = f"""# The race of sparse layers

{record['date']}, {record['cpu']}, {record['cores']} cores, load {record['load'][0]} to {record['load'][1]} at the end of the cases (a
race of n threads adds n itself), `python3 benches/peers/sparse.py`, {record['rounds']} interleaved rounds, medians. Outputs were
compared before times were taken.

Peers: {', '.join(f'{n} {v}' for n, v in record['peers'].items())}.

## One layer

A step is the forward pass, both gradients, and for nnz the refresh of the forward copy of the values. PyTorch's f32 and bf16
products write into buffers that exist, in the faster of both layouts of the weight; its CSR uses `sampled_addmm` for the
gradient of the values. SparseProp's step includes what autograd adds.

{table(head, lines)}

## Training

{table(["model", "density", "threads", "nnz sparse, s an epoch", "nnz masked", "torch masked", "torch / nnz sparse"],
       [[e["model"], str(e["density"]), str(e["threads"])]
        + [f"{e['seconds'][n][1]:.2f} ({e['seconds'][n][0]:.2f}-{e['seconds'][n][2]:.2f})"
           for n in ("nnz sparse", "nnz masked", "torch masked")] + [f"{e['over']:.2f}x"]
        for r in record["runs"].values() for e in r["epochs"]])}

An epoch is 60,000 rows of 784 bytes, normalized batch by batch, SGD with momentum; PyTorch masks gradients and keeps weights
masked.

## One sample, and eight

{table(["widths", "batch", "threads", "nnz ms", "torch f32", "ONNX Runtime dense", "DeepSparse"],
       [["-".join(map(str, i["widths"])), str(i["batch"]), str(i["threads"]), ms(i["seconds"]["nnz"])]
        + [f"{x(i['over'], n)}" for n in ("torch f32", "ONNX Runtime dense", "DeepSparse")]
        for r in record["runs"].values() for i in r["inference"]])}

{" ".join(sorted({m + "." for r in record["runs"].values() for i in r["inference"] for m in i["missing"]}))}
"""
    return text


def main():
    args = options()
    if args.worker:
        return work(args)
    python, peers = prepare(args)
    for name, state in peers.items():
        print(f"{name}: {state}", file=sys.stderr)
    for name in ("numpy", "torch"):
        if peers[name].startswith("does not"):
            raise SystemExit(f"the race needs {name}")
    build = ["cargo", "build", "--release", "--quiet", "-p", "nnz-engine", "--features", "bench", "--example", "sparse_race"]
    subprocess.run(build, cwd=ROOT, check=True)
    runs, loads = {}, []
    wanted = [int(c) for c in args.cases.split(",")] if args.cases else range(len(cases(args.quick)))
    rounds = 3 if args.quick else args.rounds
    record = dict(date=datetime.date.today().isoformat(), cpu=cpu(), cores=os.cpu_count(), load=loads, rounds=rounds,
                  peers=peers, runs=runs)
    out = pathlib.Path(args.out)
    if args.go_on and out.with_suffix(".json").exists():
        before = json.loads(out.with_suffix(".json").read_text())
        runs.update(before["runs"])
        loads += before["load"]
    for threads in map(int, args.threads.split(",")):
        print(f"{threads} threads", file=sys.stderr)
        run = runs.setdefault(str(threads), dict(layers=[], epochs=[], inference=[]))
        env = dict(os.environ, OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
        for i, (kind, _) in enumerate(cases(args.quick)):
            if i not in wanted or any(c["case"] == i for c in run[kind]):
                continue
            again = args.hold.split() + [python, __file__, "--worker", str(threads), "--case", str(i)]
            again += ["--rounds", str(args.rounds)] + ["--quick"] * args.quick
            done = subprocess.run(again, stdout=subprocess.PIPE, text=True, env=env, check=True)
            case = dict(json.loads(done.stdout.splitlines()[-1]), case=i)
            run[kind] = sorted(run[kind] + [case], key=lambda c: c["case"])
            load = case["load"]
            loads[:] = [min([load] + loads), max([load] + loads)]
            if not args.quick:
                out.parent.mkdir(parents=True, exist_ok=True)
                out.with_suffix(".md").write_text(report(record))
                out.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    print(report(record) if args.quick else f"{out}.md")


if __name__ == "__main__":
    main()
