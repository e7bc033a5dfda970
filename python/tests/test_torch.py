"""`nnz.torch` against dense layers with masks, in the same words: values, gradients, resumed runs, refusals."""

import copy
import doctest
import io
import math
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nnz.torch as nt
from nnz._nnz import Rewiring, SparseLayer, gather, keep_masked, scatter
from nnz.torch import _compile, _prune, _weights


def sparse_weights(layer, density, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        layer.weight.mul_(torch.rand(layer.weight.shape, generator=generator) < density)
    return layer


def pair(density=0.2, dtype=torch.float64, **conv):
    """A dense layer with zeros, and a sparse copy."""
    torch.manual_seed(1)
    dense = nn.Conv2d(**conv) if conv else nn.Linear(13, 9)
    dense = sparse_weights(dense.to(dtype), density)
    return dense, nt.compile(copy.deepcopy(dense), density=1.0)


CONVS = [
    dict(in_channels=3, out_channels=5, kernel_size=3),
    dict(in_channels=4, out_channels=6, kernel_size=(3, 2), stride=(2, 1), padding=(1, 2), groups=2),
    dict(in_channels=4, out_channels=4, kernel_size=3, padding=2, dilation=2, groups=4, bias=False),
    dict(in_channels=2, out_channels=3, kernel_size=(2, 4), padding="same", dilation=(1, 2)),
    dict(in_channels=2, out_channels=3, kernel_size=3, padding=1, stride=3, padding_mode="reflect"),
    dict(in_channels=2, out_channels=3, kernel_size=3, padding=(2, 1), padding_mode="circular"),
    dict(in_channels=2, out_channels=3, kernel_size=5, padding=6, stride=4, dilation=2),
    dict(in_channels=6, out_channels=7, kernel_size=1),
]


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 64, 70])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_linear_layer_equals_the_dense_one(batch, dtype):
    dense, sparse = pair(dtype=dtype)
    assert isinstance(sparse, nt.SparseLinear)
    x = torch.randn(batch, 13, dtype=dtype, requires_grad=True)
    z = x.detach().clone().requires_grad_()
    close = dict(rtol=1e-5, atol=1e-5) if dtype is torch.float32 else dict(rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sparse(z), dense(x), **close)
    g = torch.randn(batch, 9, dtype=dtype)
    dense(x).backward(g)
    sparse(z).backward(g)
    torch.testing.assert_close(z.grad, x.grad, **close)
    torch.testing.assert_close(sparse.bias.grad, dense.bias.grad, **close)
    torch.testing.assert_close(sparse.values.grad, dense.weight.grad.reshape(-1)[sparse.positions], **close)
    with torch.no_grad():
        torch.testing.assert_close(sparse(z), dense(x), **close)


@pytest.mark.parametrize("form", CONVS, ids=str)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_a_convolution_equals_the_dense_one(form, batch):
    dense, sparse = pair(0.4, **form)
    assert isinstance(sparse, nt.SparseConv2d)
    x = torch.randn(batch, form["in_channels"], 11, 9, dtype=torch.float64, requires_grad=True)
    if batch == 0 and form.get("padding_mode", "zeros") != "zeros":
        pytest.skip("torch does not pad an empty batch")
    z = x.detach().clone().requires_grad_()
    torch.testing.assert_close(sparse(z), dense(x))
    g = torch.randn_like(dense(x))
    dense(x).backward(g)
    sparse(z).backward(g)
    torch.testing.assert_close(z.grad, x.grad)
    torch.testing.assert_close(sparse.values.grad, dense.weight.grad.reshape(-1)[sparse.positions])
    if dense.bias is not None:
        torch.testing.assert_close(sparse.bias.grad, dense.bias.grad)
    if batch:
        torch.testing.assert_close(sparse(z[0]), dense(x[0]))


def test_images_that_do_not_fit_one_block_of_patches():
    dense, sparse = pair(0.1, in_channels=32, out_channels=8, kernel_size=3, padding=1)
    x = torch.randn(9, 32, 30, 31, dtype=torch.float64, requires_grad=True)
    z = x.detach().clone().requires_grad_()
    g = torch.randn(9, 8, 30, 31, dtype=torch.float64)
    dense(x).backward(g)
    sparse(z).backward(g)
    torch.testing.assert_close(sparse(z), dense(x))
    torch.testing.assert_close(z.grad, x.grad)
    torch.testing.assert_close(sparse.values.grad, dense.weight.grad.reshape(-1)[sparse.positions])


@pytest.mark.parametrize("form", [{}, CONVS[1], CONVS[3], CONVS[4]], ids=str)
def test_gradients_pass_gradcheck_and_so_do_their_gradients(form):
    _, sparse = pair(0.3, **form)
    x = torch.randn((2, form["in_channels"], 6, 5) if form else (3, 13), dtype=torch.float64, requires_grad=True)

    def f(x, values, bias):
        return torch.func.functional_call(sparse, {"values": values, "bias": bias}, (x,))

    inputs = (x, sparse.values.detach().clone().requires_grad_(), sparse.bias.detach().clone().requires_grad_())
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize("wanted", range(8))
@pytest.mark.parametrize("form", [{}, CONVS[0]], ids=str)
def test_any_choice_of_gradients(wanted, form):
    _, sparse = pair(**form)
    x = torch.randn((2, 3, 6, 5) if form else (3, 13), dtype=torch.float64, requires_grad=bool(wanted & 1))
    sparse.values.requires_grad_(bool(wanted & 2))
    sparse.bias.requires_grad_(bool(wanted & 4))
    y = sparse(x)
    assert y.requires_grad == (wanted > 0)
    if wanted:
        y.sum().backward()
    for tensor, bit in ((x, 1), (sparse.values, 2), (sparse.bias, 4)):
        assert (tensor.grad is not None) == bool(wanted & bit)


def test_no_array_is_copied_on_the_way():
    class Spy:
        def __init__(self, layer):
            self.layer, self.seen = layer, []

        def forward(self, values, x, bias, y, keep=False):
            self.seen += [values.ctypes.data, x.ctypes.data, bias.ctypes.data, y.ctypes.data]
            return self.layer.forward(values, x, bias, y, keep)

    _, sparse = pair(dtype=torch.float32)
    spy = sparse._layer = Spy(sparse._kernel())
    x = torch.randn(8, 13)
    with torch.no_grad():
        y = sparse(x)
        assert spy.seen == [t.data_ptr() for t in (sparse.values, x, sparse.bias, y)]
        # Values that moved are found where they are.
        sparse.values = nn.Parameter(sparse.values * 2)
        moved = sparse(x)
    assert spy.seen[4:] == [t.data_ptr() for t in (sparse.values, x, sparse.bias, moved)]
    torch.testing.assert_close(moved - sparse.bias, 2 * (y - sparse.bias))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_inputs_of_any_layout_give_the_same(data):
    _, sparse = pair()
    lead = data.draw(st.lists(st.integers(0, 4), max_size=3))
    x = torch.randn(*lead, 13, dtype=torch.float64)
    kind = data.draw(st.sampled_from(["plain", "transposed", "strided", "expanded"]))
    if kind == "transposed":
        y = x.transpose(0, -1).contiguous().transpose(0, -1)
    elif kind == "strided":
        y = torch.randn(*lead, 26, dtype=torch.float64)[..., ::2]
        y.copy_(x)
    elif kind == "expanded":
        x = x[..., :1].expand(*lead, 13)
        y = x
    else:
        y = x
    torch.testing.assert_close(sparse(y), F.linear(x, sparse.weight, sparse.bias))


