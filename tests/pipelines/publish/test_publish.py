import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

import cli
from pipelines.build.build_saliency import build_saliency
from pipelines.build.job import BuildOptions
from pipelines.errors import UserError
from pipelines.publish import publish as module
from pipelines.publish.publish import PublishOptions, publish
from pipelines.verify.verify import VerifyOptions, verify
from saliency.table.manifest import read_manifest
from saliency.table.shard import METADATA_KEY
from saliency.table.table import SaliencyTable, shard_files
from tests.pipelines.build.test_build_saliency import tree, write_pictures


@pytest.fixture(scope="module")
def built(tmp_path_factory, tiny_clip):
    """Ten pairs, of which the last was rejected with a reason that names a file, and their maps in shards of four."""
    folder = tmp_path_factory.mktemp("secret-home")
    pictures = write_pictures(folder / "pictures", [f"picture {i}" for i in range(10)])
    (pictures / "009.png").unlink()
    options = BuildOptions(str(pictures), folder / "maps", clip=tiny_clip, shard_size=4, max_rejected=1)
    build_saliency(options, quiet=True)
    assert str(pictures) in (folder / "maps" / "rejected" / "train-00002-of-00003.jsonl").read_text()
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "maps"
    build_saliency(BuildOptions("shapes:12", folder), quiet=True)
    return folder


def run(maps, out, **options):
    return publish(PublishOptions(maps, "me/maps", dry_run=out, **options), quiet=True)


def pictures_of(folder):
    import datasets

    rows = datasets.load_dataset(str(folder), "preview", split="train")
    return [np.asarray(row["picture"].convert("RGB")).astype(int) for row in rows]


def test_croissant_reads_what_is_there(built, tmp_path):
    """The format's own reader gives the rows of maps and preview, from the folder alone."""
    import mlcroissant

    out = tmp_path / "out"
    run(built / "maps", out, preview=2)
    described = json.loads((out / "croissant.json").read_text())
    hashes = {file["@id"]: file["sha256"] for file in described["distribution"] if "/" in file["@id"]}
    files = sorted(out.rglob("*.parquet"))
    assert hashes == {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    dataset = mlcroissant.Dataset(out / "croissant.json", mapping={"repository": out})
    stored = pa.concat_tables(pq.read_table(path) for path in shard_files(out)).to_pylist()
    for row, read in zip(stored, dataset.records("maps"), strict=True):
        assert read["maps/caption"].decode() == row["caption"]
        assert [int(cell) for cell in read["maps/saliency"]] == row["saliency"]
    shown = list(dataset.records("preview"))
    assert [row["preview/key"].decode() for row in shown] == ["000.png", "008.png"]
    assert shown[0]["preview/picture"].size == (256, 192)


@pytest.mark.parametrize("with_images", [False, True])
@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_loads_every_config(built, tmp_path, hf_cache, streaming, with_images):
    import datasets

    run(built / "maps", tmp_path / "out", preview=5, with_images=with_images)
    names = datasets.get_dataset_config_names(str(tmp_path / "out"))
    assert sorted(names) == ["maps", "preview"]
    for name, count in ((None, 9), ("maps", 9), ("preview", 5)):
        rows = list(datasets.load_dataset(str(tmp_path / "out"), name, split="train", streaming=streaming))
        assert len(rows) == count
        if name == "preview":
            assert rows[0]["picture"].size == (256, 192) if not with_images else (40, 30)
            assert [row["key"] for row in rows] == ["000.png", "002.png", "004.png", "006.png", "008.png"]
        else:
            assert [row["key"] for row in rows] == [f"{i:03d}.png" for i in range(9)]
            assert len(rows[0]["saliency"]) == 16
            assert rows[3]["url"] == "http://x/3"


def test_what_is_published_is_the_table(built, tmp_path):
    before = tree(built)
    facts = run(built / "maps", tmp_path / "out")
    assert (facts["maps"], facts["shards"]) == (9, 3)
    assert facts["preview"] == "9 pictures (maps alone, no pixels of the images)"
    assert tree(built) == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "croissant.json",
        "data",
        "manifest.json",
        "preview",
    ]
    ours, theirs = SaliencyTable(built / "maps"), SaliencyTable(tmp_path / "out")
    assert theirs.keys.equals(ours.keys)
    rows = np.arange(9)
    np.testing.assert_array_equal(theirs.raw_maps(rows), ours.raw_maps(rows))
    checks = verify(VerifyOptions(str(tmp_path / "out"), str(built / "pictures")), quiet=True)
    assert all(check.passed for check in checks), checks
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.taken, manifest.written, manifest.rejected) == (10, 9, 1)


