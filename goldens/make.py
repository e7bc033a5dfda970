#!/usr/bin/env python3
"""Writes reference vectors with PyTorch: inputs, weights, outputs, gradients of ops and layers.

    python3 -m venv venv && venv/bin/pip install torch numpy && venv/bin/python goldens/make.py

Each case is a JSON object: `tensors` by name (shape and values), `output`, and `gradients` of the sum of `output * seed`
with respect to the tensors named there. Layouts are those of nnz: pictures and sequences have their channels last, a
kernel is `[out, kernel * in]`. Computed in f64; numbers carry 12 significant digits.
"""

import json
import pathlib

import torch
import torch.nn.functional as F

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
CASES = {}


def pack(t):
    return {"shape": list(t.shape), "data": [float(f"{v:.12g}") for v in t.detach().reshape(-1).tolist()]}


def rounded(t):
    """What the file will hold, so that both sides compute with the same numbers."""
    data = [float(f"{v:.12g}") for v in t.detach().reshape(-1).tolist()]
    return torch.tensor(data).reshape(t.shape)


def case(name, f, constant=(), **tensors):
    leaves = {k: rounded(t).requires_grad_(k not in constant) for k, t in tensors.items()}
    y = f(**leaves)
    seed = rounded(torch.randn(y.shape))
    (y * seed).sum().backward()
    CASES[name] = {
        "tensors": {k: pack(t) for k, t in leaves.items()},
        "seed": pack(seed),
        "output": pack(y),
        "gradients": {k: pack(t.grad) for k, t in leaves.items() if t.grad is not None},
    }


def r(*shape):
    return torch.randn(*shape)


def first(x):
    """Channels last to channels first."""
    return x.movedim(-1, 1)


def last(x):
    return x.movedim(1, -1)


def kernel(w, channels, *extents):
    """`[out, kernel * in]` to PyTorch's `[out, in, kernel]`."""
    return w.reshape(w.shape[0], *extents, channels).movedim(-1, 1)