def test_channels_last_images():
    dense, sparse = pair(0.4, **CONVS[0])
    x = torch.randn(2, 3, 8, 7, dtype=torch.float64).to(memory_format=torch.channels_last)
    torch.testing.assert_close(sparse(x), dense(x))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_wrong_inputs_get_one_sentence(data):
    linear = data.draw(st.booleans())
    _, layer = pair(dtype=torch.float32) if linear else pair(dtype=torch.float32, **CONVS[0])
    dtype = data.draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64]))
    right = (4, 13) if linear else (2, 3, 6, 6)
    wrong = data.draw(st.sampled_from(["dtype", "shape", "rank", "type", "device", "layout"]))
    x, error = torch.zeros(right), TypeError
    if wrong == "dtype":
        x = x.to(dtype)
    elif wrong == "shape":
        size = data.draw(st.integers(0, 30).filter(lambda n: n not in (3, 13)))
        x, error = torch.zeros((4, size) if linear else (2, size, 6, 6)), ValueError
    elif wrong == "rank":
        x, error = torch.zeros(()) if linear else torch.zeros(3, 6), ValueError
    elif wrong == "type":
        x = data.draw(st.sampled_from([None, 3, [1.0], np.zeros(right, np.float32)]))
    elif wrong == "device":
        x, error = torch.zeros(right, device="meta"), ValueError
    else:
        x = torch.zeros(right).to_sparse()
    if data.draw(st.booleans()):
        with torch.no_grad():
            layer(torch.zeros(right))
        context = torch.no_grad()
    else:
        context = torch.enable_grad()
    with context, pytest.raises(error) as caught:
        layer(x)
    text = str(caught.value)
    assert text.startswith(type(layer).__name__) and "\n" not in text and len(text) < 200


def test_an_image_smaller_than_the_kernel_is_refused():
    _, layer = pair(in_channels=2, out_channels=3, kernel_size=5)
    with pytest.raises(ValueError, match="larger than the padded input"):
        layer(torch.zeros(1, 2, 4, 9, dtype=torch.float64))


def test_a_module_in_half_precision_is_refused_by_a_sentence():
    _, layer = pair(dtype=torch.float32)
    with pytest.raises(TypeError, match="float32 and float64, and its values are bfloat16"):
        layer.bfloat16()(torch.zeros(2, 13, dtype=torch.bfloat16))
    assert layer.double()(torch.zeros(2, 13, dtype=torch.float64)).dtype is torch.float64


def test_under_autocast_it_computes_in_full_precision():
    dense, sparse = pair(dtype=torch.float32)
    head = nn.Linear(13, 13)
    x = torch.randn(4, 13)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = head(x)
        assert hidden.dtype is torch.bfloat16
        y = sparse(hidden)
        y.sum().backward()
    assert y.dtype is torch.float32 and head.weight.grad is not None
    torch.testing.assert_close(y, F.linear(hidden.float(), dense.weight, dense.bias))


