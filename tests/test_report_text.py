"""Every view of VIEWS and the text for the terminal show the tree, and names stay text in all of them."""

import csv
import html
import io
import json
import re
from pathlib import Path

import pytest
from fake_results import rising, three_strategies, write_run

from report.build import make_report
from report.comparison import BETTER
from report.csv_table import HEADER, as_csv
from report.markdown import as_markdown
from report.page import as_html
from report.text import as_text
from report.views import VIEWS
from runs.metrics import METRICS

ALL = {"text": as_text, **VIEWS}
views = pytest.mark.parametrize("view", ALL.values(), ids=ALL)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = three_strategies(tmp_path_factory.mktemp("three") / "results")
    return make_report(root, METRICS["accuracy"], Path("nowhere"))


def tree_of(root, metric="accuracy"):
    return make_report(root, METRICS[metric], Path("nowhere"))


@views
def test_a_view_shows_every_strategy_the_same_each_time(tree, view):
    text = view(tree)
    assert isinstance(text, str)
    assert text == view(tree)
    for verdict in tree.sections[0].verdicts:
        assert verdict.label in re.sub(r"<[^>]*>", "", text)


@pytest.mark.parametrize("view", [as_text, as_markdown, as_csv, as_html])
def test_our_own_views_show_the_baseline_too(tree, view):
    assert "RandomSampling" in re.sub(r"<[^>]*>", "", view(tree))


@views
@pytest.mark.parametrize("metric", METRICS)
def test_a_view_shows_every_metric(view, metric, tmp_path):
    text = view(tree_of(three_strategies(tmp_path / "r"), metric))
    assert metric in text
    assert not re.search(r"\bnan\b", re.sub(r"<[^>]*>", "", text), re.IGNORECASE)


@views
def test_a_view_of_unfinished_runs_and_of_many_tables_does_not_fail(view, tmp_path):
    write_run(tmp_path / "r", "RandomSampling", 1, [0.4], n_round=4)
    write_run(tmp_path / "r", "MarginSampling", 1, [], n_round=4)
    assert view(tree_of(tmp_path / "r"))
    for d in ("x", "y", "z"):
        for k, name in enumerate(("RandomSampling", "MarginSampling", "EntropySampling", "BADGE")):
            write_run(tmp_path / "r", name, 1, rising(2, gain=k / 100), dataset_name=d)
    tree = tree_of(tmp_path / "r")
    assert tree.over_datasets
    assert view(tree)


# The text for the terminal


def test_the_text_holds_verdicts_tables_and_how_to_read_them(tree):
    text = as_text(tree)
    gain = tree.sections[0].table.rows[0][5]
    assert re.search(rf"^EntropySampling +{BETTER} +5 .*{re.escape(gain)}", text, re.M)
    assert "\nOf 2 strategies: 2 better than random.\n" in text
    assert text.index("better") < text.index("row beats column")
    assert "\nMetric: accuracy on the test set.\nAUBC (area under the budget curve)" in text


def test_notes_come_before_the_table(tmp_path):
    folder = write_run(three_strategies(tmp_path / "r"), "MarginSampling", 6, [0.4, 0.99], n_round=4)
    lines = as_text(tree_of(tmp_path / "r")).splitlines()
    note = f"note: Left out, not finished: MarginSampling, seed 6: 2 of 5 rounds ({folder})."
    assert lines.index(note) < next(i for i, line in enumerate(lines) if line.startswith("strategy "))


# Markdown


def test_markdown_has_whole_tables_and_the_verdicts(tree):
    markdown = as_markdown(tree)
    assert f"**EntropySampling: {BETTER}.** {tree.sections[0].verdicts[0].numbers}" in markdown
    header, rule, *body = [line for line in markdown.splitlines() if line.startswith("|")][:5]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in (header, rule, *body)} == {12}
    assert "| \\<0.001 |" in markdown


# CSV


def test_csv_has_a_line_a_strategy_in_plain_numbers(tree):
    rows = list(csv.DictReader(io.StringIO(as_csv(tree))))
    lines = {row["strategy_name"]: row for row in rows}
    assert tuple(rows[0]) == HEADER
    row = tree.sections[0].rows[0]
    entropy = lines["EntropySampling"]
    assert float(entropy["gain"]) == pytest.approx(row.gain.mean, rel=1e-7)
    assert float(entropy["p"]) == pytest.approx(row.p, rel=1e-7)
    assert (entropy["verdict"], entropy["seeds"], entropy["metric"]) == (BETTER, "5", "accuracy")
    assert (lines["RandomSampling"]["gain"], lines["RandomSampling"]["wins"]) == ("", "")


