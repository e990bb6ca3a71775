"""The training recipe: its fields, their allowed values, its schedules."""

import inspect
import math
import re
from dataclasses import asdict, fields, replace

import pytest

from nets import NETS
from runs.options import recorded
from training.recipe import Recipe, default_recipe, one_cycle
from utils import UserError

FIELDS = [f.name for f in fields(Recipe)]
FIELDS_OF_0_1_0 = {
    "n_epoch", "batch_size", "lr", "momentum", "nesterov", "weight_decay", "clip", "schedule", "min_steps", "flip",
    "translate", "dropout", "cuda_graph", "compile", "bf16",
}  # fmt: skip


def test_every_default_recipe_is_allowed():
    for name in NETS:
        default_recipe(NETS[name], False).check()
        default_recipe(NETS[name], True).check()
    assert default_recipe(NETS["ResNet18"], True).lr < default_recipe(NETS["ResNet18"], False).lr


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_epoch": 0}, {"batch_size": 1}, {"lr": 0.0}, {"lr": math.nan}, {"lr": math.inf}, {"momentum": 1.0},
        {"weight_decay": -1.0}, {"schedule": "none"}, {"min_steps": -1}, {"translate": 0.5}, {"dropout": 1.0},
        {"momentum": 0.0}, {"dropout": math.nan}, {"clip": -1.0}, {"momentum": -0.1}, {"translate": -0.1},
    ],
)  # fmt: skip
def test_meaningless_recipe_is_refused_by_name(wrong):
    (name,) = wrong
    blamed = "nesterov" if wrong == {"momentum": 0.0} else name
    with pytest.raises(UserError, match=f"^--{blamed} .*must be"):
        replace(Recipe(), **wrong).check()


@pytest.mark.parametrize("name", [f.name for f in fields(Recipe) if type(f.default) is float])
def test_no_number_of_a_recipe_may_be_nan(name):
    with pytest.raises(UserError, match=f"^--{name} nan: must be"):
        replace(Recipe(), **{name: math.nan}).check()


@pytest.mark.parametrize("name", FIELDS)
def test_recipe_documents_every_field(name):
    attributes = inspect.getdoc(Recipe).partition("Attributes:")[2]
    assert re.search(rf"^    {name}: \w", attributes, re.MULTILINE)


@pytest.mark.parametrize("field", fields(Recipe), ids=lambda f: f.name)
def test_the_default_tells_the_type_of_a_field(field):
    """`demo.py` makes a flag of each, and reads its values in the type of the default."""
    assert type(field.default) in (bool, int, float, str)
    assert field.type == type(field.default).__name__


def test_a_recipe_of_version_0_1_0_is_recorded_as_it_was_then():
    """A later field must be declared with `runs.options.added`, or every finished run would get another folder."""
    assert set(recorded(Recipe, asdict(Recipe()))) == FIELDS_OF_0_1_0


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_recorded_unless_it_is_neutral(name):
    other = object()
    values = {**asdict(Recipe()), name: other}
    assert recorded(Recipe, values)[name] is other


def test_few_labels_still_get_the_least_steps():
    recipe = Recipe(n_epoch=10, batch_size=50, min_steps=70)
    assert [recipe.n_steps(n) for n in (1, 100, 351, 1000)] == [70, 70, 71, 200]


def test_one_cycle_rises_then_falls_to_nothing():
    rates = [one_cycle(step, 100) for step in range(100)]
    assert max(rates) == rates[25] == 1
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)
    assert 0 < rates[0] < 0.05
    assert 0 < rates[-1] < 0.01
