"""The Hub on loopback, asked by the real client: publish, verify and pretrain as a user types them."""

import json
import shutil

import pytest

from pipelines.build.build_saliency import build_saliency
from pipelines.build.job import BuildOptions
from pipelines.errors import UserError
from pipelines.hub import find_maps
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.pretrain import pretrain
from pipelines.pretrain.settings import settings_of
from pipelines.publish.publish import PublishOptions, publish
from saliency.table.table import shard_files
from tests.hub_client import HubClient
from tests.hub_server import READ_ONLY, TOKEN, LoopbackHub
from tests.pipelines.build.test_build_saliency import write_pictures

TINY = ["--model", "tiny", "--image-size", "32", "--patch-size", "8", "--batch-size", "4", "--epochs", "1"]


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    client = HubClient(hub.url, tmp_path_factory.mktemp("home"))
    yield client
    client.close()
    for secret in (TOKEN, READ_ONLY):
        assert secret not in client.printed()


@pytest.fixture(scope="module")
def built(tmp_path_factory, tiny_clip):
    folder = tmp_path_factory.mktemp("built")
    pictures = write_pictures(folder / "pictures", [f"picture {i}" for i in range(10)])
    build_saliency(BuildOptions(str(pictures), folder / "maps", clip=tiny_clip, shard_size=4), quiet=True)
    return folder


@pytest.fixture
def fresh(hub):
    """The hub without anything on it, and nothing counted."""
    hub.repositories.clear()
    hub.stored.clear()
    hub.requests.clear()
    hub.drops.clear()
    hub.cut.clear()
    return hub


def dry_run(maps, name, out, **options):
    """What is to arrive, as {path: bytes}."""
    publish(PublishOptions(maps, name, dry_run=out, **options), quiet=True)
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def arrived(hub, name):
    return {path: data for path, data in hub.files(name).items() if path != ".gitattributes"}


def test_every_byte_arrives(fresh, client, built, tmp_path):
    result = client("publish", built / "maps", "me/maps", token=TOKEN)
    assert result.code == 0, result.output
    assert f"{fresh.url}/datasets/me/maps" in result.stdout
    assert TOKEN not in result.output
    assert arrived(fresh, "me/maps") == dry_run(built / "maps", "me/maps", tmp_path / "out")
    assert fresh.repositories["me/maps"] == fresh.repositories["me/maps"] | {"private": False, "commits": 1}


@pytest.mark.parametrize("what", ["PUT", "info", "create", "tree", "batch", "commit"])
def test_a_dropped_connection_is_taken_up_again(fresh, client, built, tmp_path, what):
    """In the middle of a file, and at every other point: by the client itself or by us."""
    fresh.drop(what)
    result = client("publish", built / "maps", "me/maps", token=TOKEN)
    assert result.code == 0, result.output
    assert len(fresh.cut) == 1
    assert what != "PUT" or fresh.cut[0] > 1000
    assert arrived(fresh, "me/maps") == dry_run(built / "maps", "me/maps", tmp_path / "out")
    assert fresh.requests["PUT"] == 4 + (what == "PUT")
    assert TOKEN not in result.output


def test_a_connection_that_stays_down_is_one_line(fresh, client, built):
    fresh.drop("create", times=1000)
    result = client("publish", built / "maps", "me/maps", token=TOKEN)
    assert result.code == 2
    assert fresh.requests["create"] == 5
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "the Hub can't be reached" in line
    assert "run the same command again" in line
    assert "me/maps" not in fresh.repositories


def test_what_has_arrived_is_not_sent_twice(fresh, client, built):
    assert client("publish", built / "maps", "me/maps", token=TOKEN).code == 0
    sent = fresh.requests["PUT"]
    assert client("publish", built / "maps", "me/maps", token=TOKEN).code == 0
    assert fresh.requests["PUT"] == sent


def test_shards_of_an_older_table_go(fresh, client, built, tmp_path):
    """Or the older table's rows would be read among the new ones."""
    assert client("publish", built / "maps", "me/maps", token=TOKEN).code == 0
    fresh.files("me/maps")["LICENSE.txt"] = b"the user's own"
    clip = json.loads((built / "maps" / "manifest.json").read_text())["settings"]["clip"]
    build_saliency(BuildOptions(str(built / "pictures"), tmp_path / "maps", clip=clip), quiet=True)
    assert client("publish", tmp_path / "maps", "me/maps", "--preview", "0", token=TOKEN).code == 0
    assert sorted(arrived(fresh, "me/maps")) == [
        "LICENSE.txt",
        "README.md",
        "croissant.json",
        "data/train-00000-of-00001.parquet",
        "manifest.json",
    ]


