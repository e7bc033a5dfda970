"""Sparse layers, pruning and dynamic sparse training for PyTorch.

    import nnz.torch

    nnz.torch.prune(model, density=0.05)          # zeros, by any method that prunes
    nnz.torch.compile(model, example=batch)       # sparse kernels where they are faster
    nnz.torch.attach(optimizer, density=0.1)      # rewires in anybody's training loop

All of it works on plain modules, tensors and optimizers, and goes back to them: `decompile` and `state_dict`.
"""

from __future__ import annotations

import abc
import contextlib
import copy
import fnmatch
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._nnz import Rewiring, SparseChain, SparseLayer, gather, keep_masked, method_defaults, scatter

__all__ = [
    "Attached",
    "CompiledModule",
    "LayerReport",
    "Pruned",
    "SparseConv2d",
    "SparseLinear",
    "SparseSequential",
    "attach",
    "compile",
    "decompile",
    "prune",
    "rewiring_callback",
    "state_dict",
]

# Densities up to which a layer is faster sparse, where nobody measures (`results/torch.md`). A convolution was not on two threads, even
# at 0.02.
PAYS: dict[type, float] = {nn.Linear: 0.25}
_DTYPES = (torch.float32, torch.float64)


# --------------------------------------------------------------------------------------------------------------------------
# Sparse layers


def _array(tensor: Tensor) -> np.ndarray:
    """The memory of a tensor. Nothing is copied."""
    return tensor.detach().numpy()


