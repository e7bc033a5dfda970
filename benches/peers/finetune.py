#!/usr/bin/env python3
"""Fine-tuning a network of another program: a training step of ResNet-18 in nnz and in PyTorch, from the same weights, in turn.

    python3 benches/peers/finetune.py [--nnz target/release/nnz] [--rounds 3] [--threads 1,2] [--side 64] [--steps 8] [--out results/networks.md]

Runs under a Python with PyTorch and NumPy. Weights are random, under torchvision's names; nnz reads the checkpoint and trains the graph
that it makes of it. Both sides train by SGD with momentum, f32, normalization by batch, in batches of 32 random pictures. nnz also
makes its batches and counts its steps; its milliseconds are those of an epoch, the first left out, over its steps, PyTorch's the
median of its steps. Losses after the first epoch say that both train the same network: they must lie within a tenth of each other.
"""
import argparse, json, os, platform, subprocess, sys, tempfile, time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

BATCH, EPOCHS, CLASSES = 32, 3, 10


class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.downsample = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o)) if i != o else None

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        for k, (i, o) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)], 1):
            setattr(self, f"layer{k}", nn.Sequential(Block(i, o, 1 if k == 1 else 2), Block(o, o, 1)))
        self.fc = nn.Linear(512, CLASSES)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for k in range(1, 5):
            x = getattr(self, f"layer{k}")(x)
        return self.fc(x.mean([2, 3]))


def torch_side(work, threads, steps):
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    net = ResNet()
    net.load_state_dict(torch.load(work / "resnet18.pth"))
    net = net.to(memory_format=torch.channels_last)
    data = np.load(work / "pictures.npz")
    x = torch.from_numpy(data["x_train"]).contiguous(memory_format=torch.channels_last)
    y = torch.from_numpy(data["y_train"]).long()
    rule = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True)
    times, losses = [], []
    for _ in range(EPOCHS):
        sum_ = 0.0
        for at in torch.randperm(BATCH * steps).split(BATCH):
            start = time.perf_counter()
            rule.zero_grad(set_to_none=True)
            loss = F.cross_entropy(net(x[at]), y[at])
            loss.backward()
            rule.step()
            sum_ += loss.item()
            times.append(1e3 * (time.perf_counter() - start))
        losses.append(sum_ / steps)
    print(json.dumps({"ms": float(np.median(times[steps:])), "loss": losses[0]}))


RECIPE = """
title = "fine-tuning"
data = "{data}"
model = "{net}"
seeds = [0]

[train]
epochs = {epochs}
batch = {batch}
validation = {validation}
schedule = "constant"
warmup = 0.0
storage = "auto"
prune_head = false
optimizer = {{ name = "sgd", lr = 0.01, momentum = 0.9, nesterov = true, weight_decay = 1e-4 }}

[from]
network = "{net}"
normalize = "raw"

[[arm]]
name = "dense"
"""


def nnz_side(nnz, work, threads, steps):
    with tempfile.TemporaryDirectory(dir=work) as folder:
        run = Path(folder) / "run"
        cmd = [nnz, "run", work / "recipe.toml", "--run-dir", run, "--threads", str(threads), "--json"]
        subprocess.run(cmd, check=True, stdout=subprocess.DEVNULL)
        times = json.loads((run / "timings.json").read_text())
        epochs = json.loads((run / "record.json").read_text())["arms"][0]["seeds"][0]["epochs"]
        return {"ms": 1e3 * float(np.median(times["dense-0"][1:])) / steps, "loss": epochs[0]["loss"]}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--nnz", default="target/release/nnz")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--threads", default="1,2")
    p.add_argument("--side", type=int, default=64)
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--out")
    p.add_argument("--torch-side", nargs=3, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.torch_side:
        return torch_side(Path(a.torch_side[0]), int(a.torch_side[1]), int(a.torch_side[2]))
    nnz = Path(a.nnz).resolve()
    load, rows = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        torch.manual_seed(0)
        torch.save(ResNet().state_dict(), work / "resnet18.pth")
        rng = np.random.default_rng(0)
        # One more batch, of which the validation split is made.
        rows_of = lambda n: rng.standard_normal((n, 3, a.side, a.side)).astype(np.float32)
        labels = lambda n: rng.integers(0, CLASSES, n)
        n = BATCH * a.steps
        np.savez(work / "pictures.npz", x_train=rows_of(n + BATCH), y_train=labels(n + BATCH), x_test=rows_of(BATCH), y_test=labels(BATCH))
        (work / "recipe.toml").write_text(RECIPE.format(
            data=work / "pictures.npz", net=work / "resnet18.pth", epochs=EPOCHS, batch=BATCH, validation=BATCH / (n + BATCH)))
        for threads in map(int, a.threads.split(",")):
            ours, theirs = [], []
            for _ in range(a.rounds):
                cmd = [sys.executable, __file__, "--torch-side", work, str(threads), str(a.steps)]
                env = os.environ | {"OMP_NUM_THREADS": str(threads)}
                theirs.append(json.loads(subprocess.run(cmd, env=env, check=True, capture_output=True).stdout))
                ours.append(nnz_side(nnz, work, threads, a.steps))
            losses = [float(np.median([r["loss"] for r in side])) for side in (theirs, ours)]
            if abs(losses[0] - losses[1]) > 0.1 * losses[0]:
                raise SystemExit(f"losses of the first epoch are {losses}: not the same training")
            ratio = sorted(t["ms"] / o["ms"] for t, o in zip(theirs, ours))
            ms = [float(np.median([r["ms"] for r in side])) for side in (theirs, ours)]
            rows.append((threads, *ms, float(np.median(ratio)), ratio[0], ratio[-1], *losses))
            print("%d threads: PyTorch %.1f ms, nnz %.1f ms, %.2fx (%.2f-%.2f), losses %.3f and %.3f" % rows[-1], flush=True)
    if a.out:
        cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
        lines = ["| threads | PyTorch ms | nnz ms | speed | range | loss, PyTorch | loss, nnz |", "|---|---|---|---|---|---|---|"]
        lines += ["| %d | %.1f | %.1f | %.2fx | %.2f-%.2f | %.3f | %.3f |" % r for r in rows]
        text = f"""# Fine-tuning networks of other programs

{time.strftime('%Y-%m-%d')}, `benches/peers/finetune.py --rounds {a.rounds} --side {a.side} --steps {a.steps}`: {cpu}, {os.cpu_count()} cores, load {load:.1f} at the start,
PyTorch {torch.__version__}. A training step of ResNet-18 with ten classes on 32 pictures of {a.side}x{a.side}, f32, SGD with momentum, channels last on
both sides; speed is PyTorch's time over nnz's, the median of the turns with its range. Losses are the means of the first epoch.

""" + "\n".join(lines) + "\n"
        Path(a.out).write_text(text)


main()
