"""The commands as functions: keyword arguments by the command line's names in, results as objects out.

What a command can be asked for is declared in its options dataclass alone; a function here names that class.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from pipelines.api.keywords import declared_by, options_of
from pipelines.api.results import BuiltMaps, Checks, Compared, Evaluation, ExportedMaps, Published, Run
from pipelines.build.build_saliency import build_saliency as build
from pipelines.build.options import BuildOptions
from pipelines.compare.compare import compare as run_all
from pipelines.compare.compare import dry_run as look
from pipelines.compare.forecast import forecast
from pipelines.compare.options import CompareOptions
from pipelines.compare.plan import asked_plan, plan_from
from pipelines.diff.diff import diff as compare_maps
from pipelines.diff.difference import MapDifference
from pipelines.diff.options import DiffOptions
from pipelines.errors import user_errors
from pipelines.evaluate.evaluate import evaluate as measure
from pipelines.evaluate.options import EvaluateOptions
from pipelines.export_maps.export_maps import export_maps as write_files
from pipelines.export_maps.options import ExportMapsOptions
from pipelines.import_maps.import_maps import import_maps as take_in
from pipelines.import_maps.options import ImportOptions
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.pretrain import pretrain as train
from pipelines.publish.options import PublishOptions
from pipelines.publish.publish import publish as upload
from pipelines.report.run_report import refresh_report, write_report
from pipelines.verify.options import VerifyOptions
from pipelines.verify.verify import verify as check

Place: TypeAlias = str | os.PathLike[str]
"""A folder or file, a source such as ``shapes:64``, a Hub id, or a result that is a folder."""


@declared_by(BuildOptions)
def build_saliency(source: Place, out: Place, *, quiet: bool = False, **options: Any) -> BuiltMaps:
    """Make the saliency maps of a source's image–caption pairs: ``mae-cli build-saliency``.

    The same call goes on where a stopped one was, and does nothing where all is done. ``quiet`` hides the progress bar.
    Raises UserError for a mistake, or for more bad pairs than ``max_rejected``.

    >>> maps = sm.build_saliency("shapes:16", out="maps", quiet=True)
    >>> maps.manifest.taken, maps.manifest.written
    (16, 16)
    """
    asked = options_of(BuildOptions, {"source": source, "out": out} | options)
    return BuiltMaps(asked.out, build(asked, quiet=quiet))


@declared_by(ImportOptions)
def import_maps(source: Place, maps_from: Place, out: Place, *, quiet: bool = False, **options: Any) -> BuiltMaps:
    """Make a maps folder of maps that are there: true masks, files, fixations, tables. ``mae-cli import-maps``.

    ``maps_from`` is ``masks``, for those of the source, or a folder or file. The same call goes on where a stopped one
    was. Raises UserError for a mistake, or for more bad pairs than ``max_rejected``.

    >>> oracle = sm.import_maps("shapes:16", "masks", out="oracle", quiet=True)
    >>> oracle.open()[0].map.shape
    (28, 28)
    """
    asked = options_of(ImportOptions, {"source": source, "maps_from": maps_from, "out": out} | options)
    return BuiltMaps(asked.out, take_in(asked, quiet=quiet))


@declared_by(ExportMapsOptions)
def export_maps(maps: Place, out: Place, *, quiet: bool = False, **options: Any) -> ExportedMaps:
    """Write every map as a file of its own, a grey ``png`` or an ``npy`` array [G, G]: ``mae-cli export-maps``.

    Raises UserError for what is no finished maps folder, or an ``out`` that is not new.

    >>> print(sm.export_maps("oracle", out="exported", to="npy", quiet=True))
    16 maps in exported
    """
    asked = options_of(ExportMapsOptions, {"maps": maps, "out": out} | options)
    return ExportedMaps(asked.out, write_files(asked, quiet=quiet))


@declared_by(VerifyOptions)
def verify(maps: Place, source: Place | None = None, *, quiet: bool = False, **options: Any) -> Checks:
    """Check that a maps folder is whole and, with a ``source``, that it belongs to its images: ``mae-cli verify``.

    A check that fails is in the result, not an error. Raises UserError if there is nothing to check.

    >>> sm.verify("maps", "shapes:16", quiet=True).passed
    True
    """
    asked = options_of(VerifyOptions, {"maps": maps, "source": source} | options)
    return Checks(tuple(check(asked, quiet=quiet)))


@declared_by(DiffOptions)
def diff(before: Place, after: Place, *, quiet: bool = False, **options: Any) -> MapDifference:
    """Compare two tables of maps, pair by pair: ``mae-cli diff``.

    Raises UserError if one is no finished table, or if their grids differ.

    >>> found = sm.diff("maps", "maps", quiet=True)
    >>> found.came, found.went, found.same, found.agreement["correlation"].mean
    (0, 0, 16, 1.0)
    """
    return compare_maps(options_of(DiffOptions, {"before": before, "after": after} | options), quiet=quiet)


@declared_by(PublishOptions)
def publish(maps: Place, name: str, *, quiet: bool = False, **options: Any) -> Published:
    """Publish maps as a dataset on the Hub, or with ``dry_run=FOLDER`` write it there: ``mae-cli publish``.

    Raises UserError for maps that are not whole, and for whatever the Hub refuses.

    >>> sm.publish("maps", "me/shapes-saliency", dry_run="dataset", quiet=True).facts["maps"]
    16
    """
    return Published(upload(options_of(PublishOptions, {"maps": maps, "name": name} | options), quiet=quiet))


@declared_by(PretrainOptions)
def pretrain(source: Place, out: Place, *, quiet: bool = False, **options: Any) -> Run:
    """Pretrain a masked autoencoder: ``mae-cli pretrain``. Under ``torchrun`` all processes call it.

    With ``workers`` above 0 other processes decode images: in a script, where Python starts processes by importing the
    script again (macOS, Windows), call it under ``if __name__ == "__main__"``. ``resume=True`` goes on with the run
    in ``out``. Raises UserError for a mistake in options or images.

    >>> small = {"model": "mini", "image_size": 48, "batch_size": 16, "epochs": 1, "workers": 0}
    >>> run = sm.pretrain("shapes:32", out="run", saliency="maps", on_missing="random", quiet=True, **small)
    >>> run.metrics()[-1]["step"]
    2
    """
    asked = options_of(PretrainOptions, {"source": source, "out": out} | options)
    return Run(write_report(train(asked, quiet=quiet)).parent)


@declared_by(EvaluateOptions)
def evaluate(run: Place, source: Place, *, quiet: bool = False, **options: Any) -> Evaluation:
    """Judge an encoder on a labelled source, beside the same one untrained: ``mae-cli evaluate``.

    ``protocol`` and ``protocols`` are the same: a name or a list of them. Raises UserError for a mistake.

    >>> found = sm.evaluate(run, "shapes:64", protocol="knn", neighbours=5, workers=0, quiet=True)
    >>> [row["encoder"] for row in found.rows]
    ['run', 'untrained']
    """
    asked = options_of(EvaluateOptions, {"run": run, "source": source} | options)
    found = Evaluation(measure(asked, quiet=quiet))
    if asked.file is not None:
        refresh_report(asked.file.parent)
    return found


@declared_by(CompareOptions)
def compare(what: Place | Mapping[str, Any], out: Place, *, quiet: bool = False, **options: Any) -> Compared:
    """Pretrain with several maskings at several seeds, judge all, and say what differs: ``mae-cli compare``.

    ``what`` is a plan (a YAML file, or a dict of the same form, docs/guide/comparing.md) or the source of the images.
    Runs that fail are in ``comparison.failed``. Raises UserError for a mistake in the plan.

    >>> plan = {"source": "shapes:32", "arms": ["random", "block"], "seeds": 1, "pretrain": small}
    >>> sm.compare(plan, out="comparison", dry_run=True).states
    {'random, seed 0': 'new', 'block, seed 0': 'new'}
    """
    place = "a dict" if isinstance(what, Mapping) else what
    asked = options_of(CompareOptions, {"what": place, "out": out} | options)
    if isinstance(what, Mapping):
        with user_errors():
            plan = plan_from(dict(what)).narrowed(asked)
    else:
        plan = asked_plan(asked)
    machine: dict[str, Any] = {"jobs": asked.jobs, "device": asked.device, "workers": asked.workers}
    if asked.dry_run:
        states = look(plan, asked.out, **machine)
        return Compared(
            asked.out, None, {unit.name: state for unit, state in states}, facts=forecast(states, asked.jobs)
        )
    return Compared(asked.out, run_all(plan, asked.out, **machine, quiet=quiet), {})
