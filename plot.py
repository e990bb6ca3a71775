"""Draw the curves of all runs below a folder, the confusion matrix of a run, and a map of its pool: PNG, PDF, a table.

Usage:
    python plot.py results/CIFAR10
    python plot.py results/CIFAR10 --column f1 --out figures/cifar10-f1
    python plot.py --confusion results/CIFAR10/MarginSampling/seed1-0f3a9c21
    python plot.py --map results/CIFAR10/MarginSampling/seed1-0f3a9c21
"""

from __future__ import annotations

import startup  # noqa: F401  # before what is slow to import

import argparse
import sys
from pathlib import Path

import numpy as np

from runs.format import CONFUSION, round_columns, validation_columns
from runs.metrics import METRICS
from runs.reading import find_runs, is_run, read_picks, read_run, shown_confusion
from runs.settings import Setting, differences, group
from utils import Parser, UserError, exit_code, printable, warn

MOST_DRAWN = 1000  # classes: more have less than a pixel each

# report.figures, and with it matplotlib, is imported where a figure is drawn: --help and mistakes are answered at once.


def table(setting: Setting, column: str) -> str:
    """Strategy, seeds, labels, last value and mean height of the curve; unfinished runs are marked."""
    from report.curves import runs_shown
    from report.numbers import shown, text_table
    from report.statistics import aubc

    rows = []
    for label, of in setting.runs.items():
        used = runs_shown(of, column)
        measured = [r for r in used if np.isfinite(r.values(column)).any()]
        finals = np.array([v[np.isfinite(v)][-1] for v in (r.values(column) for r in measured)])
        heights = [aubc(r.n_labeled, r.values(column)) for r in measured]
        spread = f" ± {shown(float(finals.std(ddof=1)), column)}" if len(finals) > 1 else ""
        n_open = sum(not r.complete for r in of)
        finished = any(r.complete for r in used)
        state = f"{n_open} unfinished run{'s' * (n_open > 1)} left out" if finished else "unfinished: so far"
        rows.append(
            [
                label,
                str(len(used)),
                f"{min(r.n_labeled[-1] for r in used):,}" if used else "-",
                f"{shown(float(finals.mean()), column)}{spread}" if measured else "not measured" if used else "-",
                shown(float(np.mean(heights)), column) if measured else "-",
                state if n_open else "",
            ]
        )
    unit = " %" if column in METRICS and METRICS[column].share else ""
    height = "AUBC" if column == "accuracy" else "mean"
    return text_table(["strategy", "seeds", "labels", f"final {column}{unit}", f"{height}{unit}", ""], rows)


def _stem(out: Path | None, folder: Path, name: str, more: bool = False) -> Path:
    """Where a picture goes, without the ending: `--out`, or a name inside the folder."""
    if out is None or out.is_dir():
        return (out or folder) / name
    stem = out.with_suffix("") if out.suffix.lower() in (".png", ".pdf") else out
    return stem.with_name(f"{stem.name}-{name}") if more else stem


def _check_run(flag: str, folder: Path) -> None:
    if not is_run(folder):
        raise UserError(f"{flag} {folder}: not the folder of one run (no config.json, no rounds.csv)")


def plot_confusion(folder: Path, stem: Path) -> list[Path]:
    """Draw a run's confusion matrix; with very many classes, print the most frequent confusions.

    Raises:
        UserError: the folder is no run, or its confusion matrix is missing or damaged.
    """
    _check_run("--confusion", folder)
    from report.confusions import most_confused
    from report.figures import draw_confusion, save_figure
    from report.numbers import text_table

    run = read_run(folder)
    counts, shown = shown_confusion(run)
    labels = f", {shown.n_labeled:,} labels" if shown else ""
    accuracy = f"{100 * counts.accuracy:.2f} %"
    title = f"{run.strategy[0]}, seed {run.seed}{labels}\naccuracy {accuracy}"
    if shown and shown is not run.rounds[-1]:
        warn(f"{folder / CONFUSION} shows round {shown.round}; the last one in use is {run.rounds[-1].round}")
    if len(counts.classes) > MOST_DRAWN:
        pairs = most_confused(counts)
        print(
            f"\n{printable(run.folder)}: accuracy {accuracy}; {len(counts.classes):,} classes are too many for a figure"
        )
        print(text_table(pairs.header, pairs.rows))
        return []
    return save_figure(draw_confusion(counts.classes, counts.matrix(), title), stem)


