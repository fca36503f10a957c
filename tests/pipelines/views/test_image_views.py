import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.sources.images import BadImage, decode_rgb
from pipelines.sources.open_source import open_source
from pipelines.sources.source import Source
from pipelines.views import image_views as module
from pipelines.views.geometry import View, view_image
from pipelines.views.image_views import EpochBatches, InOrder, Seen, Unreadable, ViewBatch, Views, collate, load_views


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def source_of(images):
    return Source("pictures", pa.array([f"{i:04d}" for i in range(len(images))]), images)


def picture(width=40, height=30, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def smooth(width, height):
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = np.stack([np.sin(5 * x + y), np.cos(4 * y), np.sin(3 * (x + y))], -1)
    return Image.fromarray(((waves + 1) * 127).astype(np.uint8))


@given(
    st.integers(1, 30).flatmap(
        lambda count: st.tuples(st.just(count), st.integers(1, count), st.integers(1, 4), st.integers(0, 99))
    ),
    st.data(),
)
def test_an_epoch_takes_every_image_at_most_once(settings, data):
    count, batch_size, epochs, seed = settings
    per_epoch = data.draw(st.integers(1, count // batch_size))
    batches = list(EpochBatches(count, batch_size, per_epoch, epochs, seed=seed))
    assert len(batches) == per_epoch * epochs
    assert {len(batch) for batch in batches} == {batch_size}
    for epoch in range(epochs):
        part = [item for batch in batches[epoch * per_epoch : (epoch + 1) * per_epoch] for item in batch]
        assert {item[0] for item in part} == {epoch}
        assert len({item[1] for item in part}) == len(part) == per_epoch * batch_size
        assert all(0 <= item[1] < count for item in part)
    start = data.draw(st.integers(0, len(batches)))
    rest = EpochBatches(count, batch_size, per_epoch, epochs, seed=seed, start=start)
    assert list(rest) == batches[start:]
    assert len(rest) == len(batches) - start


def test_every_epoch_has_its_own_order():
    (first, second), (other, _) = (np.asarray(list(EpochBatches(50, 50, 1, 2, seed=seed)))[..., 1] for seed in (0, 1))
    assert sorted(first) == sorted(second) == list(range(50))
    for order in (second, other, np.arange(50)):
        assert (first != order).mean() > 0.8


def test_in_order_is_everything_once():
    batches = list(InOrder(10, 4))
    assert len(InOrder(10, 4)) == len(batches) == 3
    assert [index for batch in batches for _, index in batch] == list(range(10))


def test_a_random_view_follows_from_seed_epoch_and_index():
    source = source_of([encoded(picture(seed=i)) for i in range(3)])
    views = Views(source, (16, 16), augment=True, seed=3)
    item = views[(5, 1)]
    views[(0, 2)]
    again = Views(source, (16, 16), augment=True, seed=3)[(5, 1)]
    assert item.view == again.view
    np.testing.assert_array_equal(item.pixels, again.pixels)
    others = [Views(source, (16, 16), augment=True, seed=4)[(5, 1)], views[(4, 1)], views[(5, 0)]]
    assert len({other.view.box for other in others} | {item.view.box}) == 4


def test_the_order_and_the_views_are_drawn_from_different_streams():
    # numpy seeds [1], [1, 0] and [1, 0, 0] alike, which would tie the first image's view to the order
    first = [module.stream_of(1, *key).random() for key in ((), (0,), (0, 0), (0, 0, 0), (0, 1), (1, 0))]
    assert len(set(first)) == len(first)


@pytest.mark.parametrize("workers", [1, 2])
def test_views_do_not_depend_on_the_workers(workers):
    source = open_source("shapes:12,size=32")
    views = Views(source, (16, 16), augment=True)
    batches = EpochBatches(12, 4, 3, 2, seed=0)
    expected, found = list(load_views(views, batches, workers=0)), list(load_views(views, batches, workers=workers))
    assert len(expected) == len(found) == 6
    for a, b in zip(expected, found, strict=True):
        assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("images", "boxes", "flips"))
        np.testing.assert_array_equal(a.indices, b.indices)


def test_without_augmentation_the_largest_central_part_is_seen():
    image = picture(60, 20)
    seen = Views(source_of([encoded(image)]), (10, 20), augment=False)[(7, 0)]
    assert seen.view == View(pytest.approx((1 / 6, 0, 5 / 6, 1)), flip=False)
    expected = np.asarray(image.resize((20, 10), Image.Resampling.BICUBIC, box=(10, 0, 50, 20)))
    np.testing.assert_array_equal(seen.pixels, expected.transpose(2, 0, 1))
    assert seen.pixels.dtype == np.uint8


@pytest.mark.parametrize("size", [(16, 16), (64, 32), (224, 224)])
@pytest.mark.parametrize("side", [(1600, 1200), (500, 2000), (230, 230)])
def test_a_large_jpeg_is_decoded_no_smaller_than_its_view_needs(size, side, monkeypatch):
    data = encoded(smooth(*side), "JPEG", quality=95)
    decoded = []

    def watch(image, view, size):
        decoded.append(image.size)
        return view_image(image, view, size)

    monkeypatch.setattr(module, "view_image", watch)
    views = Views(source_of([data]), size, augment=True)
    reduced = 0
    for epoch in range(8):
        seen = views[(epoch, 0)]
        (width, height), (x0, y0, x1, y1) = decoded[-1], seen.view.box
        whole = width == side[0]
        assert whole or (width * (x1 - x0) >= size[1] and height * (y1 - y0) >= size[0])
        reduced += not whole
        exact = view_image(decode_rgb(data), seen.view, size)
        assert np.abs(exact.astype(int) - seen.pixels).mean() < 3
    assert reduced or min(side) < 500 or max(size) > 64


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (encoded(smooth(40, 30).convert("L")), "grey"),
        (encoded(smooth(40, 30).convert("CMYK"), "JPEG"), "CMYK"),
        (encoded(smooth(40, 30).convert("P")), "palette"),
        (encoded(smooth(40, 30).convert("1")), "bits"),
        (encoded(smooth(40, 30).convert("RGBA")), "alpha"),
        (encoded(Image.fromarray(np.full((30, 40), 40_000, np.uint16))), "16 bits"),
        (encoded(Image.new("RGB", (1, 1))), "one pixel"),
        (encoded(Image.new("RGB", (1, 500))), "a line"),
    ],
)
@pytest.mark.parametrize("augment", [True, False])
def test_every_kind_of_image_comes_as_rgb(data, where, augment):
    for epoch in range(5):
        seen = Views(source_of([data]), (16, 24), augment=augment)[(epoch, 0)]
        assert isinstance(seen, Seen), where
        assert (seen.pixels.shape, seen.pixels.dtype) == ((3, 16, 24), np.uint8)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_jpeg_is_seen_upright(orientation):
    upright = smooth(600, 400)
    turn = {
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = encoded(upright.transpose(turn), "JPEG", quality=98, exif=exif)
    plain = encoded(upright, "JPEG", quality=98)
    a, b = (Views(source_of([data]), (32, 32), augment=True) for data in (turned, plain))
    for epoch in range(4):
        assert a[(epoch, 0)].view == b[(epoch, 0)].view
        difference = np.abs(a[(epoch, 0)].pixels.astype(int) - b[(epoch, 0)].pixels)
        assert difference.mean() < 2


class Broken:
    """Image 1 is missing, 2 is no image, 3 can't be read; the others are."""

    def __len__(self):
        return 5

    def __getitem__(self, row):
        if row == 1:
            raise BadImage("its row holds no image")
        if row == 3:
            raise FileNotFoundError(2, "No such file", "3.jpg")
        return b"GIF?" if row == 2 else encoded(picture())


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_makes_the_batch_smaller_and_is_listed(workers):
    views = Views(source_of(Broken()), (16, 16), augment=True)
    (batch,) = load_views(views, InOrder(5, 5), workers=workers)
    assert batch.images.shape == (2, 3, 16, 16)
    assert (batch.boxes.shape, batch.flips.shape) == ((2, 4), (2,))
    assert batch.indices.tolist() == [0, 4]
    assert [(item.index, "\n" in item.reason) for item in batch.unreadable] == [(1, False), (2, False), (3, False)]
    assert "3.jpg" in batch.unreadable[2].reason


def test_a_batch_of_nothing():
    batch = collate([Unreadable(4, "empty")])
    assert (len(batch.images), len(batch.indices), batch.unreadable[0].index) == (0, 0, 4)


def test_the_loader_pins_the_images(monkeypatch):
    from torch.utils.data._utils.pin_memory import pin_memory

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self + 1)
    batch = ViewBatch(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4), torch.zeros(2), np.arange(2), [], np.arange(2))
    assert bool((pin_memory(batch).images == 1).all())
    assert pin_memory(batch).indices is batch.indices
