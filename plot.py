"""Draw the curves of all runs below a folder, and the confusion matrix of one run: PNG, PDF and a table.

Usage:
    python plot.py results/CIFAR10
    python plot.py results/CIFAR10 --column f1 --out figures/cifar10-f1
    python plot.py --confusion results/CIFAR10/MarginSampling/seed1-0f3a9c21
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

import runs as reader
from runs import BASELINE, SHARES, Curve, Floats, Setting, shown
from utils import ROUND_COLUMNS, Parser, UserError, exit_code, warn, write_atomic, writing

TITLES = {
    "accuracy": "Test accuracy (%)",
    "precision": "Macro precision (%)",
    "recall": "Macro recall (%)",
    "f1": "Macro F1 (%)",
    "nll": "Negative log-likelihood (nats)",
    "ece": "Expected calibration error (%)",
    "train_seconds": "Training (s)",
    "eval_seconds": "Evaluation (s)",
    "query_seconds": "Query (s)",
    "n_labeled": "Labeled images",
    "round": "Round",
}
BAND = "band: ± 1 standard deviation over seeds"

# Hues of Okabe and Ito, "Color universal design", 2008, without black and yellow; the second of each pair is for
# dark pages. Order: neighbours differ most.
HUES = (
    ("#0072B2", "#4AA3E0"),
    ("#D55E00", "#F07B2E"),
    ("#009E73", "#2CC197"),
    ("#CC79A7", "#DE93BC"),
    ("#E69F00", "#F2B632"),
    ("#56B4E9", "#A5DAF8"),
)
NICE = [1, 2, 2.5, 5, 10]  # steps of an axis
NEUTRAL = ("#6B6B6B", "#A3A3A3")
DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.2, 1.6), (6, 1.6, 1.2, 1.6))
MARKERS = "osD^vPX<>phd*"
RC: Any = {  # matplotlib types each key by name
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "pdf.fonttype": 42,  # text stays text: journals refuse Type 3
    "text.parse_math": False,  # a name may hold a dollar sign
    "savefig.dpi": 200,
}


@dataclass(frozen=True)
class Look:
    """How one strategy is drawn, everywhere: colour on light and on dark, dashes and marker."""

    light: str
    dark: str
    dash: tuple[float, ...]
    marker: str


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """A look for each strategy; RandomSampling is always the same neutral grey, dashed and without a marker."""
    others = sorted(label for label in set(labels) if label != BASELINE)
    found = {BASELINE: Look(*NEUTRAL, (3.5, 1.8), "")}
    for i, label in enumerate(others):
        dash = DASHES[i // len(HUES) % len(DASHES)]
        found[label] = Look(*HUES[i % len(HUES)], dash, MARKERS[i % len(MARKERS)])
    return found


def curves_of(setting: Setting, column: str) -> list[Curve]:
    """The curves of a setting, the highest end first so that a legend reads in the order of the lines."""
    found = [reader.curve(label, of, column) for label, of in setting.runs.items()]
    drawn = [c for c in found if c is not None and np.isfinite(c.mean).any()]
    return sorted(drawn, key=lambda c: -c.mean[np.isfinite(c.mean)][-1])


# Figures


def _two_lines(label: str, width: int = 26) -> str:
    """Break a long name once, at the capital or bracket nearest to its middle."""
    places = [m.start() for m in re.finditer(r"(?<=[a-z0-9])[A-Z]|\(|(?<=, )", label)]
    if len(label) <= width or not places:
        return label
    cut = min(places, key=lambda p: abs(p - len(label) / 2))
    return f"{label[:cut].rstrip()}\n{label[cut:]}"


def _said(curve: Curve, curves: Sequence[Curve]) -> str:
    same = len({c.n_seeds for c in curves}) == 1
    seeds = "" if same else f" ({curve.n_seeds} seed{'s' * (curve.n_seeds > 1)})"
    return _two_lines(curve.label) + seeds + ("" if curve.complete else "\n(unfinished)")


def caption(curves: Sequence[Curve]) -> str:
    """What a line and its band are, in one line."""
    n_seeds = {c.n_seeds for c in curves}
    if n_seeds == {1}:
        return "one seed each, so no band"
    line = f"mean of {n_seeds.pop()} seeds" if len(n_seeds) == 1 else "mean over seeds"
    return f"{line}, {BAND}"


def draw_curves(curves: Sequence[Curve], column: str, title: str, styles: dict[str, Look]) -> Figure:
    """One curve a strategy over the labels, its band, and a legend beside the axes."""
    scale = 100.0 if column in SHARES else 1.0
    fig, ax = plt.subplots(figsize=(7.4, max(3.7, 0.8 + 0.3 * len(curves))), layout="constrained")
    handles = []
    for c in reversed(curves):
        look, front = styles[c.label], 3 if c.label == BASELINE else 2
        color, line = look.light, (0, look.dash) if look.dash else "-"
        x, y = c.n_labeled, scale * c.mean
        every = max(1, len(x) // 12)
        ax.plot(
            x,
            y,
            color=color,
            ls=line,
            lw=1.6,
            marker=look.marker,
            ms=4.5,
            mec="white",
            mew=0.6,
            markevery=every,
            zorder=front,
        )
        ax.fill_between(
            x, y - scale * c.sd, y + scale * c.sd, color=color, alpha=0.13 if len(curves) < 6 else 0.08, lw=0, zorder=1
        )
        handles.append(Line2D([], [], color=color, ls=line, lw=1.6, marker=look.marker, ms=4.5, mec="white", mew=0.6))
    ax.set_xlabel("Labeled images")
    ax.set_ylabel(TITLES[column])
    ax.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=NICE))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))
    ax.grid(color="#DDDDDD", lw=0.6)
    ax.set_axisbelow(True)
    drawable = title.encode("utf-8", "replace").decode()  # a folder's name need not be text
    ax.set_title(f"{drawable}\n", loc="left", fontsize=10, wrap=True)
    ax.text(0, 1.02, caption(curves), transform=ax.transAxes, fontsize=7.5, color="#555555", va="bottom")
    names = [_said(c, curves) for c in curves]
    ax.legend(
        handles[::-1],
        names,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        frameon=False,
        fontsize=8,
        handlelength=4,
        labelspacing=0.7,
    )
    return fig


def _thin(n: int, most: int) -> NDArray[np.int64]:
    """Positions of n things of which at most `most` are named."""
    return np.arange(0, n, -(-n // most))


def draw_confusion(classes: Sequence[str], counts: NDArray[np.int64], title: str) -> Figure:
    """The confusion matrix: shade is the share of the true class, the number in a cell is images."""
    n = len(classes)
    named, short = _thin(n, 120), [c if len(c) <= 28 else c[:27] + "…" for c in classes]
    widest = max(map(len, short))
    side = float(np.clip(1.6 + 0.42 * n + 0.07 * widest, 3.2, 17))
    cell = 72 * (side - 1.2) / n  # points
    font = float(np.clip(0.7 * cell, 4.5, 9))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    fig, ax = plt.subplots(figsize=(side + 1.1, side), layout="constrained")
    image = ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    upright = 0.65 * font * widest > cell
    ax.set_xticks(named, [short[i] for i in named], rotation=90 if upright else 0, fontsize=font)
    ax.set_yticks(named, [short[i] for i in named], fontsize=font)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("Predicted class")
    ax.set_ylabel("True class")
    ax.set_title(title, fontsize=10, loc="left", wrap=True)
    if n <= 30:
        size = min(font, 30 / max(len(str(counts.max())), 2) if n > 12 else font)
        for (i, j), v in np.ndenumerate(counts):
            if v:
                ax.text(
                    j,
                    i,
                    f"{v}",
                    ha="center",
                    va="center",
                    fontsize=size,
                    color="white" if share[i, j] > 0.5 else "#333333",
                )
    bar = fig.colorbar(
        image, ax=ax, fraction=0.046, pad=0.02, aspect=25, shrink=min(1, 6 / side), label="Share of the true class"
    )
    bar.outline.set_visible(False)
    return fig


def save(fig: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and PDF, atomically and without a date, and close it."""
    with writing(stem):
        stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
        out, path = io.BytesIO(), stem.with_name(f"{stem.name}.{kind}")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
            fig.savefig(out, format=kind, metadata=metadata, bbox_inches="tight", pad_inches=0.05)
        write_atomic(path, out.getvalue())
        paths.append(path)
    plt.close(fig)
    return paths


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """One picture as the bytes of a JPEG file. Shape (H, W, 3)."""
    out = io.BytesIO()
    matplotlib.image.imsave(out, image, format="jpeg", pil_kwargs={"quality": 82})
    return out.getvalue()


