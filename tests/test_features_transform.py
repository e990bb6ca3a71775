"""How images become the input of a backbone."""

import io

import numpy as np
import pytest
from image_folders import noise
from PIL import Image
from timm.data import create_transform
from toy_backbone import TRANSFORM

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.mark.parametrize("side", [(40, 64), (64, 40), (33, 57), (16, 120), (20, 20), (9, 11)])
@pytest.mark.parametrize(
    ("mode", "filter_name", "crop_pct"), [("center", "bicubic", 0.875), ("squash", "bilinear", 0.9)]
)
def test_transform_is_that_of_timm(side, mode, filter_name, crop_pct):
    image = Image.fromarray(noise(sum(side), *side, 3))
    theirs = create_transform(
        (3, 24, 24), interpolation=filter_name, crop_pct=crop_pct, crop_mode=mode, mean=MEAN, std=STD
    )
    ours = TRANSFORM._replace(size=24, resize_to=int(24 / crop_pct), interpolation=filter_name, squash=mode == "squash")
    x = (ours.of(image) / 255 - MEAN) / STD
    assert np.abs(x.transpose(2, 0, 1) - theirs(image).numpy()).max() < 1e-5


@pytest.mark.parametrize("resize_to", [128, 146, 160, 224])
def test_shorter_side_is_exact(resize_to, monkeypatch):
    """Rounded down, it would leave a black line at the edge."""
    transform, sizes = TRANSFORM._replace(size=8, resize_to=resize_to), set()
    monkeypatch.setattr(Image.Image, "resize", lambda image, size, _: (sizes.add(min(size)), image)[1])
    for side in range(8, 500):
        transform.of(Image.new("RGB", (side, side + 1)))
    assert sizes == {resize_to}


def test_only_the_middle_of_a_strip_is_resized():
    strip = np.zeros((4, 4000, 3), np.uint8)
    strip[:, 1990:2010] = 255
    pixels = TRANSFORM.of_pixels(strip)
    assert pixels.shape == (8, 8, 3)
    assert pixels.min() == 255


def content_of(image, **settings):
    file = io.BytesIO()
    image.save(file, **settings)
    return file.getvalue()


def test_images_are_upright_and_of_eight_bits():
    image = Image.fromarray(noise(1, 8, 8, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned to the right
    turned = TRANSFORM.decode(content_of(image, format="PNG", exif=exif))
    assert (turned == np.rot90(np.asarray(image), -1)).all()
    deep = noise(2, 8, 8).astype(np.uint16) * 257
    pixels = TRANSFORM.decode(content_of(Image.fromarray(deep), format="PNG"))
    assert (pixels == (deep // 257)[..., None]).all()


def test_large_jpegs_are_drafted_at_no_less_than_twice_the_size(monkeypatch):
    seen = []
    smooth = Image.fromarray(noise(3, 6, 9, 3)).resize((900, 600), Image.Resampling.BICUBIC)
    of = type(TRANSFORM).of
    monkeypatch.setattr(type(TRANSFORM), "of", lambda self, image: (seen.append(image.size), of(self, image))[1])
    drafted = TRANSFORM._replace(size=60, resize_to=70).decode(content_of(smooth, format="JPEG", quality=95))
    assert seen == [(225, 150)]
    whole = TRANSFORM._replace(size=60, resize_to=70).of(smooth)
    assert np.abs(drafted.astype(int) - whole).mean() < 2
