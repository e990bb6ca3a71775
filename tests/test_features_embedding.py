"""Images embedded by workers and by a device."""

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import noise
from torch import nn
from toy_backbone import TRANSFORM, toy

from features import embedding
from features.embedding import embed, network_pass
from features.sources import ImageArray
from images import workers
from utils import UserError

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent
IMAGES = noise(4, 300, 8, 8, 3)


class Holed(ImageArray):
    """Some images cannot be read."""

    def read(self, i):
        return ("hole", b"") if i in (0, 31, 32, 299) else super().read(i)


def rows_of(blocks):
    blocks = [*blocks]
    return np.concatenate([b.rows for b in blocks]), {i: why for b in blocks for i, why in b.unreadable.items()}


def without_fork(monkeypatch):
    monkeypatch.delattr(os, "fork")


@pytest.mark.parametrize("start", [0, 96])
def test_a_device_fed_by_workers_gives_the_rows_of_workers(monkeypatch, start):
    source = Holed(IMAGES, TRANSFORM)
    rows, unreadable = rows_of(embed(source, toy(), CPU, start))
    readable = [i for i in range(start, 300) if i not in unreadable]
    assert np.abs(rows - network_pass(toy(), CPU)(IMAGES[readable]).numpy()).max() < 2e-3
    without_fork(monkeypatch)
    others, others_unreadable = rows_of(embed(source, toy(), CPU, start))
    assert (rows == others).all()
    assert unreadable == others_unreadable == dict.fromkeys([i for i in (0, 31, 32, 299) if i >= start], "hole")


def test_rows_of_many_batches_are_in_order(monkeypatch):
    """More of them than are computed ahead."""
    monkeypatch.setattr(embedding, "TASK_SIZE", 2)
    blocks = [*embed(ImageArray(IMAGES, TRANSFORM), toy(), CPU)]
    assert [b.start for b in blocks] == [*range(0, 300, 2)]


def test_rows_do_not_depend_on_where_embedding_stopped():
    source = Holed(IMAGES, TRANSFORM)
    whole, _ = rows_of(embed(source, toy(), CPU))
    for stop in (32, 64, 288):
        rest, _ = rows_of(embed(source, toy(), CPU, stop))
        assert (whole[len(whole) - len(rest) :] == rest).all()


@pytest.mark.parametrize("cores", [1, 3])
def test_rows_do_not_depend_on_the_number_of_cores(monkeypatch, cores):
    source = ImageArray(IMAGES, TRANSFORM)
    whole, _ = rows_of(embed(source, toy(), CPU))
    monkeypatch.setattr(workers, "n_cores", lambda: cores)
    assert (rows_of(embed(source, toy(), CPU))[0] == whole).all()


def test_batches_of_large_images_are_smaller():
    sizes = []
    for size in (8, 224, 448):
        transform = TRANSFORM._replace(size=size, resize_to=size)
        blocks = embed(ImageArray(IMAGES[:32], transform), toy(size=size, resize_to=size), CPU)
        sizes.append(max(b.stop - b.start for b in blocks))
    assert sizes == [32, 16, 4]


class Narrow(nn.Module):
    """Stands in for a network on a device whose memory holds three images."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def forward(self, x):
        if len(x) > self.limit:
            raise torch.OutOfMemoryError
        return x.mean((2, 3))


def test_batches_are_split_until_they_fit_the_memory(monkeypatch):
    without_fork(monkeypatch)
    source = ImageArray(IMAGES[:40], TRANSFORM)
    rows, _ = rows_of(embed(source, backbone_of(Narrow(3)), CPU))
    assert np.abs(rows - (IMAGES[:40].mean((1, 2)) / 255 - 0.5) / 0.25).max() < 1e-2
    with pytest.raises(UserError, match="the memory of cpu does not hold one image and the backbone"):
        rows_of(embed(source, backbone_of(Narrow(0)), CPU))


def backbone_of(network):
    made = toy(n_features=3)
    vars(made)["network"] = network
    return made


class Overflowing(nn.Module):
    def forward(self, x):
        return torch.full((len(x), 3), 1e6)


def test_features_that_float16_cannot_hold_are_refused():
    with pytest.raises(UserError, match="NaN or above 65,504"):
        rows_of(embed(ImageArray(IMAGES, TRANSFORM), backbone_of(Overflowing()), CPU))


class Deadly(ImageArray):
    """Reading one image kills the process."""

    def read(self, i):
        if i == 200:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(i)


def test_killed_worker_is_one_line():
    with pytest.raises(UserError, match="a process that embedded images was killed"):
        rows_of(embed(Deadly(IMAGES, TRANSFORM), toy(), CPU))


def test_no_jobs_are_left_behind():
    rows_of(embed(ImageArray(IMAGES, TRANSFORM), toy(), CPU))
    blocks = embed(ImageArray(IMAGES, TRANSFORM), toy(), CPU)
    next(blocks)
    blocks.close()
    assert embedding._jobs == {}


FAULTS = """
import resource
import torch
from features.embedding import _keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [torch.ones(7 << 20) for _ in range(3)]  # 28 MB each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
_keep_freed_memory()
faults()
print(usual, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_freed_memory_is_kept():
    out = subprocess.run([sys.executable, "-c", FAULTS], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    usual, kept = map(int, out.split())
    assert usual > 20_000
    assert kept < usual / 10


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(embedding.ctypes, "CDLL", lambda name: object())
    embedding._keep_freed_memory.__wrapped__()
