"""``prepare``: a source in, a folder of small images out that epochs are fast on.

Every image is decoded once, its shorter side reduced, and kept with its key, captions, label, URL and true mask or box,
so that maps made of the source join the prepared images as they join the source's. The file is the unit, as the shard
is of ``build-saliency``: it appears whole or not at all, so a run that was stopped anywhere and started again ends
byte-identical to one that was not. What can't be read is written to ``rejected/`` with its reason.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from PIL import __version__ as pillow_version

from pipelines.commandline.machine import half_the_cores
from pipelines.commandline.terminal import warn
from pipelines.errors import UserError
from pipelines.outputs import check_apart, one_writer
from pipelines.prefetch import prefetch
from pipelines.prepare.entries import Columns, Entries, Entry, EntryRow, open_entries
from pipelines.prepare.options import PrepareOptions
from pipelines.prepare.small_images import SUBSAMPLING, make_small, small_box, small_mask
from pipelines.prepare.writers import SUFFIX, WRITERS, Picture
from pipelines.progress import progress_bar
from pipelines.sources.images import BadImage
from pipelines.sources.prepared_folder import PreparedShard, open_prepared, totals
from pipelines.sources.source import Rejected
from pipelines.sources.tables.columns import Wishes
from saliency import __version__
from saliency.files import remove_leftovers, write_atomically, write_text_atomically
from saliency.table.manifest import Manifest

_LAYOUT = 1  # another number when the same images would become other files
_EARLY_CHECK = 1000  # rows after which a hopeless source stops the run before its end
_MOSTLY = 0.5


def prepare(options: PrepareOptions, *, quiet: bool = False) -> Manifest:
    """Make a source's images small and write them; returns the finished manifest (see ``prepared.totals``).

    Raises UserError for a mistake in the options, an output folder of another run, or more rejected rows than
    ``max_rejected``; whatever was written until then stays and is not made again.
    """
    check_apart(options.out, [options.source])
    entries = entries_of(options)
    warn([] if quiet else entries.warnings)
    out = options.out
    with one_writer(out):
        manifest = open_prepared(out, _settings(options, entries), _origin(options))
        _drop_absent(out, manifest, entries)
        if not manifest.complete:
            out.mkdir(parents=True, exist_ok=True)
            remove_leftovers(out)
            manifest.save(out)
            _make(options, entries, manifest, quiet)
            if entries.count() is None:
                _give_final_names(options, manifest)
            manifest.complete = True
            manifest.save(out)
    _check_rejected(options, manifest, manifest.taken)
    return manifest


def entries_of(options: PrepareOptions) -> Entries:
    """The rows of the source. Raises UserError."""
    wishes = Wishes(
        options.image_column,
        options.caption_column,
        options.captions,
        options.limit,
        options.split,
        allow_outside=options.allow_outside,
    )
    return open_entries(options.source, wishes)


def summary(manifest: Manifest, out: Path) -> str:
    """What was made of what, as the command says it."""
    sums = totals(manifest)
    share = f" ({sums.bytes_out / sums.bytes_in:.0%})" if sums.bytes_in else ""
    lines = [
        f"{manifest.taken} rows: {sums.images} images in {out}, {sums.kept} of them kept byte for byte",
        f"{sums.bytes_in / 1e6:.1f} MB of images became {sums.bytes_out / 1e6:.1f} MB{share}",
    ]
    if manifest.rejected:
        lines.append(f"{manifest.rejected} rows rejected in {out / 'rejected'}")
    truth = {"mask": "masks", "box": "boxes"}.get(manifest.settings["truth"])
    if truth and manifest.settings["format"] == "webdataset":
        lines.append(f"its true {truth} are left out, for tars have no place for them: --format parquet keeps them")
    return "\n".join(lines)


def _settings(options: PrepareOptions, entries: Entries) -> dict[str, Any]:
    """Everything that decides the files, but for the version of Pillow."""
    return {
        "layout": _LAYOUT,
        "format": options.format,
        "size": options.size,
        "quality": options.quality,
        "subsampling": SUBSAMPLING,
        "columns": entries.columns.names(),
        "truth": entries.columns.truth,
        **entries.fingerprint(),
        "shard_size": options.shard_size,
        "package_version": __version__,
    }


def _origin(options: PrepareOptions) -> dict[str, Any]:
    names = ("source", "split", "image_column", "caption_column", "captions", "limit")
    return {name: getattr(options, name) for name in names} | {"pillow": pillow_version}


def shard_name(number: int, count: int | None, kind: str) -> str:
    """``images-00003-of-00012.parquet``; without the total while a stream has not come to its end."""
    total = "" if count is None else f"-of-{count:05d}"
    return f"images-{number:05d}{total}.{SUFFIX[kind]}"


def _make(options: PrepareOptions, entries: Entries, manifest: Manifest, quiet: bool) -> None:
    """Make the files that are left, keeping the manifest after each."""
    total = entries.count()
    count = None if total is None else math.ceil(total / options.shard_size)
    done = {shard.file for shard in manifest.shards}
    numbers = itertools.count() if count is None else range(count)
    todo = (number for number in numbers if shard_name(number, count, options.format) not in done)
    shrink = partial(_shrink_numbered, options=options, columns=entries.columns)
    bar = progress_bar(total=entries.rows(), done=manifest.taken, unit="rows", quiet=quiet)
    workers = options.workers or half_the_cores()
    executor = ThreadPoolExecutor(workers)  # threads, for Pillow decodes and resizes without the interpreter
    try:
        items = entries.read(todo, options.shard_size)
        with closing(bar), closing(prefetch(executor, shrink, items, depth=4 * workers)) as shrunk:
            for number, members in itertools.groupby(shrunk, key=lambda item: item[0]):
                contents = _Contents(bar)
                made = contents.take(pictures for _, pictures in members)
                manifest.add(
                    _write(options, entries.columns, shard_name(number, count, options.format), contents, made)
                )
                manifest.save(options.out)
                if manifest.taken >= _EARLY_CHECK:
                    _check_rejected(options, manifest, entries.rows())
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


@dataclass
class _Contents:
    """What one file takes in, counted as it comes."""

    bar: Any
    rejected: list[Rejected] = field(default_factory=list)
    written: int = 0
    images: int = 0
    kept: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def take(self, results: Iterable[list[Picture | Rejected]]) -> Iterator[Picture]:
        """The pictures among the results; those that can't be had are noted."""
        for result in itertools.chain.from_iterable(results):
            if isinstance(result, Rejected):
                self.rejected.append(result)
                self.bar.update(1)
                continue
            self.written += result.rows
            self.images += 1
            self.kept += result.kept
            self.bytes_in += result.source_bytes
            self.bytes_out += len(result.image)
            self.bar.update(result.rows)
            yield result


