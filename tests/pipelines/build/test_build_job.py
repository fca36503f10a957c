import numpy as np
import pytest

from pipelines.build.job import BuildOptions, open_job
from pipelines.build.pairs import Pair
from pipelines.build.shards import Recipe, map_shards
from pipelines.build.stages import READ, Stages
from pipelines.errors import UserError
from pipelines.sources.hub_stream import StreamSource
from saliency.table.manifest import read_manifest
from saliency.table.table import SaliencyTable
from saliency.towers.tower import load_tower
from tests.pipelines.build.test_build_saliency import build, write_pictures


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures", [f"picture {i}" for i in range(10)])


@pytest.mark.parametrize("options", [{"shard": (1, 2)}, {"engine": "ray"}])
def test_a_stream_cannot_be_dealt_out(tmp_path, monkeypatch, options):
    stream = StreamSource("me/pairs", None, None, None)
    monkeypatch.setattr("pipelines.build.job.open_pairs", lambda *_, **__: stream)
    with pytest.raises(UserError, match="me/pairs is read as a stream.*hf download"):
        open_job(BuildOptions("me/pairs", tmp_path, **options))


def test_a_job_says_all_that_decides_its_bytes(pictures, tmp_path, tiny_clip):
    job = open_job(BuildOptions(str(pictures), tmp_path, clip=tiny_clip, shard_size=4))
    expected = {"method": "gradcam", "grid": 4, "tiles": 1, "fit": "squash", "image_size": 32, "precision": "fp32"}
    assert expected.items() <= job.settings.items()
    assert {"pairs", "pairs_sha256", "shard_size"} == job.settings.keys() - job.metadata.keys()
    assert job.plan.count == 3


def test_bf16_keeps_the_gradients_in_float32(pictures, tmp_path, tiny_clip):
    """Close to the float32 maps, not equal to them, and the table says which it is."""
    for precision in ("fp32", "bf16"):
        build(pictures, tmp_path / precision, tiny_clip, precision=precision)
    tables = [SaliencyTable(tmp_path / precision) for precision in ("fp32", "bf16")]
    rows = np.arange(10)
    full, half = (table.raw_maps(rows).reshape(10, -1) for table in tables)
    assert not np.array_equal(full, half)
    live = [i for i in rows if full[i].std() > 0 and half[i].std() > 0]
    assert len(live) > 5
    assert np.mean([np.corrcoef(full[i], half[i])[0, 1] for i in live]) > 0.98
    assert [table.metadata["precision"] for table in tables] == ["fp32", "bf16"]


@pytest.mark.parametrize("source", ["shapes:3", "shapes-video:3"])
def test_what_is_drawn_has_the_shipped_clip(tmp_path, source):
    job = open_job(BuildOptions(source, tmp_path))
    assert job.metadata["clip"] == "demo"
    assert job.metadata["pretrained"] is None


def test_a_method_that_reads_the_trunk_cannot_have_it_compiled(tmp_path):
    with pytest.raises(ValueError, match="--method legrad reads the blocks that --compile compiles"):
        BuildOptions("x", tmp_path, method="legrad", compile=True)


def test_a_machine_that_cannot_compile_says_so(pictures, tmp_path, tiny_clip, monkeypatch):
    def fails(_function):
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr("torch.compile", fails)
    with pytest.raises(UserError, match=r"--compile can't compile anything here \(no C\+\+ compiler\); leave it out"):
        build(pictures, tmp_path / "maps", tiny_clip, compile=True)
    assert not (tmp_path / "maps").exists()


@pytest.mark.slow
def test_compiled_maps_are_the_same(pictures, tmp_path, tiny_clip):
    """Also those of the last batch of a shard, which is filled up to the static shape."""
    build(pictures, tmp_path / "eager", tiny_clip, shard_size=8)
    build(pictures, tmp_path / "compiled", tiny_clip, shard_size=8, compile=True)
    eager, compiled = (SaliencyTable(tmp_path / name) for name in ("eager", "compiled"))
    rows = np.arange(10)
    assert len(compiled) == 10
    np.testing.assert_allclose(compiled.raw_maps(rows), eager.raw_maps(rows), atol=float(eager.strengths.max()) / 200)
    np.testing.assert_allclose(compiled.clip_scores, eager.clip_scores, atol=1e-5)


def test_what_is_written_when_a_run_is_stopped_is_kept(pictures, tmp_path, tiny_clip, monkeypatch):
    import pipelines.build.engines.local_engine as engine

    whole = engine.map_shards

    def stopped(*arguments):
        shards = whole(*arguments)
        yield next(shards)
        yield next(shards)
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "map_shards", stopped)
    with pytest.raises(KeyboardInterrupt):
        build(pictures, tmp_path / "maps", tiny_clip)
    manifest = read_manifest(tmp_path / "maps")
    assert [shard.file for shard in manifest.shards] == [f"train-0000{i}-of-00003.parquet" for i in range(2)]
    assert not manifest.complete


def test_pairs_that_are_not_accounted_for_stop_the_run(pictures, tmp_path, tiny_clip, monkeypatch):
    from pipelines.build.shards import ShardMaps

    monkeypatch.setattr(ShardMaps, "finish", lambda self: self)  # what is not yet collected is lost
    with pytest.raises(RuntimeError, match="shard 0 took in 4 pairs and accounts for 0"):
        build(pictures, tmp_path / "maps", tiny_clip)
    assert not list((tmp_path / "maps").glob("data/*"))


def test_many_bad_pairs_at_the_start_of_a_good_source_do_not_stop_it(pictures, tmp_path, tiny_clip, monkeypatch):
    monkeypatch.setattr("pipelines.build.maps_folder._EARLY_CHECK", 2)
    for i in range(2):
        (pictures / f"{i:03d}.png").write_bytes(b"broken")
    assert build(pictures, tmp_path / "maps", tiny_clip, max_rejected=0.2).rejected == 2
    (pictures / "002.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"3 of 4 pairs \(75.0%\).*more than --max-rejected 0.2"):
        build(pictures, tmp_path / "more", tiny_clip, max_rejected=0.2)
    assert not read_manifest(tmp_path / "more").complete


def test_a_batch_holds_as_many_windows_as_its_size():
    assert Recipe("gradcam", 4, 1, "squash", 64).images_at_once == 64
    assert Recipe("gradcam", 4, 3, "squash", 64).images_at_once == 6
    assert Recipe("gradcam", 4, 16, "squash", 64).images_at_once == 1


def test_the_time_a_stream_takes_counts_as_reading(tiny_clip):
    import time
    from concurrent.futures import ThreadPoolExecutor

    tower = load_tower(tiny_clip)
    stages = Stages()

    def slow():
        for i in range(3):
            time.sleep(0.05)
            yield 0, Pair(str(i), "a", None, False, lambda: b"no image")

    with ThreadPoolExecutor(1) as executor:
        ((_, shard),) = map_shards(slow(), tower, executor, Recipe("gradcam", 4, 1, "squash", 2), stages)
    assert len(shard.rejected) == 3
    assert stages.seconds[READ] > 0.14
    assert stages.bottleneck().startswith("reading the source")
