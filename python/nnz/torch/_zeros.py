"""Weights that stay zero while others train them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from ._weights import _Weight


class _Zeros:
    """Keeps weights of one layer zero: a hook before its forward pass. A copy of the layer has a copy of it."""

    def __init__(self, zeros: Tensor):
        self.zeros = zeros
        self._weight: Callable[[], Tensor | None] = lambda: None
        self._hook: Any = None

    def __call__(self, layer: nn.Module, inputs: Any) -> None:
        weight = layer._parameters.get("weight")
        # Not what `functional_call` put in its place.
        if isinstance(weight, nn.Parameter):
            if self._weight() is not weight:
                self.watch(weight)
            self.clear(weight)

    def watch(self, weight: Tensor) -> None:
        """Masks the gradients of a weight, and the weight after every step of an optimizer that has it."""
        self.stop()
        self._weight, self.zeros = weakref.ref(weight), self.zeros.to(weight.device)
        self._hook = weight.register_hook(self._masked) if weight.requires_grad else None
        _watch_steps(self)

    def stop(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        self._weight, self._hook = lambda: None, None

    def clear(self, weight: Tensor) -> None:
        # Zeros over zeros change nothing that a gradient needs.
        weight.data.masked_fill_(self.zeros, 0.0)

    def _masked(self, grad: Tensor) -> Tensor:
        return grad.masked_fill(self.zeros, 0.0)

    def after_step(self, trained: set[int]) -> None:
        weight = self._weight()
        if weight is not None and id(weight) in trained:
            self.clear(weight)

    def __getstate__(self) -> dict[str, Any]:
        return {"zeros": self.zeros}

    def __setstate__(self, state: dict[str, Any]) -> None:
        _Zeros.__init__(self, state["zeros"])


_KEEPERS: weakref.WeakSet[_Zeros] = weakref.WeakSet()
_STEPS_WATCHED: list[Any] = []


def _watch_steps(zeros: _Zeros) -> None:
    """An optimizer that remembers gradients moves weights whose gradient is zero, too."""
    _KEEPERS.add(zeros)
    if not _STEPS_WATCHED:
        _STEPS_WATCHED.append(register_optimizer_step_post_hook(_after_any_step))


def _after_any_step(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
    if len(_KEEPERS):
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for zeros in list(_KEEPERS):
            zeros.after_step(trained)


def _release(layer: nn.Module) -> None:
    """Takes our hook that keeps zeros away from a layer."""
    for key, hook in list(layer._forward_pre_hooks.items()):
        if isinstance(hook, _Zeros):
            hook.stop()
            del layer._forward_pre_hooks[key]


class Kept:
    """Keeps weights zero that are zero: gradients are masked, and weights after each step of an optimizer and before each forward pass.
    Copies of the module, and modules read from a file, do the same."""

    def __init__(self, weights: Sequence[_Weight]):
        self._layers = [w.layer for w in weights if w.layer is not None]
        for weight in weights:
            if weight.layer is not None:
                _release(weight.layer)
                zeros = _Zeros(weight.parameter.detach() == 0)
                zeros.watch(weight.parameter)
                weight.layer.register_forward_pre_hook(zeros)

    def remove(self) -> None:
        """Lets the zeros move again."""
        for layer in self._layers:
            _release(layer)
        self._layers = []
