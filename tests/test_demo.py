"""What a run of demo.py writes and prints."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from experiments import table
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

import demo
from nets import NETS
from runs.format import SECONDS
from runs.metrics import METRICS
from strategies import STRATEGIES
from training.model_file import read_model


def test_a_run_writes_all_files_of_the_design(run):
    code, folder = run()
    assert code == 0
    assert re.fullmatch(r"seed1-[0-9a-f]{8}", folder.name)
    assert (folder.parent.name, folder.parent.parent.name) == ("MarginSampling", "Beasts")
    visible = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
    assert visible == {
        "config.json", "environment.json", "rounds.csv", "queries.csv", "predictions.csv", "confusion_matrix.csv",
        "model.pt", "last_round.json",
    }  # fmt: skip
    assert not list(folder.glob("*.tmp"))


def test_rounds_count_labels_and_metrics(run):
    _, folder = run()
    rows = table(folder / "rounds.csv")
    assert list(rows[0]) == ["round", "n_labeled", *METRICS, *SECONDS, "check"]
    assert [int(r["round"]) for r in rows] == [0, 1, 2, 3]
    assert [int(r["n_labeled"]) for r in rows] == [6, 10, 14, 18]
    assert float(rows[0]["query_seconds"]) > 0
    assert float(rows[-1]["query_seconds"]) == 0


def test_queries_are_different_images_with_their_paths_and_labels(run, data_dir):
    _, folder = run()
    rows = table(folder / "queries.csv")
    assert [int(r["round"]) for r in rows] == [0] * 6 + [1] * 4 + [2] * 4 + [3] * 4
    assert [int(r["rank"]) for r in rows] == [*range(6), *range(4), *range(4), *range(4)]
    assert len({r["index"] for r in rows}) == len(rows)
    listed = sorted(str(p.relative_to(data_dir / "Beasts")) for p in (data_dir / "Beasts" / "train").rglob("*.png"))
    for r in rows:
        assert listed[int(r["index"])] == r["path"]
        assert r["path"].split("/")[1] == r["label"]


def test_last_round_agrees_with_predictions_confusion_and_scikit_learn(run):
    _, folder = run(min_steps=60)
    last = table(folder / "rounds.csv")[-1]
    rows = table(folder / "predictions.csv")
    label, predicted = [r["label"] for r in rows], [r["predicted"] for r in rows]
    assert float(last["accuracy"]) == pytest.approx(accuracy_score(label, predicted), abs=1e-6)
    macro = precision_recall_fscore_support(label, predicted, average="macro", zero_division=0)
    for name, value in zip(("precision", "recall", "f1"), macro, strict=False):
        assert float(last[name]) == pytest.approx(value, abs=1e-6)
    with open(folder / "confusion_matrix.csv", newline="") as f:
        matrix = list(csv.reader(f))
    assert matrix[0][1:] == [row[0] for row in matrix[1:]] == ["ant", "bee", "cow"]
    counts = [[int(v) for v in row[1:]] for row in matrix[1:]]
    assert counts == confusion_matrix(label, predicted).tolist()


def test_saved_model_gives_the_saved_predictions(run, data_dir):
    _, folder = run(min_steps=60)
    learner, content = read_model(folder / "model.pt", torch.device("cpu"))
    for row in table(folder / "predictions.csv"):
        image = Image.open(data_dir / "Beasts" / row["path"]).resize((16, 16), Image.Resampling.BILINEAR)
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        probs = learner.probs(x)[0]
        assert content["classes"][probs.argmax()] == row["predicted"]
        assert probs.max().item() == pytest.approx(float(row["confidence"]), abs=1e-4)


def test_config_is_resolved_and_environment_says_with_what(run):
    _, folder = run(strategy_name="EntropySamplingDropout", strategy_args="n_drop=7")
    config = json.loads((folder / "config.json").read_text())
    assert config["strategy_name"] == "UncertaintySamplingWithDropoutEstimation"
    assert config["strategy_args"] == {"n_drop": 7, "measure": "entropy"}
    assert config["lr"] == NETS["SmallCNN"].recipe["lr"]
    assert config["n_train"] == 36
    assert None not in config.values()
    assert not {"n_round", "device", "data_dir", "results_dir"} & set(config)
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert environment["n_round"] == 3
    assert environment["device"] == "cpu"


def test_stdout_has_one_line_a_round(run, capsys):
    run()
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    numbers = [line.split() for line in lines if re.match(r" +\d+ ", line)]
    assert [(int(words[0]), int(words[1])) for words in numbers] == [(0, 6), (1, 10), (2, 14), (3, 18)]
    head = next(line.split() for line in lines if line.startswith("round"))
    assert head == ["round", "labeled", *METRICS, "train_s", "eval_s", "query_s"]
    assert all(len(words) == len(head) for words in numbers)
    assert captured.err == ""  # no progress bar where stderr is no terminal


def test_a_missing_seed_is_drawn_printed_and_recorded(run, capsys):
    _, folder = run(seed=None)
    seed = json.loads((folder / "config.json").read_text())["seed"]
    assert f"# seed {seed}," in capsys.readouterr().out
    run(seed=None)
    assert len(list(folder.parent.iterdir())) == 2


def test_pool_smaller_than_all_rounds_is_told_and_emptied(run, capsys):
    code, folder = run(n_round=20, n_query=16)
    assert code == 0
    assert (
        "note: 20 rounds of 16 are more than the 30 images left: the run stops after 2 rounds"
        in capsys.readouterr().err
    )
    assert [int(r["n_labeled"]) for r in table(folder / "rounds.csv")] == [6, 22, 36]
    assert len(table(folder / "queries.csv")) == 36
    before = (folder / "rounds.csv").read_bytes()
    assert run(n_round=20, n_query=16)[0] == 0
    assert "finished already" in capsys.readouterr().out
    assert (folder / "rounds.csv").read_bytes() == before


def test_no_round_of_querying_is_one_training(run):
    _, folder = run(n_round=0)
    assert len(table(folder / "rounds.csv")) == 1
    assert len(table(folder / "queries.csv")) == 6


def test_digits_never_flips_unless_told(tmp_path, capsys):
    base = ["--dataset_name", "Digits", "--net_name", "SmallCNN", "--n_init_labeled", "20", "--n_query", "5"]
    base += [
        "--n_round",
        "0",
        "--seed",
        "1",
        "--img_size",
        "8",
        "--min_steps",
        "2",
        "--n_epoch",
        "1",
        "--device",
        "cpu",
    ]
    for extra, flip in (([], False), (["--flip"], True)):
        results = tmp_path / str(flip)
        assert demo.main([*base, *extra, "--results_dir", str(results)]) == 0
        (config,) = results.rglob("config.json")
        assert json.loads(config.read_text())["flip"] is flip


def test_loop_knows_no_strategy_by_name():
    source = Path(demo.__file__).read_text()
    assert not [name for name in STRATEGIES if name in source.replace('default="RandomSampling"', "")]
