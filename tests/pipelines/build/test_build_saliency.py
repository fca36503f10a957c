import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.build import model_input, pairs
from pipelines.build.build_saliency import build_saliency
from pipelines.build.job import BuildOptions
from pipelines.build.merge import merge
from pipelines.errors import UserError
from pipelines.sources.images import decode_rgb
from saliency.table.manifest import read_manifest
from saliency.table.table import SaliencyTable, shard_files

ROOT = Path(__file__).parents[3]


def tree(folder):
    """Every file of a maps folder but the reader's cache and how it was called, by its sha256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".cache" not in path.parts and path.name != "command.yaml"
    }


def rejects(folder):
    lines = [line for path in sorted((folder / "rejected").glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def build(source, out, clip, **options):
    defaults = {"clip": clip, "shard_size": 4, "batch_size": 3, "max_rejected": 1.0}
    return build_saliency(BuildOptions(str(source), out, **defaults | options), quiet=True)


def write_pictures(folder, captions, size=(40, 30)):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines = []
    for i, caption in enumerate(captions):
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)).save(folder / f"{i:03d}.png")
        lines.append(json.dumps({"file_name": f"{i:03d}.png", "caption": caption, "url": f"http://x/{i}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_every_pair_gets_its_own_row(pictures, tmp_path, tiny_clip):
    manifest = build(pictures, tmp_path / "maps", tiny_clip)
    assert (manifest.taken, manifest.written, manifest.rejected, manifest.complete) == (10, 10, 0, True)
    assert [path.name for path in shard_files(tmp_path / "maps")] == [
        f"train-0000{i}-of-00003.parquet" for i in range(3)
    ]
    assert not (tmp_path / "maps" / "rejected").exists()
    rows = pq.read_table(tmp_path / "maps" / "data").sort_by("key").to_pylist()
    for i, row in enumerate(rows):
        data = (pictures / f"{i:03d}.png").read_bytes()
        assert row["key"] == f"{i:03d}.png"
        assert row["caption"] == f"picture {i % 5}"
        assert row["url"] == f"http://x/{i}"
        assert row["image_sha256"] == hashlib.sha256(data).hexdigest()
        assert (row["width"], row["height"]) == (40, 30)
        assert row["crop_box"] == [0, 0, 1, 1]
        assert len(row["saliency"]) == 16
        assert row["scale"] == 0 or max(row["saliency"]) == 255
        assert -1 <= row["clip_score"] <= 1
    assert len({tuple(row["saliency"]) for row in rows}) > 5


def test_maps_are_those_of_a_single_pair(pictures, tmp_path, tiny_clip):
    """The pipeline's batching, threads and shards change nothing about a map."""
    import torch

    from saliency.methods.methods import saliency_maps
    from saliency.towers.tower import load_tower

    build(pictures, tmp_path / "maps", tiny_clip)
    table = SaliencyTable(tmp_path / "maps")
    tower = load_tower(tiny_clip)
    for i in (0, 7, 9):
        image = decode_rgb((pictures / f"{i:03d}.png").read_bytes())
        pixels = torch.from_numpy(tower.squash(image).copy())[None]
        raw, score = saliency_maps(tower, pixels, tower.encode_texts([f"picture {i % 5}"]))
        np.testing.assert_allclose(table.raw_maps(np.asarray([i])), raw.numpy(), atol=float(raw.max()) / 400)
        assert table.clip_scores[i] == pytest.approx(score.item(), abs=1e-5)


def test_a_text_is_encoded_once_per_shard(pictures, tmp_path, tiny_clip, monkeypatch):
    from saliency.towers.tower import Tower

    seen = Counter()
    encode = Tower.encode_texts
    monkeypatch.setattr(Tower, "encode_texts", lambda self, texts: (seen.update(texts), encode(self, texts))[1])
    build(pictures, tmp_path / "maps", tiny_clip, shard_size=100, batch_size=2)
    assert seen == {f"picture {i}": 1 for i in range(5)}


def test_grid_and_crop(pictures, tmp_path, tiny_clip):
    build(pictures, tmp_path / "maps", tiny_clip, grid=7, fit="crop")
    table = SaliencyTable(tmp_path / "maps")
    assert table.grid == 7
    np.testing.assert_allclose(table.boxes(np.arange(2)), [[0.125, 0, 0.875, 1]] * 2)


