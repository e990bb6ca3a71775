"""k-means, its seeding by squared distances, and the strategy that clusters."""

import numpy as np
import pytest
import reference_kernels as reference
import small
import torch
from reference_kernels import normal
from scipy.stats import chisquare
from sklearn.cluster import KMeans

from strategies.cluster_based_selection import ClusterBasedSelection
from strategies.kernels import d2_sampling, distances
from strategies.kernels import k_means as module
from strategies.kernels.d2_sampling import sample_d2
from strategies.kernels.k_means import k_means, nearest_members
from utils import UserError

CPU = torch.device("cpu")


def rng(seed=0):
    return np.random.default_rng(seed)


def table(pairs):
    """Squared distances looked up in a matrix, as `sample_d2` takes them."""
    pairs = torch.as_tensor(pairs, dtype=torch.float32)
    return lambda rows, picks: pairs[rows][:, picks]


def assert_law(counts, expected, n_runs):
    """The counted sequences of picks have the expected probabilities; rare ones are taken together."""
    assert set(counts) <= set(expected), "something impossible was drawn"
    frequent = [s for s, p in expected.items() if p * n_runs >= 10]
    observed = [counts.get(s, 0) for s in frequent]
    probabilities = [expected[s] for s in frequent]
    if sum(probabilities) < 1 - 1e-9:
        observed.append(n_runs - sum(observed))
        probabilities.append(1 - sum(probabilities))
    assert chisquare(observed, np.array(probabilities) * n_runs).pvalue > 1e-3


def counted(draw, n_runs):
    counts = {}
    for seed in range(n_runs):
        picks = tuple(draw(np.random.default_rng([7, seed])).tolist())
        counts[picks] = counts.get(picks, 0) + 1
    return counts


# The sampler that k-means and BADGE share


@pytest.mark.parametrize("blocks", [(16, 256), (2, 2)], ids=["one block", "many blocks"])
def test_sampler_follows_the_d2_law_exactly(blocks, monkeypatch):
    """Two tight groups and a loner: whoever draws by stale distances goes to the same group again."""
    monkeypatch.setattr(d2_sampling, "MIN_BLOCK", blocks[0])
    monkeypatch.setattr(d2_sampling, "MAX_BLOCK", blocks[1])
    x = [[0, 0], [1, 0], [5, 5], [5.5, 5], [5, 6.5], [-4, 1]]
    pairs = reference.all_sq_distances(x)
    counts = counted(lambda r: sample_d2(table(pairs), 6, 0, 4, r, CPU), 6000)
    assert_law(counts, reference.d2_sequences(pairs, 0, 4), 6000)


def test_sampler_draws_uniformly_when_all_distances_are_zero():
    counts = counted(lambda r: sample_d2(table(np.zeros((4, 4))), 4, 2, 3, r, CPU), 1500)
    assert_law(counts, reference.d2_sequences(np.zeros((4, 4)), 2, 3), 1500)


def test_sampler_takes_duplicates_only_when_nothing_else_is_left():
    pairs = reference.all_sq_distances([[0], [0], [3], [3], [8]])
    for seed in range(50):
        picks = sample_d2(table(pairs), 5, 0, 5, rng(seed), CPU).tolist()
        assert sorted(picks) == [0, 1, 2, 3, 4]
        assert {frozenset(picks[:3])} <= {frozenset({0, 2, 4}), frozenset({0, 3, 4})}


def test_sampler_picks_nothing_twice_when_rounding_leaves_distances_above_zero():
    for seed in range(20):
        assert sorted(sample_d2(table(np.ones((30, 30))), 30, 4, 30, rng(seed), CPU)) == list(range(30))


def test_sampler_passes_over_the_pool_a_few_times_for_a_thousand_picks():
    x = normal(5000, 8)
    passes = []

    def distances(rows, picks):
        if isinstance(rows, slice):
            passes.append(len(picks))
        return torch.cdist(x[rows], x[picks]).square()

    picks = sample_d2(distances, 5000, 3, 1000, rng(), CPU)
    assert len(set(picks.tolist())) == 1000
    assert len(passes) <= 20
    assert sum(passes) < 1000


