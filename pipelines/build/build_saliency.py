"""``build-saliency``: pairs in, a maps folder out, by a CLIP.

The shards are made here or by the workers of a Ray cluster, which give the same bytes. What is kept of them, and how a
stopped run goes on, is :mod:`pipelines.build.maps_folder`'s.
"""

from __future__ import annotations

from functools import partial

from pipelines.build.job import open_job
from pipelines.build.local_engine import build_here
from pipelines.build.maps_folder import make_maps
from pipelines.build.options import BuildOptions
from pipelines.build.stages import Stages
from pipelines.commandline.machine import half_the_cores
from pipelines.commandline.terminal import warn
from pipelines.outputs import check_apart
from saliency.table.manifest import Manifest


def build_saliency(options: BuildOptions, *, quiet: bool = False, stages: Stages | None = None) -> Manifest:
    """Make the maps of every pair of a source, or of this part's; returns the finished manifest.

    ``stages`` counts where the time goes. Raises UserError for a mistake in the options, a source without captions, an
    output folder of another run, or more rejected pairs than ``max_rejected``; whatever was written until then stays
    and is not made again.
    """
    stages = stages or Stages()
    check_apart(options.out, [options.source])
    if options.engine == "ray":
        from pipelines.build.ray_engine import Cluster

        with Cluster(options) as cluster:
            return make_maps(
                options, cluster.settings, cluster.plan, cluster.build, stages, quiet=quiet, device=options.device
            )
    job = open_job(options)
    warn([] if quiet else job.source.warnings)
    engine = partial(build_here, job, workers=options.workers or half_the_cores())
    return make_maps(options, job.settings, job.plan, engine, stages, quiet=quiet, device=options.device)
