"""``build-saliency``: pairs in, a maps folder out, by a CLIP.

The shards are made here or by the workers of a Ray cluster, which give the same bytes. What is kept of them, and how a
stopped run goes on, is :mod:`pipelines.build.maps_folder`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from pipelines.build.append import APPENDED, JOINING, finished_maps, join_appended
from pipelines.build.engines.local_engine import build_here
from pipelines.build.job import open_job
from pipelines.build.maps_folder import Engine, make_maps
from pipelines.build.motion import open_motion
from pipelines.build.options import BuildOptions
from pipelines.build.shard_plan import NOT_OF_A_MAP, Plan
from pipelines.build.stages import Stages
from pipelines.commandline.machine import half_the_cores
from pipelines.commandline.terminal import say, warn
from pipelines.errors import UserError, user_errors
from pipelines.outputs import check_apart, one_writer
from saliency.table.manifest import APPEND, Manifest, compare_settings, read_manifest


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
    if options.shows_motion:
        motion = open_motion(options)
        warn([] if quiet else motion.source.warnings)
        manifest = build(options, motion.settings, motion.plan, motion.engine(), stages, quiet)
        if not quiet:
            motion.warn_of_encoded()
        return manifest
    if options.engine == "ray":
        from pipelines.build.engines.ray_engine import Cluster

        with Cluster(options) as cluster:
            return build(options, cluster.settings, cluster.plan, cluster.build, stages, quiet)
    job = open_job(options)
    warn([] if quiet else job.source.warnings)
    engine = partial(build_here, job, workers=options.workers or half_the_cores())
    return build(options, job.settings, job.plan, engine, stages, quiet)


def _build(
    options: BuildOptions, settings: dict[str, Any], plan: Plan, engine: Engine, stages: Stages, quiet: bool
) -> Manifest:
    if (options.out / JOINING).exists():
        with one_writer(options.out):
            join_appended(options.out)
    with user_errors():
        existing = read_manifest(options.out)
    if existing is not None and APPENDED in existing.settings:
        raise UserError(f"{options.out} has pairs that were appended: give --append, or another --out")
    return make_maps(options, settings, plan, engine, stages, quiet=quiet, device=options.device)


def _append(
    options: BuildOptions, settings: dict[str, Any], plan: Plan, engine: Engine, stages: Stages, quiet: bool
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
    _build(replace(options, out=options.out / APPEND, append=False), settings, plan, engine, stages, quiet)
    (options.out / APPEND).rename(options.out / JOINING)
    return join_appended(options.out) or manifest


def _of_maps(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide a map, whichever pairs there are."""
    return {name: value for name, value in settings.items() if name not in (*NOT_OF_A_MAP, APPENDED)}
