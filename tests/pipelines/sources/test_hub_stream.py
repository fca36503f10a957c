"""Streaming is tried on local Parquet through the same ``datasets`` code; without a network it says what to do."""

import io
import itertools
import json
import tarfile
from dataclasses import replace

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.errors import UserError
from pipelines.sources import hub_stream as streams
from pipelines.sources.hub_stream import StreamSource, stream_dataset
from pipelines.sources.open_source import open_source
from pipelines.sources.tables.columns import Wishes

pytestmark = pytest.mark.usefixtures("hf_cache")


def png(value):
    buffer = io.BytesIO()
    Image.new("L", (2, 2), value).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    rows = [
        {
            "__key__": f"{i:04d}",
            "jpg": {"bytes": png(i), "path": None},
            "captions": [f"one {i}", f"two {i}"] if i else [],
            "json": {"url": f"http://x/{i}"},
            "cls": i % 2,
        }
        for i in range(5)
    ]
    features = datasets.Features(
        {
            "__key__": datasets.Value("string"),
            "jpg": datasets.Image(),
            "captions": [datasets.Value("string")],
            "json": {"url": datasets.Value("string")},
            "cls": datasets.ClassLabel(names=["even", "odd"]),
        }
    )
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "train-00000.parquet"))
    return tmp_path


def stream(folder, **wishes):
    dataset = datasets.load_dataset(str(folder), split="train", streaming=True)
    return stream_dataset("me/pairs", dataset, Wishes(**wishes))


def test_samples(folder):
    source = stream(folder)
    samples = list(source)
    assert [sample.key for sample in samples] == [f"{i:04d}" for i in range(5)]
    assert [sample.image for sample in samples] == [png(i) for i in range(5)]
    assert [sample.caption for sample in samples] == [None, "one 1", "one 2", "one 3", "one 4"]
    assert [sample.label for sample in samples] == [0, 1, 0, 1, 0]
    assert [sample.url for sample in samples] == [f"http://x/{i}" for i in range(5)]
    assert source.label_names == ["even", "odd"]
    assert source.has_captions
    assert list(source) == samples


@pytest.mark.parametrize("captions", ["first", "all"])
@pytest.mark.parametrize("limit", [None, 3, 8])
def test_skip_goes_on_where_samples_were_taken(folder, captions, limit):
    every = list(stream(folder, captions=captions))
    assert len(every) == (5 if captions == "first" else 9)
    for n in (0, 1, 2, 6, 20):
        found = list(stream(folder, captions=captions, limit=limit).skip(n))
        assert found == every[:limit][n:]
    assert list(stream(folder, captions=captions).skip(1).skip(2)) == every[3:]


def test_row_numbers_are_keys_and_missing_images_are_empty(tmp_path):
    table = pa.table({"image": pa.array([png(1), None, png(3)]), "text": ["a", "b", "c"]})
    pq.write_table(table, tmp_path / "a.parquet")
    samples = list(stream(tmp_path).skip(1))
    assert [(sample.key, sample.image, sample.caption) for sample in samples] == [
        ("train-00000001", b"", "b"),
        ("train-00000002", png(3), "c"),
    ]


def test_images_in_files_are_fetched(tmp_path):
    (tmp_path / "a.png").write_bytes(png(7))
    rows = [{"image": {"bytes": None, "path": str(tmp_path / name)}} for name in ("a.png", "none.png")]
    table = pa.Table.from_pylist(rows, schema=datasets.Features(image=datasets.Image()).arrow_schema)
    pq.write_table(table, tmp_path / "t.parquet")
    assert [sample.image for sample in stream(tmp_path, allow_outside=True)] == [png(7), b""]


