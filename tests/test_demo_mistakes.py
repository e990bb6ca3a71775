"""Mistakes of the user's: one clear line, exit code 2, and nothing is overwritten."""

import json
from dataclasses import fields

import pytest
import torch
from experiments import same_run

import demo
from runs.folder import RunFolder
from training.recipe import Recipe
from utils import UserError


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"strategy_name": "Nonsense"}, "--strategy_name Nonsense: must be one of RandomSampling"),
        ({"strategy_name": "RandomSampling", "strategy_args": "n=3"}, "takes no arguments"),
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
        ({"lr": 1e9, "min_steps": 0}, "diverged"),
        ({"batch_size": 10_000_000_000}, "a training would read"),
        ({"n_epoch": 99_999_999_999_999}, "a training would read"),
        ({"min_steps": 100_000_000_000}, "a training would read"),
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
    real, n_writes = RunFolder.write, []

    def filling(self, name, content):
        n_writes.append(name)
        if len(n_writes) == 12:
            raise UserError("cannot write: No space left on device")
        real(self, name, content)

    monkeypatch.setattr(RunFolder, "write", filling)
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
    assert "its picks up to round 3 are not those of last_round.json" in capsys.readouterr().err
    (folder / "last_round.json").unlink()
    assert run(n_round=4)[0] == 2
    assert "in this dataset" in capsys.readouterr().err


def test_every_recipe_field_is_a_flag():
    help_text = demo.parser().format_help()
    assert all(f"--{f.name}" in help_text for f in fields(Recipe))
    args = demo.parser().parse_args(["--no-flip", "--lr", "0.5", "--schedule", "constant"])
    assert (args.flip, args.lr, args.schedule) == (False, 0.5, "constant")
