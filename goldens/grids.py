#!/usr/bin/env python3
"""The grids of GGML's IQ types, a byte for each number: crates/nnz-formats/src/grids.bin. Needs gguf 0.19."""
import pathlib

import numpy as np
from gguf import quants

parts = []
for name in ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"):
    kind = getattr(quants, name)
    kind.init_grid()
    parts.append(np.asarray(kind.grid).astype("i1").tobytes())
    print(name, len(parts[-1]))
(pathlib.Path(__file__).resolve().parent.parent / "crates/nnz-formats/src/grids.bin").write_bytes(b"".join(parts))
