"""Files that a table or a stream names are read where they lie inside of its source."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from PIL import Image

from pipelines.build.options import BuildOptions
from pipelines.errors import UserError
from pipelines.evaluate.options import EvaluateOptions
from pipelines.prepare.options import PrepareOptions
from pipelines.pretrain.options import FREE_ON_RESUME, PretrainOptions
from pipelines.publish.options import PublishOptions
from pipelines.sources.hub_stream import stream_dataset
from pipelines.sources.images import BadImage, image_size
from pipelines.sources.inside import Roots, check_names, check_streamed
from pipelines.sources.open_source import open_source
from pipelines.sources.source import FileImages, read_file
from pipelines.sources.tables.columns import Wishes
from pipelines.sources.tables.table_source import open_dataset
from pipelines.verify.options import VerifyOptions


@pytest.fixture
def place(tmp_path):
    """``source/`` with a picture, a folder and links in and out; ``private/`` beside it."""
    (tmp_path / "source" / "sub").mkdir(parents=True)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "x.jpg").write_bytes(b"private")
    (tmp_path / "source" / "a.jpg").write_bytes(b"a")
    (tmp_path / "source" / "sub" / "b.jpg").write_bytes(b"b")
    (tmp_path / "source" / "in.jpg").symlink_to(tmp_path / "source" / "sub" / "b.jpg")
    (tmp_path / "source" / "out.jpg").symlink_to(tmp_path / "private" / "x.jpg")
    (tmp_path / "source" / "leads").symlink_to(tmp_path / "private")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["../private/x.jpg", "a/../../x", "..", "a/..", "..\\x", "/etc/passwd", "C:\\x", "\\\\s\\x"]
)
def test_names_that_lead_out_are_refused(name):
    with pytest.raises(
        UserError, match=r"pairs.csv names 2 files outside of its folder, first: .*--allow-outside"
    ) as told:
        check_names("pairs.csv", pa.chunked_array([["ok.jpg", name], [None, name]]))
    assert name in str(told.value)


@pytest.mark.parametrize(
    "name", ["a.jpg", "a/b.jpg", "..a.jpg", "a..jpg", "a/...", "~me.jpg", "a:b.jpg", "", None, "./a.jpg"]
)
def test_other_names_are_not(name):
    check_names("pairs.csv", pa.array([name], pa.string()))


@pytest.mark.parametrize(
    ("name", "data"), [("a.jpg", b"a"), ("sub/b.jpg", b"b"), ("in.jpg", b"b"), ("sub/../a.jpg", b"a")]
)
def test_what_lies_inside_is_read(place, name, data):
    roots = Roots.of([place / "source"])
    assert read_file(str(place / "source" / name), roots) == data


@pytest.mark.parametrize("name", ["out.jpg", "leads/x.jpg", "../private/x.jpg"])
def test_links_that_lead_out_are_followed_only_when_allowed(place, name):
    path = str(place / "source" / name)
    with pytest.raises(BadImage, match=r"outside of the source: --allow-outside"):
        read_file(path, Roots.of([place / "source"]))
    assert read_file(path) == read_file(path, Roots.of([place / "source", place / "private"])) == b"private"
    assert FileImages(pa.array([path]))[0] == b"private"
    with pytest.raises(BadImage, match="outside"):
        FileImages(pa.array([path]), Roots.of([place / "source"]))[0]


def test_a_source_that_is_a_link_is_where_it_leads(place):
    (place / "link").symlink_to(place / "source")
    roots = Roots.of([place / "link"])
    assert read_file(str(place / "link" / "a.jpg"), roots) == b"a"
    assert not Roots.of([place / "sour"]).hold(str(place / "source" / "a.jpg")), "a name that begins alike"


def test_a_snapshot_of_the_hub_holds_its_blobs(tmp_path):
    repository = tmp_path / "datasets--me--pics"
    snapshot = repository / "snapshots" / "0123"
    for folder in (snapshot, repository / "blobs"):
        folder.mkdir(parents=True)
    (repository / "blobs" / "ab").write_bytes(b"blob")
    (snapshot / "a.jpg").symlink_to("../../blobs/ab")
    assert read_file(str(snapshot / "a.jpg"), Roots.of([snapshot])) == b"blob"


@pytest.mark.parametrize(
    "address",
    [
        "hf://datasets/me/x@main/a.jpg",
        "https://huggingface.co/x.jpg",
        "zip://a.jpg::hf://datasets/me/x/a.zip",
        "HTTP://x/y",
    ],
)
def test_streamed_rows_may_name_what_is_on_the_network(address):
    check_streamed("me/x", address)


@pytest.mark.parametrize(
    "address",
    [
        *("file:///etc/passwd", "/etc/passwd", "a.jpg", "../a.jpg", "FILE:///x", "local://x", "zip://a::file:///x"),
        *(
            "zip://a.jpg::/x.zip",
            "simplecache::hf://x",
            "reference://x::https://y",
            "ssh://host/x",
            "smb://h/x",
            "::",
            "",
        ),
    ],
)
def test_streamed_rows_may_not_name_what_is_here(address):
    with pytest.raises(UserError, match="me/x names files of this machine .*--allow-outside"):
        check_streamed("me/x", address)


def picture(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), colour).save(path)
    return path


@pytest.fixture
def listed(tmp_path):
    """A function that lists names in ``source/metadata.jsonl`` and opens it, beside ``private/x.png``."""
    picture(tmp_path / "private" / "x.png", "red")
    picture(tmp_path / "source" / "a.png", "blue")
    (tmp_path / "source" / "link.png").symlink_to(tmp_path / "private" / "x.png")

    def opened(*rows, **wishes):
        lines = "".join(json.dumps({"text": "a", **row}) + "\n" for row in rows)
        (tmp_path / "source" / "metadata.jsonl").write_text(lines)
        return open_source(str(tmp_path / "source"), **wishes)

    return opened


@pytest.mark.parametrize("column", ["file_name", "mask_file_name"])
def test_a_table_that_names_files_outside_is_refused_unless_allowed(listed, tmp_path, column):
    for outside in ("../private/x.png", str(tmp_path / "private" / "x.png")):
        row = {"file_name": "a.png", column: outside}
        with pytest.raises(UserError, match=rf"{column}.* names 1 files outside of its folder.*--allow-outside"):
            listed(row)
        source = listed(row, allow_outside=True)
        assert source.read_mask(0).all() if column == "mask_file_name" else source.read_image(0)


@pytest.mark.parametrize("column", ["file_name", "mask_file_name"])
def test_a_link_that_a_table_names_is_one_bad_sample(listed, column):
    source = listed({"file_name": "a.png"}, {"file_name": "a.png", column: "link.png"})
    read = source.read_mask if column == "mask_file_name" else source.read_image
    assert source.read_image(0)
    with pytest.raises(BadImage, match="outside of the source: --allow-outside"):
        read(1)
    source = listed({"file_name": "a.png"}, {"file_name": "a.png", column: "link.png"}, allow_outside=True)
    assert (source.read_mask if column == "mask_file_name" else source.read_image)(1) is not None


def test_a_table_may_name_its_own_files_by_their_whole_paths(listed, tmp_path):
    source = listed({"file_name": str(tmp_path / "source" / "a.png")})
    assert image_size(source.read_image(0)) == (4, 3)
    (tmp_path / "way").symlink_to(tmp_path / "source")
    assert open_source(str(tmp_path / "way")).read_image(0) == source.read_image(0), "through a link"
    table = json.dumps({"file_name": str(tmp_path / "way" / "a.png"), "text": "a"})
    (tmp_path / "source" / "metadata.jsonl").write_text(table)
    assert open_source(str(tmp_path / "way")).read_image(0) == source.read_image(0), "as it was typed"


@pytest.mark.usefixtures("hf_cache")
@pytest.mark.parametrize("outside", ["../private/x.png", "link.png"])
def test_paths_within_an_image_column(listed, tmp_path, outside):
    own = (tmp_path / "source" / "a.png").read_bytes()
    rows = [{"bytes": own, "path": "../no/matter.png"}, {"bytes": None, "path": outside}, {"path": "a.png"}]
    file = tmp_path / "source" / "pairs.parquet"
    pq.write_table(pa.table({"image": rows, "text": ["a", "b", "c"]}), file)
    if outside != "link.png":
        with pytest.raises(UserError, match="names 1 files outside"):
            open_source(str(file))
    else:
        source = open_source(str(file))
        assert source.read_image(0) == source.read_image(2) == own
        with pytest.raises(BadImage, match="outside of the source"):
            source.read_image(1)
    assert open_source(str(file), allow_outside=True).read_image(1) == (tmp_path / "private/x.png").read_bytes()


def test_links_in_a_folder_of_images_are_its_makers(tmp_path):
    """Folders of links to a cluster's storage are common; nobody but their maker names a file there."""
    picture(tmp_path / "store" / "x.png", "red")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "x.png").symlink_to(tmp_path / "store" / "x.png")
    (tmp_path / "pictures" / "more").symlink_to(tmp_path / "store")
    (tmp_path / "way").symlink_to(tmp_path / "pictures")
    source = open_source(str(tmp_path / "way"))
    assert source.keys.to_pylist() == ["more/x.png", "x.png"]
    assert source.read_image(0) == source.read_image(1)


