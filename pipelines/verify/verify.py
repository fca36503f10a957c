"""``verify``: is a maps folder whole, and does it belong to the images it is to be used with?

Everything that can be seen in the folder alone is ``saliency.table.checks``; here the source is brought in: how many of
its pairs have a map and how many maps a pair, whether the images' stored bytes are those that the maps were made of,
and whether they can be read. All checks are run, whatever the first ones find; nothing is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.errors import UserError
from pipelines.hub import find_maps
from pipelines.progress import progress_bar
from pipelines.sources.images import BadImage, decode_rgb
from pipelines.sources.open_source import StreamSource, open_asked
from pipelines.sources.source import Source
from pipelines.verify.options import VerifyOptions
from saliency.table.checks import Check, TableReport, check_table, rejected_pairs
from saliency.table.manifest import NAME, part_manifests, read_manifest
from saliency.table.rows import pair_hashes, read_rows
from saliency.table.table import shard_files


def verify(options: VerifyOptions, *, quiet: bool = False) -> list[Check]:
    """Look at a maps folder (or a published table's Hub id) and, if one is given, at its source; all checks.

    Raises UserError if there is no maps folder, or the source can't be opened or is a stream.
    """
    folder = find_maps(options.maps)
    source = _open(options, folder) if options.source is not None else None
    report = check_folder(folder, quiet=quiet)
    if source is None:
        return report.checks
    return [*report.checks, *_check_source(report, source, options, quiet)]


def check_folder(folder: Path, *, quiet: bool = False) -> TableReport:
    """``saliency.table.checks.check_table`` with a bar; UserError if the folder holds nothing that could be a table."""
    files = shard_files(folder)
    if not files and not (folder / NAME).exists() and not part_manifests(folder):
        what = "does not exist" if not folder.exists() else "holds no saliency maps (data/train-*.parquet)"
        raise UserError(f"{folder} {what}; make them with build-saliency")
    total = sum(path.stat().st_size for path in files if path.is_file())
    with closing(progress_bar(total=total, unit="bytes", scale=True, name="maps", part=True, quiet=quiet)) as bar:
        return check_table(folder, step=bar.update)


def _open(options: VerifyOptions, folder: Path) -> Source:
    assert options.source is not None
    try:
        manifest = read_manifest(folder)
    except ValueError:  # which is one of the checks
        manifest = None
    source = open_asked(options.source, options, clips=bool(manifest and manifest.origin.get("clips")))
    if isinstance(source, StreamSource):
        raise UserError(
            f"{options.source} is a stream, which can't be asked for single images: get it with "
            f"`hf download {options.source} --repo-type dataset --local-dir FOLDER`, and give the folder"
        )
    return source


def _check_source(report: TableReport, source: Source, options: VerifyOptions, quiet: bool) -> Iterator[Check]:
    captions = source.captions
    wanted = pair_hashes(source.keys, captions)
    known = report.keys if captions is None else report.pairs  # without captions maps are joined by key alone
    rows = np.asarray(pc.fill_null(pc.index_in(wanted, value_set=known), -1), np.int64)
    yield _check_pairs(report, source, wanted, rows)
    used = len(np.unique(rows[rows >= 0]))
    share = f"{used} of {len(known)} maps ({used / max(len(known), 1):.1%})"
    unused = "" if used == len(known) else "; the others are not used with it"
    yield Check("maps with a pair", used > 0 or not len(known), f"{share} belong to a pair of {source.name}{unused}")
    yield from _check_images(report, source, rows, options, quiet)


def _check_pairs(report: TableReport, source: Source, wanted: pa.Array, rows: NDArray[np.int64]) -> Check:
    """Every pair of the source has a map, or was rejected when the maps were made."""
    missing = np.flatnonzero(rows < 0)
    found = len(rows) - len(missing)
    line = f"{found} of {len(rows)} pairs ({found / len(rows):.1%}) have a map"
    known = rejected_pairs(report.folder, by_key=source.captions is None)  # as maps are joined
    rejected = np.asarray(pc.is_in(wanted.take(pa.array(missing)), value_set=known))
    unexplained = missing[~rejected]
    counted = report.manifest.rejected if report.manifest else 0
    if not (report.folder / "rejected").exists() and len(missing) <= counted:
        unexplained = missing[:0]  # a published table says how many were rejected, not which
    if not len(unexplained):
        advice = "; the others were rejected when they were made (pretrain: --on-missing random)"
        return Check("pairs with a map", True, line + (advice if len(missing) else ""))
    keys = ", ".join(repr(key) for key in source.keys.take(pa.array(unexplained[:3])).to_pylist())
    theirs = pc.is_in(pair_hashes(source.keys.take(pa.array(unexplained[:1000]))), value_set=report.keys)
    hint = " (their keys have maps of other captions: check --captions and --caption-column)"
    other = hint if pc.any(theirs).as_py() else ""
    return Check("pairs with a map", False, f"{line}; {len(unexplained)} have none, first: {keys}{other}")


def _check_images(
    report: TableReport, source: Source, rows: NDArray[np.int64], options: VerifyOptions, quiet: bool
) -> Iterator[Check]:
    """The stored bytes of a seeded sample of the pairs that have a map."""
    joined = np.flatnonzero(rows >= 0)
    drawn = np.random.default_rng(options.seed).permutation(joined)[: options.sample]
    chosen = np.sort(drawn)
    if not len(chosen):
        return
    stored = read_rows(report.files, rows[chosen], ["image_sha256"])["image_sha256"].to_pylist()
    other: list[str] = []
    unreadable: list[str] = []
    for i, sha256 in zip(
        progress_bar(chosen, unit="images", name="images", part=True, quiet=quiet), stored, strict=True
    ):
        try:
            data = source.read_image(int(i))
            original = None if source.originals is None else source.originals[int(i)].as_py()
            if sha256 not in (original, hashlib.sha256(data).hexdigest()):
                other.append(repr(source.keys[int(i)].as_py()))
            decode_rgb(data)
        except (BadImage, OSError) as error:
            unreadable.append(f"{source.keys[int(i)].as_py()!r} ({' '.join(str(error).split())})")
    of = f"{len(chosen)} of {len(joined)} images" if len(chosen) < len(joined) else f"all {len(joined)} images"
    made = "" if source.originals is None else ", or of which prepare made them"
    fine = f"{of}: the bytes are those that the maps were made of{made}"
    found = f"{len(other)} of {len(chosen)} have other bytes than the maps were made of, first: {''.join(other[:1])}"
    yield Check("stored bytes", not other, found if other else fine)
    broken = f"{len(unreadable)} of {len(chosen)} can't be read, first: {''.join(unreadable[:1])}"
    yield Check("readable images", not unreadable, broken if unreadable else f"{of} can be read")
