"""Folders as people have them: suffixes of every kind, strays, metadata in subfolders; what is left out is told."""

import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.errors import UserError
from pipelines.sources.images import FORMATS, SUFFIXES, decode_rgb
from pipelines.sources.open_source import open_source


def png(value=9):
    buffer = io.BytesIO()
    Image.new("L", (4, 3), value).save(buffer, format="PNG")
    return buffer.getvalue()


def plant(root, *paths):
    for value, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(value))
    return str(root)


def jsonl(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))


# Suffixes


def test_suffixes_are_those_of_what_decodes():
    Image.init()
    registered = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    assert registered <= SUFFIXES
    assert {".jfif", ".jpe", ".jpeg", ".apng", ".pbm", ".j2k", ".tga", ".mpo"} <= SUFFIXES
    assert not {".heic", ".svg", ".eps", ".psd", ".pdf", ".txt"} & SUFFIXES


def test_every_suffix_in_either_case_is_an_image_of_a_folder(tmp_path):
    names = [f"{i}{suffix.upper() if i % 2 else suffix}" for i, suffix in enumerate(sorted(SUFFIXES))]
    spec = plant(tmp_path, *names)
    source = open_source(spec)
    assert sorted(source.keys.to_pylist()) == sorted(names)
    assert all(decode_rgb(source.read_image(i)).size == (4, 3) for i in range(len(source)))


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".JPG"])
def test_a_real_jpeg_of_any_suffix(tmp_path, suffix):
    Image.new("RGB", (8, 8), "red").save(tmp_path / f"a{suffix}", "JPEG")
    (tmp_path / "a.txt").write_text("red")
    assert open_source(str(tmp_path)).captions.to_pylist() == ["red"]


def test_pictures_that_are_left_out_are_counted_and_told(tmp_path):
    spec = plant(tmp_path, "a.png", "b/1.HEIC", "b/2.heic", "c.svg", "notes.md")
    source = open_source(spec)
    assert source.keys.to_pylist() == ["a.png"]
    assert len(source.warnings) == 1
    assert source.warnings[0].startswith("2 .heic, 1 .svg left out, for such pictures are not decoded; the first is ")
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"holds no images, tars or tables: 2 \.heic, 1 \.svg left out"):
        open_source(spec)


@pytest.mark.parametrize("name", ["a.txt", "a.TXT", "a.caption", "a.png.txt", "a.png.caption"])
def test_sidecars(tmp_path, name):
    spec = plant(tmp_path, "a.png", "b.png")
    (tmp_path / name).write_text("a cat\n")
    assert open_source(spec).captions.to_pylist() == ["a cat", None]


def test_of_several_sidecars_the_usual_one_is_read(tmp_path):
    spec = plant(tmp_path, "a.png")
    names = ["a.png.txt", "a.caption", "a.txt"]
    random.Random(0).shuffle(names)
    for name in names:
        (tmp_path / name).write_text(name)
    assert open_source(spec).captions.to_pylist() == ["a.txt"]
    (tmp_path / "a.txt").unlink()
    assert open_source(spec).captions.to_pylist() == ["a.caption"]


# Strays beside classes


def test_a_stray_beside_class_folders_is_left_out_and_told(tmp_path):
    spec = plant(tmp_path, "cat/1.png", "cat/2.png", "dog/3.png", "sample.png")
    source = open_source(spec)
    assert source.keys.to_pylist() == ["cat/1.png", "cat/2.png", "dog/3.png"]
    assert (source.labels.tolist(), source.label_names) == ([0, 0, 1], ["cat", "dog"])
    assert source.captions[0].as_py() == "a photo of a cat"
    assert source.warnings == ["1 next to the class folders left out; the first is sample.png"]


def test_as_many_images_as_folders_are_no_strays(tmp_path):
    source = open_source(plant(tmp_path, "a/1.png", "b/2.png", "3.png", "4.png"))
    assert len(source) == 4
    assert (source.labels, source.captions, source.warnings) == (None, None, [])


def test_captioned_images_are_no_strays(tmp_path):
    spec = plant(tmp_path, "a/1.png", "b/2.png", "3.png")
    (tmp_path / "3.txt").write_text("three")
    source = open_source(spec)
    assert source.captions.to_pylist() == ["three", None, None]
    assert source.labels is None


