"""The cache of decoded images: when it is used, when it is built again, and what a failure leaves behind."""

import hashlib
import json
import os
import threading
import time

import numpy as np
import PIL
import pytest
from image_folders import SIDE, cache_files, check, count_decodes, folder, noise, paint

from data import load
from images import cache, decoding
from images.listing import list_folder
from utils import UserError

pytestmark = pytest.mark.usefixtures("own_cache")


def test_second_start_decodes_nothing(beasts, monkeypatch):
    data_dir, pixels = beasts
    first = load("Beasts", data_dir, SIDE)
    decoded = count_decodes(monkeypatch)
    second = load("Beasts", data_dir, SIDE)
    check(second, pixels)
    assert decoded == []
    assert first.digest
    assert (second.mean == first.mean).all()
    assert (second.std == first.std).all()
    assert second.digest == first.digest


def test_pixels_can_be_changed_by_the_reader_without_spoiling_the_cache(beasts):
    data_dir, pixels = beasts
    loaded = load("Beasts", data_dir, SIDE)
    (path,) = (data_dir / ".cache").glob("*.u8")
    before = path.read_bytes()
    loaded.train.inputs.x.add_(1)
    assert path.read_bytes() == before
    check(load("Beasts", data_dir, SIDE), pixels)


def change_added(root, pixels):
    pixels["train/bee/new.png"] = noise(77)
    paint(root / "train/bee/new.png", noise(77))


def change_removed(root, pixels):
    del pixels["test/ant/1.png"]
    (root / "test/ant/1.png").unlink()


def change_content(root, pixels):
    """Other pixels in a file of the same size."""
    path = root / "train/ant/0.bmp"
    before = path.stat()
    pixels["train/ant/0.bmp"] = noise(78)
    paint(path, noise(78))
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def change_size(root, pixels):
    """Other pixels in a file with the same time."""
    path = root / "train/ant/0.bmp"
    before = path.stat()
    pixels["train/ant/0.bmp"] = np.full((SIDE, SIDE, 3), 5, np.uint8)
    paint(path, np.full((2 * SIDE, SIDE, 3), 5, np.uint8))
    assert path.stat().st_size != before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_class(root, pixels):
    for part in ("train", "test"):
        (root / part / "bee").rename(root / part / "zebra")
    for path in [p for p in pixels if "/bee/" in p]:
        pixels[path.replace("bee", "zebra")] = pixels.pop(path)


def change_name(root, pixels):
    """A file keeps its place in the order: nothing changes but its path."""
    (root / "train/ant/4.png").rename(root / "train/ant/9.png")
    pixels["train/ant/9.png"] = pixels.pop("train/ant/4.png")


def change_moved(root, pixels):
    """The same files, two of them in each other's place."""
    a, b, c = (root / f"train/ant/{name}" for name in ("1.png", "2.png", "c.png"))
    for old, new in ((a, c), (b, a), (c, b)):
        old.rename(new)
    pixels["train/ant/1.png"], pixels["train/ant/2.png"] = pixels["train/ant/2.png"], pixels["train/ant/1.png"]


CHANGES = [change_added, change_removed, change_content, change_size, change_class, change_name, change_moved]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_folder_is_read_again(beasts, change):
    data_dir, pixels = beasts
    root = data_dir / "Beasts"
    pixels["train/ant/0.bmp"] = noise(76)
    paint(root / "train/ant/0.bmp", noise(76))
    before = load("Beasts", data_dir, SIDE)
    files = cache_files(data_dir)
    change(root, pixels)
    after = load("Beasts", data_dir, SIDE)
    check(after, pixels)
    assert after.digest != before.digest
    assert len(cache_files(data_dir)) == len(files) == 4  # the old images are gone
    assert cache_files(data_dir) != files


def test_each_image_size_and_each_data_set_has_its_own_cache(beasts, monkeypatch):
    data_dir, pixels = beasts
    others = folder(data_dir / "Beasts-8px-more", classes=("x", "y"))
    load("Beasts", data_dir, SIDE)
    load("Beasts", data_dir, 16)
    load("Beasts-8px-more", data_dir, SIDE)
    load("Beasts", data_dir, SIDE, skip_unreadable=True)
    (data_dir / "Beasts/train/ant/4.png").unlink()
    del pixels["train/ant/4.png"]
    check(load("Beasts", data_dir, SIDE), pixels)  # removes what was cached of it, and nothing else
    decoded = count_decodes(monkeypatch)
    check(load("Beasts-8px-more", data_dir, SIDE), others)
    assert decoded == []


