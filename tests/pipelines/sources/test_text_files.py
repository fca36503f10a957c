"""Encodings of text files: those that are certain are read, wherever the text lies; the rest is refused by name."""

import io
import json
import tarfile

import pytest
from PIL import Image

from pipelines.errors import UserError
from pipelines.sources.open_source import open_clips, open_source
from pipelines.sources.text_files import BadText, decode_text

TEXT = "café, 犬\nזאב"
GOOD = [
    TEXT.encode(),
    TEXT.encode("utf-8-sig"),
    TEXT.encode("utf-16"),
    b"\xff\xfe" + TEXT.encode("utf-16-le"),
    b"\xfe\xff" + TEXT.encode("utf-16-be"),
]
BAD = [
    (b"caf\xe9", r"not UTF-8 \(byte 0xe9"),
    ("犬".encode("shift-jis"), "not UTF-8"),
    ("a cat".encode("utf-16-le"), "zero bytes"),
    ("a cat".encode("utf-32"), "UTF-32"),
    (b"\xff\xfe\x00", "damaged UTF-16"),
    (b"\xff\xfe\x00\xd8a\x00", "damaged UTF-16"),
]


def png(value=9):
    buffer = io.BytesIO()
    Image.new("L", (4, 3), value).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("data", GOOD)
def test_known_encodings_give_the_text_without_its_mark(data):
    assert decode_text(data) == TEXT
    assert decode_text(b"") == ""


@pytest.mark.parametrize(("data", "why"), BAD)
def test_other_encodings_are_refused_and_named(data, why):
    with pytest.raises(BadText, match=why):
        decode_text(data)


def captioned(folder, texts):
    for name, data in texts.items():
        (folder / f"{name}.png").write_bytes(png())
        (folder / f"{name}.txt").write_bytes(data)
    return open_source(str(folder))


def test_captions_beside_images(tmp_path):
    texts = {f"good{i}": data for i, data in enumerate(GOOD)} | {f"bad{i}": data for i, (data, _) in enumerate(BAD)}
    source = captioned(tmp_path, texts)
    found = dict(zip(source.keys.to_pylist(), source.captions.to_pylist(), strict=True))
    assert found == {f"good{i}.png": TEXT for i in range(5)} | {f"bad{i}.png": None for i in range(6)}
    assert source.fault(0).startswith("bad0.txt: it is not UTF-8 (byte 0xe9")
    assert [source.fault(i) is None for i in range(len(source))] == [False] * 6 + [True] * 5
    chosen = source.select([10, 1])
    assert (chosen.fault(0), chosen.fault(1)) == (None, source.fault(1))


def test_captions_in_tars(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in [*((f"g{i}", data) for i, data in enumerate(GOOD)), ("bad", BAD[0][0])]:
            for kind, content in (("png", png()), ("txt", data), ("json", json.dumps({"caption": "of json"}).encode())):
                member = tarfile.TarInfo(f"{name}.{kind}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    source = open_source(str(tmp_path / "a.tar"))
    assert source.captions.to_pylist() == [TEXT] * 5 + [None]
    assert "its txt: it is not UTF-8" in source.fault(5)


def test_captions_beside_videos(tmp_path):
    for name, data in [("a", GOOD[2]), ("b", BAD[0][0])]:
        (tmp_path / name).mkdir()
        for i in range(2):
            (tmp_path / name / f"{i}.png").write_bytes(png())
        (tmp_path / f"{name}.txt").write_bytes(data)
    source = open_clips(str(tmp_path))
    assert source.captions.to_pylist() == [TEXT, None], "an unreadable text is not replaced by the name of a class"
    assert source.fault(1).startswith("b.txt: it is not UTF-8")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_tables(tmp_path, encoding, quote):
    (tmp_path / "0.png").write_bytes(png())
    (tmp_path / "t.csv").write_bytes(f"file_name,caption\n0.png,{quote}café{quote}\n".encode(encoding))
    rows = [json.dumps({"file_name": "0.png", "caption": "café"}, ensure_ascii=False)]
    (tmp_path / "t.jsonl").write_bytes("\n".join(rows).encode(encoding))
    for name in ("t.csv", "t.jsonl"):
        source = open_source(str(tmp_path / name))
        assert source.keys.to_pylist() == ["0.png"]
        assert source.captions.to_pylist() == ["café"]


def test_a_table_in_another_encoding_is_an_error_that_names_it(tmp_path):
    (tmp_path / "t.csv").write_bytes("file_name,caption\n0.png,café\n".encode("cp1252"))
    (tmp_path / "t.jsonl").write_bytes('{"file_name": "0.png"}\n{"caption": "café"}\n'.encode("cp1252"))
    for name in ("t.csv", "t.jsonl"):
        with pytest.raises(UserError, match=rf"{name}.* it is not UTF-8 \(byte 0xe9.*save it as UTF-8"):
            open_source(str(tmp_path / name))
    (tmp_path / "t.jsonl").write_bytes('{"file_name": "0.png"}\n'.encode("utf-32"))
    with pytest.raises(UserError, match=r"t\.jsonl.*UTF-32"):
        open_source(str(tmp_path / "t.jsonl"))
