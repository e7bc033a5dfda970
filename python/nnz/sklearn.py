"""Sparse networks as scikit-learn estimators.

Every estimator trains a network of which only a share of the connections exists, `density`, by any method of nnz that sparsifies
while it trains. The weights that do not exist take neither time nor memory.

    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import train_test_split
    >>> from nnz.sklearn import SparseMLPClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> train, test, labels, truth = train_test_split(X / 16, y, random_state=0)
    >>> network = SparseMLPClassifier((256,), density=0.05, random_state=0).fit(train, labels)
    >>> bool(network.score(test, truth) > 0.9), network.nonzeros_
    (True, 947)

Inputs are used as they are: scale them first, as for scikit-learn's own perceptrons (`StandardScaler`, or `MaxAbsScaler`
for sparse matrices). float32 is computed in 32 bits and everything else in 64, as scikit-learn does. Sparse matrices are never
made dense as a whole. The same `random_state` gives the same bits for any number of threads.
"""

import json
import math
import numbers
import warnings

import numpy as np
import scipy.sparse as sp
from scipy.special import log_softmax, softmax
from sklearn import get_config
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state, column_or_1d, gen_batches
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from ._nnz import Network

__all__ = ["SparseAutoencoder", "SparseMLPClassifier", "SparseMLPRegressor"]

_ACTIVATIONS = ("identity", "relu", "logistic", "tanh", "gelu", "silu", "elu", "leaky-relu")

_PARAMETERS = """
    Parameters
    ----------
    hidden_layer_sizes : tuple of int, default={sizes}
        {widths}
    activation : str, default="relu"
        "identity", "logistic", "tanh", "relu", "gelu", "silu", "elu" or "leaky-relu".
    method : str or None, default="rigl"
        The key of a method that sparsifies during training (`nnz methods` lists them); None trains a dense network.
    density : float or None, default=0.1
        Share of the weights that exist, over all layers. None for a method that takes no density.
    method_options : dict or None, default=None
        Further options of the method (`nnz methods NAME` describes them), such as `{{"distribution": "er"}}`.
    solver : str, default="adam"
        "adam", "adamw", "sgd" or "lbfgs"; the last makes sense if a batch holds all rows.
    alpha : float, default=1e-6
        Strength of the penalty `alpha / 2 * sum(w ** 2)` that is added to the mean loss of every batch. With "adamw" the rate at
        which weights decay.
    batch_size : int or "auto", default="auto"
        Rows of a step; "auto" is `min(200, n_samples)`.
    learning_rate : str, default="constant"
        "constant", "cosine" (half a cosine down to zero over `max_iter`) or "step" (a tenth from the half of `max_iter` on, a
        hundredth from three quarters on).
    learning_rate_init : float, default=0.01
        The learning rate, before any schedule.
    max_iter : int, default=200
        Most epochs. Methods plan their schedules for this length.
    random_state : int, RandomState instance or None, default=None
        Draws initial weights, connections, held-out rows and the order of the rows.
    tol : float, default=1e-4
        The improvement of the loss, or of the validation score with `early_stopping`, that counts as one.
    verbose : bool, default=False
        Whether to print every epoch.
    warm_start : bool, default=False
        Whether `fit` begins with the weights and connections of the call before. The method runs anew, the optimizer too.
    momentum : float, default=0.9
        Of "sgd".
    nesterovs_momentum : bool, default=True
        Of "sgd".
    early_stopping : bool, default=False
        Whether to hold out rows, to stop when their score no longer improves, and to keep the best network. Epochs count once
        the method has reached its density.
    validation_fraction : float, default=0.1
        The share of rows held out, of every class in proportion.
    beta_1 : float, default=0.9
        Of "adam" and "adamw".
    beta_2 : float, default=0.999
        Of "adam" and "adamw".
    epsilon : float, default=1e-8
        Of "adam" and "adamw".
    n_iter_no_change : int, default=10
        Epochs without an improvement before training stops."""

