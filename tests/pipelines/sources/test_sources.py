"""The resolver: each kind of place by the shape of what the user typed, each mistake as one line."""

import bz2
import gzip
import io
import json
import lzma
import tarfile

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.errors import UserError, user_errors
from pipelines.sources.folders import class_caption
from pipelines.sources.formats import FILE_FORMATS, FileFormat
from pipelines.sources.images import BadImage, decode_rgb
from pipelines.sources.open_source import open_source
from pipelines.sources.patterns import expand_braces
from pipelines.sources.source import Sample, Source


def png(value):
    buffer = io.BytesIO()
    Image.new("L", (4, 3), value).save(buffer, format="PNG")
    return buffer.getvalue()


def plant(root, *paths):
    """Images, one grey higher than the other, at these paths; ``.txt`` and ``.json`` ones hold their own name."""
    for value, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(file.name.encode() if file.suffix in (".txt", ".json", ".md") else png(value))
    return str(root)


def test_folder_of_images(tmp_path):
    spec = plant(tmp_path, "b.png", "a.JPG", "0010.png", ".hidden.png", "notes.md", "日本.webp")
    source = open_source(spec)
    assert source.name == spec
    assert source.keys.to_pylist() == ["0010.png", "a.JPG", "b.png", "日本.webp"]
    assert (source.captions, source.labels, source.urls, source.has_captions, source.has_masks) == (
        *(None, None, None),
        *(False, False),
    )
    assert source[2] == Sample("b.png", png(0), None)
    assert source[-2] == source[2]
    assert source.read_mask(0) is None
    assert len(list(source)) == 4
    with pytest.raises(IndexError):
        source[4]
    assert open_source(spec, limit=2).keys.to_pylist() == ["0010.png", "a.JPG"]
    assert open_source(spec + "/").keys == source.keys


def test_folder_with_captions_beside_the_images(tmp_path):
    spec = plant(tmp_path, "b.png", "b.txt", "c.d.png", "c.d.txt", "a.png", "sub/e.png", "sub/e.txt")
    source = open_source(spec)
    assert source.keys.to_pylist() == ["a.png", "b.png", "c.d.png", "sub/e.png"]
    assert source.captions.to_pylist() == [None, "b.txt", "c.d.txt", "e.txt"]
    assert source.labels is None


def test_files_of_img2dataset_are_shards_not_classes(tmp_path):
    names = [f"0000{i}/0000{i}000{j}" for i in (0, 1) for j in (0, 1)]
    spec = plant(tmp_path, *[f"{name}.{kind}" for name in names for kind in ("png", "txt")])
    source = open_source(spec)
    assert source.captions[3].as_py() == "000010001.txt"
    assert source.labels is None


def test_class_tree(tmp_path):
    spec = plant(tmp_path, "great_white/x.png", "apple/deep/er/y.png", "apple/z.png", "README.md")
    (tmp_path / "empty").mkdir()
    source = open_source(spec)
    assert source.keys.to_pylist() == ["apple/deep/er/y.png", "apple/z.png", "great_white/x.png"]
    assert source.label_names == ["apple", "great_white"]
    assert source.labels.tolist() == [0, 0, 1]
    assert source.captions.to_pylist() == ["a photo of an apple"] * 2 + ["a photo of a great white"]
    assert open_source(spec, limit=1).label_names == ["apple", "great_white"]
    assert class_caption("Egyptian_cat") == "a photo of an Egyptian cat"


def test_one_folder_is_no_class(tmp_path):
    source = open_source(plant(tmp_path, "images/x.png", "images/y.png"))
    assert source.labels is None
    assert source.captions is None


def test_classes_keep_their_labels_beside_captions(tmp_path):
    source = open_source(plant(tmp_path, "a/1.png", "a/1.txt", "b/2.png"))
    assert source.labels.tolist() == [0, 1]
    assert source.captions.to_pylist() == ["1.txt", None]


def test_masks_beside_frames(tmp_path):
    source = open_source(plant(tmp_path, "0.jpg", "0_mask.png", "1.jpg", "lone_mask.png"))
    assert source.keys.to_pylist() == ["0.jpg", "1.jpg", "lone_mask.png"]
    assert source.read_mask(0).all()
    assert source.read_mask(1) is None


def test_split_folders(tmp_path):
    paths = [f"{split}/{name}/1.png" for split in ("train", "val") for name in ("cat", "dog")]
    spec = plant(tmp_path, *paths, "README.md")
    with pytest.raises(UserError, match="holds the splits train, validation: name one with --split"):
        open_source(spec)
    for split in ("val", "validation"):
        assert open_source(spec, split=split).keys.to_pylist() == ["cat/1.png", "dog/1.png"]
    with pytest.raises(UserError, match="no split 'test': it has the splits train, validation"):
        open_source(spec, split="test")
    with pytest.raises(UserError, match="has no splits"):
        open_source(spec + "/train", split="train")


