from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "KeptInput",
    "Lent",
    "Model",
    "Network",
    "Rewiring",
    "SparseChain",
    "SparseLayer",
    "__version__",
    "call",
    "compute_beside",
    "described",
    "gather",
    "keep_masked",
    "method_defaults",
    "scatter",
]

__version__: str

def call(words: list[str], listener: Callable[..., None] | None = None) -> tuple[str, str, str | None]: ...
def described() -> str: ...

@final
class Lent:
    @property
    def name(self) -> str: ...
    @staticmethod
    def arrays(inputs: Any, answers: NDArray[np.float64] | None = None, names: list[str] | None = None) -> Lent: ...
    @staticmethod
    def file(bytes: bytes, ending: str) -> Lent: ...
    def close(self) -> None: ...

@final
class Model:
    @staticmethod
    def load(path: str | PathLike[str]) -> Model: ...
    @staticmethod
    def perceptron(weights: list[Any], biases: list[NDArray[np.float32]], classes: list[str], texts: bool, regression: bool) -> Model: ...
    def header(self) -> str: ...
    def table(self) -> tuple[list[tuple[str, list[int], int, str, str, list[int]]], list[tuple[str, list[int]]]]: ...
    def bytes(self) -> int: ...
    def density(self) -> float: ...
    def csr(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]: ...
    def dense(self, name: str) -> NDArray[np.float32]: ...
    def answer(self, inputs: Any) -> NDArray[np.float32]: ...
    def save(self, path: str | PathLike[str], dense: bool = False) -> None: ...

_Rows = NDArray[np.float32] | NDArray[np.float64] | tuple[int, NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]
_Layer = tuple[int, int, NDArray[np.int64], NDArray[np.int32], NDArray[Any], NDArray[Any]]

@final
class Network:
    @staticmethod
    def train(
        settings: str,
        x: _Rows,
        y: NDArray[np.uint32] | NDArray[np.float32] | None,
        outputs: int,
        weights: NDArray[np.float64] | None = None,
        begin: str = "new",
        earlier: Network | None = None,
        progress: Callable[[int, float, float, float], object] | None = None,
    ) -> Network: ...
    @staticmethod
    def load(about: bytes, network: bytes, state: bytes | None = None) -> Network: ...
    def infer(self, x: _Rows) -> NDArray[Any]: ...
    def encode(self, x: _Rows) -> NDArray[Any]: ...
    def decode(self, x: _Rows) -> NDArray[Any]: ...
    def layers(self) -> list[_Layer]: ...
    def about(self) -> dict[str, Any]: ...
    def save(self) -> tuple[bytes, bytes, bytes | None]: ...

_Numbers = NDArray[np.float32] | NDArray[np.float64]
_Shape = tuple[str, int, int, Sequence[int], bool, str]

@final
class KeptInput: ...

@final
class SparseChain:
    def __new__(cls, layers: Sequence[SparseLayer], relu: Sequence[bool]) -> SparseChain: ...
    def forward(
        self, values: Sequence[_Numbers], x: _Numbers, biases: Sequence[_Numbers | None], y: _Numbers, keep: bool = False
    ) -> KeptInput | None: ...
    def backward(
        self,
        values: Sequence[_Numbers],
        kept: KeptInput,
        g: _Numbers,
        dx: _Numbers | None,
        dvalues: Sequence[_Numbers | None],
        dbiases: Sequence[_Numbers | None],
    ) -> None: ...

@final
class SparseLayer:
    def __new__(
        cls,
        rows: int,
        columns: int,
        positions: NDArray[np.int64],
        window: tuple[int, Sequence[int], Sequence[int], Sequence[int], int] | None = None,
    ) -> SparseLayer: ...
    @property
    def nnz(self) -> int: ...
    def forward(
        self, values: _Numbers, x: _Numbers, bias: _Numbers | None, y: _Numbers, keep: bool = False
    ) -> KeptInput | None: ...
    def backward(
        self,
        values: _Numbers,
        x: _Numbers | KeptInput,
        g: _Numbers,
        dx: _Numbers | None = None,
        dvalues: _Numbers | None = None,
        dbias: _Numbers | None = None,
    ) -> None: ...
    def convolve(self, values: _Numbers, x: _Numbers, before: Sequence[int], bias: _Numbers | None, y: _Numbers) -> None: ...
    def convolve_backward(
        self,
        values: _Numbers,
        x: _Numbers,
        before: Sequence[int],
        g: _Numbers,
        dx: _Numbers | None = None,
        dvalues: _Numbers | None = None,
        dbias: _Numbers | None = None,
    ) -> None: ...

@final
class Rewiring:
    def __new__(
        cls, method: str, options: str, shapes: list[_Shape], seed: int, steps: int, steps_per_epoch: int, trained: bool
    ) -> Rewiring: ...
    @property
    def note(self) -> str | None: ...
    @property
    def proximal(self) -> bool: ...
    def start(self, masks: list[NDArray[np.bool_]]) -> bool: ...
    def plan(self, step: int) -> dict[str, Any] | None: ...
    def rewire(
        self, step: int, weights: list[_Numbers], masks: list[NDArray[np.bool_]], measured: dict[str, Any]
    ) -> tuple[int, int]: ...
    def after_step(self, step: int, lr: float, weights: list[_Numbers], masks: list[NDArray[np.bool_]]) -> None: ...
    def prune(
        self,
        weights: list[_Numbers],
        masks: list[NDArray[np.bool_]],
        measure: Callable[[dict[str, Any]], dict[str, Any]],
        score: Callable[[], float] | None,
    ) -> tuple[int, int]: ...
    def state(self) -> str: ...
    def restore(self, state: str) -> None: ...

def compute_beside(threads: Callable[[], int] | None) -> bool: ...
def gather(lists: Sequence[tuple[_Numbers, NDArray[np.int32], _Numbers]]) -> None: ...
def keep_masked(array: _Numbers, mask: NDArray[np.bool_]) -> None: ...
def method_defaults(method: str) -> str: ...
def scatter(lists: Sequence[tuple[_Numbers, NDArray[np.int32], _Numbers]]) -> None: ...