def plot_map(folder: Path, data_dir: Path, weights: Path | None, stem: Path) -> list[Path]:
    """Draw the pool of a run in two dimensions, and when each image was labeled.

    Raises:
        UserError: the folder is no run; its picks, images or network are missing; or they do not belong together.
    """
    _check_run("--map", folder)
    run = read_run(folder)
    picks = read_picks(run)
    from pool_rows import pool_rows  # imports torch, which nothing else here needs
    from report.figures import save_figure
    from report.figures_map import draw_map
    from report.map import map_of

    label = run.strategy[0]
    found = map_of(pool_rows(run, data_dir, weights), {label: picks}, run.seed)
    return save_figure(draw_map(found, label, f"{run.config['dataset_name']}: {label}, seed {run.seed}"), stem)


def _notes(setting: Setting, column: str, drawn: set[str]) -> list[str]:
    """Runs that are not finished, and strategies without a curve."""
    n_rounds = len(setting.config["n_labeled"])
    notes = [
        f"{run.folder}: {label}, seed {run.seed} has {len(run.rounds)} of {n_rounds} rounds"
        for label, run in setting.incomplete()
    ]
    started = [label for label, runs in setting.runs.items() if any(r.rounds for r in runs)]
    if missing := [label for label in started if label not in drawn]:
        notes.append(f"{setting.title}: {column} is not measured in the runs of {', '.join(missing)}")
    if not started:
        notes.append(f"{setting.title}: no round is done yet, so there is nothing to draw")
    return notes


def plot_folder(folder: Path, column: str, out: Path | None) -> list[Path]:
    """Draw the curves of every run below a folder, one figure a setting, and print the tables."""
    found, problems = find_runs(folder)
    settings, repeated = group(found)
    for line in [*problems, *repeated]:
        warn(line)
    from report.curves import curves_of
    from report.figures import draw_curves, save_figure
    from report.figures_looks import looks

    if len(settings) > 1:
        below = f"below {printable(folder)}"
        print(f"{len(settings)} datasets, budgets or recipes {below}: one figure each, never averaged together.")
        print("".join(f"  {printable(line)}\n" for line in differences(settings)), end="")
    styles = looks(label for s in settings for label in s.runs)
    paths = []
    for i, setting in enumerate(settings, 1):
        number = f"-{i}" if len(settings) > 1 else ""
        print(f"\n{number[1:] + '. ' if number else ''}{printable(setting.title)}\n{table(setting, column)}")
        curves = curves_of(setting, column)
        for line in _notes(setting, column, {c.label for c in curves}):
            warn(line)
        if curves:
            stem = _stem(out, folder, f"curves-{column}")
            fig = draw_curves(curves, column, styles, setting.title)
            paths += save_figure(fig, stem.with_name(stem.name + number))
    return paths


def run(args: argparse.Namespace) -> None:
    """Draw what the command line names."""
    if args.folder is None and args.confusion is None and args.map is None:
        raise UserError(
            "give a folder of results, such as results/CIFAR10, or --confusion or --map with a run's folder"
        )
    if args.weights is not None and args.map is None:
        raise UserError(f"--weights {args.weights}: needs --map")
    columns = (*round_columns(), *validation_columns())
    if args.column not in columns:
        raise UserError(f"--column {args.column}: rounds.csv has {', '.join(columns)}")
    paths = [] if args.folder is None else plot_folder(args.folder, args.column, args.out)
    confusion = args.confusion
    if confusion is None and args.folder is not None and is_run(args.folder) and (args.folder / CONFUSION).exists():
        confusion = args.folder
    if confusion is not None:
        paths += plot_confusion(confusion, _stem(args.out, confusion, "confusion_matrix", more=bool(paths)))
    if args.map is not None:
        paths += plot_map(args.map, args.data_dir, args.weights, _stem(args.out, args.map, "map", more=bool(paths)))
    print("\nwritten: " + ", ".join(map(printable, paths)) if paths else "\nnothing was drawn")


def main(argv: list[str] | None = None) -> int:
    """Run the script. Returns its exit code."""
    parser = Parser(description="Draw the curves of all runs below a folder, confusion matrices and maps.")
    parser.add_argument("folder", type=Path, nargs="?", help="a folder of results, such as results/CIFAR10, or one run")
    parser.add_argument("--column", default="accuracy", help=f"what to draw: {', '.join(round_columns())} (accuracy)")
    parser.add_argument("--confusion", type=Path, metavar="RUN", help="draw the confusion matrix of this run's folder")
    parser.add_argument(
        "--map", type=Path, metavar="RUN", help="draw where in the pool this run labeled: half a minute"
    )
    parser.add_argument("--data_dir", type=Path, default=Path("DATA"), help="where the images are, for --map (DATA)")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="for --map of a run that was given this file of weights"
    )
    parser.add_argument("--out", type=Path, help="where to write, without .png and .pdf (a name inside the folder)")
    args = parser.parse_args(argv)
    return exit_code(lambda: run(args), "interrupted")


if __name__ == "__main__":
    sys.exit(main())