_ATTRIBUTES = """

    Attributes
    ----------
    coefs_ : list of sparse arrays or matrices
        The weights of layer i, of shape (inputs, outputs), in compressed columns; arrays or matrices as scikit-learn's
        `sparse_interface` says.
    intercepts_ : list of ndarray
        The biases of layer i.
    density_ : float
        Share of the weights that exist.
    nonzeros_ : int
        Number of weights that exist.
    n_iter_ : int
        Epochs trained.
    loss_, loss_curve_ : float, list of float
        Mean loss of the last epoch, and of every one, without the penalty.
    best_loss_ : float or None
        The smallest loss; None with `early_stopping`.
    validation_scores_, best_validation_score_ : list of float or None, float or None
        Scores of the held-out rows with `early_stopping`.
    n_features_in_, feature_names_in_ : int, ndarray of str
        What `fit` saw.
    notes_ : list of str
        Remarks, such as how a method's schedule was fitted to a short run.
"""


def _document(cls):
    sizes, widths = cls._sizes
    extra = cls._extra_parameters
    cls.__doc__ += _PARAMETERS.format(sizes=sizes, widths=widths) + extra + _ATTRIBUTES + cls._extra_attributes
    return cls


def _number(name, value, low, high=math.inf, *, whole=False, open_low=False, open_high=False):
    """Refuses what is no number in a range."""
    right = numbers.Integral if whole else numbers.Real
    if not isinstance(value, right) or isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be {'an integer' if whole else 'a number'}, got {value!r}")
    if value in (math.inf, -math.inf):
        raise ValueError(f"{name} must be finite, got {value}")
    low_ok = value > low if open_low else value >= low
    high_ok = value < high if open_high else value <= high
    if not (low_ok and high_ok):
        over = f"{'above' if open_low else 'at least'} {low}"
        under = "" if high == math.inf else f" and {'below' if open_high else 'at most'} {high}"
        raise ValueError(f"{name} must be {over}{under}, got {value}")
    return int(value) if whole else float(value)


def _choice(name, value, among):
    if not isinstance(value, str) or value not in among:
        raise ValueError(f"{name} must be one of {', '.join(among)}, got {value!r}")
    return value


