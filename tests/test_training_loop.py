"""The training of one network: what it depends on, what it computes, and how it fails."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import small
import torch
import torch.nn.functional as F
from small import CPU
from torch import nn

from data import Inputs
from training import batches, loop
from training.batches import augmented, draw_batches
from training.loop import train
from training.recipe import SCHEDULES, one_cycle
from utils import UserError, stream


def weights(learner):
    return torch.cat([v.flatten().double() for v in learner.net.state_dict().values()])


def test_training_twice_gives_the_same_bits_whatever_the_global_generators(pool):
    first = small.learner(pool)
    torch.manual_seed(123)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    state = torch.get_rng_state()
    assert torch.equal(weights(small.learner(pool)), weights(first))
    assert torch.equal(torch.get_rng_state(), state)


def test_training_depends_on_the_seed_and_learns(pool):
    assert not torch.equal(weights(small.learner(pool, seed=1)), weights(small.learner(pool)))
    long = small.learner(pool, min_steps=300, translate=0.0, flip=False, dropout=0.0)
    predicted = long.probs(pool.inputs[pool.labeled]).argmax(1).numpy()
    assert (predicted == pool.labels[pool.labeled]).mean() == 1


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"nesterov": False, "weight_decay": 0.1}, {"clip": 0.5, "lr": 0.1}, {"schedule": "constant"},
        {"flip": False, "translate": 0.25, "dropout": 0.2},
    ],
)  # fmt: skip
def test_training_equals_a_plain_loop(settings, pool):
    recipe = replace(small.RECIPE, bf16=False, **settings)
    rng = stream(0, "train")
    with torch.random.fork_rng():
        torch.manual_seed(int(rng.integers(2**63)))
        net = small.build(dropout=recipe.dropout)()
        n_steps = recipe.n_steps(12)
        draws = draw_batches(12, (3, 16, 16), recipe, rng)
        x = pool.inputs.x[torch.from_numpy(pool.labeled)].permute(0, 2, 3, 1)
        labels = torch.from_numpy(pool.labels[pool.labeled])
        momenta = [torch.zeros_like(p) for p in net.parameters()]
        for i in range(n_steps):
            idxs, flips, shifts = (torch.from_numpy(d[i]) for d in (draws.order, draws.flips, draws.shifts))
            logits = net(net.normalize(augmented(x, idxs, flips, shifts)))
            F.cross_entropy(logits, labels[idxs]).backward()
            if recipe.clip:
                nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
            lr = recipe.lr * (one_cycle(i, n_steps) if recipe.schedule == "one_cycle" else 1)
            with torch.no_grad():
                for p, momentum in zip(net.parameters(), momenta, strict=True):
                    gradient = p.grad + recipe.weight_decay * p
                    momentum.mul_(recipe.momentum).add_(gradient)
                    p -= lr * (gradient + recipe.momentum * momentum if recipe.nesterov else momentum)
                    p.grad = None
    expected = torch.cat([v.flatten() for v in net.parameters()])
    learner = small.learner(pool, bf16=False, **settings)
    got = torch.cat([v.flatten() for v in learner.net.parameters()])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"n_epoch": 5}, {"batch_size": 4}, {"lr": 0.01}, {"momentum": 0.5}, {"nesterov": False}, {"weight_decay": 0.1},
        {"clip": 0.01}, {"schedule": "constant"}, {"min_steps": 7}, {"flip": False}, {"translate": 0.0},
        {"dropout": 0.1},
    ],
    ids=lambda settings: next(iter(settings)),
)  # fmt: skip
def test_training_depends_on_every_setting(settings, pool):
    assert not torch.equal(weights(small.learner(pool, **settings)), weights(small.learner(pool)))


def test_training_sees_the_labeled_images_alone(pool):
    changed = copy.deepcopy(pool)
    changed.inputs.x = changed.inputs.x.clone()
    changed.inputs.x[torch.from_numpy(pool.unlabeled)] = 0
    assert torch.equal(weights(small.learner(changed)), weights(small.learner(pool)))


def test_every_training_starts_from_new_weights(pool):
    calls = []

    def build():
        calls.append(1)
        return small.build()()

    for _ in range(2):
        train(build, pool, small.RECIPE, CPU, stream(0, "train"))
    assert len(calls) == 2


def test_a_network_that_is_built_in_evaluation_mode_is_trained_all_the_same(pool):
    recipe = replace(small.RECIPE, min_steps=3)
    built = (small.build("ResNet9"), lambda: small.build("ResNet9")().eval())
    first, second = (train(build, pool, recipe, CPU, stream(0, "train")) for build in built)
    assert torch.equal(weights(first), weights(second))


def test_every_step_takes_its_learning_rate_from_the_schedule(pool, monkeypatch):
    monkeypatch.setitem(SCHEDULES, "constant", lambda step, n_steps: 0.0)
    still = [weights(small.learner(pool, schedule="constant", min_steps=n)) for n in (2, 9)]
    assert torch.equal(*still)
    monkeypatch.setitem(SCHEDULES, "constant", lambda step, n_steps: float(step == n_steps - 1))
    assert not torch.equal(weights(small.learner(pool, schedule="constant", min_steps=9)), still[0])


def test_compile_is_used_and_its_failure_reported(pool, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: calls.append("reset"))
    monkeypatch.setattr(torch, "compile", lambda net: calls.append("compile") or net)
    assert torch.equal(weights(small.learner(pool, compile=True)), weights(small.learner(pool)))
    assert calls == ["reset", "compile"]

    def fail(x):
        raise torch._dynamo.exc.TorchDynamoException("no compiler\nand many more lines")

    monkeypatch.setattr(torch, "compile", lambda net: fail)
    with pytest.raises(UserError, match=r"^--compile: torch.compile failed \(no compiler\); leave it out$"):
        small.learner(pool, compile=True)


def test_cudnn_tunes_in_training_alone(pool, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    make = loop._step

    def watched(*args):
        step = make(*args)
        return lambda: seen.append(torch.backends.cudnn.benchmark) or step()

    monkeypatch.setattr(loop, "_step", watched)
    small.learner(pool).probs(pool.inputs)
    assert set(seen) == {True}
    assert torch.backends.cudnn.benchmark is False
    seen.clear()
    torch.use_deterministic_algorithms(True)
    try:
        small.learner(pool)
    finally:
        torch.use_deterministic_algorithms(False)
    assert set(seen) == {False}


def test_diverging_training_says_so(pool):
    with pytest.raises(UserError, match=r"diverged.*--lr 1e"):
        small.learner(pool, lr=1e20, min_steps=20)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_last_update_that_spoils_the_weights_is_a_divergence(pool, monkeypatch, value):
    def spoiling(net, *rest):
        net.head.weight.data[0, 0] = value
        return 0.5  # the loss before the update

    monkeypatch.setattr(loop, "_fit", spoiling)
    with pytest.raises(UserError, match=r"diverged.*--lr"):
        small.learner(pool)


def test_batch_that_does_not_fit_is_the_users_to_lower(pool, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(batches, "augmented", full)
    with pytest.raises(UserError, match="--batch_size 8 does not fit in"):
        small.learner(pool)


def test_labeled_images_that_do_not_fit_say_so(pool, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Inputs, "batch", full)
    with pytest.raises(UserError, match=r"^12 labeled images of 16 pixels do not fit .*; lower --img_size$"):
        small.learner(pool)


def test_speed_is_reported_once(pool):
    reported = []
    train(small.build(), pool, replace(small.RECIPE, min_steps=30), CPU, stream(0), reported.append)
    assert len(reported) == 1
    assert reported[0] > 0
