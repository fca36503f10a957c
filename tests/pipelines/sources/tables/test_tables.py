"""Tables: every column is found by its name and kind, every value survives as it stood in the file."""

import datetime
import io
import json
import math
import multiprocessing
import pickle

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.errors import UserError
from pipelines.sources.images import BadImage
from pipelines.sources.open_source import open_source
from pipelines.sources.tables.columns import (
    CAPTION_NAMES,
    IMAGE_NAMES,
    KEY_NAMES,
    LABEL_NAMES,
    Wishes,
    assign_roles,
    caption_values,
    label_values,
    to_array,
)

pytestmark = pytest.mark.usefixtures("hf_cache")


def png(value, size=(4, 3)):
    buffer = io.BytesIO()
    Image.new("L", size, value).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def images(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    return tmp_path


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


# Which column is what


@pytest.mark.parametrize("name", IMAGE_NAMES)
def test_image_conventions(name):
    for kind in (pa.string(), pa.binary(), pa.struct({"bytes": pa.binary(), "path": pa.string()})):
        assert assign_roles(pa.schema({"x": pa.string(), name: kind}), "t", Wishes()).image == name
    assert assign_roles(pa.schema({name.upper(): pa.string()}), "t", Wishes()).image == name.upper()


@pytest.mark.parametrize("name", [*CAPTION_NAMES, "TEXT", "Caption"])
def test_caption_conventions(name):
    assert assign_roles(pa.schema({"image": pa.binary(), name: pa.string()}), "t", Wishes()).caption == name


def test_conventions_have_an_order_and_a_kind():
    every = pa.schema(dict.fromkeys((*IMAGE_NAMES, *CAPTION_NAMES, *KEY_NAMES, *LABEL_NAMES), pa.string()))
    roles = assign_roles(every, "t", Wishes())
    assert (roles.image, roles.caption, roles.key, roles.label) == ("image", "caption", "key", "label")
    assert assign_roles(every, "t", Wishes(), prefer_file_name=True).image == "file_name"
    numbers = pa.schema({"image": pa.int64(), "caption": pa.float64(), "path": pa.string(), "text": pa.string()})
    roles = assign_roles(numbers, "t", Wishes())
    assert (roles.image, roles.caption) == ("path", "text")
    lists = pa.schema({"image": pa.binary(), "caption": pa.string(), "captions": pa.list_(pa.string())})
    assert assign_roles(lists, "t", Wishes()).caption == "caption"
    assert assign_roles(lists, "t", Wishes(captions="all")).caption == "captions"
    assert assign_roles(lists, "t", Wishes(captions="all", caption_column="caption")).caption == "caption"


def test_named_columns_are_checked():
    schema = pa.schema({"a": pa.binary(), "b": pa.int64(), "c": pa.string()})
    roles = assign_roles(schema, "t", Wishes("a", "c"))
    assert (roles.image, roles.caption) == ("a", "c")
    for wishes, why in [
        (Wishes("z"), r"t has no column 'z'; it has 'a', 'b', 'c'"),
        (Wishes("a", "z"), r"t has no column 'z'; it has 'a', 'b', 'c'"),
        (Wishes("b"), r"column 'b' holds int64, not images"),
        (Wishes("a", "b"), r"column 'b' holds int64, not text"),
        (Wishes(), r"t has no column known to hold images; it has 'a', 'b', 'c': name one with --image-column"),
    ]:
        with pytest.raises(UserError, match=why):
            assign_roles(schema, "t", wishes)
    with pytest.raises(UserError, match="img2dataset"):
        assign_roles(pa.schema({"caption": pa.string(), "url": pa.string()}), "t", Wishes())


def test_values():
    lists = pa.array([["a", "b"], [], None, [None, "c"], ["d"]])
    assert caption_values(lists, "first")[0].to_pylist() == ["a", None, None, None, "d"]
    texts, rows = caption_values(lists.slice(1), "all")
    assert texts.to_pylist() == [None, None, None, "c", "d"]
    assert rows.tolist() == [0, 1, 2, 2, 3]
    assert label_values(pa.array([3, None, 0]))[0].tolist() == [3, -1, 0]
    labels, names = label_values(pa.array(["b", None, "a", "b"]).dictionary_encode())
    assert (labels.tolist(), names) == ([1, -1, 0, 1], ["a", "b"])
    labels, names = label_values(pa.array(["10", "", "9"]), untyped=True)
    assert (labels.tolist(), names) == ([10, -1, 9], None)
    assert label_values(pa.array(["01", "2"]), untyped=True)[1] == ["01", "2"]
    assert to_array([1, "a", None, 10**30]).to_pylist() == ["1", "a", None, str(10**30)]
    assert to_array(["a", ["b", 1], None]).to_pylist() == [["a"], ["b", "1"], None]
    assert to_array(["\ud800x", "y"]).to_pylist() == ["?x", "y"]


# Text tables


def test_csv_is_text_throughout(images):
    long = "x" * 10_000
    (images / "t.csv").write_text(
        '\ufeffid,file_name,caption,label\n007,0.png,"a ""quoted"", and\nbroken line",10\n'
        f"é日,1.png,,9\n2020-01-01,none.png,{long},\n",
        encoding="utf-8",
    )
    source = open_source(str(images / "t.csv"))
    assert source.keys.to_pylist() == ["007", "é日", "2020-01-01"]
    assert source.captions.to_pylist() == ['a "quoted", and\nbroken line', "", long]
    assert source.labels.tolist() == [10, 9, -1]
    assert source.read_image(0) == png(0)
    with pytest.raises(OSError, match=r"none\.png"):
        source.read_image(2)


def test_csv_numbers_and_dates_stay_text(images):
    (images / "t.csv").write_text("id,image,text\n007,0.png,1.50\n010,1.png,2020-01-01\n")
    source = open_source(str(images / "t.csv"))
    assert source.keys.to_pylist() == ["007", "010"]
    assert source.captions.to_pylist() == ["1.50", "2020-01-01"]


def test_quoted_newlines_over_many_blocks(images, monkeypatch):
    monkeypatch.setattr("pipelines.sources.tables.delimited._BLOCK", 256)
    (images / "t.csv").write_text("image,text\n" + "".join(f'{i}.png,"line\n{i}\n\nline"\n' for i in range(100)))
    assert open_source(str(images / "t.csv")).captions.to_pylist() == [f"line\n{i}\n\nline" for i in range(100)]


@pytest.mark.parametrize(("name", "separator"), [("t.tsv", "\t"), ("t.csv", ";"), ("t.txt", "|"), ("t.txt", "\t")])
def test_separators(images, name, separator):
    rows = [["image", "text"], ["0.png", "a, b"], [str(images / "1.png"), "c"]]
    (images / name).write_text("".join(separator.join(row) + "\n" for row in rows))
    source = open_source(str(images / name))
    assert source.captions.to_pylist() == ["a, b", "c"]
    assert source.keys.to_pylist() == ["0.png", str(images / "1.png")]
    assert [source.read_image(i) for i in range(2)] == [png(0), png(1)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"image,text\na.png,b,c\n", r"t\.csv can't be read as a table: .*Expected 2 columns"),
        (b"", "it is empty"),
        (b"image,text\n", "has no rows"),
        (b"image,image\na,b\n", "names a column twice"),
        (b"image,text\n\xff\xfe,b\n", "t.csv can't be read"),
        (b"image,text\nhttps://x/a.png,b\n", r"'image' holds URLs.*img2dataset"),
        (b"a caption\thttp://x/a.png\nb\thttp://x/b.png\n", "img2dataset"),
    ],
)
def test_bad_csv(tmp_path, text, why):
    (tmp_path / "t.csv").write_bytes(text)
    with pytest.raises(UserError, match=why):
        open_source(str(tmp_path / "t.csv"))