def _write(
    options: PrepareOptions, columns: Columns, name: str, contents: _Contents, pictures: Iterable[Picture]
) -> PreparedShard:
    """Write a file while its pictures come, then its rejects; what the manifest is to say of it."""

    def write(file: BinaryIO) -> None:
        WRITERS[options.format](file, pictures, columns)

    path = options.out / name
    write_atomically(path, write)
    rejects = options.out / "rejected" / f"{path.stem}.jsonl"
    if contents.rejected:
        lines = (json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in contents.rejected)
        write_text_atomically(rejects, "".join(lines))
    else:
        rejects.unlink(missing_ok=True)  # of a stopped run whose source was mended since
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    written, rejected = contents.written, len(contents.rejected)
    counts = (contents.images, contents.kept, contents.bytes_in, contents.bytes_out)
    return PreparedShard(name, sha256, written + rejected, written, rejected, *counts)


def _shrink_numbered(
    numbered: tuple[int, Entry], options: PrepareOptions, columns: Columns
) -> tuple[int, list[Picture | Rejected]]:
    number, entry = numbered
    return number, shrink_entry(entry, options.size, options.quality, with_masks=columns.truth == "mask")


@dataclass(frozen=True)
class _Read:
    """A row whose image has been read; rows of the same ``identity`` become one picture."""

    row: EntryRow
    data: bytes
    mask: Any
    identity: tuple[Any, ...]


