"""The cache of features: when it is used, when it is computed again, and what a failure leaves behind."""

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from image_folders import cache_files, folder, many, noise, paint
from toy_backbone import toy

from features import cache, row_files
from features.cache import cached_features, features_of_arrays
from features.embedding import network_pass
from images.listing import list_folder
from utils import UserError

pytestmark = pytest.mark.usefixtures("own_cache")
CPU = torch.device("cpu")
STEM = "Beasts+toy-8px"


def load(data_dir, backbone=None, listing=None):
    root = data_dir / "Beasts"
    return cached_features(root, listing or list_folder(root), data_dir, backbone or toy(), CPU)


def check(found, data_dir, pixels, backbone=None):
    """The features are those of the pixels, in order."""
    paths = [f.path for i, f in enumerate(list_folder(data_dir / "Beasts").files) if i not in found.unreadable]
    expected = network_pass(backbone or toy(), CPU)(np.stack([pixels[p] for p in paths]))
    assert found.x.dtype == torch.float16
    assert (found.x.float() - expected).abs().max() < 2e-3


@pytest.fixture
def n_embedded(monkeypatch):
    """A list that grows by the position from which each start goes on to embed."""
    starts, embed = [], cache.embed

    def counted(source, backbone, device, start):
        starts.append(start)
        return embed(source, backbone, device, start)

    monkeypatch.setattr(cache, "embed", counted)
    return starts


def test_second_start_embeds_nothing(beasts, n_embedded):
    data_dir, pixels = beasts
    first, second = load(data_dir), load(data_dir)
    check(first, data_dir, pixels)
    assert torch.equal(second.x, first.x)
    assert second.digest == first.digest
    assert n_embedded == [0]
    assert {name.rpartition(".")[2] for name in cache_files(data_dir)} == {"f16", "sha256", "json", "lock"}


def test_features_can_be_changed_by_the_reader_without_spoiling_the_cache(beasts):
    data_dir, pixels = beasts
    load(data_dir).x.add_(1)
    check(load(data_dir), data_dir, pixels)


def test_labels_and_class_names_change_the_digest_but_embed_nothing(beasts, n_embedded):
    data_dir, _ = beasts
    first = load(data_dir)
    listing = list_folder(data_dir / "Beasts")
    listing.splits["train"][0] = listing.splits["train"][0]._replace(label=2)
    assert load(data_dir, listing=listing).digest != first.digest
    renamed = replace(list_folder(data_dir / "Beasts"), classes=["a", "b", "c"])
    assert load(data_dir, listing=renamed).digest != first.digest
    assert n_embedded == [0]


def test_digest_is_that_of_content_and_not_of_times(beasts, tmp_path, n_embedded):
    data_dir, _ = beasts
    first = load(data_dir)
    for path in (data_dir / "Beasts").rglob("*.png"):
        os.utime(path, (1, 1))
    assert load(data_dir).digest == first.digest
    shutil.copytree(data_dir / "Beasts", tmp_path / "elsewhere/Beasts")
    assert load(tmp_path / "elsewhere").digest == first.digest
    paint(data_dir / "Beasts/train/ant/0.png", noise(77))
    assert load(data_dir).digest != first.digest
    assert n_embedded == [0] * 4


def test_changed_files_are_embedded_again(beasts):
    data_dir, pixels = beasts
    load(data_dir)
    pixels["train/bee/new.png"] = noise(78)
    paint(data_dir / "Beasts/train/bee/new.png", noise(78))
    check(load(data_dir), data_dir, pixels)
    assert len([name for name in cache_files(data_dir) if name.endswith(".f16")]) == 1


@pytest.mark.parametrize("other", [dict(seed=1), dict(resize_to=9), dict(interpolation="bilinear"), dict(squash=True)])
def test_other_weights_or_transform_are_other_features(beasts, other):
    data_dir, pixels = beasts
    first = load(data_dir)
    second = load(data_dir, toy(**other))
    assert second.digest != first.digest
    if "seed" in other:
        check(second, data_dir, pixels, toy(**other))


def test_another_pillow_embeds_again(beasts, n_embedded, monkeypatch):
    load(beasts[0])
    monkeypatch.setattr(PIL, "__version__", "99")
    load(beasts[0])
    assert n_embedded == [0, 0]


def test_sizes_and_backbones_are_kept_beside_each_other(beasts, n_embedded):
    for _ in range(2):
        load(beasts[0])
        load(beasts[0], toy(size=4, resize_to=4))
        load(beasts[0], replace(toy(), name="timm:other.tag"))
    assert n_embedded == [0] * 3
    assert "Beasts+other.tag-8px.json" in cache_files(beasts[0])


def test_unreadable_images_have_no_row(beasts):
    data_dir, pixels = beasts
    (data_dir / "Beasts/train/bee/1.png").write_text("no image")
    found = load(data_dir)
    position = [f.path for f in list_folder(data_dir / "Beasts").files].index("train/bee/1.png")
    assert [*found.unreadable] == [position]
    assert "cannot identify image file" in found.unreadable[position]
    check(found, data_dir, pixels)
    assert load(data_dir).unreadable == found.unreadable


def test_folder_of_unreadable_images_has_no_rows(own_cache, tmp_path):
    for path in folder(tmp_path / "DATA/Beasts"):
        (tmp_path / "DATA/Beasts" / path).write_text("no image")
    for _ in range(2):
        assert load(tmp_path / "DATA").x.shape == (0, 6)