def test_jsonl_values_stay_as_they_are(images):
    rows = [
        {"key": "007", "file_name": "0.png", "caption": "2020-01-01T00:00:00", "label": "dog"},
        {"file_name": "1.png", "caption": None, "key": 8, "label": "cat", "url": "http://x/1"},
        {"key": "x", "file_name": "2.png", "caption": "", "label": None},
        {"key": "y", "caption": "no file"},
    ]
    source = open_source(write_jsonl(images / "t.jsonl", rows))
    assert source.keys.to_pylist() == ["007", "8", "x", "y"]
    assert source.captions.to_pylist() == ["2020-01-01T00:00:00", None, "", "no file"]
    assert source.urls.to_pylist() == [None, "http://x/1", None, None]
    assert source.labels.tolist() == [1, 0, -1, -1]
    assert source.label_names == ["cat", "dog"]
    with pytest.raises(BadImage, match="names no file"):
        source.read_image(3)
    rows[1]["file_name"] = "1\0.png"
    with pytest.raises(BadImage, match="zero byte"):
        open_source(write_jsonl(images / "t.jsonl", rows)).read_image(1)


def test_captions_first_and_all(images):
    rows = [
        {"file_name": "0.png", "captions": ["a", "b"], "caption": "one"},
        {"file_name": "1.png", "captions": [], "caption": None},
        {"file_name": "2.png", "captions": ["c"], "caption": "three"},
    ]
    path = write_jsonl(images / "t.jsonl", rows)
    assert open_source(path).captions.to_pylist() == ["one", None, "three"]
    assert open_source(path, caption_column="captions").captions.to_pylist() == ["a", None, "c"]
    every = open_source(path, captions="all")
    assert every.captions.to_pylist() == ["a", "b", None, "c"]
    assert every.keys.to_pylist() == ["0.png", "0.png", "1.png", "2.png"]
    assert [every.read_image(i) for i in range(4)] == [png(0), png(0), png(1), png(2)]
    assert open_source(path, captions="all", limit=3).captions.to_pylist() == ["a", "b", None]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"image": "a"}\n\n{"image": \n', r"t\.jsonl, line 3 is not JSON"),
        ('[{"image": "a"}]\n', r"line 1 is not a JSON object"),
        ("\n", "has no rows"),
    ],
)
def test_bad_jsonl(tmp_path, text, why):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(UserError, match=why):
        open_source(str(tmp_path / "t.jsonl"))


