"""Data in memory, of every kind and of wrong kinds."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nnz
from nnz import _data

SMALL = dict(method="set", density=0.3, epochs=1, no_controls=True, quiet=True)


def same(a, b):
    """Whether two trainings made the same network."""
    ours, theirs = a.model().state_dict(), b.model().state_dict()
    return set(ours) == set(theirs) and all(np.array_equal(ours[k], theirs[k]) for k in ours)


def test_kinds_of_arrays_agree(digits, here):
    sparse = pytest.importorskip("scipy.sparse")
    X, y = digits
    X = np.round(np.where(X > 0.5, X, 0), 2)
    want = nnz.train((X, y), run_dir="want", **SMALL)
    given_as = {
        "list": X.tolist(),
        "fortran": np.asfortranarray(X),
        "big-endian": X.astype(">f8"),
        "strided": np.repeat(X, 2, axis=1)[:, ::2],
        "read-only": np.frombuffer(X.tobytes()).reshape(X.shape),
    }
    for name, x in given_as.items():
        assert same(nnz.train((x, y), run_dir=name, **SMALL), want), name
    of_sparse = nnz.train((sparse.csr_array(X), y), run_dir="s", **SMALL)
    for kind in (sparse.csr_matrix, sparse.csc_array, sparse.coo_array, sparse.lil_matrix):
        found = nnz.train((kind(X), y.tolist()), run_dir=kind.__name__, **SMALL)
        assert same(found, of_sparse), kind
    twice = sparse.coo_array((np.r_[X[X != 0] / 2, X[X != 0] / 2], tuple(np.r_[i, i] for i in np.nonzero(X))), shape=X.shape).tocsr()
    assert same(nnz.train((twice, y), run_dir="twice", **SMALL), of_sparse)
    wide = sparse.csr_array(X)
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    assert same(nnz.train((wide, y), run_dir="wide", **SMALL), of_sparse)


def test_nothing_is_copied_that_need_not_be(digits):
    X, _ = digits
    for dtype in (np.float64, np.float32, np.uint8):
        x = X.astype(dtype)
        ready = _data.rows(x)
        assert ready.__array_interface__["data"][0] == x.__array_interface__["data"][0]
    sparse = pytest.importorskip("scipy.sparse")
    csr = sparse.csr_array(np.round(X))
    assert _data.rows(csr)[0].__array_interface__["data"][0] == csr.data.__array_interface__["data"][0]

    class Foreign:
        """An array of another library, known by DLPack alone."""

        def __init__(self, of):
            self.of = of

        def __dlpack__(self, **options):
            return self.of.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.of.__dlpack_device__()

    x = X.astype(np.float32)
    assert _data.rows(Foreign(x)).__array_interface__["data"][0] == x.__array_interface__["data"][0]


def test_texts_and_tables(digits, here):
    pandas = pytest.importorskip("pandas")
    X, y = digits
    names = np.array(["ant", "bee", "cow"])[y]
    found = nnz.train((X, names), **SMALL)
    model = found.model()
    assert model.classes == ("ant", "bee", "cow")
    assert (model.predict(X) == names).mean() > 0.4
    frame = pandas.DataFrame(X, columns=[f"c{i}" for i in range(12)])
    frame["kind"] = names
    trained = nnz.train(frame, target="kind", run_dir="frame", **SMALL)
    assert 0 < trained.score <= 1
    frame.to_csv(here / "t.csv", index=False)
    of_file = nnz.train("t.csv", target="kind", run_dir="file", **SMALL)
    assert same(trained, of_file)
    answers = nnz.predict(trained.model(), frame.drop(columns="kind"))
    assert len(answers.rows()) == len(frame)
    assert nnz.eval(trained.model(), frame, target="kind", split="all").score > 0.3
    with pytest.raises(nnz.Error, match="table"):
        trained.model().predict(X)


def test_arrays_of_objects_are_read_as_what_they_hold(digits):
    X, y = digits
    want = nnz.train((X, y), run_dir="want", **SMALL)
    assert same(nnz.train((X.astype(object), y.astype(object)), run_dir="objects", **SMALL), want)
    assert np.array_equal(want.model().predict(X.astype(object)), want.model().predict(X))


@pytest.mark.parametrize("names", [("01", "1", "2"), ("0", "1", "2"), ("1", "1.0", "1e0")])
def test_labels_that_are_texts_come_back_as_texts(digits, names):
    X, y = digits
    texts = np.array(names)[y]
    for x in (X, np.clip(X * 30 + 100, 0, 255).astype(np.uint8)):
        model = nnz.train((x, texts), run_dir=f"{names}{x.dtype}", **{**SMALL, "epochs": 4}).model()
        found = model.predict(x)
        assert found.dtype.kind == "U" and set(found) <= set(names) and (found == texts).mean() > 0.4
        again = nnz.load(model.save("m.safetensors")).predict(x)
        assert np.array_equal(found, again)
    numbers = nnz.train((X, y), run_dir=f"{names}numbers", **SMALL).model().predict(X)
    assert numbers.dtype == np.int64


def test_text_names_of_given_networks_stay_texts():
    model = nnz.from_arrays([np.eye(2)], classes=["1", "0"])
    assert model.predict([[1.0, 0.0]]).tolist() == ["1"]
    assert nnz.from_arrays([np.eye(2)], classes=[1, 0]).predict([[1.0, 0.0]]).tolist() == [1]


def test_rows_that_are_no_numbers_have_no_answer(digits):
    sparse = pytest.importorskip("scipy.sparse")
    X, y = digits
    pictures = np.clip(X * 30 + 100, 0, 255).astype(np.uint8).reshape(-1, 3, 4)
    for x in (X, pictures):
        model = nnz.train((x, y), run_dir=str(x.ndim), **SMALL).model()
        for bad in (np.nan, np.inf, -np.inf, 1e300):
            wrong = x.astype(np.float64) / x.max()
            wrong[3].flat[5] = bad
            for of in (model.predict, model.predict_proba, model.outputs, lambda rows: nnz.predict(model, rows)):
                with pytest.raises(nnz.Error, match="row 3, value 5 is .*; drop the row or fill the value in"):
                    of(wrong)
                with pytest.raises(nnz.Error, match="row 3, value 5 is"):
                    of(wrong.astype(object))
    model = nnz.train((X, y), run_dir="rows", **SMALL).model()
    wrong = sparse.csr_array(np.round(X))
    wrong.data[wrong.indptr[7]] = np.nan
    with pytest.raises(nnz.Error, match=f"row 7, value {wrong.indices[wrong.indptr[7]]} is NaN"):
        model.predict(wrong)


def test_pixels_are_not_read_in_another_scale(digits):
    X, y = digits
    pixels = np.clip(X * 30 + 100, 0, 255).astype(np.uint8)
    model = nnz.train((pixels, y), **{**SMALL, "epochs": 4}).model()
    want = model.predict(pixels)
    assert (model.predict(pixels / 255) == want).mean() > 0.99
    for wrong in (pixels.astype(int), pixels.astype(np.float32)):
        for of in (model.predict, model.predict_proba, lambda x: nnz.eval(model, (x, y)), lambda x: nnz.prune(model, method="magnitude", density=0.1, data=(x, y))):
            with pytest.raises(nnz.Error, match="the network learned from values of 0 to 1; give bytes .uint8., which are divided by 255"):
                of(wrong)
    # Numbers of another scale to learn from are their own scale.
    standard = nnz.train((X.reshape(-1, 3, 4) * 100, y), run_dir="wide", **SMALL).model()
    assert standard.predict(X.reshape(-1, 3, 4) * 100).shape == y.shape


def test_a_test_split_may_be_given(digits):
    X, y = digits
    found = nnz.train((X[:200], y[:200]), test=(X[200:], y[200:]), **SMALL)
    assert nnz.eval(found.model(), (X[200:], y[200:]), split="all").rows()[0]["rows"] == 40
    share = nnz.train((X, y), test=0.5, run_dir="share", **SMALL)
    assert nnz.eval(share.model(), (X, y), split="test").document["rows"] < 240


def test_regression(digits):
    X, _ = digits
    found = nnz.train((X, X @ np.arange(12) + 0.5), method="set", density=0.5, epochs=3, no_controls=True, quiet=True)
    assert found.measure == "test_variance_explained"
    assert found.model().predict(X).shape == (240,)


@pytest.mark.parametrize(
    "data, says",
    [
        ((np.zeros((3, 2), complex), [0, 1, 0]), "complex"),
        ((np.array([["a", "b"]] * 3), [0, 1, 0]), "encode texts first"),
        ((np.zeros(3), [0, 1, 0]), "reshape"),
        ((np.zeros((3, 2, 2, 2, 2)), [0, 1, 0]), "rows are"),
        ((np.zeros((0, 2)), []), "holds nothing"),
        ((np.zeros((3, 2)), [0, 1]), "2 labels for 3 rows"),
        ((np.zeros((3, 2)), np.zeros((3, 2))), "one a row"),
        ((np.zeros((3, 2)), [None, 1, 2]), r"labels\[0\] is None, where numbers or texts are read"),
        ((np.zeros((3, 2)), np.array(["a", 1, 2], object)), r"labels\[1\] is 1, where texts are read"),
        ((np.array([[1, None]] * 3, object), [0, 1, 0]), r"X\[0, 1\] is None, where numbers are read"),
        ((np.array([[1, "2"]] * 3, object), [0, 1, 0]), r"X\[0, 1\] is '2', .* encode texts first"),
        ((np.full((30, 2), 1e300), [0, 1] * 15), "value 0 is 1e300; drop the row"),
        ((np.zeros((3, 2)), [0, 1, 1e300]), "row 2 has label 1e300; drop"),
        ((np.zeros((3, 2)), [0, 1, float("nan")]), "row 2 has label NaN"),
        ((np.full((30, 2), np.nan), [0, 1] * 15), "row ., value 0 is NaN; drop the row"),
        ([[1, 2], [3]], "different lengths"),
        ((1, 2, 3), "a tuple of 3"),
        (object(), "no array"),
        ({"x": 1}, "dict"),
        (None, "lacks 'data'"),
        (np.ma.masked_array(np.zeros((2, 2)), mask=True), "masked"),
    ],
)
def test_wrong_data_is_one_error(data, says):
    with pytest.raises((TypeError, ValueError), match=says):
        nnz.train(data, **SMALL)


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**20),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.lists(st.one_of(st.integers(-2, 2), st.floats(), st.text(max_size=2), st.none()), max_size=3),
    st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), st.one_of(st.floats(), st.text(max_size=3)), max_size=2),
    st.tuples(st.integers(), st.text(max_size=2)),
    st.just(object()),
    st.just(np.float32(0.5)),
    st.just(np.zeros((2, 2))),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(a["name"] for a in nnz.options("train") if a["name"] != "threads")), anything)
def test_wrong_arguments_are_type_or_value_errors(here, name, value):
    # A data set that is not there ends every call that would begin to train.
    base = {"data": "no-such.npz", "method": "rigl", "quiet": True}
    with pytest.raises((TypeError, ValueError)):
        nnz.train(**{**base, name: value})


@settings(max_examples=200, deadline=None)
@given(anything)
def test_wrong_rows_are_type_or_value_errors(value):
    model = nnz.from_arrays([np.ones((2, 3))])
    for of in (model.predict, model.predict_proba, model.outputs):
        with pytest.raises((TypeError, ValueError)):
            of(value)


@settings(max_examples=200, deadline=None)
@given(anything)
def test_wrong_weights_are_type_or_value_errors(value):
    for weights in (value, [value], [np.ones((2, 3)), value]):
        try:
            nnz.from_arrays(weights)
        except (TypeError, ValueError):
            pass
    with pytest.raises((TypeError, ValueError)):
        nnz.from_arrays([np.ones((2, 3))], biases=[value, value])