def test_all_captions_of_an_image(tmp_path, tiny_clip):
    folder = write_pictures(tmp_path / "p", ["x"] * 3)
    lines = [{"file_name": f"{i:03d}.png", "captions": [f"a {i}", f"b {i}"]} for i in range(3)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert build(folder, tmp_path / "first", tiny_clip).written == 3
    assert build(folder, tmp_path / "all", tiny_clip, captions="all").written == 6
    rows = pq.read_table(tmp_path / "all" / "data", columns=["key", "caption"]).to_pylist()
    assert {(p["key"], p["caption"]) for p in rows} == {(f"{i:03d}.png", f"{c} {i}") for i in range(3) for c in "ab"}


@pytest.mark.parametrize("tiles", [1, 2])
def test_maps_of_many_captions_are_those_of_one_at_a_time(tmp_path, tiny_clip, monkeypatch, tiles):
    """Phrases in a list column, more for some images than for others: each gets the map it would have alone."""
    folder = write_pictures(tmp_path / "p", ["x"] * 5)
    counts = [3, 1, 11, 0, 2]
    phrases = [[f"phrase {n} of {i}" for n in range(count)] for i, count in enumerate(counts)]
    lines = [{"file_name": f"{i:03d}.png", "phrases": each} for i, each in enumerate(phrases)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked = {"captions": "all", "caption_column": "phrases", "tiles": tiles, "shard_size": 6}
    looks = []
    see = model_input.see
    monkeypatch.setattr(model_input, "see", lambda *words: (looks.append(1), see(*words))[1])
    manifest = build(folder, tmp_path / "together", tiny_clip, **asked)
    assert (manifest.taken, manifest.written, manifest.rejected) == (18, 17, 1)
    assert len(looks) == 6  # once an image; the third has pairs in three shards
    for part in (1, 2):  # shards that cut an image's captions apart, by other runs, have the same bytes
        build(folder, tmp_path / "parts", tiny_clip, **asked, shard=(part, 2))
    merge(tmp_path / "parts")
    assert tree(tmp_path / "parts") == tree(tmp_path / "together")
    assert len(looks) == 6 + 6
    monkeypatch.setattr(pairs, "CAPTIONS_A_LOOK", 1)
    build(folder, tmp_path / "alone", tiny_clip, **asked)
    assert len(looks) == 6 + 6 + 17
    together, alone = SaliencyTable(tmp_path / "together"), SaliencyTable(tmp_path / "alone")
    assert together.captions.to_pylist() == alone.captions.to_pylist() == [text for each in phrases for text in each]
    rows = np.arange(17)
    peaks = alone.raw_maps(rows).max((1, 2), keepdims=True)
    np.testing.assert_allclose(together.raw_maps(rows) / peaks, alone.raw_maps(rows) / peaks, atol=1 / 254)
    np.testing.assert_allclose(together.clip_scores, alone.clip_scores, atol=1e-6)


# bad input


def test_bad_pairs_are_rejected_with_their_reason_and_the_counts_add_up(bad_pictures, tmp_path, tiny_clip):
    manifest = build(bad_pictures, tmp_path / "maps", tiny_clip)
    assert (manifest.taken, manifest.written, manifest.rejected) == (21, 11, 10)
    assert len(SaliencyTable(tmp_path / "maps")) == 11
    reasons = {(line["key"], line["caption"]): line["reason"] for line in rejects(tmp_path / "maps")}
    assert len(reasons) == 10
    expected = {
        ("truncated.png", "bad"): "truncated",
        ("empty.jpg", "bad"): "empty",
        ("text.jpg", "bad"): "not an image",
        ("pixel.png", "bad"): "1×1 pixels is too small",
        ("bomb.png", "bad"): "too large",
        ("absent.png", "bad"): "No such file",
        ("000.png", None): "no caption",
        ("001.png", ""): "no caption",
        ("002.png", "  \n"): "no caption",
        ("003.png", "picture 3"): "duplicate",
    }
    for pair, reason in expected.items():
        assert reason in reasons[pair]
    assert SaliencyTable(tmp_path / "maps").join(*map(_arrow, (["004.png"], ["long " * 2000]))).tolist() != [-1]


def _arrow(values):
    import pyarrow as pa

    return pa.array(values)


def test_too_many_rejects_fail_but_keep_what_is_good(bad_pictures, tmp_path, tiny_clip):
    out = tmp_path / "maps"
    with pytest.raises(UserError, match=r"10 of 21 pairs \(47.6%\) were rejected.*--max-rejected 0.01.*11 good maps"):
        build(bad_pictures, out, tiny_clip, max_rejected=0.01)
    assert read_manifest(out).complete
    before = tree(out)
    assert build(bad_pictures, out, tiny_clip, max_rejected=0.5).written == 11
    assert tree(out) == before


def test_a_source_where_all_is_bad(tmp_path, tiny_clip):
    folder = write_pictures(tmp_path / "p", ["", "", ""])
    manifest = build(folder, tmp_path / "maps", tiny_clip)
    assert (manifest.taken, manifest.written) == (3, 0)
    assert len(SaliencyTable(tmp_path / "maps")) == 0


def test_a_source_without_captions(tmp_path, tiny_clip):
    (tmp_path / "p").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "p" / "a.png")
    with pytest.raises(UserError, match="has no captions.*--caption-column"):
        build(tmp_path / "p", tmp_path / "maps", tiny_clip)


def test_an_unknown_column_lists_those_there_are(pictures, tmp_path, tiny_clip):
    with pytest.raises(UserError, match=r"nonsense.*caption"):
        build(pictures, tmp_path / "maps", tiny_clip, caption_column="nonsense")


def test_other_settings_and_foreign_folders_are_refused(pictures, tmp_path, tiny_clip):
    build(pictures, tmp_path / "maps", tiny_clip)
    before = tree(tmp_path / "maps")
    with pytest.raises(UserError, match="other settings.*grid 4 → 7"):
        build(pictures, tmp_path / "maps", tiny_clip, grid=7)
    with pytest.raises(UserError, match="other settings.*pairs 10 → 9"):
        build(pictures, tmp_path / "maps", tiny_clip, limit=9)
    (pictures / "metadata.jsonl").write_text((pictures / "metadata.jsonl").read_text().replace("picture 0", "changed"))
    with pytest.raises(UserError, match="other settings.*pairs_sha256"):
        build(pictures, tmp_path / "maps", tiny_clip)
    assert tree(tmp_path / "maps") == before
    with pytest.raises(UserError, match="is what is read"):
        build(pictures, pictures, tiny_clip)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no maps"):
        build(pictures, tmp_path / "other", tiny_clip)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--batch-size"),
        ({"shard_size": 0}, "--shard-size"),
        ({"grid": 0}, "--grid"),
        ({"fit": "stretch"}, "--fit"),
        ({"method": "magic"}, "--method.*gradcam"),
        ({"max_rejected": 2}, "--max-rejected"),
    ],
)
def test_bad_options_name_themselves(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        BuildOptions("x", tmp_path, **options)


def test_an_output_that_cannot_be_written(pictures, tmp_path, tiny_clip):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="Not a directory|exists"):
        build(pictures, tmp_path / "file" / "maps", tiny_clip)