def test_images_in_a_folder_below(images):
    (images / "Images").mkdir()
    (images / "Images" / "only_here.png").write_bytes(png(9))
    path = write_jsonl(images / "t.jsonl", [{"image": "only_here.png"}])
    assert open_source(path).read_image(0) == png(9)


# Parquet


def test_parquet_with_bytes(tmp_path):
    path = write_parquet(tmp_path / "t.parquet", image=[png(0), None, png(2)], text=["a", None, "c"])
    source = open_source(path)
    assert source.keys.to_pylist() == ["t-00000000", "t-00000001", "t-00000002"]
    assert source.captions.to_pylist() == ["a", None, "c"]
    assert source.read_image(0) == png(0)
    assert source[2].image == png(2)
    with pytest.raises(BadImage, match="no image"):
        source.read_image(1)
    assert open_source(path, limit=2).keys.to_pylist() == source.keys[:2].to_pylist()
    assert len(open_source(path, limit=9)) == 3


def test_parquet_of_datasets_with_class_names_and_masks(tmp_path):
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), "mask": datasets.Image()}
    )
    rows = [
        {"image": {"bytes": png(i), "path": f"{i}.png"}, "label": 1 - i, "mask": {"bytes": png(i), "path": None}}
        for i in range(2)
    ]
    rows.append({"image": {"bytes": png(5), "path": "x.png"}, "label": None, "mask": None})
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "t.parquet"))
    source = open_source(str(tmp_path / "t.parquet"))
    assert source.keys.to_pylist() == ["0.png", "1.png", "x.png"]
    assert source.labels.tolist() == [1, 0, -1]
    assert source.label_names == ["cat", "dog"]
    assert source.captions is None
    assert source.read_image(1) == png(1)
    assert source.has_masks
    assert [bool(source.read_mask(i).all()) for i in range(2)] == [False, True]
    assert source.read_mask(2) is None


@pytest.mark.parametrize("paths", [["a.png", "a.png"], ["a.png", ""], ["a.png", None]])
def test_embedded_paths_that_name_nothing_are_no_keys(tmp_path, paths):
    rows = [{"bytes": png(0), "path": path} for path in paths]
    assert open_source(write_parquet(tmp_path / "t.parquet", image=rows)).keys[1].as_py() == "t-00000001"


def test_embedded_paths_are_read_where_there_are_no_bytes(images):
    rows = [{"bytes": None, "path": "1.png"}, {"bytes": png(9), "path": "9.png"}]
    source = open_source(write_parquet(images / "t.parquet", image=rows))
    assert [source.read_image(i) for i in range(2)] == [png(1), png(9)]


def test_parquet_that_names_files_is_not_copied(images):
    day = [datetime.date(2020, 1, 1)] * 2
    path = write_parquet(images / "t.parquet", file_name=["0.png", "1.png"], id=[7, None], day=day)
    source = open_source(path)
    assert source.keys.to_pylist() == ["7", "t-00000001"]
    assert source.read_image(1) == png(1)
    assert not list(datasets.config.HF_DATASETS_CACHE.iterdir())


