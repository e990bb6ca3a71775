"""The first images, chosen by features alone."""

import json

import numpy as np
import pytest
import small
import torch
from experiments import Runner, same_run, table
from small import CPU, image_folder

import demo
from data import Inputs
from features.rows import feature_stats
from strategies import STRATEGIES
from strategies.initial import INITIAL, RANDOM, Untrained, first_draw, resolve_initial
from utils import UserError, stream

NAMES = [name for name in INITIAL if name in STRATEGIES]
FEATURES = {"features": "efficientnet_lite0", "features_size": 32, "net_name": None, "img_size": None}


@pytest.fixture(scope="module")
def rows():
    """Four far groups of 15 rows."""
    centers = 20 * torch.randn(4, 24, generator=torch.Generator().manual_seed(1))
    return (small.rows("Linear", 60).float() + centers[torch.arange(60) % 4]).half()


@pytest.fixture
def run(tmp_path):
    image_folder(tmp_path / "DATA" / "Beasts", n_train=12, n_test=6)
    return Runner(tmp_path / "DATA", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_first_draw_is_n_different_rows_and_repeats(name, rows):
    stats = feature_stats(rows)
    draws = [first_draw(name, Inputs(rows), *stats, CPU, 10, stream(seed, "initial")) for seed in (0, 0, 1)]
    assert all(len(set(draw.tolist())) == 10 and draw.dtype == np.int64 for draw in draws)
    np.testing.assert_array_equal(draws[0], draws[1])
    everything = first_draw(name, Inputs(rows), *stats, CPU, 60, stream(0, "initial"))
    assert sorted(everything) == list(range(60))


@pytest.mark.parametrize("name", [name for name in NAMES if name != RANDOM])
def test_a_first_draw_by_features_finds_every_group(name, rows):
    for seed in range(5):
        draw = first_draw(name, Inputs(rows), *feature_stats(rows), CPU, 4, stream(seed, "initial"))
        assert sorted(draw % 4) == [0, 1, 2, 3]


def test_the_untrained_learner_embeds_as_a_linear_network_does(rows):
    net = small.build("Linear")()
    net.set_input_stats(*feature_stats(rows))
    h = Untrained(*feature_stats(rows), CPU).embeddings(Inputs(rows)[np.array([5, 3])])
    torch.testing.assert_close(h, net.normalize(rows[[5, 3]]))


def test_what_needs_labels_or_features_is_refused():
    assert resolve_initial("CoreSet", True) == "KCenterGreedy"
    assert resolve_initial("KMeansSampling", True) == "ClusterBasedSelection"
    assert resolve_initial(RANDOM, False) == RANDOM
    with pytest.raises(UserError, match=r"^--initial_strategy BADGE: must be one of RandomSampling, .*need no labels$"):
        resolve_initial("BADGE", True)
    with pytest.raises(UserError, match=r"^--initial_strategy KCenterGreedy: needs --features; before any label"):
        resolve_initial("KCenterGreedy", False)
    with pytest.raises(UserError, match=r"^--strategy_name Nonsense: must be one of"):
        resolve_initial("Nonsense", True)


def test_strategies_of_a_seed_share_the_first_draw_and_choose_it_once(run, monkeypatch):
    drawn = []
    draw = demo.first_draw
    monkeypatch.setattr(demo, "first_draw", lambda name, *rest: drawn.append(name) or draw(name, *rest))
    flags = {**FEATURES, "initial_strategy": "KCenterGreedy"}
    first = []
    for name in ("RandomSampling", "MarginSampling"):
        code, folder = run("results", **flags, strategy_name=name, n_round=0)
        assert code == 0
    for folder in (run.tmp_path / "results" / "Beasts").glob("*/*"):
        first.append([row for row in table(folder / "queries.csv") if row["round"] == "0"])
        assert json.loads((folder / "config.json").read_text())["initial_strategy"] == "KCenterGreedy"
    assert len(first) == 2
    assert first[0] == first[1]
    assert drawn == ["KCenterGreedy"]


@pytest.mark.parametrize("content", ["", "[", "[1, 2]", '[[1, 2, 3], "00000000"]', "\0\0"])
def test_a_damaged_file_of_first_labels_is_written_again(run, content, capsys):
    flags = {**FEATURES, "initial_strategy": "KCenterGreedy", "n_round": 1}
    _, folder = run(**flags)
    (path,) = (run.tmp_path / "results" / ".round0").glob("*.json")
    good = path.read_text()
    path.write_text(content)
    _, other = run("others", **flags)
    same_run(folder, other)
    (run.tmp_path / "results" / "Beasts").rename(run.tmp_path / "before")
    code, again = run(**flags)
    assert code == 0
    same_run(again, other)
    assert path.read_text() == good
    assert ("choosing them again" in capsys.readouterr().err) == bool(content)


def test_a_killed_run_goes_on_with_its_own_first_labels(run):
    flags = {**FEATURES, "initial_strategy": "KCenterGreedy"}
    _, folder = run(**flags)
    run("others", **flags, n_round=1)
    _, other = run("others", **flags)
    same_run(folder, other)
