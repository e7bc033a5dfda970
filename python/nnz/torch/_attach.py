"""Dynamic sparse training inside anybody's loop."""

from __future__ import annotations

import functools
import inspect
import json
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._nnz import Rewiring, gather, keep_masked, method_defaults, scatter
from ._checks import _advice, _module, _whole
from ._layers import _DTYPES, _array, _short
from ._weights import _REWIRED, LayerReport, _embeddings, _Views, _Weight, _flat, _options, _select, _weights_of
from ._zeros import _Zeros

# Optimizers of torch whose update of an entry depends on that entry and its own state alone, which begins at zero.
_ELEMENTWISE = ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop")
_FOREVER = 1 << 62


class _Entries:
    """The connections of one weight, which stand for it while the optimizer makes its step: so it updates, and remembers, them alone."""

    def __init__(self, parameter: Tensor, mask: Tensor):
        self.positions = np.flatnonzero(_flat(mask)).astype(np.int32)
        self.values = torch.empty(len(self.positions), dtype=parameter.dtype)
        self.grad = self.values.grad = torch.empty_like(self.values)
        # Arrays of these, and of the weight with the place where it lies: to make one takes longer than to use it.
        self._arrays = (self.values.numpy(), self.grad.numpy())
        self._weight: tuple[tuple[int, torch.Size], np.ndarray] | None = None

    def of_weight(self, parameter: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is gathered of the weight, and scattered: from which array, where, and into what."""
        at = (parameter.data_ptr(), parameter.shape)
        if self._weight is None or self._weight[0] != at:
            self._weight = (at, _array(parameter))
        return self._weight[1], self.positions, self._arrays[0]

    def of_gradient(self, grad: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same of its gradient."""
        return _array(grad), self.positions, self._arrays[1]

    def enter(self, optimizer: torch.optim.Optimizer, group: dict[str, Any], place: int, parameter: Tensor) -> None:
        """Takes the place of the weight, when its entries are gathered."""
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
        if self.values in optimizer.state:
            optimizer.state[parameter] = optimizer.state.pop(self.values)

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


class _Guard:
    """Runs a function when a step of an optimizer raises; hooks after the step are not called then."""

    def __init__(self, optimizer: torch.optim.Optimizer, failed: Callable[[], None]):
        self.optimizer, self.before = optimizer, optimizer.step
        inner = self.before

        @functools.wraps(inner)
        def step(_: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
            try:
                return inner(*args, **kwargs)
            except BaseException:
                failed()
                raise

        # A method, as schedulers of torch expect it to be.
        self.after = types.MethodType(step, optimizer)
        optimizer.step = self.after

    def remove(self) -> None:
        # What was put around it since then stays.
        if self.optimizer.step == self.after:
            self.optimizer.step = self.before


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
        self._places = [(0, 0)] * len(weights)
        self._swapped: list[tuple[_Entries, dict[str, Any], int, Tensor]] = []
        self._list()
        self._hooks = [
            _Guard(optimizer, self._failed),
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]
        for i, parameter in enumerate(self._parameters):
            if parameter.requires_grad:
                self._hooks.append(parameter.register_post_accumulate_grad_hook(self._masker(i)))
            _REWIRED[parameter] = about["method"]

    @property
    def masks(self) -> dict[str, Tensor]:
        """The connections that exist, by the name of the weight."""
        return {w.name: m for w, m in zip(self._weights, self._masks)}

    @property
    def layers(self) -> tuple[LayerReport, ...]:
        """Each weight, with its connections for nonzeros: those that were just grown are still zero."""
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
        if not self._hooks:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for parameter, entries in zip(self._parameters, self._entries):
            state = self.optimizer.state.get(parameter, {})
            for name, value in state.items():
                if entries is not None and isinstance(value, Tensor):
                    state[name] = entries.whole(value, parameter)
            _REWIRED.pop(parameter, None)

    def _list(self) -> None:
        """Lists the connections of weights that the optimizer may see as such."""

        def possible(p: Tensor) -> bool:
            usual = p.device.type == "cpu" and p.dtype in _DTYPES and p.is_contiguous() and p.numel() < 1 << 31
            return self._exact and usual and bool(p.numel())

        pairs = zip(self._parameters, self._masks)
        self._entries = [_Entries(p, m) if possible(p) else None for p, m in pairs]

    def _place(self, i: int) -> tuple[dict[str, Any], int]:
        """The group of a weight, and its place in it."""
        parameter, groups = self._parameters[i], self.optimizer.param_groups
        of, place = self._places[i]
        # Where it was the last time.
        if of < len(groups) and place < len(groups[of]["params"]) and groups[of]["params"][place] is parameter:
            return groups[of], place
        for of, group in enumerate(groups):
            for place, p in enumerate(group["params"]):
                if p is parameter:
                    self._places[i] = (of, place)
                    return group, place
        raise ValueError("attach: the optimizer has lost a weight that is rewired; call remove() before its groups are changed")

    def _restore(self) -> None:
        """Puts weights back in the place of their connections."""
        if not self._swapped:
            return
        _by_type(scatter, [entries.of_weight(parameter) for entries, _, _, parameter in self._swapped])
        # Written behind the back of autograd.
        torch.autograd.graph.increment_version([parameter for *_, parameter in self._swapped])
        for entries, group, place, parameter in self._swapped:
            entries.leave(self.optimizer, group, place, parameter)
        self._swapped = []

    def _failed(self) -> None:
        """Leaves the optimizer as it was before a step that raised."""
        self._restore()
        for parameter, grad in self._withheld or ():
            parameter.grad = grad
        self._withheld = None

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

    def _masker(self, i: int) -> Callable[[Tensor], None]:
        """Masks a gradient right after it was computed, unless this step looks at that of the zeros."""
        mask = self._masks[i]
        array = mask.numpy() if mask.device.type == "cpu" else None

        def masked(parameter: Tensor) -> None:
            self._dense[i] = self._plan is not None
            grad = parameter.grad
            if self._plan is None and grad is not None:
                _keep(grad, mask, array)

        return masked

    def _before(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        if any(a is not None for a in args[1:]) or kwargs.get("closure") is not None:
            raise TypeError("attach: the gradients must be there before optimizer.step(), which then takes no closure")
        # Those of a step that failed, if somebody called it around the guard.
        self._restore()
        if self._plan is not None:
            self._rewire(self._plan)
        entering: list[tuple[_Entries, dict[str, Any], int, Tensor]] = []
        for i, (parameter, mask, entries) in enumerate(zip(self._parameters, self._masks, self._entries)):
            if parameter.grad is None:
                continue
            grad = parameter.grad
            if entries is not None and grad.is_contiguous() and grad.dtype is parameter.dtype:
                entering.append((entries, *self._place(i), parameter))
            elif self._dense[i]:
                _keep(parameter.grad, mask)
        lists = [entries.of_weight(parameter) for entries, _, _, parameter in entering]
        _by_type(gather, lists + [entries.of_gradient(parameter.grad) for entries, _, _, parameter in entering])
        for swapped in entering:
            swapped[0].enter(optimizer, *swapped[1:])
            self._swapped.append(swapped)

    def _rewire(self, asked: dict[str, Any]) -> None:
        method = self._about["method"]
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
    kinds = {array.dtype for array, _, _ in lists}
    for dtype in kinds:
        work(lists if len(kinds) == 1 else [listed for listed in lists if listed[0].dtype == dtype])


def _keep(tensor: Tensor, mask: Tensor, array: np.ndarray | None = None) -> None:
    """Sets entries to zero that a mask, or an array of it, does not have."""
    if tensor.is_cpu and tensor.dtype in _DTYPES and tensor.is_contiguous() and not tensor.requires_grad:
        keep_masked(tensor.numpy(), mask.numpy() if array is None else array)
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
    `module`, which gives them names for `layers` and `keep` (`*` included); frozen ones are left out. `steps` is the length of the run in calls of
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
    _whole("attach", "seed", seed, 0)
    for name, value in (("steps", steps), ("steps_per_epoch", steps_per_epoch)):
        if value is not None:
            _whole("attach", name, value, 1)
    given = _options("attach", method, density, distribution, pattern, options)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if module is not None:
        _module(module, "attach")
        found = [f for f in _weights_of(module, "attach") if id(f[1]) in trained]
    else:
        every = [(f"{g}.{i}", p, None) for g, group in enumerate(optimizer.param_groups) for i, p in enumerate(group["params"])]
        found = [f for f in every if f[1].dim() in (2, 4)]
    weights = _select(found, "attach", layers, keep, prune_head, frozenset() if module is None else _embeddings(module))
    frozen = [w.name for w in weights if not w.parameter.requires_grad]
    if frozen and (layers is not None or len(frozen) == len(weights)):
        raise ValueError(f"attach: {', '.join(frozen)} has requires_grad=False, and a frozen weight is not rewired; leave it out with keep=")
    weights = [w for w in weights if w.parameter.requires_grad]
    for w in weights:
        if w.parameter in _REWIRED:
            raise ValueError(
                f"attach: {_REWIRED[w.parameter]} rewires `{w.name}` already; call remove() of what nnz.torch.attach returned first"
            )
        if w.layer is not None and any(isinstance(hook, _Zeros) for hook in w.layer._forward_pre_hooks.values()):
            raise ValueError(f"attach: `{w.name}` is held by keep_zeros; call kept.remove() of what nnz.torch.prune returned first")
        if not w.parameter.is_floating_point():
            raise TypeError(f"attach: `{w.name}` is {_short(w.parameter.dtype)}; only weights of floating point are rewired")
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
    with _advice(given):
        work = Rewiring(method, json.dumps(given), [w.form() for w in weights], seed, steps or _FOREVER, steps_per_epoch or 1, False)
    if work.note:
        warnings.warn(work.note, stacklevel=2)
    about = {"method": method, "options": given, "seed": seed, "steps": steps, "steps_per_epoch": steps_per_epoch}
    if steps is None and "initial_density" in json.loads(method_defaults(method)):
        raise ValueError(f"attach: {method} goes from one density to another over the run; give steps=")
    with _advice(given):
        return Attached(optimizer, weights, work, about, start == "draw")


def _matters(option: str, full: Mapping[str, Any]) -> bool:
    """Whether an option is in use: one named `X-from` or `X_every` is not while `X` is zero."""
    for mark in ("-", "_"):
        group = option.rsplit(mark, 1)[0]
        if group != option and full.get(group) == 0.0:
            return False
    return True


def rewiring_callback(
    method: str = "rigl", density: float | None = None, *, resume_from: str | PathLike[str] | None = None, **arguments: Any
) -> Any:
    """A `transformers.TrainerCallback` that attaches a method to the trainer's optimizer, with the arguments of `attach`.

    Checkpoints get a file `rewiring.pt`, from which a resumed training goes on exactly. It is looked for in the folder
    `resume_from`, else in that of `TrainingArguments`, else in the one of the same step below the output folder.
    """
    from pathlib import Path

    from transformers import TrainerCallback

    own = inspect.signature(attach).parameters
    options = {name: value for name, value in arguments.items() if name not in own}
    given = _options("rewiring_callback", method, density, arguments.get("distribution"), None, options)
    # Wrong options are refused before anything trains.
    Rewiring(method, json.dumps(given), [("weight", 4096, 4096, [1, 1], False, "linear")], 0, _FOREVER, 1, False)

    class Rewire(TrainerCallback):
        handle: Attached | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any) -> None:
            # Weights of a checkpoint are there already, and a drawn topology would clear them.
            resumes = {"start": "weights"} if state.global_step > 0 else {}
            if self.handle is not None:
                self.handle.remove()
            self.handle = attach(optimizer, method, density, module=model, **{"steps": state.max_steps, **arguments, **resumes})
            if resumes:
                named = resume_from or (args.resume_from_checkpoint if isinstance(args.resume_from_checkpoint, str) else None)
                file = Path(named or Path(args.output_dir) / f"checkpoint-{state.global_step}") / "rewiring.pt"
                if not file.is_file():
                    self.handle.remove()
                    raise ValueError(
                        f"rewiring_callback: there is no {file} to resume the rewiring from; give resume_from=, the folder of the checkpoint"
                    )
                self.handle.load_state_dict(torch.load(file, weights_only=True))

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.handle is not None:
                torch.save(self.handle.state_dict(), Path(args.output_dir) / f"checkpoint-{state.global_step}" / "rewiring.pt")

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.handle is not None:
                self.handle.remove()

    return Rewire()
