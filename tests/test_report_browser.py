"""The report as compare.py writes it, opened in a real browser: with pictures, in light and dark, wide and narrow."""

import pytest
from browser import defects, opened
from fake_results import rising, write_run

import compare
from images.digits import digit_images
from report.figures_looks import COLORS, looks

STRATEGIES = ("RandomSampling", "MarginSampling", "BayesianActiveLearningDisagreement", "ClusterBasedSelection")


def choose_digits(folder, first):
    """Write a queries.csv of images that scikit-learn has."""
    _, labels, paths = digit_images(8)
    picks = [(r, k, first * r + 50 * r + k) for r in range(4) for k in range(50)]
    lines = [f"{r},{k},{i},{paths[i]},{labels[i]}" for r, k, i in picks]
    (folder / "queries.csv").write_text("\n".join(["round,rank,index,path,label", *lines, ""]))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of a report on two data sets, one of them with pictures."""
    root = tmp_path_factory.mktemp("report")
    for k, name in enumerate(STRATEGIES):
        for seed in (1, 2, 3):
            curve = rising(3, gain=0.02 * k, noise=0.004, seed=seed + 10 * k)
            write_run(root / "results", name, seed, curve, classes=[f"class {i}" for i in range(12)], queries=True)
            digits = {"dataset_name": "Digits", "img_size": 8, "n_train": 1400, "n_init_labeled": 50}
            choose_digits(write_run(root / "results", name, seed, curve, **digits), 70 * k)
    out = root / "out"
    assert compare.main([str(root / "results"), "--out", str(out), "--data_dir", str(root)]) == 0
    return (out / "compare.html").as_uri()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_is_in_order(chromium, page, width, dark):
    with opened(chromium, page, width, dark) as visit:
        assert visit.page.locator("img").count() == 20 * len(STRATEGIES)
        assert visit.page.locator("svg.figure").count() == 4
        assert visit.page.locator("details").count() == 8
        assert defects(visit) == []


def color_of(visit, selector, name):
    return visit.page.locator(selector).first.evaluate("(e, name) => getComputedStyle(e)[name]", name)


def rgb(color):
    return "rgb({}, {}, {})".format(*(int(color[i : i + 2], 16) for i in (1, 3, 5)))


@pytest.mark.parametrize("style", ["light", "dark"])
def test_lines_have_the_colours_of_the_page_style(chromium, page, style):
    with opened(chromium, page, dark=style == "dark") as visit:
        for label, look in looks(STRATEGIES).items():
            line = f'svg.figure g:has(> title:text-is("{label}")) > path'
            assert color_of(visit, line, "stroke") == rgb(getattr(look.color, style))
        for color in COLORS:
            variable = f"getComputedStyle(document.documentElement).getPropertyValue('--{color.name}')"
            assert visit.page.evaluate(variable).strip() == getattr(color, style)


TEXTS = """svg => {
    const frame = svg.getBoundingClientRect()
    return [...svg.querySelectorAll('text')].map(e => {
        const box = e.getBoundingClientRect()
        const inside = box.left > frame.left - 1 && box.right < frame.right + 1 && box.bottom < frame.bottom + 1
        return {text: e.textContent, inside, size: box.height, left: box.left, right: box.right, top: box.top,
                bottom: box.bottom, font: getComputedStyle(e).fontFamily}
    })
}"""


@pytest.mark.parametrize("width", [1280, 390])
def test_texts_of_figures_are_legible_inside_and_apart(chromium, page, width):
    with opened(chromium, page, width) as visit:
        body = color_of(visit, "body", "fontFamily")
        for figure in visit.page.locator("svg.figure").all():
            texts = figure.evaluate(TEXTS)
            assert len(texts) > 8
            assert [t["text"] for t in texts if not t["inside"]] == []
            assert min(t["size"] for t in texts) > 9.5
            assert {t["font"] for t in texts} == {body}
            for i, a in enumerate(texts):
                for b in texts[:i]:
                    beside = a["right"] <= b["left"] + 1 or b["right"] <= a["left"] + 1
                    above = a["bottom"] <= b["top"] + 4 or b["bottom"] <= a["top"] + 4  # line boxes, not glyphs
                    assert beside or above, (a["text"], b["text"])