def _flag(name, value):
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def _plain(name, value):
    """An option as JSON has it."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (list, tuple)):
        return [_plain(name, v) for v in value]
    if not isinstance(value, (str, bool, int, float)) or isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{name}: an option of a method is a finite number, a text, a bool or a list, got {value!r}")
    return value


class _SparseNetwork(BaseEstimator):
    """What the estimators have in common: one network."""

    _task = None
    _extra_parameters = ""
    _extra_attributes = ""

    # scikit-learn reads parameters and defaults from the signature: an estimator with others spells out its own.
    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        method="rigl",
        density=0.1,
        method_options=None,
        solver="adam",
        alpha=1e-6,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.01,
        max_iter=200,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.method = method
        self.density = density
        self.method_options = method_options
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change

    def __sklearn_is_fitted__(self):
        return hasattr(self, "_network")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # --- settings -------------------------------------------------------------------------------------------------

    def _hidden(self):
        sizes = self.hidden_layer_sizes
        if isinstance(sizes, numbers.Number):
            sizes = [sizes]
        if isinstance(sizes, (str, bytes, dict)) or not hasattr(sizes, "__iter__"):
            raise TypeError(f"hidden_layer_sizes must be widths of layers, such as (100,), or () for none, got {sizes!r}")
        return [_number("a size in hidden_layer_sizes", n, 1, whole=True) for n in sizes]

    def _optimizer(self):
        lr = _number("learning_rate_init", self.learning_rate_init, 0, open_low=True)
        decay = _number("alpha", self.alpha, 0)
        solver = _choice("solver", self.solver, ("adam", "adamw", "sgd", "lbfgs"))
        if solver == "lbfgs":
            return {"name": "lbfgs", "memory": 10, "weight_decay": decay}
        if solver == "sgd":
            momentum = _number("momentum", self.momentum, 0, 1, open_high=True)
            nesterov = _flag("nesterovs_momentum", self.nesterovs_momentum) and momentum > 0
            return {"name": "sgd", "lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": decay}
        return {
            "name": solver,
            "lr": lr,
            "beta1": _number("beta_1", self.beta_1, 0, 1, open_high=True),
            "beta2": _number("beta_2", self.beta_2, 0, 1, open_high=True),
            "epsilon": _number("epsilon", self.epsilon, 0, open_low=True),
            "weight_decay": decay,
        }

    def _settings(self, rows, seed, double):
        _flag("verbose", bool(self.verbose))
        _flag("warm_start", self.warm_start)
        batch = self.batch_size
        batch = min(200, rows) if isinstance(batch, str) and batch == "auto" else batch
        held_out = 0.0
        if _flag("early_stopping", self.early_stopping):
            held_out = _number("validation_fraction", self.validation_fraction, 0, 1, open_low=True, open_high=True)
        density = self.density
        if density is not None:
            density = _number("density", density, 0, 1, open_low=True)
        options = {} if self.method_options is None else self.method_options
        if not isinstance(options, dict):
            raise TypeError(f"method_options must be a dict or None, got {options!r}")
        if "density" in options:
            raise ValueError(f"method_options must leave out density, a parameter of its own; give density={options['density']!r}")
        if self.method is not None and not isinstance(self.method, str):
            raise TypeError(f"method must be the key of a method or None, got {self.method!r}")
        patience, tol = self.n_iter_no_change, self.tol
        # As in scikit-learn, infinity trains to the end.
        patience = 2**32 - 1 if patience == math.inf else _number("n_iter_no_change", patience, 1, 2**32 - 1, whole=True)
        return {
            "task": self._task,
            "hidden": self._hidden(),
            "activation": _choice("activation", self.activation, _ACTIVATIONS),
            "method": self.method,
            "density": density,
            "options": {str(k): _plain(f"method_options[{k!r}]", v) for k, v in options.items()},
            "optimizer": self._optimizer(),
            "schedule": _choice("learning_rate", self.learning_rate, ("constant", "cosine", "step")),
            "epochs": _number("max_iter", self.max_iter, 1, 2**31 - 1, whole=True),
            "batch": min(_number("batch_size", batch, 1, whole=True), rows),
            "seed": seed,
            "validation": held_out,
            "patience": patience,
            "tol": -1e300 if tol == -math.inf else _number("tol", tol, -math.inf),
            "double": double,
        }

    # --- rows -----------------------------------------------------------------------------------------------------

    @staticmethod
    def _rows(X):
        """Rows as the network takes them: a matrix in C order as it is, or the parts of compressed rows."""
        if not sp.issparse(X):
            return X
        if X.shape[1] >= 2**31:
            raise ValueError(f"X has {X.shape[1]} columns; at most {2**31 - 1} can be read")
        parts = (X.indptr.astype(np.int64, copy=False), X.indices.astype(np.int32, copy=False))
        return (X.shape[1], *parts, X.data.astype(np.float64, copy=False))

    def _checked(self, X, y="no_validation", *, reset, **how):
        return validate_data(
            self, X, y, accept_sparse="csr", dtype=(np.float64, np.float32), order="C", reset=reset, **how
        )

    @staticmethod
    def _weights(sample_weight, X):
        """Weights of the rows, or None."""
        if sample_weight is None:
            return None
        if isinstance(sample_weight, numbers.Number):
            sample_weight = np.full(X.shape[0], sample_weight)
        weights = np.asarray(sample_weight, dtype=np.float64)
        if weights.ndim != 1:
            raise ValueError("Sample weights must be 1D array or scalar")
        if weights.shape[0] != X.shape[0]:
            raise ValueError(f"sample_weight.shape == {weights.shape}, expected {(X.shape[0],)}!")
        if not np.isfinite(weights).all():
            raise ValueError("Input sample_weight contains NaN or infinity.")
        if (weights < 0).any():
            raise ValueError("Negative values in data passed to `sample_weight`.")
        if not weights.any():
            raise ValueError("Sample weights must contain at least one non-zero number.")
        return weights

    # --- training -------------------------------------------------------------------------------------------------

    def _train(self, X, y, outputs, weights, begin):
        """Trains on rows that were checked; weights, if any, are above zero."""
        earlier = getattr(self, "_network", None) if begin != "new" else None
        if begin == "state" and earlier is not None:
            seed = self._seed
        else:
            seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        double = X.dtype != np.float32 if earlier is None else earlier.about()["double"]
        settings = self._settings(X.shape[0], seed, bool(double))
        text = json.dumps(settings)
        progress = self._say if self.verbose else None
        network = Network.train(text, self._rows(X), y, outputs, weights, begin, earlier, progress)
        about = network.about()
        for note in about["notes"]:
            if "would change nothing" in note:
                warnings.warn(note, UserWarning, stacklevel=6)
        if begin != "state" and not about["stopped"] and self.learning_rate == "constant":
            why = f"Maximum iterations ({self.max_iter}) reached and the optimization hasn't converged yet."
            warnings.warn(why, ConvergenceWarning, stacklevel=6)
        self._seed, self._network = seed, network
        self.n_iter_ = len(about["loss"])
        self.loss_curve_ = about["loss"]
        self.loss_ = about["loss"][-1] if about["loss"] else math.nan
        held_out = settings["validation"] > 0
        self.best_loss_ = None if held_out or not about["loss"] else min(about["loss"])
        self.validation_scores_ = about["score"] if held_out else None
        self.best_validation_score_ = max(about["score"]) if held_out else None
        self.density_, self.nonzeros_, self.notes_ = about["kept_density"], about["nonzeros"], about["notes"]
        self._sizes_fitted = settings["hidden"]
        self.n_layers_ = len(network.layers()) + 1
        self.n_outputs_ = outputs
        return self

    def _say(self, epoch, loss, score, density):
        score = f", validation score = {score:.6f}" if self.early_stopping else ""
        print(f"Iteration {epoch}, loss = {loss:.8f}{score}, density = {density:.4g}")

    def _whole_or_not_at_all(self, fit):
        """Runs a fit; what stops it, Ctrl-C too, leaves the estimator as it was."""
        before = dict(vars(self))
        try:
            return fit()
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    def _begin(self):
        return "weights" if self.warm_start and hasattr(self, "_network") else "new"

    def _refuse_early_stopping(self):
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")

    # --- use ------------------------------------------------------------------------------------------------------

    def _answer(self, X):
        check_is_fitted(self)
        return self._network.infer(self._rows(self._checked(X, reset=False)))

    @property
    def coefs_(self):
        layers = self._layers("coefs_")
        made = sp.csr_array if get_config()["sparse_interface"] == "sparray" else sp.csr_matrix
        return [made((values, columns, starts), shape=(o, i)).T for o, i, starts, columns, values, _ in layers]

    @property
    def intercepts_(self):
        return [bias for *_, bias in self._layers("intercepts_")]

    def _layers(self, name):
        if not hasattr(self, "_network"):
            raise AttributeError(f"{type(self).__name__} has {name} once it is fitted")
        return self._network.layers()


def _kept(X, y, weights):
    """The rows that count: a row of weight zero is no row."""
    if weights is None or weights.all():
        return X, y, weights
    some = weights > 0
    return X[some], None if y is None else y[some], weights[some]


@_document
class SparseMLPClassifier(ClassifierMixin, _SparseNetwork):
    """A multilayer perceptron with few connections, for classification.

    The loss is the cross-entropy of a softmax over the classes.
