"""Parquet shards that differ where nobody looks are one table, and images that lie beside their Parquet are found."""

import io
import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.errors import UserError
from pipelines.sources.images import BadImage
from pipelines.sources.open_source import open_source

pytestmark = pytest.mark.usefixtures("hf_cache")
NAN = float("nan")


def png(value):
    buffer = io.BytesIO()
    Image.new("L", (4, 3), value).save(buffer, format="PNG")
    return buffer.getvalue()


def shards(folder, *tables):
    folder.mkdir(exist_ok=True)
    for number, columns in enumerate(tables):
        pq.write_table(pa.table(columns), folder / f"{number}.parquet")
    return open_source(str(folder / "*.parquet"))


def pair(value, **columns):
    return {"image": [png(value)], "caption": [f"c{value}"]} | columns


@pytest.mark.parametrize(
    "second",
    [
        {"width": [1]},
        {"caption": pa.array(["c1"], pa.large_string())},
        {"width": [1], "hash": ["x"]},
        {"caption": pa.array(["c1"]).dictionary_encode()},
        {"image": pa.array([png(1)], pa.large_binary())},
    ],
    ids=["extra", "large string", "two extra", "dictionary", "large binary"],
)
@pytest.mark.parametrize("turned", [False, True], ids=["", "turned"])
def test_columns_that_differ_cost_nothing(tmp_path, second, turned):
    tables = [pair(0), pair(1, **second)]
    source = shards(tmp_path / "s", *tables[:: -1 if turned else 1])
    order = [1, 0] if turned else [0, 1]
    assert source.captions.to_pylist() == [f"c{i}" for i in order]
    assert [source.read_image(i) for i in range(2)] == [png(i) for i in order]
    assert source.keys.to_pylist() == ["0-00000000", "1-00000000"]
    assert source.warnings == []


def test_types_that_mean_the_same(tmp_path):
    source = shards(
        tmp_path / "s",
        pair(0, label=pa.array([3], pa.int32()), image_id=pa.array([7], pa.int64()), url=pa.array([None])),
        pair(1, label=pa.array([4], pa.int64()), image_id=pa.array(["x8"]), url=pa.array(["u"])),
        pair(
            2,
            label=pa.array(
                [
                    5.0,
                ]
            ),
            image_id=pa.array([9.0]),
            url=pa.array([NAN]),
        ),
        pair(3, label=pa.array([NAN]), image_id=pa.array([NAN])),
    )
    assert source.labels.tolist() == [3, 4, 5, -1]
    assert source.keys.to_pylist() == ["7", "x8", "9", "3-00000000"]
    assert source.urls.to_pylist() == [None, "u", None, None]
    assert [source.read_image(i) for i in range(4)] == [png(i) for i in range(4)]


def test_a_shard_without_captions_or_images_has_none(tmp_path):
    source = shards(tmp_path / "s", pair(0), {"image": [png(1)]}, {"caption": ["c2"]}, pair(3, caption=pa.array([NAN])))
    assert source.captions.to_pylist() == ["c0", None, "c2", None]
    assert [source.read_image(i) for i in (0, 1, 3)] == [png(0), png(1), png(3)]
    with pytest.raises(BadImage, match="no image"):
        source.read_image(2)


def test_embedded_images_keep_their_paths_as_keys(tmp_path):
    large = pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())])
    source = shards(
        tmp_path / "s",
        {"image": [{"bytes": png(0), "path": "a.png"}]},
        {"image": pa.array([{"bytes": png(1), "path": "b.png"}], large)},
        {"image": [{"bytes": png(2), "path": "c.png"}], "extra": [1]},
    )
    assert source.keys.to_pylist() == ["a.png", "b.png", "c.png"]
    assert [source.read_image(i) for i in range(3)] == [png(i) for i in range(3)]


def test_class_names_come_from_the_shard_that_has_them(tmp_path):
    (tmp_path / "s").mkdir()
    features = json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}}})
    plain = pa.table(pair(0, label=[1]))
    named = pa.table(pair(1, label=[0], extra=[1])).replace_schema_metadata({"huggingface": features})
    pq.write_table(plain, tmp_path / "s" / "0.parquet")
    pq.write_table(named, tmp_path / "s" / "1.parquet")
    source = open_source(str(tmp_path / "s"))
    assert (source.labels.tolist(), source.label_names) == ([1, 0], ["cat", "dog"])


def test_limit_slices_and_pickles(tmp_path):
    big = [bytes(np.random.default_rng(i).bytes(50_000)) for i in range(4)]
    tables = [{"image": big[:2], "caption": ["a", "b"]}, {"image": big[2:], "caption": ["c", "d"], "more": [1, 2]}]
    source = shards(tmp_path / "s", *tables)
    limited = open_source(str(tmp_path / "s"), limit=3)
    assert limited.keys.to_pylist() == source.keys.to_pylist()[:3]
    assert [limited.read_image(i) for i in range(3)] == big[:3]
    assert len(pickle.dumps(source)) < 20_000
    assert pickle.loads(pickle.dumps(source)).read_image(3) == big[3]


