"""Neural networks that are sparse all the way down."""

from ._nnz import __version__

__all__ = ["__version__"]
