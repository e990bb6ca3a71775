"""Damage images of all formats that Pillow writes, load their folder, and compare with what Pillow reads."""

import io
import json
import os
import re
import struct
import warnings
import zlib
from contextlib import suppress

import damage
import numpy as np
from children import in_child
from PIL import Image

import images.opening
import images.workers
from data import load
from images.decoding import UNREADABLE
from images.listing import image_suffixes
from utils import exit_code

N_IN_FOLDER = 5  # damaged images that are loaded at once
MEMORY = 2**29  # bytes that decoding may take
SLACK = 1.5  # beside it, memory for the program itself
MODES = ("RGB", "L", "RGBA", "P", "1", "I;16", "F", "CMYK")
OPTIONS = {
    "JPEG": ({}, {"progressive": True}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"}),
    "TIFF": tuple({"compression": c} for c in (None, "tiff_lzw", "tiff_deflate", "packbits", "zstd")),
    "TIFF 1": ({"compression": "group3"}, {"compression": "group4"}),
    "TIFF RGB": ({}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}),
    "WEBP": ({}, {"lossless": True}),
    "PNG": ({}, {"optimize": True}),
    "TGA": ({}, {"compression": "tga_rle"}),
    "GIF": ({}, {"interlace": 1}),
}
ODD_NAMES = ("{}.heic", "{}.raw", "{}.jpg.1", "{}.v2", "{}.jpg ", "{}", "{}.", "esc\x1b[31m{}.png", "new\nline{}.png")
ODD_NAMES += ("{}\u202egnp.png", "{}.PNG", "=1+1 {}.png", "bytes\udcff{}.png", "{}.txt", ".{}.png")
SPECIAL = ("FIFO", "folder", "dangling link", "link to itself", "link to a good image", "no permission")


def originals():
    """An image in every format, mode and compression that Pillow writes and reads. Name -> suffix, bytes."""
    Image.init()
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).resize((48, 40))
    suffixes = {f: s for s, f in sorted(Image.registered_extensions().items(), reverse=True) if s in image_suffixes()}
    found = {}
    for kind in sorted(set(Image.SAVE) & set(Image.OPEN) & set(suffixes)):
        for mode in MODES:
            for n, options in enumerate(OPTIONS.get(f"{kind} {mode}", OPTIONS.get(kind, ({},)))):
                data = _saved(picture, kind, mode, options)
                if data:
                    found[f"{kind} {mode} {n}"] = suffixes[kind], data
    return found


def _saved(picture, kind, mode, options):
    """The bytes of a picture, None where the format does not have the mode or cannot be read back."""
    out = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        try:
            image = picture.convert("L").convert("I").convert(mode) if mode == "I;16" else picture.convert(mode)
            image.save(out, kind, **options)
            Image.open(io.BytesIO(out.getvalue())).load()
        except UNREADABLE:
            return None
    return out.getvalue()


def chunk(name, data):
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb(side, depth, color):
    """A PNG of zeros, 64 rows of which are compressed once: a small file of many pixels."""
    n = side // 64
    row = 1 + side * depth * {0: 1, 2: 3, 6: 4}[color] // 8
    squeeze = zlib.compressobj(wbits=-15)
    rows = squeeze.compress(bytes(64 * row)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    adler = (64 * row * n) % 65521 << 16 | 1
    data = b"\x78\x9c" + rows * n + b"\x03\0" + struct.pack(">I", adler)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, 64 * n, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def huge(data, rng):
    """Claim enormous sizes in the header. Returns the bytes and what was done."""
    side = int(rng.choice([20000, 40000, 65000, 2**31 - 1, 2**32 - 1]))
    out, short = bytearray(data), min(side, 65535)
    if data.startswith(b"\x89PNG"):
        out = data[:8] + chunk(b"IHDR", struct.pack(">II", side, side) + data[24:29]) + data[33:]
    elif data.startswith(b"BM"):
        out[18:26] = struct.pack("<II", side, side)
    elif data.startswith(b"GIF"):
        out[6:10] = struct.pack("<HH", short, short)
    elif data.startswith(b"P") and data[1:2].isdigit():
        out = data.replace(b"48 40", b"%d %d" % (side, side), 1)
    elif data.startswith(b"\xff\xd8") and (at := max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))) > 0:
        out[at + 5 : at + 9] = struct.pack(">HH", short, short)
    elif data.startswith((b"II*\0", b"MM\0*")):
        for order in "<>":
            width, height = struct.pack(order + "HHI", 256, 4, 1), struct.pack(order + "HHI", 257, 4, 1)
            for tag in (width, height, width.replace(b"\4", b"\3"), height.replace(b"\4", b"\3")):
                at = data.find(tag)
                if at >= 0:
                    out[at : at + 12] = tag.replace(b"\3", b"\4") + struct.pack(order + "I", side)
    else:
        for value in (48, 40):
            for code in ("<H", ">H", "<I", ">I"):
                at = bytes(out).find(struct.pack(code, value))
                if 0 <= at < 64:
                    size = struct.calcsize(code)
                    out[at : at + size] = struct.pack(code, min(side, 256**size - 1))
                    break
    return bytes(out), f"a header of {side} pixels"


