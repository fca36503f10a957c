"""Tables of strangers: what they hold that no table should is one line, or costs the sample that has it."""

import datetime
import decimal
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.errors import UserError
from pipelines.sources.images import BadImage
from pipelines.sources.open_source import open_source
from pipelines.sources.tables.columns import LONGEST_CAPTION

pytestmark = pytest.mark.usefixtures("hf_cache")
MUTATED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return tmp_path


def parquet(folder, note=None, **columns):
    table = pa.table({"file_name": ["a.png"] * 2, **columns})
    pq.write_table(
        table if note is None else table.replace_schema_metadata({b"huggingface": note}), folder / "t.parquet"
    )
    return folder / "t.parquet"


def lines(folder, *rows):
    (folder / "t.jsonl").write_text("\n".join(json.dumps({"file_name": "a.png"} | row) for row in rows))
    return folder / "t.jsonl"


def read_all(path):
    """Everything that a source is asked for; a sample that can't be read says so itself."""
    source = open_source(str(path), captions="all")
    for i in range(len(source)):
        source.caption(i)
        try:
            source.read_image(i)
            source.read_mask(i)
        except (BadImage, OSError):
            pass
    return source


LABELS = {
    "infinite numbers": (pa.array([1.0, float("inf")]), None),
    "half floats that are infinite": (pa.array(np.asarray([1, -np.inf], np.float16)), None),
    "numbers past 64 bits": (pa.array([7, 2**64 - 1], pa.uint64()), ["18446744073709551615", "7"]),
    "decimals": (pa.array([decimal.Decimal("1.5")] * 2), None),
    "dates": (pa.array([datetime.date(2020, 1, 1)] * 2), None),
    "lists": (pa.array([[1], [2]]), None),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_number_no_class(kind, folder):
    column, names = LABELS[kind]
    source = read_all(parquet(folder, label=column))
    assert source.label_names == names
    assert (source.labels is None) == (names is None)


@pytest.mark.parametrize("value", [10**30, -(10**30), float("inf"), 2**63, "2020-01-01"])
def test_numbers_in_json_that_arrow_has_no_place_for(value, folder):
    source = read_all(lines(folder, {"label": value, "caption": value}, {"label": 1, "caption": "x"}))
    assert source.captions.to_pylist() == [str(value), "x"]


NOTES = {
    "no JSON": b"{",
    "a list": b"[]",
    "null": b'{"info": null}',
    "nested deep": b"[" * 100_000,
    "features that are a list": b'{"info": {"features": []}}',
    "names that are a text": b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": "ab"}}}}',
    "names of other kinds": b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": [1, null]}}}}',
    "too few names": b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a"]}}}}',
}


@pytest.mark.parametrize("kind", NOTES)
def test_what_datasets_notes_of_classes_is_read_by_its_shape(kind, folder):
    source = read_all(parquet(folder, NOTES[kind], label=[0, 1]))
    assert source.labels.tolist() == [0, 1]
    assert source.label_names is None


def test_a_note_of_another_shape_beside_images_inside(folder):
    path = parquet(folder, b'{"info": null}', image=pa.array([(folder / "a.png").read_bytes()] * 2))
    with pytest.raises(UserError, match=r"t\.parquet can't be read as Parquet: .*: fetch it again"):
        open_source(str(path))


def test_text_that_is_no_utf8(folder):
    text = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.asarray([0, 1, 2], np.int32).tobytes()), pa.py_buffer(b"\xff\xfe")]
    )
    with pytest.raises(UserError, match=r"t\.parquet: column 'caption' is damaged: .*UTF8"):
        open_source(str(parquet(folder, caption=text)))


def test_a_caption_without_end_costs_its_sample(folder):
    path = lines(folder, {"caption": "a" * (LONGEST_CAPTION + 1)}, {"caption": "x"}, {"caption": ["y", "b" * 10**7]})
    source = open_source(str(path), captions="all")
    assert source.captions.to_pylist() == [None, "x", "y", None]
    assert source.fault(0) == "its caption has 1,048,577 bytes, and at most 1,048,576 are read"
    assert source.fault(3) == "its caption has 10,000,000 bytes, and at most 1,048,576 are read"
    assert source.fault(1) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 200_000, r"t\.jsonl, line 1 is not JSON \(it is nested too deep\)"),
        (b'{"caption": ' + b"9" * 5000 + b"}", r"t\.jsonl, line 1 is not JSON"),
        (
            b'{"image": {"bytes": null, "path": "a.png"}}',
            "column 'image' holds struct.*: in such a table, give the names",
        ),
        (b"\xff\xfe\x00\xd8", "damaged UTF-16"),
        (b"[1]", "is not a JSON object"),
    ],
)
def test_lines_that_are_no_table(content, message, folder):
    (folder / "t.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        open_source(str(folder / "t.jsonl"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.parquet"])
def test_a_pipe_is_not_waited_for(name, folder):
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match=r"t\.\w+ "):
        open_source(str(folder / name))


@MUTATED
@given(data=st.data(), name=st.sampled_from(["t.jsonl", "t.csv", "t.parquet"]))
def test_a_damaged_table_is_read_or_refused(data, name, folder):
    rows = {"caption": ["a", "b"], "label": [0, 1], "url": ["x", None], "key": ["k", "l"]}
    parquet(folder, b'{"info": {"features": {}}}', **rows)
    lines(folder, *(dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)))
    (folder / "t.csv").write_text('file_name,caption,label\na.png,a,1\na.png,"b",2\n')
    whole = (folder / name).read_bytes()
    at, length = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 4))
    changed = data.draw(
        st.sampled_from([whole[:at], whole[:at] + data.draw(st.binary(max_size=4)) + whole[at + length :]])
    )
    (folder / name).write_bytes(changed)
    try:
        read_all(folder / name)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_a_name_of_a_column_that_is_no_text_is_spelled_out(folder):
    assert len(read_all(lines(folder, {"\ud800": 1}, {"caption": "a"}))) == 2


def test_a_file_name_in_an_image_column_that_is_not_utf8_is_a_bad_sample(folder):
    names = pa.array([b"\xaa.png", b"b.png"], pa.binary()).view(pa.string())
    images = pa.StructArray.from_arrays([pa.nulls(2, pa.binary()), names], ["bytes", "path"])
    pq.write_table(pa.table({"image": images, "caption": ["a", "b"]}), folder / "t.parquet")
    source = open_source(str(folder / "t.parquet"), allow_outside=True)
    with pytest.raises(BadImage, match="not UTF-8"):
        source.read_image(0)
