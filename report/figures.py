"""Curves, gains and confusion matrices as matplotlib figures: for files, and through figures_svg for pages."""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from files import write_atomic, writing
from report.curves import Curve, axis_title, caption, column_scale
from report.figures_looks import CELL, GROUND, LINE, SOFT, TEXT, Look
from runs.settings import BASELINE

NICE_STEPS = [1, 2, 2.5, 5, 10]  # between the ticks of an axis
TITLE = "title:"  # begins the gid of an artist that shows a title under the mouse
WIDTH = 440  # of a chart in a page, in CSS pixels at full size
PAGE_FONT = 12.0  # in such a chart; still legible when a phone shows it at 360 pixels
SETTINGS: Any = {  # matplotlib types each key by name
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so files look the same everywhere
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": LINE.light,
    "grid.linewidth": 0.7,
    "pdf.fonttype": 42,  # text stays text: journals refuse Type 3
    "text.parse_math": False,  # a name may hold a dollar sign
    "savefig.dpi": 200,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), TEXT.light),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), SOFT.light),
}


@contextmanager
def drawing(settings: Any = None) -> Iterator[None]:
    """Matplotlib with our settings, whatever the user's matplotlibrc says, and without its warnings."""
    with mpl.rc_context(), warnings.catch_warnings():
        for message in ("Glyph .* missing", "constrained_layout not applied"):
            warnings.filterwarnings("ignore", message, UserWarning)
        mpl.rcdefaults()
        mpl.rcParams.update({**SETTINGS, **(settings or {})})
        yield


def line_style(look: Look, width: float, marker: float) -> dict[str, Any]:
    """Matplotlib's properties of a strategy's line; width and marker size in points."""
    return {
        "color": look.color.light,
        "ls": (0, look.dash) if look.dash else "-",
        "lw": width,
        "marker": look.marker,
        "ms": marker,
        "mec": GROUND.light,
        "mew": 0.6,
    }


def hover(text: str) -> str:
    """The gid of an artist that shows this text under the mouse, in a page."""
    return TITLE + _drawable(text)


def _drawable(text: str) -> str:
    """One line that every format can hold: the name of a folder need be neither valid Unicode nor printable."""
    characters = text.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in characters)


def shortened(text: str, length: int) -> str:
    """Drawable text of at most so many characters."""
    text = _drawable(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def _text_width(text: str, size: float) -> float:
    """Width of a line in points; `size` is that of the font."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)
    return float(width)


def _two_lines(label: str, width: int = 26) -> str:
    """Break a long name once, at the capital or bracket nearest to its middle."""
    places = [m.start() for m in re.finditer(r"(?<=[a-z0-9])[A-Z]|\(|(?<=, )", label)]
    if len(label) <= width or not places:
        return label
    cut = min(places, key=lambda p: abs(p - len(label) / 2))
    return f"{label[:cut].rstrip()}\n{label[cut:]}"


def _legend_text(curve: Curve, curves: Sequence[Curve]) -> str:
    same = len({c.n_seeds for c in curves}) == 1
    seeds = "" if same else f" ({curve.n_seeds} seed{'s' * (curve.n_seeds > 1)})"
    return _two_lines(shortened(curve.label, 60)) + seeds + ("" if curve.complete else "\n(unfinished)")


def write_title(ax: Axes, title: str, width: float) -> None:
    """A title to the left above the axes, in lines of about `width` inches."""
    size = 10
    n_characters = int(72 * width / (0.6 * size))  # matplotlib's own wrapping would read dollar signs as mathematics
    lines = [part for line in title.split("\n") for part in textwrap.wrap(_drawable(line), n_characters) or [""]]
    ax.set_title("\n".join(lines), fontsize=size, loc="left")


def _thousands(value: float, _: int) -> str:
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:,.10g}"


def _bare(height: float) -> tuple[Figure, Axes]:
    """A chart for a page: its title, caption and legend are the page's."""
    fig = Figure(figsize=(WIDTH / 72, height / 72), layout=ConstrainedLayoutEngine(w_pad=2 / 72, h_pad=2 / 72))
    ax = fig.add_subplot()
    ax.tick_params(length=0, pad=6, labelsize=PAGE_FONT)
    ax.spines[:].set_visible(False)
    ax.xaxis.label.set_fontsize(PAGE_FONT)
    return fig, ax


@drawing()
def draw_curves(curves: Sequence[Curve], column: str, styles: Mapping[str, Look], title: str = "") -> Figure:
    """One curve a strategy over the labels, with its band.

    Args:
        curves: what is drawn, in the order of the legend.
        column: the column of rounds.csv that they show.
        styles: a look for each strategy.
        title: of a figure that stands alone, with a caption and a legend beside the axes. Without a title, the figure
            is for a page.
    """
    if title:
        height = max(3.7, 0.8 + 0.3 * len(curves))
        fig = Figure(figsize=(7.4, height))
        ax = fig.add_axes((0.08, 0.5 / height, 0.62, 1 - 1.15 / height))
        width, marker = 1.6, 4.5
    else:
        fig, ax = _bare(300)
        width, marker = 2.0, 7.0
    scale, handles = column_scale(column), []
    for c in reversed(curves):
        x, y, sd = c.n_labeled, scale * c.mean, scale * c.sd
        style, front = line_style(styles[c.label], width, marker), 3 if c.label == BASELINE else 2
        ax.plot(x, y, **style, markevery=max(1, len(x) // 12), zorder=front, gid=hover(c.label))
        if np.isfinite(sd).any():
            faint = 0.13 if len(curves) < 6 else 0.08
            ax.fill_between(x, y - sd, y + sd, color=style["color"], alpha=faint, lw=0, zorder=1)
        handles.append(Line2D([], [], **style))
    ax.set_xlabel("Labeled images")
    ax.xaxis.set_major_locator(MaxNLocator(7 if title else 5, integer=True, steps=NICE_STEPS))
    ax.xaxis.set_major_formatter(FuncFormatter(_thousands))
    ax.yaxis.set_major_formatter(FuncFormatter(_thousands))
    ax.grid()
    if title:
        ax.set_ylabel(axis_title(column))
        write_title(ax, f"{title}\n", 6.8)
        ax.text(0, 1.02, caption(curves), transform=ax.transAxes, fontsize=7.5, color=SOFT.light, va="bottom")
        names = [_legend_text(c, curves) for c in curves]
        place: Any = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5), "borderaxespad": 0}
        ax.legend(handles[::-1], names, frameon=False, fontsize=8, handlelength=4, labelspacing=0.7, **place)
    return fig


@drawing()
def draw_gains(gains: Mapping[str, tuple[float, float, float]], unit: str, styles: Mapping[str, Look]) -> Figure:
    """Gains over RandomSampling as dots with their intervals around a line at zero, for a page.

    Args:
        gains: gain, lower and upper end of its interval by strategy, from top to bottom.
        unit: the title of the axis.
        styles: a look for each strategy.
    """
    step = 34
    fig, ax = _bare(step * len(gains) + 48)
    ax.axvline(0, color=SOFT.light, lw=1.4, zorder=1)
    ends = [0.0, *(v for gain in gains.values() for v in gain)]
    pad = 0.05 * (max(ends) - min(ends)) or 1.0
    ax.set_xlim(min(ends) - pad, max(ends) + pad)
    ax.set_ylim(len(gains), 0)
    per_pixel = (max(ends) - min(ends) + 2 * pad) / (WIDTH - 16)
    for i, (label, (gain, low, high)) in enumerate(gains.items()):
        style, y = line_style(styles[label], 2.0, 8.0), i + 24 / step
        ax.plot([low, high], [y, y], **{**style, "marker": "|", "mec": style["color"], "mew": 2.0, "ls": "-"})
        ax.plot([gain], [y], **{**style, "marker": "o"}, gid=hover(f"{label}: {gain:+.2f} [{low:+.2f}, {high:+.2f}]"))
        name = ax.text(low, y - 9 / step, shortened(label, 48), fontsize=PAGE_FONT, va="baseline")
        name.set_in_layout(False)
        longest = ax.get_xlim()[1] - per_pixel * _text_width(name.get_text(), PAGE_FONT)
        name.set_x(max(min(low, longest), ax.get_xlim()[0]))
    ax.set_xlabel(unit)
    ax.set_yticks([])
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=NICE_STEPS))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:+.4g}" if v else "0"))
    ax.grid(axis="x")
    return fig


