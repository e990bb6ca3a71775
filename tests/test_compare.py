import csv
import json
import math
import re
import shutil
import statistics
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from fake_results import CONFIG, rising, write_run
from scipy import stats

import compare
import runs
from compare import BETTER, NOTHING, SAME, UNDECIDED, WORSE
from utils import METRICS, Round

# Three seeds, rounds at 100, 200 and 300 labels. AUBC of equal steps is (a/2 + b + c/2) / 2:
# random .6, .615, .585; margin .63, .65, .6075; so the gains are .03, .035, .0225.
RANDOM = {1: (0.5, 0.6, 0.7), 2: (0.5, 0.62, 0.72), 3: (0.5, 0.58, 0.68)}
MARGIN = {1: (0.5, 0.64, 0.74), 2: (0.5, 0.67, 0.76), 3: (0.5, 0.61, 0.71)}
T2 = 0.95 * math.sqrt(2 / (1 - 0.95**2))  # closed form of Student's quantile with 2 degrees of freedom: 4.3027


def run_of(strategy, seed, curve, step=100, **config):
    """A finished run in memory."""
    full = {**CONFIG, "strategy_name": strategy, "seed": seed, "n_query": step, **config}
    rounds = [Round(r, 100 + r * step, dict.fromkeys(METRICS, float(v)), 5.0, 1.0, 2.0) for r, v in enumerate(curve)]
    return runs.Run(Path("nowhere"), full, {"n_round": len(curve) - 1}, rounds)


def compared(curves, **config):
    """The table of curves by strategy and seed."""
    found = [run_of(name, seed, c, **config) for name, of in curves.items() for seed, c in of.items()]
    (setting,), _ = runs.group(found)
    return compare.compare(setting, "accuracy")


def row_of(c, label):
    return next(r for r in c.rows if r.label == label)


def p_of(gains):
    """Two-sided p-value of three paired gains: with 2 degrees of freedom it is 1 - |t| / sqrt(2 + t^2)."""
    t = statistics.mean(gains) / (statistics.stdev(gains) / math.sqrt(3))
    return 1 - abs(t) / math.sqrt(2 + t * t)


