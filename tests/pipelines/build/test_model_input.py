import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipelines.build import model_input
from pipelines.build.model_input import Prepared, prepare_pairs, see
from pipelines.build.pairs import CAPTIONS_A_LOOK, Pair, by_image
from pipelines.build.stages import DECODE, READ, Stages
from pipelines.prefetch import prefetch
from pipelines.sources.images import BadImage
from pipelines.sources.source import Rejected
from saliency.towers.tower import load_tower


@pytest.fixture(scope="module")
def tower(tiny_clip):
    return load_tower(tiny_clip)


def encode(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "JPEG", "quality": 95} | options)
    return buffer.getvalue()


def smooth(width, height):
    """A picture with structure at every scale a CLIP sees, none finer."""
    rows, columns = np.mgrid[:height, :width] / np.array([[[height]], [[width]]])
    waves = [np.sin(7 * columns + 3 * rows), np.cos(9 * rows), np.sin(5 * rows * columns)]
    return Image.fromarray(((np.stack(waves, -1) + 1) * 127).astype(np.uint8))


# drafts


@pytest.mark.parametrize("size", [(1000, 700), (700, 1000), (129, 129), (64, 2000)])
def test_a_large_jpeg_gives_the_same_picture_and_its_true_size(tower, size):
    data = encode(smooth(*size))
    pixels, seen_size, box = see(data, tower, "squash", 1)
    whole = tower.squash(Image.open(io.BytesIO(data)).convert("RGB"))
    assert seen_size == size
    assert box == (0, 0, 1, 1)
    assert pixels.shape == (1, 3, 32, 32)
    assert np.abs(pixels[0].astype(int) - whole).mean() < 3  # of 255


def test_a_turned_jpeg_has_its_upright_size(tower):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(smooth(1000, 400), exif=exif.tobytes())
    pixels, size, box = see(data, tower, "crop", 1)
    assert size == (400, 1000)
    np.testing.assert_allclose(box, (0, 0.3, 1, 0.7))
    upright = Image.open(io.BytesIO(data)).transpose(Image.Transpose.ROTATE_270)
    expected = np.asarray(upright.resize((32, 32), Image.Resampling.BICUBIC, box=(0, 300, 400, 700))).transpose(2, 0, 1)
    assert np.abs(pixels[0].astype(int) - expected).mean() < 1.5


@pytest.mark.parametrize(
    "options",
    [{}, {"quality": 60}, {"subsampling": 0}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}],
)
def test_a_plain_jpeg_has_pillows_pixels(tower, options):
    data = encode(smooth(171, 150), **options)
    pixels = model_input._plain_jpeg(data, least=64, draft=96)
    np.testing.assert_array_equal(pixels.permute(1, 2, 0), np.asarray(Image.open(io.BytesIO(data))))
    seen, size, box = see(data, tower, "squash", 1)
    assert (size, box) == ((171, 150), (0, 0, 1, 1))
    np.testing.assert_array_equal(seen[0], tower.squash(Image.open(io.BytesIO(data))))


