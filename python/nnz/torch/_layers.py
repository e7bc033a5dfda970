"""Layers whose parameter is the vector of their nonzeros."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling

from .._nnz import SparseLayer

_DTYPES = (torch.float32, torch.float64)


def _array(tensor: Tensor) -> np.ndarray:
    """The memory of a tensor. Nothing is copied."""
    return tensor.detach().numpy()


_tracing, _transforming, _dispatching = torch._C._get_tracing_state, torch._C._functorch.peek_interpreter_stack, torch._C._get_dispatch_mode
_PROXY = torch._C._TorchDispatchModeKey.PROXY


def _watched() -> str | None:
    """What records or transforms the operations of torch at this moment, of which the kernels are none."""
    if _tracing() is not None:
        return "torch.jit.trace"
    if _transforming() is not None:
        return "a transform of torch.func"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation"
    if _dispatching(_PROXY) is not None:
        return "torch.export"
    return None


# Told by Dynamo where it may not leave its graph: under `torch.compile(fullgraph=True)` and strict `torch.export`.
_UNSEEN = (
    "torch.compile and torch.export do not see what the sparse kernels of nnz.torch compute: compile without fullgraph=True, or "
    "nnz.torch.decompile(module) goes back to dense layers"
)


def _checked(x: Tensor, values: Tensor, name: str) -> Tensor:
    """An input that the kernels can read: on the CPU, of the type of the values, contiguous."""
    if (by := _watched()) is not None:
        raise TypeError(f"{name}: {by} does not see what the sparse kernels compute; nnz.torch.decompile(module) goes back to dense layers")
    usual = type(x) is Tensor and x.dtype is values.dtype and x.dtype in _DTYPES and x.layout is torch.strided
    if usual and x.is_cpu and values.is_cpu:
        return x.contiguous()
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
    for tensor in (x, values):
        if type(tensor) not in (Tensor, nn.Parameter):
            try:
                _array(tensor)
            except RuntimeError:
                raise TypeError(
                    f"{name}: the kernels cannot read a {type(tensor).__name__}; nnz.torch.decompile(module) goes back to dense layers"
                ) from None
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
    def forward(ctx: Any, values: Tensor, x: Tensor, bias: Tensor | None, owner: SparseLinear) -> Tensor:
        y = torch.empty(x.shape[0], owner.out_features, dtype=x.dtype)
        plain = None if bias is None else _array(bias)
        # Inputs in the layout of the kernels, which the gradient of the values reads again.
        ctx.kept = owner._kernel().forward(_array(values), _array(x), plain, y.numpy(), keep=ctx.needs_input_grad[0])
        ctx.save_for_backward(values, x)
        ctx.layer, ctx.positions, ctx.out = owner._kernel(), owner.positions, owner.out_features
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        values, x = ctx.saved_tensors
        of_values, of_x, of_bias = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():
            # A gradient of this gradient is wanted: in operations of torch, which differentiate any number of times.
            w = _dense(values, ctx.positions, (ctx.out, x.shape[1]))
            dvalues = (g.t() @ x).reshape(-1)[ctx.positions] if of_values else None
            return dvalues, g @ w if of_x else None, g.sum(0) if of_bias else None, None
        g = g.contiguous()
        dvalues = torch.empty_like(values) if of_values else None
        dx = torch.empty_like(x) if of_x else None
        dbias = g.new_empty(ctx.out) if of_bias else None
        source = _array(x) if ctx.kept is None else ctx.kept
        ctx.layer.backward(_array(values), source, _array(g), *(None if d is None else _array(d) for d in (dx, dvalues, dbias)))
        return dvalues, dx, dbias, None


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
        bias = self.bias
        if bias is not None and bias.dtype is not self.values.dtype:
            raise TypeError(
                f"{type(self).__name__}: the bias is {_short(bias.dtype)} and the values are {_short(self.values.dtype)}; "
                "convert the whole module"
            )
        return bias

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
        if is_dynamo_compiling():
            torch._dynamo.graph_break(msg=_UNSEEN)
        if not torch.is_grad_enabled() and (y := self._quick(input)) is not None:
            return y
        values, bias = self.values, self._plain_bias()
        x = _checked(input, values, "SparseLinear")
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"SparseLinear: an input of shape {tuple(x.shape)}, where the last extent must be {self.in_features}")
        rows = x if x.dim() == 2 else x.reshape(math.prod(x.shape[:-1]), self.in_features)
        if torch.is_grad_enabled() and (values.requires_grad or x.requires_grad or (bias is not None and bias.requires_grad)):
            y = _LinearFunction.apply(values, rows, bias, self)
        else:
            y = torch.empty(rows.shape[0], self.out_features, dtype=values.dtype)
            self._kernel().forward(_array(values), _array(rows), None if bias is None else _array(bias), y.numpy())
        return y if x.dim() == 2 else y.view(*x.shape[:-1], self.out_features)

    def _quick(self, x: Any) -> Tensor | None:
        """The output for rows that need no conversion, with as few steps as can be: one sample takes less time than the usual checks."""
        values, bias = self._parameters["values"], self._parameters["bias"]
        if type(x) is not Tensor or x.dtype is not values.dtype or x.layout is not torch.strided or not (x.is_cpu and x.is_contiguous()):
            return None
        if _watched() is not None:
            return None
        rows, shape = x.detach(), x.shape
        if len(shape) != 2 or shape[1] != self.in_features or self._layer is None:
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
        if is_dynamo_compiling():
            torch._dynamo.graph_break(msg=_UNSEEN)
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
