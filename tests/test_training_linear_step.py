"""The written-out training step of a linear classifier against the general one, by automatic differentiation."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import small
import torch

from data import Split
from training import linear_step, loop
from training.linear_step import is_linear
from training.loop import train
from utils import has_fast_bf16, stream


@pytest.fixture
def pool():
    return small.pool(n=80, n_labeled=30, name="Linear")


@pytest.fixture
def both(pool, monkeypatch):
    """Trains twice: in general, and with the step written out. Returns the two networks."""

    def nets(validation=None, **settings):
        recipe = replace(small.RECIPE, min_steps=40, bf16=False, **settings)
        trained, choices = [], []
        for written in (False, True):

            def chosen(*arguments, written=written):
                choices.append(is_linear(*arguments))
                return written and choices[-1]

            with monkeypatch.context() as m:
                m.setattr(loop, "is_linear", chosen)
                build = small.build("Linear", dropout=recipe.dropout)
                trained.append(train(build, pool, recipe, small.CPU, stream(0), validation=validation).net)
        assert choices
        assert all(choices)
        return trained

    return nets


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"dropout": 0.0}, {"dropout": 0.3, "weight_decay": 0.1}, {"nesterov": False, "lr": 0.1},
        {"nesterov": False, "momentum": 0.0}, {"schedule": "constant"}, {"class_weight": "balanced", "batch_size": 7},
        {"lr": 2.0},
    ],
)  # fmt: skip
def test_weights_are_those_of_the_general_step(both, settings):
    general, written = both(**settings)
    for name in ("weight", "bias"):
        a, b = getattr(general.head, name), getattr(written.head, name)
        assert a.abs().max() > 0.01
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_the_best_weights_are_kept_as_in_general(both, pool):
    rows = np.arange(20)
    validation = Split(pool.inputs[rows], rows % 4, [str(i) for i in rows])
    general, written = both(validation, keep="best", lr=0.2)
    last = both(lr=0.2)[1]
    torch.testing.assert_close(written.head.weight, general.head.weight, rtol=1e-4, atol=1e-5)
    assert (written.head.weight - last.head.weight).abs().max() > 0.01


def test_losses_are_those_of_the_general_step(pool, monkeypatch):
    losses = {True: [], False: []}
    made = loop._step

    def spied(net, batches, recipe):
        step, seen = made(net, batches, recipe), losses[loop.is_linear(net, recipe, small.CPU)]
        return lambda: seen.append(float(loss := step())) or loss

    monkeypatch.setattr(loop, "_step", spied)
    small.learner(pool, "Linear", class_weight="balanced", min_steps=20, bf16=False)
    monkeypatch.setattr(loop, "is_linear", lambda *a: False)
    small.learner(pool, "Linear", class_weight="balanced", min_steps=20, bf16=False)
    assert len(losses[True]) == 20
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"clip": 1.0}, {"compile": True}, {"bf16": True}])
@pytest.mark.parametrize("name", ["Linear", "MLP", "SmallCNN"])
def test_only_a_plain_training_of_a_linear_classifier_is_written_out(name, settings):
    recipe = replace(small.RECIPE, **{"bf16": False, **settings})
    plain = not settings or (settings == {"bf16": True} and not has_fast_bf16(small.CPU))
    assert is_linear(small.build(name)(), recipe, small.CPU) == (plain and name == "Linear")
    assert not is_linear(small.build(name)(), recipe, torch.device("mps"))


def test_an_option_that_it_does_not_follow_goes_to_the_general_step(monkeypatch):
    """As one that is added later."""
    net, recipe = small.build("Linear")(), replace(small.RECIPE, bf16=False)
    monkeypatch.setattr(linear_step, "FOLLOWED", linear_step.FOLLOWED - {"class_weight"})
    assert is_linear(net, recipe, small.CPU)
    assert not is_linear(net, replace(recipe, class_weight="balanced"), small.CPU)
    monkeypatch.delitem(linear_step.NEUTRAL, "class_weight")
    assert not is_linear(net, recipe, small.CPU)
    assert set(asdict(recipe)) > linear_step.FOLLOWED
