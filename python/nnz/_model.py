"""Trained networks: their layers as arrays, their answers, their files."""

from __future__ import annotations

import json
import re
from functools import cached_property
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Sequence

from . import _data, _nnz
from ._errors import Error, MissingFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Layer:
    """A weight of a network, ``[outputs, inputs]``. Its arrays are made once and do not change the network."""

    def __init__(self, network: _nnz.Model, name: str, shape: tuple[int, int], nonzeros: int, storage: str, role: str, kernel: tuple[int, int]) -> None:
        self._network = network
        self.name = name
        """Its name, such as ``fc1.weight``."""
        self.shape = shape
        """Outputs, and inputs times the kernel's area."""
        self.nonzeros = nonzeros
        """Number of connections."""
        self.storage = storage
        """How the network keeps it: dense, masked or sparse."""
        self.role = role
        """What it does in the network."""
        self.kernel = kernel
        """Height and width of a convolution's kernel; (1, 1) for a matrix."""

    @property
    def density(self) -> float:
        """Connections / entries."""
        return self.nonzeros / (self.shape[0] * self.shape[1])

    @cached_property
    def _csr(self) -> tuple[Any, Any, Any]:
        arrays = self._network.csr(self.name)
        for a in arrays:
            a.flags.writeable = False
        return arrays

    def csr(self) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int32]]:
        """The connections in compressed rows: values, columns, starts of rows. Read-only, and the same arrays each time."""
        return self._csr

    def to_scipy(self, kind: str = "array") -> Any:
        """The connections as ``scipy.sparse.csr_array``, or with ``kind="matrix"`` as ``csr_matrix``, over the memory of :meth:`csr`."""
        import scipy.sparse as sparse

        if kind not in ("array", "matrix"):
            raise ValueError(f"kind={kind!r}; expected 'array' or 'matrix'")
        make = sparse.csr_array if kind == "array" else sparse.csr_matrix
        return make(self.csr(), shape=self.shape, copy=False)

    @cached_property
    def _dense(self) -> Any:
        all = self._network.dense(self.name)
        all.flags.writeable = False
        return all

    def to_numpy(self) -> NDArray[np.float32]:
        """Every entry, zeros too. Read-only, and the same array each time."""
        return self._dense

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy as np

        all = self.to_numpy()
        return np.array(all, dtype=dtype) if copy or (dtype is not None and np.dtype(dtype) != all.dtype) else all

    def __dlpack__(self, **options: Any) -> Any:
        # A consumer may write, so that it gets an array of its own.
        return self._network.dense(self.name).__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __repr__(self) -> str:
        rows, cols = self.shape
        return f"Layer({self.name!r}, {rows} x {cols}, {self.nonzeros} connections, density {self.density:.4g})"

    def _repr_html_(self) -> str:
        from ._html import topology

        return topology(self)


class Model:
    """A network that nnz trained, pruned or was given."""

    def __init__(self, network: _nnz.Model, path: str | None = None) -> None:
        self._network = network
        self.path = path
        """The file it was read from."""

    @cached_property
    def header(self) -> dict[str, Any]:
        """What its file says about it: specification, classes, normalization, task."""
        return json.loads(self._network.header())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, or of the targets."""
        return tuple(self.header["classes"])

    @property
    def task(self) -> str:
        """``classification``, ``regression`` or ``reconstruction``."""
        return self.header.get("task", "classification")

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Its weights, first layer first."""
        weights, _ = self._network.table()
        return tuple(
            Layer(self._network, name, (shape[0], shape[1]), nnz, storage, role, (kernel[0], kernel[1]))
            for name, shape, nnz, storage, role, kernel in weights
        )

    def layer(self, name: str) -> Layer:
        """The weight of this name."""
        for found in self.layers:
            if found.name == name:
                return found
        raise Error(f"no layer {name!r}; there are {', '.join(x.name for x in self.layers)}")

    def state_dict(self) -> dict[str, Any]:
        """Every parameter by its name, with zeros, as arrays of NumPy."""
        weights, others = self._network.table()
        return {name: self._network.dense(name) for name in [w[0] for w in weights] + [o[0] for o in others]}

    @property
    def nonzeros(self) -> int:
        """Number of connections."""
        return sum(layer.nonzeros for layer in self.layers)

    @property
    def density(self) -> float:
        """Connections / entries over the prunable weights."""
        return self._network.density()

    @property
    def nbytes(self) -> int:
        """Bytes of its parameters and their indices in memory."""
        return self._network.bytes()

    def outputs(self, X: Any) -> NDArray[np.float32]:
        """Its answers, ``[rows, outputs]``: the probability of each class, numbers in the units of the targets, or the input as it is
        reconstructed. ``X`` is an array, a sparse matrix, a tensor, or a list of rows, scaled as the training data were."""
        rows = _data.rows(X, "X")
        try:
            return self._network.answer(rows)
        except ValueError as e:
            raise Error(str(e)) from None

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """The probability of each class, ``[rows, classes]``."""
        if self.task != "classification":
            raise Error(f"a network for {self.task} knows no classes")
        return self.outputs(X)

    def predict(self, X: Any) -> NDArray[Any]:
        """The class of each row: a text if labels were texts, else a whole number where all classes are named by such; or the
        numbers that it predicts, ``[rows]`` if there is one."""
        import numpy as np

        found = self.outputs(X)
        if self.task != "classification":
            return found[:, 0] if found.shape[1] == 1 else found
        names: Any = np.array(self.classes)
        # A name such as 01 is no way to write a number: as one it would be the class 1.
        if not self.header.get("texts") and all(re.fullmatch("0|-?[1-9][0-9]{0,17}", c) for c in self.classes):
            names = names.astype(np.int64)
        return names[found.argmax(axis=1)]

    def save(self, path: str | PathLike[str], dense: bool = False) -> str:
        """Writes it as a file that every command reads, and returns its path. With ``dense``, zeros too, so that any safetensors reader
        gets plain matrices."""
        try:
            self._network.save(fspath(path), dense)
        except ValueError as e:
            from ._program import described
            from ._words import Speaker

            raise Error(Speaker(described(), "convert")(str(e))) from None
        return fspath(path)

    def __reduce__(self) -> Any:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as folder:
            path = self.save(f"{folder}/model.safetensors")
            with open(path, "rb") as file:
                return _from_bytes, (file.read(), self.path)

    def __repr__(self) -> str:
        return f"Model({self.header['model']['name']!r}, {self.nonzeros} connections, density {self.density:.4g})"

    def _repr_html_(self) -> str:
        from ._html import table, topology

        rows = [{"layer": x.name, "shape": f"{x.shape[0]} x {x.shape[1]}", "connections": x.nonzeros, "density": x.density, "storage": x.storage} for x in self.layers]
        return table(rows) + "".join(topology(x) for x in self.layers[:4])