def test_a_single_split_and_other_folders(tmp_path):
    spec = plant(tmp_path, "train/cat/1.png", "train/dog/1.png")
    assert open_source(spec).label_names == ["cat", "dog"]
    plant(tmp_path, "test/cat/1.png", "annotations/x.json")
    with pytest.raises(UserError, match="splits test, train"):
        open_source(spec)


@pytest.mark.parametrize(
    "name", ["metadata.jsonl", "metadata.csv", "metadata.parquet", "captions.jsonl", "captions.csv"]
)
def test_folder_with_a_listing(tmp_path, name):
    import pyarrow as pa
    import pyarrow.parquet as pq

    spec = plant(tmp_path, "images/0.png", "masks/1.png", "images/unlisted.png")
    rows = [
        {"file_name": "images/0.png", "image": "other", "caption": "zero", "mask_file_name": "masks/1.png"},
        {"file_name": "images/gone.png", "image": "other", "caption": "one", "mask_file_name": None},
    ]
    if name.endswith("jsonl"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    elif name.endswith("csv"):
        lines = [",".join(rows[0]), *(",".join(value or "" for value in row.values()) for row in rows)]
        (tmp_path / name).write_text("\n".join(lines))
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    source = open_source(spec)
    assert source.keys.to_pylist() == ["images/0.png", "images/gone.png"]
    assert source.captions.to_pylist() == ["zero", "one"]
    assert decode_rgb(source.read_image(0)).size == (4, 3)
    assert source.read_mask(0).all()
    assert source.read_mask(1) is None
    with pytest.raises(FileNotFoundError):
        source.read_image(1)


def test_flickr8k(tmp_path):
    spec = plant(tmp_path, "Images/1.jpg", "Images/2.jpg")
    (tmp_path / "captions.txt").write_text('image,caption\n1.jpg,A dog .\n1.jpg,"A dog , running ."\n2.jpg,A cat .\n')
    source = open_source(spec, captions="all")
    assert source.keys.to_pylist() == ["1.jpg", "1.jpg", "2.jpg"]
    assert source.captions.to_pylist() == ["A dog .", "A dog , running .", "A cat ."]
    assert source.read_image(1) == png(0)
    assert source.read_image(2) == png(1)


def test_tables_in_a_folder_need_a_split(tmp_path):
    plant(tmp_path, "pics/0.png")
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text(json.dumps({"image": "pics/0.png", "text": name}) + "\n")
    (tmp_path / "pics" / "0.png").rename(tmp_path / "pics" / "0.data")
    with pytest.raises(UserError, match="splits test, train"):
        open_source(str(tmp_path))
    assert open_source(str(tmp_path), split="test").captions.to_pylist() == ["test.jsonl"]
    assert open_source(str(tmp_path / "train.jsonl")).captions.to_pylist() == ["train.jsonl"]


def test_bad_images_show_when_they_are_read(tmp_path):
    plant(tmp_path, "good.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "cut.png").write_bytes(png(3)[:50])
    source = open_source(str(tmp_path))
    assert len(source) == 4
    for i, error in enumerate((OSError, BadImage, BadImage)):
        with pytest.raises(error):
            decode_rgb(source.read_image(i))


def test_links_in_a_circle_end(tmp_path):
    plant(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    assert open_source(str(tmp_path)).keys.to_pylist() == ["a/1.png", "b/2.png"]


def test_select_keeps_every_column(tmp_path):
    source = open_source(plant(tmp_path, "a/1.png", "b/2.png", "c/3.png"))
    chosen = source.select([2, 0, 2]).select(np.asarray([1, 2]))
    assert chosen.keys.to_pylist() == ["a/1.png", "c/3.png"]
    assert chosen.labels.tolist() == [0, 2]
    assert [chosen[i] for i in range(2)] == [source[0], source[2]]


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("/no/such/folder", "/no/such/folder does not exist"),
        ("nothing", "nothing does not exist"),
        ("", "the source is an empty text"),
        ("pairs.parquet", "pairs.parquet does not exist"),
        ("here/pairs.parquet", "here/pairs.parquet does not exist"),
        ("sub/typo", r"sub/typo does not exist \(nor is the Hub asked"),
        ("https://x.y/z.tar", "is a URL: download it first"),
        ("empty", "empty is an empty folder"),
        ("sub", "sub holds no images, tars or tables"),
        ("song.mp3", r"song\.mp3 is not a source of images \(\.mp3\)"),
        ("pairs.zip", r"compressed.*unzip"),
        ("*.nothing", "matches no file"),
        ("{0..2", "matches no file"),
        ("{0}.tar", "is no range"),
        ("{0..9999999}.tar", "more than 1000000"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, spec, why):
    plant(tmp_path, "sub/notes.txt", "song.mp3", "pairs.zip")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=why) as raised:
        open_source(spec)
    assert "\n" not in str(raised.value)


def test_options_that_do_not_apply(tmp_path):
    spec = plant(tmp_path, "1.png")
    for options, why in [
        ({"image_column": "jpg"}, "has no columns: leave out column 'jpg'"),
        ({"caption_column": "text"}, "has no columns"),
        ({"split": "train"}, "has no splits"),
        ({"limit": 0}, "at least 1"),
        ({"captions": "some"}, "write first or all"),
    ]:
        with pytest.raises(UserError, match=why):
            open_source(spec, **options)


def test_braces():
    assert list(expand_braces("a{00..02}b")) == ["a00b", "a01b", "a02b"]
    assert list(expand_braces("{8..11}")) == ["8", "9", "10", "11"]
    assert list(expand_braces("{08..11}")) == ["08", "09", "10", "11"]
    assert list(expand_braces("{x,y}-{2..1}")) == ["x-2", "x-1", "y-2", "y-1"]
    assert list(expand_braces("{a,}b")) == ["ab", "b"]
    assert list(expand_braces("plain")) == ["plain"]


def test_a_path_with_braces_in_its_name_is_that_path(tmp_path):
    spec = plant(tmp_path / "{odd}[name]*", "1.png")
    assert len(open_source(spec)) == 1


def test_user_errors_are_one_line():
    with pytest.raises(UserError, match=r"^a b$"), user_errors():
        raise ValueError("a\n  b")
    with pytest.raises(KeyError), user_errors():
        raise KeyError("a bug stays a bug")


def test_a_format_is_a_row(tmp_path, monkeypatch):
    """A toy format, a picture after another in a file: by its file, its folder and in messages."""

    def open_packs(name, files, wishes):
        pictures = [picture for file in files for picture in file.read_bytes().split(b"|")][: wishes.limit]
        return Source(name, pa.array([f"{i}" for i in range(len(pictures))]), pictures)

    row = FileFormat("packs", (".pack",), open_packs, containers=(".pack",), has_columns=False)
    monkeypatch.setattr("pipelines.sources.open_source.FILE_FORMATS", (row, *FILE_FORMATS))
    (tmp_path / "a.pack").write_bytes(b"one|two")
    (tmp_path / "b.pack").write_bytes(b"three")
    assert open_source(str(tmp_path / "a.pack"))[1].image == b"two"
    folder = open_source(str(tmp_path), limit=3)
    assert [folder.read_image(i) for i in range(3)] == [b"one", b"two", b"three"]
    with pytest.raises(UserError, match="has no columns: leave out column 'x'"):
        open_source(str(tmp_path), image_column="x")
    with pytest.raises(UserError, match="give a folder, packs, tars, or Parquet, JSONL, CSV or TSV tables"):
        open_source("")


@pytest.mark.parametrize(
    ("ending", "tool"), [("gz", "gunzip"), ("bz2", "bunzip2"), ("xz", "unxz"), ("zst", "unzstd"), ("zip", "unzip")]
)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_compressed_file_is_refused_with_its_tool(tmp_path, kind, ending, tool):
    file = tmp_path / f"rows.{kind}.{ending}"
    file.write_bytes(b"x")
    for place in (file, tmp_path):
        with pytest.raises(UserError, match=rf"rows.{kind}.{ending} is compressed .*: unpack it first \({tool}\)"):
            open_source(str(place))


@pytest.mark.parametrize(
    ("pack", "tool"), [(gzip.compress, "gunzip"), (bz2.compress, "bunzip2"), (lzma.compress, "unxz")]
)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_a_compressed_file_is_known_by_its_first_bytes(tmp_path, kind, pack, tool):
    file = tmp_path / f"rows.{kind}"
    file.write_bytes(pack(b'{"image": "a.png", "caption": "x"}\n'))
    with pytest.raises(UserError, match=rf"rows.{kind} .*is compressed: unpack it first \({tool}\)"):
        open_source(str(file))


def test_a_text_may_begin_as_bzip2_does(tmp_path):
    (tmp_path / "rows.csv").write_text("BZh1,image,caption\n1,a.png,x\n")
    assert open_source(str(tmp_path / "rows.csv")).captions.to_pylist() == ["x"]


def test_compressed_files_in_a_folder_are_told(tmp_path):
    """Captions would be lost without a word, or the rest of the shards."""
    plant(tmp_path / "images", "a.png")
    (tmp_path / "shards").mkdir()
    (tmp_path / "images" / "metadata.jsonl.gz").write_bytes(b"x")
    with pytest.raises(UserError, match=r"metadata.jsonl.gz is compressed .*gunzip"):
        open_source(str(tmp_path / "images"))
    with tarfile.open(tmp_path / "shards" / "0.tar", "w") as tar:
        tar.add(tmp_path / "images" / "a.png", "a.png")
    (tmp_path / "shards" / "1.tar.zst").write_bytes(b"x")
    assert open_source(str(tmp_path / "shards")).warnings == ["1 compressed files left out; the first is 1.tar.zst"]