@drawing()
def draw_confusion(classes: Sequence[str], counts: NDArray[np.int64], title: str) -> Figure:
    """The confusion matrix: shade is the share of the true class, the number in a cell is images."""
    n = len(classes)
    named, names = np.arange(0, n, -(-n // 120)), [shortened(c, 28) for c in classes]
    widest = max(map(len, names))
    side = float(np.clip(0.42 * n + 0.4, 1.8, 14))  # inches
    cell = 72 * side / n  # points
    font = float(np.clip(0.7 * cell, 4.5, 9))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    fig = Figure(figsize=(side + 1.5, side + 1))
    size = fig.get_size_inches()
    ax = fig.add_axes((0.3 / size[0], 0.3 / size[1], side / size[0], side / size[1]))
    shades = LinearSegmentedColormap.from_list("cells", [GROUND.light, CELL.light])
    image = ax.imshow(share, cmap=shades, vmin=0, vmax=1, aspect="auto")
    upright = 0.65 * font * widest > cell
    ax.set_xticks(named, [names[i] for i in named], rotation=90 if upright else 0, fontsize=font)
    ax.set_yticks(named, [names[i] for i in named], fontsize=font)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("Predicted class")
    ax.set_ylabel("True class")
    write_title(ax, title, side + 1)
    if n <= 30:
        _write_counts(ax, counts, min(font, 30 / max(len(str(counts.max())), 2) if n > 12 else font))
    bar = fig.add_axes(((side + 0.45) / size[0], 0.3 / size[1], 0.14 / size[0], min(side, 5) / size[1]))
    fig.colorbar(image, cax=bar, label="Share of the true class").outline.set_visible(False)
    return fig


def _write_counts(ax: Axes, counts: NDArray[np.int64], size: float) -> None:
    """Numbers in the cells of a small matrix, and white lines between the cells."""
    for k in range(1, len(counts)):
        ax.axhline(k - 0.5, color=GROUND.light, lw=0.8)
        ax.axvline(k - 0.5, color=GROUND.light, lw=0.8)
    for (i, j), count in np.ndenumerate(counts):
        if count:
            ax.text(j, i, f"{count}", ha="center", va="center", fontsize=size)


def save_figure(fig: Figure, stem: Path) -> list[Path]:
    """Write a figure as PNG and PDF, atomically and without a date; the same figure gives the same bytes."""
    with writing(stem):
        stem.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
        out, path = io.BytesIO(), stem.with_name(f"{stem.name}.{kind}")
        with drawing():
            fig.savefig(out, format=kind, metadata=metadata, bbox_inches="tight", pad_inches=0.05)
        write_atomic(path, out.getvalue())
        paths.append(path)
    return paths
