"""The estimators by scikit-learn's own checks, and by what they promise beyond them."""

import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from nnz.sklearn import SparseAutoencoder, SparseMLPClassifier, SparseMLPRegressor

ALL = [SparseMLPClassifier, SparseMLPRegressor, SparseAutoencoder]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@parametrize_with_checks(
    [
        SparseMLPClassifier(max_iter=100),
        SparseMLPRegressor(max_iter=100),
        SparseAutoencoder((8, 4), max_iter=20),
        SparseMLPClassifier((20,), method=None, density=None, solver="sgd", max_iter=50),
        SparseMLPClassifier((30, 20), method="magnitude", density=0.5, early_stopping=False, max_iter=50),
    ]
)
def test_scikit_learn_says(estimator, check):
    check(estimator)


def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split(X / 16, y, random_state=0)


def rows(kind, n=60):
    """Rows and what is to be learned from them."""
    rng = np.random.RandomState(0)
    X = rng.randn(n, 12) * (rng.rand(n, 12) < 0.5)
    y = (X[:, 0] + X[:, 1] > 0).astype(int) + (X[:, 2] > 0.5) if kind is SparseMLPClassifier else X[:, 0] - X[:, 1] ** 2
    return X, y


def made(kind, **more):
    sizes = (16, 5) if kind is SparseAutoencoder else (16,)
    return kind(sizes, **({"density": 0.3, "max_iter": 15, "random_state": 0} | more))


def answer(estimator, X):
    for name in ("predict_proba", "predict", "transform"):
        if hasattr(estimator, name):
            return getattr(estimator, name)(X)


def bits(estimator):
    return [w.toarray().tobytes() for w in estimator.coefs_] + [b.tobytes() for b in estimator.intercepts_]


# --- what is learned ----------------------------------------------------------------------------------------------------


def test_a_twentieth_of_the_weights_reads_digits():
    train, test, labels, truth = digits()
    network = SparseMLPClassifier((256,), density=0.05, random_state=0).fit(train, labels)
    assert network.score(test, truth) > 0.95
    assert network.nonzeros_ == sum(w.nnz for w in network.coefs_) == round(0.05 * (64 * 256 + 256 * 10))
    assert network.density_ == pytest.approx(0.05, abs=1e-3)
    assert [w.shape for w in network.coefs_] == [(64, 256), (256, 10)]


def test_the_weights_shown_are_the_ones_used():
    X, y = rows(SparseMLPClassifier)
    for activation, f in {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0), "identity": lambda x: x}.items():
        network = made(SparseMLPClassifier, activation=activation).fit(X, y)
        (w1, w2), (b1, b2) = network.coefs_, network.intercepts_
        np.testing.assert_allclose(f(X @ w1 + b1) @ w2 + b2, network.decision_function(X), rtol=1e-9, atol=1e-12)
    with config_context(sparse_interface="sparray"):
        assert all(isinstance(w, sp.sparray) for w in network.coefs_)
    assert all(isinstance(w, sp.spmatrix) for w in network.coefs_)