def _checked(x: Tensor, values: Tensor, name: str) -> Tensor:
    """An input that the kernels can read: on the CPU, of the type of the values, contiguous."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: a torch.Tensor is needed, got {type(x).__name__}")
    if values.dtype not in _DTYPES:
        raise TypeError(
            f"{name}: nnz computes in float32 and float64, and its values are {_short(values.dtype)}; convert it with .float()"
        )
    if x.device.type != "cpu" or values.device.type != "cpu":
        where = x.device if x.device.type != "cpu" else values.device
        raise ValueError(
            f"{name}: nnz computes on the CPU, and this is on {where}; nnz.torch.decompile(module) goes back to dense layers"
        )
    if x.layout is not torch.strided:
        raise TypeError(f"{name}: the input is {x.layout}; convert it with .to_dense()")
    if x.dtype is not values.dtype:
        if torch.is_autocast_enabled("cpu") and x.is_floating_point() and x.dtype is not torch.float64:
            return x.to(values.dtype).contiguous()
        raise TypeError(
            f"{name}: the input is {_short(x.dtype)} and the values are {_short(values.dtype)}; convert one of them"
        )
    return x.contiguous()


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dense(values: Tensor, positions: Tensor, shape: Sequence[int]) -> Tensor:
    """The dense weight that values at positions make. Differentiable."""
    return values.new_zeros(math.prod(shape)).index_put((positions,), values).view(*shape)


class _LinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, x: Tensor, bias: Tensor | None, positions: Tensor, layer: SparseLayer, out: int) -> Tensor:
        y = x.new_empty((x.shape[0], out))
        plain = None if bias is None else _array(bias)
        # Inputs in the layout of the kernels, which the gradient of the values reads again.
        ctx.kept = layer.forward(_array(values), _array(x), plain, _array(y), keep=ctx.needs_input_grad[0])
        ctx.save_for_backward(values, x, positions)
        ctx.layer, ctx.out = layer, out
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        values, x, positions = ctx.saved_tensors
        of_values, of_x, of_bias = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            # A gradient of this gradient is wanted: in operations of torch, which differentiate any number of times.
            w = _dense(values, positions, (ctx.out, x.shape[1]))
            dvalues = (g.t() @ x).reshape(-1)[positions] if of_values else None
            return dvalues, g @ w if of_x else None, g.sum(0) if of_bias else None, None, None, None
        g = g.contiguous()
        dvalues = torch.empty_like(values) if of_values else None
        dx = torch.empty_like(x) if of_x else None
        dbias = g.new_empty(ctx.out) if of_bias else None
        source = _array(x) if ctx.kept is None else ctx.kept
        ctx.layer.backward(_array(values), source, _array(g), *(None if d is None else _array(d) for d in (dx, dvalues, dbias)))
        return dvalues, dx, dbias, None, None, None


# Zeros above, below, left and right of an image.
_Pads = tuple[int, int, int, int]


class _ConvFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, x: Tensor, bias: Tensor | None, positions: Tensor, owner: SparseConv2d, pads: _Pads) -> Tensor:
        ctx.save_for_backward(values, x, positions)
        ctx.layer = owner._kernel()
        ctx.form = (owner._shape, owner.stride, pads, owner.dilation, owner.groups)
        return owner._convolve(values, x, bias, pads)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        values, x, positions = ctx.saved_tensors
        shape, stride, (top, below, left, right), dilation, groups = ctx.form
        of_values, of_x, of_bias = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            w = _dense(values, positions, shape)
            padded = F.pad(x, (left, right, top, below))
            dvalues = dx = None
            if of_values:
                dw = torch.nn.grad.conv2d_weight(padded, shape, g, stride, 0, dilation, groups)
                dvalues = dw.reshape(-1)[positions]
            if of_x:
                dx = torch.nn.grad.conv2d_input(padded.shape, w, g, stride, 0, dilation, groups)
                dx = dx[:, :, top : top + x.shape[2], left : left + x.shape[3]]
            return dvalues, dx, g.sum((0, 2, 3)) if of_bias else None, None, None, None
        g = g.contiguous()
        dvalues = torch.empty_like(values) if of_values else None
        dx = torch.empty_like(x) if of_x else None
        dbias = g.new_empty(shape[0]) if of_bias else None
        outputs = (None if d is None else _array(d) for d in (dx, dvalues, dbias))
        ctx.layer.convolve_backward(_array(values), _array(x), [top, left], _array(g), *outputs)
        return dvalues, dx, dbias, None, None, None


class CompiledModule(nn.Module, abc.ABC):
    """A layer whose parameter `values` is the vector of its nonzeros, in the order of the buffer `positions` (indices into the
    flattened dense weight, ascending). Any optimizer trains it; weights that are not there stay zero."""

    values: nn.Parameter
    positions: Tensor
    _shape: tuple[int, ...]

    def __init__(self, weight: Tensor, bias: nn.Parameter | None, trains: bool):
        super().__init__()
        flat = weight.detach().reshape(-1)
        positions = flat.nonzero().reshape(-1)
        self._shape = tuple(weight.shape)
        self.values = nn.Parameter(flat[positions].clone(), requires_grad=trains)
        self.register_buffer("positions", positions)
        self.register_parameter("bias", bias)
        self._layer: SparseLayer | None = None
        # Where values and bias lie, and arrays of them.
        self._place: tuple[int, int] | None = None
        self._views: tuple[np.ndarray, np.ndarray | None] | None = None

    @property
    def weight(self) -> Tensor:
        """The dense weight, made anew. Differentiable by the values."""
        return _dense(self.values, self.positions, self._shape)

    @property
    def density(self) -> float:
        """Nonzeros / weights."""
        return self.values.numel() / max(1, math.prod(self._shape))

    @abc.abstractmethod
    def to_dense(self) -> nn.Module:
        """The plain layer with the same weight, and the same bias parameter."""

    def _kernel(self) -> SparseLayer:
        if self._layer is None:
            self._layer = self._build()
        return self._layer

    @abc.abstractmethod
    def _build(self) -> SparseLayer:
        """The kernels of its connections."""

    def _grads(self, x: Tensor) -> bool:
        grads = self.values.requires_grad or x.requires_grad or (self.bias is not None and self.bias.requires_grad)
        return grads and torch.is_grad_enabled()

    def _plain_bias(self) -> Tensor | None:
        if self.bias is not None and self.bias.dtype is not self.values.dtype:
            raise TypeError(
                f"{type(self).__name__}: the bias is {_short(self.bias.dtype)} and the values are {_short(self.values.dtype)}; "
                "convert the whole module"
            )
        return self.bias

    def _finish(self, dense: nn.Module) -> nn.Module:
        with torch.no_grad():
            dense.weight = nn.Parameter(self.weight.detach().clone(), requires_grad=self.values.requires_grad)
        dense.bias = self.bias
        dense.train(self.training)
        return dense

    def __getstate__(self) -> dict[str, Any]:
        # The compiled structure follows from the positions.
        return {**self.__dict__, "_layer": None, "_place": None, "_views": None}

    def _load_from_state_dict(self, state: Mapping, prefix: str, meta: Any, strict: bool, missing: list, unexpected: list, errors: list) -> None:
        weight = state.get(prefix + "weight")
        if weight is not None:
            state = {k: v for k, v in state.items() if k != prefix + "weight"}
            if tuple(weight.shape) != self._shape:
                errors.append(f"{prefix}weight has shape {tuple(weight.shape)}, and this layer {self._shape}")
                return
            flat = weight.detach().reshape(-1)
            kept = flat[self.positions.to(flat.device)]
            outside = int(flat.count_nonzero() - kept.count_nonzero())
            if outside:
                errors.append(
                    f"{prefix}weight has {outside} nonzeros where this layer has no connection; load it into the plain module and "
                    "compile that"
                )
                return
            state[prefix + "values"], state[prefix + "positions"] = kept, self.positions
        positions = state.get(prefix + "positions")
        if positions is not None and not torch.equal(positions.to(self.positions.device), self.positions):
            errors.append(f"{prefix}positions are those of other connections; load the plain state_dict and compile that")
            return
        super()._load_from_state_dict(state, prefix, meta, strict, missing, unexpected, errors)

    def _said(self) -> str:
        return f"nonzeros={self.values.numel()}, density={self.density:.3g}, bias={self.bias is not None}"


class SparseLinear(CompiledModule):
    """y = x Wᵀ + b with a sparse W; made of an `nn.Linear` whose weight has zeros."""

    def __init__(self, dense: nn.Linear):
        super().__init__(dense.weight, dense.bias, dense.weight.requires_grad)
        self.in_features, self.out_features = dense.in_features, dense.out_features
        self.train(dense.training)

    def _build(self) -> SparseLayer:
        return SparseLayer(self.out_features, self.in_features, self.positions.numpy())

    def forward(self, input: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and (y := self._quick(input)) is not None:
            return y
        values, bias = self.values, self._plain_bias()
        x = _checked(input, values, "SparseLinear")
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"SparseLinear: an input of shape {tuple(x.shape)}, where the last extent must be {self.in_features}")
        lead = x.shape[:-1]
        rows = x if x.dim() == 2 else x.reshape(math.prod(lead), self.in_features)
        layer = self._kernel()
        if self._grads(rows):
            y = _LinearFunction.apply(values, rows, bias, self.positions, layer, self.out_features)
        else:
            y = rows.new_empty((rows.shape[0], self.out_features))
            layer.forward(_array(values), _array(rows), None if bias is None else _array(bias), _array(y))
        return y if x.dim() == 2 else y.view(*lead, self.out_features)

    def _quick(self, x: Any) -> Tensor | None:
        """The output for rows that need no conversion, with as few steps as can be: one sample takes less time than the usual checks."""
        values, bias = self._parameters["values"], self._parameters["bias"]
        if type(x) is not Tensor or x.dtype is not values.dtype or not (x.is_cpu and x.is_contiguous()) or self._layer is None:
            return None
        rows, shape = x.detach(), x.shape
        if len(shape) != 2 or shape[1] != self.in_features:
            return None
        place = (values.data_ptr(), 0 if bias is None else bias.data_ptr())
        if place != self._place:
            if values.dtype not in _DTYPES or not values.is_cpu or (bias is not None and bias.dtype is not values.dtype):
                return None
            self._place, self._views = place, (_array(values), None if bias is None else _array(bias))
        y = torch.empty(shape[0], self.out_features, dtype=values.dtype)
        self._layer.forward(self._views[0], rows.numpy(), self._views[1], y.numpy())
        return y

    def to_dense(self) -> nn.Linear:
        return self._finish(nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta"))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {self._said()}"


class SparseConv2d(CompiledModule):
    """A convolution with a sparse kernel; made of an `nn.Conv2d` whose weight has zeros."""

    def __init__(self, dense: nn.Conv2d):
        super().__init__(dense.weight, dense.bias, dense.weight.requires_grad)
        for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"):
            setattr(self, name, getattr(dense, name))
        if isinstance(dense.padding, str):
            total = [d * (k - 1) if dense.padding == "same" else 0 for d, k in zip(dense.dilation, dense.kernel_size)]
            (top, left), (below, right) = [t // 2 for t in total], [t - t // 2 for t in total]
        else:
            top, left = below, right = dense.padding
        self._pads: _Pads = (top, below, left, right)
        self.train(dense.training)

    def _build(self) -> SparseLayer:
        rows = self._shape[0]
        window = (self.in_channels, list(self.kernel_size), list(self.stride), list(self.dilation), self.groups)
        return SparseLayer(rows, math.prod(self._shape[1:]), self.positions.numpy(), window)

    def _convolve(self, values: Tensor, x: Tensor, bias: Tensor | None, pads: _Pads) -> Tensor:
        top, below, left, right = pads
        extents = []
        padded = (x.shape[2] + top + below, x.shape[3] + left + right)
        for extent, k, s, d in zip(padded, self.kernel_size, self.stride, self.dilation):
            reach = d * (k - 1) + 1
            if extent < reach:
                raise ValueError(f"SparseConv2d: a kernel that spans {reach} is larger than the padded input, {extent}")
            extents.append((extent - reach) // s + 1)
        y = x.new_empty((x.shape[0], self.out_channels, *extents))
        self._kernel().convolve(_array(values), _array(x), [top, left], None if bias is None else _array(bias), _array(y))
        return y

    def forward(self, input: Tensor) -> Tensor:
        values, bias = self.values, self._plain_bias()
        x = _checked(input, values, "SparseConv2d")
        if x.dim() not in (3, 4) or x.shape[-3] != self.in_channels:
            raise ValueError(
                f"SparseConv2d: an input of shape {tuple(x.shape)}, where (batch, {self.in_channels}, height, width) is needed"
            )
        whole, pads = x if x.dim() == 4 else x.unsqueeze(0), self._pads
        if self.padding_mode != "zeros":
            top, below, left, right = pads
            whole, pads = F.pad(whole, (left, right, top, below), mode=self.padding_mode), (0, 0, 0, 0)
        if self._grads(whole):
            y = _ConvFunction.apply(values, whole, bias, self.positions, self, pads)
        else:
            y = self._convolve(values, whole, bias, pads)
        return y if x.dim() == 4 else y.squeeze(0)

    def to_dense(self) -> nn.Conv2d:
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        form = {name: getattr(self, name) for name in names}
        return self._finish(nn.Conv2d(**form, bias=self.bias is not None, device="meta"))

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        for name, usual in (("padding", (0, 0)), ("dilation", (1, 1)), ("groups", 1), ("padding_mode", "zeros")):
            value = getattr(self, name)
            text += f", {name}={value!r}" if value != usual else ""
        return f"{text}, {self._said()}"


class _ChainFunction(torch.autograd.Function):
    """Of the input, the values of all layers, and their biases."""

    @staticmethod
    def forward(ctx: Any, chain: _Chain, x: Tensor, *parameters: Tensor | None) -> Tensor:
        count = len(chain.layers)
        values, biases = parameters[:count], parameters[count:]
        y = x.new_empty((x.shape[0], chain.layers[-1].out_features))
        arrays = [None if b is None else _array(b) for b in biases]
        ctx.kept = chain.kernel.forward([_array(v) for v in values], _array(x), arrays, _array(y), True)
        ctx.save_for_backward(x, *parameters)
        ctx.chain = chain
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        wanted = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            # A gradient of this gradient is wanted: in operations of torch, which differentiate any number of times.
            inputs = [t for t, w in zip((x, *parameters), wanted) if w]
            found = iter(torch.autograd.grad(ctx.chain.plain(x, parameters), inputs, g, create_graph=True))
            return None, *(next(found) if w else None for w in wanted)
        found = [torch.empty_like(t) if w else None for t, w in zip((x, *parameters), wanted)]
        dx, *arrays = (None if f is None else _array(f) for f in found)
        values, count = [_array(v) for v in parameters[: len(parameters) // 2]], len(parameters) // 2
        ctx.chain.kernel.backward(values, ctx.kept, _array(g.contiguous()), dx, arrays[:count], arrays[count:])
        return None, *found


class _Chain:
    """Sparse linear layers one after another, and whether a ReLU follows each."""

    def __init__(self, layers: list[SparseLinear], relu: list[bool]):
        self.layers, self.relu = layers, relu
        self.kernel = SparseChain([layer._kernel() for layer in layers], relu)
        # Where values and biases lie, and arrays of them.
        self._places: list[int] | None = None
        self._views: tuple[list[np.ndarray], list[np.ndarray | None]] = ([], [])

    def plain(self, x: Tensor, parameters: Sequence[Tensor | None]) -> Tensor:
        """The same in operations of torch."""
        count = len(self.layers)
        for layer, relu, values, bias in zip(self.layers, self.relu, parameters[:count], parameters[count:]):
            x = F.linear(x, _dense(values, layer.positions, layer._shape), bias)
            x = F.relu(x) if relu else x
        return x

    def __call__(self, input: Tensor) -> Tensor | None:
        """The output; none if one layer must look at its own input, which then says why it cannot be."""
        first = self.layers[0]
        if not isinstance(input, Tensor) or input.dim() == 0 or input.shape[-1] != first.in_features:
            return None
        parameters = [layer.values for layer in self.layers]
        if any(v.dtype is not parameters[0].dtype for v in parameters):
            return None
        parameters += [layer._plain_bias() for layer in self.layers]
        x = _checked(input, parameters[0], "SparseLinear")
        lead = x.shape[:-1]
        rows = x if x.dim() == 2 else x.reshape(math.prod(lead), first.in_features)
        if torch.is_grad_enabled() and (rows.requires_grad or any(p is not None and p.requires_grad for p in parameters)):
            y = _ChainFunction.apply(self, rows, *parameters)
        else:
            arrays, count = [None if p is None else _array(p) for p in parameters], len(self.layers)
            self._places, self._views = self._lie(), (arrays[:count], arrays[count:])
            y = rows.new_empty((rows.shape[0], self.layers[-1].out_features))
            self.kernel.forward(self._views[0], _array(rows), self._views[1], _array(y))
        return y if x.dim() == 2 else y.view(*lead, y.shape[1])

    def _lie(self) -> list[int]:
        places = []
        for layer in self.layers:
            own = layer._parameters
            values, bias = own["values"], own["bias"]
            places += (values.data_ptr(), 0 if bias is None else bias.data_ptr())
        return places

    def quick(self, x: Any) -> Tensor | None:
        """The output for rows that need no conversion and no gradient, with as few steps as can be: one sample takes less time than the
        usual checks."""
        if type(x) is not Tensor or self._places is None or not (x.is_cpu and x.is_contiguous()):
            return None
        shape, values = x.shape, self.layers[0]._parameters["values"]
        if len(shape) != 2 or shape[1] != self.layers[0].in_features or x.dtype is not values.dtype or self._lie() != self._places:
            return None
        y = torch.empty(shape[0], self.layers[-1].out_features, dtype=x.dtype)
        self.kernel.forward(self._views[0], x.detach().numpy(), self._views[1], y.numpy())
        return y


def _hooked(module: nn.Module) -> bool:
    """Whether somebody looks at what goes in or out of a module."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)


