"""A map of a pool as matplotlib figures: one with its classes for files, a small one for pages."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from report.figures import WIDTH, drawing, hover, shortened, write_title
from report.figures_looks import GROUND, LINE, SOFT, STEPS, TEXT, Color
from report.tree import PoolMap

MOST_CLASSES = 12  # that have a small map each
MOST_OTHERS = 1500  # images that show only where the pool is: on a page, and on small maps
WIDE, MAIN, GAP = 7.4, 5.8, 0.12  # of a file, its large map, and between small maps, in inches
COLUMNS = 5  # of small maps
OF_CLASS = Color("class", "#a3a9b1", "#a3a9b1")  # images of the class of a small map, in files alone


def step_color(i: int) -> Color:
    """The colour of step i of a map, the first labels being step 0."""
    return TEXT if i == 0 else STEPS[i - 1]


@drawing()
def draw_page_map(found: PoolMap, label: str) -> Figure:
    """The map of one strategy, for a page."""
    fig = Figure(figsize=(WIDTH / 72, WIDTH / 72 * _ratio(found.xy)))
    _draw(_axes(fig, (0, 0, 1, 1), found.xy), found, label, _thinned(found.step[label] >= 0), 9.0)
    return fig


@drawing()
def draw_map(found: PoolMap, label: str, title: str) -> Figure:
    """The map of one strategy, for a file: all points, and with few classes a small map of each.

    Args:
        found: the map.
        label: the strategy.
        title: of the figure.
    """
    n_classes = len(found.classes) if len(found.classes) <= MOST_CLASSES else 0
    ratio = _ratio(found.xy)
    side = (WIDE - (COLUMNS - 1) * GAP) / COLUMNS  # of a small map
    step_down = ratio * side + 0.3
    below = -(-n_classes // COLUMNS) * step_down
    height = below + ratio * MAIN + 0.9
    fig = Figure(figsize=(WIDE, height))

    def placed(x: float, y: float, width: float) -> Axes:
        return _axes(fig, (x / WIDE, y / height, width / WIDE, ratio * width / height), found.xy)

    ax = placed(0, below, MAIN)
    _draw(ax, found, label, np.ones(len(found.xy), np.bool_), 5.0)
    lines = textwrap.wrap(found.caption, 120)
    write_title(ax, title + "\n" * len(lines), WIDE)
    ax.text(0, 1.01, "\n".join(lines), transform=ax.transAxes, fontsize=7.5, color=SOFT.light, va="bottom")
    _legend(ax, found, found.step[label])
    for c, name in enumerate(found.classes[:n_classes]):
        row, column = divmod(c, COLUMNS)
        small = placed(column * (side + GAP), below - (row + 1) * step_down, side)
        of_class = found.of_class == c
        _dots(small, found.xy[_thinned(of_class) & ~of_class], LINE, 1.0)
        _draw(small, found, label, of_class, 2.6, OF_CLASS)
        n = int((of_class & (found.step[label] >= 0)).sum())
        small.set_title(f"{shortened(name, 18)} ({n:,})", fontsize=7.5, loc="left", pad=2)
    return fig


def _legend(ax: Axes, found: PoolMap, step: NDArray[np.int64]) -> None:
    """The steps and their numbers of images, to the right of a map."""
    names = ["not labeled", *found.steps]
    colors = [LINE, *(step_color(i) for i in range(len(found.steps)))]
    handles = [Line2D([], [], ls="", marker="o", ms=6, color=color.light) for color in colors]
    handles[1].set(mfc=GROUND.light, mew=1.6)
    texts = [f"{name} ({int((step == i).sum()):,})" for i, name in enumerate(names, -1)]
    place: Any = {"loc": "upper left", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0}
    ax.legend(handles, texts, frameon=False, fontsize=8, handlelength=1, **place)


def _ratio(xy: NDArray[np.float64]) -> float:
    """Height of a map in widths."""
    width, height = np.ptp(xy, axis=0)
    return float(np.clip(height / width, 0.5, 1.2)) if width else 1.0


def _thinned(wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The wanted points and a random part of the others. Shape (n,)."""
    shown = wanted.copy()
    shown[np.flatnonzero(~wanted)[-MOST_OTHERS:]] = True  # the last points stand in random order
    return shown


def _axes(fig: Figure, place: tuple[float, float, float, float], xy: NDArray[np.float64]) -> Axes:
    """Axes without ticks around all points; both have the same scale."""
    ax = fig.add_axes(place)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    middle, ratio = (xy.max(axis=0) + xy.min(axis=0)) / 2, _ratio(xy)
    half = 0.52 * max(*(np.ptp(xy, axis=0) / (1, ratio))) or 1.0
    ax.set_xlim(middle[0] - half, middle[0] + half)
    ax.set_ylim(middle[1] - ratio * half, middle[1] + ratio * half)
    return ax


def _draw(ax: Axes, found: PoolMap, label: str, shown: NDArray[np.bool_], size: float, other: Color = LINE) -> None:
    """Points that are not labeled, then the steps from the first to the last; the first labels are rings."""
    step = np.where(shown, found.step[label], -2)
    _dots(ax, found.xy[step == -1], other, 0.5 * size)
    for i, name in enumerate(found.steps):
        xy = found.xy[step == i]
        _dots(ax, xy, step_color(i), size, name)
        if i == 0:
            _dots(ax, xy, GROUND, 0.45 * size)


def _dots(ax: Axes, xy: NDArray[np.float64], color: Color, size: float, title: str = "") -> None:
    """Dots of one colour as the round caps of one path, which in a page takes a tenth of the bytes of markers.

    Args:
        ax: where.
        xy: their middles. Shape (n, 2).
        color: theirs.
        size: their diameter in points.
        title: what they show under the mouse, in a page.
    """
    if not len(xy):
        return
    tiny = 1e-5 * np.ptp(ax.get_xlim())  # a line of no length at all has no caps in PNG files
    path = Path(
        np.repeat(xy, 2, axis=0) + np.tile([[0, 0], [tiny, 0]], (len(xy), 1)), [Path.MOVETO, Path.LINETO] * len(xy)
    )
    path.should_simplify = False
    patch = PathPatch(path, fill=False, ec=color.light, lw=size, capstyle="round", snap=False, clip_on=False)
    if title:
        patch.set_gid(hover(title))
    ax.add_patch(patch)
