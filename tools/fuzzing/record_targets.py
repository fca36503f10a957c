"""Manifests, maps, runs and plans as inputs, and what is held of their readers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.compare.plan import read_plan
from pipelines.evaluate.independent_maps import training_record
from pipelines.inspect.run import describe_run
from pipelines.run_folder import RunFolder
from pipelines.sources.prepared_folder import check_prepared
from saliency.table.checks import check_table, rejected_pairs
from saliency.table.manifest import compare_settings, read_manifest
from saliency.table.table import SaliencyTable
from tools.fuzzing.worker import ROOT, Lost, each_in_turn

_WRITTEN = ROOT / "tests" / "data" / "written_before"


def manifests() -> list[bytes]:
    """A manifest of maps, whole and unfinished."""
    whole = (_WRITTEN / "maps" / "manifest.json").read_bytes()
    return [whole, json.dumps(json.loads(whole) | {"complete": False, "shards": []}).encode()]


def prepared() -> list[bytes]:
    """The manifest of a prepared folder."""
    content = json.loads((_WRITTEN / "maps" / "manifest.json").read_bytes())
    for shard in content["shards"]:
        shard |= {"images": 3, "kept": 1, "bytes_in": 10, "bytes_out": 5, "file": "a.png"}
    return [json.dumps(content | {"shards": content["shards"][:1]}).encode()]


def read_prepared(data: bytes, folder: Path) -> None:
    """A prepared folder, whose only file is there."""
    (folder / "a.png").write_bytes(b"")
    (folder / "prepared.json").write_bytes(data)
    check_prepared(folder)


def read_manifests(data: bytes, folder: Path) -> None:
    """A manifest alone, then before its maps."""
    (folder / "manifest.json").write_bytes(data)
    readers = (lambda: _read_manifest(folder), lambda: check_table(folder))
    each_in_turn(*readers, accepted=(ValueError,))


def _read_manifest(folder: Path) -> None:
    manifest = read_manifest(folder)
    if manifest is None or manifest.taken != manifest.written + manifest.rejected:
        raise Lost("the counts do not add up")
    compare_settings(folder, manifest.settings, json.loads(json.dumps(manifest.settings)))


def maps() -> list[bytes]:
    """Shards that earlier versions wrote, plain and compressed."""
    shards = sorted((_WRITTEN / "maps" / "data").iterdir())
    found = [path.read_bytes() for path in shards]
    plain = pa.BufferOutputStream()
    pq.write_table(pq.read_table(shards[0]), plain, compression="none")
    return [*found, plain.getvalue().to_pybytes()]


def read_maps(data: bytes, folder: Path) -> None:
    """A maps folder of one shard, as a training reads it and as ``verify`` does: all rows, or a reason."""
    path = folder / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir(exist_ok=True)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    path.write_bytes(data)
    check_table(folder)
    table = SaliencyTable(folder)
    if len(table) != pq.read_metadata(path).num_rows:
        raise Lost(f"{len(table)} maps of {pq.read_metadata(path).num_rows} rows")
    if len(table):
        table.join(table.keys.combine_chunks(), table.captions.combine_chunks())
        table.raw_maps(np.arange(len(table)))


def rejects() -> list[bytes]:
    """Rejected pairs as a build writes them."""
    return [
        b"".join(
            json.dumps({"key": f"k{i}", "caption": "x", "reason": "bad", "url": None}).encode() + b"\n"
            for i in range(3)
        )
    ]


def read_rejects(data: bytes, folder: Path) -> None:
    """``rejected/`` of a maps folder: at most a pair a line."""
    path = folder / "rejected" / "train-00000.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    pairs = rejected_pairs(folder)
    if len(pairs) > len(data.split(b"\n")):
        raise Lost(f"{len(pairs)} pairs of {len(data.splitlines())} lines")


def configs() -> list[bytes]:
    """``config.json`` of runs."""
    return [(_WRITTEN / run / "config.json").read_bytes() for run in ("salient", "gate", "mlo")]


def read_config(data: bytes, folder: Path) -> None:
    """The settings of a run, as resuming, judging and looking at it read them."""
    (folder / "config.json").write_bytes(data)
    training_record(str(folder))
    run = RunFolder(folder)
    config = run.config()
    describe_run(run)
    run.begin(config, resume=True)


def metrics() -> list[bytes]:
    """``metrics.jsonl`` of runs."""
    return [(_WRITTEN / run / "metrics.jsonl").read_bytes() for run in ("salient", "gate", "mlo")]


def read_metrics(data: bytes, folder: Path) -> None:
    """The steps of a run: those of whole lines are all there."""
    (folder / "metrics.jsonl").write_bytes(data)
    run = RunFolder(folder)
    found = run.metrics()
    run.rewind(2)
    if len(run.metrics()) > len(found):
        raise Lost("rewinding added lines")


_PLAN = b"""source: shapes:100
saliency: maps
baseline: random
seeds: [0, 1]
pretrain: {model: tiny, epochs: 2, batch_size: 16, blr: 1.5e-4}
evaluate: {source: shapes:100, protocols: [linear]}
arms:
  random:
  salient: {masking: salient, mask_ratio: 0.75}
  other:
    masking: random
    saliency_weight: 0.5
"""


def plans() -> list[bytes]:
    """Plans of comparisons."""
    return [
        _PLAN,
        b"source: shapes:9\narms: [random, salient]\nsaliency: maps\nseeds: 2\n",
        b"a: &a [x, x]\nb: [*a, *a]\n",
        b"{}",
    ]


def read_plans(data: bytes, folder: Path) -> None:
    """A plan, and what every arm asks for."""
    path = folder / "plan.yaml"
    path.write_bytes(data)
    plan = read_plan(path)
    for arm in plan.arms:
        plan.pretrain_options(arm, plan.seeds[0], folder / "out")
    plan.evaluate_options(plan.seeds[0], folder / "out")