def test_a_webdataset_gives_what_its_tars_give(tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for i in range(2):
            document = {"key": f"k{i}", "url": f"u{i}", "captions": ["one", "two"], "alt": "three"}
            for kind, data in (("png", png(i)), ("txt", b"text"), ("json", json.dumps(document).encode())):
                info = tarfile.TarInfo(f"{i}.{kind}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    for wishes in ({}, {"captions": "all"}, {"caption_column": "alt"}, {"caption_column": "txt"}):
        assert list(stream(tmp_path, **wishes)) == list(open_source(str(tmp_path), **wishes))
    with pytest.raises(UserError, match="no column 'nope'"):
        stream(tmp_path, caption_column="nope")


def test_features_that_are_not_known_before_reading(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "a", "image": "x.png"}\n')
    assert next(iter(stream(tmp_path))).caption == "a"


def test_a_hub_id_is_streamed(folder, monkeypatch):
    import huggingface_hub

    load = datasets.load_dataset
    asked = []
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, timeout: asked.append(name))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **options: load(str(folder), **options))
    source = open_source("me/pairs", limit=2)
    assert isinstance(source, streams.StreamSource)
    assert asked == ["me/pairs"]
    assert [sample.key for sample in itertools.islice(source, 9)] == ["0000", "0001"]
    with pytest.raises(UserError, match=r"me/pairs has no column 'nope'.*'jpg'"):
        open_source("me/pairs", image_column="nope")
    with pytest.raises(UserError, match="me/pairs can't be streamed"):
        open_source("me/pairs", split="nope")


def test_offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set.*hf download someone/something") as raised:
        open_source("someone/something")
    assert "\n" not in str(raised.value)


def test_no_network_and_no_such_dataset(monkeypatch):
    import huggingface_hub

    def fail(error):
        def dataset_info(self, name, timeout):
            raise error

        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)

    fail(OSError("Name or service\nnot known"))
    with pytest.raises(UserError, match="can't be reached: check the spelling and the network"):
        open_source("someone/something")
    errors = huggingface_hub.errors
    # Made without their HTTP response, whose type differs between versions.
    fail(errors.RepositoryNotFoundError.__new__(errors.RepositoryNotFoundError))
    with pytest.raises(UserError, match="neither a local path nor a dataset on the Hub"):
        open_source("someone/something")
    fail(errors.GatedRepoError.__new__(errors.GatedRepoError))
    with pytest.raises(UserError, match="is gated"):
        open_source("someone/something")


@pytest.mark.parametrize("captions", ["first", "all"])
@pytest.mark.parametrize("limit", [None, 3])
def test_a_download_has_the_streams_pairs(folder, monkeypatch, captions, limit):
    """Maps are built from the stream and joined to the download, so keys and captions must be the same."""
    from pipelines.pretrain.options import PretrainOptions
    from pipelines.sources import random_access

    streamed = stream(folder, captions=captions, limit=limit)
    load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **options: load(str(folder), **options))
    monkeypatch.setattr("pipelines.sources.open_source.open_source", lambda *_, **__: streamed)
    options = PretrainOptions("me/pairs", folder / "run", captions=captions, limit=limit)
    source = random_access.open_images(options)
    # training needs no URL, so the one within a json member is not looked for
    assert [source[i] for i in range(len(source))] == [replace(sample, url=None) for sample in streamed]
    assert source.label_names == ["even", "odd"]


def test_a_download_without_keys_is_numbered_as_the_stream(tmp_path, monkeypatch):
    from pipelines.sources.tables.table_source import open_dataset

    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    rows = [{"image": {"bytes": png(i), "path": f"{i}.png"}, "text": f"t{i}"} for i in range(3)]
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "train-00000.parquet"))
    wishes = Wishes()
    downloaded = open_dataset("me/pairs", datasets.load_dataset(str(tmp_path), split="train"), wishes)
    assert downloaded.keys.to_pylist() == [sample.key for sample in stream(tmp_path)]
    assert [downloaded.read_image(i) for i in range(3)] == [png(i) for i in range(3)]


def test_a_download_that_fails_is_one_line(folder, monkeypatch):
    from pipelines.sources import random_access

    def fail(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(UserError, match="me/pairs can't be downloaded: no route; try: hf download"):
        random_access._download(StreamSource("me/pairs", None, None, Wishes()))
