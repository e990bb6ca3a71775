"""What the tests share."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import small

# as demo.py sets them
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

torch.set_num_threads(1)  # small tensors: threads only wait for each other


@pytest.fixture(scope="module")
def pool():
    return small.pool()


@pytest.fixture(scope="module")
def learner(pool):
    return small.learner(pool)