def mlp(density=0.05, widths=(20, 64, 64, 10), seed=0):
    torch.manual_seed(seed)
    layers = []
    for i, (a, b) in enumerate(zip(widths, widths[1:])):
        layers += [sparse_weights(nn.Linear(a, b), density if b != widths[-1] else 1.0, seed=i), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_training_a_compiled_module_equals_training_with_masks():
    dense = mlp(0.2).double()
    masks = [(l.weight != 0) for l in dense if isinstance(l, nn.Linear)]
    sparse = nt.compile(copy.deepcopy(dense), note=None)
    assert [type(l).__name__ for l in sparse] == ["SparseLinear", "ReLU", "SparseLinear", "ReLU", "Linear"]
    runs = []
    for model in (dense, sparse):
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        generator = torch.Generator().manual_seed(5)
        for _ in range(20):
            x = torch.randn(16, 20, generator=generator, dtype=torch.float64)
            loss = F.cross_entropy(model(x), torch.randint(0, 10, (16,), generator=generator))
            optimizer.zero_grad()
            loss.backward()
            for layer, mask in zip((l for l in model if type(l) is nn.Linear), masks if model is dense else []):
                layer.weight.grad *= mask
            optimizer.step()
        runs.append(nt.state_dict(model))
    torch.testing.assert_close(runs[1], runs[0])
    plain = nt.decompile(sparse)
    assert all(type(l) in (nn.Linear, nn.ReLU) for l in plain)
    torch.testing.assert_close(plain.state_dict(), runs[0])


def sequence(relu_last=False, dtype=torch.float64):
    """A plain sequence of sparse layers, and it compiled."""
    torch.manual_seed(3)
    widths = (13, 40, 21, 9)
    layers = []
    for i, (a, b) in enumerate(zip(widths, widths[1:])):
        layers += [sparse_weights(nn.Linear(a, b, bias=i != 1), 0.3, seed=i), nn.ReLU()]
    plain = nn.Sequential(*layers[: None if relu_last else -1]).to(dtype)
    return plain, nt.compile(copy.deepcopy(plain), density=1.0, note=None)


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 64, 200])
@pytest.mark.parametrize("relu_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sequence_equals_the_dense_one(batch, relu_last, dtype):
    plain, chained = sequence(relu_last, dtype)
    assert type(chained) is nt.SparseSequential
    x = torch.randn(batch, 13, dtype=dtype, requires_grad=True)
    z = x.detach().clone().requires_grad_()
    close = dict(rtol=1e-4, atol=1e-5) if dtype is torch.float32 else dict(rtol=1e-11, atol=1e-12)
    g = torch.randn(batch, 9, dtype=dtype)
    y = chained(z)
    assert type(y.grad_fn).__name__.startswith("_ChainFunction"), "all layers in one go"
    torch.testing.assert_close(y, plain(x), **close)
    plain(x).backward(g)
    y.backward(g)
    torch.testing.assert_close(z.grad, x.grad, **close)
    for a, b in zip(chained, plain):
        if isinstance(b, nn.Linear):
            torch.testing.assert_close(a.values.grad, b.weight.grad.reshape(-1)[a.positions], **close)
            if b.bias is not None:
                torch.testing.assert_close(a.bias.grad, b.bias.grad, **close)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(chained(z), plain(x), **close)
        torch.testing.assert_close(chained(z.expand(2, -1, -1)), plain(x.expand(2, -1, -1)), **close)


@pytest.mark.parametrize("relu_last", [False, True])
def test_a_sequence_passes_gradcheck_and_so_do_its_gradients(relu_last):
    _, chained = sequence(relu_last)
    names = [n for n, _ in chained.named_parameters()]
    x = torch.randn(3, 13, dtype=torch.float64, requires_grad=True)

    def f(x, *parameters):
        return torch.func.functional_call(chained, dict(zip(names, parameters)), (x,))

    inputs = (x, *(p.detach().clone().requires_grad_() for p in chained.parameters()))
    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize("wanted", range(64))
def test_any_choice_of_gradients_of_a_sequence(wanted):
    plain, chained = sequence(relu_last=True)
    x, z = (torch.randn(70, 13, dtype=torch.float64).requires_grad_(bool(wanted & 1)) for _ in range(2))
    z.data.copy_(x.data)
    want = {}
    for i, (name, p) in enumerate(chained.named_parameters()):
        p.requires_grad_(bool(wanted >> (i + 1) & 1))
        twin = plain.get_parameter(name.replace("values", "weight")).requires_grad_(p.requires_grad)
        want[name] = (p, twin)
    y = chained(z)
    assert y.requires_grad == (wanted > 0)
    if not wanted:
        return
    y.sin().sum().backward()
    plain(x).sin().sum().backward()
    assert (z.grad is not None) == bool(wanted & 1)
    if wanted & 1:
        torch.testing.assert_close(z.grad, x.grad)
    for name, (p, twin) in want.items():
        assert (p.grad is not None) == p.requires_grad
        if p.requires_grad:
            grad = twin.grad.reshape(-1)[chained.get_submodule(name.split(".")[0]).positions] if "values" in name else twin.grad
            torch.testing.assert_close(p.grad, grad)


def test_a_sequence_computes_the_bits_of_its_layers():
    _, chained = sequence(dtype=torch.float32)
    x = torch.randn(100, 13, requires_grad=True)
    runs = []
    for together in (True, False):
        z = x.detach().clone().requires_grad_()
        chained.zero_grad()
        y = chained(z) if together else nn.Sequential.forward(chained, z)
        y.sin().sum().backward()
        runs.append([y, z.grad, *(p.grad.clone() for p in chained.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*runs))


def test_what_is_not_a_number_passes_through_a_sequence():
    plain, chained = sequence(relu_last=True)
    x = torch.randn(5, 13, dtype=torch.float64)
    x[2, 4] = math.nan
    y = chained(x)
    torch.testing.assert_close(y, plain(x), equal_nan=True)
    assert y[2].isnan().any() and not y[[0, 1, 3, 4]].isnan().any()
    with torch.no_grad():
        torch.testing.assert_close(chained(x[2:3]), plain(x[2:3]), equal_nan=True)


def test_a_sequence_stays_a_sequence():
    plain, chained = sequence()
    x = torch.randn(4, 13, dtype=torch.float64)
    want = chained(x)
    assert isinstance(chained, nn.Sequential) and len(chained) == 5 and isinstance(chained[2], nt.SparseLinear)
    assert list(nt.state_dict(chained)) == list(plain.state_dict())
    # Hooks see what goes through their module.
    seen = []
    hook = chained[1].register_forward_hook(lambda m, i, o: seen.append(o.detach().clone()))
    assert torch.equal(chained(x), want)
    torch.testing.assert_close(seen[0], plain[:2](x))
    hook.remove()
    with torch.no_grad():
        chained(x)
        hook = chained[2].register_forward_pre_hook(lambda m, i: (2 * i[0],))
        torch.testing.assert_close(chained(x), plain[2:](2 * plain[:2](x)))
        hook.remove()
        handle = torch.nn.modules.module.register_module_forward_hook(lambda m, i, o: seen.append(type(m).__name__))
        chained(x)
        handle.remove()
        assert seen[1:] == ["SparseLinear", "ReLU", "SparseLinear", "ReLU", "SparseLinear", "SparseSequential"]
        # Parts, and parts that are changed.
        torch.testing.assert_close(chained[2:](plain[:2](x)), plain(x))
        chained[1] = nn.Tanh()
        plain[1] = nn.Tanh()
        torch.testing.assert_close(chained(x), plain(x))
        chained[2] = nn.Linear(40, 21, dtype=torch.float64)
        plain[2] = chained[2]
        torch.testing.assert_close(chained(x), plain(x))
        # Values that moved are found where they are.
        chained[4].values = nn.Parameter(chained[4].values * 2)
        torch.testing.assert_close(chained(x) - plain[4].bias, 2 * (plain(x) - plain[4].bias))
    for twin in (copy.deepcopy(chained), pickle.loads(pickle.dumps(chained))):
        assert type(twin) is nt.SparseSequential and torch.equal(twin(x), chained(x))
    whole = nt.decompile(chained)
    assert whole is chained and type(whole) is nn.Sequential and not any(isinstance(m, nt.CompiledModule) for m in whole)


def test_a_sequence_refuses_by_the_sentences_of_its_layers():
    _, chained = sequence(dtype=torch.float32)
    for x, error, said in (
        (torch.zeros(3, 12), ValueError, "SparseLinear: an input of shape"),
        (torch.zeros(()), ValueError, "SparseLinear: an input of shape"),
        (torch.zeros(3, 13).double(), TypeError, "SparseLinear: the input is float64"),
        ([1.0], TypeError, "SparseLinear: a torch.Tensor is needed"),
        (torch.zeros(3, 13).to_sparse(), TypeError, "SparseLinear: the input is torch.sparse_coo"),
    ):
        for context in (torch.no_grad(), torch.enable_grad()):
            with context, pytest.raises(error, match=said):
                chained(x)
    chained[2].double()
    with pytest.raises(TypeError, match="SparseLinear: the input is float32 and the values are float64"):
        chained(torch.zeros(3, 13))
    _, chained = sequence(dtype=torch.float32)
    x = torch.zeros(3, 13, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert chained(x.bfloat16()).dtype is torch.float32


def test_one_layer_at_two_places_of_a_sequence():
    torch.manual_seed(0)
    layer = sparse_weights(nn.Linear(12, 12).double(), 0.3)
    plain = nn.Sequential(layer, nn.ReLU(), layer)
    chained = nt.compile(copy.deepcopy(plain), density=1.0, note=None)
    x = torch.randn(7, 12, dtype=torch.float64)
    plain(x).sum().backward()
    chained(x).sum().backward()
    torch.testing.assert_close(chained[0].values.grad, layer.weight.grad.reshape(-1)[chained[0].positions])


def test_what_a_chain_is_given_is_checked():
    from nnz._nnz import SparseChain

    a, b = SparseLayer(4, 6, np.array([0, 7, 23])), SparseLayer(3, 4, np.array([1, 5]))
    window = SparseLayer(4, 6, np.array([0]), (6, [1, 1], [1, 1], [1, 1], 1))
    for layers, relu in (([], []), ([b, a], [True, False]), ([window], [False]), ([a, b], [True])):
        with pytest.raises(ValueError):
            SparseChain(layers, relu)
    chain = SparseChain([a, b], [True, True])
    f = lambda *shape: np.ones(shape, np.float32)
    values, y = [f(3), f(2)], f(5, 3)
    kept = chain.forward(values, f(5, 6), [f(4), None], y, True)
    assert chain.forward(values, f(5, 6), [f(4), None], y) is None
    for wrong in (
        ([f(3)], f(5, 6), [f(4), None], y),
        ([f(3), f(3)], f(5, 6), [f(4), None], y),
        (values, f(5, 5), [f(4), None], y),
        (values, f(5, 6), [f(4)], y),
        (values, f(5, 6), [f(4), f(4)], y),
        (values, f(5, 6), [f(4), None], f(4, 3)),
        (values, f(5, 6), [f(4), None], y.astype(np.float64)),
    ):
        with pytest.raises((TypeError, ValueError)):
            chain.forward(*wrong, True)
    for g, dx, dvalues, dbiases in (
        (f(4, 3), None, [None, None], [None, None]),
        (f(5, 3), f(5, 5), [None, None], [None, None]),
        (f(5, 3), None, [f(2), None], [None, None]),
        (f(5, 3), None, [None], [None, None]),
        (f(5, 3), None, [None, None], [None, f(4)]),
        (f(5, 3).astype(np.float64), None, [None, None], [None, None]),
    ):
        with pytest.raises((TypeError, ValueError)):
            chain.backward(values, kept, g, dx, dvalues, dbiases)
    other = SparseChain([a, b], [True, False])
    with pytest.raises(ValueError, match="another chain"):
        other.backward(values, kept, f(5, 3), None, [None, None], [None, None])


def test_threads_change_no_bit():
    code = """
import hashlib, sys, torch, nnz.torch as nt
from nnz import _nnz
from torch import nn
digest = hashlib.sha256()
torch.manual_seed(1)
wide = nn.Sequential(nn.Linear(300, 400), nn.ReLU(), nn.Linear(400, 200), nn.ReLU())
with torch.no_grad():
    for dense in (wide[0], wide[2]):
        dense.weight.mul_(torch.rand(dense.weight.shape) < 0.2)
nt.compile(wide, density=1.0)
x = torch.randn(500, 300, requires_grad=True)
if sys.argv[1] == "rayon":
    _nnz.compute_beside(None)
torch.set_num_threads(int(sys.argv[2]))
y = wide(x)
y.backward(torch.ones(y.shape))
with torch.no_grad():
    one = wide(x[:2])
for t in (y, one, x.grad, *(p.grad for p in wide.parameters())):
    digest.update(t.detach().numpy().tobytes())
torch.set_num_threads(1)
for dense, shape in ((nn.Linear(300, 200), (150, 300)), (nn.Conv2d(16, 12, 3, padding=1), (9, 16, 20, 21))):
    torch.manual_seed(0)
    with torch.no_grad():
        dense.weight.copy_(torch.randn(dense.weight.shape) * (torch.rand(dense.weight.shape) < 0.2))
        dense.bias.copy_(torch.randn(dense.bias.shape))
    layer, x = nt.compile(dense, density=1.0), torch.randn(shape, requires_grad=True)
    torch.set_num_threads(int(sys.argv[2]))
    y = layer(x)
    y.backward(torch.ones(y.shape))
    torch.set_num_threads(1)
    for t in (y, x.grad, layer.values.grad, layer.bias.grad):
        digest.update(t.detach().numpy().tobytes())
print(digest.hexdigest())
"""
    run = lambda *words, **env: subprocess.run(
        [sys.executable, "-c", code, *words], env={**os.environ, **env}, capture_output=True, text=True, check=True
    ).stdout
    runs = [run("rayon", "1", RAYON_NUM_THREADS=n) for n in "123"] + [run("torch", n) for n in "1235"]
    assert len(set(runs)) == 1 and len(runs[0]) == 65


def test_threads_of_torch_compute_and_no_more_than_it_says():
    code = """
import time, torch, nnz.torch as nt
from nnz import _nnz
from torch import nn
assert _nnz.compute_beside(torch.get_num_threads)
torch.set_num_threads(1)
with torch.no_grad():
    dense = nn.Linear(1000, 1000)
    dense.weight.mul_(torch.rand(1000, 1000) < 0.1)
    layer, x = nt.compile(dense, note=None), torch.randn(500, 1000)
    layer(x)
    whole, own = time.process_time(), time.thread_time()
    for _ in range(50):
        layer(x)
    whole, own = time.process_time() - whole, time.thread_time() - own
assert own > 0.9 * whole, (own, whole)
"""
    if "parallel backend: OpenMP" not in torch.__config__.parallel_info() or not sys.platform.startswith("linux"):
        pytest.skip("a PyTorch with other threads")
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "RAYON_NUM_THREADS": "2"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_forked_from_one_with_threads_of_torch_computes():
    code = """
import os, sys, torch, nnz.torch as nt
from torch import nn
torch.set_num_threads(2)
with torch.no_grad():
    dense = nn.Linear(1000, 1000)
    dense.weight.mul_(torch.rand(1000, 1000) < 0.1)
    layer, x = nt.compile(dense, note=None), torch.randn(200, 1000)
    run = lambda: layer(x).numpy().tobytes() + layer(x[:1]).numpy().tobytes()
    want = run()
    child = os.fork()
    if child == 0:
        os._exit(0 if run() == want else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_computes():
    code = """
import os, sys, torch, nnz.torch as nt
from torch import nn
torch.set_num_threads(1)
with torch.no_grad():
    dense = nn.Linear(1000, 1000)
    dense.weight.mul_(torch.rand(1000, 1000) < 0.1)
layer, x = nt.compile(dense, note=None), torch.randn(200, 1000)
def run():
    y = layer(x)
    layer.values.grad = None
    y.sum().backward()
    with torch.no_grad():
        layer(x[:1])
    return float(y.detach().sum()), float(layer.values.grad.sum())
want = run()
child = os.fork()
if child == 0:
    os._exit(0 if run() == want else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_what_writes_values_behind_the_version_counter_is_seen():
    _, layer = pair()
    x = torch.randn(1, 13, dtype=torch.float64)
    with torch.no_grad():
        layer(x)
        layer.values.data.mul_(3.0)
        torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias))


def test_states_go_in_and_out_plain_and_compiled():
    dense = mlp()
    sparse = nt.compile(copy.deepcopy(dense), note=None)
    fresh = mlp(1.0, seed=3)
    fresh.load_state_dict(nt.state_dict(sparse))
    torch.testing.assert_close(fresh.state_dict(), dense.state_dict())
    # A plain state goes into a compiled module.
    scaled = {k: v * 2 for k, v in dense.state_dict().items()}
    sparse.load_state_dict(scaled)
    torch.testing.assert_close(nt.state_dict(sparse), scaled)
    # Its own does, too.
    again = nt.compile(copy.deepcopy(dense), note=None)
    again.load_state_dict(sparse.state_dict())
    torch.testing.assert_close(nt.state_dict(again), scaled)
    with pytest.raises(RuntimeError, match="nonzeros where this layer has no connection"):
        sparse.load_state_dict(mlp(1.0).state_dict())
    other = nt.compile(mlp(0.06), note=None)
    with pytest.raises(RuntimeError, match="other connections|size mismatch"):
        sparse.load_state_dict(other.state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        sparse.load_state_dict({k: v for k, v in scaled.items() if k != "0.weight"})


def test_compiled_modules_copy_and_pickle():
    sparse = nt.compile(mlp(), note=None)
    x = torch.randn(5, 20)
    want = sparse(x)
    for twin in (copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse))):
        assert torch.equal(twin(x), want)
        twin[0].values.data.zero_()
        assert torch.equal(sparse(x), want)
    file = io.BytesIO()
    torch.save(sparse, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), want)
    assert "nonzeros=" in repr(sparse) and "density=0.0" in repr(sparse)


