"""EPIG against loops over images, targets and classes."""

import copy
import math

import numpy as np
import pytest
import reference
import reference_epig
import small
import torch
from reference_kernels import normal

from strategies.epig import EPIG
from strategies.kernels import predictive_information as module
from strategies.kernels.predictive_information import predictive_information
from strategies.scores import mutual_information
from utils import UserError, stream


def predictions(k, n, n_classes, seed=0, scale=2.0):
    """Class probabilities of k networks that agree in part. Shape (k, n, n_classes)."""
    return (scale * (normal(n, n_classes, seed=seed) + normal(k, n, n_classes, seed=seed + 1))).softmax(-1)


@pytest.mark.parametrize("block", [1, 60, 2**22])
@pytest.mark.parametrize(("k", "n", "m", "n_classes"), [(5, 7, 4, 2), (3, 6, 5, 10), (2, 3, 1, 100), (1, 4, 3, 5)])
def test_information_is_that_of_the_double_loop(k, n, m, n_classes, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    monkeypatch.setattr("strategies.kernels.distances.BLOCK", block)
    probs, targets = predictions(k, n, n_classes), predictions(k, m, n_classes, seed=5)
    expected = reference_epig.epig(probs, targets)
    np.testing.assert_allclose(predictive_information(probs, targets), expected, rtol=1e-5, atol=1e-7)


def test_networks_that_agree_leave_nothing_to_learn():
    same = predictions(1, 8, 4).expand(6, -1, -1)
    assert predictive_information(same, same).max() < 1e-12


@pytest.mark.parametrize("scale", [0.1, 0.01])
def test_networks_that_hardly_differ_are_told_apart(scale):
    """In float32, all that is left of these differences of entropies is rounding."""
    logits, noise = normal(20, 5), normal(9, 20, 5, seed=1)
    wide = (logits.double() + scale * noise.double()).softmax(-1)
    expected = torch.tensor(reference_epig.epig(wide, wide[:, :4])).float()
    got = predictive_information(wide.float(), wide[:, :4].float())
    assert expected.max() < 1e-3
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=0)


def test_a_label_that_tells_which_network_is_right_tells_the_target():
    """Two networks, each certain; the class of the image names the network, and so the class of the target."""
    certain = torch.eye(2)[:, None]  # (2, 1, 2)
    torch.testing.assert_close(predictive_information(certain, certain), torch.tensor([math.log(2)]))
    blind = torch.full((2, 1, 2), 0.5)
    assert predictive_information(certain, blind).item() == pytest.approx(0, abs=1e-12)
    assert predictive_information(blind, certain).item() == pytest.approx(0, abs=1e-12)


def test_a_label_says_no_more_about_a_target_than_about_the_network():
    probs, targets = predictions(20, 30, 5), predictions(20, 10, 5, seed=3)
    information = predictive_information(probs, targets)
    assert (information > 0).all()
    assert (information < mutual_information(probs)).all()


def test_memory_is_bounded_by_blocks(monkeypatch):
    sizes = []
    entropy = module._joint_entropy
    monkeypatch.setattr(module, "CACHED", 5000)
    monkeypatch.setattr(module, "_joint_entropy", lambda p: sizes.append(p.numel()) or entropy(p))
    predictive_information(predictions(3, 40, 10), predictions(3, 60, 10, seed=4))
    assert sum(sizes) == 40 * 60 * 10 * 10
    assert max(sizes) == 5000
    assert len(sizes) == 40 * 60 * 100 // 5000


def expected_scores(pool, learner, idxs, n_drop, n_targets):
    """By loops, with the draws of the strategy repeated: the targets, then the masks."""
    rng = stream(0, "query", 0)
    drawn = rng.choice(len(pool.inputs), n_targets, replace=False)
    head = learner.net.head
    masks = rng.random((n_drop, head.in_features)) >= 0.5
    passes = []
    for rows in (idxs, drawn):
        h = learner.embeddings(pool.inputs[rows]).tolist()
        passes.append(
            [
                [
                    reference.softmax(
                        reference.masked_logits(row, head.weight.tolist(), head.bias.tolist(), mask.tolist(), 0.5)
                    )
                    for row in h
                ]
                for mask in masks
            ]
        )
    return reference_epig.epig(*map(torch.tensor, passes))


@pytest.mark.parametrize("name", ["SmallCNN", "Linear"])
def test_strategy_scores_as_the_reference_does(name):
    pool = small.pool(name=name)
    learner = small.learner(pool, name, dropout=0.5)
    idxs = pool.unlabeled
    expected = expected_scores(pool, learner, idxs, 4, 5)
    strategy = EPIG(pool, learner, stream(0, "query", 0), n_drop=4, n_targets=5)
    np.testing.assert_allclose(strategy.score(idxs), expected, rtol=1e-2)
    again = EPIG(pool, learner, stream(0, "query", 0), n_drop=4, n_targets=5)
    order = sorted(range(len(idxs)), key=lambda i: -expected[i])
    assert again.query(5).tolist() == idxs[order[:5]].tolist()


def test_targets_do_not_depend_on_what_may_be_chosen(pool, learner):
    idxs = pool.unlabeled
    scores = [EPIG(pool, learner, stream(0), n_drop=4, n_targets=5).score(some) for some in (idxs, idxs[10:])]
    torch.testing.assert_close(scores[0][10:], scores[1])


def test_more_targets_than_images_are_all_images(pool, learner):
    scores = [EPIG(pool, learner, stream(0), n_targets=m).score(pool.unlabeled) for m in (60, 10_000)]
    assert torch.equal(*scores)


@pytest.mark.parametrize("n_labeled", [0, 1, 59])
@pytest.mark.parametrize("n_classes", [2, 100])
def test_strategy_works_with_few_and_many_classes_and_labels(n_classes, n_labeled):
    pool = small.pool(n_classes=n_classes, labels=np.full(60, n_classes - 1), name="Linear")
    learner = small.learner(pool, "Linear", dropout=0.5)
    other = small.pool(n_labeled=n_labeled, n_classes=n_classes, name="Linear")
    n = 60 - n_labeled
    picks = EPIG(other, learner, stream(0), n_drop=3, n_targets=4).query(n)
    assert sorted(picks.tolist()) == other.unlabeled.tolist()


def test_nan_is_an_error(pool, learner):
    broken = copy.deepcopy(learner)
    broken.net.head.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="NaN"):
        EPIG(pool, broken, stream(0)).query(3)


@pytest.mark.parametrize("arguments", [{"n_drop": 1}, {"n_targets": 0}, {"n_targets": 10_001}])
def test_hyperparameters_out_of_range_are_refused(arguments, pool, learner):
    with pytest.raises(UserError, match="--strategy_args"):
        EPIG(pool, learner, stream(0), **arguments)
