"""What each image format shows, worked out without Pillow's conversions; damaged files."""

import random

import numpy as np
import pytest
from image_folders import SIDE, noise, paint
from PIL import Image

from images import decoding
from images.decoding import UNREADABLE, decode, square_images, try_decode


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"])
def test_random_damage_raises_nothing_but_unreadable(tmp_path, kind):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    rng = random.Random(kind)
    path = tmp_path / "a"
    Image.fromarray(noise(0, 24, 20, 3)).save(path, kind)
    whole = path.read_bytes()
    n_raised = 0
    for _ in range(60):
        content = bytearray(whole[: rng.randrange(len(whole) + 1)] if rng.random() < 0.3 else whole)
        for _ in range(rng.choice((1, 4, 16)) if content else 0):
            content[min(int(rng.expovariate(1 / 60)), len(content) - 1)] = rng.randrange(256)
        path.write_bytes(content)
        try:
            assert decode(path, SIDE).shape == (SIDE, SIDE, 3)
        except UNREADABLE:
            n_raised += 1
    assert n_raised


def shown(path, side=SIDE):
    x = decode(path, side)
    assert x.shape == (side, side, 3)
    assert x.dtype == np.uint8
    return x


GREY = noise(1, SIDE, SIDE)


def grey3(x):
    return np.repeat(x[:, :, None], 3, 2)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "webp", "jp2"])
def test_rgb_is_itself(tmp_path, suffix):
    settings = {"webp": {"lossless": True}, "jp2": {"irreversible": False}}.get(suffix, {})
    paint(tmp_path / f"a.{suffix}", noise(0), **settings)
    assert (shown(tmp_path / f"a.{suffix}") == noise(0)).all()


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "pgm", "gif"])
def test_grey_is_the_same_in_all_channels(tmp_path, suffix):
    paint(tmp_path / f"a.{suffix}", GREY)
    assert (shown(tmp_path / f"a.{suffix}") == grey3(GREY)).all()


def test_transparency_is_dropped(tmp_path):
    rgba = noise(2, SIDE, SIDE, 4)
    paint(tmp_path / "rgba.png", rgba)
    assert (shown(tmp_path / "rgba.png") == rgba[:, :, :3]).all()
    Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(noise(3, SIDE, SIDE))]).save(tmp_path / "la.png")
    assert (shown(tmp_path / "la.png") == grey3(GREY)).all()


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 240, 16))])
def test_palette_is_looked_up(tmp_path, transparency):
    palette, index = noise(4, 16, 3), noise(5, SIDE, SIDE) % 16
    image = Image.frombytes("P", (SIDE, SIDE), index.tobytes())
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a.png", **({} if transparency is None else {"transparency": transparency}))
    assert (shown(tmp_path / "a.png") == palette[index]).all()


def test_cmyk_is_ink_on_white(tmp_path):
    cmyk = noise(6, SIDE, SIDE, 4)
    Image.frombytes("CMYK", (SIDE, SIDE), cmyk.tobytes()).save(tmp_path / "a.tif")
    ink = 255.0 - cmyk
    expected = ink[:, :, :3] * ink[:, :, 3:] / 255
    assert np.abs(shown(tmp_path / "a.tif") - expected).max() <= 1
    flat_ink = np.broadcast_to(np.array([0, 255, 255, 40], np.uint8), (64, 64, 4))
    Image.frombytes("CMYK", (64, 64), flat_ink.tobytes()).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(shown(tmp_path / "a.jpg").astype(int) - [215, 0, 0]).max() <= 4


def test_one_bit_is_black_and_white(tmp_path):
    bits = GREY > 127
    for suffix in ("png", "tif", "pbm"):
        paint(tmp_path / f"a.{suffix}", bits)
        assert (shown(tmp_path / f"a.{suffix}") == grey3(bits * np.uint8(255))).all(), suffix


DEEP = np.random.default_rng(7).integers(0, 65536, (SIDE, SIDE)).astype(np.uint16)
DEEP[0, :6] = [0, 128, 129, 65406, 65407, 65535]


@pytest.mark.parametrize("kind", ["png", "tif", "big-endian tif", "32-bit tif", "pgm"])
def test_sixteen_bits_become_eight_by_rounding(tmp_path, kind):
    image = Image.fromarray(DEEP)
    if kind == "big-endian tif":
        image = Image.frombytes("I;16B", (SIDE, SIDE), DEEP.astype(">u2").tobytes())
    if kind == "32-bit tif":
        image = Image.fromarray(DEEP.astype(np.int32))
    path = tmp_path / f"a.{kind[-3:]}"
    image.save(path)
    assert (shown(path) == grey3(np.rint(DEEP / 257).astype(np.uint8))).all()


def test_float_is_scaled_from_one_or_taken_as_it_is(tmp_path):
    x = np.random.default_rng(8).random((SIDE, SIDE)).astype(np.float32)
    x[0, :3] = [0, 1, np.nan]
    paint(tmp_path / "unit.tif", x)
    assert (shown(tmp_path / "unit.tif") == grey3(np.rint(np.nan_to_num(x) * 255).astype(np.uint8))).all()
    x = x * 300 - 20
    paint(tmp_path / "bytes.tif", x)
    assert (shown(tmp_path / "bytes.tif") == grey3(np.rint(np.nan_to_num(x).clip(0, 255)).astype(np.uint8))).all()


