#!/usr/bin/env bash
# An array of two extents that lies column by column (Fortran order), handed to Rust. `as_slice` of numpy 0.30.0 (rust-numpy, with PyO3
# 0.30.1) succeeds for it, and for `as_slice_mut` too: what counts as contiguous there is either order. The slice has the numbers in the order of
# memory, so a function that takes it for rows computes with the transposed matrix, without an error. Only arrays with gaps are refused.
# `is_c_contiguous` has to be asked first.
#
# Ends with 0 while this is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6
mkdir -p "$work/slices/src"
cat >"$work/slices/Cargo.toml" <<'TOML'
[package]
name = "slices"
version = "0.0.0"
edition = "2024"
[workspace]
[lib]
crate-type = ["cdylib"]
[dependencies]
numpy = "=0.30.0"
pyo3 = { version = "=0.30.1", features = ["abi3-py311", "extension-module"] }
TOML
cat >"$work/slices/src/lib.rs" <<'RS'
use numpy::{PyReadonlyArray2, PyReadwriteArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;

#[pymodule]
mod slices {
    use super::*;

    #[pyfunction]
    fn seen(a: PyReadonlyArray2<'_, f64>) -> PyResult<(bool, Vec<f64>)> {
        Ok((a.is_c_contiguous(), a.as_slice()?.to_vec()))
    }

    #[pyfunction]
    fn numbered(mut a: PyReadwriteArray2<'_, f64>) -> PyResult<()> {
        a.as_slice_mut()?.iter_mut().zip(0..).for_each(|(x, n)| *x = f64::from(n));
        Ok(())
    }
}
RS
(cd "$work/slices" && CARGO_TARGET_DIR=$work/target PYO3_PYTHON=$work/venv/bin/python cargo build --quiet --release)
cp "$work/target/release/libslices.so" "$work/slices.abi3.so"
PYTHONPATH=$work "$work/venv/bin/python" - <<'PY'
import numpy as np

import slices

print("numpy", np.__version__, "rust-numpy 0.30.0")
rows = np.arange(6.0).reshape(2, 3)
columns = np.asfortranarray(rows)
assert np.array_equal(rows, columns)
print("by rows   ", *slices.seen(rows))
print("by columns", *slices.seen(columns))
assert slices.seen(rows) == (True, [0, 1, 2, 3, 4, 5])
assert slices.seen(columns) == (False, [0, 3, 1, 4, 2, 5]), "the order is no longer lost: the finding is out of date"
slices.numbered(columns)
print("numbered from 0 by a slice that may be written:", columns.tolist())
assert columns.tolist() == [[0, 2, 4], [1, 3, 5]]
try:
    slices.seen(np.arange(12.0).reshape(2, 6)[:, ::2])
    raise SystemExit("an array with gaps gives a slice")
except (TypeError, ValueError) as e:
    print("with gaps:", type(e).__name__, e)
PY
