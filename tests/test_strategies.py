"""The contract that every strategy keeps, walked over the registry."""

import copy
import random
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
import reference
import small
import torch

import strategies
from data import Images, Pool
from strategies import ALIASES, STRATEGIES, described, hyperparameters, resolve, scores
from strategies.base import ScoreStrategy, Strategy, top_n
from utils import UserError, stream

ALL = pytest.mark.parametrize("name", STRATEGIES)


@pytest.fixture(scope="module")
def resnet(pool):
    return small.learner(pool, "ResNet18", min_steps=2)


def ask(name, pool, learner, n, seed=0, **arguments):
    return STRATEGIES[name](pool, learner, stream(seed, "query", 0), **arguments).query(n)


def test_all_names_of_the_main_job_are_there():
    eight = [
        "RandomSampling", "LeastConfidence", "MarginSampling", "EntropySampling", "ClusterBasedSelection",
        "UncertaintySamplingWithDropoutEstimation", "BayesianActiveLearningDisagreement", "AdversarialMargin",
    ]  # fmt: skip
    assert set(eight) <= set(STRATEGIES)
    assert all(name == strategy.__name__ for name, strategy in STRATEGIES.items())


def test_all_names_of_deepal_resolve():
    names = [
        "RandomSampling", "LeastConfidence", "MarginSampling", "EntropySampling", "LeastConfidenceDropout",
        "MarginSamplingDropout", "EntropySamplingDropout", "KMeansSampling", "KCenterGreedy", "BALDDropout",
        "AdversarialBIM", "AdversarialDeepFool",
    ]  # fmt: skip
    for name in [*names, *ALIASES]:
        strategy, arguments = resolve(name, [])
        assert set(arguments) == set(hyperparameters(strategy))
    assert resolve("LeastConfidenceDropout", [])[1]["measure"] == "least_confidence"
    assert resolve("MarginSamplingDropout", ["n_drop=3"])[1] == {"measure": "margin", "n_drop": 3}


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
    x = small.pixels(1).permute(0, 2, 3, 1).expand(60, -1, -1, -1).contiguous().permute(0, 3, 1, 2)
    same = Pool(Images(x), np.zeros(60, np.int64), 4)
    same.label(np.arange(12))
    picks = ask(name, same, learner, 20)
    assert len(set(picks.tolist())) == 20
    assert set(picks.tolist()) <= set(same.unlabeled.tolist())


@ALL
def test_query_does_not_see_labels_nobody_paid_for(name, pool, learner):
    targets = pool._targets.copy()
    targets[pool.unlabeled] = np.roll(targets[pool.unlabeled], 5)[::-1]
    permuted = Pool(pool.images, targets, 4)
    permuted.label(pool.labeled)
    np.testing.assert_array_equal(ask(name, pool, learner, 9), ask(name, permuted, learner, 9))


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
def test_query_leaves_network_and_pool_as_they_were(name, pool, resnet):
    before = copy.deepcopy(resnet.net.state_dict())
    labels = pool.labels.copy()
    ask(name, pool, resnet, 9)
    after = resnet.net.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not any(m.training for m in resnet.net.modules())
    assert all(p.grad is None and not p.requires_grad for p in resnet.net.parameters())
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


EMBEDDED = {"RandomSampling": 0, "KCenterGreedy": 60, "AdversarialMargin": None, "AdversarialBIM": None}


@ALL
def test_query_passes_over_the_pool_once_and_without_gradients(name, pool, learner, monkeypatch):
    """48 images are unlabeled, 60 there are in all; what the two adversarial kernels count is in test_deepfool.py."""
    gathered, embedded, gradients = [], [], []
    batch, embed, grad = Images.batch, learner.net.embed, torch.autograd.grad
    monkeypatch.setattr(Images, "batch", lambda *a, **k: gathered.append(a[2] - a[1]) or batch(*a, **k))
    monkeypatch.setattr(learner.net, "embed", lambda x: embedded.append(len(x)) or embed(x))
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: gradients.append(1) or grad(*a, **k))
    ask(name, pool, learner, 9)
    expected = EMBEDDED.get(name, 48)
    assert sum(gathered) == (48 if expected is None else expected)
    if expected is not None:
        assert sum(embedded) == expected
        assert not gradients


@pytest.mark.parametrize("name", [n for n, s in STRATEGIES.items() if s.needs_dropout])
def test_dropout_strategy_refuses_a_network_without_dropout(name, pool):
    dry = small.learner(pool, dropout=0.0)
    with pytest.raises(UserError, match="dropout"):
        ask(name, pool, dry, 3)


def test_the_two_dropout_strategies_need_dropout_and_no_other():
    needy = {n for n, s in STRATEGIES.items() if s.needs_dropout}
    assert needy == {"UncertaintySamplingWithDropoutEstimation", "BayesianActiveLearningDisagreement"}


