"""The files of a run: names, columns, what their text means. The one home of the results format; imports no torch.

The format only grows. CSV files are read by column name: unknown columns are kept, a metric whose column is missing or
whose cell is empty was not measured and reads as NaN. An option that was added later is recorded only where it changes
something (`runs.options`). So a folder of version 0.1.0 stays readable, resumable and comparable.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from files import Table, read_csv, to_csv
from runs.metrics import METRICS
from utils import UserError, warn

T = TypeVar("T")

CONFIG = "config.json"  # every setting that defines the experiment
ENVIRONMENT = "environment.json"  # versions, device and n_round of the last start, and earlier starts
ROUNDS = "rounds.csv"
QUERIES = "queries.csv"
PREDICTIONS = "predictions.csv"  # this file and those below: of the last round
CONFUSION = "confusion_matrix.csv"
MODEL = "model.pt"
LOCK = ".lock"  # held by the process that writes the folder

KEY_COLUMNS = ("round", "n_labeled")  # of rounds.csv, without which a row means nothing
SECONDS = ("train_seconds", "eval_seconds", "query_seconds")
QUERY_COLUMNS = ("round", "rank", "index", "path", "label")
PREDICTION_COLUMNS = ("index", "path", "label", "predicted", "confidence")


def round_columns() -> tuple[str, ...]:
    """The columns of a new rounds.csv."""
    return (*KEY_COLUMNS, *METRICS, *SECONDS)


def run_path(root: Path, config: dict[str, Any]) -> Path:
    """The folder of a run; it is named after its whole configuration."""
    name = f"seed{config['seed']}-{config_hash(config)}"
    return Path(root) / config["dataset_name"] / config["strategy_name"] / name


def config_hash(config: dict[str, Any]) -> str:
    """Eight hexadecimal digits that name a configuration, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]


# rounds.csv


@dataclass(frozen=True)
class Round:
    """One row of rounds.csv: the network trained on `n_labeled` labels, and the query that followed.

    Attributes:
        metrics: by the names of METRICS; NaN where a file does not have it.
        query_seconds: 0 where no query followed.
    """

    round: int
    n_labeled: int
    metrics: dict[str, float]
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    query_seconds: float = 0.0

    def cells(self) -> dict[str, str]:
        """Its text by column."""
        metrics = {m: str(np.round(v, 6)) for m, v in self.metrics.items()}
        seconds = {s: seconds_text(getattr(self, s)) for s in SECONDS}
        return {"round": str(self.round), "n_labeled": str(self.n_labeled), **metrics, **seconds}


def seconds_text(seconds: float) -> str:
    """Seconds as they are written in rounds.csv."""
    return "" if math.isnan(seconds) else f"{seconds:.3f}"


def read_rounds(path: Path) -> list[Round]:
    """The rows of a rounds.csv, without a torn last line.

    Raises:
        UserError: the file is damaged.
    """
    return rounds_of(read_csv(path, KEY_COLUMNS), path)


def rounds_of(table: Table, path: Path) -> list[Round]:
    """The rounds that the text of a rounds.csv stands for; `path` is for messages. A last row of nonsense is torn.

    Raises:
        UserError: a row before the last is damaged, rounds are missing, or none of METRICS has a column.
    """
    if table.columns and not any(m in table.columns for m in METRICS):
        raise UserError(f"{path} begins with {','.join(table.columns)!r}, which has none of {', '.join(METRICS)}")

    def parse(row: dict[str, str]) -> Round:
        metrics = {m: _number(row.get(m, "")) for m in METRICS}
        seconds = (_number(row.get(s, "")) for s in SECONDS)
        return Round(int(row["round"]), int(row["n_labeled"]), metrics, *seconds)

    rounds = _parsed(table, path, parse)
    if [r.round for r in rounds] != list(range(len(rounds))):
        raise UserError(f"{path} is damaged: its rounds are {[r.round for r in rounds]}, not 0, 1, 2, ...")
    return rounds


def _number(cell: str) -> float:
    return float(cell) if cell else math.nan


def _parsed(table: Table, path: Path, parse: Callable[[dict[str, str]], T]) -> list[T]:
    """What the rows stand for, in order; a last row that `parse` refuses with a ValueError is torn and left out."""
    parsed = []
    for i, row in enumerate(table.records()):
        try:
            parsed.append(parse(row))
        except ValueError:
            if i < len(table.rows) - 1:
                raise _damaged_line(path, table, i) from None
    return parsed


def _damaged_line(path: Path, table: Table, i: int, why: str = "") -> UserError:
    return UserError(f"{path} is damaged in line {i + 2}: {','.join(table.rows[i])!r}{why}")


