"""Files that a table or a stream names are read where they lie inside of its source."""

import pyarrow as pa
import pytest

from pipelines.errors import UserError
from pipelines.sources.images import BadImage
from pipelines.sources.inside import Roots, check_names, check_streamed
from pipelines.sources.source import FileImages, read_file


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
