"""Show which strategies beat RandomSampling, with intervals and tests: text, Markdown, CSV and a page for the browser.

Usage:
    python compare.py results
    python compare.py results/CIFAR10 --metric f1 --out report
    python compare.py results/CIFAR10 --map --out report

Runs that differ in anything but strategy and seed are never put into one table; a run that is not finished is named
and left out.
"""

from __future__ import annotations

import startup  # noqa: F401  # before what is slow to import

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from files import write_atomic, writing
from runs.metrics import METRICS
from utils import Parser, UserError, exit_code, printable, warn

if TYPE_CHECKING:
    from report.tree import Report


def write(report: Report, out: Path) -> list[Path]:
    """Write every view of the report, each completely or not at all."""
    from report.views import VIEWS  # imports matplotlib, which text for the terminal does not need

    contents = {out / f"compare.{ending}": view(report) for ending, view in VIEWS.items()}
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        write_atomic(path, content.encode("utf-8", "replace"))
    return list(contents)


def run(args: argparse.Namespace) -> None:
    """Compare what the command line names."""
    from report.build import make_report
    from report.text import as_text

    if args.metric not in METRICS:
        raise UserError(f"--metric {args.metric}: must be one of {', '.join(METRICS)}")
    if args.map and args.out is None:
        raise UserError("--map draws into the page: add --out")
    rows_of = None
    if args.map:
        from pool_rows import pool_rows  # imports torch, which nothing else here needs

        rows_of = partial(pool_rows, data_dir=args.data_dir)
    report = make_report(args.folder, METRICS[args.metric], args.data_dir if args.out is not None else None, rows_of)
    for line in [*report.problems, *report.unreadable]:
        warn(line)
    paths = write(report, args.out) if args.out is not None else []
    print(as_text(report))
    print("\nwritten: " + ", ".join(map(printable, paths)) if paths else "\nno file is written without --out")


def main(argv: list[str] | None = None) -> int:
    """Run the script. Returns its exit code."""
    parser = Parser(description="Show which strategies beat RandomSampling, with intervals and tests.")
    parser.add_argument("folder", type=Path, help="a folder of results, such as results or results/CIFAR10")
    parser.add_argument("--metric", default="accuracy", help=f"what to compare: {', '.join(METRICS)} (accuracy)")
    parser.add_argument(
        "--out", type=Path, help="write the views of the report into this folder: compare.html, compare.md, ..."
    )
    parser.add_argument(
        "--data_dir", type=Path, default=Path("DATA"), help="where the images are, to show picks (DATA)"
    )
    parser.add_argument(
        "--map", action="store_true", help="draw where in the pool each strategy labels: half a minute a table"
    )
    args = parser.parse_args(argv)
    return exit_code(lambda: run(args), "interrupted")


if __name__ == "__main__":
    sys.exit(main())
