"""BADGE against gradients that are written out."""

import numpy as np
import pytest
import reference_kernels as reference
import small
import torch
from reference_kernels import normal
from test_k_means import assert_law, counted

from strategies import badge as module
from strategies.badge import BADGE, badge
from utils import UserError


def rng(seed=0):
    return np.random.default_rng(seed)


def captured_distances(probs, h, monkeypatch):
    """The function of squared distances and the first pick that the kernel hands to the sampler."""
    seen = {}

    def sampler(distances, n_rows, first, n, rng, device):
        seen.update(distances=distances, first=first)
        return np.arange(n)

    with monkeypatch.context() as m:
        m.setattr(module, "sample_d2", sampler)
        badge(probs, h, len(h), rng())
    return seen["distances"], seen["first"]


@pytest.mark.parametrize(("n_rows", "c", "d"), [(40, 10, 32), (30, 2, 5), (20, 3, 1)])
def test_distances_are_those_of_the_materialised_gradients(n_rows, c, d, monkeypatch):
    probs, h = normal(n_rows, c).mul(3).softmax(1), normal(n_rows, d, seed=1).abs() + 1
    distances, first = captured_distances(probs, h, monkeypatch)
    gradients = reference.badge_gradients(probs, h)
    pairs = reference.all_sq_distances(gradients)
    ours = distances(slice(0, n_rows), torch.arange(n_rows)).numpy()
    assert np.abs(ours - pairs).max() <= 1e-5 * (gradients**2).sum(1).max()
    assert (ours >= 0).all()
    assert (np.diag(ours) == 0).all()
    assert first == (gradients**2).sum(1).argmax()
    some = torch.tensor([7, 2])
    np.testing.assert_allclose(distances(some, some), ours[[7, 2]][:, [7, 2]], rtol=1e-5, atol=1e-5)


def test_picks_follow_the_d2_law_of_the_gradients_exactly():
    probs, h = normal(6, 3, seed=3).mul(2).softmax(1), normal(6, 4, seed=4)
    gradients = reference.badge_gradients(probs, h)
    first = int((gradients**2).sum(1).argmax())
    counts = counted(lambda r: badge(probs, h, 3, r), 4000)
    assert_law(counts, reference.d2_sequences(reference.all_sq_distances(gradients), first, 3), 4000)


def test_certain_images_are_drawn_uniformly_when_nothing_else_is_left():
    """Where p is one-hot the gradient is 0: no mass, whatever the embedding."""
    probs = torch.eye(3)[[0, 1, 2, 0, 1, 2]]
    probs[4] = torch.tensor([0.2, 0.5, 0.3])
    last = set()
    for seed in range(40):
        picks = badge(probs, normal(6, 2) + 5, 6, rng(seed)).tolist()
        assert picks[0] == 4
        assert sorted(picks) == list(range(6))
        last.add(picks[-1])
    assert last == {0, 1, 2, 3, 5}


def test_duplicates_wait_until_all_different_rows_are_picked():
    probs, h = normal(25, 4).softmax(1), normal(25, 6, seed=1)
    picks = badge(torch.cat([probs] * 3), torch.cat([h] * 3), 75, rng())
    assert len(set((picks[:25] % 25).tolist())) == 25
    assert sorted(picks.tolist()) == list(range(75))


def test_of_equally_large_gradients_the_first_pick_is_a_draw():
    probs, h = torch.full((8, 3), 1 / 3), torch.ones(8, 2)
    assert {int(badge(probs, h, 1, rng(seed))[0]) for seed in range(60)} == set(range(8))


def test_inputs_are_left_as_they_were():
    probs, h = normal(30, 4).softmax(1), normal(30, 6)
    before = probs.clone(), h.clone()
    badge(probs, h, 10, rng())
    assert torch.equal(probs, before[0])
    assert torch.equal(h, before[1])


@pytest.mark.parametrize("n", [0, 6])
def test_n_out_of_range_is_refused(n):
    with pytest.raises(ValueError, match=f"{n} picks of 5 rows"):
        badge(normal(5, 2).softmax(1), normal(5, 2), n, rng())


def test_nan_is_an_error():
    h = normal(20, 2)
    h[3, 1] = torch.nan
    with pytest.raises(UserError, match="diverged"):
        badge(normal(20, 2).softmax(1), h, 3, rng())


def test_strategy_reads_the_predictions_and_embeddings_of_the_unlabeled():
    pool = small.pool(n=60, n_labeled=12)
    learner = small.learner(pool)
    images = pool.inputs[pool.unlabeled]
    gradients = reference.badge_gradients(learner.probs(images), learner.embeddings(images))
    idxs = BADGE(pool, learner, rng()).query(20)
    assert idxs[0] == pool.unlabeled[(gradients**2).sum(1).argmax()]
    assert len(set(idxs.tolist())) == 20
    assert set(idxs) <= set(pool.unlabeled)
