"""What a cell says, in every format alike: a NaN and a dict say nothing, whole numbers and truth values are classes."""

import io
import json
import tarfile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.sources.hub_stream import stream_dataset
from pipelines.sources.images import BadImage
from pipelines.sources.open_source import open_source
from pipelines.sources.tables.columns import (
    Wishes,
    as_label,
    as_text,
    has_fractions,
    label_values,
    sample_caption,
    to_array,
)

pytestmark = pytest.mark.usefixtures("hf_cache")
NAN = float("nan")


def png(value=9):
    buffer = io.BytesIO()
    Image.new("L", (4, 3), value).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def images(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    return tmp_path


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def tar(path, *samples):
    with tarfile.open(path, "w") as archive:
        for number, sample in enumerate(samples):
            for kind, content in sample.items():
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                member = tarfile.TarInfo(f"{number}.{kind}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return str(path)


def test_values():
    assert [as_text(value) for value in (None, NAN, {"en": "a"}, ["a"], "nan", 1.5, True)] == [
        *([None] * 4),
        *("nan", "1.5", "True"),
    ]
    assert [as_label(value) for value in (3, 3.0, True, False, -1, 2.5, NAN, "3", None, float("inf"))] == [
        *(3, 3, 1, 0),
        *([None] * 6),
    ]
    assert to_array(["a", NAN]).to_pylist() == ["a", None]
    assert to_array([["a", NAN], NAN, "b"]).to_pylist() == [["a", None], None, ["b"]]
    assert to_array([1, NAN]).to_pylist() == [1, None]
    assert sample_caption("", {"caption": NAN, "text": "b"}, Wishes()) == "b"
    assert sample_caption(" ", {}, Wishes()) == " "
    assert sample_caption("a", {"caption": "b"}, Wishes()) == "a"


def test_nan_in_jsonl(images):
    rows = [
        {"key": "k", "file_name": "0.png", "caption": "a", "label": "cat", "url": "u"},
        {"key": NAN, "file_name": "1.png", "caption": NAN, "label": NAN, "url": NAN},
        {"key": "m", "file_name": NAN, "caption": "c", "label": "dog", "url": None},
    ]
    source = open_source(jsonl(images / "t.jsonl", *rows))
    assert source.keys.to_pylist() == ["k", "t-00000001", "m"]
    assert source.captions.to_pylist() == ["a", None, "c"]
    assert (source.labels.tolist(), source.label_names) == ([0, -1, 1], ["cat", "dog"])
    assert source.urls.to_pylist() == ["u", None, None]
    with pytest.raises(BadImage, match="names no file"):
        source.read_image(2)


def test_nan_in_lists(images):
    rows = [{"file_name": "0.png", "captions": [NAN, "b"]}, {"file_name": "1.png", "captions": ["c", NAN]}]
    path = jsonl(images / "t.jsonl", *rows)
    assert open_source(path, captions="all").captions.to_pylist() == [None, "b", "c", None]
    assert open_source(path).captions.to_pylist() == [None, "c"]
    every = tar(
        images / "t.tar", {"png": png(), "json": {"captions": ["a", NAN]}}, {"png": png(), "json": {"captions": NAN}}
    )
    assert open_source(every, captions="all").captions.to_pylist() == ["a", None, None]


def test_nan_in_csv(images):
    (images / "t.csv").write_text('key,file_name,caption,label\nk,0.png,nan,1\nNaN,1.png,a,nan\nm,nan,"nan",2\n')
    source = open_source(str(images / "t.csv"))
    assert source.keys.to_pylist() == ["k", "t-00000001", "m"]
    assert source.captions.to_pylist() == [None, "a", "nan"]
    assert source.labels.tolist() == [1, -1, 2]
    with pytest.raises(BadImage, match="names no file"):
        source.read_image(2)


def test_nan_in_parquet(images):
    table = {"file_name": ["0.png", "1.png"], "caption": ["a", "b"], "label": [3.0, NAN]}
    pq.write_table(pa.table(table), images / "t.parquet")
    source = open_source(str(images / "t.parquet"))
    assert (source.labels.tolist(), source.label_names) == ([3, -1], None)
    pq.write_table(pa.table(table | {"caption": [NAN, NAN]}), images / "t.parquet")
    assert open_source(str(images / "t.parquet")).captions is None


def test_tars(tmp_path):
    source = open_source(
        tar(
            tmp_path / "t.tar",
            {"png": png(), "txt": b"", "json": {"caption": "of json"}},
            {"png": png(), "txt": b" \n", "json": {"caption": NAN, "text": "of text"}},
            {"png": png(), "json": {"caption": {"en": "a dict"}, "key": NAN, "url": NAN}},
            {"png": png(), "json": {"caption": NAN, "label": NAN}, "cls": b"3"},
            {"png": png(), "txt": b"", "json": {}},
        )
    )
    assert source.captions.to_pylist() == ["of json", "of text", None, None, ""]
    assert source.keys.to_pylist() == ["0", "1", "2", "3", "4"]
    assert source.urls is None
    assert source.labels is None


def test_labels_of_tars(tmp_path):
    for labels, expected in [
        ((True, False), [1, 0]),
        ((1.0, 12.0), [1, 12]),
        ((1, 2.0), [1, 2]),
        ((1.0, NAN), [1, -1]),
    ]:
        source = open_source(tar(tmp_path / "t.tar", *({"png": png(), "json": {"label": label}} for label in labels)))
        assert (source.labels.tolist(), source.label_names) == (expected, None)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([True, False, None]), [1, 0, -1]),
        (pa.array([2.0, 0.0, None]), [2, 0, -1]),
        (pa.array([2.0, NAN, 1.0], pa.float32()), [2, -1, 1]),
    ],
)
def test_labels_of_tables(images, column, expected):
    pq.write_table(pa.table({"file_name": ["0.png", "1.png", "2.png"], "label": column}), images / "t.parquet")
    source = open_source(str(images / "t.parquet"))
    assert (source.labels.tolist(), source.label_names, source.warnings) == (expected, None, [])


