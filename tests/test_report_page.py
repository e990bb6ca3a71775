"""The page: one file without scripts, whose text is text, in order in a real browser."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import broken_images, defects, open_details, opened, wide_parts
from fake_results import rising, three_strategies, write_run
from jinja2 import UndefinedError
from PIL import Image
from test_report_text import EVIL, evil_tree  # noqa: F401  # fixture

from report.build import make_report
from report.comparison import BETTER, IS_BASELINE, NOTHING, SAME, UNDECIDED, WORSE
from report.page import SHORT, as_html
from report.tree import Matrix
from runs.metrics import METRICS

VOID = ("meta", "img", "wbr")


class Page(HTMLParser):
    """What a page holds; refuses tags that do not match."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.links, self.ids, self.text = [], [], [], [], ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action", "xlink:href")]
        self.ids += [v for k, v in attrs if k == "id"]
        assert not [k for k, _ in attrs if k.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page_of(tree):
    """The page of a tree, which needs nothing but itself."""
    html = as_html(tree)
    page = Page(html)
    inner = {f"#{name}" for name in page.ids}
    assert len(set(page.ids)) == len(page.ids)
    assert all(link.startswith("data:image/jpeg;base64,") or link in inner for link in page.links)
    assert "http" not in re.sub(r"data:image/jpeg;base64,[^\"]*", "", html)
    assert "@import" not in html
    assert "url(" not in html
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    return page


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Results with several sections, a ranking, classes of long names, and pictures; and their data folder."""
    root = tmp_path_factory.mktemp("page")
    classes = ["cat", "dog", "an owl of a very long name", *(f"class {i}" for i in range(9))]
    for d in ("CIFAR10", "Zoo", "Sea"):
        for k, name in enumerate(("RandomSampling", "MarginSampling", "BayesianActiveLearningDisagreement", "Worse")):
            for seed in (1, 2, 3):
                curve = rising(3, gain=(0, 0.03, 0.004, -0.05)[k], noise=0.004, seed=seed + 10 * k)
                write_run(root / "r", name, seed, curve, classes=classes, queries=True, dataset_name=d)
    write_run(root / "r", "MarginSampling", 4, rising(3)[:2], n_round=3)
    write_run(root / "r", "MarginSampling", 1, rising(4), lr=0.5)
    for path in (root / "r" / "CIFAR10").rglob("seed1-*/queries.csv"):
        for line in path.read_text().splitlines()[101:116]:
            file = root / "DATA" / "CIFAR10" / line.split(",")[3]
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (90, 160, 30)).save(file)
    return root / "r", root / "DATA"


@pytest.fixture(scope="module")
def tree(folders):
    root, data_dir = folders
    return make_report(root, METRICS["accuracy"], data_dir)


def test_a_page_has_all_parts_in_their_order(tree):
    page = page_of(tree)
    parts = (
        *("Which strategy saves labels?", "never mixed", "Of 3 strategies", "Over the datasets"),
        *("Accuracy (%), mean of 3 seeds", "Gain over RandomSampling", "AUBC", "Who beats whom"),
        *("What each strategy chose (seed 1)", "Overlap of what two strategies chose", "Classes of the picks"),
        *("Confusion matrices after the last round (seed 1)", "Other metrics and seconds", "Settings", "data_digest"),
        "How to read this",
    )
    at = 0
    for part in parts:
        assert part in page.text[at:], part
        at += page.text[at:].index(part)
    assert page.tags.count("section") == 2 * len(tree.sections) + 2  # verdicts and details, ranking, how to read
    assert page.tags.count("img") == sum(
        pick.jpeg is not None
        for s in tree.sections
        if s.details and s.details.choices
        for first in s.details.choices.first.values()
        for pick in first
    )
    assert page.tags.count("img") == 4 * 15


def test_every_cell_of_the_tree_is_on_the_page(tree):
    text = page_of(tree).text.replace("\u00a0", " ")
    for section in tree.sections:
        for table in (section.table, section.beats, section.other_metrics, section.settings):
            for row in table.rows if table else []:
                for cell in row:
                    assert SHORT.get(cell, cell) in text, cell
        for line in [*section.notes, section.title, *(v.numbers for v in section.verdicts)]:
            assert line in text
    for line in [*tree.differences, *tree.reading, *tree.over_datasets.notes, tree.beats_text]:
        assert line in text


def test_every_verdict_has_a_short_form(tree):
    for row in tree.sections[0].rows:
        assert f"<td>{SHORT[row.verdict]}</td>" in as_html(tree)
    assert set(SHORT) == {BETTER, WORSE, SAME, UNDECIDED, NOTHING, IS_BASELINE}
    assert len(set(SHORT.values())) == len(SHORT)


def test_a_matrix_shows_its_numbers_shaded(tree):
    matrix = next(iter(tree.sections[0].details.confusions.found.values()))
    assert isinstance(matrix, Matrix)
    html = as_html(tree)
    value, shade = int(matrix.values[0, 0]), round(100 * matrix.shade[0, 0])
    assert f'<td style="--shade:{shade}%" title="cat, cat">{value}</td>' in html
    assert 'title="an owl of a very long name"><span class="upright">an owl of a very …</span>' in html


def test_pictures_that_are_missing_are_explained(tree, folders, tmp_path):
    page = page_of(make_report(folders[0], METRICS["accuracy"], tmp_path))
    assert "img" not in page.tags
    assert f"The images are not in {tmp_path}" in page.text


def test_names_cannot_inject_anything_into_the_page(evil_tree):  # noqa: F811
    page = page_of(evil_tree)
    assert "img" not in page.tags
    assert page.text.replace("\u00a0", " ").count(EVIL) > 10
    assert page_of(evil_tree).text == page.text


def test_a_misspelt_name_in_the_template_is_an_error_not_a_gap(tree):
    with pytest.raises(UndefinedError):
        as_html(replace(tree, sections=[object()]))


@pytest.fixture(scope="module")
def file(tree, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "compare.html"
    path.write_bytes(as_html(tree).encode("utf-8", "replace"))
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_in_order_in_a_browser(chromium, file, width, dark):
    with opened(chromium, file.as_uri(), width, dark) as visit:
        assert defects(visit) == []


def test_a_page_of_any_names_is_in_order_in_a_browser(chromium, evil_tree, tmp_path):  # noqa: F811
    path = tmp_path / "compare.html"
    path.write_bytes(as_html(evil_tree).encode("utf-8", "replace"))
    with opened(chromium, path.as_uri(), 390) as visit:
        found = [line for check in (open_details, wide_parts, broken_images) for line in check(visit.page)]
        assert found + visit.problems == []


def test_three_strategies_make_a_small_page(tmp_path):
    root = three_strategies(tmp_path / "r")
    assert len(as_html(make_report(root, METRICS["accuracy"], Path("nowhere")))) < 150_000