def test_private(fresh, client, built):
    assert client("publish", built / "maps", "me/maps", "--private", token=TOKEN).code == 0
    assert fresh.repositories["me/maps"]["private"]
    assert client("publish", built / "maps", "me/maps", "--private", token=TOKEN).code == 0


def test_a_public_dataset_is_not_made_private_by_publishing(fresh, client, built):
    fresh.create("me/maps")
    result = client("publish", built / "maps", "me/maps", "--private", token=TOKEN)
    assert result.code == 2
    assert "exists and is public" in result.stderr
    assert not fresh.files("me/maps")


def test_a_dataset_of_another_kind_is_left_alone(fresh, client, built):
    fresh.create("me/photos", {"data/train-00000-of-00001.parquet": b"precious", "README.md": b"---\ntags: [x]\n---\n"})
    result = client("publish", built / "maps", "me/photos", token=TOKEN)
    assert result.code == 2
    assert "holds a dataset that publish did not make" in result.stderr
    assert fresh.files("me/photos")["data/train-00000-of-00001.parquet"] == b"precious"


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "there is no Hub token"),
        ("hf_unknownToken", "does not know your token"),
        (READ_ONLY, "your token may not write me/maps"),
    ],
)
def test_tokens_that_do_not_do(fresh, client, built, token, message):
    result = client("publish", built / "maps", "me/maps", token=token)
    assert result.code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert token is None or token not in result.output
    assert "me/maps" not in fresh.repositories


def test_the_xet_way(fresh, built, tmp_path):
    """The client's own choice where hf-xet is installed: chunks go to another storage, the commit names hashes."""
    pytest.importorskip("hf_xet")
    fresh.drop("xorb")
    fresh.drop("commit")
    client = HubClient(fresh.url, tmp_path, xet=True)
    try:
        first = client("publish", built / "maps", "me/maps", token=TOKEN)
        assert first.code == 0, first.output
        assert arrived(fresh, "me/maps") == dry_run(built / "maps", "me/maps", tmp_path / "out")
        assert (fresh.requests["xorb"], fresh.requests["commit"], fresh.requests["PUT"]) == (2, 2, 0)
        assert len(fresh.cut) == 2
        again = client("publish", built / "maps", "me/maps", token=TOKEN)
        assert again.code == 0, again.output
        assert fresh.requests["xorb"] == 2
        sent = len(fresh.chunks)
        maps, pictures = shutil.copytree(built / "maps", tmp_path / "maps"), tmp_path / "pictures"
        write_pictures(pictures, [f"picture {i}" for i in range(11)])
        clip = json.loads((maps / "manifest.json").read_text())["settings"]["clip"]
        build_saliency(BuildOptions(str(pictures), maps, clip=clip, append=True), quiet=True)
        third = client("publish", maps, "me/maps", "--preview", 0, token=TOKEN)
        assert third.code == 0, third.output
        wanted = dry_run(maps, "me/maps", tmp_path / "later", preview=0)
        assert arrived(fresh, "me/maps") == wanted
        assert b"".join(fresh.chunks[sent:]) == wanted["data/train-00003-of-00004.parquet"]  # of the others, the names
        assert TOKEN not in first.output + again.output + third.output + client.printed()
    finally:
        client.close()


# the way back


@pytest.fixture
def published(fresh, built, tmp_path):
    fresh.create("me/maps", dry_run(built / "maps", "me/maps", tmp_path / "dry"))
    return fresh


def test_pretrain_and_verify_read_it_back(published, client, built, tmp_path):
    pictures = built / "pictures"
    arguments = ["pretrain", pictures, "--workers", "0", *TINY, "--out"]
    remote = client(*arguments, tmp_path / "remote", "--saliency", "me/maps", token=TOKEN)
    assert remote.code == 0, remote.output
    assert "preview" not in {path.split("/")[0] for path in published.requests}
    local = client(*arguments, tmp_path / "local", "--saliency", built / "maps")
    assert local.code == 0, local.output

    def losses(run):
        return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]

    assert losses(tmp_path / "remote") == losses(tmp_path / "local")
    config = json.loads((tmp_path / "remote" / "config.json").read_text())
    assert config["options"]["saliency"] == "me/maps"
    checked = client("verify", "me/maps", pictures, token=TOKEN)
    assert checked.code == 0, checked.output
    assert "all 14 checks passed" in checked.stdout


