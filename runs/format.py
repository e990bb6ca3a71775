"""The files of a run: names, columns, what their text means. The one home of the results format; imports no torch.

The format only grows. CSV files are read by column name: unknown columns are kept, a metric whose column is missing or
whose cell is empty was not measured and reads as NaN. An option that was added later is recorded only where it changes
something (`runs.options`). So a folder of version 0.1.0 stays readable, resumable and comparable.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from files import Table, csv_cell, damaged_row, read_bytes, read_csv, to_csv
from runs.metrics import METRICS, Metric
from utils import UserError, warn

CONFIG = "config.json"  # every setting that defines the experiment
ENVIRONMENT = "environment.json"  # versions, device and n_round of the last start, and earlier starts
ROUNDS = "rounds.csv"
QUERIES = "queries.csv"
PREDICTIONS = "predictions.csv"  # this file and those below: of the last round
CONFUSION = "confusion_matrix.csv"
MODEL = "model.pt"
LAST_ROUND = "last_round.json"  # which round the three files above show, and their digests
LABELS = "labels.csv"  # of a project of label.py, which is no run
LOCK = ".lock"  # held by the process that writes the folder

KEY_COLUMNS = ("round", "n_labeled")  # of rounds.csv, without which a row means nothing
VALIDATION = "val_"  # what the columns of metrics on validation images begin with
SECONDS = ("train_seconds", "eval_seconds", "query_seconds")
CHECK = "check"  # the last column of rounds.csv: a checksum of the row
QUERY_COLUMNS = ("round", "rank", "index", "path", "label")
PREDICTION_COLUMNS = ("index", "path", "label", "predicted", "confidence")

NUMBER = re.compile(r"-?\d+(\.\d*)?(e[-+]?\d+)?", re.ASCII)
WHOLE_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
MOST_LABELS = 2**31 - 1
MOST_SECONDS = 1e9  # 30 years


def validation_columns() -> tuple[str, ...]:
    """The columns of metrics on validation images, in runs that have some."""
    return tuple(VALIDATION + m for m in METRICS)


def metric_of(column: str) -> Metric | None:
    """The metric that a column of rounds.csv holds, on test or validation images; None for other columns."""
    return METRICS.get(column.removeprefix(VALIDATION))


def round_columns() -> tuple[str, ...]:
    """What a new rounds.csv says of each round; its last column is CHECK."""
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
        metrics: by the names of METRICS, NaN where a file does not have it; with the prefix VALIDATION, where there
            are any, those on validation images.
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
        cells = {"round": str(self.round), "n_labeled": str(self.n_labeled), **metrics, **seconds}
        return {**cells, CHECK: checksum(cells)}


def checksum(cells: Mapping[str, str]) -> str:
    """Eight hexadecimal digits of a row's cells by column, without seconds: equal runs have equal ones.

    Empty cells do not count: a row does not change when the table gains a column.
    """
    counted = sorted((c, cell) for c, cell in cells.items() if cell and c not in (*SECONDS, CHECK))
    return f"{zlib.crc32(json.dumps(counted).encode()):08x}"


def seconds_text(seconds: float) -> str:
    """Seconds as they are written in rounds.csv."""
    return "" if math.isnan(seconds) else f"{seconds:.3f}"


def read_rounds(path: Path) -> list[Round]:
    """The rows of a rounds.csv.

    Raises:
        UserError: the file is damaged.
    """
    return rounds_of(read_csv(path, KEY_COLUMNS), path)


def rounds_of(table: Table, path: Path) -> list[Round]:
    """The rounds that the text of a rounds.csv stands for; `path` is for messages.

    Raises:
        UserError: a row is damaged or holds what cannot be true, rounds are missing, or none of METRICS has a column.
    """
    if table.columns and not any(m in table.columns for m in METRICS):
        raise UserError(f"{path} begins with {','.join(table.columns)!r}, which has none of {', '.join(METRICS)}")
    rounds: list[Round] = []
    for i, row in enumerate(table.records()):
        try:
            rounds.append(round_of(row))
            if rounds[i].round != i:
                raise ValueError(f"its round is {rounds[i].round}, not {i}")
            if i and rounds[i].n_labeled <= rounds[i - 1].n_labeled:
                raise ValueError("n_labeled does not grow")
        except ValueError as e:
            raise damaged_row(path, table, i, str(e)) from None
    return rounds


def round_of(row: Mapping[str, str]) -> Round:
    """The round that the cells of a row stand for.

    Raises:
        ValueError: a value cannot be true, or the row does not match its check.
    """

    def number(column: str, least: float, most: float) -> float:
        cell = row.get(column, "")
        if not cell:
            return math.nan
        if not NUMBER.fullmatch(cell) or not least <= float(cell) <= most:
            raise ValueError(f"{column} is {cell[:40]!r}, which is no number from {least:g} to {most:g}")
        return float(cell)

    def count(column: str, least: int) -> int:
        value = number(column, least, MOST_LABELS)
        if not value.is_integer():
            raise ValueError(f"{column} is {row[column][:40]!r}, which is no whole number")
        return int(value)

    metrics = {m.name: number(m.name, *m.limits) for m in METRICS.values()}
    on_validation = {VALIDATION + m.name: m.limits for m in METRICS.values() if row.get(VALIDATION + m.name)}
    metrics |= {column: number(column, *limits) for column, limits in on_validation.items()}
    seconds = (number(s, 0, MOST_SECONDS) for s in SECONDS)
    found = Round(count("round", 0), count("n_labeled", 1), metrics, *seconds)
    check = row.get(CHECK)
    known = {c: row.get(c, "") for c in round_columns()}  # the columns that remain may have been added by hand
    if check and check not in (checksum(row), checksum(known)):
        raise ValueError(f"it does not match its {CHECK}; clear its cell {check[:40]!r} to accept the row as it is")
    return found


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
    """The rows of a queries.csv.

    Raises:
        UserError: the file is damaged.
    """
    return queries_of(read_csv(path, QUERY_COLUMNS), path)


def queries_of(table: Table, path: Path) -> list[Query]:
    """The picks that the text of a queries.csv stands for; `path` is for messages.

    Raises:
        UserError: a row is damaged, or does not follow the row above it.
    """
    queries: list[Query] = []
    previous, seen = Query(0, -1, -1, "", ""), set()
    for i, row in enumerate(table.records()):
        numbers = [row[c] for c in ("round", "rank", "index")]
        if not all(WHOLE_NUMBER.fullmatch(cell) for cell in numbers):
            raise damaged_row(path, table, i, f"{','.join(numbers)[:60]!r} are no whole numbers")
        q = Query(int(numbers[0]), int(numbers[1]), int(numbers[2]), row["path"], row["label"])
        follows = (q.round, q.rank) in ((previous.round, previous.rank + 1), (previous.round + 1, 0))
        if not follows or q.index in seen:
            raise damaged_row(path, table, i, f"{','.join(numbers)!r} does not follow the line above")
        queries.append(q)
        previous = q
        seen.add(q.index)
    return queries


# predictions.csv


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
    names = [*map(csv_cell, classes), ""]  # the last is that of -1
    rows = zip(map(csv_cell, paths), labels.tolist(), predicted.tolist(), confidence.tolist(), strict=True)
    lines = [f"{i},{path},{names[y]},{names[p]},{c:.6f}\n" for i, (path, y, p, c) in enumerate(rows)]
    return to_csv(PREDICTION_COLUMNS, ()) + "".join(lines)


# config.json and environment.json


def json_text(content: dict[str, Any]) -> str:
    """The text of config.json or environment.json."""
    return json.dumps(content, indent=2) + "\n"


def read_config(folder: Path) -> dict[str, Any] | None:
    """The settings of a run; None where there is no config.json.

    Raises:
        UserError: the file is damaged or cannot be read.
    """
    return read_json(folder / CONFIG, "repair it or move its folder away to start over")


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
        content = read_json(path, "it counts as missing") or {}
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


def read_json(path: Path, consequence: str) -> dict[str, Any] | None:
    """What a JSON file holds; None where there is no file.

    Args:
        path: the file.
        consequence: of damage, for the message.

    Raises:
        UserError: the file is damaged, is no object, or cannot be read.
    """
    try:
        content = json.loads(read_bytes(path).decode())
    except FileNotFoundError:
        return None
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}; {consequence}") from e
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path} is damaged ({e}); {consequence}") from e
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (it holds no settings); {consequence}")
    return content
