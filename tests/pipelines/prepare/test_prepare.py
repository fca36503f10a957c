"""A prepared source holds what the source held, under the same keys, and joins the same maps."""

import io
import json
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.errors import UserError
from pipelines.prepare.prepare import PrepareOptions, prepare, summary
from pipelines.sources.hub_stream import StreamSource, stream_dataset
from pipelines.sources.open_source import open_source
from pipelines.sources.prepared_folder import totals
from pipelines.sources.tables.columns import Wishes
from pipelines.views.image_views import Views
from tests.pipelines.build.test_build_saliency import build, rejects, write_pictures
from tests.pipelines.pretraining import SMALL, invoke, nano_runs
from tests.tiny_mae import write_maps

ROOT = Path(__file__).parents[3]
FORMATS = ["parquet", "webdataset"]

pytestmark = pytest.mark.usefixtures("hf_cache")


def picture(number, size=(60, 40)):
    """A smooth picture that is unlike the others."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]] / max(size)
    rng = np.random.default_rng(number)
    a, b, c = rng.uniform(1, 6, 3)
    pixels = np.stack([np.sin(a * x + number), np.cos(b * y), np.sin(c * (x + y))], -1) * 100 + 128
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def run(source, out, **options):
    return prepare(PrepareOptions(str(source), out, **{"size": 32, "shard_size": 4, **options}), quiet=True)


def labels_of(source):
    return [None if number < 0 else source.label_names[number] for number in source.labels]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("captions", ["first", "all"])
def test_all_that_is_known_of_an_image_is_kept(pairs, tmp_path, kind, captions):
    manifest = run(pairs, tmp_path / "out", format=kind)
    assert (manifest.taken, manifest.written, manifest.rejected, len(manifest.shards)) == (10, 10, 0, 3)
    before = open_source(str(pairs), captions=captions)
    after = open_source(str(tmp_path / "out"), captions=captions)
    assert after.keys.to_pylist() == before.keys.to_pylist()
    assert after.captions.to_pylist() == before.captions.to_pylist()
    assert after.urls.to_pylist() == before.urls.to_pylist()
    assert labels_of(after) == labels_of(before)
    if kind == "parquet":
        for i in range(len(before)):
            old, new = before.read_mask(i), after.read_mask(i)
            if old is None:
                assert new is None
                continue
            assert new.mean() == pytest.approx(old.mean(), abs=0.03)
            assert np.argwhere(new).max(0) / new.shape == pytest.approx(np.argwhere(old).max(0) / old.shape, abs=0.05)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_pictures_are_small_and_the_small_ones_untouched(pairs, tmp_path, kind):
    manifest = run(pairs, tmp_path / "out", format=kind)
    before, after = open_source(str(pairs)), open_source(str(tmp_path / "out"))
    for i in range(10):
        old, new = before.read_image(i), after.read_image(i)
        image = Image.open(io.BytesIO(new))
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert image.size == ((48, 32) if i % 2 else (30, 24))
        assert (new == old) == (i % 2 == 0)
        shrunk = Image.open(io.BytesIO(old)).resize(image.size, Image.BICUBIC)
        assert np.abs(np.asarray(image, int) - np.asarray(shrunk, int)).mean() < 4
    sums = totals(manifest)
    assert (sums.images, sums.kept) == (10, 5)
    assert sums.bytes_in == sum(len(before.read_image(i)) for i in range(10))
    assert sums.bytes_out == sum(len(after.read_image(i)) for i in range(10))
    text = summary(manifest, tmp_path / "out")
    assert "10 rows: 10 images" in text
    assert "5 of them kept byte for byte" in text
    assert ("true masks are left out" in text) == (kind == "webdataset")


def test_datasets_opens_the_parquet(pairs, tmp_path):
    run(pairs, tmp_path / "out")
    found = datasets.load_dataset(str(tmp_path / "out"), split="train")
    assert isinstance(found.features["image"], datasets.Image)
    assert isinstance(found.features["mask"], datasets.Image)
    assert found.features["label"].names == ["ape", "cat", "dog"]
    assert found[1]["image"].size == (48, 32)
    assert found[2]["captions"] == ["one 2", "ünd 2"]
    assert (found[1]["width"], found[1]["height"], found[2]["width"]) == (60, 40, 30)
    assert found[4]["label"] is None


def test_datasets_opens_the_tars(pairs, tmp_path):
    run(pairs, tmp_path / "out", format="webdataset", shard_size=10)
    lines = [json.loads(line) for line in (pairs / "metadata.jsonl").read_text().splitlines()]
    for i, line in enumerate(lines):  # without what its inference from five samples can't take
        line |= {"caption": f"first {i}", "label": "dog", "captions": ["a"]}
    (pairs / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(pairs, tmp_path / "plain", format="webdataset", shard_size=10)
    tar = next((tmp_path / "plain").glob("*.tar"))
    found = datasets.load_dataset("webdataset", data_files=str(tar), split="train")
    assert len(found) == 10
    assert found[1]["jpg"].size == (48, 32)
    assert (found[1]["txt"], found[1]["cls"], found[1]["json"]["label"]) == ("first 1", 0, "dog")
    assert found[1]["json"]["key"] == "images.v1/001.a.jpg"


def test_parquet_keeps_images_uncompressed_in_small_row_groups(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.prepare.writers._ROW_GROUP", 3000)
    run(pairs, tmp_path / "out", shard_size=100)
    file = pq.ParquetFile(next((tmp_path / "out").glob("*.parquet")))
    assert file.num_row_groups > 2
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
        assert columns["image.bytes"].compression == "UNCOMPRESSED"
        assert columns["image.bytes"].statistics is None
        assert not {"RLE_DICTIONARY", "PLAIN_DICTIONARY"} & set(columns["image.bytes"].encodings)
        assert columns["captions.list.element"].compression == "ZSTD"
        assert number == file.num_row_groups - 1 or columns["image.bytes"].total_uncompressed_size > 2000


def test_member_names_of_a_tar_are_its_keys_where_they_can_be(tmp_path):
    folder = tmp_path / "tars"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as archive:
        for name in ("000017", "b.c", "x y", "000017"):
            data = encoded(picture(len(archive.getnames())))
            member = tarfile.TarInfo(f"{name.split('.')[0]}.jpg")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    run(folder, tmp_path / "out", format="webdataset")
    with tarfile.open(next((tmp_path / "out").glob("*.tar"))) as archive:
        names = [name.split(".")[0] for name in archive.getnames() if name.endswith(".jpg")]
        assert {(member.mtime, member.uid, member.uname) for member in archive.getmembers()} == {(0, 0, "")}
    assert names == ["000017", "b", "000002", "000003"]
    assert open_source(str(tmp_path / "out")).keys.to_pylist() == ["000017", "b", "x y", "000017"]


def repeated(folder, order):
    """Three images with captions in rows of their own, as Flickr8k lists them."""
    folder.mkdir()
    for i in range(3):
        picture(i).save(folder / f"{i}.jpg")
    rows = [f"{i}.jpg,caption {n} of {i}" for i, n in order]
    (folder / "captions.txt").write_text("\n".join(["image,caption", *rows]) + "\n")
    return folder


@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_that_is_named_often_is_stored_once(tmp_path, kind):
    source = repeated(tmp_path / "flickr", [(0, 0), (0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 1)])
    manifest = run(source, tmp_path / "out", format=kind)
    assert (manifest.taken, manifest.written, totals(manifest).images) == (7, 7, 3)
    first = open_source(str(tmp_path / "out"))
    assert first.keys.to_pylist() == ["0.jpg", "1.jpg", "2.jpg"]
    assert first.captions.to_pylist() == [f"caption 0 of {i}" for i in range(3)]
    every = open_source(str(tmp_path / "out"), captions="all")
    found = set(zip(every.keys.to_pylist(), every.captions.to_pylist(), strict=True))
    before = open_source(str(source), captions="all")
    assert found == set(zip(before.keys.to_pylist(), before.captions.to_pylist(), strict=True))
    assert len(every) == len(found)


def test_rows_of_a_table_are_one_image_where_their_bytes_are(tmp_path):
    """Same key and bytes, one after the other: one. Another image, another label or another place: not."""
    data = [encoded(picture(i)) for i in range(3)]
    rows = [("a", 0, 1), ("a", 0, 1), ("a", 1, 1), ("b", 0, 1), ("b", 0, 2), ("a", 0, 1)]
    table = {"key": [row[0] for row in rows], "image": [data[row[1]] for row in rows]}
    table |= {"label": [row[2] for row in rows], "caption": [f"c{i}" for i in range(6)]}
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    manifest = run(tmp_path / "rows.parquet", tmp_path / "out")
    assert (manifest.taken, manifest.written, totals(manifest).images) == (6, 6, 5)
    every = open_source(str(tmp_path / "out"), captions="all")
    assert every.captions.to_pylist() == ["c0", "c1", "c2", "c3", "c4", "c5"]
    assert every.keys.to_pylist() == ["a", "a", "a", "b", "b", "a"]
    assert every.labels.tolist() == [1, 1, 1, 1, 2, 1]
    assert every.label_names is None


def test_boxes_are_scaled(tmp_path):
    rows = {"image": [encoded(picture(i, (120, 80))) for i in range(2)], "box": [[12, 20, 59, 39], None]}
    pq.write_table(pa.table(rows | {"label": [0, 1]}), tmp_path / "rows.parquet")
    run(tmp_path / "rows.parquet", tmp_path / "out", size=40)
    before, after = open_source(str(tmp_path / "rows.parquet")), open_source(str(tmp_path / "out"))
    mask = np.zeros((40, 60), bool)
    mask[10:20, 6:30] = True
    np.testing.assert_array_equal(after.read_mask(0), mask)
    assert after.read_mask(1) is None
    assert before.read_mask(0).mean() == after.read_mask(0).mean()


def test_scenes_and_class_trees(tmp_path):
    run("shapes:6,size=48", tmp_path / "scenes")
    before, after = open_source("shapes:6,size=48"), open_source(str(tmp_path / "scenes"))
    assert after.captions.to_pylist() == before.captions.to_pylist()
    assert labels_of(after) == labels_of(before)
    assert after.label_names == before.label_names
    old, new = before.read_mask(0), after.read_mask(0)
    assert new.shape == (32, 32)
    assert new.mean() == pytest.approx(old.mean(), abs=0.02)
    for name in ("dog", "cat"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        picture(len(name)).save(tmp_path / "tree" / name / "x.png")
    run(tmp_path / "tree", tmp_path / "classes", format="webdataset")
    after = open_source(str(tmp_path / "classes"))
    assert after.keys.to_pylist() == ["cat/x.png", "dog/x.png"]
    assert labels_of(after) == ["cat", "dog"]
    assert after.captions.to_pylist() == ["a photo of a cat", "a photo of a dog"]


def test_first_captions_alone_and_none_at_all(pairs, tmp_path):
    run(pairs, tmp_path / "first", captions="first")
    after = open_source(str(tmp_path / "first"), captions="all")
    assert after.captions.to_pylist() == open_source(str(pairs)).captions.to_pylist()
    bare = tmp_path / "bare"
    bare.mkdir()
    picture(1).save(bare / "x.jpg")
    run(bare, tmp_path / "none")
    assert open_source(str(tmp_path / "none")).captions is None
    assert pq.read_schema(next((tmp_path / "none").glob("*.parquet"))).names == [
        "key",
        "image",
        "width",
        "height",
        "source_sha256",
    ]


def test_limit_counts_images_and_keeps_all_their_captions(pairs, tmp_path):
    run(pairs, tmp_path / "out", limit=6)
    every = open_source(str(tmp_path / "out"), captions="all")
    wanted = open_source(str(pairs), captions="all", limit=8)
    assert every.captions.to_pylist() == wanted.captions.to_pylist()
    assert every.keys.to_pylist() == wanted.keys.to_pylist()
    assert len(open_source(str(tmp_path / "out"))) == 6


def test_bad_images_are_rejected_with_their_reasons(pairs, tmp_path):
    (pairs / "images.v1" / "002.a.jpg").write_bytes(b"nothing")
    (pairs / "images.v1" / "007.a.jpg").unlink()
    (pairs / "m8.png").write_bytes(b"no mask")
    with pytest.raises(UserError, match=r"3 of 10 rows \(30\.0%\) were rejected, more than --max-rejected 0\.2"):
        run(pairs, tmp_path / "out", max_rejected=0.2)
    manifest = run(pairs, tmp_path / "out", max_rejected=0.3)
    assert (manifest.taken, manifest.written, manifest.rejected) == (10, 7, 3)
    assert [(line["key"], line["caption"]) for line in rejects(tmp_path / "out")] == [
        (f"images.v1/{i:03d}.a.jpg", f"first {i} ") for i in (2, 7, 8)
    ]
    assert [line["reason"] for line in rejects(tmp_path / "out")][::2] == ["not an image", "not an image"]
    assert len(open_source(str(tmp_path / "out"))) == 7
    assert "3 rows rejected" in summary(manifest, tmp_path / "out")


def test_a_file_in_which_nothing_is_good_is_still_there(pairs, tmp_path):
    for i in range(4):
        (pairs / "images.v1" / f"{i:03d}.a.jpg").write_bytes(b"")
    for kind in FORMATS:
        run(pairs, tmp_path / kind, max_rejected=1, format=kind)
        assert len(open_source(str(tmp_path / kind))) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 4}, "--size is 4"),
        ({"quality": 0}, "--quality is 0"),
        ({"format": "zip"}, "--format 'zip' is not one of: parquet, webdataset"),
        ({"shard_size": 0}, "--shard-size is 0"),
        ({"workers": 0}, "--workers is 0"),
        ({"captions": "some"}, "--captions 'some' is not one of: first, all"),
        ({"max_rejected": 2}, "--max-rejected is 2"),
    ],
)
def test_a_wrong_option_names_itself(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        PrepareOptions("x", tmp_path, **change)


def streamed(folder, monkeypatch):
    """The folder's Parquet as a Hub dataset would stream it."""
    dataset = datasets.load_dataset(str(folder), split="train", streaming=True)

    def opened(spec, *, captions="first", limit=None, **_):
        return stream_dataset("me/pairs", dataset, Wishes(captions=captions, limit=limit))

    monkeypatch.setattr("pipelines.sources.open_source.open_source", opened)
    assert isinstance(opened("x"), StreamSource)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_stream_gives_what_its_download_gives(pairs, tmp_path, monkeypatch, kind):
    run(pairs, tmp_path / "once", size=50)
    run(tmp_path / "once", tmp_path / "downloaded", format=kind)
    streamed(tmp_path / "once", monkeypatch)
    manifest = run("me/pairs", tmp_path / "streamed", format=kind)
    assert [shard.file for shard in manifest.shards] == [
        path.name for path in sorted((tmp_path / "streamed").glob("i*"))
    ]
    files = [path.name for path in sorted((tmp_path / "downloaded").glob("images-*"))]
    assert files == [shard.file for shard in manifest.shards]
    for name in files:
        assert (tmp_path / "streamed" / name).read_bytes() == (tmp_path / "downloaded" / name).read_bytes()


