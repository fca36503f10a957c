"""Maps in PNG, NPY and NPZ files: what they hold, whose they are, and what hostile ones come to."""

import io
import zipfile

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import saliency_mae as sm
from pipelines.errors import UserError
from pipelines.import_maps.keys import match, without_suffix
from pipelines.import_maps.map_files import decode_map
from pipelines.import_maps.reader import on_grid
from pipelines.sources.images import BadImage
from pipelines.sources.source import Source
from tests.pipelines.import_maps.test_import_maps import photos, rejects


def encoded(values, mode=None, form="PNG"):
    buffer = io.BytesIO()
    (Image.fromarray(values) if mode is None else Image.fromarray(values).convert(mode)).save(buffer, form)
    return buffer.getvalue()


def npy(values, **options):
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


RAMP = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (encoded(RAMP), RAMP / 255),
        (encoded(RAMP, "RGB"), RAMP / 255),
        (encoded(RAMP.astype(np.uint16) * 257), RAMP / 255),
        (encoded(RAMP > 90), RAMP > 90),
        (encoded(RAMP, "LA"), RAMP / 255),
        (npy(RAMP), RAMP),
        (npy(RAMP.astype(">f8")), RAMP),
        (npy(np.asfortranarray(RAMP / 7)), RAMP / 7),
        (npy(RAMP[None, :, :, None].astype(np.float16)), RAMP),
        (npz(anything=RAMP > 90), RAMP > 90),
    ],
    ids=["grey", "grey in RGB", "16 bit", "1 bit", "opaque", "uint8", "big end", "columns", "axes", "npz"],
)
def test_what_a_file_holds(data, wanted):
    found = decode_map(data).values
    assert found.shape == (3, 4)
    np.testing.assert_allclose(found.astype(np.float64), wanted, atol=1e-6)


def test_the_array_that_is_named():
    data = npz(a=RAMP, b=RAMP * 2)
    np.testing.assert_array_equal(decode_map(data, "b").values, RAMP * 2)


def huge_header():
    data = npy(np.zeros((2, 2)))
    return data.replace(b"'shape': (2, 2), ", b"'shape': (200000, 200000), ".ljust(17))[:140]


def bomb():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\0" + bytes(1 << 20))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (encoded(np.stack([RAMP, RAMP * 2, RAMP], -1)), "in colour"),
        (encoded(np.stack([RAMP, RAMP, RAMP, RAMP], -1)), "with transparency"),
        (encoded(RAMP.astype(np.float32), form="TIFF"), "an image of floats: write it as NPY"),
        (npz(a=RAMP, b=RAMP), r"2 arrays \(a, b\): name one with --array"),
        (npy(RAMP.astype(complex)), "holds complex128, and not numbers"),
        (npy(np.asarray([{"a": 1}], object), allow_pickle=True), "holds object, and not numbers"),
        (npy(RAMP.view([("x", "u1")])), "and not numbers"),
        (npy(np.zeros((2, 3, 4))), "has the shape 2×3×4, and not height × width"),
        (npy(np.float32(3)), "and not height × width"),
        (npy(RAMP)[:-1], "11 bytes for 3×4 numbers"),
        (huge_header(), "NPY file is damaged"),
        (bomb(), "NPY file is damaged"),
        (npz(a=RAMP)[:-9], "NPZ file is damaged"),
        (b"\x93NUMPY", "NPY file is damaged"),
        (b"", "empty"),
        (b"text", "not an image"),
    ],
)
def test_what_is_no_map_is_a_reason(data, told):
    with pytest.raises(BadImage, match=told):
        decode_map(data)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.integers(0, 99))
def test_the_grid_keeps_the_mean_and_the_range(height, width, grid, seed):
    values = np.random.default_rng(seed).random((height, width), np.float32)
    found = on_grid(values, grid)
    assert found.shape == (grid, grid)
    assert found.mean() == pytest.approx(values.mean(), abs=1e-5)
    assert values.min() <= found.min() <= found.max() <= values.max()


def rows(keys, names):
    return match(Source("photos", pa.array(keys), images=[]), names, "--from maps").rows.tolist()


@pytest.mark.parametrize(
    ("keys", "names", "wanted"),
    [
        (["a/1.jpg", "a/2.jpg"], ["a/2", "a/1"], [1, 0]),
        (["a/1.jpg", "b/1.jpg"], ["a/1", "b/1"], [0, 1]),
        (["a.b/x.1"], ["a.b/x.1"], [0]),
        (["1.jpg", "1.png"], ["1.png", "1.jpg"], [1, 0]),
        (["1.jpg", "1.png", "2.jpg"], ["1", "2"], [-1, -1, 1]),
        (["images/1.jpg", "images/9.jpg"], ["masks/1"], [0, -1]),
        (["x/1.jpg", "y/1.jpg", "y/2.jpg"], ["1", "2"], [-1, -1, 1]),
        (["e\u0301.jpg", "k", "k"], ["\u00e9.png", "k"], [0, 1, 1]),
        (["000123"], ["000123.jpg"], [0]),
    ],
)
def test_whose_a_map_is(keys, names, wanted):
    assert rows(keys, names) == wanted


def test_only_suffixes_of_pictures_and_maps_are_cut():
    names = ["a.JPG", "a.npy", "v1.5", "a/.png", "b.tar"]
    assert [without_suffix(name) for name in names] == ["a", "a", "v1.5", "a/.png", "b.tar"]


def test_nested_folders_and_soft_maps_of_any_size(tmp_path):
    source = photos(tmp_path / "photos" / "a", 2).parent
    photos(tmp_path / "photos" / "b", 2)
    for place in ("a/0", "a/1", "b/0", "b/1"):
        (tmp_path / "maps" / place).parent.mkdir(parents=True, exist_ok=True)
        soft = np.full((5, 5), 10 * int(place[-1]) + 40, np.uint8)
        soft[0] = 200 if place[0] == "a" else 100
        Image.fromarray(soft).save(tmp_path / "maps" / f"{place}.png")
    maps = sm.import_maps(source, tmp_path / "maps", tmp_path / "out", grid=5, made_by="me", quiet=True)
    found = {row.key: row.map for row in maps.open()}
    assert set(found) == {"a/0.png", "a/1.png", "b/0.png", "b/1.png"}
    assert found["b/1.png"][0, 0] == pytest.approx(100 / 255, abs=1e-3)
    assert found["b/1.png"][4, 4] == pytest.approx(50 / 255, abs=1e-3)
    made = maps.open().metadata
    assert (made["method"], made["imported_from"], made["made_by"]) == ("imported: map files", "maps", "me")
    (tmp_path / "maps" / "b" / "1.png").unlink()
    with pytest.raises(UserError, match=r"imported_sha256.*give another folder"):
        sm.import_maps(source, tmp_path / "maps", tmp_path / "out", grid=5, made_by="me", quiet=True)
    with pytest.raises(UserError, match="1 of 4 pairs"):
        sm.import_maps(source, tmp_path / "maps", tmp_path / "less", quiet=True)
    assert rejects(tmp_path / "less") == {"b/1.png": "no map has its key"}