def test_what_stays_dense_and_why():
    said = []
    tied = nn.ModuleDict({"a": sparse_weights(nn.Linear(8, 8), 0.1), "b": nn.Linear(8, 8)})
    tied["b"].weight = tied["a"].weight
    nt.compile(tied, note=said.append)
    assert type(tied["a"]) is nn.Linear and "same parameter" in said[0]
    hooked = nn.Sequential(sparse_weights(nn.Linear(8, 8), 0.1))
    hooked[0].register_forward_hook(lambda *_: None)
    nt.compile(hooked, note=said.append)
    assert type(hooked[0]) is nn.Linear and "hooks" in said[-1]
    narrow = nn.Sequential(sparse_weights(nn.Linear(8, 8), 0.1)).bfloat16()
    nt.compile(narrow, note=said.append)
    assert type(narrow[0]) is nn.Linear and "bfloat16" in said[-1]
    line = nn.Sequential(sparse_weights(nn.Conv1d(8, 8, 3), 0.05))
    nt.compile(line, note=said.append)
    assert type(line[0]) is nn.Conv1d and "Conv1d" in said[-1]
    full = nn.Sequential(nn.Linear(8, 8))
    assert type(nt.compile(full, note=said.append)[0]) is nn.Linear and len(said) == 5
    with pytest.raises(TypeError, match="nn.Module"):
        nt.compile(torch.zeros(3))
    with pytest.raises(ValueError, match="from 0 to 1"):
        nt.compile(full, density=2.0)


