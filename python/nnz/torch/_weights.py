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

from .._nnz import method_defaults
from ._layers import CompiledModule, _DTYPES


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


# Pruning
