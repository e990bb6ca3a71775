"""Details of a section that take reading more files than rounds.csv: picks, pictures and confusion matrices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from report.comparison import Comparison
from report.confusions import confusion
from report.map import PoolRows, map_of
from report.picks import choices
from report.tree import Confusions, Details, Matrix, PoolMap, TextTable
from runs.format import CONFUSION
from runs.reading import Picks, Run, read_picks, shown_confusion
from utils import UserError

T = TypeVar("T")


def details(
    c: Comparison, data_dir: Path, unreadable: list[str], rows_of: Callable[[Run], PoolRows] | None = None
) -> Details:
    """Picks and confusion matrices of one seed.

    Args:
        c: the comparison; it has rows.
        data_dir: the folder that holds the data sets' folders.
        unreadable: gains a line for each file that cannot be read.
        rows_of: the pool of a run, to draw a map; None for no map.
    """
    seed = shown_seed(c)
    runs = {label: run for label, of in c.runs.items() for run in of if run.seed == seed}
    picks = _read_each(runs, read_picks, "its picks are not shown", unreadable)
    found = _read_each(runs, _read_confusion, "its confusion matrix is not shown", unreadable)
    mapped, no_map = _map(runs, picks, seed, rows_of) if picks and rows_of else (None, "")
    return Details(
        choices(picks, seed, c.setting, data_dir) if picks else None,
        Confusions(seed, found) if found else None,
        mapped,
        no_map,
    )


def _map(
    runs: dict[str, Run], picks: dict[str, Picks], seed: int, rows_of: Callable[[Run], PoolRows]
) -> tuple[PoolMap | None, str]:
    """The map that the strategies share, or why there is none."""
    run = runs[next(iter(picks))]
    if "features" not in run.config:
        return (
            None,
            "No map: these runs work on pixels, so each has embeddings of its own (plot.py --map draws one run).",
        )
    try:
        return map_of(rows_of(run), picks, seed), ""
    except UserError as e:
        return None, f"No map: {e}."


def shown_seed(c: Comparison) -> int:
    """The seed that most strategies have, the smallest of them."""
    seeds = Counter(seed for row in c.rows for seed in row.seeds)
    return min(seeds, key=lambda s: (-seeds[s], s))


def _read_confusion(run: Run) -> Matrix | TextTable:
    found, shown = shown_confusion(run)
    last = run.rounds[-1]
    if shown is not None and shown is not last:
        raise UserError(f"{run.folder / CONFUSION} shows round {shown.round}; the last one in use is {last.round}")
    return confusion(found)


def _read_each(runs: dict[str, Run], read: Callable[[Run], T], loss: str, unreadable: list[str]) -> dict[str, T]:
    """What `read` finds in each run; a damaged one is left out and noted with what is lost."""
    found = {}
    for label, run in runs.items():
        try:
            found[label] = read(run)
        except UserError as e:
            unreadable.append(f"{e}; {loss}")
    return found
