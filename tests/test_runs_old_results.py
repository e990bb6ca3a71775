"""A results folder that version 0.1.0 wrote stays usable, also after metrics and options were added."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from small_run import files

import compare
import demo
import plot
import training.recipe
from runs.metrics import METRICS, Metric
from runs.options import added
from runs.reading import find_runs
from runs.settings import group
from strategies import STRATEGIES
from training.recipe import Recipe

OLD = Path(__file__).parent / "data" / "results-0.1.0"
COMMAND = [
    "--dataset_name", "Digits", "--img_size", "8", "--net_name", "SmallCNN", "--n_init_labeled", "20",
    "--n_query", "10", "--n_epoch", "1", "--min_steps", "8", "--device", "cpu",
]  # fmt: skip
RUNS = {"RandomSampling": "seed1-1da09504", "MarginSampling": "seed1-39bf5361"}


@dataclasses.dataclass(frozen=True)
class NewRecipe(Recipe):
    novelty_weight: float = added(0.0)


@pytest.fixture
def results(tmp_path):
    return shutil.copytree(OLD, tmp_path / "results")


@pytest.fixture
def grown(monkeypatch):
    """A later version: one more metric, one more option of the recipe, one more hyperparameter of a strategy."""
    monkeypatch.setitem(METRICS, "novelty", Metric("novelty", lambda probs, labels: 0.25, "Novelty"))
    monkeypatch.setattr(training.recipe, "Recipe", NewRecipe)
    monkeypatch.setattr(demo, "Recipe", NewRecipe)
    options = [("novelty_noise", str, added("none"))]
    strategy = dataclasses.make_dataclass("MarginSampling", options, bases=(STRATEGIES["MarginSampling"],))
    monkeypatch.setitem(STRATEGIES, "MarginSampling", strategy)


@pytest.fixture(params=["this version", "a later version"])
def version(request):
    if request.param == "a later version":
        request.getfixturevalue("grown")
    return request.param


def run_demo(results, strategy, n_round=2, seed=1, more=()):
    flags = ["--strategy_name", strategy, "--n_round", n_round, "--seed", seed, "--results_dir", results, *more]
    return demo.main([*COMMAND, *map(str, flags)])


def folders(results):
    return {p.parent.relative_to(results / "Digits") for p in results.rglob("config.json")}


@pytest.mark.usefixtures("version")
@pytest.mark.parametrize("strategy", RUNS)
def test_old_run_is_found_by_the_same_command(results, capsys, strategy):
    folder = results / "Digits" / strategy / RUNS[strategy]
    before = files(folder)
    assert run_demo(results, strategy) == 0
    out, err = capsys.readouterr()
    assert "finished already" in out
    assert "3 rounds are done already" in out
    missing = {"predictions.csv", "confusion_matrix.csv", "model.pt"} - {*before}
    assert f": {', '.join(sorted(missing, reverse=True))} missing; training round 2 again to write them" in err
    after = files(folder)
    assert {*after} == {*before, *missing, "last_round.json"}
    assert all(after[name] == before[name] for name in ("config.json", "rounds.csv", "queries.csv"))
    assert run_demo(results, strategy) == 0
    assert capsys.readouterr().err == ""
    assert files(folder) == after
    assert folders(results) == {Path(s, name) for s, name in RUNS.items()}


@pytest.mark.parametrize("strategy", RUNS)
def test_old_run_is_continued_by_a_larger_n_round(results, version, strategy):
    folder = results / "Digits" / strategy / RUNS[strategy]
    before = {name: content.decode().splitlines() for name, content in files(folder).items()}
    assert run_demo(results, strategy, n_round=3) == 0
    assert folders(results) == {Path(s, name) for s, name in RUNS.items()}
    rounds, queries = ((folder / name).read_text().splitlines() for name in ("rounds.csv", "queries.csv"))
    added_later = [c for c in (*METRICS, "check") if c not in before["rounds.csv"][0].split(",")]
    assert rounds[0] == ",".join([before["rounds.csv"][0], *added_later])
    assert rounds[1:3] == [line + "," * len(added_later) for line in before["rounds.csv"][1:3]]
    assert rounds[3].startswith(before["rounds.csv"][3].removesuffix("0.000"))  # it has seconds of a query now
    assert rounds[4].startswith("3,50,")
    assert (rounds[4].split(",")[-2] == "0.25") == (version == "a later version")
    assert re.fullmatch("[0-9a-f]{8}", rounds[4].split(",")[-1])
    assert len(rounds) == 5
    assert queries[:41] == before["queries.csv"]
    assert [line.split(",")[:2] for line in queries[41:]] == [["3", str(rank)] for rank in range(10)]
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["n_round"] == 3
    assert [e["n_round"] for e in environment["earlier"]] == [2]


@pytest.mark.usefixtures("grown")
def test_option_at_its_neutral_value_is_the_old_run_and_another_value_is_not(results, capsys):
    assert run_demo(results, "RandomSampling", more=["--novelty_weight", "0"]) == 0
    assert run_demo(results, "MarginSampling", more=["--strategy_args", "novelty_noise=none"]) == 0
    assert capsys.readouterr().out.count("finished already") == 2
    assert len(folders(results)) == 2
    assert run_demo(results, "RandomSampling", n_round=0, more=["--novelty_weight", "0.5"]) == 0
    assert run_demo(results, "MarginSampling", n_round=0, more=["--strategy_args", "novelty_noise=much"]) == 0
    new = folders(results) - {Path(s, name) for s, name in RUNS.items()}
    configs = [json.loads((results / "Digits" / f / "config.json").read_text()) for f in sorted(new)]
    assert [c.get("novelty_weight") for c in configs] == [None, 0.5]
    assert [c["strategy_args"] for c in configs] == [{"novelty_noise": "much"}, {}]


@pytest.mark.usefixtures("version")
def test_old_runs_are_compared(results, tmp_path, capsys):
    assert compare.main([str(results), "--out", str(tmp_path / "report")]) == 0
    captured = capsys.readouterr()
    assert "RandomSampling" in captured.out
    assert "MarginSampling" in captured.out
    assert captured.err == ""
    (path,) = (tmp_path / "report").glob("*.csv")
    with path.open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert {r["strategy_name"] for r in rows} == set(RUNS)


@pytest.mark.usefixtures("version")
def test_old_runs_are_plotted(results, capsys):
    for column in ("accuracy", "nll", "query_seconds"):
        assert plot.main([str(results), "--column", column]) == 0
        assert (results / f"curves-{column}.png").exists()
    captured = capsys.readouterr()
    assert captured.out.count("MarginSampling") == 3
    assert captured.err == ""


@pytest.mark.usefixtures("grown")
def test_a_metric_that_old_runs_did_not_measure_is_named_so(results, capsys):
    for script, flag in ((compare, "--metric"), (plot, "--column")):
        assert script.main([str(results), flag, "novelty"]) in (0, 2)
        captured = capsys.readouterr()
        assert "not measured" in captured.out + captured.err


def test_new_runs_stand_in_one_table_with_old_ones(results, request):
    request.getfixturevalue("grown")
    assert run_demo(results, "RandomSampling", seed=2) == 0
    runs, problems = find_runs(results)
    settings, repeated = group(runs)
    assert problems + repeated == []
    (setting,) = settings
    assert setting.differs == {}
    assert {label: [r.seed for r in of] for label, of in setting.runs.items()} == {
        "RandomSampling": [1, 2], "MarginSampling": [1],
    }  # fmt: skip
    old, new = setting.runs["RandomSampling"]
    assert old.values("novelty").tolist() == pytest.approx([float("nan")] * 3, nan_ok=True)
    assert new.values("novelty").tolist() == [0.25] * 3


def test_old_data_names_no_machine():
    for path in OLD.rglob("*.json"):
        assert "/" not in path.read_text()
    assert sum(p.stat().st_size for p in OLD.rglob("*")) < 50_000