def test_whole_numbers_with_a_point_in_csv(images):
    (images / "t.csv").write_text("file_name,label\n0.png,10.0\n1.png,\n2.png,2.0\n")
    source = open_source(str(images / "t.csv"))
    assert (source.labels.tolist(), source.label_names) == ([10, -1, 2], None)
    assert label_values(pa.array(["1.5", "2"]), untyped=True)[1] == ["1.5", "2"]


def test_fractions_are_no_classes_and_that_is_said(images):
    source = open_source(
        jsonl(images / "t.jsonl", {"file_name": "0.png", "label": 0.5}, {"file_name": "1.png", "label": 1})
    )
    assert source.labels is None
    assert source.warnings == ["column 'label' holds fractions, which number no classes: there are no labels"]
    assert has_fractions(pa.array([float("inf")]))
    rows = [{"file_name": "0.png", "label": 0.5, "class": "cat"}]
    assert open_source(jsonl(images / "t.jsonl", *rows)).label_names == ["cat"], "another column that has classes"


def test_a_dict_is_no_caption(images):
    source = open_source(jsonl(images / "t.jsonl", {"file_name": "0.png", "caption": {"en": "a"}, "text": "b"}))
    assert source.captions.to_pylist() == ["b"]
    rows = [{"file_name": "0.png", "caption": {"en": "a"}}, {"file_name": "1.png", "caption": "b"}]
    assert open_source(jsonl(images / "t.jsonl", *rows)).captions.to_pylist() == [None, "b"]


def test_column_names_with_blanks(images):
    pq.write_table(pa.table({" file_name": ["0.png"], "Caption ": ["a"]}), images / "t.parquet")
    assert open_source(str(images / "t.parquet")).captions.to_pylist() == ["a"]
    assert open_source(str(images / "t.parquet"), caption_column="Caption").captions.to_pylist() == ["a"]


def test_streams():
    rows = [
        {"image": {"bytes": png(), "path": None}, "key": "a", "caption": "x", "label": 1.0},
        {"image": {"bytes": png(), "path": None}, "key": None, "caption": None, "label": NAN},
    ]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "key": datasets.Value("string"),
            "caption": datasets.Value("string"),
            "label": datasets.Value("float64"),
        }
    )
    dataset = datasets.Dataset.from_list(rows, features=features).to_iterable_dataset()
    samples = list(stream_dataset("me/x", dataset, Wishes()))
    assert [(s.key, s.caption, s.label) for s in samples] == [("a", "x", 1), ("train-00000001", None, None)]
