#!/usr/bin/env python3
"""Dense training against PyTorch: same weights, same data, losses compared, sides in turn, medians.

    python3 benches/peers/dense.py [--rounds 5] [--threads 1,2] [--cases mlp-sgd,..] [--out results/dense-race.md]

Needs nothing but Python and Cargo: PyTorch (CPU) comes from PyPI into a virtual environment under target/.
Every side of every round is a process of its own, so that memory can be compared too. PyTorch gets channels_last for
pictures, fused optimizers, flushed denormals, its fused attention, and an allocator that keeps memory (LD_PRELOAD of
jemalloc where Debian's libjemalloc2 is installed, and glibc told not to give memory back otherwise).
"""
import argparse, json, os, platform, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / "target" / "peers-venv"
WORK = ROOT / "target" / "peers-work"


def enter_venv():
    python = VENV / "bin" / "python"
    if not python.exists():
        print("installing PyTorch into", VENV, file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([VENV / "bin" / "pip", "install", "-q", "torch", "numpy", "safetensors"], check=True)
    if Path(sys.prefix).resolve() != VENV.resolve():
        os.execv(python, [python, *sys.argv])


# --- networks: the same one as a PyTorch module and as a specification of nnz ---------------------------------------


def linear(name, i, o):
    return {"layer": "linear", "name": name, "inputs": i, "outputs": o}


def conv(name, i, o, kernel=3, padding=1, stride=1, bias=True):
    layer = {"layer": "conv2d", "name": name, "inputs": i, "outputs": o, "kernel": kernel, "padding": padding}
    return layer | ({"stride": stride} if stride > 1 else {}) | ({} if bias else {"bias": False})


def norm(name, c):
    return {"layer": "batch-norm", "name": name, "channels": c}


RELU, FLATTEN, POOL = {"layer": "relu"}, {"layer": "flatten"}, {"layer": "max-pool", "size": 2, "padding": 0}


def build(torch, name):
    """Module, specification, names of the module's parameters in nnz's order, shape of a row, batch."""
    nn, F = torch.nn, torch.nn.functional
    if name == "mlp":
        net = nn.Sequential(nn.Linear(784, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10))
        layers = [FLATTEN, linear("fc1", 784, 1024), RELU, linear("fc2", 1024, 1024), RELU, linear("fc3", 1024, 10)]
        pairs = [(f"fc{i + 1}", net[2 * i]) for i in range(3)]
        return net, layers, pairs, (1, 1, 784), 128
    if name == "conv":

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.c1, self.c2 = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
                self.f1, self.f2 = nn.Linear(64 * 49, 128), nn.Linear(128, 10)

            def forward(self, x):
                x = F.max_pool2d(F.relu(self.c1(x)), 2)
                x = F.max_pool2d(F.relu(self.c2(x)), 2)
                # Channels last, as the picture lies in memory.
                x = x.permute(0, 2, 3, 1).flatten(1)
                return self.f2(F.relu(self.f1(x)))

        net = Net()
        layers = [conv("conv1", 1, 32), RELU, POOL, conv("conv2", 32, 64), RELU, POOL, FLATTEN]
        layers += [linear("fc1", 64 * 49, 128), RELU, linear("fc2", 128, 10)]
        return net, layers, [("conv1", net.c1), ("conv2", net.c2), ("fc1", net.f1), ("fc2", net.f2)], (1, 28, 28), 128
    if name == "resnet20":
        pairs = []

        def cn(n, i, o, k, s):
            c, b = nn.Conv2d(i, o, k, s, k // 2, bias=False), nn.BatchNorm2d(o)
            pairs.extend([(n, c), (f"{n}.norm", b)])
            return nn.Sequential(c, b), [conv(n, i, o, k, k // 2, s, False), norm(f"{n}.norm", o)]

        class Block(nn.Module):
            def __init__(self, a, b, short):
                super().__init__()
                self.a, self.b, self.short = a, b, short

            def forward(self, x):
                y = self.b(F.relu(self.a(x)))
                return F.relu(y + (self.short(x) if self.short is not None else x))

        stem, layers = cn("conv1", 3, 16, 3, 1)
        parts, layers, before = [stem, nn.ReLU()], layers + [RELU], 16
        for stage, width in enumerate([16, 32, 64]):
            for block in range(3):
                n, stride = f"stage{stage + 1}.{block}", 2 if stage and not block else 1
                a, la = cn(f"{n}.conv1", before, width, 3, stride)
                b, lb = cn(f"{n}.conv2", width, width, 3, 1)
                short, ls = (None, [])
                if before != width or stride > 1:
                    short, ls = cn(f"{n}.shortcut", before, width, 1, stride)
                parts.append(Block(a, b, short))
                layers += [{"layer": "residual", "name": n, "body": la + [RELU] + lb, "shortcut": ls}, RELU]
                before = width
        net = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
        layers += [{"layer": "global-avg-pool"}, linear("fc", 64, 10)]
        return net, layers, pairs + [("fc", net[-1])], (3, 32, 32), 128
    if name == "transformer":
        width, depth, heads, tokens, vocabulary = 256, 4, 8, 128, 1000

        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.n1, self.n2 = nn.LayerNorm(width), nn.LayerNorm(width)
                self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
                self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

            def forward(self, x):
                b, t, _ = x.shape
                q, k, v = self.qkv(self.n1(x)).view(b, t, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                x = x + self.out(y.transpose(1, 2).reshape(b, t, width))
                return x + self.down(F.gelu(self.up(self.n2(x))))

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.embed = nn.Embedding(vocabulary, width)
                self.place = nn.Parameter(0.02 * torch.randn(tokens, width))
                self.blocks = nn.Sequential(*[Block() for _ in range(depth)])
                self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

            def forward(self, x):
                x = self.blocks(self.embed(x.view(x.shape[0], tokens)) + self.place)
                return self.head(self.norm(x).mean(1))

        net = Net()
        layers = [FLATTEN, {"layer": "embedding", "name": "embedding", "vocabulary": vocabulary, "width": width}]
        layers += [{"layer": "positions", "name": "positions", "length": tokens, "width": width}]
        pairs = [("embedding", net.embed), ("positions", net.place)]
        for i, block in enumerate(net.blocks):
            n = f"block{i + 1}"
            ln = lambda part: {"layer": "layer-norm", "name": f"{n}.{part}", "width": width}
            att = {"layer": "attention", "name": f"{n}.attention", "width": width, "heads": heads, "causal": True}
            layers += [{"layer": "residual", "name": f"{n}.mix", "body": [ln("norm1"), att]}]
            think = [ln("norm2"), linear(f"{n}.up", width, 4 * width), {"layer": "activation", "function": "gelu"}]
            layers += [{"layer": "residual", "name": f"{n}.think", "body": think + [linear(f"{n}.down", 4 * width, width)]}]
            pairs += [(f"{n}.norm1", block.n1), (f"{n}.attention", (block.qkv, block.out)), (f"{n}.norm2", block.n2)]
            pairs += [(f"{n}.up", block.up), (f"{n}.down", block.down)]
        layers += [{"layer": "layer-norm", "name": "norm", "width": width}, {"layer": "global-avg-pool"}, linear("head", width, 10)]
        return net, layers, pairs + [("norm", net.norm), ("head", net.head)], (1, 1, tokens), 16
    raise SystemExit(f"no network named {name}")


def weights(torch, pairs):
    """The module's parameters under nnz's names and layouts."""
    nn, out = torch.nn, {}
    for name, m in pairs:
        if isinstance(m, nn.Parameter):
            out[f"{name}.weight"] = m
        elif isinstance(m, tuple):
            for part, w, b in zip(["query", "key", "value"], m[0].weight.chunk(3), m[0].bias.chunk(3)):
                out[f"{name}.{part}.weight"], out[f"{name}.{part}.bias"] = w, b
            out[f"{name}.output.weight"], out[f"{name}.output.bias"] = m[1].weight, m[1].bias
        else:
            out[f"{name}.weight"] = m.weight.permute(0, 2, 3, 1).flatten(1) if isinstance(m, nn.Conv2d) else m.weight
            if getattr(m, "bias", None) is not None:
                out[f"{name}.bias"] = m.bias
    return {k: v.detach().contiguous().clone() for k, v in out.items()}


CASES = {
    "mlp-sgd": ("mlp", "sgd"), "mlp-adam": ("mlp", "adam"), "conv-adam": ("conv", "adam"),
    "resnet20-sgd": ("resnet20", "sgd"), "transformer-adamw": ("transformer", "adamw"),
}
RULES = {
    "sgd": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0},
    "adam": {"name": "adam", "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0},
    "adamw": {"name": "adamw", "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0},
}


def case(torch, name):
    torch.manual_seed(0)
    net, layers, pairs, shape, batch = build(torch, CASES[name][0])
    data = torch.randn(batch, *shape)
    if CASES[name][0] == "transformer":
        data = torch.randint(0, 1000, (batch, *shape)).float()
    labels = torch.randint(0, 10, (batch,))
    return net, layers, pairs, shape, data, labels


def write_case(name):
    import torch
    from safetensors.torch import save_file

    net, layers, pairs, (c, h, w), data, labels = case(torch, name)
    tensors = weights(torch, pairs)
    tensors["data"] = data.permute(0, 2, 3, 1).flatten(1).contiguous()
    tensors["labels"] = labels.int()
    model = {"name": name, "input": [c, h, w], "layers": layers}
    meta = {"model": json.dumps(model), "optimizer": json.dumps(RULES[CASES[name][1]])}
    save_file(tensors, WORK / f"{name}.safetensors", metadata=meta)


def torch_side(name, threads, steps):
    import torch

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    net, _, _, _, data, labels = case(torch, name)
    if data.shape[1] > 1 or data.shape[2] > 1:
        net, data = net.to(memory_format=torch.channels_last), data.contiguous(memory_format=torch.channels_last)
    if CASES[name][0] == "transformer":
        data = data.long()
    if CASES[name][0] == "mlp":
        data = data.flatten(1)
    r = RULES[CASES[name][1]]
    if r["name"] == "sgd":
        rule = torch.optim.SGD(net.parameters(), r["lr"], momentum=r["momentum"], fused=True)
    elif r["name"] == "adam":
        rule = torch.optim.Adam(net.parameters(), r["lr"], fused=True)
    else:
        rule = torch.optim.AdamW(net.parameters(), r["lr"], weight_decay=0.0, fused=True)
    losses, times = [], []
    for _ in range(steps):
        start = time.perf_counter()
        loss = torch.nn.functional.cross_entropy(net(data), labels)
        losses.append(loss.item())
        rule.zero_grad(set_to_none=True)
        loss.backward()
        rule.step()
        times.append(1e3 * (time.perf_counter() - start))
    status = Path("/proc/self/status").read_text()
    peak = float(next(l for l in status.splitlines() if l.startswith("VmHWM")).split()[1]) / 1024
    print(json.dumps({"losses": losses, "ms": times, "peak_mb": peak}))


def median(x):
    x = sorted(x)
    return (x[len(x) // 2] + x[(len(x) - 1) // 2]) / 2


def environment():
    env = dict(os.environ)
    for key in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        env.pop(key, None)
    for lib in Path("/usr/lib").glob("*/libjemalloc.so.2"):
        env |= {"LD_PRELOAD": str(lib), "MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1"}
    env |= {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "4294967296"}
    return env


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", default="1,2")
    p.add_argument("--cases", default=",".join(CASES))
    p.add_argument("--out")
    p.add_argument("--torch-side", nargs=3, help=argparse.SUPPRESS)
    a = p.parse_args()
    enter_venv()
    if a.torch_side:
        return torch_side(a.torch_side[0], int(a.torch_side[1]), int(a.torch_side[2]))
    WORK.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cargo", "build", "--quiet", "--release", "-p", "nnz-engine", "--features", "bench", "--example", "race"], cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    race, env = target / "release" / "examples" / "race", environment()
    import torch

    load, rows = os.getloadavg()[0], []
    for name in a.cases.split(","):
        write_case(name)
        for threads in map(int, a.threads.split(",")):
            steps = 60 if name.startswith("mlp") else 24
            ours, theirs = [], []
            for _ in range(a.rounds):
                for sides, cmd in (
                    (theirs, [sys.executable, __file__, "--torch-side", name, str(threads), str(steps)]),
                    (ours, [race, WORK / f"{name}.safetensors", str(threads), str(steps)]),
                ):
                    e = env | {"OMP_NUM_THREADS": str(threads)} if sides is theirs else env
                    if sides is ours:
                        e = {k: v for k, v in e.items() if k != "LD_PRELOAD"}
                    sides.append(json.loads(subprocess.run(cmd, env=e, check=True, capture_output=True).stdout))
            warm = steps // 4
            ms = lambda side: [median(r["ms"][warm:]) for r in side]
            mo, mt = ms(ours), ms(theirs)
            # Later steps amplify rounding: training is chaotic.
            early = max(abs(x - y) / abs(y) for x, y in zip(ours[0]["losses"][:3], theirs[0]["losses"][:3]))
            if early > 1e-3:
                print(ours[0]["losses"][:3], theirs[0]["losses"][:3], file=sys.stderr)
                raise SystemExit(f"{name}: losses of the first three steps differ by {early:.1e}: not the same training")
            ratio = [t / o for t, o in zip(mt, mo)]
            row = (name, threads, median(mt), median(mo), median(ratio), min(ratio), max(ratio), early,
                   median([r["peak_mb"] for r in theirs]), median([r["peak_mb"] for r in ours]))
            rows.append(row)
            print("%-18s %d threads: PyTorch %.2f ms, nnz %.2f ms, %.2fx (%.2f-%.2f), losses within %.0e, memory %.0f and %.0f MB" % row, flush=True)
    if a.out:
        cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
        lines = ["| case | threads | PyTorch ms | nnz ms | speed | range | PyTorch MB | nnz MB |", "|---|---|---|---|---|---|---|---|"]
        lines += [f"| {n} | {t} | {b:.2f} | {o:.2f} | {r:.2f}x | {lo:.2f}-{hi:.2f} | {pm:.0f} | {om:.0f} |" for n, t, b, o, r, lo, hi, _, pm, om in rows]
        text = f"""# Dense training against PyTorch

{time.strftime('%Y-%m-%d')}, `python3 benches/peers/dense.py --rounds {a.rounds}`: {cpu}, {os.cpu_count()} cores, load {load:.1f} at the start, PyTorch
{torch.__version__}, f32 on both sides. Milliseconds of a whole training step (forward, backward, update), median over steps
and rounds, sides in turn; speed is PyTorch's time over ours, with the range over rounds. Losses of the first three steps agree
within {max(r[7] for r in rows):.0e}. Memory is the most a process held.

""" + "\n".join(lines) + "\n"
        Path(a.out).write_text(text)


main()