def test_nothing_tells_of_the_publishers_machine(built, tmp_path):
    """Not the card, not the manifest, not what the shards carry; the maps were made with a CLIP of a local folder."""
    quality = tmp_path / "quality.json"
    quality.write_text(json.dumps({"judged": 3, "skipped": {"first": f"{built}/pictures/1.png: gone"}}))
    run(built / "maps", tmp_path / "out", quality=quality)
    texts = [(tmp_path / "out" / name).read_text() for name in ("README.md", "manifest.json")]
    for path in (tmp_path / "out").rglob("*.parquet"):
        texts.append(json.dumps({k.decode(): v.decode() for k, v in pq.read_schema(path).metadata.items()}))
        texts += map(str, pq.read_table(path).drop_columns(["picture"]).to_pylist()) if "preview" in str(path) else []
    for text in texts:
        for secret in (str(built), built.name, str(tmp_path), "pytest-of", "/tmp"):
            assert secret not in text
    assert "`pictures`" in texts[0]
    assert "--clip local-dir:clip0" in texts[0]
    assert json.loads(texts[1])["origin"]["source"] == "pictures"


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"origin": {"source": "clients/acme/pairs"}}, "pairs"),
        ({"origin": {"source": "clients/acme/{0..3}.tar"}}, "{0..3}.tar"),
        ({"origin": {"source": "acme/pairs"}, "settings": {"pairs": "acme/pairs"}}, "acme/pairs"),  # on the Hub
        ({"origin": {"source": "shapes:10,size=32"}}, "shapes:10,size=32"),
    ],
)
def test_a_source_is_named_by_its_last_part_unless_it_is_public(built, tmp_path, changes, shown):
    maps = shutil.copytree(built / "maps", tmp_path / "maps")
    content = json.loads((maps / "manifest.json").read_text())
    for part, values in changes.items():
        content[part] |= values
    (maps / "manifest.json").write_text(json.dumps(content))
    run(maps, tmp_path / "out", preview=0)
    assert read_manifest(tmp_path / "out").origin["source"] == shown
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"pair of `{shown}`" in card
    assert ("acme" in card) == ("acme" in shown)


def test_shards_are_shared_where_nothing_has_to_change(scenes, tmp_path):
    run(scenes, tmp_path / "out", preview=0)
    (ours,), (theirs,) = shard_files(scenes), shard_files(tmp_path / "out")
    assert theirs.samefile(ours)
    assert not theirs.is_symlink()


