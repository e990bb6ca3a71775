"""Whole runs of demo.py with small settings, and comparing what they wrote."""

import csv

import numpy as np

import demo

SMALL = {
    "n_round": 3, "n_query": 4, "n_init_labeled": 6, "dataset_name": "Beasts", "seed": 1,
    "strategy_name": "MarginSampling", "img_size": 16, "net_name": "SmallCNN", "n_epoch": 1,
    "min_steps": 4, "batch_size": 8, "device": "cpu",
}  # fmt: skip


class Runner:
    """Runs demo.py in this process; keyword arguments are flags. Returns exit code and folder.

    Attributes:
        words: the command line of the last run.
    """

    def __init__(self, data_dir, tmp_path):
        self.data_dir, self.tmp_path = data_dir, tmp_path
        self.words = []

    def __call__(self, results="results", **flags):
        results_dir = self.tmp_path / results
        flags = {**SMALL, "data_dir": self.data_dir, "results_dir": results_dir, **flags}
        self.words = []
        for name, value in flags.items():
            if value is not None and value is not False:
                self.words += [f"--{name}"] + ([] if value is True else [str(v) for v in np.atleast_1d(value)])
        code = demo.main(self.words)
        folders = [p.parent for p in results_dir.rglob("config.json")]
        return code, folders[0] if len(folders) == 1 else folders


def table(path):
    """The rows of a CSV file by column name."""
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def without_seconds(folder):
    """A run's rounds.csv less what differs between equal runs."""
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in table(folder / "rounds.csv")]


def same_run(a, b):
    """Assert that two runs are equal, seconds aside."""
    assert without_seconds(a) == without_seconds(b)
    assert (a / "queries.csv").read_bytes() == (b / "queries.csv").read_bytes()


def count_trainings(monkeypatch):
    """A list that gets the number of labels of each training from now on."""
    trained = []
    train = demo.train

    def counting(build, pool, *rest):
        trained.append(len(pool.labeled))
        return train(build, pool, *rest)

    monkeypatch.setattr(demo, "train", counting)
    return trained
