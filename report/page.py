"""The report as one page for the browser: a template, a style sheet and figures, all in one file without scripts."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from report.comparison import BETTER, IS_BASELINE, NOTHING, SAME, UNDECIDED, WORSE
from report.curves import axis_title
from report.figures import draw_curves, draw_gains
from report.figures_looks import Look, looks, page_colors
from report.figures_map import draw_page_map, step_color
from report.figures_svg import svg, swatch
from report.tree import Charts, Matrix, PoolMap, Report

NBSP = "\u00a0"
SHORT = {
    BETTER: "better",
    WORSE: "worse",
    SAME: "not distinguishable",
    UNDECIDED: "undecided",
    NOTHING: "no baseline",
    IS_BASELINE: "baseline",
}
LONGEST_NAME = 18  # of a class in a matrix


def as_html(report: Report) -> str:
    """The report as one page that needs no other file.

    The template escapes all text; only the figures, which are made here, are inserted as they are.
    """
    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"parts": _parts, "unbroken": _unbroken, "shortened": _short_name, "base64": _base64}
    environment.tests["matrix"] = lambda value: isinstance(value, Matrix)
    styles = looks(report.labels)
    environment.globals |= {
        "short": SHORT,
        "axis_title": axis_title,
        "swatch": lambda label: Markup(swatch(styles[label])),
        "curves": lambda charts, number: _curves(charts, number, styles),
        "gains": lambda charts, number: _gains(charts, number, styles),
        "map_of": _map,
        "step_color": lambda i: step_color(i).name,
    }
    return environment.get_template("page.html").render(report=report, colors=page_colors())


def _curves(charts: Charts, number: int, styles: dict[str, Look]) -> Markup:
    """Curves with their bands; the legend is the page's."""
    figure = draw_curves(charts.curves, charts.metric, styles)
    names = ", ".join(c.label for c in charts.curves)
    return Markup(svg(figure, f"curves-{number}", f"{axis_title(charts.metric)} over labeled images: {names}"))


def _gains(charts: Charts, number: int, styles: dict[str, Look]) -> Markup:
    """Gains with their intervals."""
    figure = draw_gains({g.label: (g.mean, g.low, g.high) for g in charts.gains}, charts.gain_axis, styles)
    return Markup(svg(figure, f"gains-{number}", charts.gain_axis))


def _map(found: PoolMap, label: str, name: str) -> Markup:
    """The map of one strategy; the legend is the page's."""
    return Markup(svg(draw_page_map(found, label), f"map-{name}", f"Where in the pool {label} labeled images"))


def _parts(text: str) -> list[str]:
    """The parts of a cell between which a line may break: the words of a name, a number and its interval."""
    if re.match(r"[-+]?[\d.,]+ [\[±]", text):
        number, rest = text.split(" ", 1)
        gap = " " if rest.startswith("[") else NBSP
        return [number + gap + rest.replace(" ", NBSP)]
    return re.split(r"(?<=[a-z0-9])(?=[A-Z])", text)


def _unbroken(text: str) -> str:
    """The header of a column with its unit on the line of its quantity."""
    return text.replace(" %", f"{NBSP}%").replace("± ", f"±{NBSP}")


def _short_name(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
