import numpy as np
import pytest

from pipelines.build_job import BuildOptions, open_job
from pipelines.errors import UserError
from pipelines.streams import StreamSource
from saliency.table import SaliencyTable
from tests.pipelines.test_build_saliency import build, write_pictures


@pytest.fixture
def pictures(tmp_path):
    return write_pictures(tmp_path / "pictures", [f"picture {i}" for i in range(10)])


@pytest.mark.parametrize("options", [{"shard": (1, 2)}, {"engine": "ray"}])
def test_a_stream_cannot_be_dealt_out(tmp_path, monkeypatch, options):
    stream = StreamSource("me/pairs", None, None, None)
    monkeypatch.setattr("pipelines.build_job.open_source", lambda *_, **__: stream)
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


def test_a_method_that_reads_the_trunk_cannot_have_it_compiled(tmp_path):
    with pytest.raises(ValueError, match="--method legrad reads the blocks that --compile compiles"):
        BuildOptions("x", tmp_path, method="legrad", compile=True)


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
