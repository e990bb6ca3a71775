"""What the tests share."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import browser
import experiments
import image_folders
import small
from sweeping import obedient, stand_in, start_sweep, two_datasets, undisturbed, words  # noqa: F401  # fixtures

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


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder of data sets that holds one small one, Beasts."""
    folder = tmp_path_factory.mktemp("DATA")
    small.image_folder(folder / "Beasts", n_train=12, n_test=6)
    return folder


@pytest.fixture
def run(data_dir, tmp_path):
    """Runs demo.py in this process on Beasts with small settings."""
    return experiments.Runner(data_dir, tmp_path)


@pytest.fixture
def no_fsync(monkeypatch):
    """Skip waiting for the disk: no test cuts the power, and a busy disk takes its time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def own_cache(no_fsync, monkeypatch, tmp_path):
    """Hide the user's cache, and skip waiting for the disk."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


@pytest.fixture
def beasts(own_cache, tmp_path):
    """The folder of a data set of noise, Beasts, and the pixels of its images by path."""
    return tmp_path / "DATA", image_folders.folder(tmp_path / "DATA" / "Beasts")


@pytest.fixture(scope="module")
def chromium():
    """A headless browser for the tests of one file: playwright keeps an event loop in the thread while it runs."""
    with browser.started() as running:
        yield running