def test_a_disk_without_links_gets_copies(scenes, tmp_path, monkeypatch):
    from pathlib import Path

    def refuse(*_):
        raise OSError("links are not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    run(scenes, tmp_path / "out", preview=0)
    (ours,), (theirs,) = shard_files(scenes), shard_files(tmp_path / "out")
    assert not theirs.samefile(ours)
    assert theirs.read_bytes() == ours.read_bytes()


def test_row_groups_too_large_for_the_viewer_are_cut(scenes, tmp_path, monkeypatch):
    group = pq.ParquetFile(shard_files(scenes)[0]).metadata.row_group(0)
    monkeypatch.setattr(module, "LARGEST_ROW_GROUP", group.total_byte_size - 1)
    monkeypatch.setattr(module, "_NEW_ROW_GROUP", group.total_byte_size / 3)
    run(scenes, tmp_path / "out", preview=0)
    (path,) = shard_files(tmp_path / "out")
    cut = pq.ParquetFile(path)
    assert [cut.metadata.row_group(i).num_rows for i in range(cut.num_row_groups)] == [4, 4, 4]
    assert cut.metadata.row_group(0).column(0).has_offset_index
    assert cut.read().equals(pq.read_table(shard_files(scenes)[0]))
    assert cut.schema_arrow.metadata[METADATA_KEY] == pq.read_schema(shard_files(scenes)[0]).metadata[METADATA_KEY]
    assert all(check.passed for check in verify(VerifyOptions(str(tmp_path / "out")), quiet=True))


def test_the_largest_grid_fits_the_viewer():
    """Its limit is 300 MB a page; what we write anew stays far below, and a row of the largest grid fits many times."""
    assert module._NEW_ROW_GROUP <= module.LARGEST_ROW_GROUP <= 300_000_000
    assert module._NEW_ROW_GROUP > 100 * 256 * 256


def test_an_empty_shard_is_published(tmp_path, tiny_clip, hf_cache):
    import datasets

    pictures = write_pictures(tmp_path / "pictures", [f"picture {i}" for i in range(6)])
    for i in (2, 3):
        (pictures / f"00{i}.png").unlink()
    options = BuildOptions(str(pictures), tmp_path / "maps", clip=tiny_clip, shard_size=2, max_rejected=1)
    build_saliency(options, quiet=True)
    run(tmp_path / "maps", tmp_path / "out", preview=2)
    for streaming in (False, True):
        rows = datasets.load_dataset(str(tmp_path / "out"), split="train", streaming=streaming)
        assert [row["key"] for row in rows] == ["000.png", "001.png", "004.png", "005.png"]


# pictures and rights


def test_no_photo_is_needed_or_shown_by_default(built, tmp_path, hf_cache):
    """Maps alone: the same pictures whether the photos are there or not."""
    run(built / "maps", tmp_path / "with", preview=3)
    gone = shutil.copytree(built / "maps", tmp_path / "elsewhere" / "maps")
    content = json.loads((gone / "manifest.json").read_text())
    content["origin"]["source"] = str(tmp_path / "nowhere")
    (gone / "manifest.json").write_text(json.dumps(content))
    run(gone, tmp_path / "without", preview=3)
    for ours, theirs in zip(pictures_of(tmp_path / "with"), pictures_of(tmp_path / "without"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert "It has no images, and the preview shows only maps." in (tmp_path / "with" / "README.md").read_text()


def test_photos_are_shown_on_the_publishers_word(built, tmp_path, hf_cache):
    facts = run(built / "maps", tmp_path / "out", preview=3, with_images=True)
    assert facts["preview"] == "3 pictures (maps over photos)"
    assert pictures_of(tmp_path / "out")[0].shape == (30, 40, 3)
    assert "--with-images" in (tmp_path / "out" / "README.md").read_text()


def test_scenes_are_ours_to_show(scenes, tmp_path):
    facts = run(scenes, tmp_path / "out", preview=3)
    assert facts["preview"] == "3 pictures (maps over scenes)"
    assert "drawn by saliency-mae" in (tmp_path / "out" / "README.md").read_text()


def test_photos_that_are_elsewhere(built, tmp_path):
    moved = shutil.copytree(built / "pictures", tmp_path / "moved")
    maps = shutil.copytree(built / "maps", tmp_path / "maps")
    content = json.loads((maps / "manifest.json").read_text())
    content["origin"]["source"] = str(tmp_path / "nowhere")
    (maps / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"the images can't be shown: .*nowhere does not exist; say where .* --source"):
        run(maps, tmp_path / "out", with_images=True)
    (moved / "004.png").write_bytes((moved / "005.png").read_bytes())
    facts = run(maps, tmp_path / "out", with_images=True, source=str(moved))
    assert facts["preview"] == "8 pictures (maps over photos)"
    assert facts["not shown"].startswith("1 images")
    others = write_pictures(tmp_path / "others", [f"picture {i}" for i in range(10)], size=(20, 20))
    with pytest.raises(UserError, match="no image is the one that its map was made of"):
        run(maps, tmp_path / "again", with_images=True, source=str(others))
    assert not (tmp_path / "again").exists()


def test_no_preview(built, tmp_path):
    facts = run(built / "maps", tmp_path / "out", preview=0)
    assert facts["preview"] == "none"
    assert not (tmp_path / "out" / "preview").exists()
    card = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---")[1])
    assert [config["config_name"] for config in card["configs"]] == ["maps"]


def test_licence_and_figures_reach_the_card(built, tmp_path):
    quality = tmp_path / "quality.json"
    quality.write_text(json.dumps({"figures": {"maps": {"pointing": {"mean": 0.5, "low": 0.4, "high": 0.6}}}}))
    run(built / "maps", tmp_path / "out", licence="cc-by-4.0", quality=quality)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: cc-by-4.0" in card
    assert "| maps | 0.500 [0.400, 0.600] |" in card


def test_what_inspect_found_reaches_the_card(scenes, tmp_path):
    from pipelines.inspect.inspect import inspect
    from pipelines.inspect.options import InspectOptions

    inspect(InspectOptions(str(scenes), json=tmp_path / "quality.json"))
    figures = json.loads((tmp_path / "quality.json").read_text())["judgement"]["figures"]
    run(scenes, tmp_path / "out", quality=tmp_path / "quality.json", preview=0)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Against true masks:" in card
    for row in ("maps", "centre_prior", "shuffled_caption"):
        means = [f"{figures[row][name]['mean']:.3f} [" for name in ("pointing", "energy", "iou", "auc")]
        (line,) = [line for line in card.splitlines() if line.startswith(f"| {row.replace('_', ' ')} | {means[0]}")]
        assert all(mean in line for mean in means)


@pytest.mark.parametrize("change", [{"maps": 3}, {"made_with": {"method": "another"}}])
def test_figures_of_other_maps_are_refused(scenes, tmp_path, change):
    from pipelines.inspect.inspect import inspect
    from pipelines.inspect.options import InspectOptions

    inspect(InspectOptions(str(scenes), json=tmp_path / "quality.json"))
    content = json.loads((tmp_path / "quality.json").read_text())
    content["facts"] |= change
    (tmp_path / "quality.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="--quality is not about these maps"):
        run(scenes, tmp_path / "out", quality=tmp_path / "quality.json")
    assert not (tmp_path / "out").exists()


def test_maps_that_were_looked_at_but_have_no_masks(built, tmp_path):
    quality = tmp_path / "quality.json"
    quality.write_text(json.dumps({"kind": "maps", "facts": {"maps": 9}, "judgement": None}))
    run(built / "maps", tmp_path / "out", quality=quality, preview=0)
    assert "Not scored" in (tmp_path / "out" / "README.md").read_text()


def test_keys_that_are_paths_are_told(built, tmp_path):
    pictures = tmp_path / "pictures.jsonl"
    paths = [built / "pictures" / f"{i:03d}.png" for i in range(3)]
    pictures.write_text("".join(json.dumps({"image": str(path), "caption": "x"}) + "\n" for path in paths))
    clip = read_manifest(built / "maps").settings["clip"]
    build_saliency(BuildOptions(str(pictures), tmp_path / "maps", clip=clip, allow_outside=True), quiet=True)
    assert run(tmp_path / "maps", tmp_path / "out", preview=0)["warning"].startswith("3 keys are absolute paths")


# refusals


def unfinished(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"complete": true', '"complete": false'))


def damaged(folder):
    path = shard_files(folder)[0]
    path.write_bytes(path.read_bytes()[:-5])


def emptied(folder):
    shutil.rmtree(folder / "data")


@pytest.mark.parametrize(
    ("damage", "message"),
    [(unfinished, "manifest: the build is unfinished"), (damaged, "sha256: .*Parquet: "), (emptied, "is missing")],
)
def test_a_table_that_is_not_whole_is_not_published(built, tmp_path, damage, message):
    maps = shutil.copytree(built / "maps", tmp_path / "maps")
    damage(maps)
    with pytest.raises(UserError, match=message):
        run(maps, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_dry_run_folder_must_be_new(built, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    with pytest.raises(UserError, match=r"full is not empty"):
        run(built / "maps", tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["x"]
    (tmp_path / "empty").mkdir()
    run(built / "maps", tmp_path / "empty", preview=0)
    assert shard_files(tmp_path / "empty")


def test_a_dry_run_that_is_stopped_leaves_nothing(built, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_preview", stop)
    with pytest.raises(KeyboardInterrupt):
        run(built / "maps", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["maps", "me/", "/maps", "a/b/c", "me/ma ps", "me/a--b", "me/a.git", "me/" + "x" * 97])
def test_a_name_the_hub_does_not_have(built, tmp_path, name):
    with pytest.raises(UserError, match="can't be a name on the Hub"):
        publish(replace(PublishOptions(built / "maps", name), dry_run=tmp_path / "out"), quiet=True)


def test_offline_and_without_a_token(built, monkeypatch, tmp_path):
    """The tests run offline; without that, it is the token that is asked for first."""
    from huggingface_hub import constants

    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set.*--dry-run"):
        publish(PublishOptions(built / "maps", "me/maps"), quiet=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="no Hub token: run `hf auth login`"):
        publish(PublishOptions(built / "maps", "me/maps"), quiet=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preview", "-1"], "--preview is -1"),
        (["--preview", "0", "--with-images"], "nothing to show"),
        (["--licence", " "], "--licence"),
        (["--quality", "NOWHERE"], "--quality"),
    ],
)
def test_options_that_make_no_sense(built, tmp_path, options, message):
    given = [str(tmp_path / "nowhere") if option == "NOWHERE" else option for option in options]
    arguments = ["publish", str(built / "maps"), "me/maps", "--dry-run", str(tmp_path / "out"), *given]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_command(built, tmp_path):
    arguments = ["publish", built / "maps", "me/maps", "--dry-run", tmp_path / "out", "--license", "cc0-1.0"]
    result = CliRunner().invoke(cli.app, list(map(str, arguments)), env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    assert f"{tmp_path / 'out'} (nothing was uploaded)" in result.stdout
    assert "license: cc0-1.0" in (tmp_path / "out" / "README.md").read_text()
