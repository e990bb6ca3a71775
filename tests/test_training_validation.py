"""What validation images decide: the weights that a training keeps, the weight decay, the temperature."""

import math
from dataclasses import replace

import numpy as np
import pytest
import small
import torch
import torch.nn.functional as F
from small import CPU

import training.loop
from data import Inputs, Split
from nets import NETS
from training.loop import train
from training.recipe import Recipe
from training.validation import Best, Quality, most_likely_temperature, quality_of
from utils import UserError, stream


def split(n, name="SmallCNN", seed=5, n_classes=4):
    labels = np.random.default_rng(seed).integers(0, n_classes, n)
    return Split(Inputs(small.rows(name, n, seed=seed)), labels, [f"{i}.png" for i in range(n)])


# Quality


def test_quality_is_accuracy_then_likelihood():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    labels = torch.tensor([0, 1, 1])
    assert quality_of(logits, labels) == (pytest.approx(2 / 3), pytest.approx(-F.cross_entropy(logits, labels).item()))
    assert Quality(0.5, -9.0) > Quality(0.4, -0.1)
    assert Quality(0.5, -1.0) > Quality(0.5, -2.0)
    assert quality_of(torch.tensor([[math.nan, 0.0]]), torch.tensor([0])) < Quality(0.0, -1e30)


def test_the_best_weights_are_restored():
    net = NETS["Linear"].build((24,), 4, 0.0, False)
    validation = split(40, "Linear")
    best = Best(net, validation, CPU)
    good = torch.randn(4, 24)
    x = net.normalize(validation.inputs.x)
    validation.labels[:] = (x @ good.T).argmax(1).numpy()
    for weight in (torch.zeros(4, 24), good, -good):
        with torch.no_grad():
            net.head.weight.copy_(weight)
            net.head.bias.zero_()
        best.check()
        assert net.training
    assert best.quality.accuracy == 1
    best.restore()
    assert torch.equal(net.head.weight, good)


# Training


@pytest.mark.parametrize("name", ["SmallCNN", "Linear"])
def test_a_training_keeps_the_best_of_ten_moments(name, monkeypatch):
    pool, validation = small.pool(name=name), split(30, name)
    seen = []
    check = Best.check

    def spy(self):
        check(self)
        seen.append((self.quality, {k: v.clone() for k, v in self._net.state_dict().items()}))

    monkeypatch.setattr(Best, "check", spy)
    monkeypatch.setattr(training.loop, "DECAYS", [1.0])
    recipe = replace(small.RECIPE, min_steps=40, lr=0.1, schedule="constant", keep="best")
    learner = train(small.build(name), pool, recipe, CPU, stream(0, "train"), validation=validation)
    assert len(seen) == 10
    last = max(quality for quality, _ in seen)
    first = next(weights for quality, weights in reversed(seen) if quality == last)
    kept = learner.net.state_dict()
    _, candidates = zip(*seen, strict=True)
    assert any(all(torch.equal(kept[k], w[k]) for k in kept) for w in candidates)
    probs = learner.probs(validation.inputs)
    accuracy = (probs.argmax(1).numpy() == validation.labels).mean()
    assert accuracy == pytest.approx(last.accuracy)
    assert first is not None


def test_checking_does_not_change_the_training():
    pool, validation = small.pool(), split(30)
    recipe = replace(small.RECIPE, min_steps=20, keep="best")
    plain = small.learner(pool, min_steps=20)
    qualities = []

    class Spy(Best):
        def check(self):
            super().check()
            qualities.append(self.quality)
            self._weights = {name: t.clone() for name, t in self._net.state_dict().items()}  # the last

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.loop, "Best", Spy)
        kept = train(small.build(), pool, recipe, CPU, stream(0, "train"), validation=validation)
    assert len(qualities) == 10
    assert all(map(torch.equal, kept.net.state_dict().values(), plain.net.state_dict().values()))


def test_validation_images_choose_the_weight_decay_of_heads():
    pool, validation = small.pool(name="Linear"), split(200, "Linear")
    tried = []

    class Spy(Best):
        def restore(self):
            super().restore()
            tried.append((self.quality, self._net))

    recipe = replace(small.RECIPE, min_steps=60, weight_decay=0.05, keep="best")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.loop, "Best", Spy)
        learner = train(small.build("Linear"), pool, recipe, CPU, stream(0, "train"), validation=validation)
    assert len(tried) == 3
    assert learner.net is max(tried, key=lambda of: of[0])[1]
    weights = [replace(recipe, weight_decay=0.05 * d, keep="last") for d in training.loop.DECAYS]
    alone = [train(small.build("Linear"), pool, r, CPU, stream(0, "train")).net.head.weight.norm() for r in weights]
    assert alone[0] > alone[1] > alone[2]


def test_balanced_class_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0] * 10 + [2] * 5 + [3])
    expected = compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=labels)
    weight = training.loop._class_weight(torch.from_numpy(labels), 5)
    assert weight[[0, 2, 3]].tolist() == pytest.approx(expected.tolist())


def test_balanced_class_weights_raise_the_recall_of_rare_classes():
    centers = torch.randn(2, 24, generator=torch.Generator().manual_seed(3)) * 0.3

    def rows(n, share):
        labels = (np.arange(n) < share * n).astype(np.int64)
        noise = torch.randn(n, 24, generator=torch.Generator().manual_seed(n))
        return (centers[torch.from_numpy(labels)] + noise).half(), labels

    x, labels = rows(400, 0.05)
    pool = small.Pool(Inputs(x), 2)
    pool.label(np.arange(400), labels)
    x, labels = rows(1000, 0.5)
    recall = {}
    for class_weight in ("none", "balanced"):
        recipe = replace(small.RECIPE, min_steps=200, batch_size=64, class_weight=class_weight)
        learner = train(lambda: NETS["Linear"].build((24,), 2, 0.0, False), pool, recipe, CPU, stream(0, "train"))
        recall[class_weight] = (learner.probs(Inputs(x)).argmax(1).numpy() == labels)[labels == 1].mean()
    assert recall["balanced"] > recall["none"] + 0.2


# Temperature


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_temperature_is_found(true):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert most_likely_temperature(true * logits, labels) == pytest.approx(true, rel=0.05)


def test_a_calibrated_training_changes_confidence_and_no_prediction():
    pool, validation = small.pool(), split(50)
    recipe = replace(small.RECIPE, min_steps=60)
    plain = train(small.build(), pool, recipe, CPU, stream(0, "train"))
    calibrated = train(
        small.build(), pool, replace(recipe, calibrate=True), CPU, stream(0, "train"), validation=validation
    )
    before, after = plain.probs(pool.inputs), calibrated.probs(pool.inputs)
    torch.testing.assert_close(before.argsort(1), after.argsort(1))
    labels = torch.from_numpy(validation.labels)
    loss = [F.nll_loss(of.probs(validation.inputs).log(), labels) for of in (plain, calibrated)]
    assert loss[1] < loss[0] - 0.02  # its labels are noise, so that any confidence is too high
    assert after.amax(1).mean() < before.amax(1).mean()


def test_the_recipe_needs_validation_images_where_they_decide():
    Recipe(keep="best", calibrate=True).check_validation(True)
    Recipe().check_validation(False)
    with pytest.raises(UserError, match=r"^--keep best needs validation images: add --n_val, or a val/ folder"):
        Recipe(keep="best").check_validation(False)
    with pytest.raises(UserError, match=r"^--calibrate needs validation images"):
        Recipe(calibrate=True).check_validation(False)
