"""ClusterMargin: average linkage against the loop, the turns, and the strategy."""

import itertools

import numpy as np
import pytest
import reference
import reference_cluster_margin
import small
import torch
from reference_kernels import normal
from scipy.stats import chisquare

import strategies.cluster_margin as module
from strategies import STRATEGIES
from strategies.cluster_margin import clusters_of, in_turn
from strategies.kernels import distances
from strategies.kernels.average_linkage import average_linkage, nearest_on_average
from utils import UserError, stream


def sets(assignment):
    return {frozenset(np.flatnonzero(assignment == c).tolist()) for c in set(assignment.tolist())}


def query(pool, learner, n, seed=0, **arguments):
    return STRATEGIES["ClusterMargin"](pool, learner, stream(seed, "query", 0), **arguments).query(n)


@pytest.mark.parametrize("k", [1, 2, 7, 25, 40])
@pytest.mark.parametrize("d", [1, 5])
def test_clusters_are_those_of_the_loop(k, d, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", 100)
    x = normal(40, d) + 50
    got = average_linkage(x, k)
    assert set(got.tolist()) == set(range(k))
    assert sets(got) == reference_cluster_margin.average_linkage(x, k)


@pytest.mark.parametrize("k", [1, 3, 20])
def test_equal_rows_make_as_many_clusters(k):
    assert set(average_linkage(torch.ones(20, 2), k).tolist()) == set(range(k))
    assert average_linkage(torch.ones(1, 2), 1).tolist() == [0]


@pytest.mark.parametrize("k", [0, 6])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match=f"{k} clusters of 5 rows"):
        average_linkage(normal(5, 2), k)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_an_error(bad):
    x = normal(20, 2)
    x[3, 1] = bad
    with pytest.raises(UserError, match="diverged"):
        average_linkage(x, 3)


@pytest.mark.parametrize("k", [1, 4, 30])
def test_others_join_the_cluster_that_is_nearest_on_average(k, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", 100)
    members, x = normal(30, 3), normal(50, 3, seed=1)
    assignment = np.random.default_rng(0).permutation(np.arange(30) % k)
    got = nearest_on_average(x, members, assignment)
    assert got.tolist() == reference_cluster_margin.nearest_on_average(x, members, assignment)


# Candidates and turns


@pytest.mark.parametrize("n_clustered", [30, 60, 1000])
def test_all_images_or_a_sample_are_clustered(n_clustered, monkeypatch):
    h, candidates = normal(60, 4), np.array([50, 3, 17, 44, 8, 29])
    clustered = []

    def spy(x, k):
        clustered.append((len(x), k))
        return average_linkage(x, k)

    monkeypatch.setattr(module, "average_linkage", spy)
    got = clusters_of(h, candidates, 7.0, n_clustered, stream(0))
    assert clustered == [(min(60, n_clustered), -(-min(60, n_clustered) // 7))]
    sample = np.sort(stream(0).choice(60, min(60, n_clustered), replace=False))
    assignment = average_linkage(h[sample], clustered[0][1])
    for position, cluster in zip(candidates, got, strict=True):
        if position in sample:
            assert cluster == assignment[sample.tolist().index(position)]
        else:
            assert [cluster] == reference_cluster_margin.nearest_on_average(h[[position]], h[sample], assignment)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9, 12])
def test_clusters_take_turns_from_the_smallest_up(n):
    clusters = np.array([7, 7, 2, 9, 9, 9, 9, 9, 2, 2, 5, 9])  # sizes: 5 has 1, 7 has 2, 2 has 3, 9 has 6
    for seed in range(20):
        got = in_turn(clusters, n, stream(seed))
        assert len(set(got.tolist())) == n
        assert clusters[got].tolist() == reference_cluster_margin.in_turn(clusters.tolist(), n)


def test_rows_of_a_cluster_and_clusters_of_a_size_are_drawn_at_random():
    clusters = np.array([0, 0, 0, 1, 1, 1])
    counts = dict.fromkeys(itertools.permutations(range(6), 2), 0)
    for seed in range(3600):
        counts[tuple(in_turn(clusters, 2, stream(seed)).tolist())] += 1
    possible = [c for pair, c in counts.items() if clusters[pair[0]] != clusters[pair[1]]]
    assert sum(possible) == 3600
    assert chisquare(possible).pvalue > 1e-3


# The strategy


@pytest.mark.parametrize(("name", "n_classes"), [("SmallCNN", 2), ("Linear", 4), ("MLP", 100)])
def test_picks_are_of_different_clusters_among_the_smallest_margins(name, n_classes):
    pool = small.pool(80, 12, n_classes, name=name)
    learner = small.learner(pool, name)
    h = learner.embeddings(pool.inputs[pool.unlabeled])
    probs = [reference.softmax(row) for row in learner.net.head(h).tolist()]
    candidates = sorted(range(68), key=lambda i: -reference.margin(probs[i]))[:18]
    clusters = average_linkage(h, 14)
    picks = np.searchsorted(pool.unlabeled, query(pool, learner, 6, candidates=3.0, size=5.0))
    assert set(picks.tolist()) <= set(candidates)
    expected = reference_cluster_margin.in_turn(clusters[candidates].tolist(), 6)
    of_size = [int((clusters[candidates] == c).sum()) for c in expected]
    assert [int((clusters[candidates] == c).sum()) for c in clusters[picks]] == of_size
    assert len(set(clusters[picks].tolist())) == len(set(expected))


def test_one_candidate_a_pick_is_margin_sampling(pool, learner):
    margin = STRATEGIES["MarginSampling"](pool, learner, stream(0)).query(9)
    assert set(query(pool, learner, 9, candidates=1.0).tolist()) == set(margin.tolist())


def test_all_images_and_a_choice_among_some(pool, learner):
    assert sorted(query(pool, learner, 48, n_clustered=10).tolist()) == pool.unlabeled.tolist()
    among = pool.unlabeled[5:20]
    assert set(STRATEGIES["ClusterMargin"](pool, learner, stream(0)).query(4, among).tolist()) <= set(among.tolist())
    empty = small.pool(n_labeled=0)
    assert len(set(query(empty, learner, 60, n_clustered=1).tolist())) == 60


def test_no_more_distances_than_of_the_clustered_and_to_the_candidates(pool, learner, monkeypatch):
    measured = []
    module_of = average_linkage.__globals__
    between = module_of["distances_between"]
    monkeypatch.setitem(module_of, "distances_between", lambda x, y: measured.append(len(x) * len(y)) or between(x, y))
    query(pool, learner, 2, n_clustered=20)
    assert sum(measured) <= 20 * 20 + 20 * 20


@pytest.mark.parametrize("arguments", [{"candidates": 0.5}, {"size": 0.0}, {"n_clustered": 0}, {"n_clustered": 10**6}])
def test_meaningless_arguments_are_refused(arguments):
    with pytest.raises(UserError, match=next(iter(arguments))):
        STRATEGIES["ClusterMargin"](None, None, None, **arguments)
