"""One pair an image with ``--captions first``, whatever kind of source says a caption a row; all with ``all``."""

import io
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.sources.hub_stream import stream_dataset
from pipelines.sources.open_source import open_source
from pipelines.sources.tables.columns import Wishes
from pipelines.sources.tables.first_captions import captions_together, first_rows
from pipelines.sources.tables.table_source import open_dataset

WRITTEN = Path(__file__).parents[3] / "data" / "written_before" / "salient"
pytestmark = pytest.mark.usefixtures("hf_cache")


def png(value=9):
    buffer = io.BytesIO()
    Image.new("L", (4, 3), value).save(buffer, format="PNG")
    return buffer.getvalue()


def pairs(source):
    return list(zip(source.keys.to_pylist(), source.captions.to_pylist(), strict=True))


@pytest.fixture
def flickr(tmp_path):
    """Four images with three captions each, in an order that is not the images'."""
    (tmp_path / "Images").mkdir()
    for i in range(4):
        (tmp_path / "Images" / f"{i}.jpg").write_bytes(png(i))
    rows = [f'{i}.jpg,"caption {n}, of {i}"' for n in range(3) for i in (2, 0, 1, 3)]
    (tmp_path / "captions.txt").write_text("\n".join(["image,caption", *rows]) + "\n")
    return tmp_path


def test_flickr8k(flickr):
    source = open_source(str(flickr))
    assert pairs(source) == [(f"{i}.jpg", f"caption 0, of {i}") for i in (2, 0, 1, 3)]
    assert [source.read_image(i) for i in range(4)] == [png(i) for i in (2, 0, 1, 3)]
    assert source.warnings == ["further captions of an image left out: 8 (--captions all makes a pair of each)"]
    assert len(open_source(str(flickr), captions="all")) == 12


def test_captions_of_an_image_come_together(flickr):
    scattered = open_source(str(flickr), captions="all")
    together = captions_together(scattered)
    assert pairs(together) == [(f"{i}.jpg", f"caption {n}, of {i}") for i in (2, 0, 1, 3) for n in range(3)]
    assert [together.read_image(i) for i in range(0, 12, 3)] == [png(i) for i in (2, 0, 1, 3)]
    assert captions_together(together) is together


@pytest.mark.parametrize("limit", [1, 3, 4, 9])
def test_limit_counts_pairs(flickr, limit):
    (flickr / "sorted.csv").write_text(
        "image,caption\n" + "".join(f"Images/{i}.jpg,{n} of {i}\n" for i in range(4) for n in range(3))
    )
    source = open_source(str(flickr / "sorted.csv"), limit=limit)
    assert pairs(source) == [(f"Images/{i}.jpg", f"0 of {i}") for i in range(min(limit, 4))]
    assert len(open_source(str(flickr / "sorted.csv"), limit=limit, captions="all")) == limit


def test_maps_of_all_rows_still_join(flickr, tmp_path):
    """What was built when every row was a pair has a map for each pair of now."""
    every = set(pairs(open_source(str(flickr), captions="all")))
    assert set(pairs(open_source(str(flickr)))) <= every


def test_rows_that_differ_in_more_than_their_caption_are_samples_of_their_own(tmp_path):
    (tmp_path / "0.png").write_bytes(png())
    base = {"file_name": "0.png", "caption": "a", "label": "cat", "url": "u", "box": [0, 0, 1, 1]}
    rows = [base, base | {"caption": "b"}]
    rows += [base | {"caption": name} | change for name, change in [
        ("c", {"label": "dog"}), ("d", {"url": "v"}), ("e", {"box": [1, 1, 2, 2]}),
    ]]  # fmt: skip
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert open_source(str(tmp_path)).captions.to_pylist() == ["a", "c", "d", "e"]


def test_blank_and_repeated_captions_stay_to_be_rejected(tmp_path):
    (tmp_path / "0.png").write_bytes(png())
    captions = [None, "", "a", "b", "a", "  ", "c"]
    rows = [{"file_name": "0.png", "caption": caption} for caption in captions]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert open_source(str(tmp_path)).captions.to_pylist() == [None, "", "a", "a", "  "]


def test_rows_without_captions_are_left_alone(tmp_path):
    (tmp_path / "0.png").write_bytes(png())
    (tmp_path / "metadata.jsonl").write_text("\n".join([json.dumps({"file_name": "0.png"})] * 3))
    assert len(open_source(str(tmp_path))) == 3


