"""Large matrices that are rearranged and centered in place."""

import numpy as np
import pytest
import torch

from strategies.kernels import distances
from strategies.kernels.k_center import k_center_greedy
from strategies.kernels.k_means import k_means, nearest_members
from strategies.kernels.rows import rearranged
from utils import UserError


@pytest.mark.parametrize("shape", [(1, 1), (50, 3), (200, 64), (97, 130)])
def test_rearranged_equals_indexing_in_the_same_memory(shape):
    x = torch.randn(shape)
    order = np.random.default_rng(0).permutation(shape[0])
    expected, address = x[torch.from_numpy(order)], x.data_ptr()
    got = rearranged(x, order)
    assert torch.equal(got, expected)
    assert got.data_ptr() == address


@pytest.mark.parametrize("n_centers", [0, 20])
def test_large_inputs_give_the_same_picks_and_clusters_without_a_copy(n_centers, monkeypatch):
    x, centers = torch.randn(600, 12) + 3, torch.randn(n_centers, 12)
    picks = k_center_greedy(x.clone(), centers, 40)
    centroids, assignment = k_means(x.clone(), 25, np.random.default_rng(0))
    members = nearest_members(x, centroids, assignment)
    monkeypatch.setattr(distances, "LARGE", 1)
    again = x.clone()
    np.testing.assert_array_equal(k_center_greedy(again, centers, 40), picks)
    torch.testing.assert_close(again, x - x.mean(0))  # overwritten
    again = x.clone()
    found, clusters = k_means(again, 25, np.random.default_rng(0))
    torch.testing.assert_close(again, x)
    torch.testing.assert_close(found, centroids)
    assert torch.equal(clusters, assignment)
    assert torch.equal(nearest_members(again, found, clusters), members)


@pytest.mark.parametrize("large", [1, 2**29])
def test_centering_refuses_what_is_not_finite(large, monkeypatch):
    monkeypatch.setattr(distances, "LARGE", large)
    x = torch.randn(9, 3)
    x[4, 1] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        distances.centered_in_place(x)
