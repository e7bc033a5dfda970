"""Weights that methods act on."""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from .._nnz import method_defaults
from ._checks import _names, _number, _there, _whole
from ._layers import CompiledModule, _DTYPES

# Weights that are attached, and the method.
_REWIRED = WeakTensorKeyDictionary()


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
    tied: frozenset[int] = frozenset(),
) -> list[_Weight]:
    """The weights that a method acts on: all but the last and those of embeddings, or those that match `layers`, without those that
    match `keep`."""
    if not found:
        raise ValueError(f"{who}: there is no weight of an nn.Linear or nn.Conv2d to prune")
    layers = None if layers is None else _names(who, "layers", layers)
    keep = _names(who, "keep", keep)
    for pattern in [*(layers or ()), *keep]:
        if not any(_matches(name, [pattern]) for name, *_ in found):
            raise ValueError(f"{who}: no weight is named `{pattern}`; there are {', '.join(n for n, *_ in found)}")
    last = found[-1][1]
    chosen = []
    for name, parameter, layer in found:
        embeds = id(parameter) in tied
        head = parameter is last or embeds
        wanted = _matches(name, layers) if layers is not None else prune_head or not head or (len(found) == 1 and not embeds)
        if wanted and not _matches(name, keep):
            if layer is not None and not isinstance(layer, (nn.Linear, nn.Conv2d)):
                raise ValueError(
                    f"{who}: `{name}` is that of a Conv1D of transformers, whose weight lies inputs by outputs; put an nn.Linear with the "
                    "transposed weight in its place, or leave it out with keep="
                )
            _there(parameter, name, who)
            if not bool(parameter.detach().isfinite().all()):
                raise ValueError(f"{who}: `{name}` holds NaN or infinity, which have no place in an order; leave it out with keep=")
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
        # The linear layer of GPT-2 in transformers, which `_select` refuses by name.
        other = type(layer).__name__ == "Conv1D" and isinstance(layer._parameters.get("weight"), Tensor)
        if isinstance(layer, (nn.Linear, nn.Conv2d)) or other:
            if not isinstance(layer._parameters.get("weight"), Tensor):
                raise ValueError(f"{who}: the weight of `{name}` is made of other parameters; remove its parametrization first")
            if id(layer.weight) not in seen:
                seen.add(id(layer.weight))
                found.append((f"{name}.weight" if name else "weight", layer.weight, layer))
    return found


def _embeddings(module: nn.Module) -> frozenset[int]:
    """Weights of embeddings, which a head may share."""
    return frozenset(id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding))


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


def _nothing(period: str) -> bool:
    """Whether a number and its unit are zero of it."""
    try:
        return float(period.split()[0]) == 0
    except (ValueError, IndexError):
        return False


def _options(who: str, method: str, density: float | None, distribution: str | None, pattern: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """A table of options; those of the signature under their names, in every spelling of Python."""
    if not isinstance(method, str):
        raise TypeError(f"{who}: method is the name of one, got {method!r:.40}")
    known = json.loads(method_defaults(method))
    given = {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}
    density = density.item() if isinstance(density, np.generic) else density
    if density is not None:
        _number(who, "density", density)
    for name, value in (("distribution", distribution), ("pattern", pattern)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f"{who}: {name} is a text, got {value!r:.40}")
    for name, value in given.items():
        if isinstance(value, float):
            _number(who, name, value)
        elif not isinstance(value, (int, str, list, tuple)):
            raise TypeError(f"{who}: {name} is a number, a text or a list, got {value!r:.40}")
    for name, value in (("density", density), ("distribution", distribution), ("pattern", pattern)):
        if value is not None:
            if name not in known:
                raise ValueError(f"{who}: {method} has no option `{name}`; it has {', '.join(known) or 'none'}")
            given[name] = value
    for name, value in list(given.items()):
        spelt = name.replace("_", "-")
        if name not in known and spelt in known:
            given[spelt] = given.pop(name)
    every = given.get("every") if isinstance(known.get("every"), str) else None
    if isinstance(every, int):
        _whole(who, "every", every, 1)
        given["every"] = f"{every} steps"
    elif isinstance(every, str) and _nothing(every):
        raise ValueError(f"{who}: every is a period above zero, such as \"100 steps\", got {every!r}")
    if isinstance(given.get("until"), int) and isinstance(known.get("until"), str):
        given["until"] = f"{given['until']} steps"
    return given


# Pruning