def test_tables_that_name_files_differ_as_well(tmp_path):
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    pq.write_table(
        pa.table({"file_name": ["0.png"], "caption": ["a"], "n": pa.array([1], pa.int32())}), tmp_path / "0.parquet"
    )
    columns = {"file_name": pa.array(["1.png"], pa.large_string()), "n": [2**40], "caption": ["b"]}
    pq.write_table(pa.table(columns), tmp_path / "1.parquet")
    source = open_source(str(tmp_path / "*.parquet"))
    assert source.captions.to_pylist() == ["a", "b"]
    assert [source.read_image(i) for i in range(2)] == [png(0), png(1)]


def test_columns_that_have_nothing_in_common_are_named(tmp_path):
    source = shards(tmp_path / "s", pair(0, score=[0.5]), pair(1, score=["high"]))
    assert len(source.warnings) == 1
    assert "column 'score' is left out: it holds double in" in source.warnings[0]
    assert "1.parquet" in source.warnings[0]
    with pytest.raises(UserError, match=r"its files do not agree on column 'caption': string in .*0\.parquet and list"):
        shards(tmp_path / "t", pair(0), pair(1, caption=[["a", "b"]]))


def img2dataset(folder, count=3, *, stats=True, captions=True, shards=1):
    """What img2dataset writes with output_format=files, its Parquet and statistics beside."""
    for shard in range(shards):
        name = f"{shard:05d}"
        (folder / name).mkdir(parents=True)
        keys = [f"{name}{i:04d}" for i in range(count)]
        for i, key in enumerate(keys):
            (folder / name / f"{key}.jpg").write_bytes(png(i))
            if captions:
                (folder / name / f"{key}.txt").write_text(f"caption {key}")
            row = {"key": key, "caption": f"caption {key}" if captions else None, "url": "http://x/0.jpg"}
            (folder / name / f"{key}.json").write_text(json.dumps(row))
        table = {"url": ["http://x/0.jpg"] * count, "key": keys, "status": ["success"] * count, "width": [4] * count}
        pq.write_table(pa.table(table | {"caption": [f"caption {key}" for key in keys]}), folder / f"{name}.parquet")
        if stats:
            (folder / f"{name}_stats.json").write_text("{}")
    return open_source(str(folder))


@pytest.mark.parametrize("stats", [True, False])
@pytest.mark.parametrize("count", [1, 2])
def test_files_of_img2dataset_beside_their_parquet(tmp_path, stats, count):
    source = img2dataset(tmp_path / "laion", stats=stats, shards=count)
    assert len(source) == 3 * count
    assert source.keys[1].as_py() == "00000/000000001.jpg"
    assert source.captions[1].as_py() == "caption 000000001"
    assert source.read_image(1) == png(1)
    assert source.labels is None


def test_files_of_img2dataset_without_captions_are_no_classes(tmp_path):
    source = img2dataset(tmp_path / "laion", captions=False, shards=2)
    assert (source.labels, source.captions) == (None, None)


def test_an_empty_text_gives_way_to_the_json_beside_it(tmp_path):
    img2dataset(tmp_path / "laion")
    for number, (text, document) in enumerate(
        [("", {"caption": "of json"}), (" \n", {"caption": [NAN, "b"]}), ("", {"caption": NAN})]
    ):
        (tmp_path / "laion" / "00000" / f"00000000{number}.txt").write_text(text)
        (tmp_path / "laion" / "00000" / f"00000000{number}.json").write_text(json.dumps(document))
    assert open_source(str(tmp_path / "laion")).captions.to_pylist() == ["of json", "b", ""]
    (tmp_path / "laion" / "00000" / "000000000.json").write_text("no json")
    (tmp_path / "laion" / "00000" / "000000001.json").unlink()
    assert open_source(str(tmp_path / "laion")).captions.to_pylist() == ["", "", ""]


def test_a_parquet_with_images_is_read_whatever_lies_beside(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "0.png").write_bytes(png(0))
    pq.write_table(pa.table(pair(7)), tmp_path / "train.parquet")
    assert open_source(str(tmp_path)).captions.to_pylist() == ["c7"]
    pq.write_table(pa.table({"file_name": ["train/0.png"], "caption": ["named"]}), tmp_path / "train.parquet")
    assert open_source(str(tmp_path)).captions.to_pylist() == ["named"]


def test_a_parquet_of_urls_alone_is_still_an_error(tmp_path):
    (tmp_path / "00000").mkdir()
    pq.write_table(pa.table({"url": ["http://x/0.jpg"], "caption": ["a"]}), tmp_path / "00000.parquet")
    with pytest.raises(UserError, match="only URLs: download the images with img2dataset"):
        open_source(str(tmp_path))
