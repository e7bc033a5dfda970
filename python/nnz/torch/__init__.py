"""Sparse layers, pruning and dynamic sparse training for PyTorch.

    import nnz.torch

    nnz.torch.prune(model, density=0.05)          # zeros, by any method that prunes
    nnz.torch.compile(model, example=batch)       # sparse kernels where they are faster
    nnz.torch.attach(optimizer, density=0.1)      # rewires in anybody's training loop

All of it works on plain modules, tensors and optimizers, and goes back to them: `decompile` and `state_dict`.
"""

import torch as _torch

from .._nnz import compute_beside as _compute_beside
from ._attach import Attached, attach, rewiring_callback
from ._chain import SparseSequential
from ._compile import PAYS, compile, decompile, state_dict
from ._layers import CompiledModule, SparseConv2d, SparseLinear
from ._prune import Pruned, prune
from ._weights import LayerReport

__all__ = [
    "Attached",
    "CompiledModule",
    "LayerReport",
    "Pruned",
    "SparseConv2d",
    "SparseLinear",
    "SparseSequential",
    "attach",
    "compile",
    "decompile",
    "prune",
    "rewiring_callback",
    "state_dict",
]

# Kernels compute on the threads of PyTorch, beside which others would wait for a core.
_compute_beside(_torch.get_num_threads if "parallel backend: OpenMP" in _torch.__config__.parallel_info() else None)

# Files hold classes under the names that this package promises.
for _class in (Attached, CompiledModule, LayerReport, Pruned, SparseConv2d, SparseLinear, SparseSequential):
    _class.__module__ = __name__
del _class
