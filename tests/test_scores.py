"""Scores of predictions against formulas written out over Python floats."""

import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import scores


def random_probs(seed, *shape):
    """Softmaxes from flat to one-hot, with exact zeros, uniform rows and duplicates."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=shape) * rng.choice([0.1, 1, 10, 300], size=(*shape[:-1], 1))
    p = torch.from_numpy(logits).softmax(-1)
    flat = p.view(-1, shape[-1])
    flat[0] = 1 / shape[-1]
    flat[-1] = 0
    flat[-1, 0] = 1
    flat[1] = flat[2]
    return p


@pytest.mark.parametrize("n_classes", [2, 3, 10, 100])
@pytest.mark.parametrize("name", ["least_confidence", "margin", "entropy"])
def test_scores_equal_the_slow_reference(name, n_classes):
    p = random_probs(n_classes, 40, n_classes)
    expected = [getattr(reference, name)(row) for row in p.tolist()]
    np.testing.assert_allclose(getattr(scores, name)(p).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("n_drop", [1, 2, 7])
def test_mutual_information_equals_the_slow_reference(n_drop):
    p = random_probs(n_drop, n_drop, 30, 5)
    expected = [reference.mutual_information(p[:, i].tolist()) for i in range(30)]
    np.testing.assert_allclose(scores.mutual_information(p).numpy(), np.maximum(expected, 0), atol=1e-12)


def test_entropy_of_a_certain_prediction_is_zero_and_not_nan():
    assert scores.entropy(torch.tensor([[1.0, 0.0, 0.0]])).tolist() == [0.0]


def test_closed_forms():
    half = torch.tensor([0.5, 0.5])
    assert scores.entropy(half).item() == pytest.approx(math.log(2))
    assert scores.least_confidence(half).item() == 0.5
    assert scores.margin(half).item() == 0
    opposite = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert scores.mutual_information(opposite).item() == pytest.approx(math.log(2))
    assert scores.mutual_information(torch.stack([half, half])).item() == 0


@given(st.integers(0, 10**6), st.integers(2, 12))
@settings(max_examples=50, deadline=None)
def test_scores_ignore_the_order_of_classes_and_stay_in_range(seed, n_classes):
    p = random_probs(seed, 3, 4, n_classes)
    shuffled = p[..., torch.randperm(n_classes, generator=torch.Generator().manual_seed(seed))]
    for score in (*scores.MEASURES.values(), scores.mutual_information):
        torch.testing.assert_close(score(p), score(shuffled))
    assert (scores.entropy(p) <= math.log(n_classes) + 1e-9).all()
    assert (scores.entropy(p) >= 0).all()
    assert (scores.margin(p) <= 0).all()
    assert (scores.mutual_information(p) >= 0).all()
    assert (scores.mutual_information(p) <= math.log(3) + 1e-9).all()


def test_agreeing_networks_never_have_negative_disagreement():
    p = random_probs(7, 2000, 10).float()
    assert (scores.mutual_information(p.expand(50, -1, -1)) >= 0).all()
