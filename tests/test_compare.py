"""The script: its flags, its files, its messages."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from fake_results import three_strategies, write_run

import compare
from report.comparison import BETTER
from report.views import VIEWS
from runs.metrics import METRICS

ROOT = Path(compare.__file__).parent


@pytest.fixture
def results(tmp_path):
    return three_strategies(tmp_path / "results")


def output(capsys, *args):
    code = compare.main([str(a) for a in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_report_is_written_and_its_views_agree(results, tmp_path, capsys):
    out = tmp_path / "new" / "report"
    code, text, err = output(capsys, results, "--out", out)
    assert (code, err) == (0, "")
    with open(out / "compare.csv", newline="") as f:
        lines = {row["strategy_name"]: row for row in csv.DictReader(f)}
    assert lines["EntropySampling"]["verdict"] == BETTER
    for view in (text, (out / "compare.md").read_text("utf-8"), (out / "compare.html").read_text("utf-8")):
        assert f"{100 * float(lines['EntropySampling']['gain']):+.2f}" in view
        assert "Of 2 strategies: 2 better than random." in view
    assert sorted(p.name for p in out.iterdir()) == sorted(f"compare.{ending}" for ending in VIEWS)
    assert text.splitlines()[-1] == "written: " + ", ".join(str(out / f"compare.{ending}") for ending in VIEWS)


def test_a_registered_view_is_written(results, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(VIEWS, "txt", lambda report: f"{len(report.sections)} table of \udcff")
    assert output(capsys, results, "--out", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "compare.txt").read_text("utf-8") == "1 table of ?"


def test_the_same_results_give_the_same_report(results, tmp_path, capsys):
    for name in ("a", "b"):
        output(capsys, results, "--out", tmp_path / name)
    for ending in VIEWS:
        file = f"compare.{ending}"
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_without_out_no_file_is_written(results, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, text, err = output(capsys, results)
    assert (code, err) == (0, "")
    assert text.endswith("\nno file is written without --out\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_only_unfinished_runs_give_a_line_and_no_table(tmp_path, capsys):
    write_run(tmp_path / "r", "RandomSampling", 1, [0.4], n_round=4)
    write_run(tmp_path / "r", "MarginSampling", 1, [], n_round=4)
    code, text, _ = output(capsys, tmp_path / "r", "--out", tmp_path / "out")
    assert code == 0
    assert "No run is finished" in text
    assert "0 of 5 rounds" in text


@pytest.mark.parametrize("metric", METRICS)
def test_any_metric_is_compared_on_request(results, capsys, metric):
    code, text, _ = output(capsys, results, "--metric", metric)
    assert code == 0
    assert f"Metric: {metric} on the test set" in text


def test_bad_input_gets_one_line(results, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    cases = [
        ((tmp_path / "none",), "no such folder"),
        ((tmp_path / "empty",), "no run below it"),
        ((results, "--metric", "speed"), f"--metric speed: must be one of {', '.join(METRICS)}"),
        ((results, "--out", tmp_path / "file"), "cannot write"),
    ]
    for args, message in cases:
        code, text, err = output(capsys, *args)
        assert (code, text, err.count("\n")) == (2, "", 1)
        assert err.startswith("error: ")
        assert message in err
    for flags in (["--metri", "f1"], ["--bogus"], []):
        with pytest.raises(SystemExit) as left:
            compare.main([str(results), *flags] if flags else [])
        assert left.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_damaged_files_are_named_on_stderr_and_on_the_page(results, tmp_path, capsys):
    broken = max(results.glob("CIFAR10/MarginSampling/seed*"))
    (broken / "rounds.csv").write_text("round\n")
    (seed1,) = results.glob("CIFAR10/EntropySampling/seed1-*")
    (seed1 / "queries.csv").write_text("round,rank,index,path,label\n0,0,zero,a,b\n0,1,1,a,b\n")
    (seed1 / "confusion_matrix.csv").write_text("x,a\n")
    code, text, err = output(capsys, results, "--out", tmp_path / "out")
    assert code == 0
    assert "EntropySampling" in text
    for path in (broken / "rounds.csv", seed1 / "queries.csv", seed1 / "confusion_matrix.csv"):
        assert sum(str(path) in line for line in err.splitlines()) == 1
        assert str(path) in (tmp_path / "out" / "compare.html").read_text("utf-8")
    assert str(seed1 / "queries.csv") not in (tmp_path / "out" / "compare.md").read_text("utf-8")


def test_nothing_heavy_is_imported_before_it_is_needed():
    late = ("torch", "torchvision", "scipy", "sklearn", "matplotlib", "jinja2", "PIL")
    code = f"import compare, sys; print([m for m in {late} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_whole_report_needs_no_torch(results, tmp_path):
    code = (
        f"import compare, sys; assert compare.main([{str(results)!r}, '--out', {str(tmp_path / 'out')!r}]) == 0; "
        "assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
