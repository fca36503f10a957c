import hashlib
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.publish.preview import LONGEST_SIDE, heat_map, spread, write_preview
from pipelines.sources.source import Source
from saliency.maps import FULL
from saliency.table.table import Row, write_shard

CENTRE = (0.25, 0.0, 0.75, 1.0)
METADATA = {"schema_version": 1, "grid": 4, "clip": "x", "method": "gradcam"}


def photo(seed, size=(600, 300)):
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 8, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


PHOTOS = [photo(i) for i in range(5)]


@pytest.fixture
def table(tmp_path):
    """Five maps in two shards; that of row i has its peak in cell i of the top row."""
    stored = np.zeros((5, 4, 4), np.uint8)
    stored[np.arange(5), 0, np.arange(5) % 4] = 255
    ones = np.ones(5, np.float32)
    files = []
    for number, part in enumerate((slice(0, 3), slice(3, 5))):
        rows = [
            Row(f"k{i}", None, f"photo {i}", hashlib.sha256(PHOTOS[i]).hexdigest(), 600, 300, FULL, 0.5)
            for i in range(5)[part]
        ]
        files.append(tmp_path / "data" / f"train-{number:05d}-of-00002.parquet")
        write_shard(files[-1], rows, stored[part], 0 * ones[part], ones[part], METADATA)
    return files


def source(photos=PHOTOS, captions=True):
    count = len(photos)
    texts = pa.array([f"photo {i}" for i in range(count)]) if captions else None
    return Source("photos", pa.array([f"k{i}" for i in range(count)]), photos, texts)


def shown(path):
    rows = pq.read_table(path).to_pylist()
    return rows, [np.asarray(Image.open(io.BytesIO(row["picture"]["bytes"]))).astype(int) for row in rows]


@pytest.mark.parametrize(
    ("rows", "count", "chosen"),
    [(5, 1000, [0, 1, 2, 3, 4]), (1001, 5, [0, 250, 500, 750, 1000]), (7, 1, [0]), (1, 3, [0]), (10, 2, [0, 9])],
)
def test_rows_are_evenly_spaced(rows, count, chosen):
    assert spread(rows, count).tolist() == chosen


def test_maps_alone(table, tmp_path):
    made = write_preview(tmp_path / "p.parquet", table, np.asarray([0, 2, 3]), None, quiet=True)
    assert (made.pictures, made.skipped) == (3, 0)
    rows, pictures = shown(tmp_path / "p.parquet")
    assert [row["key"] for row in rows] == ["k0", "k2", "k3"]
    assert [row["caption"] for row in rows] == ["photo 0", "photo 2", "photo 3"]
    for row, picture in zip((0, 2, 3), pictures, strict=True):
        assert picture.shape == (128, 256, 3)  # a map of 600×300 pixels
        cells = picture.sum(2)[:128, :256].reshape(4, 32, 4, 64).mean((1, 3))
        assert np.unravel_index(cells.argmax(), (4, 4)) == (0, row)
        assert cells[3].max() < 30


def test_maps_over_their_images(table, tmp_path):
    made = write_preview(tmp_path / "p.parquet", table, np.arange(5), source(), quiet=True)
    assert made.pictures == 5
    _, pictures = shown(tmp_path / "p.parquet")
    for i, picture in enumerate(pictures):
        image = Image.open(io.BytesIO(PHOTOS[i])).resize((256, 128), Image.Resampling.BICUBIC)
        dark = 0.45 * np.asarray(image).astype(float)
        assert picture.shape == (128, 256, 3)
        np.testing.assert_allclose(picture[64:].mean((0, 1)), dark[64:].mean((0, 1)), atol=4)  # the map is 0 there
        brighter = (picture - dark).sum(2).reshape(4, 32, 4, 64).mean((1, 3))
        assert np.unravel_index(brighter.argmax(), (4, 4)) == (0, i % 4)


def test_an_image_that_is_not_the_maps_own_is_not_shown(table, tmp_path):
    photos = [PHOTOS[0], PHOTOS[0], b"broken", PHOTOS[3]]
    made = write_preview(tmp_path / "p.parquet", table, np.arange(5), source(photos), quiet=True)
    assert (made.pictures, made.skipped) == (2, 3)
    assert [row["key"] for row in shown(tmp_path / "p.parquet")[0]] == ["k0", "k3"]


def test_a_source_without_captions_is_joined_by_key(table, tmp_path):
    made = write_preview(tmp_path / "p.parquet", table, np.arange(5), source(captions=False), quiet=True)
    assert made.pictures == 5


def test_a_cropped_map_lies_on_its_part():
    picture = heat_map(np.full((4, 4), 255, np.float32), np.float32(CENTRE), (300, 600)).astype(int)
    assert picture.shape == (128, 256, 3)
    assert (picture[:, :64] == picture[0, 0]).all()
    assert picture[:, 64:192].sum(2).min() > 600
    assert picture[:, :64].sum(2).max() < 10


@pytest.mark.parametrize("shape", [(10, 10), (10, 5000), (3000, 2000), (1, 300)])
def test_pictures_are_small_and_keep_their_shape(shape):
    height, width = heat_map(np.ones((2, 2), np.float32), np.float32(FULL), shape).shape[:2]
    assert max(height, width) == LONGEST_SIDE
    assert width / height == pytest.approx(shape[1] / shape[0], rel=0.01) or min(height, width) == 1


def test_datasets_shows_pictures(table, tmp_path):
    import datasets

    write_preview(tmp_path / "p.parquet", table, np.arange(5), None, quiet=True)
    schema = pq.read_schema(tmp_path / "p.parquet")
    assert datasets.Features.from_arrow_schema(schema)["picture"] == datasets.Image()


def test_row_groups_are_what_a_page_shows(table, tmp_path, monkeypatch):
    from pipelines.publish import preview

    monkeypatch.setattr(preview, "_ROWS", 2)
    write_preview(tmp_path / "p.parquet", table, np.arange(5), None, quiet=True)
    assert pq.ParquetFile(tmp_path / "p.parquet").num_row_groups == 3
    assert [row["key"] for row in shown(tmp_path / "p.parquet")[0]] == [f"k{i}" for i in range(5)]