"""

    _task = "classification"
    _sizes = ("(100,)", "Widths of the hidden layers.")
    _extra_parameters = """
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, which multiply those of the rows; "balanced" gives all classes the same sum."""
    _extra_attributes = """    classes_ : ndarray
        The classes.
    """

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        method="rigl",
        density=0.1,
        method_options=None,
        solver="adam",
        alpha=1e-6,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.01,
        max_iter=200,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        class_weight=None,
    ):
        super().__init__(
            hidden_layer_sizes,
            activation,
            method=method,
            density=density,
            method_options=method_options,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            max_iter=max_iter,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
        )
        self.class_weight = class_weight

    def fit(self, X, y, sample_weight=None):
        """Trains on rows X of shape (n_samples, n_features), dense or sparse, with classes y of shape (n_samples,)."""
        return self._whole_or_not_at_all(lambda: self._fit(X, y, sample_weight, self._begin(), None))

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Trains for one epoch, as a continuation of the calls before: k calls with the same rows are one `fit` of k epochs.

        The first call fixes `classes`, all that will ever occur, and the schedule of the method for `max_iter` epochs of as many
        rows. Later calls may bring other rows.
        """
        self._refuse_early_stopping()
        first = not hasattr(self, "_network")
        if first and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if classes is not None:
            classes = np.unique(classes)
            if not first and not np.array_equal(classes, self.classes_):
                raise ValueError(
                    f"`classes={classes}` is not the same as on last call to partial_fit, was: {self.classes_}"
                )
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' is not for partial_fit, which sees some rows at a time; give the weights as a dict, such as "
                "those of sklearn.utils.class_weight.compute_class_weight over all rows"
            )
        return self._whole_or_not_at_all(lambda: self._fit(X, y, sample_weight, "state", classes))

    def _weights_of_classes(self, names, y, places):
        """The weight of each row by its class."""
        if not isinstance(self.class_weight, dict):
            return compute_sample_weight(self.class_weight, y)
        if strange := [c for c in self.class_weight if c not in names]:
            raise ValueError(f"class_weight has classes that are not in y: {strange}, beside {names}")
        # The rows of a call need not have every class.
        return np.array([self.class_weight.get(c, 1.0) for c in names.tolist()], dtype=np.float64)[places]

    def _fit(self, X, y, sample_weight, begin, classes):
        X, y = self._checked(X, y, reset=begin == "new" or not hasattr(self, "_network"), multi_output=True)
        check_classification_targets(y)
        if type_of_target(y).startswith("multi") and getattr(y, "ndim", 1) == 2 and y.shape[1] > 1:
            raise ValueError(
                "y has several columns, and this classifier predicts one class a row; sklearn.multioutput.MultiOutputClassifier trains one for each column"
            )
        if y.ndim == 2:
            y = column_or_1d(y, warn=True)
        known = begin != "new" and hasattr(self, "_network")
        names = self.classes_ if known else np.unique(y) if classes is None else classes
        if len(names) < 2:
            raise ValueError(f"y has {len(names)} class, and a classifier needs at least 2 classes")
        places = np.searchsorted(names, y)
        places[places == len(names)] = 0
        if (strange := names[places] != y).any():
            raise ValueError(f"`y` has classes that were not there before: {np.unique(y[strange])}, beside {names}")
        weights = self._weights(sample_weight, X)
        if self.class_weight is not None:
            each = self._weights_of_classes(names, y, places)
            weights = each if weights is None else weights * each
            weights = self._weights(weights, X)
        X, places, weights = _kept(X, places.astype(np.uint32), weights)
        self.classes_ = names
        return self._train(X, places, len(names), weights, begin)

    def decision_function(self, X):
        """Logits of shape (n_samples, n_classes); of two classes the difference, of shape (n_samples,)."""
        logits = self._answer(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X):
        """Probabilities of shape (n_samples, n_classes)."""
        return softmax(self._answer(X), axis=1)

    def predict_log_proba(self, X):
        """Logarithms of the probabilities."""
        return log_softmax(self._answer(X), axis=1)

    def predict(self, X):
        """The most likely class of every row."""
        best = self._answer(X).argmax(axis=1)
        return self.classes_[best]