def snapshots(client):
    return sorted((client.log.parent / "hf" / "hub" / "datasets--me--maps" / "snapshots").iterdir())


def test_the_cache_of_the_hub_is_left_as_it_is(published, client, built, tmp_path):
    arguments = ["pretrain", built / "pictures", "--workers", "0", *TINY, "--out", tmp_path / "run"]
    assert client(*arguments, "--saliency", "me/maps", token=TOKEN).code == 0
    names = {path.name for snapshot in snapshots(client) for path in snapshot.iterdir()}
    assert names == {"data", "manifest.json"}  # neither pictures nor a copy of ours
    assert list((client.log.parent / "cache" / "saliency-mae").iterdir())


def test_offline_the_cache_is_enough_if_it_is_whole(published, client, built, monkeypatch, tmp_path):
    from huggingface_hub import constants

    assert client("verify", "me/maps", token=TOKEN).code == 0
    cache = shutil.copytree(client.log.parent / "hf" / "hub", tmp_path / "hub", symlinks=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    found = find_maps("me/maps")
    assert [path.read_bytes() for path in shard_files(found)] == [
        path.read_bytes() for path in shard_files(tmp_path / "dry")
    ]
    with pytest.raises(UserError, match=r"no folder me/others, and .* not whole in the cache: unset HF_HUB_OFFLINE"):
        find_maps("me/others")


def test_a_part_of_a_table_is_not_taken_for_the_whole(built, monkeypatch, tmp_path):
    """Or pairs without a map would be masked at random, unseen, with --on-missing random."""
    import huggingface_hub

    found = shutil.copytree(built / "maps", tmp_path / "snapshot")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(found))
    assert find_maps("me/maps") == found
    shard_files(found)[1].unlink()
    with pytest.raises(UserError, match=r"1 of 3 shards of the Hub dataset me/maps are not in the cache, .*00001"):
        find_maps("me/maps")
    (found / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"me/maps is no saliency table: it holds no manifest.json"):
        find_maps("me/maps")


def test_a_dataset_that_is_not_there(fresh, client, built):
    result = client("verify", "me/nothing", built / "pictures", token=TOKEN)
    assert result.code == 2
    assert "there is no folder me/nothing here, and no dataset of this name on the Hub" in result.stderr


def test_no_name_at_all_is_a_mistake_not_random_masks(tmp_path):
    """As a shell gives it for a variable that is not set."""
    options = PretrainOptions("shapes:4", tmp_path / "run", saliency="", batch_size=2, workers=0)
    assert settings_of(options).masking.strategy == "salient"
    with pytest.raises(UserError, match="holds no saliency maps"):
        pretrain(options, quiet=True)


def test_a_folder_is_a_folder(built, monkeypatch):
    monkeypatch.chdir(built.parent)
    relative = f"{built.name}/maps"
    assert find_maps(relative).samefile(built / "maps")
    assert find_maps(built / "maps") == built / "maps"
    for typo in (f"{built.name}/mpas", "/nowhere/maps", "a/b/c", "maps", "./me/maps"):
        assert str(find_maps(typo)) == typo.removeprefix("./")


def test_a_space_shows_the_table(fresh, client, built):
    """It arrives beside the dataset, and again in place of itself; somebody's own Space is left alone."""
    for _ in range(2):
        result = client("publish", built / "maps", "me/maps", "--space", "me/app", token=TOKEN)
        assert result.code == 0, result.output
    assert "me/app" in result.output
    files = arrived(fresh, "me/app")
    assert b'"explore", "me/maps"' in files["Dockerfile"]
    assert "pipelines/explore/page/index.html" in files
    assert "saliency_mae.py" in files
    fresh.create("me/other", {"app.py": b"mine"})
    result = client("publish", built / "maps", "me/new", "--space", "me/other", token=TOKEN)
    assert result.code == 2
    assert "holds a Space that publish did not make" in result.output
    assert "me/new" not in fresh.repositories