# k-means


@pytest.mark.parametrize(("n_rows", "d", "k"), [(200, 3, 9), (150, 20, 40), (30, 2, 29), (40, 5, 1)])
def test_k_means_ends_where_lloyd_would_stay(n_rows, d, k):
    x = normal(n_rows, d) + 3
    centroids, assignment = k_means(x, k, rng(), max_iter=200, tol=0)
    assert assignment.tolist() == reference.nearest_centroid(x, centroids).tolist()
    for c in range(k):
        members = x[assignment == c].double()
        assert len(members)
        torch.testing.assert_close(centroids[c].double(), members.mean(0), rtol=1e-5, atol=1e-5)


def test_k_means_finds_separated_groups():
    x = torch.cat([normal(20, 6, seed=c) * 0.1 + 10 * c for c in range(8)])
    _, assignment = k_means(x, 8, rng())
    assert sorted(set(map(tuple, assignment.reshape(8, 20).sort(1).values.tolist()))) == [(c,) * 20 for c in range(8)]


def test_seeds_go_to_many_rows_rather_than_to_few_far_ones():
    far = torch.tensor([[0.0, 12], [0, -12], [12, 8], [12, -8], [-9, 9], [-9, -9]])
    x = torch.cat([normal(500, 2) * 0.1, normal(500, 2) * 0.1 + torch.tensor([4.0, 0]), far])
    for seed in range(10):
        _, assignment = k_means(x, 2, rng(seed))
        assert len({*assignment[:500].tolist()}) == len({*assignment[500:1000].tolist()}) == 1
        assert assignment[0] != assignment[500]


@pytest.mark.parametrize("k", [3, 50])
def test_k_means_is_as_good_as_scikit_learn(k):
    x = normal(3000, 10).abs() ** 1.5
    theirs = np.mean([KMeans(k, n_init=1, random_state=seed).fit(x.numpy()).inertia_ for seed in range(3)])
    ours = np.mean([reference.inertia(x.numpy(), *map(torch.Tensor.numpy, k_means(x, k, rng(s)))) for s in range(3)])
    assert ours <= 1.01 * theirs


def test_a_large_common_offset_costs_no_digits():
    x = (normal(500, 6) * 64).round() / 64  # so that the sum below is exact
    assert k_means(x + 4096, 20, rng())[1].tolist() == k_means(x, 20, rng())[1].tolist()


def test_blocks_of_rows_change_nothing(monkeypatch):
    x = normal(300, 4)
    whole = k_means(x, 12, rng())
    monkeypatch.setattr(distances, "BLOCK", 100)
    blocks = k_means(x, 12, rng())
    assert whole[1].tolist() == blocks[1].tolist()
    assert nearest_members(x, *blocks).tolist() == nearest_members(x, *whole).tolist()


