"""Arguments at the door."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn


def _module(module: Any, who: str) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"{who}: an nn.Module is needed, got {type(module).__name__}")


def _number(who: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{who}: {name} is a number, got {value!r:.40}")
    if not math.isfinite(value):
        raise ValueError(f"{who}: {name} is a finite number, got {value}")


def _whole(who: str, name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{who}: {name} is a whole number, got {value!r:.40}")
    if not least <= value < 1 << 62:
        raise ValueError(f"{who}: {name} is a whole number, at least {least} and less than 2**62, got {value}")


def _names(who: str, name: str, value: Any) -> list[str]:
    given = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else [value]
    if not all(isinstance(v, str) for v in given):
        raise TypeError(f"{who}: {name} is a list of names, got {value!r:.40}")
    return given


def _there(weight: Tensor, name: str, who: str) -> None:
    """Refuses a weight without values."""
    if nn.parameter.is_lazy(weight):
        raise ValueError(f"{who}: `{name}` has no shape yet; run one batch through the module first")
    if weight.is_meta:
        raise ValueError(f"{who}: `{name}` is on the meta device, without values; load its weights first")


@contextlib.contextmanager
def _advice(given: Mapping[str, Any]) -> Iterator[None]:
    """Names the way out where a layer would lose all its connections."""
    try:
        yield
    except ValueError as e:
        if "without a connection" in str(e) and given.get("distribution") != "uniform":
            raise ValueError(f"{e}; distribution=\"uniform\" gives every layer the same density") from None
        raise