class DamagedImages:
    """Images of all formats, to be damaged.

    Args:
        base: nothing is written there.
        rng: decides on the order of the formats.
    """

    def __init__(self, base, rng):
        del base
        for module in (images.opening, images.workers):
            module.memory_for_decoding = lambda: MEMORY  # as on a small machine
        self.originals = originals()
        names = sorted(self.originals)
        self.names = [names[k] for k in rng.permutation(len(names))]
        self.good = self.originals["PNG RGB 0"][1]
        self.bombs = {
            f"{side} x {side} pixels of {depth} bits": bomb(side, depth, color)
            for side, depth, color in ((16000, 16, 0), (12000, 8, 6), (31000, 1, 0), (4000, 8, 2))
        }

    def damaged(self, path, n, rng):
        """Write a damaged image at a path, whose name may be changed. Returns the path and what was done."""
        name = self.names[n % len(self.names)]
        suffix, data = self.originals[name]
        path = path.with_name(path.name + suffix)
        ways = [damage.bytes_of] * 8 + [damage.flipped_head] * 3 + [huge] * 3
        ways += ["odd name", "wrong suffix", "special", "bomb", "odd name"]
        how = ways[int(rng.integers(len(ways)))]
        if callable(how):
            data, done = how(data, rng)
        elif how == "odd name":
            path = path.with_name(damage.pick(rng, ODD_NAMES).format(path.stem))
            data, done = damage.pick(rng, ((self.good, "good"), (b"", "empty"), (self.good[:50], "cut")))
        elif how == "wrong suffix":
            path = path.with_suffix(damage.pick(rng, [s for s, _ in self.originals.values()]))
            done = f"good, named {path.suffix}"
        elif how == "bomb":
            path = path.with_suffix(".png")
            done = damage.pick(rng, self.bombs)
            data = self.bombs[done]
        else:
            return path, f"{name}: {self.special(path, rng)}"
        path.write_bytes(data)
        return path, f"{name}: {done}"

    def special(self, path, rng):
        """Put something else than a file at a path. Returns what."""
        how = damage.pick(rng, [s for s in SPECIAL if s != "no permission" or os.geteuid()])
        if how == "FIFO":
            os.mkfifo(path)
        elif how == "folder":
            path.mkdir()
        elif how == "no permission":
            path.write_bytes(self.good)
            path.chmod(0)
        else:
            to = {"dangling link": "absent", "link to itself": path.name, "link to a good image": "good.png"}[how]
            path.symlink_to(to)
        return how

    def case(self, i, rng, folder):
        """Damage some images, load their folder. Yields what was done, then each command, its ending and its faults."""
        root = folder / "DATA" / "Beasts"
        for part in ("train", "test"):
            for name in ("ant", "bee"):
                (root / part / name).mkdir(parents=True)
                (root / part / name / "good.png").write_bytes(self.good)
        where = root / "train" / "ant"
        paths = [self.damaged(where / f"{k}", i * N_IN_FOLDER + k, rng) for k in range(N_IN_FOLDER)]
        yield "; ".join(f"{path.name!a}: {done}" for path, done in paths)
        broken = unreadable([path for path, _ in paths if path.is_file()], folder)
        refused = in_child(lambda: loading(folder, False), folder)
        yield "load", refused, refused.faults(memory=SLACK * MEMORY) + self.named_faults(refused, broken)
        if rng.integers(2):
            for p in (folder / "DATA" / ".cache").glob("*"):
                p.unlink()
        skipping = in_child(lambda: loading(folder, True), folder)
        faults = skipping.faults(codes=(0,), memory=SLACK * MEMORY)
        if skipping.code == 0:
            faults += self.lost_faults(skipping, folder, root, broken)
        yield "load --skip_unreadable", skipping, faults

    def named_faults(self, ending, broken):
        """Images that cannot be read and are not named."""
        text = ending.out + ending.err
        return [
            f"not named: {path.name!a} cannot be read"
            for path in broken
            if not path.name.startswith(".") and shown(path) not in text and "passed over" not in text
        ]

    def lost_faults(self, ending, folder, root, broken):
        """Images that are neither loaded nor named."""
        found = json.loads((folder / "cwd" / "loaded.json").read_text())
        known = {*found["loaded"], *found["unreadable"]}
        faults = [
            f"loaded: {path.name!a} cannot be read"
            for path in broken
            if path.relative_to(root).as_posix() in found["loaded"]
        ]
        there = [p for p in (root / "train" / "ant").iterdir() if not p.name.startswith(".") and not p.is_dir()]
        lost = [p for p in there if p.relative_to(root).as_posix() not in known]
        if lost and "passed over" not in ending.err:
            faults.append(f"left out without a word: {lost[0].name!a}")
        return faults


def shown(path):
    """The longest part of a name that is printed as it is."""
    return max(re.split(r"[^ -~]", path.name), key=len)


def loading(folder, skip):
    """Load the folder as demo.py does, and write what was loaded. Returns the exit code."""

    def work():
        data = load("Beasts", folder / "DATA", 8, skip)
        loaded = [p for split in data.splits.values() for p in split.paths]
        for split in data.splits.values():
            assert tuple(split.inputs.x.shape) == (len(split), 3, 8, 8)
        content = {"loaded": loaded, "unreadable": data.unreadable}
        (folder / "cwd" / "loaded.json").write_text(json.dumps(content))

    return exit_code(work, "interrupted")


def unreadable(paths, folder):
    """The files that Pillow itself cannot read; one of many pixels counts as readable."""

    def work():
        warnings.simplefilter("ignore")
        for i, path in enumerate(paths):
            try:
                with suppress(Image.DecompressionBombError), Image.open(path) as image:
                    if image.width * image.height < 2**22:
                        image.load()
            except UNREADABLE:
                print(i, flush=True)
        return 0

    return [paths[int(i)] for i in in_child(work, folder).out.split()]
