#!/usr/bin/env python3
"""Sparse estimators against scikit-learn's perceptrons: accuracy and time of a fit, same rows, same run, sides in turn.

    python benches/sklearn.py [--seeds 5] [--threads 2] [--data digits,wine,..] [--out results/sklearn.md]

Needs `nnz` importable (a release build), scikit-learn, SciPy and pandas. Both sides are tuned on the training rows of the first
split by cross-validation over their own grid, the dense side first: then the sparse side may have at most a twentieth of the
weights of what the dense side chose, and takes the fastest settings that reach its score in the folds, or else the best. Then
every seed draws other training and test rows, and both are fitted in turn on the same ones, in float32, after scaling by the
training rows. A fit is timed from the call to its return.
"""
import argparse
import datetime
import gzip
import os
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# This file has the name of what it imports.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]


def load(name):
    """Rows, answers, what they are."""
    import numpy as np
    import scipy.sparse as sp
    from sklearn import datasets

    if name == "mnist10k":
        def idx(part, kind, offset):
            path = ROOT / "data" / "mnist10k" / f"{part}-{kind}-idx{3 if kind == 'images' else 1}-ubyte.gz"
            return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=offset)

        y = np.concatenate([idx(p, "labels", 8) for p in ("train", "t10k")])
        X = np.concatenate([idx(p, "images", 16) for p in ("train", "t10k")]).reshape(len(y), -1)
        return X.astype(np.float32), y, "pictures"
    if name == "cora":
        with np.load(ROOT / "data" / "cora" / "cora.npz", allow_pickle=False) as f:
            shape = f["shape"]
            values = np.ones(len(f["x_indices"]), np.float32)
            X = sp.csr_array((values, f["x_indices"].astype(np.int32), f["x_indptr"].astype(np.int64)), shape=tuple(shape[:2]))
            return X, f["labels"].astype(int), "sparse table"
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return X.astype(np.float32), y, "pictures" if name == "digits" else "table"


def grids():
    """Settings of either side."""
    dense = [
        {"hidden_layer_sizes": sizes, "learning_rate_init": lr, "early_stopping": early, "max_iter": 300}
        for sizes in ((100,), (256,), (100, 100))
        for lr in (1e-3, 1e-2)
        for early in (False, True)
    ]
    sparse = [
        {
            "hidden_layer_sizes": sizes,
            "learning_rate_init": lr,
            "learning_rate": "cosine",
            "max_iter": epochs,
            "batch_size": batch,
        }
        for sizes in ((24,), (32,), (64,), (32, 32))
        for lr in (1e-2, 3e-2)
        for epochs, batch in ((20, 64), (60, "auto"), (60, 64))
    ]
    return dense, sparse


def fitted(side, settings, X, y, seed):
    """An estimator and the seconds of its fit, of the clock and of all its processors."""
    from nnz.sklearn import SparseMLPClassifier, SparseMLPRegressor
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    regression = y.dtype.kind == "f"
    kind = {
        "dense": MLPRegressor if regression else MLPClassifier,
        "sparse": SparseMLPRegressor if regression else SparseMLPClassifier,
    }[side]
    estimator = kind(**settings, random_state=seed)
    start, used = time.perf_counter(), time.process_time()
    estimator.fit(X, y)
    return estimator, (time.perf_counter() - start, time.process_time() - used)


def weights(estimator):
    return estimator.nonzeros_ if hasattr(estimator, "nonzeros_") else sum(w.size for w in estimator.coefs_)


def parts(X, y, seed):
    """Scaled training and test rows."""
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import MaxAbsScaler, StandardScaler
    import scipy.sparse as sp

    real = y.dtype.kind == "f"
    split = train_test_split(X, y, test_size=0.25, random_state=seed, stratify=None if real else y)
    train, test, a, b = split
    scaler = MaxAbsScaler() if sp.issparse(X) or X.shape[1] in (64, 784) else StandardScaler()
    train = scaler.fit_transform(train)
    return train.astype("float32"), scaler.transform(test).astype("float32"), a, b