def test_animation_shows_its_first_frame(tmp_path):
    frames = [Image.fromarray(np.full((SIDE, SIDE), v, np.uint8)) for v in (200, 10, 90)]
    for suffix in ("gif", "png", "webp", "tif"):
        frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
        assert np.abs(shown(tmp_path / f"a.{suffix}").astype(int) - 200).max() <= 1, suffix


# EXIF 2.3, tag 274: how the stored rows and columns must be turned to be upright.
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
def test_exif_rotation_is_undone(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    blocks = noise(9, 2, 2, 3) if suffix != "jpg" else np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [0, 0, 0]]])
    stored = blocks.astype(np.uint8).repeat(4, 0).repeat(4, 1)
    settings = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    paint(tmp_path / f"a.{suffix}", stored, exif=exif, **settings)
    expected = UPRIGHT[orientation](stored).astype(int)
    assert np.abs(shown(tmp_path / f"a.{suffix}") - expected).max() <= (8 if suffix == "jpg" else 0)


def test_exif_rotation_is_undone_in_sixteen_bits_too(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    paint(tmp_path / "a.png", DEEP, exif=exif)
    assert (shown(tmp_path / "a.png") == np.rot90(grey3(np.rint(DEEP / 257).astype(np.uint8)), -1)).all()


def resized(x, side):
    """Bilinear with antialiasing along the first axis: a triangle as wide as one new pixel, or one old one."""
    scale = len(x) / side
    width = max(scale, 1)
    rows = []
    for i in range(side):
        distance = np.abs(np.arange(len(x)) + 0.5 - (i + 0.5) * scale) / width
        weights = np.maximum(1 - distance, 0)
        rows.append(np.tensordot(weights / weights.sum(), x.astype(float), 1))
    return np.stack(rows)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (40, 13), (5, 31), (1, 1), (8, 9)])
def test_other_sizes_are_squashed_with_antialiasing(tmp_path, height, width):
    x = noise(10, height, width, 3)
    paint(tmp_path / "a.png", x)
    expected = resized(resized(x, SIDE).swapaxes(0, 1), SIDE).swapaxes(0, 1)
    assert np.abs(shown(tmp_path / "a.png") - expected).max() <= 1.01


def test_large_photograph_looks_the_same_drafted_as_in_full(tmp_path):
    y, x = np.mgrid[:600, :800]
    photo = np.stack([x * 255 // 800, y * 255 // 600, (x + y) % 400 * 255 // 400], 2).astype(np.uint8)
    paint(tmp_path / "a.jpg", photo, quality=95)
    paint(tmp_path / "a.png", photo)
    assert np.abs(shown(tmp_path / "a.jpg", 32).astype(int) - shown(tmp_path / "a.png", 32)).mean() < 3


@pytest.mark.parametrize("height", [128, 144, 256, 300])
@pytest.mark.parametrize("width", [128, 256, 500])
def test_photograph_is_decoded_at_twice_the_side_or_more_before_it_is_resized(tmp_path, monkeypatch, height, width):
    """JPEG offers whole eighths; Pillow uses 1, 1/2, 1/4 and 1/8, the same for both axes."""
    sizes = []

    def noted(image, img_size, crop):
        sizes.append(image.size)
        return np.zeros((img_size, img_size, 3), np.uint8)

    monkeypatch.setattr(decoding, "to_square", noted)
    paint(tmp_path / "a.jpg", noise(11, height, width, 3))
    decode(tmp_path / "a.jpg", 32)
    fractions = [f for f in (8, 4, 2, 1) if min(height, width) // f >= 2 * 32]
    assert sizes == [(-(-width // fractions[0]), -(-height // fractions[0]))]


def test_photograph_of_fine_detail_is_smoothed_like_the_whole_image(tmp_path):
    """Drafted at once the side, nothing is left to resize: each pixel is the mean of its own block alone."""
    photo = noise(12, 256, 256, 3)
    paint(tmp_path / "a.jpg", photo, quality=95, subsampling=0)
    paint(tmp_path / "a.png", photo)
    difference = np.abs(shown(tmp_path / "a.jpg", 32).astype(int) - shown(tmp_path / "a.png", 32))
    assert difference.mean() < 2.5  # 1.7; 4.2 when drafted at once the side


def test_reason_for_an_unreadable_image_is_one_line_without_its_path(tmp_path, monkeypatch):
    paint(tmp_path / "good.png", noise(0))
    assert (try_decode(tmp_path / "good.png", SIDE) == noise(0)).all()
    (tmp_path / "a.png").write_text("no image")
    assert try_decode(tmp_path / "a.png", SIDE) == "cannot identify image file"
    assert try_decode(tmp_path / "none.png", SIDE) == "No such file or directory"
    for error, reason in ((ValueError("two\n lines"), "two lines"), (EOFError(), "EOFError")):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(decoding, "to_square", fail)
        assert try_decode(tmp_path / "good.png", SIDE) == reason


@pytest.mark.parametrize("shape", [(16, 13), (16, 13, 3), (SIDE, SIDE), (SIDE, SIDE, 3)])
def test_images_in_memory_become_what_their_files_show(tmp_path, shape):
    images = np.stack([noise(20, *shape), noise(21, *shape)])
    for image, expected in zip(images, square_images(images, SIDE), strict=True):
        paint(tmp_path / "a.png", image)
        assert (shown(tmp_path / "a.png") == expected).all()
