"""What strategies chose: first pictures, overlap, classes by round."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from report.numbers import percent
from report.pictures import ReadImage, image_reader, jpeg_of
from report.statistics import TIE, chance_overlap, overlap
from report.tree import Choices, Matrix, Pick, TextTable
from runs.reading import Picks
from runs.settings import Setting

MOST_PICTURES = 20  # of a strategy
MOST_CLASSES, MOST_COLUMNS = 30, 20  # of a matrix


def choices(picks: dict[str, Picks], seed: int, setting: Setting, data_dir: Path) -> Choices:
    """What each strategy chose with one seed.

    Args:
        picks: of one run each, by strategy.
        seed: of these runs.
        setting: theirs.
        data_dir: the folder that holds the data sets' folders.
    """
    read_image = image_reader(setting.config, data_dir)
    first = {label: first_picks(of, read_image) for label, of in picks.items()}
    shown = any(pick.jpeg for of in first.values() for pick in of)
    missing = "" if shown else f"The images are not in {data_dir}, so none are shown (--data_dir)."
    classes = {label: picks_by_class(of) for label, of in picks.items()}
    return Choices(seed, first, missing, overlap_table(picks), overlap_text(picks, setting), classes)


def first_picks(picks: Picks, read_image: ReadImage | None) -> list[Pick]:
    """The first picks of round 1, in the order of picking."""
    return [
        Pick(picks.paths[i], picks.labels[i], jpeg_of(picks.paths[i], read_image) if read_image else None)
        for i in np.flatnonzero(picks.rounds == 1)[:MOST_PICTURES]
    ]


def _chosen(picks: Picks) -> set[int]:
    """What was labeled after the first labels, which the seed alone decides."""
    return set(picks.idxs[picks.rounds > 0].tolist())


def overlap_table(picks: dict[str, Picks]) -> TextTable | None:
    """Images that two strategies have in common, in % of those that either chose; None for a single strategy."""
    if len(picks) < 2:
        return None
    chosen = [_chosen(of) for of in picks.values()]
    lines = [
        [f"{i} {label}", *(percent(overlap(own, other)) for other in chosen)]
        for i, (label, own) in enumerate(zip(picks, chosen, strict=True), 1)
    ]
    return TextTable(["", *(str(i) for i in range(1, len(lines) + 1))], lines)


def overlap_text(picks: dict[str, Picks], setting: Setting) -> str:
    """What the numbers of the overlap table mean."""
    text = (
        "Overlap of what two strategies chose after the first labels: images that both chose, in % of the images that "
        "at least one of them chose."
    )
    if "n_train" not in setting.config:
        return text
    n_picked = max(len(_chosen(of)) for of in picks.values())
    chance = chance_overlap(n_picked, setting.config["n_train"] - setting.config["n_labeled"][0])
    return f"{text} Two random draws would share {percent(chance)} %."


def picks_by_class(picks: Picks) -> Matrix:
    """Picks of each class in each round, shaded by their share of the round; rounds are joined when there are many."""
    n_rounds = int(picks.rounds.max())
    parts = [np.array([0]), *np.array_split(np.arange(1, n_rounds + 1), max(min(n_rounds, MOST_COLUMNS), 1))]
    parts = [p for p in parts if len(p)]
    names = ["first", *(f"{p[0]}" if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts[1:])]
    classes = sorted(name for name, _ in Counter(picks.labels).most_common(MOST_CLASSES))
    row_of = {name: i for i, name in enumerate(classes)}
    column_of = {int(r): j for j, p in enumerate(parts) for r in p}
    counts = np.zeros((len(classes), len(parts)))
    for (label, r), n in Counter(zip(picks.labels, picks.rounds.tolist(), strict=True)).items():
        if label in row_of:
            counts[row_of[label], column_of[r]] += n
    shares = counts / np.maximum(counts.sum(axis=0, keepdims=True), 1)
    return Matrix(classes, names, counts, shares / max(shares.max(), TIE))
