"""Rows of features in place of images: training, the learner and every strategy work on both."""

from dataclasses import replace

import numpy as np
import pytest
import small
import torch
from small import CPU
from torch import nn

from data import Inputs, Pool
from nets import Net
from strategies import STRATEGIES
from training.learner import Learner
from training.loop import train
from utils import UserError, stream

ALL = pytest.mark.parametrize("name", STRATEGIES)


class FeatureNet(Net):
    """A network for features, which it reads as they are."""

    def normalize(self, x):
        return x.float()


def build():
    return FeatureNet(nn.Sequential(nn.Linear(20, 16), nn.ReLU()), 16, 3, 0.5)


def three_groups(n=60):
    """Features (n, 20), float16, and classes (n,) of which they tell."""
    labels = np.arange(n) % 3
    centers = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(n, 20, generator=torch.Generator().manual_seed(1))
    return (centers[torch.from_numpy(labels)] + 0.3 * noise).half(), labels


@pytest.fixture(scope="module")
def features():
    """A pool whose first 12 rows are labeled."""
    x, labels = three_groups()
    made = Pool(Inputs(x), 3)
    made.label(np.arange(12), labels[:12])
    return made


@pytest.fixture(scope="module")
def learner(features):
    return train(build, features, replace(small.RECIPE, min_steps=100), CPU, stream(0, "train"))


def test_a_row_is_a_vector_of_features(features):
    assert features.inputs.shape == (20,)
    rows = features.inputs[np.array([5, 3, 59])].batch(1, 3, CPU)
    assert torch.equal(rows, features.inputs.x[[3, 59]])
    assert torch.equal(torch.cat(list(features.inputs.batches(0, 7, CPU))), features.inputs.x)


def test_a_network_learns_from_features(features, learner):
    predicted = learner.probs(features.inputs).argmax(1).numpy()
    assert (predicted == three_groups()[1]).mean() > 0.9


def test_training_reads_the_labeled_rows_alone(features, learner):
    x = features.inputs.x.clone()
    x[12:] = torch.nan
    other = Pool(Inputs(x), 3)
    other.label(features.labeled, features.labels[:12])
    again = train(build, other, replace(small.RECIPE, min_steps=100), CPU, stream(0, "train"))
    assert all(map(torch.equal, again.net.state_dict().values(), learner.net.state_dict().values()))


def test_flips_and_shifts_leave_features_alone(features):
    recipe = replace(small.RECIPE, flip=True, translate=0.4)
    plain = replace(small.RECIPE, flip=False, translate=0.0)
    first, second = (train(build, features, r, CPU, stream(0, "train")) for r in (recipe, plain))
    assert all(map(torch.equal, first.net.state_dict().values(), second.net.state_dict().values()))


def test_features_that_do_not_fit_into_the_memory_say_so(features, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Inputs, "batch", full)
    with pytest.raises(UserError, match=r"^12 labeled rows of 20 features do not fit into the memory of cpu"):
        train(build, features, small.RECIPE, CPU, stream(0, "train"))


def test_the_learner_embeds_features_in_any_batches(features, learner):
    x = features.inputs.x.float()
    torch.testing.assert_close(learner.embeddings(features.inputs), learner.net.body(x))
    torch.testing.assert_close(learner.probs(features.inputs), learner.net.head(learner.net.body(x)).softmax(1))
    small_batches = Learner(learner.net, CPU, 7)
    for rows in (features.inputs, features.inputs.x):
        torch.testing.assert_close(small_batches.probs(rows), learner.probs(features.inputs))
    drawn = [x.dropout_probs(features.inputs, 4, stream(0)) for x in (small_batches, learner)]
    torch.testing.assert_close(*drawn)


def test_logits_of_features_fill_batches_up_on_cuda(features, learner):
    x = features.inputs.x[:5].float()
    torch.testing.assert_close(Learner(learner.net, torch.device("cuda")).logits(x), learner.logits(x))


@ALL
@pytest.mark.parametrize("n", [1, 7, 48])
def test_every_strategy_picks_rows_of_features(name, n, features, learner):
    picks = STRATEGIES[name](features, learner, stream(0, "query", 0)).query(n)
    assert picks.dtype == np.int64
    assert len(set(picks.tolist())) == n
    assert set(picks.tolist()) <= set(features.unlabeled.tolist())


@pytest.mark.parametrize("name", ["AdversarialMargin", "AdversarialBIM"])
def test_strategies_that_perturb_inputs_perturb_features(name, features, learner):
    """The distance of a row to the boundary between two classes, here of a linear network: known exactly."""

    class Linear(FeatureNet):
        def __init__(self):
            super().__init__(nn.Identity(), 20, 2, 0.0)

    net = Linear()
    with torch.no_grad():
        net.head.weight.copy_(torch.randn(2, 20, generator=torch.Generator().manual_seed(3)))
    made = Pool(features.inputs, 2)
    made.label(features.labeled, features.labels[:12] % 2)
    score = STRATEGIES[name](made, Learner(net, CPU), stream(0)).score(made.unlabeled)
    logits = net(features.inputs[made.unlabeled].batch(0, 48, CPU).float())
    gap = (logits[:, 0] - logits[:, 1]).abs()
    order = score.argsort(descending=True)
    assert (gap[order].diff() >= -1e-4 * gap.max()).all(), "nearer to the boundary is labeled sooner"


def test_screening_works_on_features(monkeypatch):
    monkeypatch.setattr("training.learner.has_fast_bf16", lambda device: True)
    x, labels = three_groups(6000)
    made = Pool(Inputs(x), 3)
    made.label(np.arange(12), labels[:12])
    plain = train(build, made, replace(small.RECIPE, min_steps=100), CPU, stream(0, "train"))
    picks = [
        STRATEGIES["MarginSampling"](made, scorer, stream(0)).query(50)
        for scorer in (plain, plain.configured(bf16=False, screen=True))
    ]
    np.testing.assert_array_equal(*picks)
