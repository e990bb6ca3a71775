"""The map of a pool: which images it shows, where, and in which colours."""

import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from test_report_figures import points_of, saved, style_of

from report.figures import drawing
from report.figures_looks import STEPS
from report.figures_map import MOST_OTHERS, draw_map, draw_page_map, step_color
from report.figures_svg import svg
from report.map import PoolRows, coordinates, map_of, sample, steps
from report.tree import PoolMap
from runs.reading import Picks
from utils import UserError


def rows(n, n_features=80, seed=0):
    """Two groups of rows, the even and the odd ones."""
    x = np.random.default_rng(seed).normal(size=(n, n_features))
    x[1::2] += 5
    return x.astype(np.float32)


def pool_of(n, **changes):
    x = rows(n)
    values = dict(
        space="features of x", classes=["even", "odd"], labels=np.arange(n) % 2, paths=[f"p{i}" for i in range(n)]
    )
    return PoolRows(**{**values, "read": lambda idxs: x[idxs], **changes})


def picks_of(*rounds):
    """Picks of these indices in rounds 0, 1, ..."""
    idxs = np.concatenate(rounds).astype(np.int64)
    numbers = np.repeat(np.arange(len(rounds)), [len(of) for of in rounds])
    return Picks(numbers, idxs, [f"p{i}" for i in idxs], ["c"] * len(idxs))


# The sample


def test_a_sample_holds_all_labeled_images_and_others_at_random():
    labeled = np.array([3, 50, 99])
    idxs = sample(100, labeled, np.random.default_rng(0), most=20)
    assert idxs[:3].tolist() == [3, 50, 99]
    assert len(set(idxs.tolist())) == 20
    assert idxs[3:].tolist() != sorted(idxs[3:].tolist())
    assert np.array_equal(idxs, sample(100, labeled, np.random.default_rng(0), most=20))
    assert not np.array_equal(idxs, sample(100, labeled, np.random.default_rng(1), most=20))
    assert sorted(sample(5, np.array([2]), np.random.default_rng(0)).tolist()) == [0, 1, 2, 3, 4]


def test_a_sample_of_too_many_labeled_images_is_random():
    idxs = sample(100, np.arange(50, 100), np.random.default_rng(0), most=20)
    assert len(set(idxs.tolist())) == 20
    assert idxs.min() >= 50
    assert idxs.max() > 75


# Coordinates


def test_the_same_rows_have_the_same_coordinates_and_like_rows_are_near():
    xy = coordinates(rows(120))
    assert xy.shape == (120, 2)
    assert np.array_equal(xy, coordinates(rows(120)))
    many = rows(100, 600)  # of so many, scikit-learn's PCA is a random one
    assert np.array_equal(coordinates(many), coordinates(many))
    even, odd = xy[::2], xy[1::2]
    apart = np.linalg.norm(even.mean(axis=0) - odd.mean(axis=0))
    assert apart > 2 * max(even.std(), odd.std())


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("n_features", [1, 2, 60])
def test_very_few_rows_have_coordinates(n, n_features):
    xy = coordinates(rows(n, n_features))
    assert xy.shape == (n, 2)
    assert np.isfinite(xy).all()


def test_equal_rows_have_coordinates():
    assert coordinates(np.ones((9, 4), np.float32)).tolist() == [[0, 0]] * 9
    x = rows(40)
    x[10:30] = x[0]
    assert np.isfinite(coordinates(x)).all()


# The map


