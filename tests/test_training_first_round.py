"""The key of a shared round 0: all that it depends on, and nothing else."""

import json

import pytest
import torch
from experiments import SMALL
from small import CPU

import demo
from training import first_round
from training.first_round import first_round_key

QUERY_SETTINGS = {"strategy_name", "strategy_args", "n_query", "score_bf16", "screen"}  # have no part in round 0


@pytest.fixture
def config(data_dir, tmp_path):
    """The configuration of a run on Beasts."""
    flags = {**SMALL, "data_dir": data_dir, "results_dir": tmp_path, "strategy_name": "BALDDropout"}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return demo.experiment(demo.parser().parse_args(words)).config


def other(value):
    """A different value of the same type."""
    if isinstance(value, dict):
        return {**value, "added": 1}
    return not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else f"{value}x"


def test_the_key_depends_on_every_setting_but_those_of_queries(config):
    key = first_round_key(config, CPU)
    assert first_round_key(json.loads(json.dumps(config)), CPU) == key
    matters = {name for name, v in config.items() if first_round_key({**config, name: other(v)}, CPU) != key}
    assert matters == set(config) - QUERY_SETTINGS
    assert matters >= {"seed", "weight_decay", "data_digest", "n_init_labeled", "dropout", "img_size", "net_name"}


def test_the_key_depends_on_an_option_that_was_added_later(config):
    assert first_round_key({**config, "label_smoothing": 0.1}, CPU) != first_round_key(config, CPU)


def test_the_key_depends_on_the_number_of_threads(config, monkeypatch):
    key = first_round_key(config, CPU)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert first_round_key(config, CPU) != key


@pytest.mark.parametrize("name", ["python", "packages", "platform", "device", "device_name", "cuda", "threads"])
def test_the_key_depends_on_what_numbers_depend_on(name, config, monkeypatch):
    key = first_round_key(config, CPU)
    environment = first_round.environment(CPU)
    assert name in environment
    monkeypatch.setattr(first_round, "environment", lambda device: {**environment, name: "another"})
    assert first_round_key(config, CPU) != key


def test_the_key_does_not_depend_on_the_command_or_the_commit(config, monkeypatch):
    key = first_round_key(config, CPU)
    environment = first_round.environment(CPU)
    monkeypatch.setattr(first_round, "environment", lambda device: {**environment, "command": ["x"], "git_commit": "x"})
    assert first_round_key(config, CPU) == key


def test_the_key_covers_the_code_that_trains_and_not_the_strategies():
    code = "".join(first_round.code())
    root = first_round.ROOT
    for path in [root / "demo.py", root / "nets.py", root / "data.py", root / "utils.py", *root.glob("training/*.py"),
                 *root.glob("images/*.py")]:  # fmt: skip
        assert path.read_text("utf-8") in code
    assert (root / "strategies" / "badge.py").read_text("utf-8") not in code
