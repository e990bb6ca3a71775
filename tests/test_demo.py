"""Whole runs, from the flags to the files."""

import csv
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import small
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

import data
import demo
import nets
import strategies
import utils
from strategies import STRATEGIES, base
from utils import METRICS, ROUND_COLUMNS, UserError

ROOT = Path(demo.__file__).parent


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("DATA")
    small.image_folder(folder / "Beasts", n_train=12, n_test=6)
    return folder


@pytest.fixture
def run(data_dir, tmp_path):
    """Runs demo.py in this process with small settings; keyword arguments are flags. Returns exit code and folder."""

    def call(results="results", **flags):
        flags = {
            "n_round": 3, "n_query": 4, "n_init_labeled": 6, "dataset_name": "Beasts", "seed": 1,
            "strategy_name": "MarginSampling", "img_size": 16, "net_name": "SmallCNN", "n_epoch": 1,
            "min_steps": 4, "batch_size": 8, "device": "cpu", "data_dir": data_dir,
            "results_dir": tmp_path / results, **flags,
        }  # fmt: skip
        words = []
        for name, value in flags.items():
            if value is not None and value is not False:
                words += [f"--{name}"] + ([] if value is True else [str(v) for v in np.atleast_1d(value)])
        call.words = words
        code = demo.main(words)
        folders = [p.parent for p in (tmp_path / results).rglob("config.json")]
        return code, folders[0] if len(folders) == 1 else folders

    return call


def table(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


def without_seconds(folder):
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in table(folder / "rounds.csv")]


def same_run(a, b):
    assert without_seconds(a) == without_seconds(b)
    assert (a / "queries.csv").read_bytes() == (b / "queries.csv").read_bytes()


# The files


def test_a_run_writes_all_files_of_the_design(run):
    code, folder = run()
    assert code == 0
    assert re.fullmatch(r"seed1-[0-9a-f]{8}", folder.name)
    assert (folder.parent.name, folder.parent.parent.name) == ("MarginSampling", "Beasts")
    visible = {p.name for p in folder.iterdir() if not p.name.startswith(".")}
    assert visible == {
        "config.json", "environment.json", "rounds.csv", "queries.csv", "predictions.csv", "confusion_matrix.csv",
        "model.pt",
    }  # fmt: skip
    assert not list(folder.glob("*.tmp"))


def test_rounds_count_labels_and_metrics(run):
    _, folder = run()
    rows = table(folder / "rounds.csv")
    assert list(rows[0]) == list(ROUND_COLUMNS)
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
    learner, content = nets.load(folder / "model.pt", torch.device("cpu"))
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
    assert config["lr"] == nets.NETS["SmallCNN"].recipe.lr
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


# Repeatable, paired, resumable


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_same_command_gives_the_same_run(run, name):
    same_run(run("a", strategy_name=name, n_round=2)[1], run("b", strategy_name=name, n_round=2)[1])


def test_strategies_of_one_seed_share_first_labels_and_row_0(run):
    folders = [run(name, strategy_name=name, n_round=1)[1] for name in STRATEGIES]
    for folder in folders[1:]:
        assert without_seconds(folder)[0] == without_seconds(folders[0])[0]
        assert table(folder / "queries.csv")[:6] == table(folders[0] / "queries.csv")[:6]
    other = run("other", seed=2, n_round=1)[1]
    assert table(other / "queries.csv")[:6] != table(folders[0] / "queries.csv")[:6]


def count_trainings(monkeypatch):
    trained = []
    train = nets.train

    def counting(build, pool, *rest):
        trained.append(len(pool.labeled))
        return train(build, pool, *rest)

    monkeypatch.setattr(nets, "train", counting)
    return trained


def test_strategies_of_one_seed_train_round_0_once_and_get_the_same_run(run, tmp_path, monkeypatch):
    trained = count_trainings(monkeypatch)
    _, alone = run("alone", strategy_name="EntropySampling")
    assert trained == [6, 10, 14, 18]
    run("together", strategy_name="RandomSampling")
    run("together", strategy_name="EntropySampling")
    run("together", strategy_name="EntropySampling", seed=2)
    run("together", strategy_name="EntropySampling", lr=0.01)
    assert trained[4:] == [6, 10, 14, 18, 10, 14, 18, 6, 10, 14, 18, 6, 10, 14, 18]
    (together,) = (tmp_path / "together").rglob(alone.name)
    same_run(alone, together)


