#!/usr/bin/env python3
"""Writes measures of predictions as scikit-learn computes them: goldens/scores.json.

    python3 -m venv venv && venv/bin/pip install scikit-learn numpy && venv/bin/python goldens/scores.py

Classes: labels, probabilities of every class in f32, and accuracy, balanced accuracy, macro F1, area under the ROC curve, and
precision, recall, F1, AUC and rows of every class. Probabilities are rounded in most cases, so that many are equal. Numbers:
targets and predictions in f32, and RMSE, MAE and R² of every target and their means. `null` is what is not defined.
"""

import json
import pathlib
import warnings

import numpy as np
from sklearn import metrics

warnings.simplefilter("ignore")
rng = np.random.default_rng(19)


def probabilities(labels, classes, skill, digits):
    logits = rng.normal(size=(len(labels), classes)) + skill * np.eye(classes)[labels]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return (p if digits is None else p.round(digits)).astype(np.float32)


def classes(name, labels, p):
    labels, predicted, n = np.array(labels), p.argmax(1), p.shape[1]
    every = np.arange(n)
    rows = np.bincount(labels, minlength=n)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(labels, predicted, labels=every, zero_division=np.nan)
    # With zero_division=nan an undefined precision spoils F1 = 2 TP / (2 TP + FP + FN), which is defined.
    plain = metrics.f1_score(labels, predicted, labels=every, average=None, zero_division=0.0)
    f1 = [plain[k] if rows[k] or (predicted == k).any() else np.nan for k in every]
    area = [metrics.roc_auc_score(labels == k, p[:, k]) if 0 < rows[k] < len(labels) else np.nan for k in every]
    if n == 2 and min(rows) > 0:
        auc = metrics.roc_auc_score(labels, p[:, 1])
    else:
        auc = np.nan if np.isnan(area).all() else np.nanmean(area)
        if min(rows) > 0 and np.allclose(p.sum(1), 1):
            assert np.isclose(metrics.roc_auc_score(labels, p, multi_class="ovr", average="macro"), auc)
    return {
        "name": name, "classes": n, "labels": labels.tolist(), "probabilities": short(p),
        "accuracy": metrics.accuracy_score(labels, predicted),
        "balanced-accuracy": metrics.balanced_accuracy_score(labels, predicted),
        "macro-f1": metrics.f1_score(labels, predicted, average="macro"),
        "auc": number(auc),
        "precision": [number(v) for v in precision], "recall": [number(v) for v in recall], "f1": [number(v) for v in f1],
        "auc-of-classes": [number(v) for v in area], "rows": rows.tolist(),
    }


def short(values):
    """The fewest digits that give the same numbers in f32."""
    return [float(str(v)) for v in values.astype(np.float32).reshape(-1)]


def number(v):
    return None if np.isnan(v) else float(v)


def numbers(name, want, got):
    want, got = want.astype(np.float32).astype(float), got.astype(np.float32).astype(float)
    raw = dict(multioutput="raw_values")
    rmse = metrics.root_mean_squared_error(want, got, **raw)
    mae = metrics.mean_absolute_error(want, got, **raw)
    r2 = [metrics.r2_score(want[:, k], got[:, k]) if np.ptp(want[:, k]) > 0 else np.nan for k in range(want.shape[1])]
    return {
        "name": name, "targets": want.shape[1], "want": short(want), "got": short(got),
        "rmse": float(rmse.mean()), "mae": float(mae.mean()), "r2": number(np.nanmean(r2)),
        "rmse-of-targets": rmse.tolist(), "mae-of-targets": mae.tolist(), "r2-of-targets": [number(v) for v in r2],
    }


def draw(n, shares):
    return rng.choice(len(shares), size=n, p=shares)


def main():
    cases = []
    for name, n, shares, skill, digits in [
        ("binary", 60, [0.5, 0.5], 1.5, None),
        ("binary, many equal", 60, [0.5, 0.5], 1.5, 1),
        ("binary, rare", 80, [0.92, 0.08], 1.0, 2),
        ("ten", 120, [0.1] * 10, 2.0, None),
        ("ten, many equal", 120, [0.1] * 10, 2.0, 1),
        ("uneven", 90, [0.7, 0.2, 0.05, 0.05], 1.0, 1),
    ]:
        labels = draw(n, shares)
        cases.append(classes(name, labels, probabilities(labels, len(shares), skill, digits)))
    labels = draw(40, [0.4, 0.4, 0.0, 0.2])
    cases.append(classes("a class without rows", labels, probabilities(labels, 4, 1.0, 2)))
    p = probabilities(labels, 4, 1.0, 2)
    p[:, 2] = 0
    cases.append(classes("a class without rows that is never predicted", labels, p))
    p = probabilities(labels, 4, 1.0, 2)
    p[:, 3] = 0
    cases.append(classes("a class that is never predicted", labels, p))
    cases.append(classes("all equal", draw(20, [0.5, 0.5]), np.full((20, 2), 0.5, np.float32)))
    cases.append(classes("one class", np.ones(10, int), probabilities(np.ones(10, int), 2, 1.0, 2)))

    x = rng.normal(size=(50, 3))
    reals = [
        numbers("one target", 250_000 + 80_000 * x[:, :1], 250_000 + 80_000 * x[:, :1] + 30_000 * rng.normal(size=(50, 1))),
        numbers("three targets", x * [1, 1e-4, 1e4], (x + rng.normal(size=(50, 3))) * [1, 1e-4, 1e4]),
        numbers("worse than the mean", x[:, :1], -x[:, :1]),
        numbers("a constant target", np.c_[x[:, 0], np.full(50, 3.5)], np.c_[x[:, 0] + 0.1, np.full(50, 3.0)]),
    ]
    out = pathlib.Path(__file__).resolve().parent / "scores.json"
    out.write_text(json.dumps({"classes": cases, "numbers": reals}) + "\n")


main()
