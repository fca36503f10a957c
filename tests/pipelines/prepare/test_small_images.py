import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.prepare.small_images import make_small, reduced_size, small_box, small_mask
from pipelines.sources.images import BadImage, decode_mask, decode_rgb


def smooth(width, height):
    """A picture without fine detail, so that JPEG and resizing change it little."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    pixels = np.stack([255 * x, 255 * y, 128 + 100 * np.sin(6 * (x + y))], -1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encoded(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(16, 512))
def test_the_shorter_side_is_reduced_and_the_ratio_stays(width, height, side):
    small = reduced_size(width, height, side)
    if min(width, height) <= side:
        assert small == (width, height)
        return
    assert min(small) == side
    factor = side / min(width, height)
    assert abs(small[0] - width * factor) <= 0.5 + 1e-9
    assert abs(small[1] - height * factor) <= 0.5 + 1e-9


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (1203, 811)])
def test_a_large_image_is_resized_as_a_whole(size):
    """Beside Pillow's own reduction of the whole image: also where libjpeg decoded a part of it alone."""
    image = smooth(*size)
    small = make_small(encoded(image, quality=95), 64, 90)
    assert (small.original, small.kept) == (size, False)
    decoded = Image.open(io.BytesIO(small.data))
    assert (decoded.format, decoded.mode, decoded.size) == ("JPEG", "RGB", small.size)
    assert min(small.size) == 64
    assert np.abs(np.asarray(decoded, int) - np.asarray(image.resize(small.size, Image.BICUBIC), int)).mean() < 2


def test_quality_and_subsampling_are_those_stated():
    small = make_small(encoded(smooth(100, 80), "PNG"), 64, 77)
    image = Image.open(io.BytesIO(small.data))
    by_pillow = Image.open(io.BytesIO(encoded(smooth(8, 8), quality=77, subsampling="4:2:0")))
    assert image.quantization == by_pillow.quantization
    assert [part[1:3] for part in image.layer] == [(2, 2), (1, 1), (1, 1)]
    assert len(make_small(encoded(smooth(100, 80), "PNG"), 64, 30).data) < len(small.data)


def test_a_small_plain_jpeg_is_kept_byte_for_byte():
    for data in (encoded(smooth(60, 40)), encoded(smooth(64, 90), progressive=True)):
        small = make_small(data, 64, 90)
        assert small.kept
        assert small.data == data
        assert small.size == small.original


@pytest.mark.parametrize(
    "data",
    [
        encoded(smooth(60, 40), "PNG"),
        encoded(smooth(60, 40).convert("L")),
        encoded(smooth(60, 40).convert("CMYK")),
        encoded(smooth(60, 40), exif=(lambda exif: (exif.__setitem__(0x0112, 3), exif)[1])(Image.Exif())),
    ],
    ids=["png", "grey", "cmyk", "turned"],
)
def test_what_is_small_but_no_plain_jpeg_becomes_one(data):
    small = make_small(data, 64, 95)
    assert not small.kept
    assert small.size == (60, 40)
    image = Image.open(io.BytesIO(small.data))
    assert (image.format, image.mode, image.getexif().get(0x0112, 1)) == ("JPEG", "RGB", 1)
    assert np.abs(np.asarray(image, int) - np.asarray(decode_rgb(data), int)).mean() < 3


def test_a_turned_image_stands_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    small = make_small(encoded(smooth(300, 200), exif=exif), 64, 90)
    assert small.original == (200, 300)
    assert small.size == (64, 96)


def test_nothing_of_the_original_but_its_pixels_goes_along():
    small = make_small(encoded(smooth(100, 100), comment=b"secret", icc_profile=b"profile"), 64, 90)
    assert b"secret" not in small.data
    assert b"profile" not in small.data


@pytest.mark.parametrize("data", [b"", b"x", encoded(smooth(60, 40))[:400]])
def test_what_is_no_whole_image_is_refused(data):
    with pytest.raises(BadImage):
        make_small(data, 64, 90)


def test_a_mask_covers_the_same_part():
    mask = np.zeros((200, 300), bool)
    mask[50:150, 60:240] = True
    small = decode_mask(small_mask(mask, (60, 40)))
    assert small.shape == (40, 60)
    expected = np.zeros((40, 60), bool)
    expected[10:30, 12:48] = True
    np.testing.assert_array_equal(small, expected)
    np.testing.assert_array_equal(decode_mask(small_mask(mask, (300, 200))), mask)


def test_a_tiny_object_is_not_lost_and_nothing_is_nothing():
    mask = np.zeros((200, 300), bool)
    assert not decode_mask(small_mask(mask, (60, 40))).any()
    mask[101, 203] = True
    assert np.argwhere(decode_mask(small_mask(mask, (60, 40)))).tolist() == [[20, 40]]


@given(st.lists(st.integers(0, 99), min_size=4, max_size=4))
def test_a_box_covers_the_same_part(values):
    x0, x1 = sorted(values[:2])
    y0, y1 = sorted(values[2:])
    box = small_box([x0, y0, x1, y1], (100, 100), (50, 25))
    assert box[0] / 50 == pytest.approx(x0 / 100)
    assert box[1] / 25 == pytest.approx(y0 / 100)
    assert (box[2] + 1) / 50 >= (x1 + 1) / 100 - 1e-9
    assert (box[3] + 1) / 25 >= (y1 + 1) / 100 - 1e-9
    assert round(box[0]) <= round(box[2])
    assert round(box[1]) <= round(box[3])
    if x1 > x0:
        assert (box[2] + 1) / 50 == pytest.approx((x1 + 1) / 100)