@pytest.mark.parametrize("captions", ["first", "all"])
@pytest.mark.parametrize("kind", FORMATS)
def test_maps_of_the_original_join_the_prepared(tmp_path, monkeypatch, kind, captions):
    """Built on the source, used with its prepared copy: every pair has its map, and the same views of it."""
    nano_runs(monkeypatch)
    folder = tmp_path / "pairs"
    folder.mkdir()
    lines = []
    for i in range(8):
        picture(i, (96 + 7 * i, 64)).save(folder / f"{i}.jpg")
        lines.append({"file_name": f"{i}.jpg", "caption": f"first {i}", "captions": [f"one {i}", f"two {i}"]})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    maps = write_maps(tmp_path / "maps", open_source(str(folder), captions=captions))
    run(folder, tmp_path / "out", format=kind)
    arguments = ("pretrain", tmp_path / "out", "--saliency", maps, "--captions", captions, "--out", tmp_path / "run")
    result = invoke(*arguments, *SMALL)
    assert result.exit_code == 0, result.stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text())["maps"]["images_without_map"] == 0
    before, after = (open_source(str(place), captions=captions) for place in (folder, tmp_path / "out"))
    views = [Views(source, (16, 16), augment=True, seed=3) for source in (before, after)]
    same = 0
    for epoch in range(20):
        for i in range(len(before)):
            old, new = (view[epoch, i] for view in views)
            assert new.view.flip == old.view.flip
            if np.abs(np.subtract(new.view.box, old.view.box)).max() > 1 / 32:  # more than a pixel of the small image
                assert i, "sides whose ratio is kept exactly give the same views"
                continue
            same += 1
            assert np.abs(new.pixels.astype(int) - old.pixels.astype(int)).mean() < 6
    # a side rounded to a pixel may decide whether a crop that only just fits does
    assert same >= 0.98 * 20 * len(before)


