"""CIFAR-10: found in a folder, or downloaded."""

import contextlib
import http.client
import os
import threading
import time
from pathlib import Path

import pytest
import torchvision
from image_folders import SIDE, check, folder, noise

from data import load
from files import lock_file
from images.listing import folder_of
from utils import UserError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("name", ["DATA_CIFAR10", "CIFAR10"])
def test_cifar10_is_read_from_either_folder(tmp_path, name):
    pixels = folder(tmp_path / name)
    check(load("CIFAR10", tmp_path, SIDE), pixels)


def test_users_cifar10_comes_before_a_downloaded_one(tmp_path):
    folder(tmp_path / "CIFAR10", classes=("a", "b"))
    folder(tmp_path / "DATA_CIFAR10", classes=("c", "d"))
    assert load("CIFAR10", tmp_path, SIDE).classes == ["c", "d"]
    assert folder_of("CIFAR10", tmp_path) == tmp_path / "DATA_CIFAR10"


class FakeCIFAR10:
    """torchvision's dataset as it looks from outside: two files in the root, arrays, targets, class names."""

    classes = ("plane", "car", "bird")

    def __init__(self, root, train, download):
        assert download
        root = Path(root)
        (root / "cifar-10-batches-py").mkdir(parents=True, exist_ok=True)
        (root / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"x")
        (root / "cifar-10-python.tar.gz").write_bytes(b"x")
        n = 30 if train else 12
        self.data = noise(n, n, SIDE, SIDE, 3)
        self.targets = [i * 7 % 3 for i in range(n)]


def test_cifar10_is_downloaded_where_it_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FakeCIFAR10)
    loaded = load("CIFAR10", tmp_path / "DATA", SIDE)
    assert "downloading it into" in capsys.readouterr().err
    assert loaded.classes == ["bird", "car", "plane"]
    pixels = {}
    for part in ("train", "test"):
        source = FakeCIFAR10(tmp_path, part == "train", True)
        for i, y in enumerate(source.targets):
            pixels[f"{part}/{FakeCIFAR10.classes[y]}/{i:05d}.png"] = source.data[i]
    check(loaded, pixels)
    assert {p.name for p in (tmp_path / "DATA").iterdir()} == {".cache", "CIFAR10"}
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", None)
    assert load("CIFAR10", tmp_path / "DATA", SIDE).digest == loaded.digest


def fail_at_once(root, train, download):
    raise OSError("<urlopen error no route to host>")


def fail_half_way(root, train, download):
    Path(root).mkdir(exist_ok=True)
    (Path(root) / "cifar-10-python.tar.gz").write_bytes(b"half")
    raise RuntimeError("File not found or corrupted.")


def fail_in_the_answer(root, train, download):
    raise http.client.IncompleteRead(b"half")


def fail_in_the_test_part(root, train, download):
    if not train:
        raise OSError(28, "No space left on device")
    return FakeCIFAR10(root, train, download)


def interrupted(root, train, download):
    fail_in_the_test_part(root, True, download)
    raise KeyboardInterrupt


@pytest.mark.parametrize("fail", [fail_at_once, fail_half_way, fail_in_the_answer, fail_in_the_test_part, interrupted])
def test_failed_download_says_what_to_do_and_leaves_nothing(tmp_path, monkeypatch, fail):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises((UserError, KeyboardInterrupt)) as e:
        load("CIFAR10", tmp_path / "DATA", SIDE)
    if fail is not interrupted:
        assert "CIFAR-10 could not be downloaded (" in str(e.value)
        assert "place its images as" in str(e.value)
        assert "DATA_CIFAR10/train/<class>/*" in str(e.value)
    assert [p.name for p in (tmp_path / "DATA").rglob("*")] == [".cache", "CIFAR10.lock"]
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FakeCIFAR10)
    assert len(load("CIFAR10", tmp_path / "DATA", SIDE).train) == 30


def test_what_torchvision_had_downloaded_before_stays(tmp_path, monkeypatch):
    FakeCIFAR10(tmp_path, True, True)
    (tmp_path / ".CIFAR10.1.tmp/train").mkdir(parents=True)  # of a process that was killed
    for make in (fail_half_way, FakeCIFAR10):
        monkeypatch.setattr(torchvision.datasets, "CIFAR10", make)
        with contextlib.suppress(UserError):
            load("CIFAR10", tmp_path, SIDE)
        assert (tmp_path / "cifar-10-python.tar.gz").exists()
        assert (tmp_path / "cifar-10-batches-py/data_batch_1").exists()
    assert {p.name for p in tmp_path.glob("[!c]*")} == {".cache", "CIFAR10"}


def test_download_by_another_process_is_waited_for_and_used(tmp_path, monkeypatch):
    lock_folder = tmp_path / ".cache"
    lock_folder.mkdir()
    lock = lock_file(lock_folder / "CIFAR10.lock", wait=False)
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", None)  # a second download would fail
    loaded = []
    thread = threading.Thread(target=lambda: loaded.append(load("CIFAR10", tmp_path, SIDE)))
    thread.start()
    time.sleep(0.1)
    pixels = folder(tmp_path / "made")
    (tmp_path / "made").rename(tmp_path / "CIFAR10")
    lock.close()
    thread.join(20)
    check(loaded[0], pixels)


def test_a_link_in_the_way_of_the_download_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", FakeCIFAR10)
    (tmp_path / "outside").mkdir()
    data_dir = tmp_path / "DATA"
    data_dir.mkdir()
    (data_dir / f".CIFAR10.{os.getpid()}.tmp").symlink_to(tmp_path / "outside")
    assert len(load("CIFAR10", data_dir, SIDE).train) == 30
    assert os.listdir(tmp_path / "outside") == []
