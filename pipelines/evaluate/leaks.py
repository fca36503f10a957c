"""Test images that have a near-duplicate among the images that were trained on: the probes', and the encoder's own.

Near-duplicates are those of :mod:`pipelines.views.duplicates`. The images of both parts are hashed while their features
are computed; what no protocol has read in full is read once more, in small. The encoder's own images are read for
nothing else, so that is done on request. Built-in scenes are drawn, and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipelines.errors import UserError
from pipelines.evaluate.data import Parts, hash_part, is_hashed
from pipelines.evaluate.independent_maps import same_place, training_record
from pipelines.evaluate.options import EvaluateOptions
from pipelines.evaluate.results.cells import Cells
from pipelines.evaluate.results.outcome import Measured
from pipelines.sources.random_access import open_images, open_videos
from pipelines.views.clip_views import ClipShape
from pipelines.views.duplicates import Hashes, find_leaks
from pipelines.views.labelled import Labelled, unlabelled

_SHOWN = 2


def open_pretraining(options: EvaluateOptions, clip: ClipShape | None) -> Labelled | None:
    """What the run was pretrained on, where its images are to be compared. UserError if that is not known or not there.

    None also for built-in scenes.
    """
    if options.leaks != "pretraining":
        return None
    record = training_record(options.run)
    if record is None or "source" not in record["options"]:
        raise UserError(f"--leaks pretraining: {options.run} has no record of the images it was pretrained on")
    known = record["options"]
    wanted = replace(
        options,
        image_column=known.get("image_column"),
        caption_column=None,
        captions="first",
        limit=known.get("limit"),
        split=known.get("split"),
    )
    opened = open_images if clip is None else open_videos
    part = replace(unlabelled(opened(wanted, spec=known["source"], limit=known.get("limit"))), clip=clip)
    return part if is_hashed(part, options) else None


def leaks_of(
    options: EvaluateOptions, parts: Parts, pretraining: Labelled | None, cells: Cells, *, seed: int, quiet: bool
) -> dict[str, Any]:
    """Under ``train`` and ``pretraining`` what the test images share with each; empty where nothing is compared.

    Both have ``images`` and ``compared`` (test images with a hash), ``found``, and ``examples``: pairs of keys, the
    test image's first. A run that was pretrained on the very source that the test part is held out of has seen all
    test images: ``pretraining`` has ``held_out`` then.
    """
    if not is_hashed(parts.test, options):
        return {}
    found = {}
    if parts.train is not None and is_hashed(parts.train, options):
        train = parts.part(seed)
        decided_by = {"protocol": "leaks", **parts.decided_by(seed)}
        found["train"] = _kept(cells, decided_by) or _keep(
            cells, decided_by, _shared(train, parts.hashes("train", seed), parts.test, parts.hashes("test", 0))
        )
    if _held_out_of_pretraining(options):
        found["pretraining"] = {"held_out": True, "images": len(parts.test), "found": len(parts.test)}
    elif pretraining is not None:
        identity = {"test": parts.decided_by(seed)["test"], "pretraining": pretraining.identity()}
        decided_by = {"protocol": "leaks", **identity}
        found["pretraining"] = _kept(cells, decided_by) or _keep(
            cells,
            decided_by,
            _shared(pretraining, hash_part(pretraining, options, quiet), parts.test, parts.hashes("test", 0)),
        )
    return found


def leak_lines(result: Mapping[str, Any]) -> list[str]:
    """What a result says of leaks, in sentences; none of a result of before."""
    names = {"train": "the training images", "pretraining": "the images of the run's pretraining"}
    lines = []
    for name, told in result.get("leaks", {}).items():
        if told.get("held_out"):
            lines.append("The test images are held out of the source that the run was pretrained on: it saw them.")
            continue
        some = ", ".join(f"{test} is {other}" for test, other in told["examples"])
        lines.append(
            f"{told['found'] or 'None'} of {told['images']} test images {'has' if told['found'] < 2 else 'have'} a "
            f"near-duplicate among {names[name]}{f': {some}' if some else ''}."
        )
    return lines


def _shared(known: Labelled, known_hashes: Hashes, test: Labelled, test_hashes: Hashes) -> dict[str, Any]:
    leaks = find_leaks(known_hashes, test_hashes)
    pairs = sorted((theirs, mine) for mine, theirs in (*leaks.near, *leaks.mirrored))
    keys = [[test.source.keys[theirs].as_py(), known.source.keys[mine].as_py()] for theirs, mine in pairs[:_SHOWN]]
    compared = int((~test_hashes.flat).sum())
    return {"images": len(test), "compared": compared, "found": len(pairs), "examples": keys}


def _kept(cells: Cells, decided_by: Mapping[str, Any]) -> dict[str, Any] | None:
    known = cells.find(decided_by, Measured)
    return None if known is None else known.facts


def _keep(cells: Cells, decided_by: Mapping[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    cells.keep(decided_by, Measured({}, found))
    return found


def _held_out_of_pretraining(options: EvaluateOptions) -> bool:
    """Whether the encoder learned from all of the source whose other part it is tested on."""
    record = None if options.test is not None else training_record(options.run)
    known = {} if record is None else record["options"]
    return (
        same_place(known.get("source", ""), options.source)
        and known.get("limit") is None
        and known.get("split") == options.split
    )
