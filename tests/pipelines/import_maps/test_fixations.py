"""Fixations as maps: Gaussians against SciPy's filter, SALICON's order, units, weights, and points off the picture."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

import saliency_mae as sm
from pipelines.errors import UserError
from pipelines.import_maps.fixations import gaussians
from tests.pipelines.import_maps.test_import_maps import photos, rejects


def test_a_gaussian_is_scipys_filter_over_the_picture():
    """A fixation in the middle of a pixel; SciPy samples where here is integrated, so a wide Gaussian agrees."""
    height, width, sigma = 240, 320, 12.0
    points = np.asarray([(60, 100), (200, 300), (60, 110)])
    picture = np.zeros((height, width))
    np.add.at(picture, tuple(points.T), [1.0, 2.0, 1.0])
    blurred = gaussian_filter(picture, sigma, mode="constant", truncate=8)
    wanted = blurred.reshape(20, height // 20, 20, width // 20).sum((1, 3)) / 4
    x, y = (points[:, 1] + 0.5) / width, (points[:, 0] + 0.5) / height
    found = gaussians(x, y, np.asarray([1.0, 2.0, 1.0]), (sigma / width, sigma / height), 20)
    np.testing.assert_allclose(found, wanted, atol=1e-3 * wanted.max())


@given(st.floats(0.3, 0.7), st.floats(0.3, 0.7), st.floats(0.001, 0.04), st.integers(1, 40))
def test_all_of_its_mass_is_on_the_grid_around_its_middle(x, y, sigma, grid):
    found = gaussians(np.asarray([x]), np.asarray([y]), np.ones(1), (sigma, sigma), grid).astype(np.float64)
    centres = (np.arange(grid) + 0.5) / grid
    assert found.sum() == pytest.approx(1, abs=1e-5)
    assert (found.sum(0) * centres).sum() == pytest.approx(x, abs=0.51 / grid)
    assert (found.sum(1) * centres).sum() == pytest.approx(y, abs=0.51 / grid)


def salicon(path, fixations, size=(32, 24)):
    """A JSON of one annotation for each picture ``N.png``."""
    images = [
        {"id": 7 + i, "file_name": f"{i}.png", "width": size[0], "height": size[1]} for i in range(len(fixations))
    ]
    notes = [{"image_id": 7 + i, "id": i, "worker_id": 1, "fixations": each} for i, each in enumerate(fixations)]
    path.write_text(json.dumps({"images": images, "annotations": notes, "info": {}}))
    return path


def peaks(maps):
    return {row.key: np.unravel_index(row.map.argmax(), row.map.shape) for row in maps.open()}


def test_salicons_fixations_are_row_and_column_from_one(tmp_path):
    source = photos(tmp_path / "photos", 3)
    file = salicon(tmp_path / "f.json", [[[1, 32]], [[24, 1], [24, 2]], [[1, 1]]])
    maps = sm.import_maps(source, file, tmp_path / "maps", grid=8, quiet=True)
    assert peaks(maps) == {"0.png": (0, 7), "1.png": (7, 0), "2.png": (0, 0)}
    made = maps.open().metadata
    assert (made["method"], made["sigma"], made["off_picture"]) == ("imported: fixations", 0.03, "reject")
    # the middle of the first pixel, half a pixel from both edges; sigma is 0.03 of the longer side, in both directions
    x, y, sigma = np.asarray([0.5 / 32]), np.asarray([0.5 / 24]), 0.03 * 32
    wanted = gaussians(x, y, np.ones(1), (sigma / 32, sigma / 24), 8)
    np.testing.assert_allclose(maps.open()["2.png"].map, wanted, atol=wanted.max() / 400)


def test_fixations_of_another_size_are_scaled_and_of_another_shape_refused(tmp_path):
    source = photos(tmp_path / "photos", 2)
    file = salicon(tmp_path / "f.json", [[[240, 640]], [[1, 1]]], size=(640, 480))
    maps = sm.import_maps(source, file, tmp_path / "maps", grid=8, quiet=True)
    assert peaks(maps)["0.png"] in {(3, 7), (4, 7)}
    with pytest.raises(UserError, match="2 of 2 pairs"):
        sm.import_maps(source, salicon(file, [[[1, 1]]] * 2, size=(48, 64)), tmp_path / "turned", quiet=True)
    told = "its fixations are of a picture of 48×64, its image has 32×24"
    assert rejects(tmp_path / "turned") == {"0.png": told, "1.png": told}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"annotations": [{"image_id": 8, "fixations": [[1, 1]]}]}, "annotation 0 is of the image 8, which is not"),
        ({"annotations": [{"image_id": 7, "fixations": [[1, 1], [2]]}]}, r"are not all \[row, column\]"),
        ({"annotations": [{"image_id": 7, "fixations": ["ab"]}]}, r"are not all \[row, column\]"),
        ({"annotations": [{"image_id": 7, "fixations": [[[1, 2]]]}]}, r"are not all \[row, column\]"),
        ({"annotations": [{"image_id": 7}]}, r"annotations\[0\].fixations is missing"),
        ({"images": [{"id": 7, "file_name": "0.png", "width": 0, "height": 3}]}, "without width or height"),
        ({"images": [{"id": 7, "file_name": 3, "width": 1, "height": 3}]}, "file_name is 3, not a text"),
    ],
)
def test_what_salicons_json_can_have_wrong_is_one_line(tmp_path, content, told):
    source, file = photos(tmp_path / "photos", 1), salicon(tmp_path / "f.json", [[[1, 1]]])
    file.write_text(json.dumps(json.loads(file.read_text()) | content))
    with pytest.raises(UserError, match=told):
        sm.import_maps(source, file, tmp_path / "maps", quiet=True)


def test_a_fixation_off_the_picture_rejects_its_pair_or_is_dropped(tmp_path):
    source = photos(tmp_path / "photos", 4)
    file = salicon(tmp_path / "f.json", [[[12, 16]], [[12, 16], [25, 1]], [[0, 1]], []])
    with pytest.raises(UserError, match="3 of 4 pairs"):
        sm.import_maps(source, file, tmp_path / "maps", quiet=True)
    reasons = rejects(tmp_path / "maps")
    assert "at x 0.5, y 24.5 lies outside of its picture of 32×24 pixels (1 of 2 do)" in reasons["1.png"]
    assert reasons["3.png"] == "it has no fixation on its picture"
    maps = sm.import_maps(source, file, tmp_path / "kept", off_picture="drop", max_rejected=0.5, quiet=True)
    np.testing.assert_array_equal(maps.open()["0.png"].map, maps.open()["1.png"].map)
    assert set(rejects(tmp_path / "kept")) == {"2.png", "3.png"}


def written(path, rows):
    table = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [rows[0], *(row.values() for row in rows)]
        path.write_text("".join(mark.join("" if each is None else str(each) for each in line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("units", ["pixels", "fractions"])
def test_tables_of_every_format_in_both_units_weighted_by_duration(tmp_path, suffix, units):
    source, scale = photos(tmp_path / "photos", 2), (32, 24) if units == "pixels" else (1, 1)
    points = [("0", 0.75, 0.25, 300), ("1.png", 0.25, 0.75, 100), ("0", 0.25, 0.25, 100)]
    rows = [{"image": k, "X": x * scale[0], "y": y * scale[1], "duration": d} for k, x, y, d in points]
    file = written(tmp_path / f"gaze{suffix}", rows)
    maps = sm.import_maps(source, file, tmp_path / "maps", units=units, grid=2, quiet=True, sigma=0.02)
    found = maps.open()
    np.testing.assert_allclose(found["0.png"].map, [[0.25, 0.75], [0, 0]], atol=2e-3)
    np.testing.assert_allclose(found["1.png"].map, [[0, 0], [1, 0]], atol=2e-3)
    assert (found.metadata["weighted_by"], found.metadata["units"]) == ("duration", units)


def test_rows_without_numbers_reject_their_pair(tmp_path):
    source = photos(tmp_path / "photos", 3)
    rows = [
        {"key": "0.png", "x": 5, "y": 5, "weight": -1},
        {"key": "1.png", "x": None, "y": 5, "weight": 1},
        {"key": "2.png", "x": 5, "y": 5, "weight": 1},
        {"key": "", "x": 5, "y": 5, "weight": 1},
    ]
    file = written(tmp_path / "gaze.csv", rows)
    sm.import_maps(source, file, tmp_path / "maps", units="pixels", max_rejected=0.7, quiet=True)
    reasons = rejects(tmp_path / "maps")
    assert reasons["0.png"] == "a fixation has a weight that is negative or no number"
    assert "at x nan, y 5 lies outside" in reasons["1.png"]
