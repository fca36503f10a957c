"""A maps folder that is being made, whatever makes its maps.

The shard is the unit: its file appears whole or not at all, and nothing it holds depends on another shard. So a run
that was stopped anywhere and started again, the parts of a job array, and a cluster's workers all end byte-identical
to one run on one machine. Pairs that fail are written to ``rejected/`` with their reason.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.build.progress import Progress
from pipelines.build.shard_plan import Plan, shard_name
from pipelines.build.stages import Stages
from pipelines.errors import UserError, user_errors
from pipelines.outputs import one_writer
from pipelines.sources.source import Rejected
from saliency.files import remove_leftovers, write_text_atomically
from saliency.maps import quantise
from saliency.table.manifest import Manifest, Shard, open_manifest
from saliency.table.table import Row, write_shard

Engine = Callable[[Iterable[int], Path, Callable[[Shard], None], Stages, Callable[[int], None]], None]
"""(numbers of the shards to make, --out, what to do with a finished one, stages, progress in pairs)."""

_EARLY_CHECK = 1000  # pairs after which a hopeless source stops the run before its end
_MOSTLY = 0.5


class FolderOptions(Protocol):
    """What is asked of the options of a command that makes maps."""

    @property
    def out(self) -> Path: ...  # noqa: D102
    @property
    def max_rejected(self) -> float: ...  # noqa: D102
    @property
    def origin(self) -> dict[str, Any]: ...  # noqa: D102


def make_maps(
    options: FolderOptions,
    settings: dict[str, Any],
    plan: Plan,
    engine: Engine,
    stages: Stages,
    *,
    quiet: bool,
    device: str = "cpu",
) -> Manifest:
    """Let an engine make the shards that are left of a maps folder; returns its finished manifest.

    ``settings`` decide the bytes. Raises UserError for a folder of another run, or more rejected pairs than
    ``max_rejected``; what was written until then stays.
    """
    with one_writer(options.out, name="" if plan.part is None else plan.manifest):
        manifest = _begin(options, settings, plan)
        _run(options, plan, manifest, stages, engine, quiet=quiet, device=device)
    _check_rejected(manifest, options, plan, final=True)
    return manifest


def write_maps(
    out: Path,
    name: str,
    rows: Sequence[Row],
    raw: NDArray[np.float32],
    rejected: Sequence[Rejected],
    metadata: dict[str, Any],
) -> Shard:
    """Write a shard's rejects, then its table of raw maps [n, G, G]; what the manifest is to say of them."""
    rejects = out / "rejected" / f"{Path(name).stem}.jsonl"
    if rejected:
        lines = "".join(json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in rejected)
        write_text_atomically(rejects, lines)
    else:
        rejects.unlink(missing_ok=True)  # of a stopped run whose source was mended since
    path = out / "data" / name
    write_shard(path, rows, *quantise(raw), metadata)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Shard(name, digest, len(rows) + len(rejected), len(rows), len(rejected))


def _run(
    options: FolderOptions,
    plan: Plan,
    manifest: Manifest,
    stages: Stages,
    engine: Engine,
    *,
    quiet: bool,
    device: str,
) -> None:
    """Let an engine make the shards that are left, keeping the manifest after each; then call it complete."""
    if manifest.complete:
        return

    def keep(shard: Shard) -> None:
        manifest.add(shard)
        manifest.save(options.out)
        _check_rejected(manifest, options, plan, final=False)

    with stages.run(), Progress(plan, manifest, stages, device=device, quiet=quiet) as progress:
        engine(plan.left({shard.file for shard in manifest.shards}), options.out, keep, stages, progress)
    if plan.count is None:
        _give_final_names(options.out, manifest)
    _remove_leftovers(options.out, plan)  # of workers that were killed
    manifest.complete = True
    manifest.save(options.out)


def _begin(options: FolderOptions, settings: dict[str, Any], plan: Plan) -> Manifest:
    """The manifest in ``--out`` to go on with, or a new one. Raises UserError if the folder is of another run."""
    with user_errors():
        manifest = open_manifest(options.out, settings, options.origin, plan.manifest)
    _drop_absent(options.out, manifest, plan)
    if not manifest.complete:
        options.out.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(options.out, plan)
        manifest.save(options.out)
    return manifest


def _drop_absent(out: Path, manifest: Manifest, plan: Plan) -> None:
    """Take shards whose files are gone out of the manifest, to be made again; UserError where a stream can't."""
    present = [shard for shard in manifest.shards if (out / "data" / shard.file).exists()]
    if len(present) == len(manifest.shards):
        return
    if plan.count is None and manifest.complete:
        raise UserError(f"{out} has lost {len(manifest.shards) - len(present)} of its files; give another --out")
    if plan.count is None:  # a stream is only read on: what is behind the gap is made again too
        present = present[: next(i for i, shard in enumerate(manifest.shards) if shard not in present)]
    manifest.shards, manifest.complete = present, False


def _remove_leftovers(out: Path, plan: Plan) -> None:
    """Delete what killed runs left half-written; beside a job array's other parts only what is this part's own."""
    if plan.part is None:
        remove_leftovers(out)
        return
    shards = [plan.name(number) for number in plan.own()]
    remove_leftovers(out, {plan.manifest, *shards, *(f"{Path(name).stem}.jsonl" for name in shards)})


def _give_final_names(out: Path, manifest: Manifest) -> None:
    """Rename the shards of a stream, whose number is known only at its end."""
    count = len(manifest.shards)
    for number, shard in enumerate(manifest.shards):
        final = shard_name(number, count)
        if (out / "data" / shard.file).exists():
            (out / "data" / shard.file).replace(out / "data" / final)
        manifest.shards[number] = replace(shard, file=final)


def _check_rejected(manifest: Manifest, options: FolderOptions, plan: Plan, *, final: bool) -> None:
    """UserError if more pairs were rejected than ``max_rejected``: before the end only once that is certain.

    The end of a stream is not known; it is given up where most of it is bad.
    """
    if not final and manifest.taken < _EARLY_CHECK:
        return
    allowed, total = options.max_rejected, manifest.taken
    if not final and plan.pairs is None:
        allowed = max(_MOSTLY, allowed)
    elif not final:
        total = plan.size(plan.own()) or 0
    if manifest.rejected > allowed * total:
        raise UserError(
            f"{manifest.rejected} of {manifest.taken} pairs ({manifest.rejected / manifest.taken:.1%}) were rejected, "
            f"more than --max-rejected {options.max_rejected:g}; the reasons are in {options.out / 'rejected'}, "
            f"the {manifest.written} good maps are kept: "
            "mend the source, or run the same command with a higher --max-rejected"
        )
