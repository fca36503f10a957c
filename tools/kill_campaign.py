"""Kill every command that writes, at random moments, and see that the same command then ends as if nothing had been.

    python tools/kill_campaign.py                     100 kills of each command
    python tools/kill_campaign.py --kills 3 --only prepare,pretrain

It prints a table in Markdown, then what did not hold, and exits with 1 if anything did not. What is compared, and
what is left out, is in ``tools/killed_runs.py``. The models and images are the tests' own, so that a run takes about a
second. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}

from tools.killed_runs import Outcome, Scenario, campaign  # noqa: E402

NANO = [
    "--model",
    "nano",
    "--image-size",
    "16",
    "--batch-size",
    "4",
    "--blr",
    "0.05",
    "--warmup-epochs",
    "0.5",
    "--device",
    "cpu",
]
BUILD = ["--max-rejected", "0.1", "--shard-size", "4", "--batch-size", "4", "--device", "cpu", "--workers", "2"]
RAY = [
    "--max-rejected",
    "0.1",
    "--engine",
    "ray",
    "--ray-workers",
    "2",
    "--shard-size",
    "4",
    "--batch-size",
    "4",
    "--device",
    "cpu",
    "--workers",
    "1",
]
TRAIN = ["--checkpoint-every", "2", "--epochs", "3"]
PREPARE = ["--size", "16", "--shard-size", "4", "--max-rejected", "0.1"]
BOX = ["--box", "0.2,0.2,0.6,0.6", "--device", "cpu", "--out", "out"]


def scenarios(inputs: Path) -> list[Scenario]:
    """All that is killed; ``inputs`` is the folder of :func:`make_inputs`."""
    pictures, clip, maps = str(inputs / "pictures"), f"local-dir:{inputs / 'clip'}", str(inputs / "maps")
    build = ["build-saliency", pictures, "--out", "out", "--clip", clip]
    pretrain = ["pretrain", "shapes:24,size=32", "--saliency", maps, "--out", "out", *NANO, *TRAIN]
    run, reconstruct = str(inputs / "run"), ("reconstruct", str(inputs / "run"))
    evaluate = ["evaluate", run, "shapes:30,split=probe,objects=1,size=32"]
    evaluate += ["--pool", "mean", "--device", "cpu", "--workers", "0", "--out", "out/evaluation.json"]
    compare = ["compare", str(inputs / "plan.yaml"), "--out", "out", "--device", "cpu", "--workers", "0"]
    program = (sys.executable, str(Path(__file__).resolve()), "--here")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program[1:])
    trained, trained_by_workers = ((*pretrain, "--workers", "0"),), ((*pretrain, "--workers", "2"),)
    again, term = ("--resume",), signal.SIGTERM
    return [
        Scenario("build-saliency", ((*build, *BUILD),)),
        Scenario(
            "build-saliency --shard, merge",
            (*((*build, *BUILD, "--shard", f"{part}/2") for part in (1, 2)), ("merge", "out")),
        ),
        Scenario("build-saliency --append", ((*build, *BUILD, "--limit", "12"), (*build, *BUILD, "--append"))),
        Scenario("build-saliency --engine ray", ((*build, *RAY),), program=program),
        Scenario(
            "import-maps, export-maps",
            (
                ("import-maps", "shapes:24,size=32", "--from", "masks", "--out", "out", "--shard-size", "4"),
                ("export-maps", "out", "--to", "png", "--out", "files"),
            ),
            done="is not an empty folder",
        ),
        Scenario("prepare", (("prepare", pictures, "--out", "out", *PREPARE),)),
        Scenario("pretrain", trained, again),
        Scenario("pretrain --workers 2", trained_by_workers, again),
        Scenario("pretrain, 2 processes", trained, again, processes=2),
        Scenario("pretrain, torchrun", trained, again, processes=2, program=torchrun),
        Scenario("pretrain, SIGTERM", trained, again, number=term),
        Scenario("pretrain --workers 2, SIGTERM", trained_by_workers, again, number=term),
        Scenario("pretrain --workers 2, SIGUSR1", trained_by_workers, again, number=signal.SIGUSR1),
        Scenario("pretrain, 2 processes, SIGTERM", trained, again, processes=2, number=term),
        Scenario("pretrain, torchrun, SIGTERM", trained, again, processes=2, program=torchrun, number=term),
        Scenario("evaluate", ((*evaluate, "--protocol", "knn", "--protocol", "linear", "--linear-epochs", "6"),)),
        Scenario("compare", (tuple(compare),)),
        Scenario("compare --jobs 2", ((*compare, "--jobs", "2"),), program=program),
        Scenario("compare, SIGTERM", (tuple(compare),), number=term),
        Scenario("reconstruct a video", ((*reconstruct, str(inputs / "clip.mkv"), *BOX),)),
        Scenario("reconstruct", ((*reconstruct, pictures, *BOX),)),
        Scenario("encode", (("encode", run, pictures, "--device", "cpu", "--out", "out/features.parquet"),)),
        Scenario("export", (("export", run, "--to", "timm", "--out", "out"),), done="is not an empty folder"),
    ]  # fmt: skip


def make_inputs(folder: Path) -> None:
    """Pictures with captions, a video, a CLIP, maps, a finished run and a plan of a comparison, all tiny."""
    import numpy as np
    import yaml
    from PIL import Image

    from pipelines.sources.open_source import open_source
    from tests.pipelines.video_files import write_video
    from tests.tiny_clip import save_tiny_clip
    from tests.tiny_mae import write_maps

    drawn = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True)
    for number in range(48):
        name = folder / "pictures" / f"{number:03d}"
        Image.fromarray(drawn.integers(0, 256, (40, 48, 3), np.uint8)).save(name.with_suffix(".png"))
        name.with_suffix(".txt").write_text(f"picture {number % 7}")
    (folder / "pictures" / "007.png").write_bytes(b"broken")
    write_video(folder / "clip.mkv", drawn.integers(0, 256, (40, 36, 48, 3), np.uint8))
    (folder / "clip").mkdir()
    save_tiny_clip(folder / "clip")
    write_maps(folder / "maps", open_source("shapes:24,size=32"))
    run_here(["pretrain", "shapes:24,size=32", "--out", str(folder / "run"), *NANO, "--workers", "0", "--epochs", "1"])
    settings = {"model": "nano", "image_size": 16, "batch_size": 8, "epochs": 2, "blr": 0.05, "warmup_epochs": 0.5}
    plan = {
        "source": "shapes:24,size=32",
        "saliency": str(folder / "maps"),
        "seeds": [0, 3],
        "pretrain": settings | {"checkpoint_every": 2},
        "evaluate": {"source": "shapes:30,split=probe,objects=1,size=32", "protocols": ["knn"], "pool": "mean"},
        "arms": {"random": None, "image": {"masking": "salient", "salient_ratio": 0.5}},
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))


def run_here(words: list[str]) -> int:
    """The command line in this process, with the size ``nano`` of the tests; its exit code."""
    import cli

    try:
        cli.main(words)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 0


def import_all() -> None:
    """Import what the commands do, and let runs have the size ``nano``. Starts no thread."""
    import pytest
    import torch

    torch.set_num_threads(1)
    import importlib

    import av  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import open_clip  # noqa: F401
    import timm  # noqa: F401

    for path in sorted((ROOT / "pipelines").glob("*/*.py")):
        if path.stem not in ("__init__", "ray_engine"):
            importlib.import_module(f"pipelines.{path.parent.name}.{path.stem}")
    from mae.training.flops import peak_flops

    peak_flops("cpu", "fp32")  # measured once, not in every run
    from tests.pipelines.pretraining import DRAWS, nano_runs

    patch = pytest.MonkeyPatch()
    nano_runs(patch)
    for task, draw in DRAWS.items():
        patch.setattr(task, "draw", draw)


def in_a_fork(work: Callable[[], object]) -> None:
    """Do something in a process of its own, which may start threads."""
    if (process := os.fork()) == 0:
        try:
            work()
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(process, 0)[1]:
        raise SystemExit("the inputs can't be made")


def table(found: list[Outcome]) -> str:
    """Markdown."""
    rows = [
        f"| {each.name} | {each.kills} | {each.reruns} | {each.chains} | {each.whole:.2f} | {each.seconds:.0f} | "
        f"{len(each.faults)} |"
        for each in found
    ]
    head = ["| command | kills | reruns | compared | seconds undisturbed | seconds | faults |", "|---" * 7 + "|"]
    return "\n".join([*head, *rows])


def main() -> int:
    """Run the campaign that is asked for."""
    if sys.argv[1:2] == ["--here"]:
        import_all()
        return run_here(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each command")
    parser.add_argument("--only", default="", help="names of commands, with commas between them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=900, help="seconds for each command")
    parser.add_argument("--place", type=Path, help="a folder for the runs; those that failed stay in it")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    place = (given.place or Path(tempfile.mkdtemp(prefix="kills-"))).resolve()
    import_all()
    inputs = place / "inputs"
    shutil.rmtree(inputs, ignore_errors=True)
    in_a_fork(lambda: make_inputs(inputs))
    wanted = [name.strip() for name in given.only.split(",") if name.strip()]
    found = []
    for scenario in scenarios(inputs):
        if wanted and scenario.name.replace(",", "") not in wanted:
            continue
        folder = place / "".join(letter if letter.isalnum() else "-" for letter in scenario.name)
        outcome = campaign(scenario, folder, run_here, kills=given.kills, seed=given.seed, limit=given.limit)
        found.append(outcome)
        print(table([outcome]).splitlines()[-1], *outcome.faults, sep="\n  ", flush=True)
    print(table(found))
    if given.json:
        given.json.write_text(json.dumps([vars(each) for each in found], indent=1))
    if not given.place:
        shutil.rmtree(place)
    return int(any(each.faults for each in found))


if __name__ == "__main__":
    sys.exit(main())
