"""Images that take much memory to decode: how much, how much there is, and what is refused."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_folders import SIDE, cache_files, check, many, noise, paint
from PIL import EpsImagePlugin, Image

import data
from data import load
from images import workers
from images.decoding import decode, try_decode
from images.memory import LEAST, memory_for_decoding
from images.opening import MOST, bytes_to_decode, opened
from utils import UserError

ROOT = Path(data.__file__).parent


def png_of_zeros(path, width, height, bits=16, color=0):
    """A PNG whose file is a thousand times smaller than its pixels."""
    channels = {0: 1, 2: 3, 3: 1, 6: 4}[color]
    packer = zlib.compressobj(1)
    row = bytes(1 + width * channels * bits // 8)
    chunks = [packer.compress(row * 64) for _ in range(height // 64)]
    body = b"".join([*chunks, packer.compress(row * (height % 64)), packer.flush()])

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if color == 3 else b""
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + palette + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def test_a_small_file_that_needs_gigabytes_is_refused_with_numbers(tmp_path):
    png_of_zeros(tmp_path / "deep.png", 8192, 8192)
    assert (tmp_path / "deep.png").stat().st_size < 10**6
    reason = try_decode(tmp_path / "deep.png", SIDE, 2**29)
    assert reason == "8192 x 8192 pixels need 1.1 GB to decode, 0.5 GB allowed"
    png_of_zeros(tmp_path / "palette.png", 12000, 12000, bits=8, color=3)
    assert try_decode(tmp_path / "palette.png", SIDE, 2**29).startswith("12000 x 12000 pixels need 1.3 GB")


def test_formats_that_decode_when_they_are_opened_are_limited_by_their_pixels(tmp_path):
    png_of_zeros(tmp_path / "in.png", 3000, 3000, bits=8, color=6)
    png = (tmp_path / "in.png").read_bytes()
    entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(png), 22)  # claims 256 x 256 pixels
    (tmp_path / "a.ico").write_bytes(struct.pack("<HHH", 0, 1, 1) + entry + png)
    Image.new("RGB", (3000, 3000)).save(tmp_path / "a.webp")
    for name in ("a.ico", "a.webp"):
        reason = try_decode(tmp_path / name, SIDE, MOST * 10**6)
        assert reason == "more than 1 megapixels may not fit in the 0.1 GB allowed"
        assert not isinstance(try_decode(tmp_path / name, SIDE, MOST * 10**7), str)


def progressive(image):
    out = io.BytesIO()
    image.save(out, "JPEG", progressive=True)
    return out.getvalue()


def scans_apart(image):
    """A baseline JPEG that says that its first scan holds one channel of three."""
    out = io.BytesIO()
    image.save(out, "JPEG")
    start = out.getvalue().index(b"\xff\xda")
    scan = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 0, 63, 0)
    return out.getvalue()[:start] + scan + out.getvalue()[start + 14 :]


def test_a_large_photograph_is_decoded_in_little_memory_and_one_that_is_kept_as_a_whole_is_not(tmp_path):
    """A drafted JPEG is decoded line by line, unless its channels or bits follow one another."""
    image = Image.new("RGB", (4000, 4000), (200, 30, 90))
    image.save(tmp_path / "a.jpg")
    assert np.abs(decode(tmp_path / "a.jpg", SIDE, 2**24).astype(int) - [200, 30, 90]).max() <= 3
    for content in (progressive(image), scans_apart(image)):
        (tmp_path / "a.jpg").write_bytes(content)
        assert try_decode(tmp_path / "a.jpg", SIDE, 2**24).startswith("4000 x 4000 pixels need 0.1 GB to decode")


def test_a_strip_that_resizing_would_widen_is_refused(tmp_path):
    """1 x 200,000 pixels become 1024 x 200,000 before the height is resized."""
    png_of_zeros(tmp_path / "a.png", 1, 200_000, bits=8)
    assert "need 0.8 GB" in try_decode(tmp_path / "a.png", 1024, 2**29)
    assert not isinstance(try_decode(tmp_path / "a.png", 1024, 2**30), str)


def test_a_file_that_is_read_as_a_whole_is_limited_by_its_size(tmp_path):
    with open(tmp_path / "a.webp", "wb") as f:
        f.write(b"RIFF\0\0\0\0WEBPVP8 ")
        f.truncate(2**40)  # of which the disk holds a block
    assert try_decode(tmp_path / "a.webp", SIDE, LEAST) == "the file has 1099.5 GB, 0.5 GB allowed"


# Peak memory

KINDS = {
    "rgb.png": ("RGB", {}),
    "grey.png": ("L", {}),
    "palette.png": ("P", {}),
    "alpha.png": ("RGBA", {}),
    "deep.png": ("I;16", {}),
    "turned.png": ("RGBA", {"exif": True}),
    "frames.gif": ("P", {"frames": True}),
    "frames.webp": ("RGB", {"frames": True}),
    "frames.tif": ("RGB", {"frames": True}),
    "packed.tif": ("RGB", {"compression": "tiff_lzw"}),
    "int.tif": ("I", {}),
    "float.tif": ("F", {}),
    "ink.tif": ("CMYK", {}),
    "plain.jpg": ("RGB", {}),
    "parts.jpg": ("RGB", {"progressive": True}),
    "a.avif": ("RGB", {"speed": 10}),
    "a.jp2": ("RGBA", {}),
    "a.bmp": ("RGB", {}),
}
MEASURE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from PIL import Image
from images.decoding import try_decode

def n_bytes(name):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024

Image.init()
limit = int(sys.argv[2])
for path in map(Path, sys.argv[3:]):
    child = os.fork()
    if child == 0:
        try_decode(path.parent / "small" / path.name, 32, 2**40)  # maps the pages of libraries
        before = n_bytes("VmRSS")
        refused = isinstance(try_decode(path, 32, limit), str)
        print(path.name, int(refused), n_bytes("VmHWM") - before, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def measured(limit, paths):
    """By file name: whether it was refused, and the bytes that decoding it took."""
    command = [sys.executable, "-c", MEASURE, str(ROOT), str(limit), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return {name: (refused == "1", int(n)) for name, refused, n in map(str.split, done.stdout.splitlines())}


def paint_kind(path, mode, settings):
    """An image of 2.25 megapixels, and a small one of its kind."""
    settings = dict(settings)
    frames, turned = settings.pop("frames", False), settings.pop("exif", False)
    if turned:
        settings["exif"] = Image.Exif()
        settings["exif"][274] = 6
    (path.parent / "small").mkdir(exist_ok=True)
    for side, file in ((1500, path), (16, path.parent / "small" / path.name)):
        if frames:
            settings |= {
                "save_all": True,
                "append_images": [Image.new(mode, (side, side), 9 if mode == "P" else "red")],
            }
        Image.new(mode, (side, side)).save(file, **settings)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory on Linux")
def test_decoding_takes_no_more_than_it_was_said_to(tmp_path):
    Image.init()
    said = {}
    for name, (mode, settings) in KINDS.items():
        if Image.EXTENSION[f".{name.rpartition('.')[2]}"] in Image.SAVE:
            paint_kind(tmp_path / name, mode, settings)
            with opened(tmp_path / name, 2**40) as image:
                full = image.size
                image.draft("RGB", (64, 64))
                said[name] = bytes_to_decode(image, full, 32)
    margin = 3e6  # Python's own, and the file
    for name, (refused, taken) in measured(2**40, [tmp_path / name for name in said]).items():
        assert not refused, name
        assert taken < said[name] + margin, name


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures memory on Linux")
def test_what_is_refused_takes_next_to_nothing(tmp_path):
    limit = 10**7
    png_of_zeros(tmp_path / "deep.png", 8192, 8192)
    png_of_zeros(tmp_path / "palette.png", 8192, 8192, bits=8, color=3)
    for name in ("frames.gif", "frames.webp", "frames.tif", "parts.jpg", "a.jp2"):
        paint_kind(tmp_path / name, *KINDS[name])
    for name, (refused, taken) in measured(limit, sorted(p for p in tmp_path.iterdir() if p.is_file())).items():
        assert refused, name
        assert taken < 5e6, name


# How much there is


def system(folder, available=None, cgroup="", **limits):
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:   {available} kB\n" if available else "")
    (folder / "proc/self/cgroup").write_text(cgroup)
    for name, value in limits.items():
        path = folder / "sys/fs/cgroup" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return folder


GB = 10**9
SYSTEMS = {
    "free memory": (dict(available=8 * 10**6), 8 * 10**6 * 1024),
    "a container": (dict(available=8 * 10**6, cgroup="0::/\n", memory_dot_max=3 * GB), 3 * GB),
    "a job": (
        dict(available=8 * 10**6, cgroup="0::/a/job\n", a__memory_dot_max=4 * GB, a__job__memory_dot_max="max"),
        4 * GB,
    ),
    "version 1": (
        dict(available=8 * 10**6, cgroup="5:cpu:/\n4:memory:/x\n", memory__memory_dot_limit_in_bytes=2 * GB),
        2 * GB,
    ),
    "no limit": (dict(available=8 * 10**6, cgroup="0::/\n", memory_dot_max="max"), 8 * 10**6 * 1024),
}


@pytest.mark.parametrize("case", SYSTEMS)
def test_half_of_the_memory_is_for_decoding(tmp_path, case):
    settings, expected = SYSTEMS[case]
    assert memory_for_decoding(system(tmp_path, **settings)) == expected // 2


def test_ordinary_photographs_are_decoded_however_little_there_is(tmp_path, monkeypatch):
    assert memory_for_decoding(system(tmp_path / "a", available=1000)) == LEAST
    assert memory_for_decoding(tmp_path / "none") >= LEAST
    monkeypatch.delattr(os, "sysconf")
    assert memory_for_decoding(tmp_path / "none") == 2**31


# In a data set


def test_processes_share_the_memory_and_a_large_image_is_decoded_afterwards(own_cache, tmp_path, monkeypatch):
    pixels = many(tmp_path / "Many")
    large = noise(5, 700, 700, 3)
    pixels["train/cat/large.png"] = decode_large(tmp_path / "large.png", large)
    (tmp_path / "large.png").rename(tmp_path / "Many/train/cat/large.png")
    monkeypatch.setattr(workers, "n_cores", lambda: 2)
    monkeypatch.setattr(workers, "memory_for_decoding", lambda: 10**7)  # 700 x 700 pixels need 5.9 MB
    check(load("Many", tmp_path, SIDE), pixels)


def decode_large(path, pixels):
    paint(path, pixels)
    return decode(path, SIDE)


def test_an_image_that_is_too_large_is_an_unreadable_one(beasts, monkeypatch):
    data_dir, _ = beasts
    png_of_zeros(data_dir / "Beasts/train/ant/9.png", 4000, 4000)
    for module in ("images.workers", "images.opening"):
        monkeypatch.setattr(f"{module}.memory_for_decoding", lambda: 10**8)
    for _ in range(2):
        with pytest.raises(UserError, match=r"train/ant/9\.png: 4000 x 4000 pixels need 0\.3 GB to decode, 0\.1 GB"):
            load("Beasts", data_dir, SIDE)
    assert load("Beasts", data_dir, SIDE, skip_unreadable=True).unreadable == ["train/ant/9.png"]
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(data_dir / "home"))
    assert load("Beasts", data_dir, SIDE).unreadable == []  # there is more memory now
    assert len(cache_files(data_dir)) == 4


# Programs


def test_postscript_is_never_run(tmp_path, monkeypatch):
    program = tmp_path / "bin/gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/was_run\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.eps").read_bytes())
    for name in ("a.eps", "b.png"):
        assert try_decode(tmp_path / name, SIDE) == "PostScript is a program, which is not run; convert it to PNG"
    with pytest.raises(OSError, match="Ghostscript"), Image.open(tmp_path / "a.eps") as image:  # inside another format
        image.load()
    assert EpsImagePlugin.has_ghostscript() is False
    assert not (tmp_path / "was_run").exists()