# queries.csv


@dataclass(frozen=True)
class Query:
    """One row of queries.csv: an image and when it was labeled.

    Round 0 is the initial draw, round r what was added for training r; rank is the order within a round from 0;
    index is the position in the training set; path is relative to the dataset's folder; label is the class name.
    """

    round: int
    rank: int
    index: int
    path: str
    label: str

    def cells(self) -> dict[str, str]:
        """Its text by column."""
        return {c: str(getattr(self, c)) for c in QUERY_COLUMNS}


def read_queries(path: Path) -> list[Query]:
    """The rows of a queries.csv, without a torn last line.

    Raises:
        UserError: the file is damaged.
    """
    return queries_of(read_csv(path, QUERY_COLUMNS), path)


def queries_of(table: Table, path: Path) -> list[Query]:
    """The picks that the text of a queries.csv stands for; `path` is for messages. A last row of nonsense is torn.

    Raises:
        UserError: a row before the last is damaged, or does not follow the row above it.
    """

    def parse(row: dict[str, str]) -> Query:
        return Query(int(row["round"]), int(row["rank"]), int(row["index"]), row["path"], row["label"])

    queries = _parsed(table, path, parse)
    previous, seen = Query(0, -1, -1, "", ""), set()
    for i, q in enumerate(queries):
        follows = (q.round, q.rank) in ((previous.round, previous.rank + 1), (previous.round + 1, 0))
        if not follows or q.index < 0 or q.index in seen:
            raise _damaged_line(path, table, i, " does not follow the line above")
        previous = q
        seen.add(q.index)
    return queries


# predictions.csv and confusion_matrix.csv


def predictions_text(
    classes: Sequence[str],
    paths: Sequence[str],
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    confidence: NDArray[np.floating[Any]],
) -> str:
    """The text of predictions.csv: one row an image, in the order of the paths.

    Args:
        classes: class names.
        paths: the images, relative to the dataset's folder.
        labels: true classes; -1, where unknown, is an empty cell. Shape (M,).
        predicted: most probable classes. Shape (M,).
        confidence: their probabilities. Shape (M,).
    """
    names = [*classes, ""]  # the last is that of -1
    rows = zip(paths, labels, predicted, confidence, strict=True)
    cells = ([i, path, names[y], classes[p], f"{c:.6f}"] for i, (path, y, p, c) in enumerate(rows))
    return to_csv(PREDICTION_COLUMNS, cells)


def confusion_text(classes: Sequence[str], counts: NDArray[np.int64]) -> str:
    """The text of confusion_matrix.csv: a row a true class, a column a predicted one."""
    return to_csv(["label\\predicted", *classes], ([name, *row] for name, row in zip(classes, counts, strict=True)))


# config.json and environment.json


def json_text(content: dict[str, Any]) -> str:
    """The text of config.json or environment.json."""
    return json.dumps(content, indent=2) + "\n"


def read_config(folder: Path) -> dict[str, Any] | None:
    """The settings of a run; None where there is no config.json.

    Raises:
        UserError: the file is damaged or cannot be read.
    """
    return _read_json(folder / CONFIG, "repair it or move its folder away to start over")


def read_environment(folder: Path, report: Callable[[str], None] = warn) -> dict[str, Any]:
    """What environment.json holds about the last start of a run; empty where there is no such file.

    One rule for everyone who reads it: it is no part of the result, so a damaged one counts as missing, which is
    reported. Without it all committed rounds count as requested.

    Args:
        folder: the run's folder.
        report: receives one line about a file that is damaged or cannot be read; by default it is printed.
    """
    path = folder / ENVIRONMENT
    try:
        content = _read_json(path, "it counts as missing") or {}
        for key, kind in (("n_round", int), ("earlier", list)):
            check_type(path, content, key, kind, "; it counts as missing")
    except UserError as e:
        report(str(e))
        return {}
    return content


def check_type(path: Path, content: dict[str, Any], key: str, kind: type, consequence: str = "") -> None:
    """Refuse a value of another type than it should be; it may be absent.

    Raises:
        UserError: it is of another type.
    """
    if key in content and (not isinstance(content[key], kind) or isinstance(content[key], bool)):
        raise UserError(f"{path} is damaged: {key} is {content[key]!r}{consequence}")


def _read_json(path: Path, consequence: str) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes().decode())
    except FileNotFoundError:
        return None
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}; {consequence}") from e
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path} is damaged ({e}); {consequence}") from e
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (it holds no settings); {consequence}")
    return content