def test_all_other_images_are_pillows(tower, monkeypatch):
    """Small ones, such as Pillow shrinks while it decodes, turned and grey ones, other formats."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(smooth(171, 150), exif=exif.tobytes())
    others = [encode(smooth(63, 80)), encode(smooth(192, 200)), encode(smooth(171, 150).convert("L")), turned]
    others += [encode(smooth(171, 150).convert("CMYK"))]
    png = encode(smooth(171, 150), format="PNG")
    with monkeypatch.context() as patch:
        patch.setattr(model_input, "image_size", None)  # which would decode it
        assert model_input._plain_jpeg(png, least=64, draft=96) is None
    for data in others:
        assert model_input._plain_jpeg(data, least=64, draft=96) is None
    assert see(turned, tower, "squash", 1)[1] == (150, 171)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_jpeg_without_its_end_is_truncated(tower, share):
    data = encode(smooth(171, 150))
    with pytest.raises(BadImage, match="truncated"):
        see(data[: int(share * len(data))], tower, "squash", 1)


def test_the_draft_is_cheaper(tower):
    data = encode(smooth(3000, 3000))
    started = time.thread_time()
    see(data, tower, "squash", 1)
    drafted = time.thread_time() - started
    started = time.thread_time()
    tower.squash(Image.open(io.BytesIO(data)).convert("RGB"))
    assert drafted < (time.thread_time() - started) / 2


def test_too_small_to_look_at(tower):
    with pytest.raises(BadImage, match="3×100 pixels is too small"):
        see(encode(Image.new("RGB", (3, 100))), tower, "squash", 1)


# pairs


def pair(data, caption="a", duplicate=False):
    def read():
        if isinstance(data, Exception):
            raise data
        return data

    return Pair("key", caption, "http://x", duplicate, read)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (pair(b"x", caption=None), "no caption"),
        (pair(b"x", caption=" \n"), "no caption"),
        (pair(b"x", duplicate=True), "duplicate"),
        (pair(b"no image"), "not an image"),
        (pair(OSError("the disk\nis gone")), "the disk is gone"),
    ],
)
def test_a_bad_pair_says_why(tower, given, reason):
    stages = Stages()
    [rejected] = prepare_pairs([given], tower, "squash", 1, stages)
    assert isinstance(rejected, Rejected)
    assert reason in rejected.reason
    assert "\n" not in rejected.reason


def test_a_good_pair_and_its_stages(tower):
    stages = Stages()
    [prepared] = prepare_pairs([pair(encode(smooth(50, 40)))], tower, "squash", 1, stages)
    assert isinstance(prepared, Prepared)
    [row] = prepared.rows
    assert (row.width, row.height, row.url) == (50, 40, "http://x")
    assert prepared.pixels.flags.c_contiguous
    assert stages.seconds[DECODE] > 0
    assert READ in stages.seconds


def test_pairs_of_one_image_share_it(tower, monkeypatch):
    """By the row of the source, or by the bytes; what lies between them is told of by itself."""
    decoded = []
    monkeypatch.setattr(model_input, "see", lambda data, *rest: (decoded.append(data), see(data, *rest))[1])
    one, other = encode(smooth(50, 40)), encode(smooth(40, 50))

    def shown(data, caption, row=None):
        return replace(pair(data, caption), row=row)

    unread = shown(OSError("is not read again"), "b", 3)
    given = [shown(one, "a", 3), unread, shown(one, None, 3), shown(one, "c"), shown(other, "d"), shown(one, "e")]
    made = prepare_pairs(given, tower, "squash", 1, Stages())
    captions = [item.caption if isinstance(item, Rejected) else [row.caption for row in item.rows] for item in made]
    assert captions == [["a", "b", "c"], None, ["d"], ["e"]]
    assert decoded == [one, other, one]
    assert len({row.image_sha256 for row in made[0].rows}) == 1


def test_pairs_are_grouped_by_key_and_shard():
    numbered = [(0, "a")] * 3 + [(1, "a")] + [(1, "b")] * (CAPTIONS_A_LOOK + 2) + [(1, "a")]
    groups = by_image((number, replace(pair(b""), key=key)) for number, key in numbered)
    assert [(number, group[0].key, len(group)) for number, group in groups] == [
        (0, "a", 3),
        (1, "a", 1),
        (1, "b", CAPTIONS_A_LOOK),
        (1, "b", 2),
        (1, "a", 1),
    ]


# prefetch


def test_results_come_in_order_and_no_more_than_asked_are_under_way():
    under_way, most, lock = 0, 0, threading.Lock()
    drawn = []

    def items():
        nonlocal under_way, most
        for i in range(100):
            with lock:
                under_way += 1
                most = max(most, under_way)
            drawn.append(i)
            yield i

    with ThreadPoolExecutor(4) as executor:
        results = []
        for value in prefetch(executor, lambda i: (time.sleep(0.001 * (i % 3)), i)[1], items(), depth=5):
            with lock:
                under_way -= 1
            results.append(value)
    assert results == list(range(100))
    assert most <= 5 + 3  # one drawn and not yet handed over, one waited for, one being consumed


def test_an_error_of_the_items_comes_behind_the_results_before_it():
    def items():
        yield from range(3)
        raise OSError("the network is gone")

    seen = []
    with ThreadPoolExecutor(2) as executor, pytest.raises(OSError, match="network"):
        seen.extend(prefetch(executor, lambda i: i, items(), depth=2))
    with ThreadPoolExecutor(2) as executor:
        working = prefetch(executor, lambda i: i, items(), depth=2)
        assert [next(working) for _ in range(3)] == [0, 1, 2]


def test_an_error_of_the_function_is_raised_where_its_result_would_be():
    with ThreadPoolExecutor(2) as executor:
        working = prefetch(executor, lambda i: 1 / i, [1, 2, 0, 4], depth=4)
        assert [next(working), next(working)] == [1, 0.5]
        with pytest.raises(ZeroDivisionError):
            next(working)


def test_who_leaves_early_stops_the_drawing():
    drawn = []

    def endless():
        i = 0
        while True:
            drawn.append(i)
            yield i
            i += 1

    with ThreadPoolExecutor(2) as executor:
        working = prefetch(executor, lambda i: i, endless(), depth=3)
        assert next(working) == 0
        working.close()
        deadline = time.monotonic() + 5
        while any(thread.name == "feeder" for thread in threading.enumerate()) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert not any(thread.name == "feeder" for thread in threading.enumerate())
    assert len(drawn) < 20
