"""Maps of whole runs, by plot.py and compare.py: features, pixels, and what is missing."""

import json
import shutil

import pytest
from browser import defects, opened
from experiments import Runner, table
from small import image_folder

import compare
import plot
import report.map
from pool_rows import pool_rows
from report.build import make_report
from runs.metrics import METRICS
from runs.reading import read_run

FEATURES = {"features": "efficientnet_lite0", "features_size": 32, "net_name": None, "img_size": None, "n_round": 2}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps") / "DATA"
    image_folder(folder / "Beasts", n_train=12, n_test=6)
    return folder


@pytest.fixture(scope="module")
def runs(data_dir, tmp_path_factory):
    """A run on features and one on pixels, and the folder of the results of two strategies on features."""
    folder = tmp_path_factory.mktemp("runs")
    run = Runner(data_dir, folder)
    assert run("pixels", n_round=2)[0] == 0
    for name in ("MarginSampling", "RandomSampling"):
        assert run("features", strategy_name=name, **FEATURES)[0] == 0
    return {name: next(folder.glob(f"{name}/*/MarginSampling/*")) for name in ("features", "pixels")}


def output(capsys, script, *args):
    code = script.main([str(a) for a in args])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused(capsys, script, *args):
    code, out, err = output(capsys, script, *args)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(("kind", "n_features"), [("features", 1280), ("pixels", 128)])
def test_the_rows_are_those_that_the_strategies_saw(runs, data_dir, kind, n_features):
    pool = pool_rows(read_run(runs[kind]), data_dir)
    assert len(pool.paths) == 36
    rows = pool.read([0, 35, 7])
    assert rows.shape[0] == 3
    assert kind == "pixels" or rows.shape[1] == n_features
    for row in table(runs[kind] / "queries.csv"):
        assert pool.paths[int(row["index"])] == row["path"]
        assert pool.classes[pool.labels[int(row["index"])]] == row["label"]


@pytest.mark.parametrize("kind", ["features", "pixels"])
def test_a_map_is_written_the_same_each_time(runs, data_dir, tmp_path, capsys, kind):
    for name in ("a", "b"):
        code, out, err = output(capsys, plot, "--map", runs[kind], "--data_dir", data_dir, "--out", tmp_path / name)
        assert (code, err) == (0, "")
        assert out.endswith(f"{name}.png, {tmp_path / name}.pdf\n")
    for ending in ("png", "pdf"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_a_map_stands_beside_the_files_of_its_run(runs, data_dir, tmp_path, capsys):
    folder = shutil.copytree(runs["features"], tmp_path / "run")
    assert output(capsys, plot, folder, "--map", folder, "--data_dir", data_dir)[0] == 0
    assert {p.name for p in folder.glob("*.p*g")} == {"curves-accuracy.png", "confusion_matrix.png", "map.png"}


def test_digits_need_no_folder(tmp_path, capsys):
    flags = {**FEATURES, "dataset_name": "Digits", "n_round": 0}
    _, folder = Runner(tmp_path, tmp_path)(**flags)
    assert output(capsys, plot, "--map", folder, "--data_dir", tmp_path)[::2] == (0, "")


def test_the_pool_is_that_of_a_long_tail_without_its_validation_images(data_dir, tmp_path):
    _, folder = Runner(data_dir, tmp_path)(**FEATURES, n_val=4, imbalance=0.5)
    run = read_run(folder)
    pool = pool_rows(run, data_dir)
    assert len(pool.paths) == run.config["n_train"] < 32
    for row in table(folder / "queries.csv"):
        assert pool.paths[int(row["index"])] == row["path"]


def changed(folder, to, **config):
    """A copy of a run with other settings."""
    shutil.copytree(folder, to)
    content = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**content, **config}))
    return to