class SparseSequential(nn.Sequential):
    """An `nn.Sequential` whose sparse linear layers, with a ReLU between them or not, compute in one go: what lies between them stays in
    the layout of the kernels. Its modules are those of the `nn.Sequential` that it was, under the same names; where one of
    them has hooks, each computes on its own."""

    # The modules seen last, and what they are computed by.
    _seen: tuple[list[nn.Module], list[_Chain | nn.Module]] | None = None

    def forward(self, input: Any) -> Any:
        modules = list(self._modules.values())
        if self._seen is None or modules != self._seen[0]:
            self._seen = (modules, _chained(modules))
        watched = torch.nn.modules.module._has_any_global_hook() or any(map(_hooked, modules))
        learns = torch.is_grad_enabled()
        for part in modules if watched else self._seen[1]:
            if type(part) is _Chain:
                y = None if learns else part.quick(input)
                y = part(input) if y is None else y
                if y is None:
                    for layer, relu in zip(part.layers, part.relu):
                        input = layer(input)
                        input = F.relu(input) if relu else input
                else:
                    input = y
            else:
                input = part(input)
        return input

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_seen": None}


def _chained(modules: Sequence[nn.Module]) -> list[_Chain | nn.Module]:
    """Modules with chains in the place of those that a chain computes."""
    parts: list[_Chain | nn.Module] = []
    at = 0
    while at < len(modules):
        layers, relu, first = [], [], at
        while at < len(modules) and type(modules[at]) is SparseLinear and (not layers or layers[-1].out_features == modules[at].in_features):
            layers.append(modules[at])
            relu.append(at + 1 < len(modules) and type(modules[at + 1]) is nn.ReLU)
            at += 1 + relu[-1]
        if at - first > 1:
            parts.append(_Chain(layers, relu))
        else:
            at = first + 1
            parts.append(modules[first])
    return parts


def _chain_sequences(module: nn.Module) -> None:
    """Lets plain sequences compute chains of sparse layers."""
    for part in module.modules():
        if type(part) is nn.Sequential and any(type(p) is _Chain for p in _chained(list(part._modules.values()))):
            part.__class__ = SparseSequential


_SPARSE: dict[type, type[CompiledModule]] = {nn.Linear: SparseLinear, nn.Conv2d: SparseConv2d}


# --------------------------------------------------------------------------------------------------------------------------
# Compiling


def _parents(module: nn.Module) -> Iterable[tuple[nn.Module, str, str, nn.Module]]:
    """Every place of a layer: its parent, its name there, its full name, and it."""
    for path, parent in module.named_modules(remove_duplicate=False):
        for name, child in list(parent._modules.items()):
            yield parent, name, f"{path}.{name}" if path else name, child


def _shared(module: nn.Module) -> set[int]:
    """Parameters that more than one layer has."""
    owners: dict[int, set[int]] = {}
    for owner in module.modules():
        for parameter in owner._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), set()).add(id(owner))
    return {parameter for parameter, all in owners.items() if len(all) > 1}


def _bake(layer: nn.Module) -> None:
    """Makes the weight of a layer a plain parameter again that masks of `torch.nn.utils.prune` or of ours hold zero."""
    if hasattr(layer, "weight_orig") and hasattr(layer, "weight_mask"):
        torch.nn.utils.prune.remove(layer, "weight")
    kept = getattr(layer, "_nnz_kept", None)
    if kept is not None:
        kept.remove()


def _hindrance(layer: nn.Module, shared: set[int]) -> str | None:
    """Why a layer stays dense whatever its density."""
    if type(layer) not in _SPARSE:
        return f"nn.Linear and nn.Conv2d have sparse kernels, and this is {type(layer).__name__}"
    if id(layer.weight) in shared or (layer.bias is not None and id(layer.bias) in shared):
        return "another layer has the same parameter"
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        return "it has hooks, which would be lost; remove them first"
    if layer.weight.dtype not in _DTYPES:
        return f"nnz computes in float32 and float64, and its weight is {_short(layer.weight.dtype)}"
    if layer.weight.device.type != "cpu":
        return f"nnz computes on the CPU, and its weight is on {layer.weight.device}"
    return None


def _density(weight: Tensor) -> float:
    return int(weight.detach().count_nonzero()) / max(1, weight.numel())


def _median(run: Callable[[], None], least: int = 5, seconds: float = 0.2) -> float:
    run()
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < least or (time.perf_counter() - begin < seconds and len(times) < 200):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _pass(module: Callable[..., Any], args: tuple, kwargs: dict, backward: bool) -> None:
    if not backward:
        with torch.no_grad():
            module(*args, **kwargs)
        return
    output = module(*args, **kwargs)
    sum_ = sum(t.float().sum() for t in _tensors(output) if t.requires_grad)
    if isinstance(sum_, Tensor):
        sum_.backward()


