"""Neural networks that are sparse all the way down.

The commands of the program `nnz` as functions, over files or data in memory::

    import nnz
    result = nnz.train((X, y), method="rigl", density=0.05, epochs=20)
    result.model().predict(X)

`nnz.sklearn` has estimators of scikit-learn's kind, `nnz.torch` changes modules of PyTorch.
"""

from typing import Any

from ._errors import Error, MissingFile
from ._model import Layer, Model, from_arrays, load, save
from ._nnz import __version__
from ._program import COMMANDS, GROUPS, Progress, options
from ._results import Answer, Arm, CompareResult, EvalResult, InspectResult, PruneResult, Record, ReproduceResult, RunResult, TrainResult

_MADE = (*COMMANDS, *GROUPS, "predict")
_MODULES = ("sklearn", "torch")

__all__ = [
    "Answer",
    "Arm",
    "CompareResult",
    "Error",
    "EvalResult",
    "InspectResult",
    "Layer",
    "MissingFile",
    "Model",
    "Progress",
    "PruneResult",
    "Record",
    "ReproduceResult",
    "RunResult",
    "TrainResult",
    "__version__",
    "from_arrays",
    "load",
    "options",
    "save",
    *_MADE,
]


def __getattr__(name: str) -> Any:
    # Functions of commands are made when they are first asked for.
    if name in _MADE:
        from ._program import make

        globals()[name] = found = make(name)
        return found
    if name in _MODULES:
        from importlib import import_module

        return import_module(f"{__name__}.{name}")
    from ._program import near

    raise AttributeError(f"module 'nnz' has no {name!r}{near(name, __all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
