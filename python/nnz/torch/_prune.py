"""Pruning once, by any method."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._nnz import Rewiring
from ._checks import _advice, _module, _whole
from ._compile import _evaluating, _read, _tensors
from ._weights import LayerReport, _embeddings, _Views, _Weight, _options, _select, _weights_of
from ._zeros import Kept


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

    `data` is a list of batches, or a loader, for methods that look at inputs or gradients: tensors, pairs (input, target), or
    dictionaries of named arguments. `loss(output, target)` is for methods that need gradients; the cross-entropy of integer targets without it, or the
    output's own `.loss`. `score(module)` is for methods that search: more is better. `layers` and `keep` are names, `*` included;
    the last weight, and one that an embedding shares, is left alone unless `prune_head`. `keep_zeros` registers hooks that keep zeros zero in training
    (`report.kept.remove()` takes them away). Other keywords are options of the method (`nnz show METHOD`).
    """
    _module(module, "prune")
    _whole("prune", "seed", seed, 0)
    for name, function in (("loss", loss), ("score", score)):
        if function is not None and not callable(function):
            raise TypeError(f"prune: {name} is a function, got {function!r:.40}")
    given = _options("prune", method, density, distribution, pattern, options)
    batches = _batches(data)
    weights = _select(_weights_of(module, "prune"), "prune", layers, keep, prune_head, _embeddings(module))
    with _advice(given):
        work = Rewiring(method, json.dumps(given), [w.form() for w in weights], seed, 0, 1, True)
    masks = [torch.ones(w.parameter.shape, dtype=torch.bool, device=w.parameter.device) for w in weights]
    views = _Views(weights, masks)
    measuring = _Measuring(module, weights, batches, loss, method)
    before = [t.clone() for t in views.tensors]

    def measure(asked: dict[str, Any]) -> dict[str, Any]:
        views.write()
        return measuring.measure(asked)

    def scored() -> float:
        views.write()
        measuring.used.add("score")
        return float(score(module))

    try:
        with _advice(given):
            work.prune(views.arrays, views.bools, measure, scored if score is not None else None)
    except BaseException:
        # All or nothing.
        for tensor, old in zip(views.tensors, before):
            tensor.copy_(old)
        raise
    views.write()
    unused = [n for n, v in (("data", data), ("loss", loss), ("score", score)) if v is not None and n not in measuring.used]
    if unused:
        warnings.warn(f"prune: {method} made no use of {' and '.join(f'{n}=' for n in unused)}", stacklevel=2)
    kept = Kept(weights) if keep_zeros else None
    all = ((w.name, w.parameter.detach()) for w in weights)
    reports = (LayerReport(n, tuple(p.shape), p.numel(), int(p.count_nonzero())) for n, p in all)
    return Pruned(method, tuple(reports), kept)


def _batches(data: Any) -> list[Any] | None:
    """Batches as a list; one batch may come alone."""
    if data is None:
        return None
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
        raise ValueError("prune: data is a list of batches, and this tuple reads as one; give data=[(input, target)]")
    alone = isinstance(data, (Tensor, Mapping))
    if not alone and (not isinstance(data, Iterable) or isinstance(data, (str, np.ndarray))):
        raise TypeError(f"prune: data is a list of batches or a loader, of tensors, got {type(data).__name__}")
    batches = [data] if alone else list(data)
    for batch in batches:
        parts = [batch] if not isinstance(batch, (list, tuple)) else batch[:1]
        if len(parts) != 1 or next(_tensors(parts[0]), None) is None:
            raise TypeError(
                f"prune: a batch of data is a tensor, a pair (input, target), or a dictionary with tensors, got {type(batch).__name__}"
                + ("; torch.from_numpy makes a tensor of an array" if any(isinstance(p, np.ndarray) for p in parts) else "")
            )
    return batches


class _Measuring:
    """Measures what methods ask for on the batches that were given."""

    def __init__(self, module: nn.Module, weights: Sequence[_Weight], batches: list[Any] | None, loss: Callable[[Any, Any], Tensor] | None, method: str):
        self.module, self.weights, self.batches, self.loss, self.method = module, weights, batches, loss, method
        self.used: set[str] = set()

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
            own = [self.weights[asked["gram"]]] if asked["gram"] is not None else self.weights
            for name, arrays in found.items():
                for weight, array in zip(own, arrays if isinstance(arrays, list) else [arrays]):
                    if not np.isfinite(array).all():
                        raise ValueError(
                            f"prune: what {self.method} measured at `{weight.name}` ({name.replace('_', ' ')}) holds NaN or infinity; "
                            "look for them in data=, the loss and the weights"
                        )
            return found

    def _forward(self, batch: Any) -> tuple[Any, Any, int]:
        """Output, target and rows of a batch."""
        self.used.add("data")
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
            self.used.add("loss")
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
        self.used.add("data")
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

        def look(_: nn.Module, inputs: tuple, named: dict) -> None:
            nonlocal rows
            x = _read(inputs, named).detach()
            if isinstance(layer, nn.Conv2d):
                mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
                x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
                x = F.unfold(x, layer.kernel_size, layer.dilation, 0, layer.stride).transpose(1, 2)
            x = x.reshape(-1, cols).double().cpu()
            square.addmm_(x.t(), x)
            first.add_(x.sum(0))
            rows += len(x)

        hook = layer.register_forward_pre_hook(look, with_kwargs=True)
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


# Dynamic sparse training