# Vector pictures inside a page, whose style sheet gives the colours: --l on light, --d on dark


def _group(look: Look) -> str:
    return f'<g class="series" style="--l:{look.light};--d:{look.dark}">'


def _svg(kind: str, width: float, height: float, says: str, parts: Iterable[str]) -> str:
    size = f'width="{width:.0f}" height="{height:.0f}" ' if kind == "matrix" else ""
    head = f'<svg class="{kind}" {size}viewBox="0 0 {width:.1f} {height:.1f}" role="img" aria-label="{escape(says)}">'
    return f"{head}{''.join(parts)}</svg>"


def swatch(look: Look) -> str:
    """A piece of a strategy's line, for legends and tables."""
    return (
        f'<svg class="swatch" viewBox="0 0 34 12" aria-hidden="true">{_group(look)}'
        f'<path d="M1 6H33" stroke-dasharray="{_dashes(look)}"/>{_mark(look, 17, 6)}</g></svg>'
    )


def _dashes(look: Look) -> str:
    return " ".join(f"{2 * d:g}" for d in look.dash) or "none"


def _mark(look: Look, x: float, y: float) -> str:
    """A marker as one of six shapes, since a page has no fonts of markers."""
    if not look.marker:
        return ""
    shapes = (
        "M-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0 -6.4 0z",
        "M-3-3h6v6h-6z",
        "M0-4.2L4.2 0L0 4.2L-4.2 0z",
        "M0-4L3.8 3H-3.8z",
        "M0 4L3.8-3H-3.8z",
        "M-1.4-4h2.8v2.6h2.6v2.8h-2.6v2.6h-2.8v-2.6h-2.6v-2.8h2.6z",
    )
    shape = shapes[MARKERS.index(look.marker) % len(shapes)]
    return f'<path class="mark" transform="translate({x:.1f} {y:.1f})" d="{shape}"/>'


