"""Rows rearranged in place."""

import numpy as np
import pytest
import torch

from strategies.kernels.rows import rearranged


@pytest.mark.parametrize("shape", [(1, 1), (50, 3), (200, 64), (97, 130)])
def test_rearranged_equals_indexing_in_the_same_memory(shape):
    x = torch.randn(shape)
    order = np.random.default_rng(0).permutation(shape[0])
    expected, address = x[torch.from_numpy(order)], x.data_ptr()
    got = rearranged(x, order)
    assert torch.equal(got, expected)
    assert got.data_ptr() == address