@pytest.mark.usefixtures("hf_cache")
def test_a_downloaded_dataset_reads_what_lies_in_the_cache(tmp_path, monkeypatch):
    """And neither the folder one stands in nor any other."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    inside = picture(tmp_path / "hub" / "datasets--me--x" / "snapshots" / "0" / "a.png", "blue")
    outside = picture(tmp_path / "x.png", "red")

    def opened(path, **wishes):
        rows = [{"image": {"bytes": None, "path": str(path)}, "text": "a"}]
        features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
        return open_dataset("me/x", datasets.Dataset.from_list(rows, features=features), Wishes(**wishes))

    assert opened(inside).read_image(0) == inside.read_bytes()
    with pytest.raises(UserError, match="names 1 files outside"):
        opened(outside)
    assert opened(outside, allow_outside=True).read_image(0) == outside.read_bytes()
    with pytest.raises(OSError, match=r"datasets--me--x/x\.png"):
        opened("x.png").read_image(0)


def test_a_stream_that_names_files_here_is_refused_unless_allowed(tmp_path):
    path = picture(tmp_path / "x.png", "red")
    rows = datasets.Dataset.from_list([{"image": {"bytes": None, "path": f"file://{path}"}, "mask": None, "text": "a"}])
    rows = rows.cast_column("image", datasets.Image()).to_iterable_dataset()
    with pytest.raises(UserError, match="me/x names files of this machine"):
        next(iter(stream_dataset("me/x", rows, Wishes())))
    assert next(iter(stream_dataset("me/x", rows, Wishes(allow_outside=True)))).image == path.read_bytes()


def test_commands_that_open_a_source_take_the_option():
    for options in (BuildOptions, PretrainOptions, EvaluateOptions, PrepareOptions, VerifyOptions, PublishOptions):
        assert options.__dataclass_fields__["allow_outside"].default is False
    assert "allow_outside" in FREE_ON_RESUME
