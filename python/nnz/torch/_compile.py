"""Sparse layers in the place of pruned ones, where they are faster, and back."""

from __future__ import annotations

import contextlib
import copy
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ._checks import _module, _number, _there
from ._chain import SparseSequential, _chain_sequences
from ._layers import CompiledModule, SparseConv2d, SparseLinear, _DTYPES, _short
from ._weights import _REWIRED
from ._zeros import _release, _Zeros

# Densities up to which a layer is faster sparse, where nobody measures (`results/torch.md`). A convolution was not on two threads, even
# at 0.02.
PAYS: dict[type, float] = {nn.Linear: 0.25}
_SPARSE: dict[type, type[CompiledModule]] = {nn.Linear: SparseLinear, nn.Conv2d: SparseConv2d}


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
    """Makes the weight of a layer a plain parameter again that masks of `torch.nn.utils.prune` hold zero."""
    if hasattr(layer, "weight_orig") and hasattr(layer, "weight_mask"):
        torch.nn.utils.prune.remove(layer, "weight")


def _hindrance(layer: nn.Module, shared: set[int]) -> str | None:
    """Why a layer stays dense whatever its density."""
    if type(layer) not in _SPARSE:
        return f"nn.Linear and nn.Conv2d have sparse kernels, and this is {type(layer).__name__}"
    if id(layer.weight) in shared or (layer.bias is not None and id(layer.bias) in shared):
        return "another layer has the same parameter"
    if layer.weight in _REWIRED:
        return f"{_REWIRED[layer.weight]} rewires it; call remove() of what nnz.torch.attach returned first"
    if "forward" in vars(layer):
        return "its forward was replaced, which would be lost"
    if _has_hooks(layer):
        return "it has hooks, which would be lost; remove them first"
    if layer.weight.dtype not in _DTYPES:
        return f"nnz computes in float32 and float64, and its weight is {_short(layer.weight.dtype)}"
    if layer.weight.device.type != "cpu":
        return f"nnz computes on the CPU, and its weight is on {layer.weight.device}"
    return None


def _has_hooks(layer: nn.Module) -> bool:
    """Whether a layer or its weight has hooks, other than ours that keep zeros."""
    tables = [table for name, table in vars(layer).items() if name.endswith("_hooks") and isinstance(table, dict)]
    tables += [layer.weight._backward_hooks, layer.weight._post_accumulate_grad_hooks]
    return any(not isinstance(getattr(hook, "__self__", hook), _Zeros) for table in tables for hook in (table or {}).values())


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


def _read(inputs: tuple, named: dict) -> Tensor:
    """The input that a layer is called with, by place or by name."""
    return inputs[0] if inputs else named["input"]


def _inputs(module: nn.Module, layers: Iterable[nn.Module], args: tuple, kwargs: dict) -> dict[int, Tensor]:
    """What each layer reads in one pass."""
    seen: dict[int, Tensor] = {}

    def look(layer: nn.Module, inputs: tuple, named: dict) -> None:
        seen.setdefault(id(layer), _read(inputs, named).detach().clone())

    hooks = [layer.register_forward_pre_hook(look, with_kwargs=True) for layer in layers]
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
    takes its place, if it is one itself). An `nn.Sequential` that has sparse layers in a row becomes a `SparseSequential`, which computes
    them in one go. Make the optimizer afterwards: the parameters are others.

    `example` is an input of the module: a tensor, a tuple of arguments, or a dictionary of named ones. With it every candidate is
    measured on what it reads, forward and backward in training mode, and replaced if that is faster; then the whole
    module is, before and after, and `note` is told the gain. Without it, layers up to a density are replaced: `density`, or
    linear layers up to 0.25. `density` with an example bounds what is measured.

    Layers stay dense that share a parameter with another one, have hooks, are not in float32 or float64, or not on the CPU; `note`
    is told why. Zeros are the weights that are exactly zero, and stay zero from now on.
    """
    _module(module, "compile")
    if density is not None:
        _number("compile", "density", density)
        if not 0.0 <= density <= 1.0:
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
        _there(layer.weight, names[id(layer)], "compile")
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
    for layer in chosen.values():
        _release(layer)
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
    _module(module, "decompile")
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
    _module(module, "state_dict")
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


# Weights that methods act on
