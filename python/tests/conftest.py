"""What all tests share: a folder of their own to run in, and no data set but those that are built in."""

import os

import numpy as np
import pytest
from hypothesis import settings

# The gate tries the same inputs each time; elsewhere other ones are tried.
settings.register_profile("gate", derandomize=True)
if os.environ.get("NNZ_GATE"):
    settings.load_profile("gate")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NNZ_DATA", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture(scope="session")
def digits():
    """Two bands of eight numbers that a small network learns to tell apart."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 240)
    X = rng.normal(size=(240, 12)) + 3 * np.eye(3)[y].repeat(4, axis=1)
    return X, y