def test_another_pillow_or_resize_rule_rebuilds_the_cache(beasts, monkeypatch):
    data_dir, _ = beasts
    load("Beasts", data_dir, SIDE)
    decoded = count_decodes(monkeypatch)
    monkeypatch.setattr(PIL, "__version__", "99")
    load("Beasts", data_dir, SIDE)
    monkeypatch.setattr(cache, "RESIZE_RULE", "another")
    load("Beasts", data_dir, SIDE)
    assert len(decoded) == 48


def spoil_manifest(content):
    def spoil(folder):
        (folder / "Beasts-8px.json").write_bytes(content)

    return spoil


def spoil_field(name, value):
    def spoil(folder):
        path = folder / "Beasts-8px.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))

    return spoil


def spoil_images(change, same_time=False):
    def spoil(folder):
        path = next(folder.glob("*.u8"))
        content, stat = change(path.read_bytes()), path.stat()
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        if same_time:
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    return spoil


SPOILED = {
    "empty manifest": spoil_manifest(b""),
    "manifest of another kind": spoil_manifest(b"[1, 2]"),
    "manifest of no kind": spoil_manifest(b"\xff\xfe\0"),
    "no manifest": lambda folder: (folder / "Beasts-8px.json").unlink(),
    "another key": spoil_field("key", "0123456789abcdef"),
    "an image too few": spoil_field("unreadable", [[0, "why"]]),
    "unreadable of another kind": spoil_field("unreadable", 5),
    "a mean of nothing": spoil_field("mean", None),
    "a mean too short": spoil_field("mean", [0.5]),
    "another mean": spoil_field("mean", [9.0] * 3),
    "another deviation": spoil_field("std", [1e-30] * 3),
    "another field": spoil_field("more", 1),
    "a deviation of 0": spoil_field("std", [0.2, 0.0, 0.2]),
    "a deviation of NaN": spoil_field("std", [0.2, float("nan"), 0.2]),
    "a manifest without end": spoil_manifest(b"[" * 200_000),
    "other images": spoil_images(lambda x: x[::-1]),
    "no images": spoil_images(lambda _: None),
    "images cut to nothing": spoil_images(lambda _: b""),
    "images cut by a byte": spoil_images(lambda x: x[:-1]),
    "images cut in half": spoil_images(lambda x: x[: len(x) // 2]),
    "a byte too many": spoil_images(lambda x: x + b"\0"),
    "a byte too many at the same time": spoil_images(lambda x: x + b"\0", same_time=True),
    "images cut at the same time": spoil_images(lambda x: x[:-1], same_time=True),
}


@pytest.mark.parametrize("case", SPOILED)
def test_damaged_cache_is_built_again(beasts, case, monkeypatch):
    data_dir, pixels = beasts
    load("Beasts", data_dir, SIDE)
    SPOILED[case](data_dir / ".cache")
    decoded = count_decodes(monkeypatch)
    check(load("Beasts", data_dir, SIDE), pixels)
    assert len(decoded) >= 24
    decoded.clear()
    check(load("Beasts", data_dir, SIDE), pixels)
    assert decoded == []


def test_a_changed_manifest_or_digest_is_noticed_in_a_note(beasts, capsys):
    data_dir, _ = beasts
    first = load("Beasts", data_dir, SIDE)
    assert capsys.readouterr().err == ""
    spoil_field("mean", [9.0] * 3)(data_dir / ".cache")
    again = load("Beasts", data_dir, SIDE)
    assert (again.mean == first.mean).all()
    assert capsys.readouterr().err == f"note: {data_dir}/.cache/Beasts-8px.json is damaged; the images are read again\n"
    path = data_dir / ".cache/Beasts-8px.digests.json"
    path.write_text(path.read_text().replace(first.digest, "0" * 16))
    assert load("Beasts", data_dir, SIDE).digest == first.digest
    assert capsys.readouterr().err == f"note: {path} is damaged; the digest is computed again\n"
    assert load("Beasts", data_dir, SIDE).digest == first.digest
    assert capsys.readouterr().err == ""


def test_manifest_cut_at_any_byte_is_ignored(beasts):
    data_dir, _ = beasts
    load("Beasts", data_dir, SIDE)
    manifest = data_dir / ".cache/Beasts-8px.json"
    whole = manifest.read_bytes()
    images = cache._Images(data_dir / "Beasts", list_folder(data_dir / "Beasts"), SIDE)
    assert cache._open(images, data_dir / ".cache") is not None
    for n in range(len(whole)):
        manifest.write_bytes(whole[:n])
        assert cache._open(images, data_dir / ".cache") is None


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_build_that_fails_leaves_nothing_and_the_next_one_works(beasts, monkeypatch, error):
    data_dir, pixels = beasts

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_close_gaps", fail)
        with pytest.raises((UserError, KeyboardInterrupt)) as e:
            load("Beasts", data_dir, SIDE)
    if isinstance(error, OSError):
        assert "cannot write" in str(e.value)
        assert "No space left on device" in str(e.value)
    assert cache_files(data_dir) == {"Beasts-8px.lock"}
    check(load("Beasts", data_dir, SIDE), pixels)


@pytest.mark.parametrize("writable", [True, False])
def test_data_that_cannot_be_written_is_cached_at_home(beasts, monkeypatch, tmp_path, writable):
    data_dir, pixels = beasts
    if writable:
        access = os.access
        monkeypatch.setattr(os, "access", lambda p, mode: not str(p).startswith(str(data_dir)) and access(p, mode))
    else:
        (data_dir / ".cache").write_text("in the way")
    check(load("Beasts", data_dir, SIDE), pixels)
    assert len(list((tmp_path / "home/dalmax").iterdir())) == 4
    decoded = count_decodes(monkeypatch)
    check(load("Beasts", data_dir, SIDE), pixels)
    assert decoded == []


def test_lack_of_a_folder_for_the_cache_is_reported(beasts, monkeypatch, tmp_path):
    (beasts[0] / ".cache").write_text("in the way")
    (tmp_path / "home").write_text("in the way")
    with pytest.raises(UserError, match=r"no folder for the image cache can be written: tried .*DATA/\.cache, .*home"):
        load("Beasts", beasts[0], SIDE)


def test_user_without_a_home_has_the_cache_beside_the_data(beasts, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert cache.cache_folders(beasts[0]) == [beasts[0] / ".cache"]
    check(load("Beasts", beasts[0], SIDE), beasts[1])


def test_two_starts_at_once_read_every_image_once(beasts, monkeypatch, capsys):
    data_dir, pixels = beasts
    decode, decoded, loaded, digested = decoding.decode, [], [], []
    content_digest, first_writable = cache.content_digest, cache.first_writable
    ready = threading.Barrier(2, timeout=20)

    def slow(path, img_size, *more):
        decoded.append(path)
        time.sleep(0.01)
        return decode(path, img_size, *more)

    def together(folders):  # neither has found the pixels, or the digest, in the cache by then
        ready.wait()
        return first_writable(folders)

    def slow_digest(*content):
        digested.append(content)
        time.sleep(0.1)
        return content_digest(*content)

    monkeypatch.setattr(decoding, "decode", slow)
    monkeypatch.setattr(cache, "first_writable", together)
    monkeypatch.setattr(cache, "content_digest", slow_digest)
    threads = [threading.Thread(target=lambda: loaded.append(load("Beasts", data_dir, SIDE))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(decoded) == 24
    assert len(digested) == 1
    assert len(loaded) == 2
    for one in loaded:
        check(one, pixels)
    assert "another process is reading" in capsys.readouterr().err
    assert len(cache_files(data_dir)) == 4


def test_image_that_has_become_readable_is_read(beasts, monkeypatch):
    data_dir, pixels = beasts
    decode = decoding.decode

    def denied(path, img_size, *more):
        if path.name == "2.png":
            raise PermissionError(13, "Permission denied", str(path))
        return decode(path, img_size, *more)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode", denied)
        with pytest.raises(UserError, match=r"train/ant/2\.png: Permission denied"):
            load("Beasts", data_dir, SIDE)
    check(load("Beasts", data_dir, SIDE), pixels)  # neither size nor time has changed


def test_cache_of_an_older_version_is_replaced(beasts, monkeypatch):
    """Version 0.1.0 had labels and class names in the key and the digest in the manifest."""
    data_dir, pixels = beasts
    listing = list_folder(data_dir / "Beasts")
    key = hashlib.sha256(json.dumps([1, SIDE, cache.RESIZE_RULE, PIL.__version__, listing.classes]).encode())
    for f in listing.files:
        key.update(f"{f.path}\0{f.label} {f.size} {f.mtime_ns}\n".encode())
    old = data_dir / f".cache/Beasts-8px-{key.hexdigest()[:16]}.u8"
    old.parent.mkdir()
    old.write_bytes(bytes(24 * SIDE * SIDE * 3))
    manifest = {"key": key.hexdigest()[:16], "mtime_ns": old.stat().st_mtime_ns, "unreadable": []}
    manifest |= {"mean": [0.5] * 3, "std": [0.2] * 3, "digest": "0123456789abcdef"}
    (data_dir / ".cache/Beasts-8px.json").write_text(json.dumps(manifest))
    check(load("Beasts", data_dir, SIDE), pixels)
    assert not old.exists()
    assert len(cache_files(data_dir)) == 4
    decoded = count_decodes(monkeypatch)
    check(load("Beasts", data_dir, SIDE), pixels)
    assert decoded == []


def test_statistics_are_of_the_training_images_alone(tmp_path):
    """val/ comes between train/ and test/; unreadable images of each are left out."""
    pixels = folder(tmp_path / "Beasts", n_train=4, n_val=3, n_test=2)
    for path in ("train/ant/0.png", "train/cat/3.png", "val/bee/1.png", "test/ant/0.png"):
        (tmp_path / "Beasts" / path).write_text("no image")
        del pixels[path]
    for _ in range(2):
        loaded = load("Beasts", tmp_path, SIDE, skip_unreadable=True)
        check(loaded, pixels)
        train = np.stack([x for p, x in pixels.items() if p.startswith("train")]) / 255
        np.testing.assert_allclose(loaded.mean, train.mean((0, 1, 2)), rtol=1e-6)
        np.testing.assert_allclose(loaded.std, train.std((0, 1, 2)), rtol=1e-6)


KILLED = 9


def die_at(step, after):
    """From now on, this process dies before or after its step-th change of a file, or in a computation between."""
    steps = 0

    def deadly(function):
        def call(*args, **kwargs):
            nonlocal steps
            steps += 1
            if steps == step and not after:
                os._exit(KILLED)
            try:
                return function(*args, **kwargs)
            finally:
                if steps == step:
                    os._exit(KILLED)

        return call

    for name in ("replace", "fsync", "unlink"):
        setattr(os, name, deadly(getattr(os, name)))
    for name in ("decode_files", "_close_gaps", "channel_stats", "content_digest"):
        setattr(cache, name, deadly(getattr(cache, name)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("after", [False, True])
def test_start_killed_at_any_step_loses_time_alone(beasts, after):
    data_dir, pixels = beasts
    (data_dir / "Beasts/train/ant/5.png").write_text("no image")
    digest = load("Beasts", data_dir, SIDE, skip_unreadable=True).digest
    n_kills, status = 0, KILLED
    while status == KILLED:
        os.utime(data_dir / "Beasts/train/ant/0.png", ns=(0, n_kills))  # the cache that is there is old
        child = os.fork()
        if child == 0:
            try:
                die_at(n_kills + 1, after)
                load("Beasts", data_dir, SIDE, skip_unreadable=True)
                os._exit(0)
            finally:
                os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        n_kills += status == KILLED
        for _ in range(2):
            loaded = load("Beasts", data_dir, SIDE, skip_unreadable=True)
            check(loaded, pixels)
            assert loaded.digest == digest
        assert len(cache_files(data_dir)) == 4  # and no temporary file
    assert status == 0
    assert n_kills >= 12


def test_links_in_the_cache_folder_are_not_followed(beasts, tmp_path, monkeypatch):
    """The names of an older version, made of the process's number, could be guessed."""
    data_dir, pixels = beasts
    load("Beasts", data_dir, SIDE)
    (rows,) = (data_dir / ".cache").glob("*.u8")
    os.utime(data_dir / "Beasts/train/ant/0.png", ns=(0, 1))
    precious = tmp_path / "precious"
    precious.write_text("mine")
    guessed = [f".{name}.{os.getpid()}.tmp" for name in cache_files(data_dir)]
    for name in [*guessed, f"{rows.stem}.{os.getpid()}.tmp"]:
        (data_dir / ".cache" / name).symlink_to(precious)
    check(load("Beasts", data_dir, SIDE), pixels)
    assert precious.read_text() == "mine"