def output(capsys, *args):
    code = compare.main([str(a) for a in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# The numbers


def test_a_table_has_the_numbers_worked_out_by_hand():
    c = compared({"RandomSampling": RANDOM, "MarginSampling": MARGIN})
    random, margin = row_of(c, "RandomSampling"), row_of(c, "MarginSampling")
    assert random.aubc.mean == pytest.approx(0.6)
    assert random.aubc.high - 0.6 == pytest.approx(4.302653 * 0.015 / math.sqrt(3), rel=1e-6)
    assert 0.6 - random.aubc.low == pytest.approx(random.aubc.high - 0.6)
    assert (random.final.mean, random.final_sd) == (pytest.approx(0.7), pytest.approx(0.02))
    gains = [0.03, 0.035, 0.0225]
    assert margin.gain.mean == pytest.approx(0.0875 / 3)
    assert margin.gain.high - margin.gain.mean == pytest.approx(T2 * statistics.stdev(gains) / math.sqrt(3))
    assert margin.p == pytest.approx(p_of(gains))
    assert margin.p == pytest.approx(0.015158, abs=1e-6)
    assert margin.p_holm == margin.p
    assert margin.final_gain.mean == pytest.approx((0.04 + 0.04 + 0.03) / 3)
    assert (margin.n_pairs, margin.query_seconds, margin.verdict) == (3, 2.0, BETTER)
    # Margin's mean curve passes random's .7 between .64 at 200 and .736667 at 300 labels
    assert margin.saved == pytest.approx(300 - (200 + 100 * 0.06 / (0.736666667 - 0.64)))


def test_wins_and_losses_count_the_rounds_after_the_first_by_their_own_paired_test():
    # gains by round: .04, .05, .03 (p .0198) and .04, .04, .03 (p .0082)
    assert p_of([0.04, 0.05, 0.03]) < 0.05
    assert p_of([0.04, 0.04, 0.03]) < 0.05
    row = row_of(compared({"RandomSampling": RANDOM, "MarginSampling": MARGIN}), "MarginSampling")
    assert (row.wins, row.ties, row.losses) == (2, 0, 0)
    spoilt = {**MARGIN, 3: (0.5, 0.57, 0.71)}  # round 1: .04, .05, -.01
    row = row_of(compared({"RandomSampling": RANDOM, "MarginSampling": spoilt}), "MarginSampling")
    assert (row.wins, row.ties, row.losses) == (1, 1, 0)
    mirrored = compared({"RandomSampling": MARGIN, "MarginSampling": RANDOM})
    row = row_of(mirrored, "MarginSampling")
    assert (row.wins, row.ties, row.losses) == (0, 0, 2)
    assert row.verdict == WORSE


def test_the_penalty_matrix_says_which_row_beats_which_column():
    curves = {"RandomSampling": RANDOM, "MarginSampling": MARGIN, "Half": {**MARGIN, 3: (0.5, 0.57, 0.71)}}
    c = compared(curves)
    at = {r.label: i for i, r in enumerate(c.rows)}
    assert c.beats[at["MarginSampling"], at["RandomSampling"]] == 1.0
    assert c.beats[at["RandomSampling"], at["MarginSampling"]] == 0.0
    assert c.beats[at["Half"], at["RandomSampling"]] == 0.5
    assert c.beats[at["MarginSampling"], at["Half"]] == 0.0
    assert np.isnan(np.diag(c.beats)).all()
    header, lines = compare.penalty_cells(c)
    assert header[0] == "row beats column"
    column = 1 + at["RandomSampling"]
    assert [line[column] for line in lines if "Margin" in line[0]] == ["1.00"]
    assert lines[-1][column] == "0.75"  # random lost all rounds to one and half of them to the other


def test_gains_are_paired_by_seed_whatever_the_order_of_the_runs():
    shifted = {seed: tuple(v + 0.1 * seed for v in c) for seed, c in RANDOM.items()}
    better = {seed: tuple(v + 0.01 + 0.0001 * seed for v in c) for seed, c in reversed(shifted.items())}
    row = row_of(compared({"RandomSampling": shifted, "MarginSampling": better}), "MarginSampling")
    assert row.gain.mean == pytest.approx(0.0102)
    assert row.p == pytest.approx(p_of([0.0101, 0.0102, 0.0103]))
    assert row.verdict == BETTER


def test_pairs_are_matched_by_seed_and_round_0_does_not_count():
    ours = {s: np.array([0.9, *MARGIN[s][1:]]) + s / 10 for s in (1, 2, 3)}
    theirs = {s: np.array(RANDOM[s]) + s / 10 for s in (3, 1, 2)}
    beats = compare.penalty_matrix([ours, theirs])
    assert (beats[0, 1], beats[1, 0]) == (1.0, 0.0)
    only_first = {s: np.array([0.9, *RANDOM[s][1:]]) + s / 10 for s in (2, 3, 1)}
    assert np.nansum(compare.penalty_matrix([only_first, theirs])) == 0
    row = row_of(compared({"RandomSampling": RANDOM, "A": {s: (0.9 + s / 99, *c[1:]) for s, c in RANDOM.items()}}), "A")
    assert (row.wins, row.ties, row.losses) == (0, 2, 0)


def test_seeds_that_random_lacks_count_for_the_mean_but_not_for_the_gain():
    c = compared({"RandomSampling": RANDOM, "MarginSampling": {**MARGIN, 9: (0.5, 0.1, 0.1)}})
    row = row_of(c, "MarginSampling")
    assert (len(row.runs), row.n_pairs) == (4, 3)
    assert row.gain.mean == pytest.approx(0.0875 / 3)
    assert row.aubc.mean < 0.6
    assert any("RandomSampling has no seed 9" in n for n in c.notes)


def test_intervals_agree_with_the_definition():
    x = np.array([1.0, 2.0, 4.0])
    found = runs.interval(x)
    half = T2 * statistics.stdev(x) / math.sqrt(3)
    assert found == pytest.approx((7 / 3, 7 / 3 - half, 7 / 3 + half))
    assert np.isnan(runs.interval(x[:1])[1:]).all()
    assert runs.interval(np.full(3, 0.7)) == (pytest.approx(0.7),) * 3


def test_paired_tests_do_not_fail_where_there_is_no_spread():
    a = np.array([[0.5, 0.6, 0.1], [0.5, 0.7, 0.3], [0.5, 0.8, 0.2]])
    b = a - np.array([0.0, 0.1, 0.0]) + np.array([[0, 0, 0.1], [0, 0, -0.2], [0, 0, 0.1]])
    p = runs.paired_p(a, b)
    assert p[:2].tolist() == [1.0, 0.0]
    assert p[2] == pytest.approx(p_of(a[:, 2] - b[:, 2]))
    assert runs.paired_p(a[:2], b[:2])[1] == 1.0  # two equal differences say nothing
    assert np.isnan(runs.paired_p(a[:1], b[:1])).all()


def test_holm_gives_the_textbook_values():
    p = np.array([0.01, 0.04, 0.03, 0.005, np.nan])
    assert runs.holm(p)[:4] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(runs.holm(p)[4])
    assert runs.holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]
    assert runs.holm(np.array([])).tolist() == []


def test_holm_rejects_what_the_step_down_procedure_rejects():
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.uniform(0, 0.1, rng.integers(1, 9))
        for level in (0.01, 0.05, 0.1):
            rejected, order = set(), np.argsort(p)
            for k, i in enumerate(order):
                if p[i] > level / (len(p) - k):
                    break
                rejected.add(i)
            assert set(np.flatnonzero(runs.holm(p) <= level)) == rejected


@pytest.mark.parametrize(
    ("values", "target", "labels"),
    [
        ((0.5, 0.6, 0.7), 0.65, 250.0),
        ((0.5, 0.6, 0.7), 0.5, 100.0),
        ((0.5, 0.6, 0.7), 0.7, 300.0),
        ((0.5, 0.8, 0.7), 0.65, 150.0),
        ((0.5, 0.6, 0.7), 0.71, math.inf),
    ],
)
def test_labels_to_reach_a_height_are_interpolated_where_the_curve_first_passes_it(values, target, labels):
    assert runs.labels_to_reach(np.array([100, 200, 300]), np.array(values), target) == pytest.approx(labels)


def test_labels_saved_have_the_right_sign_and_never_is_said():
    slow = {s: (0.5, 0.5, c[2]) for s, c in RANDOM.items()}
    low = {s: tuple(v - 0.1 for v in c) for s, c in RANDOM.items()}
    c = compared({"RandomSampling": RANDOM, "MarginSampling": MARGIN, "Slow": slow, "Low": low})
    assert row_of(c, "MarginSampling").saved > 0
    assert row_of(c, "Slow").saved == pytest.approx(0)
    assert compare.saved_labels(row_of(c, "Low")) == "never reached"
    peak = {s: (0.5, 0.75, 0.7) for s in RANDOM}  # random itself is there before its end
    c = compared({"RandomSampling": peak, "Late": {s: (0.5, 0.6, 0.7) for s in RANDOM}})
    assert row_of(c, "Late").saved == pytest.approx(180 - 300)


def test_holm_counts_the_strategies_of_the_table_and_not_random():
    c = compared({"RandomSampling": RANDOM, "A": MARGIN, "B": MARGIN, "C": MARGIN})
    assert [row_of(c, k).p_holm for k in "ABC"] == pytest.approx([3 * 0.015158] * 3, abs=1e-5)
    assert np.isnan(row_of(c, "RandomSampling").p_holm)
    d = compared({"RandomSampling": RANDOM, **dict.fromkeys("ABCD", MARGIN)})
    assert row_of(d, "A").p < 0.05
    assert row_of(d, "A").verdict == SAME  # 4 x .015 is above 5 %


@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_differences_use_the_published_constants(k, q):
    # Demsar, JMLR 2006, table 5(a)
    assert runs.nemenyi(k, 14) == pytest.approx(q * math.sqrt(k * (k + 1) / (6 * 14)), rel=3e-4)


def test_ranks_over_datasets_agree_with_friedmans_formula():
    heights = np.array([[0.9, 0.8, 0.7, 0.6], [0.9, 0.7, 0.8, 0.6], [0.8, 0.9, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6]])
    found = runs.rank_over_datasets(list("ABCD"), heights)
    assert found.ranks == pytest.approx([1.25, 2.0, 2.75, 4.0])
    chi2 = 12 * 4 / (4 * 5) * (sum(r * r for r in (1.25, 2.0, 2.75, 4.0)) - 4 * 25 / 4)
    assert found.p == pytest.approx(stats.chi2.sf(chi2, 3))
    assert runs.rank_over_datasets(list("ABC"), np.full((3, 3), 0.5)).p == 1.0


def test_datasets_are_ranked_once_each_and_the_winner_is_named():
    tables = []
    for d in range(6):
        for step in (100, 50) if d == 0 else (100,):
            curves = {n: {1: [0.5, 0.6 + k / 20]} for k, n in enumerate(("D", "C", "B", "RandomSampling", "A"))}
            tables.append(compared(curves, step=step, dataset_name=f"data{d}"))
    tables.append(compared({"A": {1: [0.5, 0.6]}}, dataset_name="lonely"))
    ranking = compare.rank_datasets(tables)
    assert (ranking.n_datasets, ranking.labels) == (6, ["A", "B", "C", "D", "RandomSampling"])
    assert ranking.ranks.tolist() == [1, 3, 4, 5, 2]
    _, lines = compare.ranking_cells(ranking)
    assert lines[0] == ["A", "1.00", "C, D"]  # 2.49 apart or more
    assert compare.rank_datasets(tables[:2]) is None


def test_on_noise_the_verdict_is_not_distinguishable_at_the_rate_it_should_be():
    rng = np.random.default_rng(5)
    names, p, alarms = ("RandomSampling", "A", "B", "C"), [], 0
    for _ in range(200):
        seed_effect = rng.normal(0, 0.03, (5, 1))
        curves = {n: dict(enumerate(0.6 + seed_effect + rng.normal(0, 0.01, (5, 3)))) for n in names}
        c = compared(curves)
        others = [r for r in c.rows if r.label != "RandomSampling"]
        p += [r.p for r in others]
        alarms += any(r.verdict != SAME for r in others)
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.07
    assert alarms / 200 < 0.08
    assert stats.kstest(p[::3], "uniform").pvalue > 0.01


def test_one_seed_and_one_round_are_shown_but_decide_nothing():
    c = compared({"RandomSampling": {1: RANDOM[1]}, "MarginSampling": {1: MARGIN[1]}})
    row = row_of(c, "MarginSampling")
    assert (row.verdict, row.gain.mean) == (UNDECIDED, pytest.approx(0.03))
    assert np.isnan(row.gain.low)
    assert any("one seed decides nothing" in n for n in c.notes)
    assert np.isnan(c.beats).all()
    c = compared({"RandomSampling": {s: (0.5,) for s in RANDOM}, "MarginSampling": {s: (0.5,) for s in RANDOM}})
    row = row_of(c, "MarginSampling")
    assert (row.aubc.mean, row.gain.mean, row.verdict, row.ties) == (0.5, 0.0, SAME, 0)


@pytest.mark.parametrize(
    ("n", "said"), [(2, "2 seeds are few"), (3, "must reach 4.3 of"), (4, "4 seeds are few"), (5, "")]
)
def test_few_seeds_are_said(n, said):
    notes = compared({k: {s: rising(2, noise=0.01, seed=s) for s in range(n)} for k in ("RandomSampling", "A")}).notes
    assert notes == [] if not said else any(said in note for note in notes)


def test_without_random_or_a_common_seed_nothing_is_claimed():
    c = compared({"A": RANDOM, "B": MARGIN})
    assert {r.verdict for r in c.rows} == {NOTHING}
    assert "without it no gain can be told" in c.notes[0]
    assert np.isfinite(c.beats[0, 1])  # what can be shown is shown
    c = compared({"RandomSampling": RANDOM, "A": {7: MARGIN[1]}})
    assert row_of(c, "A").verdict == UNDECIDED
    assert "no seed in common" in c.notes[0]
    c = compared({"RandomSampling": RANDOM, "A": {7: MARGIN[1]}, "B": MARGIN})
    assert c.notes[0].startswith("A: no seed in common")
    assert c.notes[1].startswith("B: 3 seeds are no more than a glance")
    c = compared({"RandomSampling": RANDOM})
    assert "alone" in c.notes[0]


def test_a_round_0_that_differs_is_said():
    c = compared({"RandomSampling": RANDOM, "MarginSampling": {**MARGIN, 1: (0.52, 0.64, 0.74)}})
    assert any("by up to 2.00 points" in n for n in c.notes)


def test_runs_of_other_versions_are_said():
    found = [run_of(n, s, MARGIN[s]) for n in ("RandomSampling", "A") for s in MARGIN]
    found[0].environment.update(packages={"torch": "2.11", "numpy": "2.4"}, git_commit="a")
    for run in found[1:]:
        run.environment.update(packages={"torch": "2.12", "numpy": "2.4"}, git_commit="a")
    (setting,), _ = runs.group(found)
    notes = compare.compare(setting, "accuracy").notes
    assert "The runs differ in torch, which may move the numbers: 5 x 2.12; 1 x 2.11." in notes
    assert not any("numpy" in n or "git_commit" in n for n in notes)


# The script


@pytest.fixture
def results(tmp_path):
    root = tmp_path / "results"
    for i, name in enumerate(("RandomSampling", "MarginSampling", "EntropySampling")):
        for seed in range(1, 6):
            write_run(root, name, seed, rising(4, gain=0.02 * i, noise=0.004, seed=10 * seed + i), queries=True)
    return root


class Page(HTMLParser):
    """What a page holds; refuses tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "img", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page_of(out):
    text = (out / "compare.html").read_text("utf-8")
    page = Page(text)
    assert all(link.startswith(("data:image/jpeg;base64,", "#table")) for link in page.links)
    assert "http" not in re.sub(r"data:image/jpeg;base64,[^\"]*", "", text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    return page


def test_the_report_is_written_and_its_parts_agree(results, tmp_path, capsys):
    out = tmp_path / "new" / "report"
    code, text, err = output(capsys, results, "--out", out)
    assert (code, err) == (0, "")
    with open(out / "compare.csv", newline="") as f:
        lines = {row["strategy_name"]: row for row in csv.DictReader(f)}
    entropy = lines["EntropySampling"]
    heights = [
        [
            runs.aubc(np.arange(100, 301, 50), np.array(rising(4, gain=g, noise=0.004, seed=10 * s + i)))
            for s in range(1, 6)
        ]
        for i, g in ((0, 0.0), (2, 0.04))
    ]
    assert float(entropy["gain"]) == pytest.approx(np.mean(heights[1]) - np.mean(heights[0]), abs=1e-7)
    assert float(entropy["p"]) == pytest.approx(stats.ttest_rel(*heights).pvalue, rel=1e-4)
    assert entropy["verdict"] == BETTER
    assert (lines["RandomSampling"]["gain"], lines["RandomSampling"]["wins"]) == ("", "")
    markdown, page = (out / "compare.md").read_text(), page_of(out)
    for said in (text, markdown, page.text):
        assert f"{100 * float(entropy['gain']):+.2f}" in said
        assert "Of 2 strategies: " in said
    assert f"**EntropySampling: {BETTER}.**" in markdown
    assert page.text.index("better") < page.text.index("Who beats whom")
    assert "What each strategy chose (seed 1)" in page.text
    assert "Confusion matrices after the last round" in page.text
    assert "data_digest" in page.text
    header, rule, *body = [line for line in markdown.splitlines() if line.startswith("|")][:5]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in (header, rule, *body)} == {11}


def test_the_same_results_give_the_same_report(results, tmp_path, capsys):
    for name in ("a", "b"):
        output(capsys, results, "--out", tmp_path / name)
    for file in ("compare.html", "compare.md", "compare.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_budgets_and_recipes_are_kept_apart_and_the_difference_is_said(results, tmp_path, capsys):
    write_run(results, "MarginSampling", 1, rising(4), lr=0.5)
    code, text, _ = output(capsys, results, "--out", tmp_path / "out")
    assert code == 0
    assert "2 tables: runs of different datasets, budgets or recipes are never mixed." in text
    assert "CIFAR10: lr is 0.1 in 1, 0.5 in 2" in text
    assert "No finished RandomSampling run has these settings" in text
    assert re.search(r"^MarginSampling +\S.* 5 ", text, re.M)
    page_of(tmp_path / "out")


def test_an_unfinished_run_is_named_and_kept_out_of_the_numbers(results, capsys):
    before = output(capsys, results)[1]
    folder = write_run(results, "MarginSampling", 6, [0.4, 0.99], n_round=4)
    after = output(capsys, results)[1]
    note = f"note: Left out, not finished: MarginSampling, seed 6: 2 of 5 rounds ({folder})."
    assert note in after
    assert after.replace(f"{note}\n", "") == before


def test_only_unfinished_runs_give_a_line_and_no_table(tmp_path, capsys):
    write_run(tmp_path / "r", "RandomSampling", 1, [0.4], n_round=4)
    write_run(tmp_path / "r", "MarginSampling", 1, [], n_round=4)
    code, text, _ = output(capsys, tmp_path / "r", "--out", tmp_path / "out")
    assert code == 0
    assert "No run is finished" in text
    assert "0 of 5 rounds" in text
    page_of(tmp_path / "out")


def test_picks_end_with_the_rounds_asked_for(tmp_path):
    folder = write_run(tmp_path, "MarginSampling", 1, rising(5), n_round=2, queries=True)
    picks = compare.read_picks(runs.read_run(folder))
    assert picks.rounds.max() == 2
    assert len(picks.paths) == 200


def test_bad_input_gets_one_line(results, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    cases = [
        ((tmp_path / "none",), "no such folder"),
        ((tmp_path / "empty",), "no run below it"),
        ((results, "--metric", "nll"), "--metric nll: must be one of accuracy, precision, recall, f1"),
        ((results, "--out", tmp_path / "file"), "cannot write"),
    ]
    for args, said in cases:
        code, text, err = output(capsys, *args)
        assert (code, text, err.count("\n")) == (2, "", 1)
        assert err.startswith("error: ")
        assert said in err
    for flags in (["--metri", "f1"], ["--bogus"], []):
        with pytest.raises(SystemExit) as left:
            compare.main([str(results), *flags] if flags else [])
        assert left.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_damaged_files_are_named_and_the_rest_is_shown(results, tmp_path, capsys):
    bad = sorted(results.rglob("seed*"))
    by_strategy = {name: [b for b in bad if name in str(b)] for name in ("MarginSampling", "EntropySampling")}
    broken = by_strategy["MarginSampling"][-1]
    (broken / "rounds.csv").write_text("round\n")
    seed1 = next(b for b in by_strategy["EntropySampling"] if b.name.startswith("seed1-"))
    (seed1 / "queries.csv").write_text("round,rank,index,path,label\n0,0,zero,a,b\n0,1,1,a,b\n")
    (seed1 / "confusion_matrix.csv").write_text("x,a\n")
    code, text, err = output(capsys, results, "--out", tmp_path / "out")
    assert code == 0
    assert "EntropySampling" in text
    for path in (broken / "rounds.csv", seed1 / "queries.csv", seed1 / "confusion_matrix.csv"):
        assert sum(str(path) in line for line in err.splitlines()) == 1
        assert str(path) in page_of(tmp_path / "out").text


def test_names_cannot_inject_anything_into_the_page(tmp_path, capsys):
    evil = '<img src=x onerror="alert(1)">&|`'
    for seed in (1, 2):
        for name in ("RandomSampling", "MarginSampling"):
            curve = rising(2, noise=0.01, seed=seed)
            folder = write_run(tmp_path / "r", name, seed, curve, classes=[evil, "b"], queries=False, net_name=evil)
            config = json.loads((folder / "config.json").read_text())
            config |= {"dataset_name": evil, "strategy_name": name if name == "RandomSampling" else evil}
            (folder / "config.json").write_text(json.dumps(config))
            (folder / "queries.csv").write_text(
                f'round,rank,index,path,label\n0,0,0,"a,{0}",b\n1,0,1,{evil.replace(chr(34), "")},b\n'
            )
    code, _, _ = output(capsys, tmp_path / "r", "--out", tmp_path / "out")
    assert code == 0
    page = page_of(tmp_path / "out")
    assert "img" not in page.tags
    assert evil in page.text
    assert "| <img" not in (tmp_path / "out" / "compare.md").read_text()


def test_first_picks_are_shown_where_the_images_are(results, tmp_path, capsys):
    data_dir = tmp_path / "DATA"
    for path in results.rglob("seed1-*/queries.csv"):
        for line in path.read_text().splitlines()[101:106]:
            file = data_dir / "CIFAR10" / line.split(",")[3]
            file.parent.mkdir(parents=True, exist_ok=True)
            matplotlib.image.imsave(file, np.full((8, 8, 3), 90, np.uint8))
    output(capsys, results, "--out", tmp_path / "out", "--data_dir", data_dir)
    assert page_of(tmp_path / "out").tags.count("img") == 15
    shutil.rmtree(data_dir)
    output(capsys, results, "--out", tmp_path / "out", "--data_dir", data_dir)
    page = page_of(tmp_path / "out")
    assert page.tags.count("img") == 0
    assert "The images are not below" in page.text


def test_embedded_digits_are_shown_without_files(tmp_path, capsys):
    for name in ("RandomSampling", "MarginSampling"):
        write_run(tmp_path / "r", name, 1, rising(2), dataset_name="Digits", n_train=1400, queries=True, img_size=8)
    output(capsys, tmp_path / "r", "--out", tmp_path / "out")
    assert page_of(tmp_path / "out").tags.count("img") == 2 * compare.MOST_PICTURES


def test_overlap_is_the_jaccard_index_and_chance_is_what_random_draws_share():
    assert compare.overlap({1, 2, 3}, {2, 3, 4}) == 0.5
    rng = np.random.default_rng(0)
    shares = [compare.overlap(*(set(rng.permutation(400)[:100].tolist()) for _ in range(2))) for _ in range(300)]
    assert np.mean(shares) == pytest.approx(compare.chance_overlap(100, 400), rel=0.02)


def test_many_classes_become_a_list_of_confusions(tmp_path):
    folder = write_run(tmp_path, "RandomSampling", 1, rising(2), classes=[f"c{i:03d}" for i in range(60)])
    said = compare.confusion(runs.read_run(folder))
    assert "<svg" not in said
    assert said.count("<tr>") == 16


def test_a_page_of_many_tables_stays_small(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare, "MOST_DETAILS", 2)
    for d in range(3):
        for name in ("RandomSampling", "MarginSampling"):
            write_run(tmp_path / "r", name, 1, rising(2), dataset_name=f"d{d}", queries=True)
    output(capsys, tmp_path / "r", "--out", tmp_path / "out")
    text = page_of(tmp_path / "out").text
    assert text.count("What each strategy chose") == 1
    assert text.count("Too many tables to show picks") == 2


def test_another_metric_is_compared_on_request(results, capsys):
    code, text, _ = output(capsys, results, "--metric", "f1")
    assert code == 0
    assert "Metric: f1 on the test set." in text
