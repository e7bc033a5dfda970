"""Networks: layers, answers, files."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

import nnz


@pytest.fixture(scope="module")
def model(tmp_path_factory, digits):
    folder = tmp_path_factory.mktemp("model")
    return nnz.train(digits, method="rigl", density=0.1, epochs=3, model="mlp:12-64-3", no_controls=True, quiet=True, run_dir=folder / "r").model()


def address(a):
    return a.__array_interface__["data"][0]


def test_layers_are_arrays(model):
    sparse = pytest.importorskip("scipy.sparse")
    assert [layer.shape for layer in model.layers] == [(64, 12), (3, 64)]
    first = model.layers[0]
    values, columns, starts = first.csr()
    assert len(values) == first.nonzeros == starts[-1] and starts[0] == 0 and len(starts) == 65
    assert 0 < first.density < 0.2 and model.layer("fc1.weight") is first
    for kind, of in (("array", sparse.csr_array), ("matrix", sparse.csr_matrix)):
        csr = first.to_scipy(kind=kind)
        assert isinstance(csr, of) and csr.has_canonical_format
        assert [address(a) for a in (csr.data, csr.indices, csr.indptr)] == [address(a) for a in (values, columns, starts)]
        assert np.array_equal(csr.toarray(), first.to_numpy())
    assert address(np.asarray(first)) == address(first.to_numpy()) and np.array_equal(np.from_dlpack(first), first.to_numpy())
    with pytest.raises(ValueError):
        values[0] = 1
    with pytest.raises(ValueError, match="kind='tensor'"):
        first.to_scipy(kind="tensor")
    with pytest.raises(nnz.Error, match="no layer 'fc9'"):
        model.layer("fc9")
    assert "<svg" in first._repr_html_() and "fc1.weight" in repr(first)


def test_answers_are_those_of_the_formula(model, digits):
    X, y = digits
    proba = model.predict_proba(X)
    assert proba.shape == (240, 3) and np.allclose(proba.sum(axis=1), 1, atol=1e-5)
    assert (model.predict(X) == y).mean() > 0.6
    scales, whole = np.array(model.header["encoding"]["scales"]), model.header["normalization"]
    z = ((X - scales[:, 0]) / scales[:, 1] - whole["mean"]) / whole["std"]
    p = model.state_dict()
    logits = np.maximum(z @ p["fc1.weight"].T + p["fc1.bias"].ravel(), 0) @ p["fc2.weight"].T + p["fc2.bias"].ravel()
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert np.allclose(proba, e / e.sum(axis=1, keepdims=True), atol=1e-4)
    assert np.array_equal(nnz.predict(model, X), model.predict(X))
    assert np.array_equal(nnz.predict(model.path, X.tolist()), model.predict(X))


def test_a_file_comes_back(model, digits, here):
    path = nnz.save(model, here / "m.safetensors")
    again = nnz.load(path)
    X, _ = digits
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    dense = nnz.load(model.save("dense.safetensors", dense=True))
    assert dense.nonzeros == model.nonzeros or dense.layers[0].density == 1
    copy = pickle.loads(pickle.dumps(model))
    assert np.array_equal(copy.predict(X), model.predict(X)) and copy.path == model.path
    with pytest.raises(nnz.MissingFile):
        nnz.load("nowhere.safetensors")
    (here / "bad.safetensors").write_bytes(b"no model")
    with pytest.raises(nnz.Error, match="bad.safetensors"):
        nnz.load("bad.safetensors")
    with pytest.raises(nnz.Error):
        model.save("no/such/folder/m.safetensors")


def test_a_network_in_memory_is_the_one_that_commands_see(model, digits, here):
    path = model.save("m.safetensors")
    held = nnz.load(path)
    nnz.prune(held, method="magnitude", density=0.02).model.save(path)
    assert nnz.load(path).nonzeros < held.nonzeros == model.nonzeros
    assert nnz.inspect(held).nonzeros == held.nonzeros
    assert nnz.prune(held, method="magnitude", density=0.05).before.nonzeros == held.nonzeros
    assert nnz.eval(held, digits, split="all").score == nnz.eval(model, digits, split="all").score
    for of, name in ((held, "held"), (model, "model")):
        nnz.convert(of, output=f"{name}.safetensors")
    assert (here / "held.safetensors").read_bytes() == (here / "model.safetensors").read_bytes()
    (here / "m.safetensors").unlink()
    assert nnz.inspect(held).nonzeros == held.nonzeros


def test_a_network_in_memory_is_shown(model):
    made = nnz.from_arrays([np.ones((2, 3))])
    for of, path in ((model, model.path), (made, None)):
        look = nnz.inspect(of)
        assert look.path == path and "<svg" in look._repr_html_()
    assert "<svg" in nnz.inspect(model.path)._repr_html_()


def test_networks_are_made_of_arrays():
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(1)
    dense = [rng.normal(size=s).astype(np.float32) * (rng.random(s) < 0.3) for s in ((20, 8), (4, 20))]
    biases = [rng.normal(size=n).astype(np.float32) for n in (20, 4)]
    X = rng.normal(size=(9, 8)).astype(np.float32)
    want = np.maximum(X @ dense[0].T + biases[0], 0) @ dense[1].T + biases[1]
    for weights in (dense, [sparse.csr_array(w) for w in dense], [sparse.csc_matrix(w) for w in dense], [w.astype(float).tolist() for w in dense]):
        model = nnz.from_arrays(weights, biases, task="regression")
        assert np.allclose(model.predict(X), want, atol=1e-4)
        assert np.array_equal(model.predict(sparse.csr_array(X)), model.predict(X))
        assert model.nonzeros == sum(np.count_nonzero(w) for w in dense)
        assert np.array_equal(model.layers[0].to_numpy(), dense[0])
    look = nnz.inspect(model)
    assert look.rows()[0]["nonzeros"] == np.count_nonzero(dense[0])
    small = nnz.prune(model, method="magnitude", density=0.05)
    assert small.model.density == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: nnz.from_arrays([np.ones((2, 3)), np.ones((2, 3))]), r"weights\[0\] has 2 outputs, but weights\[1\] takes 3"),
        (lambda: nnz.from_arrays([np.ones((2, 3))], [np.ones(3)]), "has 2 values, got 3"),
        (lambda: nnz.from_arrays([np.ones((2, 3))], []), "0 biases for 1"),
        (lambda: nnz.from_arrays([np.ones((2, 3))], classes=["a"]), "1 classes for 2 outputs"),
        (lambda: nnz.from_arrays([]), "list of matrices"),
        (lambda: nnz.from_arrays([np.full((2, 3), np.nan)]), r"weights\[0\]: a value is not finite"),
        (lambda: nnz.from_arrays([np.full((2, 3), 1e300)]), r"weights\[0\]: a value is not finite"),
        (lambda: nnz.from_arrays([np.ones(3)]), "matrix is"),
        (lambda: nnz.from_arrays([np.ones((2, 3))], task="clustering"), "clustering"),
        (lambda: nnz.from_arrays([np.ones((2, 3))]).predict(np.ones((2, 4))), "rows of 4 numbers, but the network takes 3"),
        (lambda: nnz.save("model", "x"), "expected a Model"),
        (lambda: nnz.from_arrays(3), "weights: expected a list, one entry for each layer, got int"),
        (lambda: nnz.from_arrays([np.ones((2, 3))], 3), "biases: expected a list, one entry for each layer, got int"),
        (lambda: nnz.from_arrays([np.ones((2, 3))], classes=3), "classes: expected a list, one entry for each class, got int"),
        (lambda: nnz.from_arrays([np.ones((2, 3))]).save("z.onnx"), "z.onnx: networks that nnz trained are written as safetensors"),
        (lambda: nnz.from_arrays([np.ones((2, 3))]).save("z.pt"), "files of the kind .pt are not written"),
        (
            lambda: nnz.prune(nnz.from_arrays([np.ones((2, 3))]), method="magnitude", density=0.5, output="z.onnx"),
            "z.onnx: networks that nnz trained are written as safetensors",
        ),
    ],
)
def test_what_does_not_fit_is_said(make, says):
    with pytest.raises((TypeError, ValueError), match=says):
        make()


def test_torch_is_read_where_it_lies():
    torch = pytest.importorskip("torch")
    x = torch.randn(5, 3)
    assert address(nnz._data.rows(x)) == x.data_ptr()
    model = nnz.from_arrays([np.ones((2, 3))])
    assert np.array_equal(model.predict(x.requires_grad_()), model.predict(x.detach().numpy()))
    assert torch.equal(torch.from_dlpack(model.layers[0]), torch.ones(2, 3))


def test_the_interpreter_outlives_errors():
    code = "import nnz, numpy as np\nfor bad in (3, 'x', b'', [], [[1]], np.zeros((1,)), None):\n    try: nnz.from_arrays([np.ones((2, 2))]).predict(bad)\n    except (TypeError, ValueError): pass\nprint('alive')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "alive"


def test_a_fork_computes_on_threads_of_its_own(model, digits):
    X, y = digits
    code = """
import os, sys, warnings, numpy as np, nnz
warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
model = nnz.from_arrays([rng.normal(size=(512, 256)), rng.normal(size=(8, 512))])
X = rng.normal(size=(2000, 256))
before = model.outputs(X)
child = os.fork()
if child == 0:
    same = np.array_equal(model.outputs(X), before) and nnz.eval is not None and nnz.show("set").key == "set"
    os._exit(0 if same else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "0", done.stderr