def main():
    x = r(3, 5) * 2
    case("gelu", lambda x: F.gelu(x), x=x)
    case("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), x=x)
    case("silu", lambda x: F.silu(x), x=x)
    case("elu", lambda x: F.elu(x), x=x)
    case("softplus", lambda x: F.softplus(x), x=x)
    case("hardswish", lambda x: F.hardswish(x), x=x)
    case("leaky_relu", lambda x: F.leaky_relu(x, 0.1), x=x)
    case("softmax", lambda x: F.softmax(x, -1), x=x)
    case("log_softmax", lambda x: F.log_softmax(x, -1), x=x)
    case("linear", lambda x, w, b: F.linear(x, w, b), x=x, w=r(4, 5), b=r(4))
    case("cumsum", lambda x: x.cumsum(1), x=x)
    case("variance", lambda x: x.var((0, 2), correction=0), x=r(2, 3, 4))

    case("conv1d", lambda x, w, b: last(F.conv1d(first(x), kernel(w, 2, 3), b, stride=2, padding=1)),
         x=r(2, 7, 2), w=r(3, 6), b=r(3))
    case("conv2d", lambda x, w, b: last(F.conv2d(first(x), kernel(w, 3, 3, 2), b, stride=(2, 1), padding=(1, 0), dilation=(1, 2))),
         x=r(2, 6, 5, 3), w=r(4, 18), b=r(4))
    case("conv2d_groups", lambda x, w, b: last(F.conv2d(first(x), kernel(w, 2, 3, 3), b, padding=1, groups=2)),
         x=r(2, 4, 4, 4), w=r(6, 18), b=r(6))
    case("conv2d_depthwise", lambda x, w, b: last(F.conv2d(first(x), kernel(w, 1, 3, 3), b, stride=2, padding=1, groups=4)),
         x=r(2, 5, 5, 4), w=r(4, 9), b=r(4))
    case("conv3d", lambda x, w, b: last(F.conv3d(first(x), kernel(w, 2, 2, 1, 3), b, padding=(0, 1, 1))),
         x=r(1, 3, 2, 4, 2), w=r(2, 12), b=r(2))
    case("conv_transposed", lambda x, w, b: last(F.conv_transpose2d(
        first(x), kernel(w, 3, 3, 2), b, stride=2, padding=(1, 0), output_padding=(1, 0))),
        x=r(2, 3, 4, 4), w=r(4, 18), b=r(3))
    case("conv_transposed_groups", lambda x, w, b: last(F.conv_transpose2d(first(x), kernel(w, 3, 2, 2), b, stride=2, groups=2)),
         x=r(2, 3, 2, 4), w=r(4, 12), b=r(6))
    case("max_pool", lambda x: last(F.max_pool2d(first(x), 3, stride=2, padding=1)), x=r(2, 5, 6, 3))
    case("avg_pool", lambda x: last(F.avg_pool2d(first(x), 3, stride=2, padding=1)), x=r(2, 5, 6, 3))
    case("upsample_linear", lambda x: last(F.interpolate(first(x), size=(5, 7), mode="bilinear", align_corners=False)),
         x=r(1, 3, 4, 2))
    case("upsample_nearest", lambda x: last(F.interpolate(first(x), scale_factor=2, mode="nearest")), x=r(1, 3, 4, 2))

    case("layer_norm", lambda x, g, b: F.layer_norm(x, (5,), g, b, 1e-5), x=r(2, 3, 5), g=r(5), b=r(5))
    case("rms_norm", lambda x, g: F.rms_norm(x, (5,), g, 1e-6), x=r(2, 3, 5), g=r(5))
    case("group_norm", lambda x, g, b: last(F.group_norm(first(x), 2, g, b, 1e-5)), x=r(2, 3, 3, 4), g=r(4), b=r(4))
    case("batch_norm", lambda x, g, b: last(F.batch_norm(first(x), None, None, g, b, True, 0.1, 1e-5)),
         x=r(3, 2, 3, 4), g=r(4), b=r(4))
    mean, var = torch.zeros(4), torch.ones(4)
    x = rounded(r(3, 2, 3, 4))
    F.batch_norm(first(x), mean, var, None, None, True, 0.1, 1e-5)
    CASES["running_statistics"] = {"tensors": {"x": pack(x)}, "mean": pack(mean), "variance": pack(var)}

    def attend(q, k, v, **options):
        heads = [t.transpose(1, 2) for t in (q, k, v)]
        return F.scaled_dot_product_attention(*heads, **options).transpose(1, 2)

    case("attention", lambda q, k, v: attend(q, k, v), q=r(2, 3, 4, 2), k=r(2, 5, 4, 2), v=r(2, 5, 4, 2))
    case("attention_causal_grouped", lambda q, k, v: attend(q, k, v, is_causal=True, enable_gqa=True),
         q=r(2, 4, 4, 2), k=r(2, 4, 2, 2), v=r(2, 4, 2, 2))
    keys = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 1]], dtype=torch.bool)
    case("attention_keys", lambda q, k, v: attend(q, k, v, attn_mask=keys[:, None, None, :]),
         q=r(2, 3, 2, 2), k=r(2, 4, 2, 2), v=r(2, 4, 2, 2))
    case("embedding", lambda w: F.embedding(torch.tensor([3, 1, 1]), w), w=r(4, 3))

    def lstm(x, h, c, wx, wh, bx, bh):
        cell = torch.func.functional_call(torch.nn.LSTMCell(3, 2), dict(weight_ih=wx, weight_hh=wh, bias_ih=bx, bias_hh=bh), (x, (h, c)))
        return torch.cat(cell, 1)

    def gru(x, h, wx, wh, bx, bh):
        return torch.func.functional_call(torch.nn.GRUCell(3, 2), dict(weight_ih=wx, weight_hh=wh, bias_ih=bx, bias_hh=bh), (x, h))

    case("lstm", lstm, x=r(2, 3), h=r(2, 2), c=r(2, 2), wx=r(8, 3), wh=r(8, 2), bx=r(8), bh=r(8))
    case("gru", gru, x=r(2, 3), h=r(2, 2), wx=r(6, 3), wh=r(6, 2), bx=r(6), bh=r(6))

    labels = torch.tensor([2, 0, 3])
    z = r(3, 4)
    case("cross_entropy", lambda z: F.cross_entropy(z, labels).reshape(1), z=z)
    case("cross_entropy_smooth", lambda z: F.cross_entropy(z, labels, label_smoothing=0.1).reshape(1), z=z)
    case("mse", lambda z, t: F.mse_loss(z, t).reshape(1), z=z, t=r(3, 4))
    case("kl", lambda q, p: F.kl_div(F.log_softmax(q, -1), F.log_softmax(p, -1), reduction="batchmean", log_target=True).reshape(1),
         p=r(3, 4), q=r(3, 4))
    case("bce", lambda z, t: F.binary_cross_entropy_with_logits(z, t).reshape(1), constant=("t",), z=z, t=torch.rand(3, 4))
    # PyTorch divides the sum over wrong classes by the number of classes.
    case("hinge", lambda z: 4 * F.multi_margin_loss(z, labels).reshape(1), z=z)

    for name, make in [
        ("adamw", lambda p: torch.optim.AdamW([p], lr=0.1, weight_decay=0.3)),
        ("adam", lambda p: torch.optim.Adam([p], lr=0.1, weight_decay=0.3)),
        ("sgd", lambda p: torch.optim.SGD([p], lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.3)),
    ]:
        start, gradients = rounded(r(4)), [rounded(r(4)) for _ in range(3)]
        p = start.clone().requires_grad_()
        optimizer = make(p)
        for g in gradients:
            p.grad = g.clone()
            optimizer.step()
        CASES[name] = {"tensors": {"start": pack(start), **{f"g{i}": pack(g) for i, g in enumerate(gradients)}}, "output": pack(p)}

    # Added later: behind the others, whose random numbers stay as they were.
    def transform(f):
        return lambda x: torch.view_as_real(f(torch.view_as_complex(x.contiguous())))

    case("fft", transform(torch.fft.fft), x=r(2, 5, 2))
    case("fft_inverse", transform(lambda z: torch.fft.ifft(z, norm="forward")), x=r(2, 6, 2))
    case("rfft", lambda x: torch.view_as_real(torch.fft.rfft(x)), x=r(2, 7))
    case("irfft_odd", lambda x: torch.fft.irfft(torch.view_as_complex(x.contiguous()), n=5), x=r(2, 3, 2))
    case("irfft_even", lambda x: torch.fft.irfft(torch.view_as_complex(x.contiguous()), n=6), x=r(2, 4, 2))

    def sequence(layer):
        def run(x, wx, bx, wh, bh):
            weights = dict(weight_ih_l0=wx, bias_ih_l0=bx, weight_hh_l0=wh, bias_hh_l0=bh)
            return torch.func.functional_call(layer(3, 2, batch_first=True), weights, (x,))[0]
        return run

    case("rnn_layer", sequence(torch.nn.RNN), constant=("bh",), x=r(2, 4, 3), wx=r(2, 3), bx=r(2), wh=r(2, 2), bh=torch.zeros(2))
    case("lstm_layer", sequence(torch.nn.LSTM), constant=("bh",), x=r(2, 4, 3), wx=r(8, 3), bx=r(8), wh=r(8, 2), bh=torch.zeros(8))
    case("gru_layer", sequence(torch.nn.GRU), x=r(2, 4, 3), wx=r(6, 3), bx=r(6), wh=r(6, 2), bh=r(6))
    case("conv_transposed1d", lambda x, w, b: last(F.conv_transpose1d(
        first(x), kernel(w, 3, 4), b, stride=3, padding=1, output_padding=2, dilation=2)), x=r(2, 4, 2), w=r(2, 12), b=r(3))
    case("conv_transposed3d", lambda x, w, b: last(F.conv_transpose3d(first(x), kernel(w, 3, 2, 2, 2), b, stride=2)),
         x=r(1, 2, 1, 2, 2), w=r(2, 24), b=r(3))

    path = pathlib.Path(__file__).with_name("ops.json")
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in CASES.items())
    path.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
