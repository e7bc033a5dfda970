"""Data in memory: arrays, sparse matrices, tensors and tables as the commands read them."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from os import PathLike, fspath
from typing import Any, Iterator

from ._nnz import Lent


def is_sparse(x: Any) -> bool:
    """Whether it is a matrix or an array of scipy.sparse."""
    return hasattr(x, "tocsr") and hasattr(x, "nnz")


def is_frame(x: Any) -> bool:
    """Whether it is a table with named columns."""
    return hasattr(x, "columns") and (hasattr(x, "to_csv") or hasattr(x, "write_csv"))


def is_place(x: Any) -> bool:
    """Whether it names a data set, a file or a folder."""
    return isinstance(x, (str, PathLike))


def array(x: Any, what: str = "inputs") -> Any:
    """An array of NumPy over the same memory where that can be: of anything with ``__dlpack__`` or ``__array__``, or of lists."""
    import numpy as np

    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise ValueError(f"{what}: values are masked; fill them in, or drop their rows")
    if isinstance(x, np.ndarray):
        return np.asarray(x)
    if hasattr(x, "__dlpack__") and not hasattr(x, "__array_interface__"):
        if getattr(x, "requires_grad", False):
            x = x.detach()
        device = getattr(x, "__dlpack_device__", lambda: (1, 0))()
        if int(device[0]) not in (1, 3, 11, 13):
            raise TypeError(f"{what}: the numbers are on another device; copy them to the processor (`x.cpu()`)")
        try:
            return np.from_dlpack(x)
        except (BufferError, RuntimeError, TypeError) as e:
            if not hasattr(x, "__array__"):
                raise TypeError(f"{what}: {type(x).__name__} cannot be read as an array: {e}") from None
    try:
        found = np.asarray(x)
    except ValueError as e:
        raise ValueError(f"{what}: rows of different lengths, or no numbers ({e})") from None
    if found.dtype == object and not isinstance(x, (list, tuple, np.ndarray)) and not hasattr(x, "__array__"):
        raise TypeError(f"{what}: {type(x).__name__} is no array")
    return found


def unboxed(x: Any, what: str, texts: bool = False) -> Any:
    """An array of objects as one of numbers or, with `texts`, of texts; every other array as it is."""
    import numpy as np
    from numbers import Integral, Real

    if x.dtype != object:
        return x
    kinds = (Real, np.bool_)
    if texts and x.size and isinstance(x.flat[0], str):
        kinds = (str,)  # type: ignore[assignment]
    for i, v in enumerate(x.flat):
        if not isinstance(v, kinds):
            at = ", ".join(map(str, np.unravel_index(i, x.shape)))
            shown = repr(v) if len(repr(v)) <= 40 else type(v).__name__
            read = "texts" if str in kinds else "numbers or texts" if texts else "numbers"
            way = "encode texts first" if isinstance(v, str) and not texts else "fill it in, or drop its row"
            raise TypeError(f"{what}[{at}] is {shown}, where {read} are read; {way}")
    if str in kinds:
        return x.astype(str)
    try:
        return x.astype(np.int64 if all(isinstance(v, (Integral, np.bool_)) for v in x.flat) else np.float64)
    except OverflowError:
        raise ValueError(f"{what}: a number is too large for 64 bits") from None


def numbers(x: Any, what: str = "inputs") -> Any:
    """A C-contiguous array of uint8, float32 or float64 with the same values; ``x`` itself if it is one."""
    import numpy as np

    if is_frame(x):
        for column in x.columns:
            kind = getattr(getattr(x[column], "dtype", None), "kind", "b")
            if kind not in "buifO" or (kind == "O" and any(isinstance(v, str) for v in x[column])):
                raise TypeError(
                    f"{what}: column {column!r} holds no numbers; encode it first, or give one DataFrame with the answers in it and `target=`"
                )
    x = unboxed(array(x, what), what)
    kind, size = x.dtype.kind, x.dtype.itemsize
    if kind not in "buif" or (kind == "f" and size > 8):
        way = "encode texts first" if kind in "UST" else "numbers and booleans are read"
        raise TypeError(f"{what}: an array of {x.dtype}; {way}")
    if kind == "u" and size == 1:
        return np.ascontiguousarray(x)
    small = kind == "b" or size < 4 or (kind == "f" and size == 4)
    return np.ascontiguousarray(x, dtype=np.float32 if small else np.float64)


def rows(x: Any, what: str = "inputs") -> Any:
    """Inputs for the compiled half: an array, or compressed rows with their number of columns."""
    import numpy as np

    if not is_sparse(x):
        x = numbers(x, what)
        if x.ndim not in (2, 3, 4):
            way = "; reshape(1, -1) makes it one row" if x.ndim == 1 else ""
            raise ValueError(f"{what}: shape {x.shape}; rows are [rows, values], or pictures [rows, height, width]{way}")
        if 0 in x.shape:
            raise ValueError(f"{what}: shape {x.shape} holds nothing")
        return x
    if x.dtype.kind not in "buif":
        raise TypeError(f"{what}: a sparse array of {x.dtype}; numbers and booleans are read")
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{what}: shape {x.shape}; rows are [rows, values]")
    csr = x.tocsr()
    if not csr.has_canonical_format:
        csr = csr.copy() if csr is x else csr
        csr.sum_duplicates()
    if x.shape[1] > 1 << 31:
        raise ValueError(f"{what}: {x.shape[1]} columns; at most 2147483648 are read")
    return (csr.data.astype(np.float64, copy=False), csr.indices.astype(np.uint32), csr.indptr.astype(np.int64, copy=False), x.shape[1])


def answers(y: Any, count: int) -> tuple[Any, list[str] | None]:
    """A number for each row, and the names of classes if answers are texts."""
    import numpy as np

    if is_sparse(y):
        raise TypeError("labels: a sparse matrix; give one label a row (`y.toarray().ravel()`)")
    y = array(y, "labels")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(f"labels: shape {y.shape}; labels are one a row")
    if len(y) != count:
        raise ValueError(f"{len(y)} labels for {count} rows")
    y = unboxed(y, "labels", texts=True)
    if y.dtype.kind in "UST":
        names, codes = np.unique(y.astype(str), return_inverse=True)
        return codes.astype(np.float64), [str(n) for n in names]
    if y.dtype.kind not in "buif":
        raise TypeError(f"labels: an array of {y.dtype}; numbers and texts are read")
    return np.ascontiguousarray(y, dtype=np.float64), None


def lend(data: Any, what: str = "data") -> Lent:
    """Lends ``(X, y)``, ``X`` or a table under a name that commands read."""
    if is_frame(data):
        text = data.to_csv(index=False) if hasattr(data, "to_csv") else data.write_csv()
        return Lent.file(text.encode(), "csv")
    if isinstance(data, tuple):
        if len(data) != 2:
            raise TypeError(f"{what}: a tuple of {len(data)}; give (X, y)")
        inputs = rows(data[0], f"{what}: X")
        count = len(inputs[2]) - 1 if isinstance(inputs, tuple) else len(inputs)
        return Lent.arrays(inputs, *answers(data[1], count))
    if isinstance(data, (dict, set, bytes)) or data is None:
        raise TypeError(f"{what}: {type(data).__name__}; give a name, a path, (X, y), or a DataFrame")
    return Lent.arrays(rows(data, what))


def place(text: Any) -> str:
    """A path or a name as the command line takes it."""
    return fspath(text)


@contextmanager
def places(named: dict[str, str]) -> Iterator[Any]:
    """A function that names data for a command; what it lends is lent until the end, and what it is stands in `named`."""
    with ExitStack() as stack:

        def name(data: Any, what: str = "data") -> str:
            if is_place(data):
                return place(data)
            lent = lend(data, what)
            stack.callback(lent.close)
            named[lent.name] = what
            return lent.name

        yield name