def test_one_layer_at_two_places_stays_one():
    layer = sparse_weights(nn.Linear(8, 8), 0.1)
    model = nt.compile(nn.Sequential(layer, nn.ReLU(), layer), note=None)
    assert model[0] is model[2] and isinstance(model[0], nt.SparseLinear)


def test_masks_of_torch_prune_are_taken_over():
    import torch.nn.utils.prune as torch_prune

    layer = nn.Linear(30, 20)
    torch_prune.l1_unstructured(layer, "weight", 0.9)
    want = layer(torch.ones(1, 30)).detach()
    sparse = nt.compile(nn.Sequential(layer), note=None)
    assert sparse[0].values.numel() == 60
    torch.testing.assert_close(sparse(torch.ones(1, 30)), want)


def test_an_example_decides_and_the_gain_is_told(monkeypatch):
    asked, said = [], []

    def faster(dense, sparse, x, training):
        asked.append((tuple(x.shape), training))
        torch.testing.assert_close(sparse(x), dense(x))
        return x.shape[1] == 80

    monkeypatch.setattr(_compile, "_faster", faster)
    model = nn.Sequential(nn.BatchNorm1d(40), *mlp(0.1, (40, 80, 80, 10)))
    before = copy.deepcopy(model.state_dict())
    model = nt.compile(model, torch.randn(64, 40), note=said.append)
    assert [type(l).__name__ for l in model][1::2] == ["Linear", "SparseLinear", "Linear"]
    assert asked == [((64, 40), True), ((64, 80), True)]
    assert "1 stays dense" in said[0] and "faster so" in said[0]
    assert "1 sparse layer: forward " in said[-1] and "forward and backward" in said[-1] and "times as fast" in said[-1]
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(nt.state_dict(model), before, rtol=0, atol=0)


def test_measuring_a_layer_takes_the_faster_one():
    class Slow(nn.Linear):
        def forward(self, x):
            time.sleep(0.02)
            return super().forward(x)

    quick = nt.compile(sparse_weights(nn.Linear(20, 20), 0.1), note=None)
    slow = Slow(20, 20)
    x = torch.randn(4, 20)
    for training in (True, False):
        assert _compile._faster(slow, quick, x, training) and not _compile._faster(quick, slow, x, training)
    assert x.grad is None and slow.weight.grad is None


def test_an_encoder_of_torch_runs_compiled():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    sparse_weights(layer.linear1, 0.1), sparse_weights(layer.linear2, 0.1)
    x = torch.randn(2, 5, 16)
    want = layer.eval()(x)
    model = nt.compile(layer, note=None)
    assert isinstance(model.linear1, nt.SparseLinear)
    torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)


# Pruning


def batches(n=3, rows=32, width=20, classes=10):
    generator = torch.Generator().manual_seed(2)
    return [(torch.randn(rows, width, generator=generator), torch.randint(0, classes, (rows,), generator=generator)) for _ in range(n)]


def test_magnitude_keeps_the_largest():
    model = mlp(1.0)
    before = model[0].weight.detach().clone()
    report = nt.prune(model, density=0.1, distribution="uniform")
    assert [l.name for l in report.layers] == ["0.weight", "2.weight"]
    assert math.isclose(report.density, 0.1, abs_tol=1e-3) and "density 0.1" in str(report)
    kept = model[0].weight != 0
    assert int(kept.sum()) == report.layers[0].nonzeros == 128
    assert before[kept].abs().min() >= before[~kept].abs().max()
    assert torch.equal(model[0].weight[kept], before[kept])
    assert (model[4].weight != 0).all()


@pytest.mark.parametrize("method", ["magnitude", "gmp", "lamp", "wanda", "sparsegpt", "dsnot", "snip", "grasp", "synflow"])
def test_methods_that_prune_a_trained_module(method):
    model = mlp(1.0)
    report = nt.prune(model, method, 0.2, data=batches())
    assert math.isclose(report.density, 0.2, abs_tol=5e-3)
    counts = [int((model[i].weight != 0).sum()) for i in (0, 2)]
    assert counts == [l.nonzeros for l in report.layers]
    assert model.training


def test_snip_is_its_formula():
    model, data = mlp(1.0), batches()
    sum(F.cross_entropy(model(x), y) for x, y in data).backward()
    weights = [model[i].weight.detach() for i in (0, 2)]
    scores = torch.cat([(w * model[i].weight.grad).abs().reshape(-1) for i, w in zip((0, 2), weights)])
    want = scores >= scores.topk(round(0.1 * scores.numel())).values.min()
    nt.prune(model, "snip", 0.1, data=data)
    got = torch.cat([(model[i].weight != 0).reshape(-1) for i in (0, 2)])
    assert torch.equal(got, want)


def test_wanda_is_its_formula():
    model, data = mlp(1.0), batches()
    norms = sum(x.square().sum(0) for x, _ in data).sqrt()
    scores = model[0].weight.detach().abs() * norms
    want = scores >= scores.topk(5, dim=1).values.min(1, keepdim=True).values
    nt.prune(model, "wanda", 0.25, data=data)
    assert torch.equal(model[0].weight != 0, want)


def test_grasp_looks_at_the_hessian_times_the_gradient():
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    data = [(torch.randn(8, 6, dtype=torch.float64), torch.randint(0, 3, (8,)))]
    weights = _weights._select(_weights._weights_of(model, "prune"), "prune", None, (), True)
    measured = _prune._Measuring(model, weights, data, None, "grasp")
    (first, second) = measured._hessian_gradients(2.0)

    def loss(a, b):
        return F.cross_entropy(F.linear(torch.tanh(F.linear(data[0][0], a, model[0].bias)), b, model[2].bias) / 2.0, data[0][1])

    own = (model[0].weight.detach(), model[2].weight.detach())
    gradient = torch.autograd.functional.jacobian(loss, own)
    want = torch.autograd.functional.hvp(loss, own, gradient)[1]
    np.testing.assert_allclose(first, want[0].reshape(-1), rtol=1e-9)
    np.testing.assert_allclose(second, want[1].reshape(-1), rtol=1e-9)


def test_every_method_of_the_rooms_works_or_says_why():
    keys = "magnitude gmp lamp essential-sparsity wanda sparsegpt dsnot filter-pruning wgsef transport-pruning snip grasp synflow imp random-pruning"
    refused = {}
    for key in keys.split():
        model = mlp(1.0)

        def score(m):
            assert m is model
            return float((m[0].weight != 0).float().mean() > 0.5)

        try:
            report = nt.prune(model, key, 0.2 if key == "magnitude" else None, data=batches(), score=score, seed=1)
            assert 0.01 < report.density < 0.8, (key, report)
        except ValueError as e:
            refused[key] = str(e)
    assert set(refused) == {"filter-pruning", "transport-pruning", "imp", "random-pruning"}, refused
    assert all("nnz train" in why or "methods that prune a trained model are" in why for why in refused.values()), refused


def test_pruning_a_convolution_by_what_it_reads():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    x = torch.randn(6, 2, 8, 8)
    patches = F.unfold(x, 3, 1, 1, 2).transpose(1, 2).reshape(-1, 18)
    scores = model[0].weight.detach().reshape(4, 18).abs() * patches.square().sum(0).sqrt()
    nt.prune(model, "wanda", 0.5, data=[x], layers=["0"])
    assert torch.equal(model[0].weight.reshape(4, 18) != 0, scores >= scores.topk(9, dim=1).values.min(1, keepdim=True).values)