def test_files_that_are_missing_and_rows_without_a_file(tmp_path):
    rows = [
        {"key": "k", "file_name": name, "caption": c} for name, c in [("x", "a"), ("x", "b"), (None, "c"), (None, "d")]
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert open_source(str(tmp_path / "t.jsonl")).captions.to_pylist() == ["a", "c", "d"]


ROWS = [("a", 0, "a0"), ("a", 0, "a1"), ("a", 1, "a2"), ("b", 1, "b0"), ("b", 1, None), ("b", 1, "b1"), ("a", 0, "a3")]
FIRST = [("a", "a0"), ("a", "a2"), ("b", "b0"), ("b", None), ("a", "a3")]
"""Images inside a table are one where key and bytes are and they follow each other, as in ``prepare``."""


def table():
    return {
        "key": [key for key, _, _ in ROWS],
        "image": [{"bytes": png(value), "path": None} for _, value, _ in ROWS],
        "caption": [caption for _, _, caption in ROWS],
    }


def test_images_inside_a_table(tmp_path):
    columns = table()
    pq.write_table(pa.table(columns), tmp_path / "structs.parquet")
    pq.write_table(
        pa.table(columns | {"image": [row["bytes"] for row in columns["image"]]}), tmp_path / "bytes.parquet"
    )
    for name in ("structs.parquet", "bytes.parquet"):
        assert pairs(open_source(str(tmp_path / name))) == FIRST
        assert len(open_source(str(tmp_path / name), captions="all")) == len(ROWS)
        assert pairs(open_source(str(tmp_path / name), limit=2)) == FIRST[:2]


def test_a_stream_gives_what_its_download_gives():
    features = datasets.Features(
        {"key": datasets.Value("string"), "image": datasets.Image(), "caption": datasets.Value("string")}
    )
    dataset = datasets.Dataset.from_dict(table(), features=features)

    def streamed(**wishes):
        stream = stream_dataset("me/x", dataset.to_iterable_dataset(), Wishes(**wishes))
        return [(sample.key, sample.caption) for sample in stream]

    assert streamed() == FIRST
    assert streamed(limit=3) == FIRST[:3]
    assert streamed(captions="all") == [(key, caption) for key, _, caption in ROWS]
    stream = stream_dataset("me/x", dataset.to_iterable_dataset(), Wishes())
    assert [(sample.key, sample.caption) for sample in stream.skip(2)] == FIRST[2:]
    assert len(open_dataset("me/x", dataset.cast_column("image", datasets.Image(decode=False)), Wishes())) == len(ROWS)


def test_first_rows():
    rows = [("x", "a"), ("y", "b"), ("x", " a "), ("x", "c"), ("y", None), ("y", "d")]
    kept = first_rows(rows, lambda row: row[0], lambda row: row[1])
    assert list(kept) == [("x", "a"), ("y", "b"), ("x", " a "), ("y", None)]


def test_a_download_gives_the_pairs_of_the_stream(monkeypatch):
    from pipelines.sources import random_access

    features = datasets.Features(
        {"key": datasets.Value("string"), "image": datasets.Image(), "caption": datasets.Value("string")}
    )
    dataset = datasets.Dataset.from_dict(table(), features=features).cast_column("image", datasets.Image(decode=False))

    def opened(_spec, *, captions, limit, **_):
        return stream_dataset("me/x", dataset.to_iterable_dataset(), Wishes(captions=captions, limit=limit))

    class Options:
        source, image_column, caption_column, split = "me/x", None, None, None
        captions, limit, allow_outside = "first", None, False

    monkeypatch.setattr("pipelines.sources.open_source.open_source", opened)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: dataset)
    for limit in (None, 1, 2, 4, 99):
        Options.limit = limit
        assert pairs(random_access.open_images(Options())) == FIRST[:limit]
    Options.captions = "all"
    assert len(random_access.open_images(Options(), limit=None)) == len(ROWS)


def test_maps_and_runs_of_when_every_row_was_a_pair(flickr, tmp_path, tiny_clip):
    """Maps of all twelve rows are all judged, and join; a run that began with twelve pairs goes on with them."""
    from pipelines.build.build_saliency import build_saliency
    from pipelines.build.options import BuildOptions
    from pipelines.inspect.map_scores import joined_pairs, source_of_maps
    from pipelines.pretrain import plain
    from pipelines.pretrain.settings import PretrainOptions
    from pipelines.sources.source import hash_pairs
    from pipelines.views.joined_maps import join_maps
    from saliency.table.table import SaliencyTable

    maps = tmp_path / "maps"
    for i in range(4):
        Image.new("RGB", (40, 30), (60 * i, 9, 9)).save(flickr / "Images" / f"{i}.jpg")
    build_saliency(BuildOptions(str(flickr), maps, clip=tiny_clip, captions="all"), quiet=True)
    manifest = json.loads((maps / "manifest.json").read_text())
    manifest["origin"]["captions"] = "first"  # as it was
    (maps / "manifest.json").write_text(json.dumps(manifest))
    saliency = SaliencyTable(maps)
    found = source_of_maps(saliency)
    assert len(joined_pairs(saliency, found)[0]) == len(found) == 12
    joined = join_maps(maps, open_source(str(flickr)), on_missing="error")
    assert joined.missing == 0
    assert len(joined.rows) == 4

    run = tmp_path / "run"
    every = open_source(str(flickr), captions="all")
    run.mkdir()
    config = json.loads((WRITTEN / "config.json").read_text()) | {"keys_sha256": hash_pairs(every, captions=False)}
    (run / "config.json").write_text(json.dumps(config))
    assert len(plain.open_training(PretrainOptions(str(flickr), run))) == 12
    assert len(plain.open_training(PretrainOptions(str(flickr), tmp_path / "new"))) == 4
