"""Tars whose headers lie: bounded time and memory, the samples before the lie stay, and it is told."""

import json
import os
import tarfile
import time
import tracemalloc

import pytest

from pipelines.errors import UserError
from pipelines.sources.images import BadImage, decode_rgb
from pipelines.sources.open_source import open_source
from pipelines.sources.tars.tar_index import index_tar, read_members
from tests.pipelines.sources.tars.test_tars import BLUE, RED, pairs, write_tar

BLOCK = 512


def header(name, size=b"00000000000\0", kind=b"0", more=b""):
    """One block with a right checksum, whatever the field of its size says."""
    block = bytearray(name.encode().ljust(100, b"\0") + b"0000644\0" * 3 + size.ljust(12, b"\0") + b"0" * 12)
    block += b" " * 8 + kind + b"\0" * 100 + b"ustar\00000" + b"\0" * 247
    block[482 : 482 + len(more)] = more
    block[148:156] = b"%06o\0 " % sum(block)
    assert len(block) == BLOCK
    return bytes(block)


def padded(data):
    return data + b"\0" * (-len(data) % BLOCK)


def binary(size):
    return b"\x80" + size.to_bytes(11, "big")


def member(name, data):
    return header(name, b"%011o\0" % len(data)) + padded(data)


def pax(records, size=None):
    return header("pax", b"%011o\0" % (len(records) if size is None else size), b"x") + padded(records)


def record(key, value):
    for length in range(len(key) + len(value) + 3, len(key) + len(value) + 20):
        line = b"%d %s=%s\n" % (length, key, value)
        if len(line) == length:
            return line
    raise AssertionError


