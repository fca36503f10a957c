"""Views made on the device are the workers' views, byte for byte."""

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from pipelines.pretrain.options import PretrainOptions
from pipelines.sources.images import BadImage
from pipelines.sources.open_source import open_source
from pipelines.sources.source import Source
from pipelines.views.device_views import CutBatch, CutViews, load_on_device, views_on_device
from pipelines.views.image_views import EpochBatches, InOrder, ViewBatch, Views, load_views
from pipelines.views.pillow_resize import PackedRegions
from tests.pipelines.pretraining import invoke, losses, nano_options, run, stopping
from tests.tiny_mae import write_maps

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


def jpeg(width, height, seed=0, **options):
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((width, height))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def source_of(images):
    return Source("pictures", pa.array([f"{i:04d}" for i in range(len(images))]), images)


def turned(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, "JPEG", quality=90, exif=exif)
    return buffer.getvalue()


@pytest.fixture
def photos():
    """Of several shapes; one large enough to be decoded at half its size, one on its side."""
    sizes = [(90, 70), (70, 90), (40, 40), (33, 120), (400, 300), (1200, 900), (64, 64)]
    images = [jpeg(*size, seed=i) for i, size in enumerate(sizes)]
    return source_of([*images, turned(images[0])])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
def test_the_device_shows_what_the_workers_would(photos, size, workers):
    batches = EpochBatches(8, 4, 2, 3, seed=0)
    options = {"augment": True, "seed": 5, "sizes": [size, (16, 24), size]}
    expected = list(load_views(Views(photos, size, **options), batches, workers=0))
    found = list(load_on_device(CutViews(photos, size, **options), batches, CPU, workers=workers))
    assert len(found) == len(expected) == 6
    assert [tuple(batch.images.shape[2:]) for batch in found] == [size] * 2 + [(16, 24)] * 2 + [size] * 2
    for a, b in zip(expected, found, strict=True):
        assert (a.images.shape, a.images.dtype) == (b.images.shape, b.images.dtype)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.boxes, b.boxes)
        assert torch.equal(a.flips, b.flips)
        np.testing.assert_array_equal(a.indices, b.indices)
    flips = torch.cat([batch.flips for batch in found])
    assert 0 < int(flips.sum()) < len(flips)


class Broken:
    def __len__(self):
        return 5

    def __getitem__(self, row):
        if row in (0, 3):
            raise BadImage("its row holds no image")
        return jpeg(40, 30, seed=row)


def test_what_cannot_be_read_makes_the_batch_smaller_and_is_listed():
    views = CutViews(source_of(Broken()), (16, 16), augment=True)
    (batch,) = load_on_device(views, InOrder(5, 5), CPU, workers=0)
    assert batch.images.shape == (3, 3, 16, 16)
    assert batch.indices.tolist() == [1, 2, 4]
    assert [item.index for item in batch.unreadable] == [0, 3]
    batches = list(load_on_device(views, InOrder(5, 1), CPU, workers=0))
    assert [len(batch.images) for batch in batches] == [0, 1, 1, 0, 1]


def test_the_loader_pins_what_will_be_copied(monkeypatch):
    from torch.utils.data._utils.pin_memory import pin_memory

    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self + 1)
    regions = PackedRegions(torch.zeros(12), np.zeros((2, 3), int), np.zeros((2, 4)), np.zeros(2, bool))
    views = ViewBatch(torch.zeros(2, 3, 0, 0), torch.zeros(2, 4), torch.zeros(2), np.arange(2), [], np.arange(2))
    pinned = pin_memory(CutBatch(views, regions, (4, 4)))
    assert all(bool((tensor == 1).all()) for tensor in (pinned.regions.data, pinned.views.boxes, pinned.views.flips))


def test_where_views_are_made():
    assert [views_on_device(where, CPU) for where in ("auto", "workers", "device")] == [False, False, True]
    assert [views_on_device(where, CUDA) for where in ("auto", "workers", "device")] == [True, False, True]


@pytest.fixture
def base(tmp_path, nano):
    maps = write_maps(tmp_path / "maps", open_source("shapes:24,size=32"))
    return replace(nano_options(tmp_path / "run"), saliency=maps)


def test_a_run_is_the_same_and_may_go_on_with_the_other(base, tmp_path):
    workers = losses(run(base))
    assert losses(run(replace(base, out=tmp_path / "device", augment_on="device"))) == workers
    stopped = replace(base, out=tmp_path / "stopped", augment_on="device", workers=1)
    with stopping(7), pytest.raises(KeyboardInterrupt):
        run(stopped)
    assert losses(run(replace(stopped, resume=True, augment_on="workers"))) == workers


def test_another_place_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="--augment-on 'gpu' is not one of: auto, workers, device"):
        PretrainOptions("shapes:8", tmp_path, augment_on="gpu")
    result = invoke("pretrain", "shapes:8", "--out", tmp_path / "run", "--augment-on", "gpu")
    assert result.exit_code == 2
    assert "--augment-on" in result.stderr