# stopped anywhere, it goes on to the same bytes


def test_batches_and_workers_do_not_change_what_is_kept(bad_pictures, tmp_path, tiny_clip):
    build(bad_pictures, tmp_path / "a", tiny_clip, workers=1)
    build(bad_pictures, tmp_path / "b", tiny_clip, workers=5)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_stream_of_unknown_length_gets_its_final_names_at_the_end(tmp_path, tiny_clip, monkeypatch, hf_cache):
    """The Hub's path, over local Parquet: the same maps as with random access, stopped half-way or not."""
    import datasets

    from pipelines.build import job as build_job
    from pipelines.build import maps_folder as module
    from pipelines.sources.hub_stream import stream_dataset
    from pipelines.sources.tables.columns import Wishes

    folder = write_pictures(tmp_path / "pictures", [f"picture {i}" for i in range(10)])
    images = [{"bytes": (folder / f"{i:03d}.png").read_bytes(), "path": None} for i in range(10)]
    rows = {
        "key": [f"{i % 9:03d}.png" for i in range(10)],
        "image": images,
        "caption": [f"picture {i % 9}" for i in range(10)],
    }
    features = datasets.Features(
        {"key": datasets.Value("string"), "image": datasets.Image(), "caption": datasets.Value("string")}
    )
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "hub" / "train.parquet"))

    def open_stream(*_, **__):
        dataset = datasets.load_dataset(str(tmp_path / "hub"), split="train", streaming=True)
        return stream_dataset("me/pairs", dataset, Wishes())

    monkeypatch.setattr(build_job, "open_pairs", open_stream)
    manifest = build("me/pairs", tmp_path / "whole", tiny_clip)
    assert (manifest.taken, manifest.written, manifest.rejected) == (10, 9, 1)
    assert "duplicate" in rejects(tmp_path / "whole")[0]["reason"]
    assert [path.name for path in shard_files(tmp_path / "whole")] == [
        f"train-0000{i}-of-00003.parquet" for i in range(3)
    ]
    assert len(SaliencyTable(tmp_path / "whole")) == 9

    with monkeypatch.context() as patch:
        patch.setattr(module, "_give_final_names", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build("me/pairs", tmp_path / "stopped", tiny_clip)
    assert not read_manifest(tmp_path / "stopped").complete
    build("me/pairs", tmp_path / "stopped", tiny_clip)
    assert tree(tmp_path / "stopped") == tree(tmp_path / "whole")

    with pytest.raises(UserError, match="me/pairs is read as a stream, whose new pairs are not known"):
        build("me/pairs", tmp_path / "whole", tiny_clip, append=True)
    monkeypatch.undo()
    old = [path.read_bytes() for path in shard_files(tmp_path / "whole")]
    build(folder, tmp_path / "whole", tiny_clip, append=True)  # the tenth pair, which the stream had under another key
    assert [path.read_bytes() for path in shard_files(tmp_path / "whole")[:3]] == old
    assert [path.name for path in (tmp_path / "whole" / "rejected").iterdir()] == ["train-00002-of-00004.jsonl"]


WITHOUT_PRIVILEGES = """
import ctypes, sys
header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert ctypes.CDLL(None).capset(header, nothing) == 0  # root without capabilities obeys permission bits
import cli
sys.argv[0] = "mae-cli"
cli.app()
"""
