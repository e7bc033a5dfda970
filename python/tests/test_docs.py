"""Pages, docstrings and notebooks do what they say; the stubs are what the program says."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nnz
from nnz import _model, _program

ROOT = Path(os.environ.get("NNZ_ROOT") or Path(__file__).parents[2])
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.mark.parametrize("module", [_model, _program])
def test_docstrings(module):
    found = doctest.testmod(module, optionflags=FLAGS)
    assert found.attempted > 0 and found.failed == 0


def test_the_page():
    found = doctest.testfile(str(ROOT / "docs/src/python.md"), module_relative=False, optionflags=FLAGS)
    assert found.attempted > 5 and found.failed == 0


def test_the_page_on_estimators():
    pytest.importorskip("sklearn")
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/src/sklearn.md").read_text(), re.M | re.S)
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert names["network"].nonzeros_ == 947 and names["network"].score(names["test"], names["truth"]) > 0.9


def test_the_quick_start_notebook(here):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    book = nbformat.read(ROOT / "python/examples/quick-start.ipynb", as_version=4)
    client = nbclient.NotebookClient(book, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(here)}})
    client.execute()
    shown = str([o for c in book.cells if c.cell_type == "code" for o in c.outputs])
    assert "<table>" in shown and "<svg" in shown


def test_stubs_are_those_of_the_program():
    done = subprocess.run([sys.executable, "-P", str(ROOT / "python/stubs.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_stubs_fit_the_package(here):
    pytest.importorskip("mypy")
    allowed = here / "allowed"
    # Others test those; and the functions of a group are made of what the program says.
    allowed.write_text("nnz\\.sklearn.*\nnnz\\.torch.*\nnnz\\.(adapter|bench|data)\n")
    config = here / "mypy.ini"
    # Estimators and modules are duck-typed inside, as the libraries are that they serve; their tests run them.
    config.write_text("[mypy]\nignore_missing_imports = true\n[mypy-nnz.sklearn,nnz.torch,nnz.torch.*]\nignore_errors = true\n")
    words = [sys.executable, "-m", "mypy.stubtest", "nnz", "--ignore-unused-allowlist", "--allowlist", str(allowed), "--mypy-config-file", str(config)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
