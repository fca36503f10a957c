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

from pipelines.build.append import APPENDED, JOINING, finished_maps, join_appended
from pipelines.build.job import NOT_OF_A_MAP, open_job
from pipelines.build.local_engine import build_here
from pipelines.build.options import BuildOptions
from pipelines.build.progress import Progress
from pipelines.build.shard_plan import Plan, shard_name
from pipelines.build.stages import Stages
from pipelines.commandline.machine import half_the_cores
from pipelines.commandline.terminal import say, warn
from pipelines.errors import UserError, user_errors
from pipelines.outputs import check_apart, one_writer
from saliency.files import remove_leftovers
from saliency.table.manifest import APPEND, Manifest, Shard, compare_settings, open_manifest, read_manifest

Engine = Callable[[Iterable[int], Path, Callable[[Shard], None], Stages, Callable[[int], None]], None]
"""(numbers of the shards to make, --out, what to do with a finished one, stages, progress in pairs)."""

_EARLY_CHECK = 1000  # pairs after which a hopeless source stops the run before its end
_MOSTLY = 0.5


def build_saliency(options: BuildOptions, *, quiet: bool = False, stages: Stages | None = None) -> Manifest:
    """Make the maps of every pair of a source, or of this part's; returns the finished manifest.

    With ``append`` the pairs that finished maps lack are added to them, and the manifest is that of all.
    ``stages`` counts where the time goes. Raises UserError for a mistake in the options, a source without captions, an
    output folder of another run, or more rejected pairs than ``max_rejected``; whatever was written until then stays
    and is not made again.
    """
    stages = stages or Stages()
    check_apart(options.out, [options.source])
    if not options.append:
        return _opened(options, stages, quiet, _build)
    if not options.out.is_dir():
        raise UserError(f"{options.out} does not exist: make the maps without --append first")
    with one_writer(options.out):
        join_appended(options.out)
        finished_maps(options.out)
        return _opened(options, stages, quiet, _append)


def _opened(options: BuildOptions, stages: Stages, quiet: bool, build: Callable[..., Manifest]) -> Manifest:
    """Open the job here or on the cluster, and hand it to ``build``."""
    if options.engine == "ray":
        from pipelines.build.ray_engine import Cluster

        with Cluster(options) as cluster:
            return build(options, cluster.settings, cluster.plan, stages, quiet, cluster.build)
    job = open_job(options)
    warn([] if quiet else job.source.warnings)
    engine = partial(build_here, job, workers=options.workers or half_the_cores())
    return build(options, job.settings, job.plan, stages, quiet, engine)


def _append(
    options: BuildOptions, settings: dict[str, Any], plan: Plan, stages: Stages, quiet: bool, engine: Engine
) -> Manifest:
    """Build the pairs of the plan in a folder of their own, and put their shards behind those that are there."""
    manifest = finished_maps(options.out)
    with user_errors():
        compare_settings(options.out, _of_maps(manifest.settings), _of_maps(settings))
        begun = read_manifest(options.out / APPEND)
    if begun is not None and begun.settings != settings:
        raise UserError(
            f"{options.out / APPEND} holds an append of other pairs that is unfinished: give the source as it was "
            "then, or delete that folder"
        )
    if not plan.pairs:
        if not quiet:
            say(f"nothing to append: every pair of {options.source} has a map or was rejected before", err=True)
        return manifest
    _build(replace(options, out=options.out / APPEND, append=False), settings, plan, stages, quiet, engine)
    (options.out / APPEND).rename(options.out / JOINING)
    return join_appended(options.out) or manifest


def _of_maps(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide a map, whichever pairs there are."""
    return {name: value for name, value in settings.items() if name not in (*NOT_OF_A_MAP, APPENDED)}


def _build(
    options: BuildOptions, settings: dict[str, Any], plan: Plan, stages: Stages, quiet: bool, engine: Engine
) -> Manifest:
    with one_writer(options.out, name="" if plan.part is None else plan.manifest):
        if (options.out / JOINING).exists():
            join_appended(options.out)
        manifest = _begin(options, settings, plan)
        _run(options, plan, manifest, stages, quiet, engine)
    _check_rejected(manifest, options, plan, final=True)
    return manifest


def _run(options: BuildOptions, plan: Plan, manifest: Manifest, stages: Stages, quiet: bool, engine: Engine) -> None:
    """Let an engine make the shards that are left, keeping the manifest after each; then call it complete."""
    if manifest.complete:
        return

    def keep(shard: Shard) -> None:
        manifest.add(shard)
        manifest.save(options.out)
        _check_rejected(manifest, options, plan, final=False)

    with stages.run(), Progress(plan, manifest, stages, device=options.device, quiet=quiet) as progress:
        engine(plan.left({shard.file for shard in manifest.shards}), options.out, keep, stages, progress)
    if plan.count is None:
        _give_final_names(options.out, manifest)
    _remove_leftovers(options.out, plan)  # of workers that were killed
    manifest.complete = True
    manifest.save(options.out)


def _begin(options: BuildOptions, settings: dict[str, Any], plan: Plan) -> Manifest:
    """The manifest in ``--out`` to go on with, or a new one. Raises UserError if the folder is of another run."""
    with user_errors():
        existing = read_manifest(options.out)
        if existing is not None and APPENDED in existing.settings:
            raise UserError(f"{options.out} has pairs that were appended: give --append, or another --out")
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


def _check_rejected(manifest: Manifest, options: BuildOptions, plan: Plan, *, final: bool) -> None:
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
