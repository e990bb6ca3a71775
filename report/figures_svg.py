"""A figure as SVG inside a page: text in the page's font, colours that follow the page's light or dark style."""

from __future__ import annotations

import io
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from html import escape
from xml.etree import ElementTree

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from report.figures import TITLE, drawing, line_style
from report.figures_looks import COLORS, TEXT, Look

SVG, HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
LEFT_OUT = ("metadata", "clipPath", "style")  # nothing in our figures reaches outside its axes
VARIABLES = {c.light: f"var(--{c.name},{c.light})" for c in COLORS}
DEFAULTS = {"stroke-dashoffset": "0", "stroke-linejoin": "miter", "stroke-linecap": "butt"}


def svg(fig: Figure, name: str, description: str) -> str:
    """Draw a figure as an `<svg>` element that fills the width of its box; the same figure gives the same bytes.

    Args:
        fig: the figure; its background is left out. Parts named by `figures.hover` show a title under the mouse.
        name: prefix of the ids inside, unique within the page: letters, digits and "-".
        description: read out by screen readers in place of the picture.
    """
    width, height = (72 * v for v in fig.get_size_inches())
    attributes = f'class="figure" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(description)}"'
    return _drawn(fig, name, attributes, {"display": "block", "width": "100%", "height": "auto"})


@cache
def swatch(look: Look) -> str:
    """A piece of a strategy's line as an `<svg>` element of 34 x 12 CSS pixels, for legends and tables."""
    fig = Figure(figsize=(34 / 72, 12 / 72))
    for x, part in (([1 / 34, 33 / 34], {"marker": ""}), ([0.5], {"ls": ""})):
        fig.add_artist(Line2D(x, [0.5] * len(x), **{**line_style(look, width=2, marker=7), **part}))
    return _drawn(fig, "swatch", 'class="swatch" width="34" height="12" viewBox="0 0 34 12" aria-hidden="true"', {})


@dataclass(frozen=True)
class _Shared:
    """What the elements of one figure share.

    Attributes:
        shapes: path data of markers by matplotlib's id.
        ids: the page's id of each marker that is drawn more than once; others are drawn in place.
        style: the commonest values of what only text, or only strokes, inherit from the `<svg>` element.
    """

    shapes: dict[str, str]
    ids: dict[str, str]
    style: dict[str, str]


def _drawn(fig: Figure, name: str, attributes: str, place: dict[str, str]) -> str:
    """Matplotlib's SVG of a figure, written again without what a page does not need."""
    for patch in (fig.patch, *(ax.patch for ax in fig.axes)):
        patch.set_visible(False)
    out = io.BytesIO()
    with drawing({"svg.fonttype": "none"}):
        fig.savefig(out, format="svg")
    root = ElementTree.fromstring(out.getvalue())
    n_uses = Counter(e.attrib[HREF][1:] for e in root.iter(f"{SVG}use"))
    shapes = {e.attrib["id"]: _rounded(e.attrib["d"], 2) for e in root.iter(f"{SVG}path") if "id" in e.attrib}
    ids = {key: f"{name}-{i}" for i, key in enumerate(k for k in shapes if n_uses[k] > 1)}
    styles = [_style(e) for e in root.iter() if "d" in e.attrib or (e.text and e.text.strip())]
    found = {k: Counter(s[k] for s in styles if k in s) for k in ("font-size", "text-anchor", "stroke-width")}
    common = {k: values.most_common(1)[0][0] for k, values in found.items() if values}
    shared = _Shared(shapes, ids, {**common, "fill": VARIABLES[TEXT.light]})
    content = "".join(_element(e, shared) for e in root)
    return f"<svg {attributes}{_css({**place, **shared.style})}>{content}</svg>"


def _element(e: ElementTree.Element, shared: _Shared) -> str:
    tag = e.tag.removeprefix(SVG)
    if tag in LEFT_OUT:
        return ""
    if tag in ("g", "defs"):
        content = "".join(_element(child, shared) for child in e)
        title = e.attrib.get("id", "").partition(TITLE)[2]
        return f"<g><title>{escape(title)}</title>{content}</g>" if title and content else content
    if "id" in e.attrib:
        key = e.attrib["id"]
        return f'<defs><path id="{shared.ids[key]}" d="{shared.shapes[key]}"/></defs>' if key in shared.ids else ""
    style = _css({k: v for k, v in _style(e).items() if shared.style.get(k) != v})
    if tag == "path":
        return f'<path d="{_rounded(e.attrib["d"], 1)}"{style}/>'
    x, y = (_rounded(e.attrib.get(k, "0"), 1) for k in "xy")
    if tag == "text":
        turned = e.attrib.get("transform", "rotate(-0 ")
        place = "" if turned.startswith("rotate(-0 ") else f' transform="{_rounded(turned, 1)}"'
        return f'<text x="{x}" y="{y}"{place}{style}>{escape(e.text or "")}</text>'
    key = e.attrib[HREF][1:]  # a marker
    if key in shared.ids:
        return f'<use href="#{shared.ids[key]}" x="{x}" y="{y}"{style}/>'
    return f'<path transform="translate({x} {y})" d="{shared.shapes[key]}"{style}/>'


def _rounded(data: str, digits: int) -> str:
    """Numbers, path data or a transformation with as many decimals as can be seen."""
    short = re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", lambda m: f"{round(float(m[0]), digits) + 0.0:g}", data)
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", " ".join(short.split()))


def _style(e: ElementTree.Element) -> dict[str, str]:
    """The style of an element: the page's font, colours as variables, defaults left out."""
    values = dict(part.split(": ", 1) for part in e.attrib.get("style", "").split("; ") if part)
    values.pop("font-family", None)
    if "font" in values:  # matplotlib 3.10: 12px 'DejaVu Sans', ...
        values["font-size"] = values.pop("font").split()[0]
    return {k: VARIABLES.get(v, v) for k, v in values.items() if DEFAULTS.get(k) != v}


def _css(style: dict[str, str]) -> str:
    return f' style="{";".join(f"{k}:{v}" for k, v in style.items())}"' if style else ""