def test_maps_are_built_and_features_judged_on_the_prepared(tmp_path, tiny_clip, monkeypatch):
    nano_runs(monkeypatch)
    run("shapes:24,size=48", tmp_path / "out")
    manifest = build(tmp_path / "out", tmp_path / "maps", tiny_clip)
    assert (manifest.written, manifest.rejected) == (24, 0)
    assert invoke("inspect", tmp_path / "maps").exit_code == 0
    trained = invoke("pretrain", tmp_path / "out", "--saliency", tmp_path / "maps", "--out", tmp_path / "run", *SMALL)
    assert trained.exit_code == 0, trained.stderr
    judged = invoke("evaluate", tmp_path / "run", tmp_path / "out", "--workers", 0, "--device", "cpu")
    assert judged.exit_code == 0, judged.stderr
    assert "untrained" in judged.stdout
    described = invoke("inspect", tmp_path / "out")
    assert "pairs" in described.stdout
    assert described.exit_code == 0


@pytest.mark.parametrize("kind", FORMATS)
def test_verify_knows_the_images_that_the_prepared_were_made_of(tmp_path, tiny_clip, kind):
    folder = write_pictures(tmp_path / "pairs", [f"picture {i}" for i in range(6)])
    build(folder, tmp_path / "maps", tiny_clip)
    run(folder, tmp_path / "out", size=16, format=kind)
    assert invoke("verify", tmp_path / "maps", tmp_path / "out").exit_code == 0
    build(tmp_path / "out", tmp_path / "own", tiny_clip)
    assert invoke("verify", tmp_path / "own", tmp_path / "out").exit_code == 0
    other = np.random.default_rng(9).integers(0, 255, (30, 40, 3)).astype(np.uint8)
    Image.fromarray(other).save(folder / "003.png")
    run(folder, tmp_path / "changed", size=16, format=kind)
    result = invoke("verify", tmp_path / "maps", tmp_path / "changed")
    assert result.exit_code == 1
    assert "1 of 6 have other bytes than the maps were made of" in " ".join(result.stdout.split())


def test_the_command(pairs, tmp_path):
    result = invoke("prepare", pairs, "--out", tmp_path / "out", "--size", 32, "--format", "webdataset", "--workers", 1)
    assert result.exit_code == 0, result.stderr
    assert "10 rows: 10 images in" in result.stdout
    assert invoke("prepare", pairs, "--out", tmp_path / "out", "--size", 32).exit_code == 2
    result = invoke("prepare", "nowhere", "--out", tmp_path / "x")
    assert (result.exit_code, result.stderr) == (2, "error: nowhere does not exist\n")
    assert not (tmp_path / "x").exists()