def _tensors(thing: Any) -> Iterable[Tensor]:
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, Mapping):
        for value in thing.values():
            yield from _tensors(value)
    elif isinstance(thing, (list, tuple)):
        for value in thing:
            yield from _tensors(value)


def _called(example: Any) -> tuple[tuple, dict]:
    if isinstance(example, Mapping):
        return (), dict(example)
    return (tuple(example), {}) if isinstance(example, tuple) else ((example,), {})


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """A module in evaluation mode, so that looking at it changes no running mean."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training


def _inputs(module: nn.Module, layers: Iterable[nn.Module], args: tuple, kwargs: dict) -> dict[int, Tensor]:
    """What each layer reads in one pass."""
    seen: dict[int, Tensor] = {}

    def look(layer: nn.Module, inputs: tuple) -> None:
        seen.setdefault(id(layer), inputs[0].detach().clone())

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        with torch.no_grad(), _evaluating(module):
            module(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _faster(dense: nn.Module, sparse: CompiledModule, x: Tensor, training: bool) -> bool:
    """Whether a layer computes faster sparse on what it reads."""
    x = x.requires_grad_(training and x.is_floating_point())
    times = []
    for layer in (dense, sparse):
        saved = [(p, p.grad) for p in layer.parameters()]
        times.append(_median(lambda: _pass(layer, (x,), {}, training), seconds=0.05))
        for p, grad in saved:
            p.grad = grad
    x.grad = None
    return times[1] < times[0]


def compile(
    module: nn.Module,
    example: Any = None,
    *,
    density: float | None = None,
    note: Callable[[str], None] | None = print,
) -> nn.Module:
    """Replaces pruned `nn.Linear` and `nn.Conv2d` layers of a module, in place, by sparse ones, and returns it (or the layer that
    takes its place, if it is one itself). Make the optimizer afterwards: the parameters are others.

    `example` is an input of the module: a tensor, a tuple of arguments, or a dictionary of named ones. With it every candidate is
    measured on what it reads, forward and backward in training mode, and replaced if that is faster; then the whole
    module is, before and after, and `note` is told the gain. Without it, layers up to a density are replaced: `density`, or
    linear layers up to 0.25. `density` with an example bounds what is measured.

    Layers stay dense that share a parameter with another one, have hooks, are not in float32 or float64, or not on the CPU; `note`
    is told why. Zeros are the weights that are exactly zero, and stay zero from now on.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"compile: an nn.Module is needed, got {type(module).__name__}")
    if density is not None and not 0.0 <= density <= 1.0:
        raise ValueError(f"compile: density must be from 0 to 1, got {density}")
    say = note or (lambda _: None)
    for layer in module.modules():
        if type(layer) in _SPARSE:
            _bake(layer)
    shared, chosen = _shared(module), {}
    names = {id(layer): name for name, layer in module.named_modules()}
    for layer in module.modules():
        if not isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
            continue
        blind = density is None and example is None
        most = density if density is not None else PAYS.get(type(layer), 1.0) if blind else 1.0
        found = _density(layer.weight)
        if found == 1.0 or found > most:
            continue
        why = _hindrance(layer, shared)
        if not why and blind and type(layer) not in PAYS:
            why = "convolutions seldom gain; give an example to measure on, or a density"
        if why:
            say(f"{names[id(layer)] or type(layer).__name__} stays dense at density {found:.3g}: {why}")
        else:
            chosen[id(layer)] = layer
    before = None
    if example is not None and chosen:
        args, kwargs = _called(example)
        seen = _inputs(module, chosen.values(), args, kwargs)
        training = module.training
        before = copy.deepcopy(module)
        for key, layer in list(chosen.items()):
            if key not in seen:
                say(f"{names[key]} stays dense: the example does not reach it")
                del chosen[key]
            elif not _faster(copy.deepcopy(layer), _SPARSE[type(layer)](copy.deepcopy(layer)), seen[key], training):
                say(f"{names[key] or type(layer).__name__} stays dense at density {_density(layer.weight):.3g}: it is faster so")
                del chosen[key]
    made = {key: _SPARSE[type(layer)](layer) for key, layer in chosen.items()}
    places = [(parent, name, made[id(child)]) for parent, name, _, child in _parents(module) if id(child) in made]
    for parent, name, sparse in places:
        setattr(parent, name, sparse)
    module = made.get(id(module), module)
    _chain_sequences(module)
    if example is not None:
        if not made:
            say("no layer is faster sparse")
        else:
            say(_gain(before, copy.deepcopy(module), *_called(example), len(made)))
    return module


def _gain(before: nn.Module, after: nn.Module, args: tuple, kwargs: dict, count: int) -> str:
    """The time of a module with and without its sparse layers, measured in turns."""
    said = []
    kinds = [False, True] if after.training and any(p.requires_grad for p in after.parameters()) else [False]
    for backward in kinds:
        times: tuple[list[float], list[float]] = ([], [])
        for turn in range(11):
            for module, into in zip((before, after), times):
                start = time.perf_counter()
                _pass(module, args, kwargs, backward)
                if turn:
                    into.append(time.perf_counter() - start)
        old, new = (statistics.median(t) for t in times)
        what = "forward and backward" if backward else "forward"
        said.append(f"{what} {old * 1e3:.3g} ms before and {new * 1e3:.3g} ms now ({old / new:.2g} times as fast)")
    return f"{count} sparse layer{'s' if count != 1 else ''}: {', '.join(said)}"


def decompile(module: nn.Module) -> nn.Module:
    """Replaces sparse layers by plain ones with the same weights, in place, and returns the module (or the layer in its place)."""
    for part in module.modules():
        if type(part) is SparseSequential:
            part.__class__ = nn.Sequential
            part.__dict__.pop("_seen", None)
    made = {id(layer): layer.to_dense() for layer in module.modules() if isinstance(layer, CompiledModule)}
    places = [(parent, name, made[id(child)]) for parent, name, _, child in _parents(module) if id(child) in made]
    for parent, name, dense in places:
        setattr(parent, name, dense)
    return made.get(id(module), module)