def test_a_stray_beside_splits(tmp_path):
    spec = plant(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png", "plot.png")
    with pytest.raises(UserError, match="splits test, train"):
        open_source(spec)
    assert open_source(spec, split="test").label_names == ["a", "b"]


# Metadata in the folders below


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_metadata_of_subfolders(tmp_path, kind):
    spec = plant(tmp_path, "a/0.png", "a/deep/1.png", "b/0.png", "b/unlisted.png", "c.heic")
    for folder, rows in [("a", [("0.png", "a0"), ("deep/1.png", "a1")]), ("b", [("0.png", "b0"), ("gone.png", "b1")])]:
        path = tmp_path / folder / f"metadata.{kind}"
        table = pa.table({"file_name": [name for name, _ in rows], "text": [text for _, text in rows]})
        if kind == "parquet":
            pq.write_table(table, path)
        elif kind == "csv":
            path.write_text("file_name,text\n" + "".join(f"{name},{text}\n" for name, text in rows))
        else:
            jsonl(path, *table.to_pylist())
    source = open_source(spec)
    assert source.keys.to_pylist() == ["a/0.png", "a/deep/1.png", "b/0.png", "b/gone.png"]
    assert source.captions.to_pylist() == ["a0", "a1", "b0", "b1"]
    assert [source.read_image(i) for i in range(3)] == [png(0), png(1), png(2)]
    assert (source.labels.tolist(), source.label_names) == ([0, 0, 1, 1], ["a", "b"]), "classes are what they were"
    told = sorted(source.warnings)
    assert told[0].startswith("1 .heic left out")
    assert told[1] == "1 images that no metadata file lists are left out"
    assert open_source(spec, limit=3).labels.tolist() == [0, 0, 1]
    assert open_source(spec, caption_column="text", captions="all").captions.to_pylist() == ["a0", "a1", "b0", "b1"]


def test_the_same_rows_as_datasets(tmp_path, hf_cache):
    import datasets

    spec = plant(tmp_path, "a/0.png", "b/c/0.png", "b/c/1.png")
    jsonl(tmp_path / "a" / "metadata.jsonl", {"file_name": "0.png", "text": "a0"})
    jsonl(tmp_path / "b" / "c" / "metadata.jsonl", *[{"file_name": f"{i}.png", "text": f"c{i}"} for i in range(2)])
    theirs = datasets.load_dataset("imagefolder", data_dir=spec, split="train")
    source = open_source(spec)
    found = {(decode_rgb(source.read_image(i)).getpixel((0, 0))[0], source.caption(i)) for i in range(len(source))}
    assert found == {(row["image"].convert("RGB").getpixel((0, 0))[0], row["text"]) for row in theirs}
    assert len(theirs) == len(source) == 3


def test_columns_of_metadata_in_subfolders(tmp_path):
    spec = plant(tmp_path, "a/0.png", "b/0.png", "b/m.png")
    jsonl(tmp_path / "a" / "metadata.jsonl", {"id": "x", "file_name": "0.png", "text": "a0", "label": "cat"})
    row = {"id": "y", "file_name": "0.png", "text": "b0", "label": "dog", "mask_file_name": "m.png"}
    jsonl(tmp_path / "b" / "metadata.jsonl", row)
    source = open_source(spec)
    assert source.keys.to_pylist() == ["x", "y"]
    assert source.label_names == ["cat", "dog"]
    assert source.read_mask(0) is None
    assert source.read_mask(1).all()


def test_several_captions_in_metadata_of_subfolders(tmp_path):
    spec = plant(tmp_path, "a/0.png", "b/0.png")
    for name in "ab":
        rows = [{"file_name": "0.png", "text": f"{name}{i}"} for i in range(2)]
        jsonl(tmp_path / name / "metadata.jsonl", *rows)
    source = open_source(spec)
    assert (source.captions.to_pylist(), source.labels.tolist()) == (["a0", "b0"], [0, 1])
    assert open_source(spec, captions="all").labels.tolist() == [0, 0, 1, 1]


def test_metadata_that_can_not_be_read_is_named(tmp_path):
    spec = plant(tmp_path, "a/0.png", "b/0.png")
    jsonl(tmp_path / "a" / "metadata.jsonl", {"file_name": "0.png", "text": "a0"})
    (tmp_path / "b" / "metadata.csv").write_text("file_name,text\n0.png,b0\n")
    with pytest.raises(UserError, match=r"tables of several kinds \(\.csv, \.jsonl\)"):
        open_source(spec)
    (tmp_path / "b" / "metadata.csv").unlink()
    jsonl(tmp_path / "a" / "metadata.jsonl", {"title": "no file"})
    with pytest.raises(UserError, match="no column known to hold images"):
        open_source(spec)


def test_metadata_of_splits(tmp_path):
    spec = plant(tmp_path, "data/train/0.png", "data/test/0.png")
    for name in ("train", "test"):
        jsonl(tmp_path / "data" / name / "metadata.jsonl", {"file_name": "0.png", "text": name})
    with pytest.raises(UserError, match="splits test, train"):
        open_source(spec)
    assert open_source(spec, split="test").captions.to_pylist() == ["test"]


def test_a_listing_above_is_read_alone_and_that_is_said(tmp_path):
    spec = plant(tmp_path, "a/0.png")
    jsonl(tmp_path / "metadata.jsonl", {"file_name": "a/0.png", "text": "above"})
    jsonl(tmp_path / "a" / "metadata.jsonl", {"file_name": "0.png", "text": "below"})
    source = open_source(spec)
    assert source.captions.to_pylist() == ["above"]
    assert source.warnings == ["metadata.jsonl is read, and not a/metadata.jsonl"]