@pytest.mark.parametrize("name", [n for n, s in STRATEGIES.items() if issubclass(s, ScoreStrategy)])
def test_nan_weights_are_an_error_and_not_a_query(name, pool, learner):
    broken = copy.deepcopy(learner)
    broken.net.head.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="NaN"):
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
def test_uncertainty_strategies_equal_the_slow_reference(name, score, pool, learner):
    idxs = pool.unlabeled
    probs = []
    for i in idxs:
        x = pool.images.x[i : i + 1].double()
        net = copy.deepcopy(learner.net).double()
        logits = net.head(net.body((x / 255 - net.mean[:, None, None]) / net.std[:, None, None]))
        probs.append(reference.softmax(logits[0].tolist()))
    values = [getattr(reference, score)(p) for p in probs]
    np.testing.assert_array_equal(ask(name, pool, learner, 48), expected_order(values, idxs, 48))


@pytest.mark.parametrize("measure", [*scores.MEASURES, "mutual_information"])
def test_dropout_strategies_equal_the_slow_reference(measure, pool, learner):
    name = "UncertaintySamplingWithDropoutEstimation"
    arguments = {"n_drop": 6, "measure": measure}
    if measure == "mutual_information":
        name, arguments = "BayesianActiveLearningDisagreement", {"n_drop": 6}
    idxs, head = pool.unlabeled, learner.net.head
    masks = stream(0, "query", 0).random((6, head.in_features)) >= 0.5
    values = []
    for h in learner.embeddings(pool.images[idxs]).double():
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
    got = STRATEGIES[name](pool, learner, stream(0, "query", 0), **arguments).score(idxs)
    np.testing.assert_allclose(got.numpy(), values, atol=2e-6)
    np.testing.assert_array_equal(ask(name, pool, learner, 9, **arguments), expected_order(values, idxs, 9))


def test_random_sampling_is_uniform(pool):
    counts = np.zeros(60)
    for seed in range(2000):
        counts[ask("RandomSampling", pool, None, 12, seed)] += 1
    assert counts[pool.labeled].sum() == 0
    expected = 2000 * 12 / 48
    assert ((counts[pool.unlabeled] - expected) ** 2 / expected).sum() < 80  # chi-square, 47 degrees of freedom


# top_n


def test_top_n_takes_the_highest_first():
    picks = top_n(torch.tensor([0.1, 0.9, -torch.inf, 0.5, torch.inf]), 5, stream(0))
    assert picks.tolist() == [4, 1, 3, 0, 2]


def test_top_n_breaks_ties_by_a_fair_draw():
    values = torch.tensor([1.0, 2.0, 1.0, 1.0, 1.0])
    seconds = [top_n(values, 2, stream(seed)).tolist() for seed in range(400)]
    assert {first for first, _ in seconds} == {1}
    counts = np.bincount([second for _, second in seconds], minlength=5)
    assert counts[1] == 0
    assert (counts[[0, 2, 3, 4]] > 70).all()
    assert top_n(values, 2, stream(3)).tolist() == top_n(values, 2, stream(3)).tolist()


def test_top_n_refuses_nan_and_too_many():
    with pytest.raises(UserError, match="1 of 2 scores are NaN"):
        top_n(torch.tensor([1.0, torch.nan]), 1, stream(0))
    with pytest.raises(ValueError):
        top_n(torch.tensor([1.0]), 2, stream(0))


# Arguments


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Nonsense", [], "must be one of RandomSampling"),
        ("MarginSampling", ["n_drop=3"], "takes no arguments"),
        ("BayesianActiveLearningDisagreement", ["n_dropp=3"], r"takes \['n_drop'\]"),
        ("BayesianActiveLearningDisagreement", ["n_drop"], "KEY=VALUE"),
        ("BayesianActiveLearningDisagreement", ["n_drop=many"], "must be int"),
    ],
)
def test_wrong_arguments_are_told_with_the_right_ones(name, arguments, message):
    with pytest.raises(UserError, match=message):
        resolve(name, arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("BayesianActiveLearningDisagreement", {"n_drop": 1}),
        ("BayesianActiveLearningDisagreement", {"n_drop": 10**30}),
        ("UncertaintySamplingWithDropoutEstimation", {"n_drop": 10**30}),
        ("AdversarialMargin", {"overshoot": 1e300}),
        ("AdversarialBIM", {"step": 1e-320}),
        ("AdversarialBIM", {"step": 1e-9}),
        ("AdversarialBIM", {"bound": 1e300}),
        ("AdversarialBIM", {"n_search": 10**9}),
        ("UncertaintySamplingWithDropoutEstimation", {"n_drop": 0}),
        ("UncertaintySamplingWithDropoutEstimation", {"measure": "nonsense"}),
    ],
)
def test_meaningless_values_are_refused(name, arguments, pool, learner):
    with pytest.raises(UserError, match=next(iter(arguments))):
        STRATEGIES[name](pool, learner, stream(0), **arguments)


def test_a_new_strategy_needs_one_method(pool, learner):
    class Newest(Strategy):
        def select(self, idxs, n):
            return idxs[-n:]

    assert Newest(pool, learner, stream(0)).query(3).tolist() == pool.unlabeled[-3:].tolist()


def test_list_strategies_names_all(capsys):
    demo = Path(strategies.__file__).parent.parent / "demo.py"
    out = subprocess.run([sys.executable, demo, "--list_strategies"], capture_output=True, text=True, check=True).stdout
    assert all(name in out for name in [*STRATEGIES, *ALIASES])
    assert out.count("paper: ") == out.count("cost: ") == out.count("needs dropout: ") == len(STRATEGIES)
