"""The contract that every strategy of the registry keeps, and what those that score predictions compute."""

import copy
import random
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import reference
import small
import torch

from data import Inputs, Pool
from strategies import STRATEGIES, described, scores
from strategies.base import ScoreStrategy
from utils import UserError, stream

ALL = pytest.mark.parametrize("name", STRATEGIES)


@pytest.fixture(scope="module", params=["images", "features"])
def rows(request):
    """What the pool is made of; every strategy keeps the contract on both."""
    return request.param


@pytest.fixture(scope="module")
def pool(rows):
    return small.pool(name="SmallCNN" if rows == "images" else "Linear")


@pytest.fixture(scope="module")
def learner(rows, pool):
    return small.learner(pool, "SmallCNN" if rows == "images" else "Linear")


@pytest.fixture(scope="module")
def other_net(rows, pool):
    """A learner with another network, on images one with normalisation layers."""
    return small.learner(pool, "ResNet18" if rows == "images" else "MLP", min_steps=2)


@pytest.fixture(scope="module")
def image_pool():
    return small.pool()


@pytest.fixture(scope="module")
def image_learner(image_pool):
    return small.learner(image_pool)


def ask(name, pool, learner, n, seed=0, **arguments):
    return STRATEGIES[name](pool, learner, stream(seed, "query", 0), **arguments).query(n)


@ALL
def test_strategy_is_a_documented_dataclass_without_state(name):
    strategy = STRATEGIES[name]
    assert is_dataclass(strategy)
    assert [f.name for f in fields(strategy)][:3] == ["pool", "learner", "rng"]
    assert described(strategy, "Source")
    assert described(strategy, "Cost")
    assert len(strategy.__mro__) <= 4  # itself, ScoreStrategy, Strategy, object


@ALL
@pytest.mark.parametrize("n", [1, 7, 48])
def test_query_returns_n_different_unlabeled_indices(name, n, pool, learner):
    picks = ask(name, pool, learner, n)
    assert picks.dtype == np.int64
    assert picks.shape == (n,)
    assert len(set(picks.tolist())) == n
    assert set(picks.tolist()) <= set(pool.unlabeled.tolist())


@ALL
@pytest.mark.parametrize("n", [0, -1, 49])
def test_query_refuses_what_it_cannot_give(name, n, pool, learner):
    with pytest.raises(ValueError, match="48 images are unlabeled"):
        ask(name, pool, learner, n)


@ALL
def test_query_returns_n_indices_when_all_images_are_the_same(name, pool, learner):
    x = pool.inputs.x[torch.zeros(60, dtype=torch.int64)]
    same = Pool(Inputs(x), 4)
    same.label(np.arange(12), np.zeros(12, np.int64))
    picks = ask(name, same, learner, 20)
    assert len(set(picks.tolist())) == 20
    assert set(picks.tolist()) <= set(same.unlabeled.tolist())


@ALL
def test_query_neither_reads_nor_moves_global_generators(name, pool, learner):
    first = ask(name, pool, learner, 9)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    np.testing.assert_array_equal(ask(name, pool, learner, 9), first)
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


@ALL
def test_query_leaves_network_and_pool_as_they_were(name, pool, other_net):
    before = copy.deepcopy(other_net.net.state_dict())
    labels = pool.labels.copy()
    ask(name, pool, other_net, 9)
    after = other_net.net.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not any(m.training for m in other_net.net.modules())
    assert all(p.grad is None and not p.requires_grad for p in other_net.net.parameters())
    np.testing.assert_array_equal(pool.labels, labels)


@ALL
def test_query_depends_on_the_given_generator_alone(name, pool, learner):
    picks = {tuple(ask(name, pool, learner, 9, seed=1).tolist()) for _ in range(2)}
    assert len(picks) == 1


@ALL
def test_query_does_not_depend_on_the_batch_size(name, pool, learner):
    first = ask(name, pool, learner, 9)
    tiny = type(learner)(learner.net, learner.device, batch_size=7)
    np.testing.assert_array_equal(ask(name, pool, tiny, 9), first)


@ALL
def test_query_costs_what_its_docstring_says(name, pool, learner, monkeypatch):
    """48 images are unlabeled, 60 there are in all; what the two adversarial kernels count is in test_deepfool.py."""
    cost = described(STRATEGIES[name], "Cost")
    read, embedded, gradients = [], [], []
    batch, embed, grad = Inputs.batch, learner.net.embed, torch.autograd.grad

    def counting(self, start, stop, *rest):
        read.extend(self.idxs[start:stop].tolist())
        return batch(self, start, stop, *rest)

    monkeypatch.setattr(Inputs, "batch", counting)
    monkeypatch.setattr(learner.net, "embed", lambda x: embedded.append(len(x)) or embed(x))
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: gradients.append(1) or grad(*a, **k))
    ask(name, pool, learner, 9)
    reads_nothing, reads_all = cost.startswith("none"), "all images" in cost
    expected = set() if reads_nothing else set(range(60)) if reads_all else set(pool.unlabeled.tolist())
    assert set(read) <= expected, "Cost says 'all images' if more than the unlabeled ones are read"
    assert set(read) == expected or not cost.startswith("one pass"), "Cost says 'one pass', but not all are read"
    assert len(set(read)) == len(read) or "passes over" in cost, "Cost says 'passes over' if images are read twice"
    assert bool(gradients) == ("backward" in cost), "Cost says 'backward' if and only if there are gradients"
    assert sum(embedded) == len(read) or "passes" in cost or gradients, "Cost says 'passes' if there are several"