GOOD = member("0.png", RED) + member("0.txt", b"a red thing")
LATER = member("9.png", BLUE) + member("9.txt", b"a blue thing")
LIES = {
    "a negative size": (header("1.png", b"\xff" * 11 + b"\xfe"), "damaged header"),
    "a size with a sign": (header("1.png", b"-0000000512\0"), "damaged header"),
    "a size in Python's octal": (header("1.png", b"0o0000001\0"), "damaged header"),
    "2^40 bytes": (header("1.png", binary(2**40)), "ends inside 1.png"),
    "2^70 bytes": (header("1.png", binary(2**70)), "ends inside 1.png"),
    "a text of 2^70 bytes": (header("1.txt", binary(2**70)), "ends inside 1.txt"),
    "a long name of 2^40 bytes": (header("x", binary(2**40), b"L"), "bytes about one member"),
    "a long name of 2^70 bytes": (header("x", binary(2**70), b"L"), "bytes about one member"),
    "PAX records of 2^40 bytes": (header("x", binary(2**40), b"x"), "bytes about one member"),
    "a global header of 2^63 bytes": (header("x", binary(2**63), b"g"), None),
    "2^70 bytes by PAX": (pax(record(b"size", b"%d" % 2**70)) + header("1.png"), None),
    "10^12 bytes by PAX": (pax(record(b"size", b"%d" % 10**12)) + header("1.png"), "ends inside 1.png"),
    "a size of 5000 digits by PAX": (pax(record(b"size", b"9" * 5000)) + header("1.png"), None),
    "a record whose length has 5000 digits": (pax(b"9" * 5000 + b" path=x\n") + header("1.png"), None),
    "a record of length 0": (pax(b"0 path=x\n" * 50) + header("1.png"), None),
    "a sparse map without an end": (header("1.png", kind=b"S", more=b"\1") + b"\1" * BLOCK * 40, None),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_costs_what_follows_and_no_more(lie, tmp_path):
    block, warning = LIES[lie]
    (tmp_path / "good.tar").write_bytes(GOOD)
    (tmp_path / "a.tar").write_bytes(GOOD + block)
    open_source(str(tmp_path / "good.tar"))  # imports what there is to import
    tracemalloc.start()
    try:
        started = time.perf_counter()
        source = open_source(str(tmp_path / "a.tar"))
        assert time.perf_counter() - started < 2
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert source.keys.to_pylist()[0] == "0"
    assert source.read_image(0) == RED
    assert source.captions.to_pylist()[0] == "a red thing"
    for i in range(1, len(source)):
        with pytest.raises(BadImage, match=r"truncated|no image|empty"):
            decode_rgb(source.read_image(i))
    told = " ".join(source.warnings)
    assert warning is None or warning in told
    assert "\n" not in told


@pytest.mark.parametrize(
    "odd",
    [
        header("x", b"%011o\0" % (2 << 20), b"x") + b"\0" * (2 << 20),
        header("x", b"%011o\0" % (2 << 20), b"L") + b"n" * (2 << 20),
        header("s.bin", b"%011o\0" % 700, b"S") + padded(b"x" * 700),
        header("s.bin", b"%011o\0" % 700, b"S", b"\1")
        + b"\0" * 504
        + b"\1"
        + b"\0" * 7
        + b"\0" * 512
        + padded(b"x" * 700),
        pax(record(b"mtime", b"1.5") * 30_000),
        pax(b"not a record at all"),
        member("note.txt", b"x" * (2 << 20)),
    ],
    ids=["pax", "name", "sparse", "sparse, mapped further", "many records", "no records", "text"],
)
def test_what_is_odd_and_whole_loses_nothing_behind_it(odd, tmp_path):
    (tmp_path / "a.tar").write_bytes(GOOD + odd + LATER + b"\0" * 1024)
    shard = index_tar(tmp_path / "a.tar")
    kept = [i for i, key in enumerate(shard.keys) if key in ("0", "9")]
    assert [shard.keys[i] for i in kept] == ["0", "9"]
    assert [shard.sizes[i] for i in kept] == [len(RED), len(BLUE)]
    assert [shard.texts["txt"][i] for i in kept] == [b"a red thing", b"a blue thing"]
    assert [warning for warning in shard.warnings if "lost" in warning] == []


def test_links_and_sparse_files_are_left_out_and_that_is_told(tmp_path):
    """They were left out without a word, or their maps were taken for the image."""
    links = header("1.png", kind=b"1") + header("2.png", kind=b"2") + header("3", kind=b"2")
    sparse = header("4.png", b"%011o\0" % 700, b"S") + padded(b"x" * 700)
    records = (
        record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.name", b"5.json") + record(b"path", b"made/up.png")
    )
    (tmp_path / "a.tar").write_bytes(GOOD + links + sparse + pax(records) + member("up.png", b"map") + LATER)
    source = open_source(str(tmp_path / "a.tar"))
    assert source.keys.to_pylist() == ["0", "9"]
    assert source.warnings == [
        f"{tmp_path}/a.tar: 4 members are links or sparse files and are left out; the first is 1.png: pack the files "
        "themselves (tar --dereference --hard-dereference, without --sparse)"
    ]


def test_four_megabytes_of_records_are_read_once(tmp_path):
    """They were copied once a record: hours for what is read in a second."""
    records = record(b"path", b"p") * 110_000 + record(b"path", b"last.png")
    assert len(records) <= 1 << 20
    (tmp_path / "a.tar").write_bytes((pax(records) + member("x", RED)) * 4)
    started = time.perf_counter()
    assert {name for name, *_ in read_members(tmp_path / "a.tar", [])} == {"last.png"}
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_large_honest_sizes_are_still_read(format, tmp_path):
    """A member of 9 GB, which is a hole, in GNU's binary form or a PAX record."""
    size = 9 << 30
    info = tarfile.TarInfo("big.bin")
    info.size = size
    block = info.tobuf(format)
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(GOOD + block)
        file.seek(size, os.SEEK_CUR)
        file.write(LATER + b"\0" * 1024)
    assert index_tar(tmp_path / "a.tar").keys == ["0", "big", "9"]


def test_json_that_is_nested_too_deep_or_has_endless_numbers(tmp_path):
    write_tar(
        tmp_path / "a.tar",
        [
            *[("0.png", RED), ("0.json", b"[" * 100_000)],
            *[("1.png", RED), ("1.json", b'{"caption": "x", "n": ' + b"9" * 5000 + b"}")],
            *[("2.png", RED), ("2.json", json.dumps({"caption": "fine", "n": 10**3000}).encode())],
            *[("3.png", RED), ("3.json", b'{"a":' * 50_000 + b"1" + b"}" * 50_000)],
        ],
    )
    source = open_source(str(tmp_path / "a.tar"))
    assert source.captions.to_pylist() == [None, None, "fine", None]
    assert source.warnings == [f"{tmp_path}/a.tar: 3 json members are not JSON"]


def test_an_image_of_absurd_size_is_not_read(tmp_path):
    size = (1 << 30) + 1
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(GOOD + header("1.png", binary(size)))
        file.seek(size, os.SEEK_CUR)
        file.write(b"\0" * 2048)
    with pytest.raises(BadImage, match="larger than 1,073,741,824 bytes"):
        open_source(str(tmp_path / "a.tar")).read_image(1)


def test_a_pipe_is_no_tar(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(UserError, match=r"can't be read: .*Not a regular file"):
        open_source(str(tmp_path / "a.tar"))
    (tmp_path / "b.tar").symlink_to("/dev/zero")
    with pytest.raises(UserError, match=r"can't be read: .*Not a regular file"):
        open_source(str(tmp_path / "b.tar"))


@pytest.mark.parametrize(
    ("start", "tool"),
    [(b"\x1f\x8b\x08", "gunzip"), (b"BZh91AY&SY", "bunzip2"), (b"\xfd7zXZ\0", "unxz"), (b"(\xb5/\xfd", "unzstd")],
)
def test_the_tool_that_unpacks_a_tar_is_named(start, tool, tmp_path):
    (tmp_path / "a.tar").write_bytes(start + b"\0" * 600)
    with pytest.raises(UserError, match=rf"a.tar is compressed: unpack it first \({tool}\)"):
        open_source(str(tmp_path / "a.tar"))


def test_names_that_climb_stay_keys(tmp_path):
    write_tar(tmp_path / "a.tar", [*pairs("../../up"), *pairs("/etc/root")])
    source = open_source(str(tmp_path / "a.tar"))
    assert source.keys.to_pylist() == ["../../up", "/etc/root"]
    assert [source.read_image(i) for i in range(2)] == [RED, RED]