def test_refusals_of_prune_change_nothing():
    model = mlp(1.0)
    before = copy.deepcopy(model.state_dict())
    for bad, what in (
        (dict(method="snap"), "no method named `snap`"),
        (dict(method="snip"), "data="),
        (dict(method="snip", data=[b[0] for b in batches()]), "loss="),
        (dict(method="wanda"), "data="),
        (dict(density=0.0), "density"),
        (dict(density=1.5), "density"),
        (dict(layers=["nine"]), "no weight is named `nine`"),
        (dict(keep=["*"]), "every weight is kept"),
        (dict(colour=3), "colour"),
        (dict(method="essential-sparsity"), "score="),
        (dict(method="rigl"), "random topology"),
    ):
        with pytest.raises(ValueError, match=what):
            nt.prune(model, **bad)
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    with pytest.raises(ValueError, match="decompile"):
        nt.prune(nt.compile(mlp(), note=None))


def test_hooks_keep_zeros_zero():
    model = mlp(1.0)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for x, y in batches():
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    report = nt.prune(model, density=0.1, keep_zeros=True)
    masks = [model[i].weight != 0 for i in (0, 2)]
    for x, y in batches():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model(batches()[0][0])
    assert all(int((model[i].weight[~m] != 0).sum()) == 0 for i, m in zip((0, 2), masks))
    assert isinstance(nt.compile(copy.deepcopy(model), note=None)[0], (nt.SparseLinear, nn.Linear))
    report.kept.remove()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    assert any(int((model[i].weight[~m] != 0).sum()) for i, m in zip((0, 2), masks))


# Dynamic sparse training


def loop(model, optimizer, handle, steps, first=0):
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(16, 20, generator=generator)
        y = torch.randint(0, 10, (16,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        for name, mask in handle.masks.items():
            weight = dict(model.named_parameters()).get(name)
            if weight is not None:
                assert not weight[~mask].count_nonzero(), (step, name)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=1e-4),
    "adam": lambda p: torch.optim.Adam(p, 0.003),
    "adamw": lambda p: torch.optim.AdamW(p, 0.003, foreach=False),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.001),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("method", ["rigl", "set", "dst-ee", "sparse-momentum", "mest", "deep-rewiring", "granet", "cht", "itop"])