def test_scoring_in_bf16_changes_the_query_and_not_the_metrics(run, tmp_path, monkeypatch):
    seen = []
    probs = nets.Learner.probs
    monkeypatch.setattr(nets.Learner, "probs", lambda self, x: seen.append((self.bf16, len(x))) or probs(self, x))
    _, exact = run(n_round=1)
    assert [rough for rough, _ in seen] == [False] * 3
    seen.clear()
    _, rough = run("rough", n_round=1, score_bf16=True)
    n_test, n_unlabeled = 18, 30
    assert seen == [(False, n_test), (True, n_unlabeled), (False, n_test)]
    assert without_seconds(rough)[0] == without_seconds(exact)[0]
    assert [json.loads((p / "config.json").read_text())["score_bf16"] for p in (exact, rough)] == [False, True]


def test_a_screened_run_picks_what_a_plain_one_picks(run, monkeypatch):
    monkeypatch.setattr(base, "SCREENED_FROM", 10)
    monkeypatch.setattr(base, "SAMPLED", 3)
    monkeypatch.setattr(nets, "has_fast_bf16", lambda device: True)
    seen = []
    probs = nets.Learner.probs
    monkeypatch.setattr(nets.Learner, "probs", lambda self, x: seen.append((self.bf16, len(x))) or probs(self, x))
    _, screened = run(n_round=2)
    n_test, n_unlabeled = 18, 30
    assert seen[:2] == [(False, n_test), (True, n_unlabeled)]
    assert all(not rough and n < n_unlabeled for rough, n in seen[2:4])
    seen.clear()
    _, plain = run("plain", n_round=2, **{"no-screen": True})
    assert seen == [(False, n_test), (False, n_unlabeled), (False, n_test), (False, n_unlabeled - 4), (False, n_test)]
    assert without_seconds(screened) == without_seconds(plain)
    assert [json.loads((p / "config.json").read_text())["screen"] for p in (screened, plain)] == [True, False]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content["state_dict"]["head.weight"].view(torch.int32)[0, 0].bitwise_xor_(1 << 30),
        lambda content: content.pop("train_seconds"),
        lambda content: content.pop("state_dict"),
        lambda content: content.update(classes=5),
    ],
)
def test_a_shared_round_0_with_other_content_is_trained_anew(run, tmp_path, monkeypatch, capsys, damage):
    """The first is a flipped bit: the archive's checksums tell, but torch does not look at them."""
    run(n_round=0)
    (shared,) = (tmp_path / "results" / ".round0").glob("*.pt")
    whole = shared.read_bytes()
    content = torch.load(shared, weights_only=True)
    head = content["state_dict"]["head.weight"].numpy().tobytes()
    changed = damage(content)
    torch.save(content, shared)
    if changed is not None and isinstance(changed, torch.Tensor):
        shared.write_bytes(whole.replace(head, content["state_dict"]["head.weight"].numpy().tobytes()))
        assert sum(a != b for a, b in zip(whole, shared.read_bytes(), strict=True)) == 1
    trained = count_trainings(monkeypatch)
    run(n_round=0, strategy_name="EntropySampling")
    assert trained == [6]
    assert "training round 0 anew" in capsys.readouterr().err


def test_a_run_that_could_never_need_so_many_rounds_starts_at_once(run):
    start = time.perf_counter()
    assert run(n_round=10**12, n_query=15, min_steps=40)[0] == 0
    assert time.perf_counter() - start < 60


@pytest.mark.parametrize("module", [demo, nets, data, utils])
def test_other_code_does_not_share_round_0(run, tmp_path, monkeypatch, module):
    run(n_round=0)
    trained = count_trainings(monkeypatch)
    run(n_round=0, strategy_name="EntropySampling")
    assert trained == []
    changed = tmp_path / "changed.py"
    changed.write_text(Path(module.__file__).read_text() + "# changed")
    monkeypatch.setattr(module, "__file__", str(changed))
    run(n_round=0, strategy_name="LeastConfidence")
    assert trained == [6]