def tune(side, grid, X, y, most=float("inf"), reach=float("inf")):
    """Of the settings with at most `most` weights the fastest whose mean score in three folds reaches `reach`, or else the one with
    the best; its score and the settings."""
    from sklearn.model_selection import KFold, StratifiedKFold

    real = y.dtype.kind == "f"
    folds = (KFold if real else StratifiedKFold)(3, shuffle=True, random_state=0)
    tried = []
    for settings in grid:
        if side == "sparse":
            sizes = [X.shape[1], *settings["hidden_layer_sizes"], 1 if real else len(set(y))]
            entries = sum(a * b for a, b in zip(sizes, sizes[1:]))
            settings = settings | {"density": min(0.9, int(most) / entries)}
        score, seconds, count = [], 0.0, 0
        try:
            for a, b in folds.split(X, y):
                estimator, took = fitted(side, settings, X[a], y[a], 0)
                score.append(estimator.score(X[b], y[b]))
                seconds, count = seconds + took[1], max(count, weights(estimator))
        except ValueError as e:
            print(f"  {side} {settings}: {e}", file=sys.stderr)
            continue
        if count <= most:
            tried.append((statistics.mean(score), seconds, settings))
    if not tried:
        raise SystemExit(f"no settings of the {side} side have at most {most} weights")
    enough = [t for t in tried if t[0] >= reach]
    best = min(enough, key=lambda t: t[1]) if enough else max(tried, key=lambda t: t[0])
    return best[0], best[2]


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--seeds", type=int, default=5)
    args.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args.add_argument("--data", default="digits,breast_cancer,wine,diabetes,cora")
    args.add_argument("--out")
    args.add_argument("--note", default="", help="a sentence about this run, such as how nnz was built")
    args = args.parse_args()
    args.note += " " if args.note else ""
    for name in ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    warnings.simplefilter("ignore")
    import numpy
    import sklearn

    load_before = os.getloadavg()
    lines = []
    for name in args.data.split(","):
        X, y, what = load(name)
        dense_grid, sparse_grid = grids()
        train, _, a, _ = parts(X, y, 0)
        print(f"{name}: {X.shape[0]} rows of {X.shape[1]}", file=sys.stderr)
        reached, dense = tune("dense", dense_grid, train, a)
        entries = weights(fitted("dense", dense, train, a, 0)[0])
        _, sparse = tune("sparse", sparse_grid, train, a, entries // 20, reached)
        found = {side: {"score": [], "seconds": [], "cpu": [], "weights": 0} for side in ("dense", "sparse")}
        for seed in range(args.seeds):
            train, test, a, b = parts(X, y, seed)
            sides = [("dense", dense), ("sparse", sparse)]
            for side, settings in sides if seed % 2 == 0 else sides[::-1]:
                estimator, seconds = fitted(side, settings, train, a, seed)
                found[side]["score"].append(estimator.score(test, b))
                found[side]["seconds"].append(seconds[0])
                found[side]["cpu"].append(seconds[1])
                found[side]["weights"] = weights(estimator)
        lines.append((name, what, X.shape, y.dtype.kind == "f", dense, sparse, found))
        print(row(lines[-1]), file=sys.stderr)
    text = report(lines, args, load_before, numpy, sklearn)
    if args.out:
        Path(args.out).write_text(text)
    print(text)


def row(line):
    name, what, shape, real, _, _, found = line
    dense, sparse = found["dense"], found["sparse"]
    mid = lambda side, key: statistics.median(found[side][key])
    spread = lambda side, key, f: f"{mid(side, key):{f}} ({min(found[side][key]):{f}} to {max(found[side][key]):{f}})"
    gap = mid("sparse", "score") - mid("dense", "score")
    faster = mid("dense", "seconds") / mid("sparse", "seconds")
    held = "both" if gap >= 0 and faster >= 1 else "time" if faster >= 1 else "accuracy" if gap >= 0 else "neither"
    return (
        f"| {name}{' (R²)' if real else ''} | {shape[0]} x {shape[1]} | {dense['weights']} | {sparse['weights']} | "
        f"{spread('dense', 'score', '.4f')} | {spread('sparse', 'score', '.4f')} | {gap:+.4f} | {spread('dense', 'seconds', '.3f')} | "
        f"{spread('sparse', 'seconds', '.3f')} | {faster:.2f} | {mid('dense', 'cpu'):.3f} | {mid('sparse', 'cpu'):.3f} | "
        f"{mid('dense', 'cpu') / mid('sparse', 'cpu'):.2f} | {held} |"
    )


def report(lines, args, load_before, numpy, sklearn):
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    kept = sum(row(line).split("|")[-2].strip() == "both" for line in lines)
    head = f"""# Against scikit-learn's perceptrons

{datetime.date.today()}, {cpu}, {args.threads} threads, load before the run {load_before[0]:.2f}, after it {os.getloadavg()[0]:.2f}. scikit-learn
{sklearn.__version__}, NumPy {numpy.__version__}, Python {platform.python_version()}. Made by `benches/sklearn.py --seeds {args.seeds}`, which says how. {args.note}Medians over {args.seeds}
splits with best and worst, both sides fitted in turn on the same float32 rows, either one with the settings that
cross-validation on the training rows of the first split chose from its grid: the dense side for accuracy, the sparse side the fastest that
reached it there, with at most a twentieth of the weights. "holds" says which of accuracy (the median is no lower) and time (of a fit, no higher) do. Seconds of
the clock suffer from other work on the machine; CPU seconds are those of all threads of the process together.

| data | rows x features | weights, dense | weights, sparse | accuracy, dense | accuracy, sparse | difference | seconds, dense | seconds, sparse | times as fast | CPU s, dense | CPU s, sparse | ratio | holds |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""
    body = "\n".join(row(line) for line in lines)
    tail = "\n".join(f"- {name}: dense {dense}; sparse {sparse}" for name, _, _, _, dense, sparse, _ in lines)
    return f"{head}{body}\n\nBoth hold on {kept} of {len(lines)}.\n\nSettings chosen:\n\n{tail}\n"


if __name__ == "__main__":
    main()