def _from_bytes(data: bytes, path: str | None) -> Model:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        with open(f"{folder}/model.safetensors", "wb") as file:
            file.write(data)
        found = load(f"{folder}/model.safetensors")
    found.path = path
    return found


def load(path: str | PathLike[str]) -> Model:
    """Reads a network that nnz trained or pruned.

    >>> import nnz
    >>> nnz.load("no-such.safetensors")
    Traceback (most recent call last):
    nnz.MissingFile: no-such.safetensors: No such file or directory (os error 2)
    """
    import os

    path = fspath(path)
    try:
        return Model(_nnz.Model.load(path), path)
    except ValueError as e:
        raise (Error if os.path.exists(path) else MissingFile)(str(e)) from None


def save(model: Model, path: str | PathLike[str], dense: bool = False) -> str:
    """Writes a network as a file that every command reads, and returns its path."""
    if not isinstance(model, Model):
        raise TypeError(f"model: expected a Model, got {type(model).__name__}")
    return model.save(path, dense)


def _single(x: Any, what: str) -> Any:
    """The numbers in 32 bits."""
    import numpy as np

    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(x, dtype=np.float32)
    if not np.isfinite(found).all():
        raise ValueError(f"{what}: a value is not finite in 32 bits")
    return found


def from_arrays(weights: Sequence[Any], biases: Sequence[Any] | None = None, classes: Sequence[str] | None = None, task: str = "classification") -> Model:
    """A perceptron of matrices ``[outputs, inputs]``, first layer first, each an array or a sparse matrix, with ReLU between them. A
    connection is an entry that is stored, or of an array one that is not zero. ``classes`` names the classes, or the targets of a
    regression; by default they are counted.

    >>> import nnz
    >>> model = nnz.from_arrays([[[1.0, 0.0], [0.0, 2.0]]], classes=["left", "right"])
    >>> model.predict([[3.0, 1.0], [0.0, 1.0]]).tolist()
    ['left', 'right']
    """
    import numpy as np

    if task not in ("classification", "regression"):
        raise ValueError(f"task={task!r}; expected 'classification' or 'regression'")
    for name, given in (("weights", weights), ("biases", biases), ("classes", classes)):
        if given is not None and (_data.is_sparse(given) or isinstance(given, (str, bytes, dict)) or not hasattr(given, "__len__")):
            raise TypeError(f"{name}: expected a list, one entry for each {'class' if given is classes else 'layer'}, got {type(given).__name__}")
    if weights is None or len(weights) == 0:
        raise TypeError("weights: expected a list of matrices, one a layer")
    matrices: list[Any] = []
    for i, w in enumerate(weights):
        if _data.is_sparse(w):
            values, columns, starts, width = _data.rows(w, f"weights[{i}]")
            matrices.append((_single(values, f"weights[{i}]"), columns, starts, width))
        else:
            w = _single(_data.numbers(w, f"weights[{i}]"), f"weights[{i}]")
            if w.ndim != 2 or 0 in w.shape:
                raise ValueError(f"weights[{i}]: shape {w.shape}; a matrix is [outputs, inputs]")
            matrices.append(w)
    outputs = [len(m[2]) - 1 if isinstance(m, tuple) else len(m) for m in matrices]
    inputs = [m[3] if isinstance(m, tuple) else m.shape[1] for m in matrices]
    for i, (wide, want) in enumerate(zip(outputs, inputs[1:])):
        if wide != want:
            raise ValueError(f"weights[{i}] has {wide} outputs, but weights[{i + 1}] takes {want}")
    if biases is None:
        biases = [np.zeros(n, np.float32) for n in outputs]
    if len(biases) != len(matrices):
        raise ValueError(f"{len(biases)} biases for {len(matrices)} weights")
    vectors = [_single(_data.numbers(b, f"biases[{i}]"), f"biases[{i}]").ravel() for i, b in enumerate(biases)]
    texts = classes is not None and all(isinstance(c, str) for c in classes)
    names = [str(c) for c in classes] if classes is not None else [str(i) for i in range(outputs[-1])]
    if len(names) != outputs[-1]:
        raise ValueError(f"{len(names)} classes for {outputs[-1]} outputs")
    try:
        return Model(_nnz.Model.perceptron(matrices, vectors, names, texts, task == "regression"))
    except ValueError as e:
        raise Error(str(e)) from None
