"""A local Ray of two workers: the same bytes as the local engine's, also when a worker is killed half-way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.build.engines.ray_engine import ShardWorker, share_out
from pipelines.build.job import BuildOptions
from pipelines.errors import UserError
from saliency.table.manifest import read_manifest
from saliency.table.table import shard_files
from tests.pipelines.build.test_build_saliency import ROOT, build, tree, write_pictures

pytest.importorskip("ray")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def start(source, out, clip, *more):
    arguments = ["build-saliency", source, "--out", out, "--clip", clip, "--shard-size", 8, "--batch-size", 4]
    arguments += ["--engine", "ray", "--ray-workers", 2, *more]
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *map(str, arguments)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def workers_of(process):
    """The processes of the cluster's workers that descend from ``process``."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(folder.name)] = (folder / "cmdline").read_text()
        except (OSError, ValueError):
            continue

    def descends(pid):
        while pid in parents:
            if pid == process.pid:
                return True
            pid = parents[pid]
        return False

    return [pid for pid, name in names.items() if name.startswith("ray::ShardWorker") and descends(pid)]


@pytest.fixture
def pictures(tmp_path):
    folder = write_pictures(tmp_path / "pictures", [f"picture {i % 7}" for i in range(160)], size=(500, 500))
    (folder / "033.png").write_bytes(b"broken")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the workers in /proc")
def test_a_worker_killed_half_way_changes_nothing(pictures, tmp_path, tiny_clip):
    build(pictures, tmp_path / "local", tiny_clip, shard_size=8, batch_size=4)
    running = start(pictures, tmp_path / "ray", tiny_clip, "--report")
    deadline = time.monotonic() + 120
    while len(shard_files(tmp_path / "ray")) < 3 and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    workers = workers_of(running)
    made = len(shard_files(tmp_path / "ray"))
    assert len(workers) == 2, running.communicate()
    os.kill(workers[0], signal.SIGKILL)
    output, errors = running.communicate(timeout=180)
    assert running.returncode == 0, errors
    assert made < 20, "the run was over before its worker was killed"
    assert "160 pairs: 159 maps" in output
    assert "bottleneck" in output
    manifest = read_manifest(tmp_path / "ray")
    assert (manifest.taken, manifest.written, manifest.rejected) == (160, 159, 1)
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


@pytest.mark.slow
def test_a_mistake_on_a_worker_is_one_line(tmp_path, tiny_clip):
    running = start(tmp_path / "nowhere", tmp_path / "maps", tiny_clip)
    _, errors = running.communicate(timeout=180)
    assert running.returncode == 2
    assert errors.splitlines()[-1].startswith("error: ")
    assert "nowhere does not exist" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "maps").exists()


def test_ray_deals_out_the_shards_itself(tmp_path):
    with pytest.raises(ValueError, match="--shard is for job arrays"):
        BuildOptions("x", tmp_path, engine="ray", shard=(1, 2))
    with pytest.raises(ValueError, match="--engine 'spark' is not one of: local, ray"):
        BuildOptions("x", tmp_path, engine="spark")
    with pytest.raises(ValueError, match="--ray-workers is 0"):
        BuildOptions("x", tmp_path, engine="ray", ray_workers=0)


@pytest.mark.parametrize(
    ("nodes", "wanted", "device", "expected"),
    [
        ([{"CPU": 2.0}], None, "auto", (1, 2, False)),
        ([{"CPU": 16.0}], None, "auto", (4, 4, False)),
        ([{"CPU": 6.0}, {"CPU": 6.0}], None, "auto", (2, 4, False)),  # not 12 // 4: a worker lives on one machine
        ([{"CPU": 6.0}, {"CPU": 6.0}], 4, "auto", (4, 3, False)),
        ([{"CPU": 2.0}], 2, "auto", (2, 1, False)),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}], None, "auto", (2, 4, True)),
        ([{"CPU": 8.0, "GPU": 2.0}], 1, "cuda", (1, 4, True)),
        ([{"CPU": 8.0, "GPU": 2.0}], None, "cpu", (2, 4, False)),
    ],
)
def test_workers_fit_their_machines(nodes, wanted, device, expected):
    room = share_out(nodes, wanted, device)
    assert (room.workers, room.cores, room.gpus) == expected


@pytest.mark.parametrize(
    ("nodes", "wanted", "device", "message"),
    [
        ([{"CPU": 2.0}], 3, "auto", "--ray-workers 3: the cluster has room for 2"),
        ([{"CPU": 8.0, "GPU": 1.0}], 2, "auto", "--ray-workers 2: the cluster has room for 1"),
        ([{"CPU": 8.0}], None, "cuda", "--device cuda: the cluster has no GPUs"),
    ],
)
def test_workers_that_do_not_fit_are_refused(nodes, wanted, device, message):
    with pytest.raises(UserError, match=message):
        share_out(nodes, wanted, device)


def test_a_worker_that_starts_again_on_other_data_makes_nothing(tmp_path, tiny_clip, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a worker goes to the driver's folder; here it is given back
    folder = write_pictures(tmp_path / "pictures", [f"picture {i}" for i in range(10)])
    options = BuildOptions(str(folder), tmp_path / "maps", clip=tiny_clip, shard_size=4, batch_size=2)
    _, settings = ShardWorker(options, 1, str(tmp_path)).describe()
    made, _ = ShardWorker(options, 1, str(tmp_path)).build(1, tmp_path / "maps", settings)
    assert (made.file, made.taken) == ("train-00001-of-00003.parquet", 4)
    (folder / "metadata.jsonl").write_text((folder / "metadata.jsonl").read_text().replace("picture 0", "changed"))
    with pytest.raises(UserError, match="do not agree on pairs_sha256"):
        ShardWorker(options, 1, str(tmp_path)).build(2, tmp_path / "maps", settings)
    assert [path.name for path in shard_files(tmp_path / "maps")] == [made.file]
