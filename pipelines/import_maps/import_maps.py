"""``import-maps``: masks, files, fixations or another tool's maps in, a maps folder out.

The pairs are those of the source, and each has a map or a reason why it has none. Maps are brought onto the grid by the
mean over each cell. The folder is as ``build-saliency`` makes it, with the same promises.
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path

from pipelines.build.engines.pair_by_pair import Made, make_here, row_without_clip, unmappable
from pipelines.build.maps_folder import make_maps
from pipelines.build.shard_plan import Plan
from pipelines.build.stages import Stages
from pipelines.commandline.machine import half_the_cores
from pipelines.commandline.terminal import warn
from pipelines.import_maps.options import ImportOptions
from pipelines.import_maps.reader import Reader
from pipelines.outputs import check_apart
from pipelines.sources.images import BadImage, decode_sized
from pipelines.sources.random_access import open_images
from pipelines.sources.source import Rejected, Source, hash_pairs
from saliency import __version__
from saliency.files import write_text_atomically
from saliency.table.imported import NO_CLIP, method_of
from saliency.table.manifest import Manifest
from saliency.table.shard import SCHEMA_VERSION

UNMATCHED = "unmatched.jsonl"
"""The file in a maps folder that lists the maps of no pair of the source."""

_DRAFT = 64  # pixels that an image is decoded at, to see that it is whole


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
    make = partial(_import_pair, source, reader, options.grid)
    engine = partial(make_here, make, plan, metadata, options.workers or half_the_cores())
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


def _import_pair(source: Source, reader: Reader, grid: int, pair: int) -> Made | Rejected:
    """A pair's row and map, or why it has none."""
    bad = unmappable(source, pair)
    if bad is not None:
        return bad
    try:
        data = source.read_image(pair)
        _, (width, height) = decode_sized(data, draft=_DRAFT)
        values, box = reader.read(pair, (width, height), grid)
    except (BadImage, OSError) as error:
        return Rejected(source.keys[pair].as_py(), source.caption(pair), " ".join(str(error).split()))
    return row_without_clip(source, pair, hashlib.sha256(data).hexdigest(), (width, height), box), values
