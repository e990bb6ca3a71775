"""Colours of figures and pages, and how each strategy is drawn. Imports no matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from runs.settings import BASELINE


class Color(NamedTuple):
    """A colour on light pages and in files, the same on dark pages, and the CSS variable that stands for both."""

    name: str
    light: str
    dark: str


TEXT = Color("text", "#1b1f24", "#e4e7eb")
SOFT = Color("soft", "#5a626c", "#9aa4af")  # captions
LINE = Color("line", "#d9dde2", "#343b43")  # grids and borders
GROUND = Color("ground", "#ffffff", "#14171b")
CELL = Color("cell", "#4590d8", "#2566ab")  # the fullest cell of a matrix; TEXT on it has a contrast of 4.5 or more
NEUTRAL = Color("neutral", "#6b6b6b", "#a3a3a3")
# Okabe and Ito, "Color universal design", 2008, without black and yellow. Order: neighbours differ most.
HUES = (
    Color("hue-1", "#0072b2", "#4aa3e0"),
    Color("hue-2", "#d55e00", "#f07b2e"),
    Color("hue-3", "#009e73", "#2cc197"),
    Color("hue-4", "#cc79a7", "#de93bc"),
    Color("hue-5", "#e69f00", "#f2b632"),
    Color("hue-6", "#56b4e9", "#a5daf8"),
)
# Early to late: from near the ground to far from it. Source: viridis, which is even and safe for the colour-blind.
STEPS = (
    Color("step-1", "#6ccd5a", "#33638d"),
    Color("step-2", "#28ae80", "#26828e"),
    Color("step-3", "#238a8d", "#1f9f88"),
    Color("step-4", "#31668e", "#40bd72"),
    Color("step-5", "#453781", "#95d840"),
    Color("step-6", "#440154", "#fde725"),
)
COLORS = (TEXT, SOFT, LINE, GROUND, CELL, NEUTRAL, *HUES, *STEPS)

DASHES: tuple[tuple[float, ...], ...] = ((), (5, 2), (1.2, 1.6), (6, 1.6, 1.2, 1.6))
MARKERS = "osD^vPX<>phd*"


class Look(NamedTuple):
    """How one strategy is drawn, everywhere: colour, dashes in line widths (none is a solid line), marker (or none)."""

    color: Color
    dash: tuple[float, ...]
    marker: str


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """A look for each strategy; RandomSampling is always the same neutral grey, dashed and without a marker."""
    styles = {BASELINE: Look(NEUTRAL, (3.5, 1.8), "")}
    for i, label in enumerate(sorted(set(labels) - {BASELINE})):
        dash = DASHES[i // len(HUES) % len(DASHES)]
        styles[label] = Look(HUES[i % len(HUES)], dash, MARKERS[i % len(MARKERS)])
    return styles


def page_colors() -> str:
    """CSS that defines the colours as variables, such as --text, for light and for dark pages."""
    light = "".join(f"--{c.name}:{c.light};" for c in COLORS)
    dark = "".join(f"--{c.name}:{c.dark};" for c in COLORS)
    return f":root{{{light}}}\n@media(prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