def test_csv_holds_lost_labels_and_what_could_have_been_found(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, "RandomSampling", seed, [0.4, 0.6, 0.8])
        write_run(tmp_path, "MarginSampling", seed, [0.4, 0.5, 0.6 + seed / 100])
    report = tree_of(tmp_path)
    (margin,) = (r for r in csv.DictReader(io.StringIO(as_csv(report))) if r["pairs"] == "2")
    assert margin["labels_saved"] == "-46.25"  # random's mean is .615 at 153.75 labels, margin's at 200
    assert float(margin["labels_saved_low"]) < -46.25 < float(margin["labels_saved_high"])
    (row,) = (r for r in report.sections[0].rows if r.n_pairs)
    for name, value in (("gain_sd", row.sd), ("detectable_gain", row.detectable), ("seeds_needed", row.seeds_needed)):
        assert float(margin[name]) == pytest.approx(value, rel=1e-7), name
    assert HEADER[-5:] == ("labels_saved_low", "labels_saved_high", "gain_sd", "detectable_gain", "seeds_needed")


@pytest.mark.parametrize("view", [as_text, as_markdown, as_html])
def test_a_view_says_what_could_have_been_found(tree, view, tmp_path):
    assert re.sub(r"\W+", " ", tree.sections[0].power) in re.sub(
        r"\W+", " ", re.sub(r"<[^>]*>", "", html.unescape(view(tree)))
    )
    for seed in range(5):
        for name in ("RandomSampling", "BADGE"):
            write_run(tmp_path, name, seed, rising(4, noise=0.01, seed=seed + 9 * len(name)))
    text = re.sub(r"<[^>]*>", "", view(tree_of(tmp_path)))
    assert "could have found" in text or view is as_text
    assert "a true gain of" in text


# Names

EVIL = '<img src=x onerror="alert(1)">&amp;|`{{ 7 * 7 }}{% raw %}\n\x1b[31m*_$ [a](b) \udcff\\'


@pytest.fixture(scope="module")
def evil_tree(tmp_path_factory):
    """A report of names that would be markup, template code or control characters anywhere they are not text."""
    root = tmp_path_factory.mktemp("evil")
    for seed in (1, 2):
        for name in ("RandomSampling", "MarginSampling"):
            settings = {"classes": ["a", "b"], "net_name": EVIL, "n_init_labeled": 1, "n_query": 1}
            folder = write_run(root, name, seed, rising(1, noise=0.01, seed=seed), **settings)
            config = json.loads((folder / "config.json").read_text())
            config |= {"dataset_name": EVIL, "strategy_name": name if name == "RandomSampling" else EVIL}
            (folder / "config.json").write_text(json.dumps(config))
            environment = json.loads((folder / "environment.json").read_text())
            environment["device_name"] = f"{EVIL}{seed}"
            (folder / "environment.json").write_text(json.dumps(environment))
            cell = '"' + EVIL.replace('"', '""') + '"'
            queries = f"round,rank,index,path,label\n0,0,0,{cell},{cell}\n1,0,1,{cell},b\n"
            (folder / "queries.csv").write_bytes(queries.encode("utf-8", "surrogateescape"))
            matrix = f"true\\predicted,{cell},b\n{cell},5,1\nb,1,5\n"
            (folder / "confusion_matrix.csv").write_bytes(matrix.encode("utf-8", "surrogateescape"))
    return tree_of(root)


@views
def test_a_view_of_any_names_can_be_written(evil_tree, view):
    text = view(evil_tree).encode("utf-8", "replace").decode()
    assert "alert(1)" in text
    assert re.search(r"\{\{ 7 \\?\* 7 \}\}\{% raw %\}", text)


def test_names_move_no_cursor_and_make_no_line_in_the_terminal(evil_tree):
    text = as_text(evil_tree)
    assert "\x1b" not in text
    assert "\\n\\x1b[31m" in text
    width = {len(line) for line in text.splitlines() if line.startswith("strategy ") or line.startswith("--------")}
    assert len(width) == 2  # of the main table, and of who beats whom


def test_names_are_neither_markup_nor_links_in_markdown(evil_tree):
    markdown = as_markdown(evil_tree)
    assert not re.search(r"(?<!\\)<", markdown)
    assert "](" not in markdown
    assert "\\x1b[31m\\*\\_\\$" in markdown
    assert "\udcff\\\\" in markdown  # the backslash itself, twice
    header, *body = [line for line in markdown.splitlines() if line.startswith("|")][:4]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in (header, *body)} == {12}


def test_names_come_back_from_csv(evil_tree):
    (row,) = (r for r in csv.DictReader(io.StringIO(as_csv(evil_tree), newline="")) if r["pairs"] == "2")
    assert (row["strategy_name"], row["dataset_name"], row["net_name"]) == (EVIL, EVIL, EVIL)