def test_image_that_has_become_readable_gets_its_row(beasts, n_embedded, monkeypatch):
    data_dir, pixels = beasts
    reads = cache.ImageFiles.read

    def forbidden(source, i):
        return ("Permission denied", b"") if i == 3 else reads(source, i)

    with monkeypatch.context() as patch:
        patch.setattr(cache.ImageFiles, "read", forbidden)
        assert [*load(data_dir).unreadable] == [3]
        assert [*load(data_dir).unreadable] == [3]
    assert load(data_dir).unreadable == {}
    check(load(data_dir), data_dir, pixels)
    assert n_embedded == [0, 0]


# Damage


def damage_truncated(files):
    os.truncate(files["f16"], 20)


def damage_bits(files):
    """Of a file whose time is another one then."""
    content = bytearray(files["f16"].read_bytes())
    content[7] ^= 1
    files["f16"].write_bytes(content)


def damage_hashes(files):
    content = bytearray(files["sha256"].read_bytes())
    content[7] ^= 1
    files["sha256"].write_bytes(content)


def damage_missing_hashes(files):
    files["sha256"].unlink()


def damage_manifest(files):
    files["json"].write_text('{"key": [')


def damage_manifest_of_nonsense(files):
    files["json"].write_text(json.dumps({**json.loads(files["json"].read_text()), "unreadable": [[99, ""]]}))


def damage_manifest_of_another_type(files):
    files["json"].write_text(json.dumps({**json.loads(files["json"].read_text()), "n_done": "all"}))


@pytest.mark.parametrize("damage", [f for name, f in globals().items() if name.startswith("damage_")])
def test_damaged_cache_is_computed_again(beasts, damage, n_embedded):
    data_dir, pixels = beasts
    load(data_dir)
    files = {p.suffix[1:]: p for p in (data_dir / ".cache").iterdir()}
    damage(files)
    check(load(data_dir), data_dir, pixels)
    load(data_dir)
    assert n_embedded == [0, 0]


def test_copied_cache_is_used(beasts, n_embedded):
    """Its times are others; its checksum is not."""
    data_dir, pixels = beasts
    load(data_dir)
    (path,) = (data_dir / ".cache").glob("*.f16")
    os.utime(path, (1, 1))
    check(load(data_dir), data_dir, pixels)
    assert n_embedded == [0]


def test_link_in_the_place_of_a_file_is_not_followed(beasts, tmp_path):
    load(beasts[0])
    (path,) = (beasts[0] / ".cache").glob("*.f16")
    (beasts[0] / f".cache/{STEM}.json").unlink()
    path.unlink()
    (tmp_path / "precious").write_text("mine")
    path.symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="symbolic link"):
        load(beasts[0])
    assert (tmp_path / "precious").read_text() == "mine"


def test_full_disk_is_one_line_and_what_was_computed_is_used(beasts, monkeypatch, n_embedded):
    data_dir, _ = beasts
    many(data_dir / "Beasts", 100)
    whole = load(data_dir)
    shutil.rmtree(data_dir / ".cache")
    add = row_files.GrowingRows.add

    def full(rows, block):
        if block.start >= 64:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(rows, block)

    monkeypatch.setattr(row_files, "COMMIT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(row_files.GrowingRows, "add", full)
        with pytest.raises(UserError, match="No space left on device") as e:
            load(data_dir)
    assert "\n" not in str(e.value)
    assert torch.equal(load(data_dir).x, whole.x)
    assert n_embedded == [0, 0, 64]


def test_folder_that_cannot_be_written_is_one_line(beasts, monkeypatch):
    monkeypatch.setattr(cache, "first_writable", lambda folders: row_files.Path("/dev/null/none"))
    with pytest.raises(UserError, match="/dev/null/none"):
        load(beasts[0])


def test_killed_embedding_goes_on_and_ends_with_the_same_bytes(own_cache, tmp_path):
    many(tmp_path / "DATA/Beasts", 100)
    (tmp_path / "DATA/Beasts/train/bee/x0040.png").unlink()
    (tmp_path / "DATA/Beasts/train/bee/x0040.png").write_text("no image")
    shutil.copytree(tmp_path / "DATA/Beasts", tmp_path / "whole/Beasts", copy_function=shutil.copy2)
    load(tmp_path / "whole")
    script = Path(__file__).parent / "killed_embedding.py"
    command = [sys.executable, str(script), str(tmp_path / "DATA/Beasts"), "toy", "8", "5", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert (done.stdout, done.returncode) == ("5\n", 0), done.stderr
    for suffix in ("f16", "sha256"):
        killed, whole = (next(d.glob(f"*.{suffix}")) for d in (tmp_path / "DATA/.cache", tmp_path / "whole/.cache"))
        assert killed.name == whole.name
        assert killed.read_bytes() == whole.read_bytes()
    assert load(tmp_path / "DATA").digest == load(tmp_path / "whole").digest


# Arrays


def test_features_of_arrays_are_cached_by_content(own_cache, tmp_path, n_embedded):
    images = noise(5, 70, 8, 8, 3)
    x = features_of_arrays(images, toy(), CPU, "Noise", tmp_path)
    assert (x.float() - network_pass(toy(), CPU)(images)).abs().max() < 2e-3
    assert torch.equal(features_of_arrays(images.copy(), toy(), CPU, "Noise", tmp_path), x)
    assert n_embedded == [0]
    features_of_arrays(images[::-1], toy(), CPU, "Noise", tmp_path)
    assert n_embedded == [0, 0]
