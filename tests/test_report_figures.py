"""Figures for files and for pages."""

import io
import itertools
import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from report.curves import Curve
from report.figures import draw_confusion, draw_curves, draw_gains, save_figure
from report.figures_looks import CELL, COLORS, NEUTRAL, TEXT, looks, page_colors
from report.figures_svg import svg, swatch

STRATEGIES = (
    "RandomSampling",
    "LeastConfidence",
    "MarginSampling",
    "EntropySampling",
    "UncertaintySamplingWithDropoutEstimation",
    "BayesianActiveLearningDisagreement",
    "ClusterBasedSelection",
    "AdversarialMargin",
)
ODD = "A$b_{c}\\x$<&>\"' 杂草\x00\udcff\u00a0\n" + "x" * 200


def curve(label, n=11, n_seeds=3, complete=True, height=0.4):
    mean = height + 0.5 * (1 - np.exp(-np.arange(n) / 3))
    sd = np.full(n, 0.01 if n_seeds > 1 else np.nan)
    return Curve(label, 100 + 50 * np.arange(n), mean, sd, n_seeds, complete)


def figures(labels=STRATEGIES):
    """A figure of each kind that a page shows."""
    styles = looks(labels)
    curves = draw_curves([curve(v, height=0.4 - 0.01 * i) for i, v in enumerate(labels)], "accuracy", styles)
    gains = draw_gains({label: (float(i), i - 2.5, i + 2.5) for i, label in enumerate(labels)}, "points", styles)
    return {"curves": curves, "gains": gains}


def texts(element):
    return [e.text for e in element.iter("text")]


# Looks


def test_twelve_strategies_look_different_and_random_is_grey():
    styles = looks([*STRATEGIES, "A", "B", "C", "D", "E"])
    assert len({(look.color, look.dash) for look in styles.values()}) == len(styles) == 13
    assert len({look.marker for look in styles.values()}) == 13
    assert styles["RandomSampling"].color == NEUTRAL
    assert looks(["B"])["RandomSampling"] == styles["RandomSampling"]


def test_a_look_does_not_depend_on_the_order_of_the_strategies():
    assert looks(STRATEGIES) == looks(reversed(STRATEGIES))


def test_every_colour_has_a_variable_of_its_own_on_light_and_on_dark_pages():
    assert len({c.light for c in COLORS}) == len({c.name for c in COLORS}) == len(COLORS)
    light, dark = page_colors().split("@media(prefers-color-scheme:dark)")
    for color in COLORS:
        assert f"--{color.name}:{color.light};" in light
        assert f"--{color.name}:{color.dark};" in dark


def luminance(color):
    values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("page", ["light", "dark"])
def test_text_can_be_read_on_the_fullest_cell(page):
    dim, bright = sorted(luminance(getattr(color, page)) for color in (TEXT, CELL))
    assert (bright + 0.05) / (dim + 0.05) >= 4.5


# For files


def test_the_legend_stands_beside_the_axes_in_the_order_of_the_curves():
    order = ["MarginSampling", "LeastConfidence", "RandomSampling"]
    fig = draw_curves([curve(label) for label in order], "accuracy", looks(STRATEGIES), "title")
    fig.draw_without_rendering()
    (ax,) = fig.axes
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1
    legend = ax.get_legend()
    assert [t.get_text() for t in legend.get_texts()] == order
    assert [line.get_color() for line in legend.get_lines()] == [looks(STRATEGIES)[v].color.light for v in order]
    assert ax.get_ylabel() == "Accuracy (%)"


def test_shares_are_drawn_in_percent_with_a_band_of_one_standard_deviation():
    fig = draw_curves([curve("RandomSampling", n=2)], "accuracy", looks([]))
    (ax,) = fig.axes
    assert ax.lines[0].get_ydata()[0] == pytest.approx(40)
    band = ax.collections[0].get_paths()[0].vertices
    assert {round(y, 6) for x, y in band if x == 100} == {39.0, 41.0}
    fig = draw_curves([curve("RandomSampling", n=2)], "nll", looks([]))
    assert fig.axes[0].lines[0].get_ydata()[0] == pytest.approx(0.4)


