"""What the tests share."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import small

torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # as demo.py sets them
torch.set_num_threads(1)  # small tensors: threads only wait for each other


@pytest.fixture(scope="module")
def pool():
    return small.pool()


@pytest.fixture(scope="module")
def learner(pool):
    return small.learner(pool)
