"""What an earlier version wrote is read, resumed and reused: maps, runs of three kinds of masks, an evaluation.

``tests/data/written_before`` was written by the first version, when all of ``pipelines`` lay in one folder, with the
commands below on a CPU; the newest checkpoints of ``gate`` and ``mlo`` were taken away.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import cli
from saliency.table.table import SaliencyTable
from tests.pipelines.pretraining import nano_runs

WRITTEN = Path(__file__).parent / "data" / "written_before"
SCENES = "shapes:12,size=32"
SMALL = ("--model", "nano", "--image-size", 16, "--batch-size", 4, "--epochs", 2, "--workers", 0, "--device", "cpu")
GATED = ("--masking", "gate", "--gate-ratio", 0.5)  # which was the default then
RUNS = {
    "salient": (SCENES, "--saliency", "maps", "--checkpoint-every", 3, "--blr", 0.05, "--warmup-epochs", 0.5),
    "gate": (SCENES, *GATED, "--checkpoint-every", 3, "--blr", 0.05, "--warmup-epochs", 0.5),
    "mlo": ("shapes:40,size=32", "--masking", "mlo", "--checkpoint-every", 4),
}
EVALUATED = (
    *("evaluate", "salient", "shapes:40,size=32", "--test", "shapes:20,size=32,split=test", "--workers", 0),
    *("--device", "cpu", "--protocol", "knn", "--protocol", "logistic", "--protocol", "linear", "--linear-epochs", 1),
    *("--protocol", "finetune", "--finetune-epochs", 1, "--protocol", "occlusion", "--recover-images", 4),
    *("--occlusion-shares", "0,0.5", "--protocol", "segment", "--seeds", "2"),
)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    shutil.copytree(WRITTEN, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    nano_runs(monkeypatch)


def invoke(*arguments):
    done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_maps_are_whole_and_what_is_built_today():
    assert "checks passed" in invoke("verify", "maps", SCENES)
    invoke("build-saliency", SCENES, "--out", "again", "--shard-size", 5, "--device", "cpu")
    before, again = SaliencyTable("maps"), SaliencyTable("again")
    rows = np.arange(12)
    assert before.keys.to_pylist() == again.keys.to_pylist()
    assert (
        np.abs(before.maps(rows).astype(int) - again.maps(rows).astype(int)).max() <= 1
    )  # another CPU may round otherwise


def test_a_build_goes_on_and_keeps_what_it_has():
    """Its files keep their bytes; the missing one is written as files are written today."""
    manifest = json.loads(Path("maps/manifest.json").read_text())
    *kept, last = [Path("maps/data", shard["file"]) for shard in manifest["shards"]]
    before = [path.read_bytes() for path in kept]
    manifest |= {"complete": False, "shards": manifest["shards"][:-1]}
    Path("maps/manifest.json").write_text(json.dumps(manifest))
    last.unlink()
    invoke("build-saliency", SCENES, "--out", "maps", "--shard-size", 5, "--device", "cpu")
    assert [path.read_bytes() for path in kept] == before
    columns = [pq.ParquetFile(path).metadata.row_group(0).column(0) for path in (kept[0], last)]
    assert [column.has_offset_index for column in columns] == [False, True]
    assert "checks passed" in invoke("verify", "maps", SCENES)


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_resumes_and_ends_as_it_did(kind):
    run = Path(kind)
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    for newest in sorted((run / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(newest)
    invoke("pretrain", *RUNS[kind], *SMALL, "--keep", 9, "--out", run, "--resume")
    resumed = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert resumed == pytest.approx(losses, rel=1e-5)


def close(one, other):
    """Equal, but for the last digits of intervals: a quantile of Student's t differs by 2e-11 with scipy."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == pytest.approx(other, rel=1e-9) if isinstance(one, float) else one == other


def test_an_evaluation_is_reused():
    before = json.loads(Path("salient/evaluation.json").read_text())
    cells = {path.name: path.stat().st_mtime_ns for path in Path("salient/evaluation.cells").iterdir()}
    invoke(*EVALUATED)
    after = {path.name: path.stat().st_mtime_ns for path in Path("salient/evaluation.cells").iterdir()}
    assert after == cells  # a new name is a new question, a new time a result that was computed again
    assert close(json.loads(Path("salient/evaluation.json").read_text()), before)