def test_one_seed_has_no_band_and_unfinished_runs_are_marked():
    curves = [curve("RandomSampling", n_seeds=1), curve("BADGE", n_seeds=2, complete=False)]
    fig = draw_curves(curves, "accuracy", looks(["BADGE"]), "title")
    (ax,) = fig.axes
    assert len(ax.collections) == 1
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    assert names == ["RandomSampling (1 seed)", "BADGE (2 seeds)\n(unfinished)"]


@pytest.mark.parametrize("n", [2, 10, 100])
def test_names_of_a_confusion_matrix_do_not_overlap(n):
    names = [f"Small-flowered Cranesbill {i}" for i in range(n)]
    fig = draw_confusion(names, np.eye(n, dtype=np.int64), "title")
    fig.draw_without_rendering()
    for axis in (fig.axes[0].xaxis, fig.axes[0].yaxis):
        boxes = [t.get_window_extent() for t in axis.get_ticklabels()]
        assert len(boxes) == n
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
        assert min(t.get_fontsize() for t in axis.get_ticklabels()) >= 4.5


def test_a_confusion_matrix_has_the_true_class_in_rows_and_leaves_zeros_blank():
    fig = draw_confusion(["a", "b"], np.array([[5, 1], [0, 3]]), "title")
    ax = fig.axes[0]
    assert {t.get_position(): t.get_text() for t in ax.texts} == {(0, 0): "5", (1, 0): "1", (1, 1): "3"}
    assert np.asarray(ax.images[0].get_array()).tolist() == [[5 / 6, 1 / 6], [0, 1]]
    assert ax.get_ylabel() == "True class"
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]


def test_a_class_without_test_images_is_white():
    fig = draw_confusion(["a", "b"], np.array([[0, 0], [0, 3]]), "title")
    assert np.asarray(fig.axes[0].images[0].get_array())[0].tolist() == [0, 0]


def saved(make, tmp_path):
    """The bytes of both files of a figure, drawn and saved twice with the same result."""
    first, second = (
        [p.read_bytes() for p in save_figure(make(), tmp_path / name / "figure")] for name in ("one", "two")
    )
    assert first == second
    return first


@pytest.mark.parametrize("n", [1, 6])
def test_files_of_any_names_have_the_same_bytes_each_time_and_no_warning(tmp_path, n, caplog):
    labels = [f"{ODD}{i}" for i in range(n)]
    curves = [curve(label, n=3) for label in labels]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png, pdf = saved(lambda: draw_curves(curves, "f1", looks(labels), ODD), tmp_path)
        saved(lambda: draw_confusion(labels, np.eye(n, dtype=np.int64), ODD), tmp_path)
    assert caplog.records == []
    assert pdf.startswith(b"%PDF")
    assert b"CreationDate" not in pdf
    image = Image.open(io.BytesIO(png))
    assert image.size[0] < 3000


def test_files_look_the_same_whatever_matplotlibrc_says(tmp_path, monkeypatch):
    import matplotlib as mpl

    png = saved(lambda: draw_curves([curve("BADGE")], "f1", looks(["BADGE"]), "t"), tmp_path / "a")[0]
    with mpl.rc_context({"axes.facecolor": "black", "font.size": 20, "savefig.dpi": 30, "text.usetex": True}):
        assert saved(lambda: draw_curves([curve("BADGE")], "f1", looks(["BADGE"]), "t"), tmp_path / "b")[0] == png
        assert mpl.rcParams["font.size"] == 20


# For pages


@pytest.mark.parametrize("kind", ["curves", "gains"])
def test_a_figure_of_a_page_is_one_small_element_that_fills_its_box(kind):
    picture = svg(figures()[kind], f"table1-{kind}", "what it shows")
    root = ElementTree.fromstring(picture)
    assert root.tag == "svg"
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == "what it shows"
    assert re.fullmatch(r"0 0 440 \d+", root.attrib["viewBox"])
    assert "width:100%;height:auto" in root.attrib["style"]
    assert not {"width", "height", "xmlns"} & root.attrib.keys()
    assert {e.tag for e in root.iter()} == {"svg", "g", "title", "defs", "path", "use", "text"}
    assert len(picture) < 20_000
    assert len(svg(figures(STRATEGIES[:1])[kind], "one", "")) < 6_000


