#!/usr/bin/env python3
"""Gradients of networks that PyTorch exported, for GraphNet: goldens/gradients.

Needs torch, onnx and onnxscript. Every network is written as NAME.onnx; index.json holds its loss, its outputs and the gradient of
every parameter, as floats of 32 bits in base64, computed in 64 bits. The networks have the parts of those that they are named
after, with few channels.
"""
import base64, copy, json, math, pathlib, warnings

warnings.filterwarnings("ignore")
import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional as F

out = pathlib.Path(__file__).resolve().parent / "gradients"
out.mkdir(exist_ok=True)
ROWS = 3


def conv_bn(i, o, k, **more):
    return nn.Sequential(nn.Conv2d(i, o, k, padding=k // 2, bias=False, **more), nn.BatchNorm2d(o), nn.ReLU())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, stride=2)
        self.a, self.b = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.down, self.c = nn.Conv2d(6, 8, 1, stride=2), nn.Conv2d(6, 8, 3, stride=2, padding=2, dilation=2)
        self.pool, self.fc = nn.MaxPool2d(3, 2, 1), nn.Linear(8, 4)

    def forward(self, x):
        x = self.pool(F.relu(self.first(x)))
        x = F.relu(x + self.b(F.relu(self.a(x))))
        x = F.relu(self.down(x) + self.c(x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Depthwise(nn.Module):
    """MobileNetV2: inverted residuals with depthwise convolutions, norms kept apart."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU6())
        self.block = nn.Sequential(
            nn.Conv2d(6, 12, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6(),
            nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12), nn.ReLU6(),
            nn.Conv2d(12, 6, 1, bias=False), nn.BatchNorm2d(6),
        )
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.block(x)
        return self.fc(x.mean([2, 3]))


class Vgg(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(conv_bn(3, 5, 3), nn.MaxPool2d(2), conv_bn(5, 8, 3), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Linear(8 * 4, 10), nn.ReLU(), nn.Dropout(), nn.Linear(10, 4))

    def forward(self, x):
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 2).flatten(1))


class Dense(nn.Module):
    """DenseNet: norms before convolutions, all earlier channels concatenated, averages between."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4 + 3 * i) for i in range(2)])
        self.convs = nn.ModuleList([nn.Conv2d(4 + 3 * i, 3, 3, padding=1, bias=False) for i in range(2)])
        self.norm, self.fc = nn.BatchNorm2d(10), nn.Linear(10, 4)

    def forward(self, x):
        x = F.avg_pool2d(self.stem(x), 2)
        for n, c in zip(self.norms, self.convs):
            x = torch.cat([x, c(F.relu(n(x)))], 1)
        return self.fc(F.relu(self.norm(x)).mean([2, 3]))


class Squeeze(nn.Module):
    """SqueezeNet: fire modules, pooling that rounds up, a convolution as classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2)
        self.squeeze, self.one, self.three = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, ceil_mode=True)
        x = F.relu(self.squeeze(x))
        x = torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)
        return F.adaptive_avg_pool2d(F.relu(self.last(x)), 1).flatten(1)


class Shuffle(nn.Module):
    """ShuffleNetV2: channels split, grouped, shuffled."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.a, self.b, self.c = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        left, right = F.relu(self.stem(x)).chunk(2, 1)
        right = F.relu(self.c(self.b(F.relu(self.a(right)))))
        x = torch.cat([left, right], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.fc(x.mean([2, 3]))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, bias=None):
        n, t, d = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(d // self.heads)
        if bias is not None:
            scores = scores + bias
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, d))


class Vit(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, 4)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 10, width))
        self.before, self.attention = nn.LayerNorm(width), Attention(width, 2)
        self.after, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 16), nn.Linear(16, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        x = x + self.attention(self.before(x))
        x = x + self.down(F.gelu(self.up(self.after(x))))
        return self.head(self.norm(x)[:, 0])


class Swin(nn.Module):
    """A Swin block: shifted windows with a table of relative places, under a mask."""

    def __init__(self, width=8, side=6, window=3, shift=1):
        super().__init__()
        self.window, self.shift = window, shift
        self.patch, self.norm = nn.Conv2d(3, width, 2, 2), nn.LayerNorm(width)
        self.attention = Attention(width, 2)
        self.table = nn.Parameter(torch.randn((2 * window - 1) ** 2, 2))
        at = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        apart = (at[:, :, None] - at[:, None]).permute(1, 2, 0) + window - 1
        self.register_buffer("apart", apart[..., 0] * (2 * window - 1) + apart[..., 1])
        zone = torch.zeros(side, side)
        cuts = [slice(0, -window), slice(-window, -shift), slice(-shift, None)]
        for i, a in enumerate(cuts):
            for j, b in enumerate(cuts):
                zone[a, b] = 3 * i + j
        zone = self.cut(zone[None, :, :, None])[..., 0]
        apart = zone[:, None] != zone[:, :, None]
        self.register_buffer("mask", torch.zeros(apart.shape).masked_fill(apart, -100.0))
        self.head = nn.Linear(width, 4)

    def cut(self, x):
        n, h, w, c = x.shape
        s = self.window
        return x.view(n, h // s, s, w // s, s, c).transpose(2, 3).reshape(-1, s * s, c)

    def forward(self, x):
        x = self.patch(x).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        y = self.cut(torch.roll(self.norm(x), (-self.shift, -self.shift), (1, 2)))
        s = self.window * self.window
        bias = self.table[self.apart.view(-1)].view(s, s, -1).permute(2, 0, 1)[None] + self.mask.repeat(n, 1, 1)[:, None]
        y = self.attention(y, bias)
        y = y.view(n, h // self.window, w // self.window, self.window, self.window, c).transpose(2, 3).reshape(n, h, w, c)
        x = x + torch.roll(y, (self.shift, self.shift), (1, 2))
        return self.head(x.mean([1, 2]))


class Unet(nn.Module):
    """Down and up again: a transposed convolution, bilinear and nearest resizing, the earlier channels beside."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.d, self.e = nn.Conv2d(10, 4, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        a = F.relu(self.a(x))
        b = F.leaky_relu(self.b(F.max_pool2d(a, 2)))
        c = F.silu(self.c(F.max_pool2d(b, 2)))
        d = torch.cat([b, F.interpolate(self.d(torch.cat([c, F.interpolate(F.avg_pool2d(a, 4), size=3)], 1)), scale_factor=2, mode="bilinear")], 1)
        u = self.up(d[:, :6])
        return self.e(F.relu(self.norm(torch.cat([a, u], 1)))).permute(0, 2, 3, 1)


class Tagger(nn.Module):
    """Tokens to a class of each: a table, a recurrent layer in both directions, a head."""

    def __init__(self, cell, both):
        super().__init__()
        self.table = nn.Embedding(11, 5)
        self.rnn = cell(5, 4, batch_first=True, bidirectional=both)
        self.head = nn.Linear(8 if both else 4, 3)

    def forward(self, x):
        return self.head(self.rnn(self.table(x))[0])


class Encoder(nn.Module):
    """MiniLM: words and places, a norm after each half of a layer, the mean of the tokens."""

    def __init__(self, width=8):
        super().__init__()
        self.words, self.places = nn.Embedding(11, width), nn.Embedding(7, width)
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, 2)
        self.after, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 16), nn.Linear(16, width)
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, 4)

    def forward(self, x):
        x = self.norm(self.words(x) + self.places(torch.arange(x.shape[1])))
        x = self.after(x + self.attention(x))
        x = self.last(x + self.down(F.gelu(self.up(x))))
        return self.head(torch.tanh(x.mean(1)))


PICTURE, TOKENS = (3, 12, 12), (7,)
# Name, network, extents of a row, exporter (the newer one or the older), whether norms take the statistics of the batch.
CASES = [
    ("mlp", lambda: nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 4)), (12,), True, False),
    ("resnet", Residual, PICTURE, True, False),
    ("mobilenet", Depthwise, PICTURE, True, False),
    ("vgg", Vgg, PICTURE, True, True),
    ("densenet", Dense, PICTURE, True, True),
    ("squeezenet", Squeeze, PICTURE, False, False),
    ("shufflenet", Shuffle, PICTURE, False, False),
    ("vit", Vit, PICTURE, True, False),
    ("swin", Swin, PICTURE, True, False),
    ("unet", Unet, PICTURE, True, False),
    ("lstm", lambda: Tagger(nn.LSTM, True), TOKENS, False, False),
    ("gru", lambda: Tagger(nn.GRU, False), TOKENS, False, False),
    ("minilm", Encoder, TOKENS, True, False),
]


def rows(shape):
    n = ROWS * math.prod(shape)
    if shape == TOKENS:
        return torch.tensor([i * 7 % 11 for i in range(n)]).reshape(ROWS, *shape)
    return torch.tensor([(i * 7919 % 2003) / 1001 - 1 for i in range(n)]).reshape(ROWS, *shape)


def packed(t):
    return base64.b64encode(t.detach().numpy().astype("<f4").tobytes()).decode()


def export(net, x, path, newer):
    if newer:
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.onnx.export(net, (x,), dynamo=True, dynamic_shapes=({0: batch},), optimize=False, verbose=False)
        model = program.model_proto
    else:
        names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "batch"}, "y": {0: "batch"}}}
        torch.onnx.export(net, (x,), str(path), dynamo=False, do_constant_folding=False, **names)
        model = onnx.load(path)
    # What a reader does not need.
    model.doc_string = model.producer_version = ""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    for f in model.functions:
        del f.metadata_props[:], f.value_info[:]
    for n in [*model.graph.node, *(n for f in model.functions for n in f.node)]:
        n.doc_string = ""
        del n.metadata_props[:]
    path.write_bytes(model.SerializeToString())


def main():
    index = {}
    for name, make, shape, newer, training in CASES:
        torch.manual_seed(len(name) * 100 + sum(map(ord, name)))
        net = make()
        for n, p in net.named_parameters():
            # Biases and gains that are not zero and one, so that none is mistaken for another.
            if p.dim() == 1:
                p.data += torch.randn(p.shape) * 0.2
        for n, b in net.named_buffers():
            if "running" in n:
                b.data += torch.rand(b.shape) * 0.3
        net.eval()
        x = rows(shape)
        export(net, x, out / f"{name}.onnx", newer)
        wide = copy.deepcopy(net).double()
        if training:
            for m in wide.modules():
                if isinstance(m, nn.BatchNorm2d):
                    m.train()
        y = wide(x if shape == TOKENS else x.double())
        flat = y.reshape(-1, y.shape[-1])
        labels = torch.arange(len(flat)) % flat.shape[1]
        loss = F.cross_entropy(flat, labels)
        loss.backward()
        index[name] = {
            "row": list(shape), "training": training, "output": list(y.shape), "loss": loss.item(), "y": packed(y),
            "gradients": {n: packed(p.grad) for n, p in wide.named_parameters()},
        }
        print(name, sum(p.numel() for p in net.parameters()), (out / f"{name}.onnx").stat().st_size)
    (out / "index.json").write_text(json.dumps(index, indent=0, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