def _ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    ticks = MaxNLocator(most, integer=whole, steps=NICE).tick_values(low, high)
    slack = 1e-9 * (high - low)
    return [float(t) for t in ticks if low - slack <= t <= high + slack]


def _axis_number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


def svg_curves(curves: Sequence[Curve], column: str, styles: dict[str, Look]) -> str:
    """The curves with their bands; the legend is the page's."""
    scale = 100.0 if column in SHARES else 1.0
    width, height, left, right, top, bottom = 480, 320, 46, 14, 10, 40
    spread = [scale * np.nan_to_num(c.sd) for c in curves]
    lows = [np.nanmin(scale * c.mean - s) for c, s in zip(curves, spread, strict=True)]
    highs = [np.nanmax(scale * c.mean + s) for c, s in zip(curves, spread, strict=True)]
    x0, x1 = min(c.n_labeled[0] for c in curves), max(c.n_labeled[-1] for c in curves)
    y0, y1 = float(min(lows)), float(max(highs))
    pad = 0.04 * (y1 - y0) or 1.0
    y0, y1, x1 = y0 - pad, y1 + pad, max(x1, x0 + 1)

    def at(x: Any, y: Any) -> Iterable[tuple[float, float]]:
        px = left + (np.asarray(x) - x0) / (x1 - x0) * (width - left - right)
        py = top + (y1 - np.asarray(y)) / (y1 - y0) * (height - top - bottom)
        return ((float(a), float(b)) for a, b in zip(px, py, strict=True) if np.isfinite(b))

    def path(points: Iterable[tuple[float, float]]) -> str:
        return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)

    parts = []
    for t in _ticks(y0, y1, 6):
        ((_, py),) = at([x0], [t])
        parts.append(f'<path class="rule" d="M{left} {py:.1f}H{width - right}"/>')
        parts.append(f'<text x="{left - 6}" y="{py + 4:.1f}" text-anchor="end">{_axis_number(t)}</text>')
    for t in _ticks(x0, x1, 5, whole=True):
        ((px, _),) = at([t], [y0])
        parts.append(f'<text x="{px:.1f}" y="{height - bottom + 16}" text-anchor="middle">{t:,.0f}</text>')
    parts.append(f'<text x="{(left + width - right) / 2}" y="{height - 6}" text-anchor="middle">Labeled images</text>')
    for c, s in zip(curves[::-1], spread[::-1], strict=True):
        look, y = styles[c.label], scale * c.mean
        points = list(at(c.n_labeled, y))
        band = [*at(c.n_labeled, y + s), *reversed(list(at(c.n_labeled, y - s)))]
        every = max(1, len(points) // 10)
        parts.append(f"{_group(look)}<title>{escape(c.label)}</title>")
        parts.append(f'<path class="band" d="{path(band)}z"/>' if c.n_seeds > 1 else "")
        parts.append(f'<path d="{path(points)}" stroke-dasharray="{_dashes(look)}"/>')
        parts += [_mark(look, *p) for p in points[::every]]
        parts.append("</g>")
    label = f"{TITLES[column]} over labeled images: " + ", ".join(c.label for c in curves)
    return _svg("chart", width, height, label, parts)


def svg_gains(rows: Sequence[tuple[str, float, float, float]], unit: str, styles: dict[str, Look]) -> str:
    """Gains over RandomSampling as dots with their intervals around a line at zero.

    Args:
        rows: strategy, gain, lower and upper end of its interval, from top to bottom.
        unit: what the axis says.
        styles: a look for each strategy.
    """
    width, step, left, right, top = 480, 34, 12, 12, 6
    height = top + step * len(rows) + 40
    low, high = min(0.0, *(r[2] for r in rows)), max(0.0, *(r[3] for r in rows))
    pad = 0.05 * (high - low) or 1.0
    low, high = low - pad, high + pad

    def at(v: float) -> float:
        return left + (v - low) / (high - low) * (width - left - right)

    base = top + step * len(rows)
    parts = []
    for t in _ticks(low, high, 6):
        parts.append(f'<path class="rule" d="M{at(t):.1f} {top}V{base}"/>')
        parts.append(f'<text x="{at(t):.1f}" y="{base + 16}" text-anchor="middle">{t:+.4g}</text>' if t else "")
    parts.append(f'<path class="zero" d="M{at(0):.1f} {top}V{base}"/>')
    parts.append(f'<text x="{at(0):.1f}" y="{base + 16}" text-anchor="middle">0</text>')
    parts.append(f'<text x="{width / 2}" y="{height - 6}" text-anchor="middle">{escape(unit)}</text>')
    for i, (label, gain, lower, upper) in enumerate(rows):
        look, y = styles[label], top + step * i + 24
        near, x = ("start", at(lower)) if at(gain) < width / 2 else ("end", at(upper))
        parts.append(
            f'<text x="{x:.1f}" y="{y - 9}" text-anchor="{near}">{escape(label)}</text>'
            f'{_group(look)}<path d="M{at(lower):.1f} {y}H{at(upper):.1f}"/>'
            f'<path d="M{at(lower):.1f} {y - 4}v8M{at(upper):.1f} {y - 4}v8"/>'
            f'<path class="mark" d="M{at(gain) - 4:.1f} {y}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z"/></g>'
        )
    return _svg("chart", width, height, unit, parts)


def svg_matrix(rows: Sequence[str], columns: Sequence[str], values: Floats, shade: Floats, title: str) -> str:
    """A table of numbers whose cells are shaded, for confusion matrices and counts.

    Args:
        rows: names of the rows. Shape (A,).
        columns: names of the columns, written upright when long. Shape (B,).
        values: what the cells say; 0 is left blank. Shape (A, B).
        shade: between 0 and 1. Shape (A, B).
        title: what the whole picture says.
    """
    short = {name: name if len(name) <= 18 else name[:17] + "…" for name in {*rows, *columns}}
    widest = max((len(short[c]) for c in columns), default=1)
    cell, left = 30, 8 + 6.7 * max((len(short[r]) for r in rows), default=1)
    top = 8 + 6.4 * widest if widest > 4 else 20
    parts = []
    for j, name in enumerate(columns):
        x = left + cell * (j + 0.5)
        place = f'x="{x:.1f}" y="{top - 6:.1f}" text-anchor="middle"'
        if widest > 4:
            place = f'transform="translate({x + 4:.1f} {top - 5:.1f}) rotate(-90)"'
        parts.append(f"<text {place}>{escape(short[name])}</text>")
    for i, name in enumerate(rows):
        y = top + 22 * i
        parts.append(f'<text x="{left - 5:.1f}" y="{y + 15:.1f}" text-anchor="end">{escape(short[name])}</text>')
        for j, column in enumerate(columns):
            hint = f"{name}, {column}: {values[i, j]:.4g}"
            parts.append(_cell(left + cell * j, y, cell, float(values[i, j]), float(np.clip(shade[i, j], 0, 1)), hint))
    return _svg("matrix", left + cell * len(columns) + 2, top + 22 * len(rows) + 2, title, parts)


def _cell(x: float, y: float, width: int, value: float, tone: float, hint: str) -> str:
    box = f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{width - 1}" height="21" fill-opacity="{tone:.2f}">'
    box += f"<title>{escape(hint)}</title></rect>"
    if not value:
        return box
    number = f"{value:.3g}" if abs(value) < 1000 else f"{value / 1000:.3g}k"
    place = f'x="{x + width / 2 - 0.5:.1f}" y="{y + 14.5:.1f}" text-anchor="middle"'
    return f'{box}<text class="value{" over" if tone > 0.8 else ""}" {place}>{number}</text>'


# The script


def table(setting: Setting, column: str) -> str:
    """Strategy, seeds, labels, last value and mean height of the curve; unfinished runs are marked."""
    rows = []
    for label, of in setting.runs.items():
        drawn = reader.curve(label, of, column)
        done = [r for r in of if r.complete]
        n_open = len(of) - len(done)
        used = done or [r for r in of if r.rounds]
        columns = [v[np.isfinite(v)] for v in (r.values(column) for r in used)]
        last = np.array([v[-1] for v in columns if len(v)])
        heights = [reader.aubc(r.n_labeled, r.values(column)) for r in used]
        spread = f" ± {shown(float(last.std(ddof=1)), column)}" if len(last) > 1 else ""
        state = f"{n_open} unfinished run{'s' * (n_open > 1)} left out" if done else "unfinished: so far"
        rows.append(
            [
                label,
                str(len(used)),
                f"{drawn.n_labeled[-1]:,}" if drawn else "-",
                (shown(float(last.mean()), column) + spread) if len(last) else "-",
                shown(float(np.mean(heights)), column) if heights else "-",
                state if n_open else "",
            ]
        )
    unit = " %" if column in SHARES else ""
    height = "AUBC" if column == "accuracy" else "mean"
    return reader.text_table(["strategy", "seeds", "labels", f"final {column}{unit}", f"{height}{unit}", ""], rows)


def _stem(out: Path | None, folder: Path, name: str, more: bool = False) -> Path:
    """Where a picture goes, without the ending: `--out`, or a name inside the folder."""
    if out is None or out.is_dir():
        return (out or folder) / name
    stem = out.with_suffix("") if out.suffix.lower() in (".png", ".pdf") else out
    return stem.with_name(f"{stem.name}-{name}") if more else stem


def plot_confusion(folder: Path, stem: Path) -> list[Path]:
    """Draw a run's confusion matrix.

    Raises:
        UserError: the folder is no run, or its last round is not done.
    """
    if not reader.is_run(folder):
        raise UserError(f"--confusion {folder}: not the folder of one run (no config.json, no rounds.csv)")
    classes, counts = reader.read_confusion(folder / "confusion_matrix.csv")
    run = reader.read_run(folder)
    labels = f", {run.committed[-1].n_labeled:,} labels" if run.committed else ""
    title = (
        f"{run.strategy[0]}, seed {run.seed}{labels}\naccuracy {100 * np.trace(counts) / max(counts.sum(), 1):.2f} %"
    )
    with mpl.rc_context(RC):
        return save(draw_confusion(classes, counts, title), stem)


def plot_folder(folder: Path, column: str, out: Path | None) -> list[Path]:
    """Draw the curves of every run below a folder, one figure a setting, and print the tables."""
    found, problems = reader.find_runs(folder)
    settings, repeated = reader.group(found)
    for line in [*problems, *repeated]:
        warn(line)
    if len(settings) > 1:
        print(f"{len(settings)} datasets, budgets or recipes below {folder}: one figure each, never averaged together.")
        print("".join(f"  {line}\n" for line in reader.differences(settings)), end="")
    styles = looks(label for s in settings for label in s.runs)
    paths = []
    for i, setting in enumerate(settings, 1):
        number = f"-{i}" if len(settings) > 1 else ""
        print(f"\n{number[1:] + '. ' if number else ''}{setting.title}\n{table(setting, column)}")
        for label, run in setting.incomplete():
            asked = len(setting.config["n_labeled"])
            warn(f"{run.folder}: {label}, seed {run.seed} has {len(run.rounds)} of {asked} rounds")
        curves = curves_of(setting, column)
        if not curves:
            warn(f"{setting.title}: no round is done yet, so there is nothing to draw")
            continue
        stem = _stem(out, folder, f"curves-{column}")
        with mpl.rc_context(RC):
            paths += save(draw_curves(curves, column, setting.title, styles), stem.with_name(stem.name + number))
    return paths


def run(args: argparse.Namespace) -> None:
    """Draw what the command line names."""
    if args.folder is None and args.confusion is None:
        raise UserError("give a folder of results, such as results/CIFAR10, or --confusion with a run's folder")
    if args.column not in ROUND_COLUMNS:
        raise UserError(f"--column {args.column}: rounds.csv has {', '.join(ROUND_COLUMNS)}")
    paths = [] if args.folder is None else plot_folder(args.folder, args.column, args.out)
    of_run = args.confusion
    if of_run is None and reader.is_run(args.folder) and (args.folder / "confusion_matrix.csv").exists():
        of_run = args.folder
    if of_run is not None:
        paths += plot_confusion(of_run, _stem(args.out, of_run, "confusion_matrix", more=bool(paths)))
    print("\nwritten: " + ", ".join(str(p) for p in paths) if paths else "\nnothing was drawn")


def main(argv: list[str] | None = None) -> int:
    """Run the script. Returns its exit code."""
    parser = Parser(description="Draw the curves of all runs below a folder, and confusion matrices.")
    parser.add_argument("folder", type=Path, nargs="?", help="a folder of results, such as results/CIFAR10, or one run")
    parser.add_argument("--column", default="accuracy", help=f"what to draw: {', '.join(ROUND_COLUMNS)} (accuracy)")
    parser.add_argument("--confusion", type=Path, metavar="RUN", help="draw the confusion matrix of this run's folder")
    parser.add_argument("--out", type=Path, help="where to write, without .png and .pdf (a name inside the folder)")
    args = parser.parse_args(argv)
    return exit_code(lambda: run(args), "interrupted")


if __name__ == "__main__":
    sys.exit(main())
