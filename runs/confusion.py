"""The confusion matrix of a run: counted, written and read; sparse where classes are many."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from files import read_bytes, to_csv
from runs.outputs import digest
from utils import UserError

Idxs = NDArray[np.int64]

MOST_DENSE = 300  # classes of which all cells are written: 90,000 numbers
SPARSE_COLUMNS = ("label", "predicted", "count")


@dataclass(frozen=True)
class Confusion:
    """Test images by true and predicted class; the K cells without zeros, sorted by true, then predicted class.

    Attributes:
        classes: names. Length C.
        labels: true classes, as positions in `classes`. Shape (K,).
        predicted: predicted classes. Shape (K,).
        images: how many, 1 or more. Shape (K,).
    """

    classes: list[str]
    labels: Idxs
    predicted: Idxs
    images: Idxs

    @classmethod
    def counted(cls, classes: Sequence[str], labels: Idxs, predicted: Idxs) -> Confusion:
        """Count images by their true and predicted classes, each of shape (M,)."""
        cells, images = np.unique(labels * len(classes) + predicted, return_counts=True)
        return cls(list(classes), *np.divmod(cells, len(classes)), images)

    @classmethod
    def of_matrix(cls, classes: Sequence[str], matrix: Idxs) -> Confusion:
        """From all counts, row = true class, column = predicted class. Shape (C, C)."""
        labels, predicted = np.nonzero(matrix)
        return cls(list(classes), labels, predicted, matrix[labels, predicted])

    def matrix(self) -> Idxs:
        """All counts, row = true class, column = predicted class. Shape (C, C)."""
        matrix = np.zeros((len(self.classes), len(self.classes)), np.int64)
        matrix[self.labels, self.predicted] = self.images
        return matrix

    @property
    def accuracy(self) -> float:
        """Share of images on the diagonal; NaN without images."""
        n = self.images.sum()
        return float(self.images[self.labels == self.predicted].sum() / n) if n else float("nan")

    def text(self) -> str:
        """The text of confusion_matrix.csv.

        A row a true class and a column a predicted one; for more than MOST_DENSE classes a row a cell that is not zero.
        """
        names = self.classes
        if len(names) <= MOST_DENSE:
            rows = ([name, *counts] for name, counts in zip(names, self.matrix(), strict=True))
            return to_csv(["label\\predicted", *names], rows)
        cells = zip(self.labels.tolist(), self.predicted.tolist(), self.images.tolist(), strict=True)
        return to_csv(SPARSE_COLUMNS, ([names[y], names[p], n] for y, p, n in cells))


def read_confusion(path: Path, expected: str | None = None) -> Confusion:
    """Read a confusion_matrix.csv of either form; a sparse one knows only the classes of its rows.

    Args:
        path: the file.
        expected: its digest according to last_round.json; None where that is not known.

    Raises:
        UserError: the file is missing, damaged, or another one than expected.
    """
    try:
        content = read_bytes(path)
        if expected is not None and digest(content) != expected:
            raise ValueError("it is not the one that last_round.json describes; the run's command makes it again")
        return _parse(content.decode("utf-8", "surrogateescape"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a run writes it when a round is done") from None
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror}") from e
    except (ValueError, OverflowError, csv.Error) as e:
        raise UserError(f"{path} is damaged: {e}") from e


def _parse(text: str) -> Confusion:
    if not text.endswith("\n"):
        raise ValueError("its last line is torn" if text else "it is empty")
    header, *rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    found = _parse_sparse(rows) if tuple(header) == SPARSE_COLUMNS else _parse_dense(header[1:], rows)
    names = [name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for name in found.classes]
    return replace(found, classes=names)


def _parse_dense(classes: list[str], rows: list[list[str]]) -> Confusion:
    matrix = np.array([[int(v) for v in row[1:]] for row in rows], np.int64)
    if not classes or [row[0] for row in rows] != classes or matrix.shape != (len(classes), len(classes)):
        raise ValueError("its rows and columns are not the same classes")
    if (matrix < 0).any():
        raise ValueError("it has negative counts")
    return Confusion.of_matrix(classes, matrix)


def _parse_sparse(rows: list[list[str]]) -> Confusion:
    if any(len(row) != len(SPARSE_COLUMNS) for row in rows):
        raise ValueError(f"not all rows have {len(SPARSE_COLUMNS)} cells")
    names = dict.fromkeys(row[0] for row in rows) | dict.fromkeys(row[1] for row in rows)
    positions = {name: i for i, name in enumerate(names)}
    cells = [positions[row[0]] * len(names) + positions[row[1]] for row in rows]
    order = np.argsort(cells)
    ordered, images = np.array(cells, np.int64)[order], np.array([int(row[2]) for row in rows], np.int64)[order]
    if (images < 1).any() or (np.diff(ordered) == 0).any():
        raise ValueError("a cell occurs twice, or its count is not 1 or more")
    return Confusion(list(names), *np.divmod(ordered, max(len(names), 1)), images)