def test_text_of_a_page_stays_text_in_the_fonts_of_the_page():
    pictures = {kind: svg(fig, kind, "") for kind, fig in figures().items()}
    assert "Labeled images" in texts(ElementTree.fromstring(pictures["curves"]))
    gains = texts(ElementTree.fromstring(pictures["gains"]))
    assert {"points", "0", "+2.5", *STRATEGIES} <= set(gains)
    for picture in pictures.values():
        assert "font-family" not in picture
        assert "DejaVu" not in picture


def test_every_colour_of_a_page_follows_its_style_sheet():
    variables = {f"var(--{c.name},{c.light})" for c in COLORS}
    for kind, fig in figures().items():
        picture = svg(fig, kind, "")
        found = {v for _, v in re.findall(r"(?<=[\";])(fill|stroke):([^;\"]+)", picture)}
        assert found - variables == {"none"}
        assert "#" not in re.sub(r"var\([^)]*\)|href=\"#[\w-]+\"", "", picture)


def test_there_is_no_background_and_nothing_is_clipped():
    for kind, fig in figures().items():
        root = ElementTree.fromstring(svg(fig, kind, ""))
        assert not any("clip-path" in e.attrib for e in root.iter())
        assert not any("fill:var(--ground" in e.attrib.get("style", "") for e in root.iter("path"))


def test_figures_of_one_page_share_no_id_and_refer_to_their_own():
    seen = set()
    for name in ("table1-curves", "table2-curves"):
        root = ElementTree.fromstring(svg(figures()["curves"], name, ""))
        ids = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
        assert len(ids) == len(set(ids)) == len(STRATEGIES) - 1  # a marker each, but for RandomSampling
        assert {e.attrib["href"][1:] for e in root.iter("use")} == set(ids)
        assert not seen & set(ids)
        seen |= set(ids)


def test_the_same_figure_gives_the_same_bytes():
    for (kind, fig), again in zip(figures().items(), figures().values(), strict=True):
        assert svg(fig, kind, "") == svg(again, kind, "")


def test_a_line_and_a_gain_say_under_the_mouse_what_they_are():
    titles = {k: [e.text for e in ElementTree.fromstring(svg(f, k, "")).iter("title")] for k, f in figures().items()}
    assert sorted(titles["curves"]) == sorted(STRATEGIES)
    assert titles["gains"][1] == "LeastConfidence: +1.00 [-1.50, +3.50]"


def style_of(element, root):
    """The style of an element with what it inherits from the picture."""
    parts = [part for e in (root, element) for part in e.attrib.get("style", "").split(";") if part]
    return dict(part.split(":", 1) for part in parts)


def points_of(path):
    """The corners of a path where they are drawn."""
    x, y = map(float, re.findall(r"[-\d.]+", path.attrib.get("transform", "translate(0 0)")))
    return [(float(a) + x, float(b) + y) for a, b in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path.attrib["d"])]


def test_lines_and_bands_go_where_the_numbers_are():
    low, high = curve("A", n=2, height=0.2), curve("B", n=2, height=0.5)
    root = ElementTree.fromstring(svg(draw_curves([high, low], "accuracy", looks("AB")), "x", ""))
    ends = {group.find("title").text: points_of(group.find("path")) for group in root.iter("g")}
    assert ends["A"][0][0] == ends["B"][0][0] < ends["A"][1][0]
    assert ends["A"][0][1] > ends["A"][1][1]  # y of a picture grows downwards
    assert ends["A"][0][1] > ends["B"][0][1]
    per_share = (ends["A"][0][1] - ends["B"][0][1]) / 0.3
    assert ends["A"][1][1] - ends["B"][1][1] == pytest.approx(0.3 * per_share, abs=0.2)
    bands = [points_of(p) for p in root.iter("path") if "fill-opacity" in style_of(p, root)]
    assert len(bands) == 2
    for label, band in zip("AB", bands, strict=True):
        x, y = ends[label][0]
        sides = sorted(v for u, v in band if abs(u - x) < 0.1)
        assert (sides[0], sides[-1]) == pytest.approx((y - 0.01 * per_share, y + 0.01 * per_share), abs=0.2)