def test_every_pick_is_marked_with_its_round_by_strategy():
    picks = {"A": picks_of([4, 8], [1, 2], [30]), "B": picks_of([4, 8], [5, 7])}
    found = map_of(pool_of(60), picks, seed=3)
    assert found.steps == ["first labels", "round 1", "round 2"]
    assert found.classes == ["even", "odd"]
    again = map_of(pool_of(60), picks, seed=3)
    assert np.array_equal(found.xy, again.xy)
    order = sample(60, np.array([1, 2, 4, 5, 7, 8, 30]), np.random.default_rng(0))[:7]  # labeled ones stand first
    for label, expected in {"A": {4: 0, 8: 0, 1: 1, 2: 1, 30: 2}, "B": {4: 0, 8: 0, 5: 1, 7: 1}}.items():
        assert found.step[label][:7].tolist() == [expected.get(i, -1) for i in order.tolist()]
        assert (found.step[label][7:] == -1).all()
    assert found.of_class[:7].tolist() == [i % 2 for i in order.tolist()]
    assert found.caption.startswith(
        "60 of 60 training images, among them all 7 that any strategy labeled, by features of x: t-SNE of "
    )


def test_rounds_that_share_a_colour_are_one_step():
    found = map_of(pool_of(30), {"A": picks_of(*([i] for i in range(9)))}, seed=1)
    assert found.steps[:4] == ["first labels", "rounds 1-2", "rounds 3-4", "round 5"]
    assert found.step["A"].tolist() == [0, 1, 1, 2, 2, 3, 4, 5, 6] + [-1] * 21


def test_a_sample_of_the_labeled_images_is_called_so(monkeypatch):
    monkeypatch.setattr("report.map.MOST_POINTS", 20)
    monkeypatch.setattr(sample, "__defaults__", (20,))
    found = map_of(pool_of(60), {"A": picks_of(np.arange(40))}, seed=1)
    assert found.caption.startswith("20 of 60 training images, among them 20 of 40 that the run labeled, by ")
    assert (found.step["A"] == 0).all()


@pytest.mark.parametrize("wrong", [dict(paths=[f"q{i}" for i in range(60)]), dict(paths=["p0", "p1"])])
def test_picks_of_other_images_are_refused(wrong):
    with pytest.raises(UserError, match=r"index 4 is not p4 among the training images"):
        map_of(pool_of(60, **wrong), {"A": picks_of([4])}, seed=1)


def test_many_rounds_share_the_colours():
    names, of_round = steps(20)
    assert names == ["first labels", *(f"rounds {r}" for r in ("1-4", "5-8", "9-11", "12-14", "15-17", "18-20"))]
    assert len(names) == len(STEPS) + 1
    assert of_round.tolist() == [0] + [1] * 4 + [2] * 4 + [3] * 3 + [4] * 3 + [5] * 3 + [6] * 3
    assert steps(0)[0] == ["first labels"]
    assert steps(0)[1].tolist() == [0]
    assert steps(2)[0] == ["first labels", "round 1", "round 2"]


# Figures


def example(n=300, n_classes=3):
    rng = np.random.default_rng(0)
    step = np.full(n, -1)
    step[:8] = [0, 0, 1, 1, 2, 2, 6, 6]
    names, _ = steps(6)
    classes = [f"class $ {i}" for i in range(n_classes)]
    return PoolMap(1, "x " * 99, rng.uniform(-9, 9, (n, 2)), classes, np.arange(n) % n_classes, names, {"A": step})


def inside(root, title):
    """The middles of the dots of the paths of a group that shows a title, in the order of drawing."""
    groups = [g for g in root.iter("g") if g.findtext("title") == title]
    return [(points_of(p)[::2], style_of(p, root)["stroke"]) for g in groups for p in g.findall("path")]


def test_the_dots_of_a_page_lie_where_the_points_are_in_the_colour_of_their_step():
    found = example()
    picture = svg(draw_page_map(found, "A"), "map", "x")
    root = ElementTree.fromstring(picture)
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    low, high = found.xy.min(axis=0), found.xy.max(axis=0)
    places = {}
    for i, name in enumerate(found.steps):
        for points, stroke in inside(root, name):
            assert stroke == f"var(--{step_color(i).name},{step_color(i).light})"
            places[i] = np.array(points)
    assert sorted(places) == [0, 1, 2, 6]
    drawn = np.concatenate([places[i] for i in sorted(places)])
    scale = np.polyfit(found.xy[:8, 0], drawn[:, 0], 1)
    np.testing.assert_allclose(drawn[:, 0], np.polyval(scale, found.xy[:8, 0]), atol=0.15)
    np.testing.assert_allclose(np.diff(drawn[:, 1]), -scale[0] * np.diff(found.xy[:8, 1]), atol=0.3)
    assert drawn.min() > 0
    assert (drawn < [width, height]).all()
    assert np.ptp(found.xy[:, 0]) * scale[0] > 0.9 * width or np.ptp(found.xy[:, 1]) * scale[0] > 0.9 * height
    assert (high > low).all()