@pytest.mark.parametrize("name", [n for n, s in STRATEGIES.items() if s.needs_dropout])
def test_dropout_strategy_refuses_a_network_without_dropout(name, pool):
    without = small.learner(pool, "SmallCNN" if len(pool.inputs.shape) == 3 else "Linear", dropout=0.0)
    with pytest.raises(UserError, match="dropout"):
        ask(name, pool, without, 3)


@ALL
def test_a_strategy_declares_that_it_needs_dropout_if_and_only_if_it_uses_it(name, pool, learner, monkeypatch):
    passes = []
    dropout_head = learner.dropout_head
    monkeypatch.setattr(learner, "dropout_head", lambda *a: passes.append(1) or dropout_head(*a))
    ask(name, pool, learner, 3)
    assert STRATEGIES[name].needs_dropout == bool(passes)


@pytest.mark.parametrize("name", [n for n, s in STRATEGIES.items() if issubclass(s, ScoreStrategy)])
def test_nan_weights_are_an_error_and_not_a_query(name, pool, learner):
    broken = copy.deepcopy(learner)
    broken.net.head.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="NaN"):
        ask(name, pool, broken, 3)


@ALL
def test_nan_embeddings_are_an_error_and_not_a_query(name, pool, learner):
    if described(STRATEGIES[name], "Cost").startswith("none"):
        pytest.skip("does not read the network")
    broken = copy.deepcopy(learner)
    for tensor in (*broken.net.body.parameters(), broken.net.mean):
        tensor.fill_(torch.nan)
    with pytest.raises(UserError, match=r"NaN|not finite"):
        ask(name, pool, broken, 3)


# The four scores, against the slow reference, from the images to the picks


def expected_order(values, idxs, n):
    """Indices by value, highest first; the values must have no ties among those that count."""
    order = sorted(range(len(values)), key=lambda i: -values[i])
    return idxs[order[:n]]


@pytest.mark.parametrize(
    ("name", "score"),
    [("LeastConfidence", "least_confidence"), ("MarginSampling", "margin"), ("EntropySampling", "entropy")],
)
def test_uncertainty_strategies_equal_the_slow_reference(name, score, image_pool, image_learner):
    idxs = image_pool.unlabeled
    probs = []
    for i in idxs:
        x = image_pool.inputs.x[i : i + 1].double()
        net = copy.deepcopy(image_learner.net).double()
        logits = net.head(net.body((x / 255 - net.mean[:, None, None]) / net.std[:, None, None]))
        probs.append(reference.softmax(logits[0].tolist()))
    values = [getattr(reference, score)(p) for p in probs]
    np.testing.assert_array_equal(ask(name, image_pool, image_learner, 48), expected_order(values, idxs, 48))


@pytest.mark.parametrize("measure", [*scores.MEASURES, "mutual_information"])
def test_dropout_strategies_equal_the_slow_reference(measure, image_pool, image_learner):
    name = "UncertaintySamplingWithDropoutEstimation"
    arguments = {"n_drop": 6, "measure": measure}
    if measure == "mutual_information":
        name, arguments = "BayesianActiveLearningDisagreement", {"n_drop": 6}
    idxs, head = image_pool.unlabeled, image_learner.net.head
    masks = stream(0, "query", 0).random((6, head.in_features)) >= 0.5
    values = []
    for h in image_learner.embeddings(image_pool.inputs[idxs]).double():
        passes = [
            reference.softmax(
                reference.masked_logits(h.tolist(), head.weight.tolist(), head.bias.tolist(), mask.tolist(), 0.5)
            )
            for mask in masks
        ]
        if measure == "mutual_information":
            values.append(reference.mutual_information(passes))
        else:
            values.append(getattr(reference, measure)(reference.mean_prediction(passes)))
    got = STRATEGIES[name](image_pool, image_learner, stream(0, "query", 0), **arguments).score(idxs)
    np.testing.assert_allclose(got.numpy(), values, atol=2e-6)
    np.testing.assert_array_equal(ask(name, image_pool, image_learner, 9, **arguments), expected_order(values, idxs, 9))


def test_random_sampling_is_uniform(image_pool):
    counts = np.zeros(60)
    for seed in range(2000):
        counts[ask("RandomSampling", image_pool, None, 12, seed)] += 1
    assert counts[image_pool.labeled].sum() == 0
    expected = 2000 * 12 / 48
    assert ((counts[image_pool.unlabeled] - expected) ** 2 / expected).sum() < 80  # chi-square, 47 degrees of freedom
