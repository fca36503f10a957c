import json
import shutil

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import cli
from pipelines.build.build_saliency import build_saliency
from pipelines.build.job import BuildOptions
from pipelines.errors import UserError
from pipelines.verify.verify import VerifyOptions, verify
from saliency.table.table import shard_files
from tests.pipelines.build.test_build_saliency import write_pictures

OF_THE_SOURCE = ["pairs with a map", "maps with a pair", "stored bytes", "readable images"]


@pytest.fixture(scope="module")
def built(tmp_path_factory, tiny_clip):
    """Ten pairs, of which the last was rejected, and their maps in shards of four."""
    folder = tmp_path_factory.mktemp("built")
    pictures = write_pictures(folder / "pictures", [f"picture {i}" for i in range(10)])
    (pictures / "009.png").write_bytes(b"broken")
    options = BuildOptions(str(pictures), folder / "maps", clip=tiny_clip, shard_size=4, max_rejected=1)
    build_saliency(options, quiet=True)
    return folder


@pytest.fixture
def folder(built, tmp_path):
    return shutil.copytree(built, tmp_path / "copy")


def look(folder, **options):
    checks = verify(VerifyOptions(str(folder / "maps"), str(folder / "pictures"), **options), quiet=True)
    return {check.name: check for check in checks}


def failed(checks):
    return {name: check.found for name, check in checks.items() if not check.passed}


def edit_captions(folder, change):
    path = folder / "pictures" / "metadata.jsonl"
    rows = change([json.loads(line) for line in path.read_text().splitlines()])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_maps_and_their_source(built):
    checks = look(built)
    assert not failed(checks)
    assert list(checks)[-4:] == OF_THE_SOURCE
    assert checks["pairs with a map"].found.startswith("9 of 10 pairs (90.0%) have a map; the others were rejected")
    assert checks["maps with a pair"].found.startswith("9 of 9 maps (100.0%)")
    assert checks["stored bytes"].found.startswith("all 9 images")


def test_without_a_source_the_folder_alone_is_looked_at(built):
    checks = verify(VerifyOptions(str(built / "maps")), quiet=True)
    assert all(check.passed for check in checks)
    assert not set(OF_THE_SOURCE) & {check.name for check in checks}


def test_the_source_has_pairs_that_were_never_seen(folder):
    edit_captions(folder, lambda rows: [*rows, {"file_name": "000.png", "caption": "new"}])
    found = failed(look(folder))
    assert found.keys() == {"pairs with a map"}
    assert "9 of 11 pairs (81.8%) have a map; 1 have none, first: '000.png'" in found["pairs with a map"]
    assert "check --captions" in found["pairs with a map"]


def test_the_source_has_other_keys(folder):
    edit_captions(folder, lambda rows: [row | {"key": f"k{i}"} for i, row in enumerate(rows)])
    found = failed(look(folder))
    assert found.keys() == {"pairs with a map", "maps with a pair"}
    assert found["maps with a pair"].startswith("0 of 9 maps")
    assert "check --captions" not in found["pairs with a map"]


def test_a_smaller_source_leaves_maps_unused(folder):
    checks = look(folder, limit=3)
    assert not failed(checks)
    assert checks["maps with a pair"].found.startswith("3 of 9 maps (33.3%)")


def test_images_of_other_bytes(folder):
    pictures = folder / "pictures"
    shutil.copy(pictures / "001.png", pictures / "000.png")
    found = failed(look(folder))
    assert found.keys() == {"stored bytes"}
    assert found["stored bytes"].startswith("1 of 9 have other bytes than the maps were made of, first: '000.png'")


def test_images_that_are_gone_or_broken(folder):
    (folder / "pictures" / "003.png").unlink()
    (folder / "pictures" / "004.png").write_bytes(b"")
    found = failed(look(folder))
    assert found["readable images"].startswith("2 of 9 can't be read, first: '003.png' (")
    assert found["stored bytes"].startswith("1 of 9 have other bytes")  # one that is gone has no bytes to compare