def test_a_resumed_run_equals_an_uninterrupted_one(method, name):
    def begin():
        model = mlp(1.0)
        optimizer = OPTIMIZERS[name](model.parameters())
        options = {} if method == "granet" else {"every": 5}
        return model, optimizer, nt.attach(optimizer, method, 0.2, module=model, steps=60, steps_per_epoch=10, seed=4, **options)

    model, optimizer, handle = begin()
    before = {n: m.clone() for n, m in handle.masks.items()}
    loop(model, optimizer, handle, 17)
    saved = [copy.deepcopy(x.state_dict()) for x in (model, optimizer, handle)]
    file = io.BytesIO()
    torch.save(saved[2], file)
    loop(model, optimizer, handle, 23, 17)
    assert handle.grown > 0 and any(not torch.equal(m, before[n]) for n, m in handle.masks.items())
    twin = begin()
    file.seek(0)
    twin[0].load_state_dict(saved[0]), twin[1].load_state_dict(saved[1])
    twin[2].load_state_dict(torch.load(file, weights_only=True))
    loop(*twin, 23, 17)
    torch.testing.assert_close(twin[0].state_dict(), model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(twin[1].state_dict(), optimizer.state_dict(), rtol=0, atol=0)
    assert (handle.step, handle.grown) == (twin[2].step, twin[2].grown)


def test_rigl_is_its_algorithm():
    model = mlp(1.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    handle = nt.attach(optimizer, "rigl", 0.2, module=model, steps=100, every=10, fraction=0.3)
    assert math.isclose(handle.density, 0.2, abs_tol=2e-3)
    loop(model, optimizer, handle, 10)
    weight = model[2].weight.detach().clone()
    bias = model[2].bias.detach().clone()
    mask = handle.masks["2.weight"].clone()
    generator = torch.Generator().manual_seed(10)
    x, y = torch.randn(16, 20, generator=generator), torch.randint(0, 10, (16,), generator=generator)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    gradient = model[2].weight.grad.clone()
    assert gradient[~mask].count_nonzero(), "the gradient of the zeros is there for the step that looks at it"
    optimizer.step()
    n = int(0.15 * (1 + math.cos(math.pi * 10 / 75)) * int(mask.sum()))
    flat = weight.abs().masked_fill(~mask, math.inf).reshape(-1)
    dropped = flat.topk(n, largest=False).indices
    now = handle.masks["2.weight"].reshape(-1)
    survivors = mask.reshape(-1).clone()
    survivors[dropped] = False
    assert torch.equal(now & survivors, survivors) and int(now.sum()) == int(mask.sum())
    born = now & ~mask.reshape(-1)
    assert born.any() and gradient.reshape(-1)[born].abs().min() >= gradient.reshape(-1)[~now & ~mask.reshape(-1)].abs().max()
    # A step that measures makes no update, and what is born begins at zero.
    assert torch.equal(model[2].bias, bias)
    assert torch.equal(model[2].weight.reshape(-1)[survivors], weight.reshape(-1)[survivors])
    assert not model[2].weight.reshape(-1)[born].count_nonzero()
    assert optimizer.state[model[2].weight]["momentum_buffer"].shape == (int(now.sum()),)
    handle.remove()
    state = optimizer.state[model[2].weight]["momentum_buffer"].reshape(-1)
    assert not state[~survivors & ~now].count_nonzero() and not state[born].count_nonzero()
    assert state[survivors].count_nonzero()


def test_between_rewirings_it_is_training_with_masks():
    model = mlp(1.0)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    handle = nt.attach(optimizer, density=0.2, module=model, steps=1000)
    twin = copy.deepcopy(model)
    other = torch.optim.Adam(twin.parameters(), 0.01)
    loop(model, optimizer, handle, 30)
    for step in range(30):
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(16, 20, generator=generator), torch.randint(0, 10, (16,), generator=generator)
        other.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        for i in (0, 2):
            twin[i].weight.grad *= handle.masks[f"{i}.weight"]
        other.step()
    handle.remove()
    torch.testing.assert_close(twin.state_dict(), model.state_dict())
    torch.testing.assert_close(other.state_dict()["state"], optimizer.state_dict()["state"])


def test_the_optimizer_remembers_connections_alone_and_takes_whole_state_over():
    model = mlp(1.0)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    x, y = batches()[0]
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    whole = optimizer.state[model[2].weight]["exp_avg"].clone()
    handle = nt.attach(optimizer, density=0.2, module=model)
    loop(model, optimizer, handle, 1)
    mask = handle.masks["2.weight"]
    state = optimizer.state[model[2].weight]["exp_avg"]
    assert state.shape == (int(mask.sum()),) and optimizer.param_groups[0]["params"][2] is model[2].weight
    torch.testing.assert_close(state, 0.9 * whole[mask] + 0.1 * model[2].weight.grad[mask])
    handle.remove()
    assert optimizer.state[model[2].weight]["exp_avg"].shape == mask.shape
    assert not optimizer.state[model[2].weight]["exp_avg"][~mask].count_nonzero()


def test_weights_that_attaching_cleared_are_not_taken_for_those_of_a_state():
    model = mlp(1.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    handle = nt.attach(optimizer, density=0.2, module=model, every=3, steps=50)
    loop(model, optimizer, handle, 10)
    saved, weights = handle.state_dict(), copy.deepcopy(model.state_dict())
    twin = mlp(1.0)
    twin.load_state_dict(weights)
    other = nt.attach(torch.optim.SGD(twin.parameters(), 0.01), density=0.2, module=twin, every=3, steps=50)
    with pytest.raises(ValueError, match="attach first"):
        other.load_state_dict(saved)
    twin.load_state_dict(weights)
    other.load_state_dict(saved)
    torch.testing.assert_close(twin.state_dict(), weights, rtol=0, atol=0)


def test_a_step_that_fails_leaves_the_optimizer_whole():
    model = mlp(1.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    handle = nt.attach(optimizer, density=0.2, module=model)
    loop(model, optimizer, handle, 1)
    optimizer.param_groups[0]["lr"] = "fast"
    with pytest.raises(Exception):
        loop(model, optimizer, handle, 1)
    optimizer.param_groups[0]["lr"] = 0.01
    loop(model, optimizer, handle, 2)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]


def test_optimizers_that_mix_entries_keep_zeros_too():
    class Mixing(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 0.1})

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.sub_(0.01 * (p.grad + p.grad.mean() + 1.0))

    model = mlp(1.0)
    optimizer = Mixing(model.parameters())
    loop(model, optimizer, nt.attach(optimizer, density=0.2, module=model, steps=50, every=5), 12)


def test_attach_without_names_takes_matrices_but_the_last():
    model = mlp(1.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    handle = nt.attach(optimizer, density=0.1)
    assert list(handle.masks) == ["0.0", "0.2"] and "rigl" in repr(handle)
    loop(model, optimizer, handle, 3)
    handle.remove()
    F.cross_entropy(model(torch.randn(4, 20)), torch.zeros(4, dtype=torch.long)).backward()
    optimizer.step()
    assert model[0].weight.count_nonzero() > 128


def test_it_goes_on_from_the_zeros_that_are_there():
    model = mlp(1.0)
    nt.prune(model, density=0.15)
    counts = [int(model[i].weight.count_nonzero()) for i in (0, 2)]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    handle = nt.attach(optimizer, density=0.15, module=model, start="weights", every=2, steps=20)
    assert [l.nonzeros for l in handle.layers] == counts
    loop(model, optimizer, handle, 5)
    assert [l.nonzeros for l in handle.layers] == counts and handle.grown > 0


def test_gradual_pruning_reaches_its_density():
    model = mlp(1.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    handle = nt.attach(optimizer, "gmp", 0.1, module=model, steps=60)
    assert handle.density == 1.0
    loop(model, optimizer, handle, 60)
    assert math.isclose(handle.density, 0.1, abs_tol=1e-2)


def test_gradients_that_accumulate_and_gradients_set_by_hand():
    model = mlp(1.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    handle = nt.attach(optimizer, density=0.2, module=model)
    x, y = batches()[0]
    for _ in range(3):
        F.cross_entropy(model(x), y).backward()
    assert not model[0].weight.grad[~handle.masks["0.weight"]].count_nonzero()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert not model[0].weight[~handle.masks["0.weight"]].count_nonzero()


def test_attach_in_sixteen_bits_and_channels_last():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 4))
    model = model.to(memory_format=torch.channels_last).bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    handle = nt.attach(optimizer, density=0.3, module=model, every=2, steps=20)
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.randn(2, 3, 6, 6, dtype=torch.bfloat16)).float().square().sum().backward()
        optimizer.step()
        for i in (0, 2):
            assert not model[i].weight[~handle.masks[f"{i}.weight"]].count_nonzero()
    assert handle.grown > 0 and model[0].weight.dtype is torch.bfloat16


def test_methods_that_cannot_be_attached_say_why():
    def begin(**arguments):
        model = mlp(1.0)
        return nt.attach(torch.optim.SGD(model.parameters(), 0.1), module=model, **arguments)

    for bad, what in (
        (dict(method="sr-ste", steps=100), "other numbers than the weights"),
        (dict(method="grass", steps=100), "optimizer of its own"),
        (dict(method="imp", steps=100), "several times"),
        (dict(method="continuous-growing", steps=1000, steps_per_epoch=10), "units"),
        (dict(method="set"), "steps_per_epoch"),
        (dict(method="gmp"), "steps="),
        (dict(density=7.0), "density"),
        (dict(steps=0), "at least 1"),
        (dict(start="now"), "start"),
        (dict(every="often"), "period"),
        (dict(layers=["x"]), "no weight is named"),
        (dict(method="k-sparse", steps=10), "runs by itself"),
    ):
        with pytest.raises(ValueError, match=what):
            begin(**bad)
    with pytest.raises(TypeError, match="Optimizer"):
        nt.attach(mlp(1.0))
    handle = begin()
    with pytest.raises(TypeError, match="closure"):
        handle.optimizer.step(lambda: 0.0)
    with pytest.raises(ValueError, match="seed"):
        handle.load_state_dict(begin(seed=1).state_dict())


# The compiled half


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_arrays_that_do_not_fit_are_refused(data):
    layer = SparseLayer(4, 6, np.array([0, 7, 23]))
    sizes = st.integers(0, 30)
    arrays = {
        "values": np.ones(3, np.float32),
        "x": np.ones((2, 6), np.float32),
        "bias": np.ones(4, np.float32),
        "y": np.empty((2, 4), np.float32),
    }
    name = data.draw(st.sampled_from(list(arrays)))
    how = data.draw(st.sampled_from(["dtype", "shape", "order", "type"] + (["frozen"] if name == "y" else [])))
    right = arrays[name]
    if how == "dtype":
        arrays[name] = right.astype(data.draw(st.sampled_from(["f8", "f2", "i4", "c8", ">f4"])))
    elif how == "shape":
        shape = tuple(data.draw(st.lists(sizes, min_size=right.ndim, max_size=right.ndim)))
        if math.prod(shape) == right.size:
            return
        arrays[name] = np.ones(shape, np.float32)
    elif how == "order":
        arrays[name] = np.ones([2 * n for n in right.shape], np.float32)[tuple(slice(None, None, 2) for _ in right.shape)]
    elif how == "frozen":
        right.flags.writeable = False
    else:
        arrays[name] = data.draw(st.sampled_from([3, "x", [1.0, 2.0, 3.0]]))
    with pytest.raises((TypeError, ValueError)) as caught:
        layer.forward(*arrays.values())
    assert len(str(caught.value)) > 10


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.lists(st.integers(-3, 30), max_size=6))
def test_positions_are_checked(rows, columns, positions):
    fits = sorted(set(positions)) == positions and all(0 <= p < rows * columns for p in positions)
    array = np.array(positions, np.int64)
    if fits:
        assert SparseLayer(rows, columns, array).nnz == len(positions)
    else:
        with pytest.raises(ValueError, match="ascend"):
            SparseLayer(rows, columns, array)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_windows_are_checked(data):
    size = st.sampled_from([0, 1, 2, 3, 4, 6, 2**31, 2**40, 2**63])
    pair_of = st.lists(size, min_size=2, max_size=2)
    rows, columns, channels, groups = (data.draw(size.filter(lambda n: n < 100)) for _ in range(4))
    channels = data.draw(st.sampled_from([channels, 2**62]))
    kernel, stride, dilation = data.draw(pair_of), data.draw(pair_of), data.draw(pair_of)
    area = kernel[0] * kernel[1]
    fits = groups and not rows % groups and not channels % groups and columns * groups == channels * area
    fits = fits and area and all(stride + dilation) and max(*kernel, *stride, *dilation, channels) < 2**31
    positions = np.arange(0, rows * columns, 2)
    if fits:
        layer = SparseLayer(rows, columns, positions, (channels, kernel, stride, dilation, groups))
        with pytest.raises(ValueError, match="extents|shape|convolves"):
            layer.convolve(np.ones(layer.nnz, np.float32), np.ones((1, channels + 1, 2, 2), np.float32), [0, 0], None, np.ones((1, rows, 2, 2), np.float32))
    else:
        with pytest.raises(ValueError, match="does not fit"):
            SparseLayer(rows, columns, positions, (channels, kernel, stride, dilation, groups))


def test_keep_masked_writes_in_place():
    for dtype in (np.float32, np.float64):
        a = np.arange(9_000_000, dtype=dtype) + 1
        mask = np.arange(9_000_000) % 3 == 0
        keep_masked(a, mask)
        assert (a[~mask] == 0).all() and (a[mask] == np.flatnonzero(mask) + 1).all()
    with pytest.raises(ValueError, match="needed"):
        keep_masked(a, mask[:-1].copy())
    with pytest.raises(TypeError, match="bool"):
        keep_masked(a, mask.astype(np.uint8))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([0, 1, 300_000, 4_000_000]), st.lists(st.integers(-2, 300_000), max_size=5), st.booleans())
