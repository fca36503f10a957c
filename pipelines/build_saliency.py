"""``build-saliency``: pairs in, a maps folder out.

The shard is the unit: its file appears whole or not at all, and nothing it holds depends on another shard. So a run
that was stopped anywhere and started again, the parts of a job array, and a cluster's workers all end byte-identical
to one run on one machine. Pairs that fail are written to ``rejected/`` with their reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.build_job import BuildOptions, open_job
from pipelines.errors import UserError, user_errors
from pipelines.local_engine import build_here
from pipelines.plan import Plan, shard_name
from pipelines.progress import Progress
from pipelines.stages import Stages
from saliency.files import remove_leftovers
from saliency.manifest import Manifest, Shard, open_manifest

Engine = Callable[[Iterable[int], Path, Callable[[Shard], None], Stages, Callable[[int], None]], None]
"""(numbers of the shards to make, --out, what to do with a finished one, stages, progress in pairs)."""

_EARLY_CHECK = 1000  # pairs after which a hopeless source stops the run before its end


def build_saliency(options: BuildOptions, *, quiet: bool = False, stages: Stages | None = None) -> Manifest:
    """Make the maps of every pair of a source, or of this part's; returns the finished manifest.

    ``stages`` counts where the time goes. Raises UserError for a mistake in the options, a source without captions, an
    output folder of another run, or more rejected pairs than ``max_rejected``; whatever was written until then stays
    and is not made again.
    """
    stages = stages or Stages()
    if options.engine == "ray":
        from pipelines.ray_engine import Cluster

        with Cluster(options) as cluster:
            plan, settings = cluster.plan, cluster.settings
            manifest = _begin(options, settings, plan)
            _run(options, plan, manifest, stages, quiet, cluster.build)
    else:
        job = open_job(options)
        manifest = _begin(options, job.settings, job.plan)
        _run(options, job.plan, manifest, stages, quiet, partial(build_here, job, workers=options.workers))
    _check_rejected(manifest, options, final=True)
    return manifest


def _run(options: BuildOptions, plan: Plan, manifest: Manifest, stages: Stages, quiet: bool, engine: Engine) -> None:
    """Let an engine make the shards that are left, keeping the manifest after each; then call it complete."""
    if manifest.complete:
        return

    def keep(shard: Shard) -> None:
        manifest.add(shard)
        manifest.save(options.out)
        _check_rejected(manifest, options, final=False)

    with stages.run(), Progress(plan, manifest, stages, quiet=quiet) as progress:
        engine(plan.left({shard.file for shard in manifest.shards}), options.out, keep, stages, progress)
    if plan.count is None:
        _give_final_names(options.out, manifest)
    _remove_leftovers(options.out, plan)  # of workers that were killed
    manifest.complete = True
    manifest.save(options.out)


def _begin(options: BuildOptions, settings: dict[str, Any], plan: Plan) -> Manifest:
    """The manifest in ``--out`` to go on with, or a new one. Raises UserError if the folder is of another run."""
    with user_errors():
        manifest = open_manifest(options.out, settings, options.origin, plan.manifest)
    if not manifest.complete:
        options.out.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(options.out, plan)
        manifest.save(options.out)
    return manifest


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


def _check_rejected(manifest: Manifest, options: BuildOptions, *, final: bool) -> None:
    """UserError if more pairs were rejected than ``max_rejected``; before the end once there are enough to tell."""
    if not final and manifest.taken < _EARLY_CHECK:
        return
    if manifest.rejected > options.max_rejected * manifest.taken:
        share = manifest.rejected / manifest.taken
        raise UserError(
            f"{manifest.rejected} of {manifest.taken} pairs ({share:.1%}) were rejected, more than --max-rejected "
            f"{options.max_rejected:g}; the reasons are in {options.out / 'rejected'}, "
            f"the {manifest.written} good maps are kept: "
            "mend the source, or run the same command with a higher --max-rejected"
        )