def test_the_sample_follows_the_seed(folder, monkeypatch):
    from pipelines.sources.source import Source

    read, original = [], Source.read_image
    monkeypatch.setattr(Source, "read_image", lambda self, i: (read.append(i), original(self, i))[1])

    def sampled(**options):
        read.clear()
        checks = look(folder, **options)
        return tuple(read), checks

    first, checks = sampled(sample=4)
    assert len(set(first)) == 4
    assert 9 not in first
    assert checks["stored bytes"].found.startswith("4 of 9 images")
    assert sampled(sample=4)[0] == first
    assert sampled(sample=4, seed=1)[0] != first
    none, checks = sampled(sample=0)
    assert none == ()
    assert not {"stored bytes", "readable images"} & checks.keys()
    assert sampled(sample=10**9)[0] == tuple(range(9))


def test_maps_without_captions_to_join_by(folder, tmp_path):
    from tests.pipelines.build.test_build_saliency import write_pictures

    plain = write_pictures(tmp_path / "plain", [None] * 9)
    rows = [{"file_name": f"{i:03d}.png"} for i in range(9)]
    (plain / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checks = verify(VerifyOptions(str(folder / "maps"), str(plain)), quiet=True)
    assert all(check.passed for check in checks)


def test_all_captions_of_an_image(tmp_path, tiny_clip):
    pictures = write_pictures(tmp_path / "pictures", ["x"] * 3)
    rows = [{"file_name": f"{i:03d}.png", "captions": [f"a {i}", f"b {i}"]} for i in range(3)]
    (pictures / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build_saliency(BuildOptions(str(pictures), tmp_path / "maps", clip=tiny_clip, captions="all"), quiet=True)
    assert look(tmp_path, captions="all")["maps with a pair"].found.startswith("6 of 6")
    assert look(tmp_path)["maps with a pair"].found.startswith("3 of 6")
    assert not failed(look(tmp_path, captions="all"))


def test_a_damaged_shard_does_not_hide_the_rest(folder):
    path = shard_files(folder / "maps")[0]
    path.write_bytes(path.read_bytes()[:-10])
    found = failed(look(folder))
    assert {"sha256", "Parquet", "pairs with a map"} <= found.keys()
    assert "4 have none, first: '000.png'" in found["pairs with a map"]


def test_nothing_is_written(built):
    before = sorted(built.rglob("*"))
    look(built)
    assert sorted(built.rglob("*")) == before


def test_what_is_no_maps_folder(tmp_path, built):
    with pytest.raises(UserError, match="does not exist; make them"):
        verify(VerifyOptions(str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="holds no saliency maps"):
        verify(VerifyOptions(str(built / "pictures")))
    with pytest.raises(UserError, match="does not exist"):
        verify(VerifyOptions(str(built / "maps"), str(tmp_path / "nowhere")))


def test_a_stream_is_refused(built, monkeypatch):
    from pipelines.sources.hub_stream import StreamSource
    from pipelines.sources.tables.columns import Roles, Wishes

    stream = StreamSource("user/data", [], Roles.__new__(Roles), Wishes(None, None, "first", None, None))
    monkeypatch.setattr("pipelines.sources.open_source.open_source", lambda *_, **__: stream)
    with pytest.raises(UserError, match="user/data is a stream.*hf download user/data"):
        verify(VerifyOptions(str(built / "maps"), "user/data"), quiet=True)


# the command


def run(*arguments):
    return CliRunner().invoke(cli.app, ["verify", *map(str, arguments)], env={"COLUMNS": "300"})


def test_exit_codes(folder):
    fine = run(folder / "maps", folder / "pictures")
    assert fine.exit_code == 0, fine.output
    assert "all 14 checks passed" in fine.stdout
    assert "FAILED" not in fine.stdout
    shutil.copy(folder / "pictures" / "001.png", folder / "pictures" / "000.png")
    (folder / "maps" / "data" / ".tmp-1-x").write_text("")
    bad = run(folder / "maps", folder / "pictures")
    assert bad.exit_code == 1
    assert bad.stdout.count("FAILED") == 2
    assert bad.stdout.count(" ok ") == 12
    assert "error: 2 of 14 checks failed" in bad.stderr
    wrong = run(folder / "nowhere")
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("error: ")
    assert run(folder / "maps", "--sample", "-1").exit_code == 2


def test_a_key_that_looks_like_markup_is_shown(folder):
    path = shard_files(folder / "maps")[0]
    table = pq.read_table(path)
    rows = [row | {"key": "[/bold]", "vmin": float("nan")} for row in table.to_pylist()]
    pq.write_table(type(table).from_pylist(rows, table.schema), path)
    result = run(folder / "maps")
    assert result.exit_code == 1
    assert "(key '[/bold]')" in result.stdout