def test_boxes_are_masks_in_pixels_of_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("L", (4, 3)).save(buffer, format="PNG", exif=exif)
    path = write_parquet(
        tmp_path / "t.parquet",
        image=[png(0), buffer.getvalue(), *[png(0)] * 4],
        box=[[1, 0, 2, 1], [0, 3, 2, 3], None, [0, 0, 99, 1e308], [0, 0, math.inf, 1], [0, math.nan, 1, 1]],
    )
    source = open_source(path)
    first, turned = source.read_mask(0), source.read_mask(1)
    assert np.argwhere(first).tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert first.shape == (3, 4)
    assert turned.shape == (4, 3)
    assert np.argwhere(turned).tolist() == [[3, 0], [3, 1], [3, 2]]
    assert source.read_mask(2) is None
    assert source.read_mask(3).all()
    for row in (4, 5):
        with pytest.raises(BadImage, match="not x0, y0, x1, y1"):
            source.read_mask(row)


def test_several_files_in_order(tmp_path):
    for i in range(3):
        write_parquet(tmp_path / f"{i:02d}.parquet", jpg=[png(2 * i), png(2 * i + 1)], txt=[f"{2 * i}", f"{2 * i + 1}"])
    for spec in (tmp_path, tmp_path / "*.parquet", tmp_path / "{00..02}.parquet"):
        source = open_source(str(spec))
        assert source.captions.to_pylist() == [str(i) for i in range(6)]
        assert [source.read_image(i) for i in range(6)] == [png(i) for i in range(6)]
        assert source.keys[3].as_py() == "01-00000001"
    assert open_source(str(tmp_path), limit=3).keys.to_pylist() == ["00-00000000", "00-00000001", "01-00000000"]
    assert len(open_source(str(tmp_path), limit=3).images.parts[0]) == 4
    for i in range(2):
        write_jsonl(tmp_path / f"{i}.jsonl", [{"id": f"{i}{j}", "image": f"{j}.png"} for j in range(2)])
    assert open_source(str(tmp_path / "{0,1}.jsonl"), limit=3).keys.to_pylist() == ["00", "01", "10"]
    with pytest.raises(UserError, match="several kinds"):
        open_source(str(tmp_path / "{0.jsonl,00.parquet}"))


def test_splits_of_a_downloaded_dataset(tmp_path):
    (tmp_path / "data").mkdir()
    for i, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001")):
        write_parquet(tmp_path / "data" / f"{name}.parquet", image=[png(i)])
    with pytest.raises(UserError, match="splits train, validation"):
        open_source(str(tmp_path))
    assert [sample.image for sample in open_source(str(tmp_path), split="train")] == [png(0), png(1)]
    assert [sample.image for sample in open_source(str(tmp_path / "data"), split="val")] == [png(2)]


def test_odd_paths_and_silence(tmp_path, capfd):
    folder = tmp_path / "[a-b] {c}* d"
    folder.mkdir()
    write_parquet(tmp_path / "other.parquet", image=[png(1)])
    path = write_parquet(folder / "t.parquet", image=[png(0)])
    assert open_source(path).read_image(0) == png(0)
    assert capfd.readouterr() == ("", "")


def test_a_rewritten_parquet_is_read_anew(tmp_path):
    assert open_source(write_parquet(tmp_path / "t.parquet", image=[png(0)])).read_image(0) == png(0)
    assert open_source(write_parquet(tmp_path / "t.parquet", image=[png(1)])).read_image(0) == png(1)


def test_damaged_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    write_parquet(path, image=[bytes(np.random.default_rng(0).bytes(5000))], text=["a"])
    whole = path.read_bytes()
    for damaged in (b"", b"junk" * 100, whole[: len(whole) // 2], whole[:4] + b"\xff" * 40 + whole[44:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"t\.parquet"):
            open_source(str(path))


def test_pickles_are_small_and_two_processes_read(tmp_path, images):
    big = bytes(100_000)
    sources = [
        open_source(write_parquet(tmp_path / "t.parquet", image=[big + bytes([i]) for i in range(4)])),
        open_source(write_jsonl(images / "t.jsonl", [{"image": f"{i}.png"} for i in range(3)])),
    ]
    for source in sources:
        source.read_image(0)
        assert len(pickle.dumps(source)) < 10_000
        assert pickle.loads(pickle.dumps(source))[2] == source[2]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for source in sources:
            assert pool.map(source.read_image, range(3)) == [source.read_image(i) for i in range(3)]
