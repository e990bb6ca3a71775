"""Options that were added after version 0.1.0: recorded only where they change something."""

from dataclasses import asdict, dataclass, fields

import pytest

from runs.format import config_hash
from runs.options import added, neutral_values, recorded
from strategies import STRATEGIES
from training.recipe import Recipe


@dataclass(frozen=True)
class Old:
    n_epoch: int = 20
    lr: float = 0.1


@dataclass(frozen=True)
class New(Old):
    label_smoothing: float = added(0.0)
    mixing: str = added("none")
    teacher: str | None = added(None)


def test_an_added_option_is_a_field_with_its_neutral_value_as_default():
    assert New() == New(20, 0.1, 0.0, "none", None)
    assert neutral_values(New) == {"label_smoothing": 0.0, "mixing": "none", "teacher": None}
    assert neutral_values(Old) == {}


def test_configuration_and_hash_without_new_options_are_those_of_before():
    before = asdict(Old(lr=0.3))
    assert recorded(Old, before) == before
    after = recorded(New, asdict(New(lr=0.3)))
    assert after == before
    assert list(after) == list(before)  # the file has the same bytes
    assert config_hash(after) == config_hash(before)


@pytest.mark.parametrize("option", [{"label_smoothing": 0.1}, {"mixing": "cut"}, {"teacher": "big"}])
def test_an_option_that_is_used_is_recorded_alone(option):
    assert recorded(New, asdict(New(**option))) == {**asdict(Old()), **option}


def test_published_options_are_recorded_at_their_default_too():
    assert recorded(New, asdict(New())) == {"n_epoch": 20, "lr": 0.1}


def test_the_values_given_are_not_changed():
    values = asdict(New())
    recorded(New, values)
    assert values == asdict(New())


def test_options_of_no_dataclass_are_given_by_their_neutral_values():
    assert recorded({"n_views": 1, "frozen": False}, {"n_views": 1, "frozen": True, "seed": 3}) == {
        "frozen": True,
        "seed": 3,
    }
    assert recorded({"frozen": False}, {"frozen": 0.0}) == {}  # equal values mean the same


# What version 0.1.0 recorded always, and so its hashes depend on.
RECIPE = (
    "n_epoch", "batch_size", "lr", "momentum", "nesterov", "weight_decay", "clip", "schedule", "min_steps", "flip",
    "translate", "dropout", "cuda_graph", "compile", "bf16",
)  # fmt: skip


def test_every_option_of_the_recipe_since_0_1_0_is_added():
    assert {f.name for f in fields(Recipe)} - neutral_values(Recipe).keys() == set(RECIPE)
    assert list(recorded(Recipe, asdict(Recipe()))) == list(RECIPE)


@pytest.mark.parametrize("name", STRATEGIES)
def test_neutral_values_of_a_strategy_are_its_defaults(name):
    defaults = {f.name: f.default for f in fields(STRATEGIES[name])}
    for option, value in neutral_values(STRATEGIES[name]).items():
        assert defaults[option] == value