def state_dict(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module as if its layers were plain: what `load_state_dict` of the module before `compile` takes."""
    state = dict(module.state_dict())
    for name, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, CompiledModule):
            prefix = f"{name}." if name else ""
            order = list(state.items())
            state = {}
            for key, value in order:
                if key == prefix + "values":
                    state[prefix + "weight"] = layer.weight.detach()
                elif key != prefix + "positions":
                    state[key] = value
    return state


# --------------------------------------------------------------------------------------------------------------------------
# Weights that methods act on


@dataclass(frozen=True)
class LayerReport:
    """One weight: its name, extents, number of entries and of nonzeros."""

    name: str
    shape: tuple[int, ...]
    weights: int
    nonzeros: int

    @property
    def density(self) -> float:
        return self.nonzeros / max(1, self.weights)


@dataclass(frozen=True)
class _Weight:
    name: str
    parameter: Tensor
    layer: nn.Module | None
    head: bool

    def form(self) -> tuple[str, int, int, list[int], bool, str]:
        """What a method is told of its shape."""
        shape = self.parameter.shape
        kernel = list(shape[2:4]) if len(shape) == 4 else [1, 1]
        role = "convolution" if len(shape) == 4 else "linear"
        return (self.name, shape[0], math.prod(shape[1:]), kernel, self.head, role)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    stem = name.removesuffix(".weight")
    return any(fnmatch.fnmatchcase(name, p) or fnmatch.fnmatchcase(stem, p) for p in patterns)


def _select(
    found: list[tuple[str, Tensor, nn.Module | None]],
    who: str,
    layers: Sequence[str] | None,
    keep: Sequence[str],
    prune_head: bool,
) -> list[_Weight]:
    """The weights that a method acts on: all but the last, or those that match `layers`, without those that match `keep`."""
    if not found:
        raise ValueError(f"{who}: there is no weight of an nn.Linear or nn.Conv2d to prune")
    layers = [layers] if isinstance(layers, str) else layers
    keep = [keep] if isinstance(keep, str) else keep
    for pattern in [*(layers or ()), *keep]:
        if not any(_matches(name, [pattern]) for name, *_ in found):
            raise ValueError(f"{who}: no weight is named `{pattern}`; there are {', '.join(n for n, *_ in found)}")
    last = found[-1][1]
    chosen = []
    for name, parameter, layer in found:
        head = parameter is last
        wanted = _matches(name, layers) if layers is not None else prune_head or not head or len(found) == 1
        if wanted and not _matches(name, keep):
            chosen.append(_Weight(name, parameter, layer, head))
    if not chosen:
        raise ValueError(f"{who}: every weight is kept; name some with layers=, or give prune_head=True")
    return chosen


def _weights_of(module: nn.Module, who: str) -> list[tuple[str, Tensor, nn.Module | None]]:
    found: list[tuple[str, Tensor, nn.Module | None]] = []
    seen: set[int] = set()
    for name, layer in module.named_modules():
        if isinstance(layer, CompiledModule):
            raise ValueError(f"{who}: `{name}` is compiled; nnz.torch.decompile(module) first")
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            if not isinstance(layer._parameters.get("weight"), Tensor):
                raise ValueError(f"{who}: the weight of `{name}` is made of other parameters; remove its parametrization first")
            if id(layer.weight) not in seen:
                seen.add(id(layer.weight))
                found.append((f"{name}.weight" if name else "weight", layer.weight, layer))
    return found


class _Views:
    """Weights and masks as arrays that methods read and write: the memory of the tensors where it can be, else copies."""

    def __init__(self, weights: Sequence[_Weight], masks: Sequence[Tensor]):
        self.tensors = [w.parameter.detach() for w in weights]
        self.masks = list(masks)
        self.arrays = [_flat(t) for t in self.tensors]
        self.bools = [_flat(m) for m in self.masks]

    def write(self) -> None:
        """Writes what are copies back."""
        for tensors, arrays in ((self.tensors, self.arrays), (self.masks, self.bools)):
            for tensor, array in zip(tensors, arrays):
                if array.ctypes.data != tensor.data_ptr():
                    tensor.copy_(torch.from_numpy(array).view(tensor.shape))
        for tensor in self.tensors:
            # Written behind the back of autograd.
            torch.autograd.graph.increment_version(tensor)


def _flat(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.dtype not in (*_DTYPES, torch.bool):
        tensor = tensor.float()
    return tensor.cpu().contiguous().reshape(-1).numpy()


def _options(who: str, method: str, density: float | None, distribution: str | None, pattern: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """A table of options; those of the signature under their names, in every spelling of Python."""
    known = json.loads(method_defaults(method))
    given = {**options}
    for name, value in (("density", density), ("distribution", distribution), ("pattern", pattern)):
        if value is not None:
            if name not in known:
                raise ValueError(f"{who}: {method} has no option `{name}`; it has {', '.join(known)}")
            given[name] = value
    for name, value in list(given.items()):
        spelt = name.replace("_", "-")
        if name not in known and spelt in known:
            given[spelt] = given.pop(name)
    if isinstance(given.get("every"), int) and isinstance(known.get("every"), str):
        given["every"] = f"{given['every']} steps"
    if isinstance(given.get("until"), int) and isinstance(known.get("until"), str):
        given["until"] = f"{given['until']} steps"
    return given


# --------------------------------------------------------------------------------------------------------------------------
# Pruning


@dataclass(frozen=True)
class Pruned:
    """What pruning left: the method, each layer that it may prune, and the handle that keeps zeros zero, if asked for."""

    method: str
    layers: tuple[LayerReport, ...]
    kept: Kept | None = None

    @property
    def density(self) -> float:
        """Nonzeros / weights of all these layers."""
        return sum(l.nonzeros for l in self.layers) / max(1, sum(l.weights for l in self.layers))

    def __str__(self) -> str:
        wide = max(len(l.name) for l in self.layers)
        lines = [f"{l.name:<{wide}}  {l.nonzeros:>10} of {l.weights:>10}  {l.density:.4f}" for l in self.layers]
        return "\n".join([f"{self.method}: density {self.density:.4f}", *lines])


class Kept:
    """Keeps weights zero that are zero: their gradients are masked, and the weights before every forward pass."""

    def __init__(self, weights: Sequence[_Weight], masks: Sequence[Tensor]):
        self._hooks = []
        self._layers = [w.layer for w in weights if w.layer is not None]
        for weight, mask in zip(weights, masks):
            self._hooks.append(weight.parameter.register_hook(lambda g, mask=mask: g * mask))

            def clear(layer: nn.Module, _: Any, mask: Tensor = mask, parameter: Tensor = weight.parameter) -> None:
                with torch.no_grad():
                    parameter.mul_(mask)

            if weight.layer is not None:
                self._hooks.append(weight.layer.register_forward_pre_hook(clear))
                weight.layer._nnz_kept = self

    def remove(self) -> None:
        """Lets the zeros move again."""
        for hook in self._hooks:
            hook.remove()
        for layer in self._layers:
            layer.__dict__.pop("_nnz_kept", None)
        self._hooks, self._layers = [], []


def prune(
    module: nn.Module,
    method: str = "magnitude",
    density: float | None = None,
    *,
    data: Iterable[Any] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    score: Callable[[nn.Module], float] | None = None,
    distribution: str | None = None,
    pattern: str | None = None,
    layers: Sequence[str] | None = None,
    keep: Sequence[str] = (),
    prune_head: bool = False,
    keep_zeros: bool = False,
    seed: int = 0,
    **options: Any,
) -> Pruned:
    """Prunes the weights of the `nn.Linear` and `nn.Conv2d` layers of a trained module in place, by a method of `nnz methods`, once.

    `data` are batches for methods that look at inputs or gradients: tensors, pairs (input, target), or dictionaries of named
    arguments. `loss(output, target)` is for methods that need gradients; the cross-entropy of integer targets without it, or the
    output's own `.loss`. `score(module)` is for methods that search: more is better. `layers` and `keep` are names, `*` included;
    the last weight is left alone unless `prune_head`. `keep_zeros` registers hooks that keep zeros zero in training
    (`report.kept.remove()` takes them away). Other keywords are options of the method (`nnz show METHOD`).
    """
    found = _weights_of(module, "prune")
    weights = _select(found, "prune", layers, keep, prune_head)
    given = _options("prune", method, density, distribution, pattern, options)
    work = Rewiring(method, json.dumps(given), [w.form() for w in weights], seed, 0, 1, True)
    masks = [torch.ones(w.parameter.shape, dtype=torch.bool, device=w.parameter.device) for w in weights]
    views = _Views(weights, masks)
    batches = None if data is None else ([data] if isinstance(data, (Tensor, Mapping)) else list(data))
    measuring = _Measuring(module, weights, batches, loss, method)
    before = [t.clone() for t in views.tensors]

    def measure(asked: dict[str, Any]) -> dict[str, Any]:
        views.write()
        return measuring.measure(asked)

    def scored() -> float:
        views.write()
        return float(score(module))

    try:
        work.prune(views.arrays, views.bools, measure, scored if score is not None else None)
    except BaseException:
        # All or nothing.
        for tensor, old in zip(views.tensors, before):
            tensor.copy_(old)
        raise
    views.write()
    kept = Kept(weights, masks) if keep_zeros else None
    reports = (LayerReport(w.name, tuple(m.shape), m.numel(), int(m.count_nonzero())) for w, m in zip(weights, masks))
    return Pruned(method, tuple(reports), kept)


class _Measuring:
    """Measures what methods ask for on the batches that were given."""

    def __init__(self, module: nn.Module, weights: Sequence[_Weight], batches: list[Any] | None, loss: Callable[[Any, Any], Tensor] | None, method: str):
        self.module, self.weights, self.batches, self.loss, self.method = module, weights, batches, loss, method

    def measure(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["momentum"]:
            raise ValueError(f"{self.method} looks at the momentum of an optimizer; nnz.torch.attach gives it that")
        if asked["data"] and not self.batches:
            raise ValueError(f"{self.method} measures on data; give batches with data=")
        with _evaluating(self.module):
            found: dict[str, Any] = {}
            if asked["gradient"]:
                found["gradient"] = self._gradients()
            if asked["hessian_gradient"] is not None:
                found["hessian_gradient"] = self._hessian_gradients(asked["hessian_gradient"])
            if asked["synaptic_flow"]:
                found["synaptic_flow"] = self._flow()
            if asked["gram"] is not None:
                found["gram"], found["mean"] = self._moments(self.weights[asked["gram"]])
            return found

    def _forward(self, batch: Any) -> tuple[Any, Any, int]:
        """Output, target and rows of a batch."""
        if isinstance(batch, Mapping):
            first = next(_tensors(batch))
            return self.module(**batch), batch, len(first)
        if isinstance(batch, (list, tuple)):
            if len(batch) != 2:
                raise ValueError(f"prune: a batch is a tensor, a pair of input and target, or a dictionary, and one has {len(batch)} parts")
            return self.module(batch[0]), batch[1], len(batch[0])
        return self.module(batch), None, len(batch)

    def _loss(self, output: Any, target: Any, temperature: float = 1.0) -> Tensor:
        if self.loss is None and getattr(output, "loss", None) is not None:
            if temperature != 1.0:
                raise ValueError(f"{self.method} divides logits by a temperature; give loss=, a function of output and target")
            return output.loss
        if isinstance(output, Tensor) and temperature != 1.0:
            output = output / temperature
        if self.loss is not None:
            return self.loss(output, target)
        if isinstance(output, Tensor) and isinstance(target, Tensor) and not target.is_floating_point():
            return F.cross_entropy(output, target)
        raise ValueError(f"{self.method} needs gradients; give loss=, a function of output and target, and data= with targets")

    def _mean(self, of: Callable[[Any, Any], Sequence[Tensor]]) -> list[np.ndarray]:
        """The mean over rows of tensors that each batch gives."""
        sums, rows = [0.0] * len(self.weights), 0
        for batch in self.batches or ():
            with torch.enable_grad():
                output, target, count = self._forward(batch)
                for i, tensor in enumerate(of(output, target)):
                    sums[i] = sums[i] + tensor.detach().double() * count
            rows += count
        return [np.ascontiguousarray((s / rows).cpu().reshape(-1).numpy()) for s in sums]

    def _parameters(self) -> list[Tensor]:
        frozen = [w.name for w in self.weights if not w.parameter.requires_grad]
        if frozen:
            raise ValueError(f"{self.method} needs gradients, and {', '.join(frozen)} has requires_grad=False")
        return [w.parameter for w in self.weights]

    def _gradients(self) -> list[np.ndarray]:
        parameters = self._parameters()
        return self._mean(lambda o, t: _defined(torch.autograd.grad(self._loss(o, t), parameters, allow_unused=True), parameters))

    def _hessian_gradients(self, temperature: float) -> list[np.ndarray]:
        own = self._parameters()
        # All weights: those of other layers are directions, too.
        every = [p for p in self.module.parameters() if p.requires_grad and p.dim() > 1]
        with torch.enable_grad():
            total = sum(len(next(_tensors(b))) for b in self.batches or ())
            losses = []
            for batch in self.batches or ():
                output, target, count = self._forward(batch)
                losses.append(self._loss(output, target, temperature) * (count / total))
            whole = sum(losses)
            gradients = _defined(torch.autograd.grad(whole, every, create_graph=True, allow_unused=True), every)
            product = sum((g * g.detach()).sum() for g in gradients)
            found = _defined(torch.autograd.grad(product, own, allow_unused=True), own)
        return [np.ascontiguousarray(f.detach().double().cpu().reshape(-1).numpy()) for f in found]

    def _flow(self) -> list[np.ndarray]:
        """∂R/∂|w| / R with R = Σ outputs for an input of ones through |parameters|, in 64 bits."""
        if not self.batches:
            raise ValueError(f"{self.method} sends ones through the network; give a batch with data=, for its shape")
        batch = self.batches[0]
        x = batch[0] if isinstance(batch, (list, tuple)) else batch
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise ValueError(f"{self.method} sends ones through the network, whose input must be a tensor of numbers")
        module = copy.deepcopy(self.module).double()
        layers = dict(module.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.abs_()
        own = [layers[w.name] for w in self.weights]
        with torch.enable_grad():
            flow = sum(t.sum() for t in _tensors(module(torch.ones_like(x[:1], dtype=torch.float64))))
            total = float(flow.detach())
            if not (math.isfinite(total) and total > 0.0):
                raise ValueError(f"{self.method}: the flow through the network is {total}: its layers cannot be scored so")
            found = _defined(torch.autograd.grad(flow / flow.detach(), own, allow_unused=True), own)
        return [np.ascontiguousarray(f.detach().cpu().reshape(-1).numpy()) for f in found]

    def _moments(self, weight: _Weight) -> tuple[np.ndarray, np.ndarray]:
        """The means of x xᵀ and of x over what a layer reads, after the layers before it as they are now."""
        layer = weight.layer
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            raise ValueError(f"{self.method} looks at inputs, and `{weight.name}` has groups; leave it out with keep=")
        cols = math.prod(weight.parameter.shape[1:])
        square = torch.zeros(cols, cols, dtype=torch.float64)
        first, rows = torch.zeros(cols, dtype=torch.float64), 0

        def look(_: nn.Module, inputs: tuple) -> None:
            nonlocal rows
            x = inputs[0].detach()
            if isinstance(layer, nn.Conv2d):
                mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
                x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
                x = F.unfold(x, layer.kernel_size, layer.dilation, 0, layer.stride).transpose(1, 2)
            x = x.reshape(-1, cols).double().cpu()
            square.addmm_(x.t(), x)
            first.add_(x.sum(0))
            rows += len(x)

        hook = layer.register_forward_pre_hook(look)
        try:
            with torch.no_grad():
                for batch in self.batches or ():
                    self._forward(batch)
        finally:
            hook.remove()
        if rows == 0:
            raise ValueError(f"{self.method} looks at inputs, and the data does not reach `{weight.name}`; leave it out with keep=")
        return (square / rows).reshape(-1).numpy(), (first / rows).numpy()


def _defined(found: Sequence[Tensor | None], of: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(p) if f is None else f for f, p in zip(found, of)]


# --------------------------------------------------------------------------------------------------------------------------
# Dynamic sparse training

# Optimizers of torch whose update of an entry depends on that entry and its own state alone, which begins at zero.
_ELEMENTWISE = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop")
_FOREVER = 1 << 62


class _Entries:
    """The connections of one weight, which stand for it while the optimizer makes its step: so it updates, and remembers, them alone."""

    def __init__(self, parameter: Tensor, mask: Tensor):
        self.positions = np.flatnonzero(_flat(mask)).astype(np.int32)
        self.values = torch.empty(len(self.positions), dtype=parameter.dtype)
        self.grad = torch.empty_like(self.values)

    def lists(self, parameter: Tensor) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """What is gathered: the weight, where, and into what; and the same of its gradient."""
        return [
            (_array(parameter), self.positions, self.values.numpy()),
            (_array(parameter.grad), self.positions, self.grad.numpy()),
        ]

    def enter(self, optimizer: torch.optim.Optimizer, group: dict[str, Any], place: int, parameter: Tensor) -> None:
        """Takes the place of the weight, when its entries are gathered."""
        self.values.grad = self.grad
        group["params"][place] = self.values
        if parameter in optimizer.state:
            state = optimizer.state[self.values] = optimizer.state.pop(parameter)
            for name, value in state.items():
                # The state of a whole weight, from before it was attached or from a file.
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[name] = self.of(value)

    def leave(self, optimizer: torch.optim.Optimizer, group: dict[str, Any], place: int, parameter: Tensor) -> None:
        """Gives it back, when what became of the values is scattered."""
        group["params"][place] = parameter
        torch.autograd.graph.increment_version(parameter)
        if self.values in optimizer.state:
            optimizer.state[parameter] = optimizer.state.pop(self.values)
        self.values.grad = None

    def of(self, whole: Tensor) -> Tensor:
        """The entries of a whole array."""
        return whole.reshape(-1)[torch.from_numpy(self.positions).long()]

    def whole(self, entries: Tensor, like: Tensor) -> Tensor:
        """An array with these entries and zeros. What is whole already is returned."""
        if entries.shape != self.values.shape:
            return entries
        all = torch.zeros(like.shape, dtype=entries.dtype)
        all.view(-1)[torch.from_numpy(self.positions).long()] = entries
        return all


class Attached:
    """A method at work on an optimizer: `attach` makes it.

    Between two rewirings gradients are masked as they are computed, and the optimizer updates the connections alone: its state for a
    weight of float32 or float64 on the CPU is one vector over the connections, in their order. `remove` makes it whole again.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, weights: Sequence[_Weight], work: Rewiring, about: dict[str, Any], drawn: bool):
        self.optimizer, self.step = optimizer, 0
        self.grown = self.pruned = 0
        self._weights, self._work, self._about = list(weights), work, about
        self._parameters = [w.parameter for w in weights]
        self._masks = [torch.ones(p.shape, dtype=torch.bool, device=p.device) for p in self._parameters]
        views = _Views(self._weights, self._masks)
        if not drawn:
            for mask, p in zip(self._masks, self._parameters):
                mask.copy_(p.detach() != 0)
        elif work.start(views.bools):
            views.write()
        self._clear()
        self._exact = type(optimizer).__module__.startswith("torch.optim") and type(optimizer).__name__ in _ELEMENTWISE
        self._proximal = work.proximal
        self._plan = work.plan(0)
        self._withheld: list[tuple[Tensor, Tensor | None]] | None = None
        self._dense = [True] * len(weights)
        self._swapped: list[tuple[_Entries, dict[str, Any], int, Tensor]] = []
        self._list()
        self._hooks = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]
        for i, parameter in enumerate(self._parameters):
            if parameter.requires_grad:
                self._hooks.append(parameter.register_post_accumulate_grad_hook(lambda p, i=i: self._masked(i)))

    @property
    def masks(self) -> dict[str, Tensor]:
        """The connections that exist, by the name of the weight."""
        return {w.name: m for w, m in zip(self._weights, self._masks)}

    @property
    def layers(self) -> tuple[LayerReport, ...]:
        """Each weight and its nonzeros."""
        all = zip(self._weights, self._masks)
        return tuple(LayerReport(w.name, tuple(m.shape), m.numel(), int(m.count_nonzero())) for w, m in all)

    @property
    def density(self) -> float:
        """Connections / weights."""
        return sum(int(m.count_nonzero()) for m in self._masks) / sum(m.numel() for m in self._masks)

    def __repr__(self) -> str:
        return f"<{self._about['method']} attached to {type(self.optimizer).__name__}: step {self.step}, density {self.density:.4g}>"

    def remove(self) -> None:
        """Takes the hooks away. Weights stay as they are."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for parameter, entries in zip(self._parameters, self._entries):
            state = self.optimizer.state.get(parameter, {})
            for name, value in state.items():
                if entries is not None and isinstance(value, Tensor):
                    state[name] = entries.whole(value, parameter)

    def _list(self) -> None:
        """Lists the connections of weights that the optimizer may see as such."""

        def possible(p: Tensor) -> bool:
            usual = p.device.type == "cpu" and p.dtype in _DTYPES and p.is_contiguous() and p.numel() < 1 << 31
            return self._exact and usual and bool(p.numel())

        pairs = zip(self._parameters, self._masks)
        self._entries = [_Entries(p, m) if possible(p) else None for p, m in pairs]

    def _place(self, parameter: Tensor) -> tuple[dict[str, Any], int]:
        for group in self.optimizer.param_groups:
            for place, p in enumerate(group["params"]):
                if p is parameter:
                    return group, place
        raise ValueError("attach: the optimizer has lost a weight that is rewired; call remove() before its groups are changed")

    def _restore(self) -> None:
        """Puts weights back in the place of their connections."""
        _by_type(scatter, [e.lists(parameter)[0] for e, _, _, parameter in self._swapped])
        for entries, group, place, parameter in self._swapped:
            entries.leave(self.optimizer, group, place, parameter)
        self._swapped = []

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on exactly as it would have; keep it beside those of the module and the optimizer."""
        masks = {w.name: torch.from_numpy(np.packbits(_flat(m).view(np.uint8))) for w, m in zip(self._weights, self._masks)}
        here = {"step": self.step, "grown": self.grown, "pruned": self.pruned, "nonzeros": self._nonzeros(), "masks": masks}
        return {**self._about, **here, "state": self._work.state()}

    def _nonzeros(self) -> list[int]:
        return [int(p.detach().count_nonzero()) for p in self._parameters]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken: attach, load the states of the module and of the optimizer, then this one."""
        for key, here in self._about.items():
            if state.get(key) != here:
                raise ValueError(f"attach: this state has {key} {state.get(key)!r}, and here it is {here!r}")
        masks = state["masks"]
        if list(masks) != [w.name for w in self._weights]:
            raise ValueError(f"attach: this state is of the weights {', '.join(masks)}, and here they are {', '.join(self.masks)}")
        if self._nonzeros() != state["nonzeros"]:
            raise ValueError(
                "attach: the weights are not those that this state was saved with; attach first, which may clear weights, then load the "
                "states of the module and of the optimizer, then this one"
            )
        bools = []
        for (name, packed), mask in zip(masks.items(), self._masks):
            if packed.numel() != (mask.numel() + 7) // 8:
                raise ValueError(f"attach: the mask of `{name}` in this state is for another shape than {tuple(mask.shape)}")
            bools.append(torch.from_numpy(np.unpackbits(packed.cpu().numpy(), count=mask.numel()).view(bool)))
        self._work.restore(state["state"])
        for mask, found in zip(self._masks, bools):
            mask.copy_(found.view(mask.shape))
        self.step, self.grown, self.pruned = state["step"], state["grown"], state["pruned"]
        self._plan = self._work.plan(self.step)
        self._clear()
        self._list()

    def _clear(self) -> None:
        """Sets weights to zero where there is no connection."""
        for parameter, mask in zip(self._parameters, self._masks):
            _keep(parameter.detach(), mask)

    def _masked(self, i: int) -> None:
        """Masks a gradient right after it was computed, unless this step looks at that of the zeros."""
        self._dense[i] = self._plan is not None
        grad = self._parameters[i].grad
        if self._plan is None and grad is not None:
            _keep(grad, self._masks[i])

    def _before(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        if any(a is not None for a in args[1:]) or kwargs.get("closure") is not None:
            raise TypeError("attach: the gradients must be there before optimizer.step(), which then takes no closure")
        # Those of a step that failed.
        self._restore()
        if self._plan is not None:
            self._rewire(self._plan)
        entering: list[tuple[_Entries, dict[str, Any], int, Tensor]] = []
        for i, (parameter, mask, entries) in enumerate(zip(self._parameters, self._masks, self._entries)):
            if parameter.grad is None:
                continue
            if entries is not None and parameter.grad.is_contiguous() and parameter.grad.dtype is parameter.dtype:
                entering.append((entries, *self._place(parameter), parameter))
            elif self._dense[i]:
                _keep(parameter.grad, mask)
        _by_type(gather, [listed for e, _, _, parameter in entering for listed in e.lists(parameter)])
        for swapped in entering:
            swapped[0].enter(optimizer, *swapped[1:])
            self._swapped.append(swapped)

    def _rewire(self, asked: dict[str, Any]) -> None:
        method = self._about["method"]
        for name, what in (("hessian_gradient", "the Hessian"), ("gram", "inputs of layers")):
            if asked[name] is not None:
                raise ValueError(f"{method} looks at {what}, which a step does not show; nnz.torch.prune(module, {method!r}, data=...) does")
        if asked["synaptic_flow"]:
            raise ValueError(f"{method} sends ones through the network; nnz.torch.prune(module, {method!r}, data=...) does")
        measured: dict[str, Any] = {}
        if asked["gradient"]:
            missing = [w.name for w in self._weights if w.parameter.grad is None]
            if missing:
                raise ValueError(f"{method} looks at gradients at step {self.step}, and {', '.join(missing)} has none; call backward first")
            measured["gradient"] = [_flat(p.grad) for p in self._parameters]
        if asked["momentum"]:
            measured["momentum"] = [_flat(self._momentum(p)) for p in self._parameters]
        old, entries = [m.clone() for m in self._masks], self._entries
        views = _Views(self._weights, self._masks)
        grown, pruned = self._work.rewire(self.step, views.arrays, views.bools, measured)
        views.write()
        self.grown, self.pruned = self.grown + grown, self.pruned + pruned
        self._list()
        for parameter, before, mask, listed, new in zip(self._parameters, old, self._masks, entries, self._entries):
            # What was lost or grown begins again.
            stays, state = before & mask, self.optimizer.state.get(parameter, {})
            for name, value in state.items():
                if not isinstance(value, Tensor):
                    continue
                if listed is not None and new is not None and value.shape == listed.values.shape:
                    state[name] = new.of(listed.whole(value, parameter))
                # The step size of Rprop is no memory of gradients.
                elif value.shape == parameter.shape and name != "step_size":
                    value.mul_(stays)
        if asked["data"]:
            # The batch was used to measure and makes no update (RigL, algorithm 1).
            all = [p for group in self.optimizer.param_groups for p in group["params"]]
            self._withheld = [(p, p.grad) for p in all]
            for parameter in all:
                parameter.grad = None

    def _momentum(self, parameter: Tensor) -> Tensor:
        """The running mean gradient: SGD's momentum, or Adam's first moment over the root of its second; else the gradient."""
        state = dict(self.optimizer.state.get(parameter, {}))
        entries = next(e for e, p in zip(self._entries, self._parameters) if p is parameter)
        if entries is not None:
            state = {k: entries.whole(v, parameter) if isinstance(v, Tensor) else v for k, v in state.items()}
        if isinstance(state.get("exp_avg"), Tensor) and isinstance(state.get("exp_avg_sq"), Tensor):
            return state["exp_avg"] / (state["exp_avg_sq"].sqrt() + 1e-8)
        for name in ("momentum_buffer", "exp_avg"):
            if isinstance(state.get(name), Tensor):
                return state[name]
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    def _after(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        if self._withheld is not None:
            for parameter, grad in self._withheld:
                parameter.grad = grad
            for parameter, mask in zip(self._parameters, self._masks):
                if parameter.grad is not None:
                    _keep(parameter.grad, mask)
            self._withheld = None
        else:
            self._restore()
            if not self._exact:
                self._clear()
            if self._proximal:
                views = _Views(self._weights, self._masks)
                self._work.after_step(self.step, float(self.optimizer.param_groups[0]["lr"]), views.arrays, views.bools)
                views.write()
        self.step += 1
        self._plan = self._work.plan(self.step)
        self._dense = [True] * len(self._dense)


def _by_type(work: Callable[[list], None], lists: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    """Gathers or scatters all lists of one number type in one call."""
    for dtype in dict.fromkeys(array.dtype for array, _, _ in lists):
        work([listed for listed in lists if listed[0].dtype == dtype])


def _keep(tensor: Tensor, mask: Tensor) -> None:
    """Sets entries to zero that a mask does not have."""
    if tensor.device.type == "cpu" and tensor.dtype in _DTYPES and tensor.is_contiguous() and not tensor.requires_grad:
        keep_masked(tensor.numpy(), mask.numpy())
    else:
        with torch.no_grad():
            tensor.mul_(mask)


def attach(
    optimizer: torch.optim.Optimizer,
    method: str = "rigl",
    density: float | None = None,
    *,
    module: nn.Module | None = None,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    distribution: str | None = None,
    pattern: str | None = None,
    layers: Sequence[str] | None = None,
    keep: Sequence[str] = (),
    prune_head: bool = False,
    start: str = "draw",
    seed: int = 0,
    **options: Any,
) -> Attached:
    """Makes the training loop around an optimizer sparse: weights lose and gain connections by a method, as often as it says.

        handle = nnz.torch.attach(optimizer, method="rigl", density=0.1, steps=10_000)

    The weights are the matrices and kernels of the optimizer, without the last, or those of the `nn.Linear` and `nn.Conv2d` layers of
    `module`, which gives them names for `layers` and `keep` (`*` included). `steps` is the length of the run in calls of
    `optimizer.step()`, by which methods schedule; without it connections are exchanged at the first fraction for ever. `start`
    is `"draw"`, by the method, or `"weights"`, the nonzeros that are there, as after `prune`. Other keywords are options of
    the method (`nnz show METHOD`): `every=100`, `fraction=0.3`.

    A step at which the method looks at gradients makes no update, as the paper has it. Connections that are grown begin with zero
    momentum. `handle.remove()` ends it, and `handle.state_dict()` resumes exactly.
    """
    # The optimizer in the wrapper of an accelerator.
    while isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"attach: a torch.optim.Optimizer is needed, got {type(optimizer).__name__}")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("attach: LBFGS takes a closure and updates all entries together; use SGD, Adam or another first-order optimizer")
    if start not in ("draw", "weights"):
        raise ValueError(f"attach: start is \"draw\" or \"weights\", got {start!r}")
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if module is not None:
        found = [f for f in _weights_of(module, "attach") if id(f[1]) in trained]
    else:
        every = [(f"{g}.{i}", p, None) for g, group in enumerate(optimizer.param_groups) for i, p in enumerate(group["params"])]
        found = [f for f in every if f[1].dim() in (2, 4)]
    weights = _select(found, "attach", layers, keep, prune_head)
    for w in weights:
        if not w.parameter.is_floating_point():
            raise TypeError(f"attach: `{w.name}` is {_short(w.parameter.dtype)}; only weights of floating point are rewired")
    given = _options("attach", method, density, distribution, pattern, options)
    if steps is not None and steps < 1:
        raise ValueError(f"attach: steps is the length of the run, at least 1, got {steps}")
    if steps_per_epoch is None:
        full = {**json.loads(method_defaults(method)), **given}
        timed = [k for k, v in full.items() if isinstance(v, str) and v.endswith((" epochs", " epoch")) and _matters(k, full)]
        if timed:
            raise ValueError(
                f"attach: {method} measures {', '.join(timed)} in epochs; give steps_per_epoch=, or "
                f"{timed[0].replace('-', '_')}=\"100 steps\""
            )
    if steps is None:
        full = {**json.loads(method_defaults(method)), **given}
        timed = [k for k, v in full.items() if isinstance(v, str) and v.endswith(" run") and k != "until" and _matters(k, full)]
        if timed:
            raise ValueError(f"attach: {method} measures {', '.join(timed)} by the length of the run; give steps=")
    work = Rewiring(method, json.dumps(given), [w.form() for w in weights], seed, steps or _FOREVER, steps_per_epoch or 1, False)
    if work.note:
        warnings.warn(work.note, stacklevel=2)
    about = {"method": method, "options": given, "seed": seed, "steps": steps, "steps_per_epoch": steps_per_epoch}
    if steps is None and "initial_density" in json.loads(method_defaults(method)):
        raise ValueError(f"attach: {method} goes from one density to another over the run; give steps=")
    return Attached(optimizer, weights, work, about, start == "draw")


def _matters(option: str, full: Mapping[str, Any]) -> bool:
    """Whether an option is in use: one named `X-from` or `X_every` is not while `X` is zero."""
    for mark in ("-", "_"):
        group = option.rsplit(mark, 1)[0]
        if group != option and full.get(group) == 0.0:
            return False
    return True


def rewiring_callback(method: str = "rigl", density: float | None = None, **arguments: Any) -> Any:
    """A `transformers.TrainerCallback` that attaches a method to the trainer's optimizer, with the arguments of `attach`.

    Checkpoints get a file `rewiring.pt`, from which a resumed training goes on exactly.
    """
    from pathlib import Path

    from transformers import TrainerCallback

    class Rewire(TrainerCallback):
        handle: Attached | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any) -> None:
            # Weights of a checkpoint are there already, and a drawn topology would clear them.
            resumes = {"start": "weights"} if state.global_step > 0 else {}
            self.handle = attach(optimizer, method, density, module=model, **{"steps": state.max_steps, **arguments, **resumes})
            if resumes:
                file = Path(args.output_dir) / f"checkpoint-{state.global_step}" / "rewiring.pt"
                if not file.is_file():
                    raise ValueError(f"there is no {file} to resume the rewiring from; train from the start, or without this callback")
                self.handle.load_state_dict(torch.load(file, weights_only=True))

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.handle is not None:
                torch.save(self.handle.state_dict(), Path(args.output_dir) / f"checkpoint-{state.global_step}" / "rewiring.pt")

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.handle is not None:
                self.handle.remove()

    return Rewire()
