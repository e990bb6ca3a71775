"""MaxHerding: the lazy picks against the plain loop, its bounds and counts, and the strategy."""

import numpy as np
import pytest
import reference_herding as reference
import small
import torch
from reference_kernels import normal

from strategies import STRATEGIES
from strategies.kernels import distances
from strategies.kernels import herding as module
from strategies.kernels.herding import herding
from strategies.max_herding import max_herding
from utils import UserError, stream


def assert_greedy(picks, x, centers, w, sigma, share):
    """Each pick has the largest gain up to a share of the total weight, whichever of equal ones it is."""
    gains = reference.Gains(x, centers, w, sigma)
    assert len({*picks}) == len(picks)
    for i, pick in enumerate(picks):
        now = gains(picks[:i])
        assert now[pick] >= now.max() - share * float(sum(w))


def weights(n, seed=0):
    """Some of them 0. Shape (n,)."""
    w = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    return w * (w > 0.2)


def groups(n, d, seed=0):
    """Rows in groups of different sizes. Shape (n, d)."""
    rng = np.random.default_rng(seed)
    return normal(12, d, seed=seed)[rng.integers(0, rng.integers(1, 13, n))] + 0.3 * normal(n, d, seed=seed + 1)


def spied(monkeypatch):
    """Rows of each call that renews all bounds, renews some, or measures gains."""
    calls = {"all_bounds": [], "bounds": [], "gains": []}
    for name in calls:
        method = getattr(module._Coverage, name)

        def spy(self, *args, name=name, method=method):
            calls[name].append(len(args[0]) if args else len(self.x))
            return method(self, *args)

        monkeypatch.setattr(module._Coverage, name, spy)
    return calls


def query(pool, learner, n, seed=0, **arguments):
    return STRATEGIES["MaxHerding"](pool, learner, stream(seed, "query", 0), **arguments).query(n)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 2.0, 300.0])
@pytest.mark.parametrize("n_centers", [0, 1, 15])
@pytest.mark.parametrize(("n_rows", "d", "n"), [(120, 5, 40), (50, 40, 50), (90, 2, 1), (1, 3, 1)])
def test_picks_are_those_of_the_plain_loop_in_the_same_order(n_rows, d, n, n_centers, sigma):
    x, centers, w = groups(n_rows, d), normal(n_centers, d, seed=9), weights(n_rows)
    picks = herding(x, centers, w, n, sigma).tolist()
    assert_greedy(picks, x, centers, w, sigma, 1e-11)
    if sigma in (0.5, 2.0) and n < n_rows:  # elsewhere there are ties
        assert picks == reference.herding(x, centers, w, n, sigma)


@pytest.mark.parametrize("tile", [1, 16, 1000])
@pytest.mark.parametrize("checked", [1, 3, 1000])
def test_blocks_change_nothing(tile, checked, monkeypatch):
    x, centers, w = groups(120, 5), normal(10, 5, seed=9), weights(120)
    expected = reference.herding(x, centers, w, 60, 1.0)
    for name, value in (("TILE", tile), ("CHECKED", checked), ("WIDE_ROWS", tile), ("CENTERS", checked)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "FIRST_BLOCK", checked)
    monkeypatch.setattr(distances, "BLOCK", 7 * tile)
    assert herding(x, centers, w, 60, 1.0).tolist() == expected


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_gains_that_float32_cannot_tell_apart(offset):
    """Pairs of nearly equal rows, whose gains differ in the last digits of float32."""
    x = groups(60, 16)
    x = torch.cat([x, x + 1e-5 * normal(60, 16, seed=5)]) + offset
    w = torch.ones(120)
    assert_greedy(herding(x, x[:0], w, 30, 4.0).tolist(), x, x[:0], w, 4.0, 1e-11)


@pytest.mark.parametrize("sigma", [0.01, 1.0, 1e4])
@pytest.mark.parametrize("d", [1, 30, 1500])
def test_bounds_are_above_the_gains_and_close(d, sigma):
    """Also for rows that are covered already, up to the last digit."""
    x = unit_rows(groups(150, d))
    x[100:] = x[:50]
    coverage = module._Coverage(x, weights(150), sigma)
    coverage.add(coverage.kernels(x[40:60]).amax(0))
    gains = coverage.gains(coverage.kernels(x))
    bounds = coverage.all_bounds()
    total = float(coverage.weights.sum())
    assert (bounds >= gains - module.SAME * total).all()
    np.testing.assert_allclose(coverage.bounds(np.arange(0, 150, 3)), bounds[::3], rtol=2e-5, atol=1e-9)
    slack = min(1.0, 4 * distances.rounding(d) / sigma**2 + 2e-5)
    assert (bounds - gains <= slack * total).all()


def unit_rows(x):
    return torch.from_numpy(reference.directions(x)).float()


def test_few_bounds_are_renewed_and_few_gains_measured(monkeypatch):
    """As most rows are covered, a pick changes the gains of few others."""
    x = unit_rows(groups(6000, 16))
    calls = spied(monkeypatch)
    herding(x[300:], x[:300], torch.ones(5700), 40, 0.5)
    assert calls["all_bounds"] == [5700]
    assert sum(calls["bounds"]) <= 40 * 64
    assert sum(calls["gains"]) <= 40 * 2 * module.CHECKED