def test_a_damaged_shared_round_0_is_trained_anew(run, tmp_path, monkeypatch):
    _, whole = run(n_round=1)
    (shared,) = (tmp_path / "results" / ".round0").glob("*.pt")
    shared.write_bytes(shared.read_bytes()[:1000])
    trained = count_trainings(monkeypatch)
    run(n_round=1, strategy_name="EntropySampling")
    assert trained == [6, 10]
    (other,) = (tmp_path / "results").glob("Beasts/EntropySampling/*")
    assert without_seconds(other)[0] == without_seconds(whole)[0]


def test_a_finished_run_is_left_alone(run, capsys):
    _, folder = run()
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert run()[0] == 0
    assert "finished already" in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_larger_n_round_continues_as_if_never_stopped(run):
    run("parts", n_round=0)
    run("parts", n_round=1)
    _, parts = run("parts", n_round=3)
    _, whole = run("whole", n_round=3)
    same_run(parts, whole)
    assert all(float(r["query_seconds"]) > 0 for r in table(parts / "rounds.csv")[:-1])


def test_resuming_trains_nothing_twice(run, monkeypatch):
    _, folder = run(n_round=3)
    rows = (folder / "rounds.csv").read_text().splitlines(keepends=True)
    (folder / "rounds.csv").write_text("".join(rows[:3]))  # rounds 0 and 1
    trained = count_trainings(monkeypatch)
    assert run(n_round=3)[0] == 0
    assert trained == [14, 18]


@pytest.mark.parametrize("how", ["replace", "time"])
def test_killed_at_any_moment_a_run_ends_with_the_same_files(run, tmp_path, how):
    _, whole = run("whole", min_steps=50)
    words = [w.replace(str(tmp_path / "whole"), str(tmp_path / how)) for w in run.words]
    command = [sys.executable, ROOT / "tests" / "killer.py", how, "4", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) >= 3
    (config,) = (tmp_path / how).rglob("config.json")
    same_run(config.parent, whole)
    for name in ("predictions.csv", "confusion_matrix.csv", "config.json"):
        assert (config.parent / name).read_bytes() == (whole / name).read_bytes()


def test_two_runs_in_one_folder_are_refused_until_the_first_is_dead(run, tmp_path, capsys):
    run("probe", n_round=0)
    words = [w.replace(str(tmp_path / "probe"), str(tmp_path / "results")) for w in run.words]
    slow = [sys.executable, ROOT / "demo.py", *words, "--min_steps", "1000000"]
    with subprocess.Popen(slow, stdout=subprocess.PIPE, text=True) as first:
        for line in first.stdout:
            if line.startswith("round"):
                break
        assert run(n_round=0, min_steps=1000000)[0] == 2
        assert "is in use: another process" in capsys.readouterr().err
        first.send_signal(signal.SIGKILL)
    assert run(n_round=0, min_steps=1000000, n_epoch=1, dataset_name="None")[0] == 2  # a mistake, but no lock
    assert "in use" not in capsys.readouterr().err


def test_ctrl_c_without_a_seed_says_which_was_drawn(run, monkeypatch, capsys):
    def interrupted(e):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run_experiment", interrupted)
    monkeypatch.setattr(demo.secrets, "randbelow", lambda n: 77)
    assert run(seed=None)[0] == 130
    assert capsys.readouterr().err == "interrupted; the same command with --seed 77 resumes the run\n"


