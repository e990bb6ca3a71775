"""Whole runs on features of a frozen backbone, with validation images, long tails and candidates; networks of timm."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from experiments import Runner, count_trainings, same_run, table
from small import image_folder

import demo
from strategies import STRATEGIES, described
from training.model_file import read_model

CPU = torch.device("cpu")
FEATURES = {"features": "efficientnet_lite0", "features_size": 32, "net_name": None, "img_size": None}
QUICK = [name for name, s in STRATEGIES.items() if "backward" not in described(s, "Cost")]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "DATA"
    image_folder(folder / "Beasts", n_train=12, n_test=6)
    return folder


@pytest.fixture
def run(data_dir, tmp_path):
    return Runner(data_dir, tmp_path)


def test_an_experiment_runs_on_features_and_resumes_to_the_same_bytes(run, capsys):
    code, folder = run(**FEATURES)
    assert code == 0
    assert (
        "36 training and 18 test images of 32 pixels, features of efficientnet_lite0, 3 classes"
        in capsys.readouterr().out
    )
    config = json.loads((folder / "config.json").read_text())
    assert config["net_name"] == "Linear"
    assert (config["features"], config["features_size"], config["img_size"]) == ("efficientnet_lite0", 32, 32)
    assert len(config["features_weights"]) == 16
    assert [row["n_labeled"] for row in table(folder / "rounds.csv")] == ["6", "10", "14", "18"]
    code, other = run("others", **FEATURES, n_round=1)
    assert code == 0
    code, other = run("others", **FEATURES)
    assert code == 0
    same_run(folder, other)


def test_a_head_learns_what_features_tell(run):
    code, folder = run(**FEATURES, n_init_labeled=30, n_round=0, min_steps=None, n_epoch=None)
    assert code == 0
    assert float(table(folder / "rounds.csv")[0]["accuracy"]) > 0.9


def test_the_model_knows_its_backbone(run):
    code, folder = run(**{**FEATURES, "net_name": "MLP"}, n_round=0)
    assert code == 0
    learner, content = read_model(folder / "model.pt", CPU)
    assert (content["net_name"], content["features"], content["shape"]) == ("MLP", "efficientnet_lite0", [1280])
    assert learner.probs(torch.zeros(2, 1280)).shape == (2, 3)


@pytest.mark.parametrize("name", QUICK)
def test_every_quick_strategy_queries_on_features(run, name):
    code, folder = run(**FEATURES, strategy_name=name, n_round=1)
    assert code == 0
    picks = [row["index"] for row in table(folder / "queries.csv")]
    assert len(set(picks)) == 10


def test_settings_that_version_0_1_0_did_not_have_are_recorded_where_they_change_something(run):
    config = json.loads((run(n_round=0)[1] / "config.json").read_text())
    assert not set(config) & {*demo.ADDED, "keep", "calibrate", "class_weight", "features", "net_weights"}
    flags = dict(n_val=5, imbalance=0.5, candidates=8, candidates_by="uncertain")
    config = json.loads((run("others", **flags, n_round=0)[1] / "config.json").read_text())
    assert {name: config[name] for name in flags} == flags


def test_validation_images_are_measured_and_never_labeled(run):
    code, folder = run(n_val=9, keep="best", calibrate=True, class_weight="balanced")
    assert code == 0
    rows = table(folder / "rounds.csv")
    assert [*rows[0]][-1] == "check"
    accuracies = [float(row["val_accuracy"]) for row in rows]
    assert all(9 * a == pytest.approx(round(9 * a), abs=1e-4) for a in accuracies)
    config = json.loads((folder / "config.json").read_text())
    assert (config["n_train"], config["n_test"], config["keep"]) == (27, 18, "best")
    paths = {row["path"] for row in table(folder / "queries.csv")}
    code, other = run("others", n_val=9, n_round=1, n_init_labeled=27, n_query=1)
    assert code == 2  # nothing would be left to query
    code, other = run("others", n_val=9, n_round=0, n_init_labeled=27)
    assert code == 0
    everything = {row["path"] for row in table(other / "queries.csv")}
    assert len(everything) == 27
    assert paths < everything


def test_a_validation_folder_is_measured_without_a_flag(tmp_path):
    root = image_folder(tmp_path / "DATA" / "Beasts")
    for label in sorted(p.name for p in (root / "train").iterdir()):
        folder = root / "val" / label
        folder.mkdir(parents=True)
        for path in sorted((root / "train" / label).iterdir())[:2]:
            path.rename(folder / path.name)
    code, folder = Runner(tmp_path / "DATA", tmp_path)(n_round=0, keep="best")
    assert code == 0
    assert 6 * float(table(folder / "rounds.csv")[0]["val_accuracy"]) == pytest.approx(
        round(6 * float(table(folder / "rounds.csv")[0]["val_accuracy"])), abs=1e-4
    )


def test_a_long_tail_is_the_same_for_all_strategies_of_a_seed(run):
    folders = [run(name, strategy_name=name, imbalance=0.2, n_init_labeled=18, n_round=0)[1] for name in QUICK[:2]]
    queries = [table(folder / "queries.csv") for folder in folders]
    assert queries[0] == queries[1]
    counts = sorted(Counter(row["label"] for row in queries[0]).values())
    assert json.loads((folders[0] / "config.json").read_text())["n_train"] < 36
    assert counts[0] < counts[-1]


def test_queries_look_at_candidates_alone(run, monkeypatch):
    seen = []
    for name in demo.CANDIDATES:
        choose = demo.CANDIDATES[name]

        def spy(pool, learner, n, rng, choose=choose):
            seen.append(choose(pool, learner, n, rng))
            return seen[-1]

        monkeypatch.setitem(demo.CANDIDATES, name, spy)
    code, folder = run(candidates=8)
    assert code == 0
    picks = table(folder / "queries.csv")
    assert [len(idxs) for idxs in seen] == [8, 8, 8]
    for round, idxs in enumerate(seen, 1):
        assert {int(row["index"]) for row in picks if row["round"] == str(round)} <= set(idxs.tolist())
    assert not np.array_equal(seen[0], seen[1])


def test_round_0_is_shared_between_runs_that_differ_in_candidates_alone(run, monkeypatch):
    trained = count_trainings(monkeypatch)
    run(n_round=0)
    run(n_round=0, candidates=8)
    assert trained == [6]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (dict(net_name="Linear"), "--net_name Linear reads features: add --features efficientnet_lite0,"),
        ({**FEATURES, "net_name": "ResNet9"}, "--net_name ResNet9 reads images: with --features it must be Linear or"),
        (dict(features_size=64), "--features_size 64: needs --features"),
        (dict(weights="w.pt"), "--weights w.pt: needs --features, or --pretrained and --net_name timm:<model>"),
        (dict(features="resnet"), "--features resnet: must be efficientnet_lite0 or timm:<model>"),
        (dict(n_val=-1), "--n_val -1: must be 0 or more"),
        (dict(n_val=36), "--n_val 36: the data set has 36 training images"),
        (dict(imbalance=0), "--imbalance 0.0: must be above 0 and at most 1"),
        (dict(imbalance="nan"), "--imbalance nan: must be above 0 and at most 1"),
        (dict(candidates=3), "--candidates 3: must be at least --n_query 4"),
        (dict(candidates_by="uncertain"), "--candidates_by uncertain: needs --candidates"),
        (dict(keep="best"), "--keep best needs validation images: add --n_val"),
        (dict(keep="most"), "--keep most: must be last or best"),
        (dict(class_weight="x"), "--class_weight x: must be none or balanced"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(run, capsys, flags, line):
    if "features" in flags and "net_name" not in flags:
        flags = {**flags, "net_name": None}
    code, _ = run(**flags)
    error = capsys.readouterr().err
    assert code == 2
    assert line in error
    assert error.count("\n") == 1


# Networks of timm


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(timm.create_model("test_efficientnet", pretrained=False).state_dict(), path)
    return path


def test_a_network_of_timm_is_trained_from_scratch(run):
    code, folder = run(net_name="timm:test_efficientnet", img_size=32, n_round=1)
    assert code == 0
    learner, content = read_model(folder / "model.pt", CPU)
    assert content["net_name"] == "timm:test_efficientnet"
    assert learner.probs(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 3)


@pytest.mark.parametrize("img_size", [32, 48])
def test_a_network_of_timm_is_fine_tuned_from_a_file(run, weights, img_size):
    flags = dict(net_name="timm:test_efficientnet", pretrained=True, weights=weights, img_size=img_size, n_round=0)
    code, folder = run(**flags, lr=1e-6, n_epoch=1, min_steps=1)
    assert code == 0
    config = json.loads((folder / "config.json").read_text())
    assert len(config["net_weights"]) == 16
    content = torch.load(folder / "model.pt", weights_only=True)
    given = torch.load(weights, weights_only=True)
    torch.testing.assert_close(
        content["state_dict"]["body.conv_stem.weight"], given["conv_stem.weight"], atol=1e-3, rtol=0
    )


def test_weights_of_another_network_are_refused(run, weights, capsys):
    flags = dict(net_name="timm:test_vit", pretrained=True, weights=weights, img_size=32, n_round=0)
    code, _ = run(**flags)
    assert code == 2
    assert str(weights) in capsys.readouterr().err


def test_features_of_a_network_of_timm(run, weights):
    code, folder = run(
        **{**FEATURES, "features": "timm:test_efficientnet", "features_size": 64}, weights=weights, n_round=0
    )
    assert code == 0
    config = json.loads((folder / "config.json").read_text())
    assert config["features"].startswith("timm:test_efficientnet")
