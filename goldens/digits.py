#!/usr/bin/env python3
"""A network for digits as a stranger would train and export it: goldens/digits.onnx. Needs torch, onnx and onnxscript.

It is trained on data/mnist10k for a minute, on bytes divided by 255, and exported with a batch of one, as torch.onnx.export does by
default. With names of files, `digits.py NET.onnx OTHER.onnx ..`, it prints instead what ONNX Runtime answers: the accuracy of each on
the test rows, and how far the answers of the others lie from those of the first. A file `answers.npy` stands for its own.
"""
import gzip, pathlib, sys, warnings

warnings.filterwarnings("ignore")
import numpy as np

here = pathlib.Path(__file__).resolve().parent


def rows(name):
    read = lambda part, skip: np.frombuffer(gzip.open(here.parent / "data/mnist10k" / f"{name}-{part}-ubyte.gz").read(), np.uint8, offset=skip)
    return read("images-idx3", 16).reshape(-1, 1, 28, 28).astype(np.float32) / 255, read("labels-idx1", 8).astype(np.int64)


def answers(path, x):
    if path.endswith(".npy"):
        return np.load(path)
    import onnxruntime as ort

    net = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    port = net.get_inputs()[0]
    step = port.shape[0] if isinstance(port.shape[0], int) else len(x)
    x = x.reshape(len(x), *port.shape[1:])
    return np.concatenate([net.run(None, {port.name: x[i : i + step]})[0] for i in range(0, len(x), step)])


def judge(paths):
    x, labels = rows("t10k")
    first = None
    for path in paths:
        y = answers(path, x)
        first = y if first is None else first
        print(f"{path}: accuracy {100 * (y.argmax(1) == labels).mean():.2f}%, {np.abs(y - first).max():.2e} from the first")


def main():
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Digits(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm = nn.Conv2d(1, 6, 5, 2, 2, bias=False), nn.BatchNorm2d(6)
            self.deep, self.mix = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 6, 1)
            self.wide = nn.Conv2d(6, 12, 3, 2, 1)
            self.hidden, self.head = nn.Linear(12 * 9, 24), nn.Linear(24, 10)

        def forward(self, x):
            x = F.relu(self.norm(self.stem(x)))
            x = F.relu(x + self.mix(self.deep(x)))
            x = F.max_pool2d(F.relu(self.wide(x)), 2)
            return self.head(F.relu(self.hidden(x.view(x.size(0), -1))))

    torch.manual_seed(7)
    net = Digits()
    x, labels = map(torch.from_numpy, rows("train"))
    rule = torch.optim.Adam(net.parameters(), 0.003)
    for epoch in range(8):
        for at in torch.randperm(len(x)).split(64):
            rule.zero_grad()
            F.cross_entropy(net(x[at]), labels[at]).backward()
            rule.step()
    net.eval()
    model = torch.onnx.export(net, (x[:1],), dynamo=True, verbose=False).model_proto
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    for n in model.graph.node:
        del n.metadata_props[:]
    (here / "digits.onnx").write_bytes(model.SerializeToString())


if __name__ == "__main__":
    judge(sys.argv[1:]) if sys.argv[1:] else main()
