"""Sequences of sparse layers that compute in one go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from .._nnz import SparseChain
from ._layers import _UNSEEN, SparseLinear, _array, _checked, _dense, _watched


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
        if _watched() is not None:
            return None
        if type(x) is not Tensor or self._places is None or x.layout is not torch.strided or not (x.is_cpu and x.is_contiguous()):
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
        if is_dynamo_compiling():
            torch._dynamo.graph_break(msg=_UNSEEN)
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