def test_a_page_shows_a_part_of_the_images_that_are_not_labeled():
    root = ElementTree.fromstring(svg(draw_page_map(example(9000), "A"), "map", "x"))
    dots = [len(points_of(p)) // 2 for p in root.iter("path")]
    assert max(dots) == MOST_OTHERS
    assert sum(dots) == MOST_OTHERS + 8 + 2  # the first labels are rings of two dots each
    assert len(svg(draw_page_map(example(9000), "A"), "map", "x")) < 60_000


def test_every_dot_of_a_file_is_drawn():
    """Matplotlib rounded the ends of short lines to the same pixel, and left them out of PNG files."""
    found = example(60)
    fig = draw_map(found, "A", "title")
    out = io.BytesIO()
    with drawing():
        fig.savefig(out, format="png", dpi=100)
    pixels = np.asarray(Image.open(out).convert("RGB")).astype(int)
    for step, xy in zip(found.step["A"][2:], found.xy[2:], strict=False):
        x, y = fig.axes[0].transData.transform(xy) * 100 / fig.dpi
        color = step_color(step).light if step >= 0 else "#d9dde2"
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        near = pixels[int(len(pixels) - y) - 2 : int(len(pixels) - y) + 3, int(x) - 2 : int(x) + 3]
        assert (np.abs(near - wanted).max(axis=-1) < 60).any(), (step, xy)


@pytest.mark.parametrize(("n_classes", "n_maps"), [(1, 1), (3, 3), (12, 12), (13, 0)])
def test_few_classes_have_a_small_map_each(tmp_path, n_classes, n_maps):
    found = example(n_classes=n_classes)
    fig = draw_map(found, "A", "title $x")
    assert len(fig.axes) == 1 + n_maps
    names = [ax.get_title(loc="left") for ax in fig.axes[1:]]
    assert names == [f"class $ {c} ({np.sum(np.arange(8) % n_classes == c)})" for c in range(n_maps)]
    texts = [t.get_text() for t in fig.axes[0].get_legend().get_texts()]
    assert texts[:4] == ["not labeled (292)", "first labels (2)", "round 1 (2)", "round 2 (2)"]
    png, pdf = saved(lambda: draw_map(found, "A", "title $x"), tmp_path)
    assert pdf.startswith(b"%PDF")
    assert Image.open(io.BytesIO(png)).width < 1700


def test_points_in_one_place_are_drawn(tmp_path):
    found = example(9)
    for xy in (np.zeros((9, 2)), np.stack([np.arange(9.0), np.zeros(9)], axis=1), np.eye(9, 2) * 1e-30):
        same = PoolMap(1, "x", xy, found.classes, found.of_class, found.steps, found.step)
        saved(lambda same=same: draw_map(same, "A", "t"), tmp_path)
        assert "nan" not in svg(draw_page_map(same, "A"), "x", "").lower()


def luminance(color):
    values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return float(
        np.dot([0.2126, 0.7152, 0.0722], [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values])
    )


def test_later_rounds_stand_out_more_on_light_and_on_dark_pages_whatever_the_eye_sees_of_hues():
    light, dark = ([luminance(getattr(c, page)) for c in STEPS] for page in ("light", "dark"))
    assert all(np.diff(light) < 0)
    assert all(np.diff(dark) > 0)
    assert 1.05 / (light[0] + 0.05) > 1.9
    assert (dark[0] + 0.05) / (luminance("#14171b") + 0.05) > 2.5