@_document
class SparseMLPRegressor(RegressorMixin, _SparseNetwork):
    """A multilayer perceptron with few connections, for regression on one or several targets.

    The loss is the mean squared error of standardized targets: each has mean 0 and deviation 1 over the rows of the first
    call, so that targets of other units count the same.
"""

    _task = "regression"
    _sizes = ("(100,)", "Widths of the hidden layers.")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X, y, sample_weight=None):
        """Trains on rows X of shape (n_samples, n_features), dense or sparse, with targets y of shape (n_samples,) or
        (n_samples, n_outputs)."""
        return self._whole_or_not_at_all(lambda: self._fit(X, y, sample_weight, self._begin()))

    def partial_fit(self, X, y, sample_weight=None):
        """Trains for one epoch, as a continuation of the calls before: k calls with the same rows are one `fit` of k epochs.

        The first call fixes the units of the targets and the schedule of the method for `max_iter` epochs of as many rows. Later
        calls may bring other rows.
        """
        self._refuse_early_stopping()
        return self._whole_or_not_at_all(lambda: self._fit(X, y, sample_weight, "state"))

    def _fit(self, X, y, sample_weight, begin):
        known = begin != "new" and hasattr(self, "_network")
        X, y = self._checked(X, y, reset=not known, multi_output=True, y_numeric=True)
        flat = y.ndim == 1
        y = y.reshape(len(y), -1).astype(np.float64)
        weights = self._weights(sample_weight, X)
        X, y, weights = _kept(X, y, weights)
        if known:
            center, scale, flat = self._units
            if len(center) != y.shape[1]:
                raise ValueError(f"y has {y.shape[1]} columns, and had {len(center)} before")
        else:
            center = np.average(y, axis=0, weights=weights)
            # In units of the largest, so that squares neither overflow nor vanish.
            largest = np.abs(y - center).max(axis=0)
            largest[~(largest > 0)] = 1.0
            scale = largest * np.sqrt(np.average(((y - center) / largest) ** 2, axis=0, weights=weights))
            scale[~(scale > 0)] = 1.0
        if not (np.isfinite(center).all() and np.isfinite(scale).all()) or np.abs(y).max() > np.finfo(X.dtype).max / 4:
            raise ValueError(f"y has values up to {np.abs(y).max():.3g}, too large to compute with in {X.dtype}; divide y by a number")
        self._units = (center, scale, flat)
        targets = np.ascontiguousarray((y - center) / scale, dtype=np.float32)
        return self._train(X, targets, y.shape[1], weights, begin)

    def _layers(self, name):
        # The last layer shown answers in the units of the targets.
        *before, (outputs, inputs, starts, columns, values, bias) = super()._layers(name)
        center, scale, _ = self._units
        values = (values * np.repeat(scale, np.diff(starts))).astype(values.dtype)
        return [*before, (outputs, inputs, starts, columns, values, (bias * scale + center).astype(bias.dtype))]

    def predict(self, X):
        """Targets of every row, of the shape that y had."""
        answer = self._answer(X)
        center, scale, flat = self._units
        y = (answer * scale + center).astype(answer.dtype)
        return y[:, 0] if flat else y