def shrink_entry(entry: Entry, size: int, quality: int, *, with_masks: bool) -> list[Picture | Rejected]:
    """One picture for all rows of an entry with the same image, label, URL and mask or box, and what was rejected."""
    results: list[Picture | Rejected] = []
    alike: dict[tuple[Any, ...], list[_Read]] = {}
    data: bytes | None = None
    for row in entry.rows:
        try:
            data = row.read() if data is None or not entry.one_file else data
            read = _read(row, data, with_masks)
            alike.setdefault(read.identity, []).append(read)
        except (BadImage, OSError) as error:
            results.append(_rejected(row, error))
    for members in alike.values():
        try:
            results.append(_picture(members, size, quality))
        except BadImage as error:
            results += [_rejected(member.row, error) for member in members]
    return results


def _read(row: EntryRow, data: bytes, with_masks: bool) -> _Read:
    if row.fault is not None:
        raise BadImage(row.fault)
    sha256 = hashlib.sha256(data).hexdigest()
    mask = row.read_mask() if with_masks and row.read_mask is not None else None
    seen = None if mask is None else (mask.shape, mask.tobytes())
    return _Read(row, data, mask, (sha256, row.label, row.url, seen, row.box))


def _picture(members: list[_Read], size: int, quality: int) -> Picture:
    """The one picture of rows that are alike; all their captions, each once."""
    first, row = members[0], members[0].row
    small = make_small(first.data, size, quality)
    rows = [member.row for member in members]
    captions = dict.fromkeys(caption for one in rows for caption in one.captions)
    return Picture(
        key=row.key,
        image=small.data,
        caption=next((one.caption for one in rows if one.caption is not None), None),
        captions=tuple(captions),
        label=row.label,
        url=row.url,
        mask=None if first.mask is None else small_mask(first.mask, small.size),
        box=_box(row.box, small.original, small.size),
        width=small.original[0],
        height=small.original[1],
        source_sha256=first.identity[0],
        source_bytes=len(first.data),
        kept=small.kept,
        rows=len(members),
    )


def _box(box: tuple[float, ...] | None, original: tuple[int, int], size: tuple[int, int]) -> tuple[float, ...] | None:
    """The box on the small image; one that is none stays what it is, for its reader to say so."""
    if box is None or len(box) != 4 or any(value is None or not math.isfinite(value) for value in box):
        return box
    return tuple(small_box(list(box), original, size))


def _rejected(row: EntryRow, error: Exception) -> Rejected:
    return Rejected(row.key, row.caption, " ".join(str(error).split()))


def _drop_absent(out: Path, manifest: Manifest, entries: Entries) -> None:
    """Take files that are gone out of the manifest, to be made again; UserError where a stream can't."""
    present = [shard for shard in manifest.shards if (out / shard.file).exists()]
    if len(present) == len(manifest.shards):
        return
    if entries.count() is None and manifest.complete:
        raise UserError(f"{out} has lost {len(manifest.shards) - len(present)} of its files; give another --out")
    if entries.count() is None:  # a stream is only read on: what is behind the gap is made again too
        present = present[: next(i for i, shard in enumerate(manifest.shards) if shard not in present)]
    manifest.shards, manifest.complete = present, False


def _give_final_names(options: PrepareOptions, manifest: Manifest) -> None:
    """Rename the files of a stream, whose number is known only at its end."""
    count = len(manifest.shards)
    for number, shard in enumerate(manifest.shards):
        final = shard_name(number, count, options.format)
        if (options.out / shard.file).exists():
            (options.out / shard.file).replace(options.out / final)
        manifest.shards[number] = replace(shard, file=final)


def _check_rejected(options: PrepareOptions, manifest: Manifest, total: int | None) -> None:
    """UserError if more rows were rejected than ``max_rejected`` of ``total``; of a stream, once most of it is bad."""
    allowed = options.max_rejected if total is not None else max(_MOSTLY, options.max_rejected)
    if manifest.rejected > allowed * (manifest.taken if total is None else total):
        raise UserError(
            f"{manifest.rejected} of {manifest.taken} rows ({manifest.rejected / manifest.taken:.1%}) were rejected, "
            f"more than --max-rejected {options.max_rejected:g}; the reasons are in {options.out / 'rejected'}: "
            "mend the source, or run the same command with a higher --max-rejected"
        )