def test_ctrl_c_is_one_line_and_the_run_resumes(run, tmp_path):
    run("probe", n_round=0)
    words = [w.replace(str(tmp_path / "probe"), str(tmp_path / "results")) for w in run.words]
    slow = [sys.executable, ROOT / "demo.py", *words, "--min_steps", "1000000"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # shells start background jobs deaf to Ctrl-C
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(slow, **pipes, preexec_fn=heard) as first:
        for line in first.stdout:
            if line.startswith("round"):
                break
        time.sleep(0.5)
        first.send_signal(signal.SIGINT)
        _, err = first.communicate(timeout=60)
    assert first.returncode == 130
    assert err.splitlines()[-1] == "interrupted; the same command resumes the run"
    assert "Traceback" not in err


# Mistakes: one clear line, exit code 2, nothing written over


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"strategy_name": "Nonsense"}, "--strategy_name Nonsense: must be one of RandomSampling"),
        ({"strategy_args": "n=3"}, "takes no arguments"),
        ({"dataset_name": "Nonsense"}, "Beasts"),
        ({"dataset_name": "../Beasts"}, "a folder in"),
        ({"dataset_name": "DaninhasDataset"}, "DaninhasDataset is missing"),
        ({"data_dir": "/nonsense"}, "a folder in /nonsense: no such folder"),
        ({"net_name": "Nonsense"}, "must be one of SmallCNN, ResNet9"),
        ({"pretrained": True}, "no pretrained weights for SmallCNN"),
        ({"n_init_labeled": 0}, "--n_init_labeled 0: must be 1 or more"),
        ({"n_init_labeled": -3}, "--n_init_labeled -3"),
        ({"n_init_labeled": 37}, "has 36 training images"),
        ({"n_query": 0}, "--n_query 0"),
        ({"n_query": -1}, "--n_query -1"),
        ({"n_query": 31}, "only 30 of 36"),
        ({"n_round": -1}, "--n_round -1"),
        ({"seed": -1}, "--seed -1"),
        ({"img_size": 0}, "--img_size 0"),
        ({"img_size": -8}, "--img_size -8"),
        ({"img_size": 100000}, "--img_size 100000"),
        ({"lr": 0}, "--lr 0.0: must be above 0"),
        ({"batch_size": 0}, "--batch_size 0"),
        ({"n_epoch": 0}, "--n_epoch 0"),
        ({"schedule": "nonsense"}, "one_cycle or constant"),
        ({"dropout": 0, "strategy_name": "BALDDropout"}, "needs a network with dropout"),
        ({"device": "nonsense"}, "--device nonsense"),
        ({"lr": 1e20}, "diverged"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(run, capsys, flags, message):
    if flags.get("lr") == 1e20:
        flags = {**flags, "min_steps": 20}
    code, _ = run(**flags)
    err = capsys.readouterr().err
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert message in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_cuda_is_told(run, capsys):
    assert run(device="cuda")[0] == 2
    assert "sees no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--n_round", "many"], ["--nonsense"], ["--n_rou", "3"], ["stray"]])
def test_flags_that_do_not_parse_are_one_line(words, capsys):
    with pytest.raises(SystemExit) as left:
        demo.main(words)
    assert left.value.code == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("error: ")


def test_results_that_cannot_be_written_are_told(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("file")[0] == 2
    err = capsys.readouterr().err
    assert err.startswith("error: cannot write")
    assert err.count("\n") == 1


def test_full_disk_keeps_what_was_committed(run, monkeypatch, capsys):
    _, whole = run("whole")
    real, n_writes = demo.RunFolder.write, []

    def filling(self, name, content):
        n_writes.append(name)
        if len(n_writes) == 12:
            raise UserError("cannot write: No space left on device")
        real(self, name, content)

    monkeypatch.setattr(demo.RunFolder, "write", filling)
    assert run()[0] == 2
    assert "No space left" in capsys.readouterr().err
    monkeypatch.undo()
    code, folder = run()
    assert code == 0
    same_run(folder, whole)


def test_changed_configuration_in_the_folder_is_refused(run, capsys):
    _, folder = run()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "lr": 7.0}))
    before = (folder / "rounds.csv").read_bytes()
    assert run()[0] == 2
    assert "lr: 7.0 there" in capsys.readouterr().err
    assert (folder / "rounds.csv").read_bytes() == before


@pytest.mark.parametrize(("old", "new"), [(",cow\n", ",bee\n"), ("train/", "test/")])
def test_picks_that_are_not_in_the_dataset_are_refused(run, capsys, old, new):
    _, folder = run()
    text = (folder / "queries.csv").read_text()
    (folder / "queries.csv").write_text(text.replace(old, new))
    assert run(n_round=4)[0] == 2
    assert "in this dataset" in capsys.readouterr().err


def test_every_recipe_field_is_a_flag():
    help_text = demo.parser().format_help()
    assert all(f"--{f.name}" in help_text for f in fields(nets.Recipe))
    args = demo.parser().parse_args(["--no-flip", "--lr", "0.5", "--schedule", "constant"])
    assert (args.flip, args.lr, args.schedule) == (False, 0.5, "constant")


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
    assert strategies.STRATEGIES is STRATEGIES