def test_all_bounds_are_renewed_at_once_where_a_pick_changes_them_all(monkeypatch):
    x = unit_rows(groups(3000, 16))
    calls = spied(monkeypatch)
    herding(x, x[:0], torch.ones(3000), 3, 1.0)
    assert 2 <= len(calls["all_bounds"]) <= 3
    assert sum(calls["bounds"]) <= 3000


def test_no_matrix_of_all_pairs_is_held(monkeypatch):
    sizes = []
    exp = torch.Tensor.exp_
    monkeypatch.setattr(torch.Tensor, "exp_", lambda x: sizes.append(x.numel()) or exp(x))
    monkeypatch.setattr(module, "TILE", 64)
    monkeypatch.setattr(distances, "BLOCK", 4096)
    herding(groups(2000, 4), normal(200, 4, seed=3), torch.ones(2000), 5, 1.0)
    assert max(sizes) <= module.CENTERS * 2000


def test_duplicates_are_picked_last_but_picked():
    x = torch.cat([normal(20, 4)] * 3)
    picks = herding(x, x[:0], torch.ones(60), 60, 0.3)
    assert len(set((picks[:20] % 20).tolist())) == 20
    assert sorted(picks.tolist()) == list(range(60))


@pytest.mark.parametrize("w", [0.0, 1.0])
def test_rows_that_are_all_covered_are_still_different_picks(w):
    x = torch.ones(300, 4)
    assert len(set(herding(x, x[:2], torch.full((300,), w), 200, 1.0).tolist())) == 200


@pytest.mark.parametrize("n", [0, 6])
def test_n_out_of_range_is_refused(n):
    with pytest.raises(ValueError, match=f"{n} picks of 5 rows"):
        herding(normal(5, 2), normal(1, 2), torch.ones(5), n, 1.0)


@pytest.mark.parametrize("where", ["x", "centers", "weights"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_values_that_are_not_finite_are_an_error(where, bad):
    x, centers, w = normal(20, 2), normal(3, 2), torch.ones(20)
    {"x": x[1], "centers": centers[1], "weights": w}[where][0] = bad
    with pytest.raises(UserError, match="diverged"):
        herding(x, centers, w, 4, 1.0)


# The strategy


def test_weights_stay_with_their_rows_and_only_directions_count():
    h, centers, w = groups(80, 6), normal(9, 6, seed=3), weights(80)
    expected = reference.herding(reference.directions(h), reference.directions(centers), w, 20, 0.7)
    lengths = torch.rand(80, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    assert max_herding(h * lengths, 5 * centers, 20, stream(0), 0.7, w).tolist() == expected


@pytest.mark.parametrize(("name", "n_classes"), [("SmallCNN", 2), ("Linear", 4), ("MLP", 100)])
@pytest.mark.parametrize("n_labeled", [1, 20])
def test_strategy_picks_what_the_reference_picks(name, n_classes, n_labeled):
    pool = small.pool(80, n_labeled, n_classes, labels=np.full(80, n_classes - 1), name=name)
    learner = small.learner(pool, name)
    x = reference.directions(learner.embeddings(pool.inputs))
    picks = np.searchsorted(pool.unlabeled, query(pool, learner, 25)).tolist()
    assert_greedy(picks, x[pool.unlabeled], x[pool.labeled], np.ones(80 - n_labeled), 1.0, 1e-7)


def test_strategy_works_without_labeled_images_and_among_some(pool, learner):
    empty = small.pool(n_labeled=0)
    x = reference.directions(learner.embeddings(empty.inputs))
    assert_greedy(query(empty, learner, 60).tolist(), x, x[:0], np.ones(60), 1.0, 1e-7)
    among = pool.unlabeled[5:20]
    picks = np.searchsorted(among, STRATEGIES["MaxHerding"](pool, learner, stream(0)).query(4, among)).tolist()
    x = reference.directions(learner.embeddings(pool.inputs))
    assert_greedy(picks, x[among], x[pool.labeled], np.ones(15), 1.0, 1e-7)


def test_equal_images_are_told_apart_by_a_draw(pool, learner, monkeypatch):
    monkeypatch.setattr(learner, "embeddings", lambda inputs: torch.ones(len(inputs), 3))
    assert len({tuple(query(pool, learner, 3, seed)) for seed in range(10)}) == 10


@pytest.mark.parametrize("sigma", [0.0, 0.009, 1e9, float("nan")])
def test_meaningless_arguments_are_refused(sigma):
    with pytest.raises(UserError, match="sigma"):
        STRATEGIES["MaxHerding"](None, None, None, sigma=sigma)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_picks_what_the_cpu_picks():
    x, centers, w = groups(4000, 64), normal(300, 64, seed=1), weights(4000)
    got = herding(x.cuda(), centers.cuda(), w.cuda(), 100, 4.0)
    assert got.tolist() == herding(x, centers, w, 100, 4.0).tolist()