def test_several_targets_in_their_own_units():
    X, y = load_diabetes(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    both = np.column_stack([y, 1e6 + 1e-3 * X[:, 2]])
    network = SparseMLPRegressor(random_state=0, max_iter=100).fit(X, both)
    assert network.predict(X).shape == both.shape
    assert network.score(X, both) > 0.5
    one = SparseMLPRegressor(random_state=0, max_iter=100).fit(X, y)
    assert one.predict(X).shape == y.shape


def test_the_weights_shown_predict_targets_in_their_units():
    X, y = rows(SparseMLPRegressor)
    for targets in (1e6 + 100 * y, np.column_stack([y, 1e3 - 7 * y])):
        for dtype, far in ((np.float64, 1e-12), (np.float32, 1e-5)):
            network = made(SparseMLPRegressor).fit(X.astype(dtype), targets)
            (w1, w2), (b1, b2) = network.coefs_, network.intercepts_
            shown = np.maximum(X.astype(dtype) @ w1 + b1, 0) @ w2 + b2
            np.testing.assert_allclose(shown.reshape(targets.shape), network.predict(X.astype(dtype)), rtol=far, atol=far * 1e3)
            assert w1.dtype == w2.dtype == b2.dtype == dtype


def test_large_targets_are_predicted_or_refused():
    X, y = rows(SparseMLPRegressor)
    found = made(SparseMLPRegressor).fit(X, y * 1e200).predict(X)
    np.testing.assert_allclose(found / 1e200, made(SparseMLPRegressor).fit(X, y).predict(X), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="too large to compute with in float32; divide y"):
        made(SparseMLPRegressor).fit(X.astype(np.float32), y * 1e200)


def test_codes_rebuild_rows():
    train, test, *_ = digits()
    network = SparseAutoencoder((128, 16), density=0.2, random_state=0, max_iter=60).fit(train)
    codes = network.transform(test)
    assert codes.shape == (len(test), 16)
    rebuilt = network.inverse_transform(codes)
    share = 1 - ((test - rebuilt) ** 2).sum() / ((test - test.mean(0)) ** 2).sum()
    assert network.score(test) == pytest.approx(share)
    assert share > 0.5
    assert list(network.get_feature_names_out()[:2]) == ["sparseautoencoder0", "sparseautoencoder1"]
    assert network.score(sp.csr_array(test)) == pytest.approx(share)


@pytest.mark.parametrize("method", ["set", "rigl", "magnitude", "gmp", "snip"])
def test_methods_by_their_key(method):
    X, y = load_wine(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    network = SparseMLPClassifier((40,), method=method, density=0.3, max_iter=60, tol=0, random_state=0).fit(X, y)
    assert network.score(X, y) > 0.9
    assert network.density_ <= 0.31


def test_early_stopping_keeps_the_best_epoch():
    train, test, labels, truth = digits()
    network = SparseMLPClassifier(early_stopping=True, n_iter_no_change=5, random_state=0).fit(train, labels)
    scores = network.validation_scores_
    assert network.n_iter_ == len(scores) < 200
    assert network.best_validation_score_ == max(scores)
    assert network.best_loss_ is None
    with pytest.raises(ValueError, match="early_stopping"):
        network.partial_fit(train, labels)
    same = pickle.loads(pickle.dumps(network))
    assert bits(same) == bits(network)
    assert network.score(test, truth) > 0.9
    # A run that ends with the epoch that was best has the network that was kept.
    plain = {"method": None, "density": None, "early_stopping": True, "learning_rate_init": 0.03, "random_state": 0}
    longer = SparseMLPClassifier((20,), n_iter_no_change=3, **plain).fit(train, labels)
    best = int(np.argmax(longer.validation_scores_)) + 1
    assert best < longer.n_iter_
    assert bits(longer) == bits(SparseMLPClassifier((20,), max_iter=best, **plain).fit(train, labels))
    # A method that prunes as it trains is not stopped before it has pruned.
    slow = SparseMLPClassifier(
        method="gmp", density=0.1, early_stopping=True, n_iter_no_change=1, max_iter=40, tol=0.5, random_state=0
    )
    assert slow.fit(train, labels).density_ == pytest.approx(0.1, abs=0.01)


# --- the same, told otherwise -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_calls_of_partial_fit_are_one_fit(kind):
    X, y = rows(kind)
    whole = made(kind, batch_size=16, tol=-np.inf, n_iter_no_change=np.inf).fit(X, y)
    parts = made(kind, batch_size=16)
    for _ in range(15):
        parts.partial_fit(X, y, *([[0, 1, 2]] if kind is SparseMLPClassifier else []))
    assert bits(parts) == bits(whole)
    assert parts.loss_curve_ == whole.loss_curve_
    assert parts.n_iter_ == 15
    # Taken up again from a file, and with other rows.
    again = pickle.loads(pickle.dumps(parts)).partial_fit(X[:10], y[:10])
    assert bits(again) == bits(parts.partial_fit(X[:10], y[:10]))
    assert bits(again) != bits(whole)


@pytest.mark.parametrize("kind", ALL)
def test_sparse_rows_are_the_dense_ones(kind):
    X, y = rows(kind)
    dense = made(kind, batch_size=16).fit(X, y)
    for of in (sp.csr_matrix, sp.csr_array, sp.csc_array, sp.coo_array):
        S = of(X)
        sparse = made(kind, batch_size=16).fit(S, y)
        assert bits(sparse) == bits(dense)
        np.testing.assert_array_equal(answer(sparse, S), answer(dense, X))
    twice = sp.csr_array((np.repeat(sp.csr_array(X).data / 2, 2), np.repeat(sp.csr_array(X).indices, 2), sp.csr_array(X).indptr * 2), shape=X.shape)
    assert bits(made(kind, batch_size=16).fit(twice, y)) == bits(dense)


@pytest.mark.parametrize("kind", ALL)
def test_weights_are_repeated_rows(kind):
    X, y = rows(kind)
    weights = np.random.RandomState(1).randint(0, 4, len(X))
    one = made(kind, batch_size=10_000).fit(X, y, sample_weight=weights)
    other = made(kind, batch_size=10_000).fit(X.repeat(weights, axis=0), y.repeat(weights))
    np.testing.assert_allclose(answer(one, X), answer(other, X), rtol=1e-6, atol=1e-8)
    zero = made(kind).fit(X, y, sample_weight=weights > 0)
    assert bits(zero) == bits(made(kind).fit(X[weights > 0], y[weights > 0], sample_weight=np.ones((weights > 0).sum())))
    for wrong in (-1.0 * np.ones(len(X)), np.zeros(len(X)), np.ones(3), np.full(len(X), np.nan)):
        with pytest.raises(ValueError, match="weight"):
            made(kind).fit(X, y, sample_weight=wrong)


def test_weights_of_classes():
    X, y = load_wine(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    by_class = made(SparseMLPClassifier, class_weight={0: 3.0, 1: 1.0, 2: 0.5}).fit(X, y)
    by_row = made(SparseMLPClassifier).fit(X, y, sample_weight=np.array([3.0, 1.0, 0.5])[y])
    assert bits(by_class) == bits(by_row)


def test_weights_of_classes_hold_for_rows_without_them():
    X, y = rows(SparseMLPClassifier)
    few = y > 0
    one = made(SparseMLPClassifier, class_weight={0: 2.0, 1: 3.0}).partial_fit(X[few], y[few], classes=[0, 1, 2])
    other = made(SparseMLPClassifier).partial_fit(X[few], y[few], [0, 1, 2], sample_weight=np.array([2.0, 3.0, 1.0])[y[few]])
    assert bits(one) == bits(other)
    with pytest.raises(ValueError, match="class_weight='balanced' is not for partial_fit"):
        made(SparseMLPClassifier, class_weight="balanced").partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="class_weight has classes that are not in y"):
        made(SparseMLPClassifier, class_weight={7: 2.0}).fit(X, y)


def test_a_seed_gives_the_same_bits_for_any_number_of_threads():
    code = """
import hashlib, warnings
warnings.simplefilter("ignore")
from test_sklearn import ALL, bits, made, rows
for kind in ALL:
    X, y = rows(kind, 400)
    print(hashlib.sha256(b"".join(bits(made(kind, batch_size=64, max_iter=8).fit(X, y)))).hexdigest())
"""
    here = os.path.dirname(__file__)

    def run(threads):
        env = os.environ | {"RAYON_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join([here, *sys.path])}
        return subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout

    one = run(1)
    assert len(one.split()) == len(set(one.split())) == 3
    assert run(2) == one and run(5) == one


def test_warm_starts_go_on_from_the_weights():
    X, y = rows(SparseMLPClassifier)
    cold = made(SparseMLPClassifier, max_iter=30)
    warm = made(SparseMLPClassifier, max_iter=30, warm_start=True)
    first = cold.fit(X, y).loss_
    assert warm.fit(X, y).loss_ == first
    assert warm.fit(X, y).loss_curve_[0] < 1.5 * first < cold.fit(X, y).loss_curve_[0]
    assert warm.density_ == cold.density_
    with pytest.raises(ValueError, match="not there before"):
        warm.fit(X, y + 1)


def test_a_warm_start_cannot_change_what_it_begins_with():
    X, y = rows(SparseMLPClassifier)
    for density in (0.6, 0.1, None):
        warm = made(SparseMLPClassifier, warm_start=True).fit(X, y).set_params(density=density)
        if density is None:
            warm.set_params(method=None)
        with pytest.raises(ValueError, match="warm_start goes on with the connections of the last fit, of density 0.3"):
            warm.fit(X, y)
        assert warm.density_ == pytest.approx(0.3, abs=0.01)
    pruned = made(SparseMLPClassifier, warm_start=True, method="magnitude").fit(X, y)
    assert pruned.set_params(density=0.15).fit(X, y).density_ == pytest.approx(0.15, abs=0.01)
    with pytest.raises(ValueError, match="^density is now 0.5"):
        pruned.set_params(density=0.5).fit(X, y)
    for name, other in {"activation": "tanh", "hidden_layer_sizes": (17,)}.items():
        with pytest.raises(ValueError, match=f"^{name} has changed since the last fit"):
            made(SparseMLPClassifier, warm_start=True).fit(X, y).set_params(**{name: other}).fit(X, y)
    # The same settings go on, and so does another method of the same density.
    same = made(SparseMLPClassifier, warm_start=True).fit(X, y)
    assert same.set_params(method="set").fit(X, y).density_ == pytest.approx(0.3, abs=0.01)


# --- the habits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_estimators_are_copied_and_kept(kind):
    X, y = rows(kind)
    for dtype in (np.float32, np.float64):
        network = made(kind).fit(X.astype(dtype), y)
        for same in (pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
            assert answer(same, X).tobytes() == answer(network, X).tobytes()
            assert bits(same) == bits(network)
        assert answer(network, X.astype(dtype)).dtype == dtype
    assert not hasattr(clone(network), "_network")
    with pytest.raises(NotFittedError):
        answer(clone(network), X)


def test_pipelines_searches_and_frames():
    X, y = load_wine(return_X_y=True, as_frame=True)
    pipe = make_pipeline(StandardScaler(), SparseMLPClassifier((30,), max_iter=60, random_state=0))
    search = GridSearchCV(pipe, {"sparsemlpclassifier__density": [0.2, 0.5], "sparsemlpclassifier__method": ["rigl", "set"]}, cv=3)
    search.fit(X, y)
    assert search.best_score_ > 0.9
    assert cross_val_score(search.best_estimator_, X, y, cv=3).mean() > 0.9
    network = SparseMLPClassifier(max_iter=2, density=0.3).fit(X, y)
    assert list(network.feature_names_in_) == list(X.columns)
    with pytest.raises(ValueError, match="feature names"):
        network.predict(X[X.columns[::-1]])
    text = SparseMLPClassifier(max_iter=2, density=0.3).fit(X, y.map({0: "a", 1: "b", 2: "c"}))
    assert set(text.predict(X)) <= {"a", "b", "c"}
    codes = SparseAutoencoder((8, 2), density=0.5, max_iter=2).set_output(transform="pandas").fit_transform(X)
    assert isinstance(codes, pd.DataFrame) and codes.shape == (len(X), 2)


@pytest.mark.parametrize("kind", ["array", "list", "object", "string", "category", "frame"])
def test_text_digits_stay_what_they_are(kind):
    X, y = rows(SparseMLPClassifier)
    texts = [("01", "1", "10")[i] for i in y]
    given = {
        "array": np.array,
        "list": list,
        "object": lambda t: pd.DataFrame({"y": t}, dtype=object)["y"],
        "string": lambda t: pd.DataFrame({"y": t}, dtype="string")["y"],
        "category": lambda t: pd.DataFrame({"y": t}, dtype="category")["y"],
        "frame": lambda t: pd.DataFrame({"y": t}),
    }[kind](texts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network, forest = (e.fit(X, given) for e in (made(SparseMLPClassifier, max_iter=60), RandomForestClassifier(3)))
    assert network.classes_.tolist() == ["01", "1", "10"] and network.classes_.dtype == forest.classes_.dtype
    answers = network.predict(X)
    assert answers.dtype == forest.predict(X).dtype and {type(a) for a in answers} == {type(a) for a in forest.predict(X)}
    assert network.score(X, given) > 0.6 and set(answers) <= set(texts)


@pytest.mark.parametrize("matrix", [np.array, sp.csr_matrix, pd.DataFrame])
def test_several_labels_a_row_are_refused_with_a_way_out(matrix):
    X, y = rows(SparseMLPClassifier)
    several = np.column_stack([y > 0, y > 1]).astype(int)
    with pytest.raises(ValueError, match="one class a row; sklearn.multioutput.MultiOutputClassifier"):
        made(SparseMLPClassifier).fit(X, matrix(several))
    both = MultiOutputClassifier(made(SparseMLPClassifier, max_iter=60)).fit(X, several)
    assert both.predict(X).shape == several.shape and both.score(X, several) > 0.5


def test_epochs_are_told(capsys):
    X, y = rows(SparseMLPRegressor)
    made(SparseMLPRegressor, max_iter=3, verbose=True).fit(X, y)
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == [f"Iteration {i}" for i in (1, 2, 3)]


def test_warnings_are_few():
    X, y = rows(SparseMLPClassifier)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made(SparseMLPClassifier, max_iter=500, tol=1e-2).fit(X, y)
    assert not said
    with pytest.warns(ConvergenceWarning, match="15"):
        made(SparseMLPClassifier).fit(X, y)


@pytest.mark.parametrize("fitted", [False, True])
def test_ctrl_c_leaves_an_estimator_as_it_was(fitted):
    X, y = rows(SparseMLPClassifier, 2000)
    network = made(SparseMLPClassifier, max_iter=1 if fitted else 10**6, tol=-np.inf, n_iter_no_change=np.inf)
    if fitted:
        network.fit(X[:, :5], y)
        network.set_params(max_iter=10**6)
    before = dict(vars(network))
    # The main thread is told, as by a terminal.
    timer = threading.Timer(1.0, lambda: signal.raise_signal(signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        network.fit(X, y)
    timer.join()
    assert vars(network) == before
    if fitted:
        assert network.predict(X[:, :5]).shape == y.shape
    else:
        with pytest.raises(NotFittedError):
            network.predict(X)


def test_the_interpreter_is_free_during_a_fit():
    X, y = rows(SparseMLPClassifier, 500)
    turns, done = [0], threading.Event()

    def count():
        while not done.is_set():
            turns[0] += 1

    thread = threading.Thread(target=count)
    thread.start()
    made(SparseMLPClassifier, max_iter=100, tol=-np.inf, n_iter_no_change=np.inf).fit(X, y)
    done.set()
    thread.join()
    assert turns[0] > 1000


def test_a_fork_fits_and_predicts():
    """Threads do not survive a fork, and an estimator of the process before is used in it."""
    code = """
import os, sys, warnings
warnings.simplefilter("ignore")
from test_sklearn import SparseMLPClassifier, bits, made, rows
X, y = rows(SparseMLPClassifier, 400)
network = made(SparseMLPClassifier, batch_size=64).fit(X, y)
want = bits(network), network.predict_proba(X).tobytes()
if (child := os.fork()) == 0:
    same = network.predict_proba(X).tobytes() == want[1]
    os._exit(0 if same and bits(made(SparseMLPClassifier, batch_size=64).fit(X, y)) == want[0] else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path]), "RAYON_NUM_THREADS": "2"}
    assert subprocess.run([sys.executable, "-c", code], env=env, timeout=120).returncode == 0


def test_the_example_runs():
    import doctest

    import nnz.sklearn

    assert doctest.testmod(nnz.sklearn).failed == 0


# --- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, error, words",
    [
        ({"density": 0}, ValueError, "density must be above 0"),
        ({"density": 1.5}, ValueError, "at most 1"),
        ({"density": "0.1"}, TypeError, "density must be a number"),
        ({"density": 1e-6}, ValueError, "density"),
        ({"method": "riggle"}, ValueError, "rigl"),
        ({"method": 3}, TypeError, "method"),
        ({"method": None}, ValueError, "density=None"),
        ({"method_options": {"evry": 3}}, ValueError, "every"),
        ({"method_options": {"every": object()}}, TypeError, "option"),
        ({"method_options": [1]}, TypeError, "dict"),
        ({"method": "k-sparse"}, ValueError, "k-sparse"),
        ({"activation": "rely"}, ValueError, "relu"),
        ({"solver": "adagrad"}, ValueError, "adam"),
        ({"learning_rate": "adaptive"}, ValueError, "cosine"),
        ({"learning_rate_init": 0.0}, ValueError, "learning_rate_init"),
        ({"solver": "sgd", "learning_rate_init": 1e300}, ValueError, "learning_rate_init"),
        ({"alpha": -1.0}, ValueError, "alpha"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 2.5}, TypeError, "batch_size"),
        ({"max_iter": 0}, ValueError, "max_iter"),
        ({"max_iter": True}, TypeError, "max_iter"),
        ({"hidden_layer_sizes": (0,)}, ValueError, "hidden_layer_sizes"),
        ({"hidden_layer_sizes": ("a",)}, TypeError, "hidden_layer_sizes"),
        ({"early_stopping": 1}, TypeError, "early_stopping"),
        ({"early_stopping": True, "validation_fraction": 1.0}, ValueError, "validation_fraction"),
        ({"early_stopping": True, "validation_fraction": 1e-9}, ValueError, "validation_fraction .* early_stopping=False"),
        ({"n_iter_no_change": 0}, ValueError, "n_iter_no_change"),
        ({"tol": "x"}, TypeError, "tol"),
        ({"tol": np.inf}, ValueError, "tol must be finite, got inf"),
        ({"alpha": np.inf}, ValueError, "alpha must be finite"),
        ({"epsilon": np.inf}, ValueError, "epsilon must be finite"),
        ({"learning_rate_init": np.inf}, ValueError, "learning_rate_init must be finite"),
        ({"activation": None}, ValueError, "activation must be one of identity, relu"),
        ({"hidden_layer_sizes": None}, TypeError, r"hidden_layer_sizes must be widths of layers, such as \(100,\)"),
        ({"hidden_layer_sizes": "100"}, TypeError, "hidden_layer_sizes must be widths"),
        ({"method_options": {"fraction": "a"}}, ValueError, '`fraction` is a number, got "a"'),
        ({"method_options": {"fraction": np.nan}}, TypeError, "method_options.'fraction'.: an option of a method is a finite number"),
        ({"method_options": {"density": 0.3}}, ValueError, "density, a parameter of its own; give density=0.3"),
    ],
)
def test_one_clear_sentence(wrong, error, words):
    X, y = rows(SparseMLPClassifier)
    network = made(SparseMLPClassifier).set_params(**wrong)
    with pytest.raises(error, match=words) as said:
        network.fit(X, y)
    assert "\n" not in str(said.value)
    assert not hasattr(network, "n_features_in_")


def test_rows_that_do_not_go_on_are_refused():
    X, y = rows(SparseMLPRegressor)
    network = made(SparseMLPRegressor, max_iter=10_000).partial_fit(X, y)
    with pytest.raises(ValueError, match="5 features"):
        network.partial_fit(X[:, :5], y)
    with pytest.raises(ValueError, match="columns"):
        network.partial_fit(X, np.column_stack([y, y]))
    changes = {"hidden_layer_sizes": (17,), "method": "set", "density": 0.4, "solver": "sgd", "activation": "tanh"}
    for name, other in (changes | {"method_options": {"distribution": "uniform"}}).items():
        with pytest.raises(ValueError, match=f"^{name} has changed"):
            pickle.loads(pickle.dumps(network)).set_params(**{name: other}).partial_fit(X, y)
    slower = pickle.loads(pickle.dumps(network)).set_params(learning_rate_init=1e-9).partial_fit(X, y)
    np.testing.assert_allclose(slower.coefs_[0].toarray(), network.coefs_[0].toarray(), atol=1e-6)
    assert not np.allclose(pickle.loads(pickle.dumps(network)).partial_fit(X, y).predict(X), network.predict(X), atol=1e-4)
    with pytest.raises(ValueError, match="constant"):
        made(SparseMLPRegressor, learning_rate="cosine").partial_fit(X, y)
    other = made(SparseMLPClassifier)
    with pytest.raises(ValueError, match="classes"):
        other.partial_fit(X, y > 0)
    other.partial_fit(X, y > 0, classes=[False, True])
    with pytest.raises(ValueError, match="same as on last call"):
        other.partial_fit(X, y > 0, classes=[0, 1, 2])


def test_no_input_panics():
    """Wrong types, shapes, orders and values end in one TypeError or ValueError, on the compiled side as well."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st
    from hypothesis.extra import numpy as nps

    from nnz._nnz import Network

    X, y = rows(SparseMLPClassifier)
    network = made(SparseMLPClassifier, max_iter=1).fit(X, y)
    text = json.dumps(network._settings(60, 0, True))
    dtypes = st.sampled_from([np.float32, np.float64, np.int64, np.uint32, np.int32, np.bool_, np.complex64])
    shapes = st.lists(st.integers(0, 13), min_size=0, max_size=3).map(tuple)
    array = st.tuples(dtypes, shapes, st.sampled_from("CF")).map(lambda a: np.ones(a[1], a[0], order=a[2]))
    parts = st.tuples(
        st.integers(-1, 13),
        nps.arrays(np.int64, st.integers(0, 4), elements=st.integers(-1, 4)),
        nps.arrays(np.int32, st.integers(0, 4), elements=st.integers(-1, 13)),
        nps.arrays(np.float64, st.integers(0, 4), elements=st.sampled_from([0.0, 1.0, np.nan, np.inf])),
    )
    anything = st.one_of(array, parts, st.none(), st.integers(), st.text(max_size=3))

    def refused(call, lines=1.0):
        try:
            call()
        except (TypeError, ValueError) as e:
            assert str(e) and len(str(e).splitlines()) <= lines

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(anything, anything, st.integers(0, 4), st.one_of(st.none(), array), st.sampled_from(["new", "weights", "state", "x"]))
    def calls(x, y, outputs, weights, begin):
        refused(lambda: network._network.infer(x))
        refused(lambda: network._network.encode(x))
        refused(lambda: Network.train(text, x, y, outputs, weights, begin, network._network))
        # scikit-learn's own refusals have several lines, and show arrays.
        refused(lambda: made(SparseMLPClassifier, max_iter=1).fit(x, y, sample_weight=weights), lines=float("inf"))

    calls()

    @settings(max_examples=100, deadline=None)
    @given(st.data())
    def loads(data):
        saved = [bytearray(part) for part in network._network.save()]
        part = data.draw(st.sampled_from(saved))
        at = data.draw(st.integers(0, len(part) - 1))
        if data.draw(st.booleans()):
            part[at] ^= 1 << data.draw(st.integers(0, 7))
        else:
            del part[at:]

        def use():
            read = Network.load(*map(bytes, saved))
            read.infer(X)
            Network.train(text, X, y.astype(np.uint32), 3, None, "state", read)

        refused(use)

    loads()