def test_names_of_gains_begin_at_their_interval_or_end_at_the_edge():
    labels = [*STRATEGIES, "y" * 300]
    root = ElementTree.fromstring(svg(figures(labels)["gains"], "x", ""))
    names = [e for e in root.iter("text") if len(e.text) > 10]
    assert [e.text for e in names] == [*labels[:-1], "y" * 47 + "…"]
    lines = [p for p in root.iter("path") if "stroke" in style_of(p, root) and p.attrib["d"].count("L") == 1]
    starts = [min(points_of(p)) for p in lines if "var(--hue" in style_of(p, root)["stroke"]]
    for name, (x, y) in zip(names[1:], starts, strict=True):
        assert style_of(name, root)["text-anchor"] == "start"
        assert 0 <= float(name.attrib["x"]) <= x + 0.1
        assert float(name.attrib["x"]) == pytest.approx(x, abs=0.1) or x + 6 * len(name.text) > 430
        assert 0 < y - float(name.attrib["y"]) < 12


def test_text_that_stands_upright_stays_so():
    fig = Figure(figsize=(2, 1))
    fig.text(0.5, 0.5, "upright", rotation=90, rotation_mode="anchor", ha="center")
    fig.text(0.25, 0.5, "level", ha="right")
    upright, level = ElementTree.fromstring(svg(fig, "x", "")).iter("text")
    assert upright.attrib["transform"] == "rotate(-90 72 36)"
    assert (level.attrib["x"], level.attrib["y"]) == ("36", "36")
    assert "transform" not in level.attrib


def test_odd_names_are_escaped():
    styles = looks([ODD])
    for picture in (
        svg(draw_curves([curve(ODD)], "accuracy", styles), "x", ODD.replace("\x00", "")),
        svg(draw_gains({ODD: (1.0, 0.5, 1.5)}, "a < b", styles), "x", "<"),
    ):
        root = ElementTree.fromstring(picture.encode("utf-8", "replace").decode())
        assert any("A$b_{c}\\x$<&>\"' 杂草" in (e.text or "") for e in root.iter())


def test_flat_and_single_points_are_drawn():
    styles = looks(["BADGE"])
    point = curve("BADGE", n=1, n_seeds=1)
    holes = Curve("BADGE", np.array([1, 2, 3, 4]), np.array([0.5, 0.5, np.nan, 0.5]), np.full(4, np.nan), 1, True)
    for curves in ([point], [holes]):
        assert "nan" not in svg(draw_curves(curves, "accuracy", styles), "x", "").lower()
    assert "nan" not in svg(draw_gains({"BADGE": (0.0, 0.0, 0.0)}, "points", styles), "x", "").lower()


def test_a_swatch_is_a_piece_of_the_line_without_ids():
    styles = looks(STRATEGIES)
    for label in STRATEGIES:
        root = ElementTree.fromstring(swatch(styles[label]))
        assert (root.attrib["width"], root.attrib["height"], root.attrib["aria-hidden"]) == ("34", "12", "true")
        assert not any("id" in e.attrib for e in root.iter())
        line, *marker = root.findall("path")
        assert f"var(--{styles[label].color.name}," in line.attrib["style"]
        assert len(marker) == (label != "RandomSampling")
        assert ("stroke-dasharray" in line.attrib["style"]) == bool(styles[label].dash)


def test_values_of_any_size_are_drawn_without_a_warning():
    """Ticks of hundreds of digits left no room for the axes, of which matplotlib warned."""
    for top in (1e300, 1e-300, 1e15 + 1, 123456789012.125):
        c = Curve("A", np.array([100, 200]), np.array([0.0, top]), np.full(2, np.nan), 1, True)
        text = svg(draw_curves([c], "nll", looks(["A"])), "a", "b")
        assert max(len(label) for label in re.findall(">([^<]*)</text>", text)) <= 20