@pytest.mark.parametrize(("n_rows", "block"), [(10, 7), (10, 1000), (1, 1), (1000, 64)])
def test_row_blocks_cover_all_rows_and_hold_no_more_than_a_block(n_rows, block, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", block)
    blocks = distances.row_blocks(n_rows, 5)
    assert [i for s in blocks for i in range(s.start, s.stop)] == list(range(n_rows))
    assert all((s.stop - s.start) * 5 <= max(5, block) for s in blocks)


@pytest.mark.parametrize(
    "x",
    [torch.ones(30, 3), torch.tensor([[1.0, 2], [3, 4], [5, 7]]).repeat(10, 1), normal(30, 2).round(), normal(30, 2)],
    ids=["all equal", "three different", "ties", "all different"],
)
@pytest.mark.parametrize("k", [1, 2, 7, 30])
def test_every_cluster_has_a_member_and_gives_one(x, k):
    centroids, assignment = k_means(x, k, rng())
    assert centroids.shape == (k, x.shape[1])
    assert assignment.unique().tolist() == list(range(k))
    members = nearest_members(x, centroids, assignment)
    assert assignment[members].tolist() == list(range(k))
    assert len(members.unique()) == k


def test_empty_clusters_get_the_farthest_rows_of_clusters_that_can_spare_them():
    assignment, sq = torch.tensor([0, 0, 2, 0, 0]), torch.tensor([1.0, 5, 9, 3, 0])
    module._fill_empty(assignment, sq, 4)
    assert assignment.tolist() == [0, 3, 2, 1, 0]
    assert sq.tolist() == [1, 0, 9, 0, 0]


def test_means_of_large_clusters_keep_their_digits():
    x = torch.full((400_000, 1), 0.1)
    x[::2] = 0.3
    means = module._means(x, (torch.arange(len(x)) % 1000 == 0).long(), 2)
    assert means[0].item() == pytest.approx(x[torch.arange(len(x)) % 1000 != 0].double().mean().item(), rel=3e-5)
    assert means[1].item() == pytest.approx(0.3, rel=3e-5)


def test_nearest_members_equal_the_loop():
    x, assignment = normal(120, 4), torch.arange(120) % 11
    centroids = normal(11, 4, seed=1)
    assert nearest_members(x, centroids, assignment).tolist() == reference.nearest_member(
        x.numpy(), centroids.numpy(), assignment.tolist()
    )


def test_of_equally_near_members_the_first_is_taken():
    x = torch.tensor([[1.0], [-1], [1], [5]])
    assert nearest_members(x, torch.tensor([[0.0], [5]]), torch.tensor([0, 0, 0, 1])).tolist() == [0, 3]
    pairs = normal(200, 7)
    assert nearest_members(pairs, (pairs[:100] + pairs[100:]) / 2, torch.arange(200) % 100).tolist() == list(range(100))


def test_k_means_depends_on_its_generator_alone():
    x = normal(400, 5)
    first = k_means(x, 20, rng(4))
    torch.rand(3)
    assert all(torch.equal(a, b) for a, b in zip(first, k_means(x, 20, rng(4)), strict=True))
    assert first[1].tolist() != k_means(x, 20, rng(5))[1].tolist()


@pytest.mark.parametrize("k", [0, 6])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match=f"{k} clusters of 5 rows"):
        k_means(normal(5, 2), k, rng())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_an_error(bad):
    x = normal(20, 2)
    x[3, 1] = bad
    with pytest.raises(UserError, match="diverged"):
        k_means(x, 3, rng())


def test_strategy_takes_the_middle_of_each_cluster_large_ones_first(monkeypatch):
    pool = small.pool(n=42, n_labeled=12)
    learner = small.learner(pool)
    sizes = [3, 17, 9, 1]
    groups = np.repeat(np.arange(4), sizes)
    x = torch.from_numpy(groups * 100.0 + 0.01 * np.arange(30)).float()[:, None]
    monkeypatch.setattr(learner, "embeddings", lambda inputs: x[np.searchsorted(pool.unlabeled, inputs.idxs)])
    idxs = ClusterBasedSelection(pool, learner, rng()).query(4)
    positions = np.searchsorted(pool.unlabeled, idxs)
    assert groups[positions].tolist() == [1, 2, 0, 3]
    assert positions.tolist() == [3 + 8, 20 + 4, 1, 29]


def test_which_of_two_equally_near_images_is_a_draw(monkeypatch):
    pool = small.pool(n=20, n_labeled=5)
    learner = small.learner(pool)
    monkeypatch.setattr(learner, "embeddings", lambda inputs: torch.ones(len(inputs), 3))
    assert len({int(ClusterBasedSelection(pool, learner, rng(seed)).query(1)[0]) for seed in range(30)}) > 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_gives_the_same_bits_twice():
    x = normal(20_000, 64).cuda()
    first, second = k_means(x, 300, rng()), k_means(x, 300, rng())
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
