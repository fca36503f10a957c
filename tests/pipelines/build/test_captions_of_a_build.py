"""Captions on their way into maps: what can't be read is rejected by name, what is too long is counted."""

import json

import numpy as np
import pytest
from PIL import Image

from pipelines.build.build_saliency import build_saliency
from pipelines.build.options import BuildOptions
from pipelines.build.stages import Stages
from saliency.table.table import SaliencyTable
from saliency.towers.texts import cut_texts
from saliency.towers.tower import load_tower


def build(source, out, clip, stages=None, *, quiet=True):
    options = BuildOptions(str(source), out, clip=clip, shard_size=4, batch_size=3, max_rejected=1.0)
    return build_saliency(options, quiet=quiet, stages=stages)


def pictures(folder, *captions):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, caption in enumerate(captions):
        Image.fromarray(rng.integers(0, 255, (40, 30, 3), np.uint8)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_bytes(caption)
    return folder


def test_a_text_that_is_no_utf8_is_rejected_by_name(tmp_path, tiny_clip, capsys):
    source = pictures(tmp_path / "p", b"\xef\xbb\xbfa cat", "a dog".encode("utf-16"), b"caf\xe9", b"")
    (source / "x.heic").touch()
    manifest = build(source, tmp_path / "maps", tiny_clip, quiet=False)
    assert (manifest.taken, manifest.written, manifest.rejected) == (4, 2, 2)
    lines = [json.loads(line) for line in next((tmp_path / "maps" / "rejected").iterdir()).read_text().splitlines()]
    assert [(line["key"], line["caption"]) for line in lines] == [("2.png", None), ("3.png", "")]
    assert lines[0]["reason"].startswith("2.txt: it is not UTF-8 (byte 0xe9")
    assert lines[1]["reason"] == "no caption"
    table = SaliencyTable(tmp_path / "maps")
    assert table.join(table.keys, None).tolist() == [0, 1]
    assert "warning: 1 .heic left out" in capsys.readouterr().err


def test_prepare_rejects_it_too(tmp_path):
    from pipelines.prepare.options import PrepareOptions
    from pipelines.prepare.prepare import prepare

    source = pictures(tmp_path / "p", b"a cat", b"caf\xe9")
    manifest = prepare(PrepareOptions(str(source), tmp_path / "out", size=32, max_rejected=1.0), quiet=True)
    assert (manifest.taken, manifest.written, manifest.rejected) == (2, 1, 1)
    assert "1.txt: it is not UTF-8" in next((tmp_path / "out" / "rejected").iterdir()).read_text()


@pytest.mark.parametrize("words", [13, 14, 15, 40])
def test_texts_longer_than_the_context(tiny_clip, words):
    """The tiny CLIP's context is 16 tokens, two of them its start and its end; ``cat`` is one token."""
    tower = load_tower(tiny_clip)
    texts = [" ".join(["cat"] * words), "a"]
    assert cut_texts(tower.tokenizer, texts).tolist() == [words > 14, False]


def test_a_tokenizer_that_does_not_tell_its_context():
    assert cut_texts(lambda texts: texts, ["x" * 1000]).tolist() == [False]


def test_cut_captions_are_in_the_report_and_change_nothing_else(tmp_path, tiny_clip):
    long = ("cat " * 30).encode()
    source = pictures(tmp_path / "p", long, b"a cat", long, b"cat " * 14, long, b"a dog")
    stages = Stages()
    manifest = build(source, tmp_path / "maps", tiny_clip, stages)
    assert manifest.written == 6
    assert stages.cut == 3
    assert stages.table()["captions cut"] == "3 of 6, longer than the model's context"
    assert "captions cut" not in (tmp_path / "maps" / "manifest.json").read_text()
    assert "captions cut" not in Stages().table()