def test_what_is_missing_is_one_line(runs, data_dir, tmp_path, capsys):
    flags = ("--data_dir", data_dir)
    assert "not the folder of one run" in refused(capsys, plot, "--map", tmp_path, *flags)
    assert f"the images of Beasts are not in {tmp_path} (--data_dir)" in refused(
        capsys, plot, "--map", runs["features"], "--data_dir", tmp_path
    )
    cifar = changed(runs["pixels"], tmp_path / "cifar", dataset_name="CIFAR10")  # never downloaded
    assert "the images of CIFAR10 are not in" in refused(capsys, plot, "--map", cifar, *flags)
    other = changed(runs["features"], tmp_path / "other", data_digest="0" * 16)
    assert f"are not those of {other}: data_digest differ" in refused(capsys, plot, "--map", other, *flags)
    (other / "queries.csv").unlink()
    assert "queries.csv" in refused(capsys, plot, "--map", other, *flags)
    pixels = shutil.copytree(runs["pixels"], tmp_path / "pixels")
    shutil.copy(runs["features"] / "model.pt", pixels / "model.pt")
    assert "model.pt is of another run" in refused(capsys, plot, "--map", pixels, *flags)
    (pixels / "model.pt").unlink()
    assert "model.pt" in refused(capsys, plot, "--map", pixels, *flags)
    weights = ("--weights", tmp_path / "none.pth")
    assert "none.pth: needs --map" in refused(capsys, plot, runs["pixels"], *weights)
    assert "none.pth" in refused(capsys, plot, "--map", runs["features"], *flags, *weights)


@pytest.mark.parametrize("key", ["img_size", "features_size", "features", "n_val", "imbalance", "data_digest"])
@pytest.mark.parametrize("value", [None, "x", [1], -3, -3.0, True])
def test_damaged_settings_are_one_line(runs, data_dir, tmp_path, capsys, key, value):
    folder = changed(runs["features"], tmp_path / "run", **{key: value})
    err = refused(capsys, plot, "--map", folder, "--data_dir", data_dir)
    assert key in err


# The report


def page_of(results, out, data_dir, *flags):
    assert compare.main([str(results), "--out", str(out), "--data_dir", str(data_dir), *flags]) == 0
    return (out / "compare.html").read_text()


def test_the_report_draws_a_map_of_each_strategy_on_request_alone(runs, data_dir, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        report.map, "coordinates", lambda rows, f=report.map.coordinates: drawn.append(len(rows)) or f(rows)
    )
    results = runs["features"].parents[2]
    assert "Where in the pool" not in page_of(results, tmp_path, data_dir)
    assert drawn == []
    page = page_of(results, tmp_path, data_dir, "--map")
    assert drawn == [36]  # once for all strategies
    assert "Where in the pool each strategy labeled (seed 1)" in page
    for name in ("MarginSampling", "RandomSampling"):
        assert f'aria-label="Where in the pool {name} labeled images"' in page
    assert "</span>round 2</li>" in page


def test_the_map_of_the_report_marks_the_picks_of_each_strategy(runs, data_dir):
    (section,) = make_report(
        runs["features"].parents[2], METRICS["accuracy"], data_dir, lambda run: pool_rows(run, data_dir)
    ).sections
    found = section.details.map
    for steps in found.step.values():
        assert [int((steps == i).sum()) for i in range(3)] == [6, 4, 4]
    first = [steps == 0 for steps in found.step.values()]
    assert (first[0] == first[1]).all()


def test_what_the_report_cannot_map_is_one_line_on_the_page(runs, data_dir, tmp_path):
    page = page_of(runs["pixels"].parents[2], tmp_path, data_dir, "--map")
    assert "No map: these runs work on pixels" in page
    assert "Where in the pool" not in page
    page = page_of(runs["features"].parents[2], tmp_path, tmp_path, "--map")
    assert "No map: the images of Beasts are not in" in page


def test_a_map_needs_a_page(runs, capsys):
    assert "--map draws into the page: add --out" in refused(capsys, compare, runs["features"].parents[2], "--map")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_with_maps_is_in_order_in_a_browser(chromium, runs, data_dir, tmp_path, width, dark):
    page_of(runs["features"].parents[2], tmp_path, data_dir, "--map")
    with opened(chromium, (tmp_path / "compare.html").as_uri(), width, dark) as visit:
        maps = visit.page.locator("figure svg[aria-label^='Where in the pool']")
        assert maps.count() == 2
        box = maps.first.bounding_box()
        assert 250 < box["width"] <= width
        assert visit.page.locator(".dot").count() == 4
        assert defects(visit) == []