@_document
class SparseAutoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _SparseNetwork):
    """An autoencoder with few connections: codes of rows from which the rows are rebuilt.

    The widths down to the code are mirrored behind it. The loss is the mean squared error of the rebuilt rows.
"""

    _task = "reconstruction"
    _sizes = ("(64, 16)", "Widths down to the code, which is the last; the decoder mirrors them.")

    def __init__(
        self,
        hidden_layer_sizes=(64, 16),
        activation="relu",
        *,
        method="rigl",
        density=0.1,
        method_options=None,
        solver="adam",
        alpha=1e-6,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.01,
        max_iter=200,
        random_state=None,
        tol=1e-4,
        verbose=False,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
    ):
        super().__init__(
            hidden_layer_sizes,
            activation,
            method=method,
            density=density,
            method_options=method_options,
            solver=solver,
            alpha=alpha,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_init=learning_rate_init,
            max_iter=max_iter,
            random_state=random_state,
            tol=tol,
            verbose=verbose,
            warm_start=warm_start,
            momentum=momentum,
            nesterovs_momentum=nesterovs_momentum,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            n_iter_no_change=n_iter_no_change,
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self):
        return self._sizes_fitted[-1]

    def fit(self, X, y=None, sample_weight=None):
        """Trains on rows X of shape (n_samples, n_features), dense or sparse. y is not used."""
        return self._whole_or_not_at_all(lambda: self._fit(X, sample_weight, self._begin()))

    def partial_fit(self, X, y=None, sample_weight=None):
        """Trains for one epoch, as a continuation of the calls before: k calls with the same rows are one `fit` of k epochs."""
        self._refuse_early_stopping()
        return self._whole_or_not_at_all(lambda: self._fit(X, sample_weight, "state"))

    def _fit(self, X, sample_weight, begin):
        if not self._hidden():
            raise ValueError("hidden_layer_sizes needs at least one width, that of the code")
        X = self._checked(X, reset=begin == "new" or not hasattr(self, "_network"))
        X, _, weights = _kept(X, None, self._weights(sample_weight, X))
        return self._train(X, None, X.shape[1], weights, begin)

    def transform(self, X):
        """Codes of shape (n_samples, n_components)."""
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        return self._network.encode(self._rows(X)).astype(X.dtype, copy=False)

    def inverse_transform(self, X):
        """Rows rebuilt from codes."""
        check_is_fitted(self)
        X = check_array(X, dtype=(np.float64, np.float32), order="C")
        return self._network.decode(X).astype(X.dtype, copy=False)

    def score(self, X, y=None, sample_weight=None):
        """The share of the variance of the rows that is rebuilt, over all features together."""
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        weights = self._weights(sample_weight, X)
        weights = np.ones(X.shape[0]) if weights is None else weights
        mean = X.T @ weights / weights.sum()
        lost = total = 0.0
        # Block by block, so that a sparse matrix is never dense as a whole.
        for block in gen_batches(X.shape[0], 2048):
            rows = X[block].toarray() if sp.issparse(X) else X[block]
            rebuilt = self._network.infer(self._rows(X[block])).astype(np.float64)
            lost += weights[block] @ ((rows - rebuilt) ** 2).sum(axis=1)
            total += weights[block] @ ((rows - mean) ** 2).sum(axis=1)
        return float(1.0 - lost / total) if total > 0 else 0.0
