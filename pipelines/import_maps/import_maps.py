"""``import-maps``: masks, files, fixations or another tool's maps in, a maps folder out.

The pairs are those of the source, and each has a map or a reason why it has none. Maps are brought onto the grid by the
mean over each cell. The folder is as ``build-saliency`` makes it, with the same promises.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.build.maps_folder import make_maps, write_maps
from pipelines.build.shard_plan import Plan
from pipelines.build.stages import Stages
from pipelines.commandline.machine import half_the_cores
from pipelines.commandline.terminal import warn
from pipelines.import_maps.options import ImportOptions
from pipelines.import_maps.reader import Reader
from pipelines.outputs import check_apart
from pipelines.prefetch import prefetch
from pipelines.sources.images import BadImage, decode_sized
from pipelines.sources.random_access import open_images
from pipelines.sources.source import Rejected, Source, hash_pairs
from saliency import __version__
from saliency.files import write_text_atomically
from saliency.table.imported import NO_CLIP, NO_SCORE, method_of
from saliency.table.manifest import Manifest, Shard
from saliency.table.shard import SCHEMA_VERSION
from saliency.table.table import Row

UNMATCHED = "unmatched.jsonl"
"""The file in a maps folder that lists the maps of no pair of the source."""

_DRAFT = 64  # pixels that an image is decoded at, to see that it is whole

Imported = tuple[Row, NDArray[np.float32]]
"""A pair's row and its raw map [G, G]."""


def import_maps(options: ImportOptions, *, quiet: bool = False) -> Manifest:
    """Make a maps folder of maps that are there; returns its finished manifest.

    Raises UserError for a mistake in the options, maps that can't be opened or fit no image, an output folder of
    another run, or more rejected pairs than ``max_rejected``; whatever was written until then stays.
    """
    kind = options.kind
    check_apart(options.out, [options.source, None if kind.own else options.place])
    source = open_images(options)
    reader = kind.open(options, source)
    warn([] if quiet else [*source.warnings, *reader.warnings])
    metadata = {
        "schema_version": SCHEMA_VERSION,
        "grid": options.grid,
        "clip": NO_CLIP,
        "method": method_of(kind.name),
        "imported_from": options.place.name or ".",
        "package_version": __version__,
        **{name: value for name, value in reader.facts.items() if value is not None},
        **({"made_by": options.made_by} if options.made_by else {}),
    }
    pairs = {"pairs": len(source), "pairs_sha256": hash_pairs(source), "shard_size": options.shard_size}
    plan = Plan(len(source), options.shard_size)
    engine = partial(_import_here, source, reader, plan, metadata, options.workers or half_the_cores())
    unmatched = [] if options.limit is not None else list(reader.unmatched)
    if unmatched and not quiet:
        warn([f"{len(unmatched)} maps belong to no image of {source.name}, first: {unmatched[0]}; see {UNMATCHED}"])
    manifest = make_maps(options, metadata | pairs, plan, engine, Stages(), quiet=quiet)
    _record(options.out / UNMATCHED, unmatched)
    return manifest


def _record(path: Path, names: list[str]) -> None:
    lines = (json.dumps({"name": name, "reason": "no image has its key"}, ensure_ascii=False) for name in names)
    if names:
        write_text_atomically(path, "".join(f"{line}\n" for line in lines))
    else:
        path.unlink(missing_ok=True)  # of a run with other images


def _import_here(
    source: Source,
    reader: Reader,
    plan: Plan,
    metadata: dict[str, Any],
    workers: int,
    numbers: Iterable[int],
    out: Path,
    keep: Callable[[Shard], None],
    stages: Stages,
    progress: Callable[[int], None],
) -> None:
    """Make some shards and write them to ``out``; threads read images and maps ahead."""
    grid = int(metadata["grid"])
    with ThreadPoolExecutor(workers) as readers:
        try:
            for number in numbers:
                rows, maps, rejected = list[Row](), list[NDArray[np.float32]](), list[Rejected]()
                one = partial(_import_pair, source, reader, grid)
                with closing(prefetch(readers, one, plan.rows(number), depth=4 * workers)) as pairs:
                    for found in pairs:
                        if isinstance(found, Rejected):
                            rejected.append(found)
                        else:
                            rows.append(found[0])
                            maps.append(found[1])
                        stages.pairs += 1
                        progress(1)
                raw = np.stack(maps) if maps else np.zeros((0, grid, grid), np.float32)
                keep(write_maps(out, plan.name(number), rows, raw, rejected, metadata))
        finally:
            readers.shutdown(wait=False, cancel_futures=True)


def _import_pair(source: Source, reader: Reader, grid: int, pair: int) -> Imported | Rejected:
    """A pair's row and map, or why it has none."""
    key, caption = source.keys[pair].as_py(), source.caption(pair)
    if source.repeated[pair]:
        return Rejected(key, caption, "duplicate: an earlier pair has this key and caption")
    if caption is None and source.has_captions:  # without one it would join no pair of this source
        return Rejected(key, caption, source.fault(pair) or "no caption")
    try:
        data = source.read_image(pair)
        _, (width, height) = decode_sized(data, draft=_DRAFT)
        values, box = reader.read(pair, (width, height), grid)
    except (BadImage, OSError) as error:
        return Rejected(key, caption, " ".join(str(error).split()))
    url = None if source.urls is None else source.urls[pair].as_py()
    row = Row(key, url, caption or "", hashlib.sha256(data).hexdigest(), width, height, box, NO_SCORE)
    return row, values
