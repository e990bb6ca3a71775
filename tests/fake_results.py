"""Run folders with given curves, written as the program writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from files import to_csv
from runs.format import QUERY_COLUMNS, config_hash, round_columns
from runs.metrics import METRICS

CONFIG: dict[str, Any] = {
    "dataset_name": "CIFAR10",
    "strategy_args": {},
    "n_init_labeled": 100,
    "n_query": 50,
    "img_size": 32,
    "net_name": "SmallCNN",
    "pretrained": False,
    "n_epoch": 20,
    "batch_size": 64,
    "lr": 0.1,
    "n_train": 2000,
    "n_test": 500,
    "data_digest": "0f3a9c21",
}


def write_run(
    root: Path,
    strategy: str,
    seed: int,
    curve: Sequence[float],
    n_round: int | None = None,
    classes: Sequence[str] = ("cat", "dog", "owl"),
    queries: bool = False,
    seconds: float = 2.0,
    **config: Any,
) -> Path:
    """Write a run whose accuracies are `curve`; `n_round` is what was requested, by default what `curve` has."""
    full = {**CONFIG, "strategy_name": strategy, "seed": seed, **config}
    folder = root / full["dataset_name"] / strategy / f"seed{seed}-{config_hash(full)}"
    folder.mkdir(parents=True)
    n_round = len(curve) - 1 if n_round is None else n_round
    labels = [full["n_init_labeled"] + r * full["n_query"] for r in range(len(curve))]
    (folder / "config.json").write_text(json.dumps(full))
    environment = {
        "n_round": n_round,
        "device": "cpu",
        "git_commit": "abc",
        "packages": {"torch": "2.11"},
        "command": ["demo.py"],
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    rows = []
    for r, (n, accuracy) in enumerate(zip(labels, curve, strict=True)):
        known = {"f1": accuracy - 0.01, "nll": 1.5 * (1 - accuracy), "ece": 0.1}
        rows.append([r, n, *(known.get(m, accuracy) for m in METRICS), 10.0, 1.0, 0.0 if r == n_round else seconds])
    (folder / "rounds.csv").write_text(to_csv(round_columns(), rows))
    (folder / "confusion_matrix.csv").write_text(to_csv(["true\\predicted", *classes], confusion(classes)))
    if queries:
        write_queries(folder, strategy, full, labels, classes)
    return folder


def confusion(classes: Sequence[str]) -> list[list[Any]]:
    """Counts with a strong diagonal, a little different in each row."""
    c = len(classes)
    counts = np.random.default_rng(0).integers(0, 9, (c, c)) + 80 * np.eye(c, dtype=np.int64)
    return [[name, *row] for name, row in zip(classes, counts.tolist(), strict=True)]


def write_queries(
    folder: Path, strategy: str, config: dict[str, Any], labels: list[int], classes: Sequence[str]
) -> None:
    """Picks that are all different; the first labels depend on the seed alone."""
    first = np.random.default_rng(config["seed"]).permutation(config["n_train"])
    start, rest = first[: labels[0]], first[labels[0] :]
    rest = np.random.default_rng([config["seed"], *strategy.encode()]).permutation(rest)
    rows, done = [], 0
    for r, n in enumerate(np.diff([0, *labels])):
        idxs = start if r == 0 else rest[done : done + n]
        done += 0 if r == 0 else n
        names = [classes[i % len(classes)] for i in idxs]
        rows += [
            [r, k, i, f"train/{c}/{i:05d}.png", c] for k, (i, c) in enumerate(zip(idxs.tolist(), names, strict=True))
        ]
    (folder / "queries.csv").write_text(to_csv(QUERY_COLUMNS, rows))


def rising(n_round: int, top: float = 0.9, gain: float = 0.0, noise: float = 0.0, seed: int = 0) -> list[float]:
    """A learning curve from 0.4 to about `top`; `gain` bends it upwards, round 0 apart."""
    t = np.linspace(0, 1, n_round + 1)
    jitter = np.random.default_rng(seed).normal(0, noise, n_round + 1) if noise else np.zeros(n_round + 1)
    jitter[0] = 0  # round 0 is the same for all strategies
    y = 0.4 + (top - 0.4) * (1 - np.exp(-3 * t)) / (1 - np.exp(-3)) + gain * np.sin(np.pi * t / 2) + jitter
    return [round(float(v), 6) for v in y]


def three_strategies(root: Path) -> Path:
    """Write five seeds of three strategies: entropy sampling is better than margin sampling, and this than random."""
    for i, name in enumerate(("RandomSampling", "MarginSampling", "EntropySampling")):
        for seed in range(1, 6):
            write_run(root, name, seed, rising(4, gain=0.02 * i, noise=0.004, seed=10 * seed + i), queries=True)
    return root