def test_entries_go_out_and_in(size, some, wide):
    positions = np.array(some, np.int32) if len(some) > 2 else np.arange(0, size, 3, dtype=np.int32)
    array = np.arange(size, dtype=np.float64 if wide else np.float32)
    values = np.full(len(positions), -1.0, array.dtype)
    fits = all(0 <= p < size for p in positions)
    if not fits:
        with pytest.raises(ValueError, match="outside"):
            gather([(array, positions, values)])
        with pytest.raises(ValueError, match="outside"):
            scatter([(array, positions, values)])
        return
    twin = np.zeros_like(values)
    gather([(array, positions, values), (-array, positions, twin)])
    np.testing.assert_array_equal(twin, -values)
    np.testing.assert_array_equal(values, array[positions])
    want = array.copy()
    want[positions] = -values
    other = array.copy()
    scatter([(array, positions, -values), (other, positions, -values)])
    np.testing.assert_array_equal(array, want)
    np.testing.assert_array_equal(other, want)
    if size:
        with pytest.raises(TypeError, match="the same for all arrays"):
            gather([(array, positions, values), (array.astype(np.float32 if wide else np.float64), positions, values)])


def test_one_rewiring_by_hand():
    work = Rewiring("rigl", '{"density": 0.5, "fraction": 0.5, "every": "10 steps"}', [("a", 2, 4, [1, 1], False, "linear")], 0, 400, 100, False)
    weights = np.array([0.1, 0, -3, 0, 0, 2, 0, 0.2], np.float32)
    mask = weights != 0
    assert work.plan(7) is None and work.plan(10)["gradient"]
    gradient = np.array([1, 0, 0, -9, 2, 0, 0, 5], np.float32)
    # 0.25 (1 + cos(π 10 / 300)) of 4 is one connection.
    assert work.rewire(10, [weights], [mask], {"gradient": [gradient]}) == (1, 1)
    assert mask.tolist() == [False, False, True, True, False, True, False, True]
    np.testing.assert_array_equal(weights, np.array([0, 0, -3, 0, 0, 2, 0, 0.2], np.float32))
    with pytest.raises(ValueError, match="gradient"):
        work.rewire(20, [weights], [mask], {})


def test_a_trainer_of_transformers_resumes_exactly(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body = mlp(1.0)

        def forward(self, x, labels):
            logits = self.body(x)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    x, y = torch.randn(64, 20, generator=torch.Generator().manual_seed(1)), torch.arange(64) % 10
    rows = [{"x": a, "labels": b} for a, b in zip(x, y)]

    def train(folder, resume=None):
        arguments = transformers.TrainingArguments(
            folder, max_steps=12, per_device_train_batch_size=8, save_steps=5, report_to=[], use_cpu=True, disable_tqdm=True, seed=3
        )
        callback = nt.rewiring_callback(density=0.2, every=2, keep=["*.4"], prune_head=True)
        trainer = transformers.Trainer(Model(), arguments, train_dataset=rows, callbacks=[callback])
        trainer.train(resume_from_checkpoint=resume)
        assert callback.handle.step == 12 and callback.handle.grown > 0
        return trainer.model.state_dict(), callback.handle

    whole, handle = train(tmp_path / "a")
    assert (tmp_path / "a" / "checkpoint-5" / "rewiring.pt").is_file()
    assert list(handle.masks) == ["body.0.weight", "body.2.weight"] and math.isclose(handle.density, 0.2, abs_tol=2e-3)
    again, _ = train(tmp_path / "a", str(tmp_path / "a" / "checkpoint-5"))
    torch.testing.assert_close(again, whole, rtol=0, atol=0)


def test_the_page():
    root = Path(os.environ.get("NNZ_ROOT") or Path(__file__).parents[2])
    found = doctest.testfile(str(root / "docs/src/pytorch.md"), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 15 and found.failed == 0


def test_what_lies_column_by_column_is_read_by_rows_or_refused():
    layer = sparse_weights(nn.Linear(12, 7), 0.3)
    sparse = nt.compile(nn.Sequential(copy.deepcopy(layer)), density=1.0, note=None)
    turned = torch.randn(12, 5).t()
    assert not turned.is_contiguous()
    a, b = turned.clone().requires_grad_(), turned.detach().requires_grad_()
    torch.testing.assert_close(sparse(b), layer(a))
    sparse(b).square().sum().backward()
    layer(a).square().sum().backward()
    torch.testing.assert_close(b.grad, a.grad)
    torch.testing.assert_close(nt.decompile(sparse)[0].weight.shape, layer.weight.shape)
    # A weight that is a transposed matrix.
    turned = nn.Linear(12, 7)
    turned.weight = nn.Parameter(sparse_weights(nn.Linear(7, 12), 0.3).weight.detach().t())
    want = turned(a).detach()
    torch.testing.assert_close(nt.compile(nn.Sequential(turned), density=1.0, note=None)(a), want)
    kernel = SparseLayer(2, 3, np.array([0, 2, 4]))
    values, x, y = np.float32([1, 2, 3]), np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError, match="x: pass an array whose rows lie one after the other"):
        kernel.forward(values, np.asfortranarray(x), None, y)
    with pytest.raises(ValueError, match="y: pass an array whose rows"):
        kernel.forward(values, x, None, np.asfortranarray(y))


@pytest.mark.parametrize("method", ["magnitude", "snip"])
def test_weights_that_lie_column_by_column_are_pruned_where_they_are_least(method):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3))
    turned = copy.deepcopy(plain)
    turned[0].weight = nn.Parameter(plain[0].weight.detach().t().contiguous().t())
    assert not turned[0].weight.is_contiguous()
    batch = [(torch.randn(20, 12), torch.randint(0, 3, (20,)))]
    for model in (plain, turned):
        nt.prune(model, method, density=0.3, data=batch)
    assert torch.equal(plain[0].weight, turned[0].weight)


@pytest.mark.parametrize("method", ["set", "rigl"])
def test_weights_that_lie_column_by_column_are_rewired_alike(method):
    def trained(turn):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3))
        if turn:
            model[0].weight = nn.Parameter(model[0].weight.detach().t().contiguous().t())
        x, y = torch.randn(40, 12), torch.randint(0, 3, (40,))
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        nt.attach(optimizer, method, 0.3, module=model, steps=30, every=5)
        for _ in range(20):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        return model[0].weight.detach()

    plain, turned = trained(False), trained(True)
    torch.testing.assert_close(turned, plain)
    assert torch.equal(turned == 0, plain == 0)
