"""``publish``: a finished maps folder becomes a dataset on the Hub that the viewer can open and ``pretrain`` can read.

The dataset is put together in a folder of its own and uploaded whole; the maps folder is only read. It holds
``data/`` (the shards under their final names), ``preview/`` (pictures), ``manifest.json``, ``README.md`` and
``croissant.json``. What would tell of the publisher's machine is cut from it: paths are shown by their last part, and
``rejected/``, whose reasons name files, stays at home and is published as counts. No pixel of a photo is published
unless ``with_images`` says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.build.shard_plan import shard_name
from pipelines.errors import UserError
from pipelines.hub import Kind, check_login, check_name, look_up, upload
from pipelines.outputs import check_apart
from pipelines.publish.options import PublishOptions
from pipelines.publish.preview import Preview, spread, write_preview
from pipelines.publish.space import write_space
from pipelines.sources.formats import is_built_in
from pipelines.sources.open_source import StreamSource, open_source
from pipelines.sources.source import Source
from pipelines.verify.verify import check_folder
from saliency.files import read_json, remove_leftovers, write_atomically, write_text_atomically
from saliency.table.card import CardFacts, dataset_card, last_part, without_folders
from saliency.table.checks import PUBLISHED, TableReport
from saliency.table.croissant import NAME as CROISSANT
from saliency.table.croissant import PublishedFile, croissant
from saliency.table.manifest import Manifest, Shard
from saliency.table.shard import METADATA_KEY, shard_writer

LARGEST_ROW_GROUP = 100_000_000
"""Bytes uncompressed: the Hub's viewer reads at most 300 MB for a page, and advises 100 to 300 MB a row group."""

_NEW_ROW_GROUP = 50_000_000


def publish(options: PublishOptions, *, quiet: bool = False) -> dict[str, Any]:
    """Put the dataset together and upload it, or leave it in ``dry_run``; returns {title: value}.

    Raises UserError for a table that is not whole, options that don't fit it, and whatever the Hub refuses; then
    nothing, or nothing that anyone sees, has changed on the Hub.
    """
    check_name(options.name)
    if options.space is not None:
        check_name(options.space)
    if options.dry_run is not None:
        check_apart(options.dry_run, [options.maps], option="--dry-run")
    quality = _read_quality(options.quality)
    if options.space is not None and (place := _space_folder(options)):
        _check_new(place)
    if options.dry_run is None:
        check_login()
        _check_remote(options.name, "dataset", options.private)
        if options.space is not None:
            _check_remote(options.space, "space", options.private)
    report = _whole_table(options.maps, quiet)
    source, pixels = _images(options, report)
    with _staging(options.dry_run) as folder:
        facts = _stage(folder, options, report, source, pixels, quality, quiet)
        if options.dry_run is not None:
            facts["dataset"] = f"{options.dry_run} (nothing was uploaded)"
        else:
            message = f"{facts['maps']} saliency maps by mae-cli publish"
            facts["dataset"] = upload(folder, options.name, private=options.private, message=message)
    return facts | _space(options)


def _space(options: PublishOptions) -> dict[str, str]:
    """Upload the Space that was asked for, or leave it in its folder of ``--dry-run``; where it is, by its title."""
    if options.space is None:
        return {}
    place = _space_folder(options)
    with _staging(place) as folder:
        write_space(folder, options.name)
        if place is not None:
            return {"space": f"{place} (nothing was uploaded)"}
        message = f"the app of saliency-mae for {options.name}"
        return {"space": upload(folder, options.space, private=options.private, message=message, kind="space")}


def _space_folder(options: PublishOptions) -> Path | None:
    """Where ``--dry-run`` leaves the Space."""
    return None if options.dry_run is None else options.dry_run.with_name(f"{options.dry_run.name}-space")


def _check_new(folder: Path) -> None:
    """UserError if something is in the folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--dry-run {folder} is not empty: give a new folder")


def _check_remote(name: str, kind: Kind, private: bool) -> None:
    """UserError if the name on the Hub belongs to something that an upload would spoil or show."""
    remote = look_up(name, kind)
    if remote.exists and not remote.ours:
        what = "a dataset" if kind == "dataset" else "a Space"
        raise UserError(f"{name} holds {what} that publish did not make, and would be overwritten: give another name")
    if remote.exists and private and not remote.private:
        raise UserError(
            f"{name} exists and is public, so --private would not hide anything: make it private in its "
            "settings on the Hub, or give another name"
        )


def _read_quality(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--quality {path} can't be read as what inspect --json writes: {error}") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"--quality {path} holds no figures: write it with mae-cli inspect MAPS --json {path}")
    figures: dict[str, Any] = without_folders(content)
    return figures


def _figures(quality: dict[str, Any] | None, manifest: Manifest) -> dict[str, Any] | None:
    """What the card is to show of a file of ``inspect --json``; UserError if it is about other maps than these.

    Any other JSON object is shown as it is: whoever judges maps by other means can say so.
    """
    if quality is None or "facts" not in quality:
        return quality
    facts, judgement = quality["facts"], quality.get("judgement")
    made = facts.get("made_with", {}) if isinstance(facts, dict) else {}
    differing = [name for name, value in made.items() if value != manifest.settings.get(name)]
    if quality.get("kind") != "maps" or differing or facts.get("maps", manifest.written) != manifest.written:
        what = ", ".join(differing) or "another number of them"
        raise UserError(f"--quality is not about these maps ({what}): write it with mae-cli inspect MAPS --json FILE")
    kept = {name: value for name, value in facts.items() if name in ("clip_score", "empty")}
    return kept | judgement if isinstance(judgement, dict) else None


def _whole_table(folder: Path, quiet: bool) -> TableReport:
    """The checked table; UserError with the reasons if it is not fit to be published."""
    report = check_folder(folder, quiet=quiet)
    if report.failures:
        reasons = "; ".join(f"{check.name}: {check.found}" for check in report.failures)
        raise UserError(f"{folder} is not published, mae-cli verify finds: {reasons}")
    if not len(report.pairs):
        raise UserError(f"{folder} holds no maps to publish")
    return report


def _images(options: PublishOptions, report: TableReport) -> tuple[Source | None, str]:
    """The source that the preview shows images of, and what the card calls them; (None, "none") for maps alone."""
    assert report.manifest is not None
    origin = report.manifest.origin
    spec = options.source or origin.get("source")
    drawn = isinstance(spec, str) and is_built_in(spec)
    if not options.preview or not (drawn or options.with_images):
        return None, "none"
    advice = "say where the images are with --source, or leave --with-images out for a preview of maps alone"
    if spec is None:
        raise UserError(f"{options.maps} does not say where its images are: {advice}")
    wanted: dict[str, Any] = {name: origin.get(name) for name in ("split", "image_column", "caption_column", "limit")}
    wanted |= {"captions": origin.get("captions") or "first", "clips": origin.get("clips", False)}
    wanted |= {"allow_outside": options.allow_outside}
    try:
        source = open_source(spec, **wanted)
    except UserError as error:
        raise UserError(f"the images can't be shown: {error}; {advice}") from error
    if isinstance(source, StreamSource):
        raise UserError(f"{spec} is a stream, of which single images can't be shown: {advice}")
    return source, "scenes" if drawn else "photos"


@contextmanager
def _staging(folder_given: Path | None) -> Iterator[Path]:
    """The folder to put something together in; what is left in ``folder_given`` is whole."""
    if folder_given is None:
        with tempfile.TemporaryDirectory(prefix="saliency-mae-") as folder:
            yield Path(folder)
        return
    _check_new(folder_given)
    folder_given.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder_given.parent, {folder_given.name}, deep=False)
    with tempfile.TemporaryDirectory(
        prefix=".tmp-", suffix=f"-{folder_given.name}", dir=folder_given.parent, ignore_cleanup_errors=True
    ) as folder:
        Path(folder).chmod(0o777 & ~_umask())
        yield Path(folder)
        if folder_given.exists():
            folder_given.rmdir()
        Path(folder).rename(folder_given)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _stage(
    folder: Path,
    options: PublishOptions,
    report: TableReport,
    source: Source | None,
    pixels: str,
    quality: dict[str, Any] | None,
    quiet: bool,
) -> dict[str, Any]:
    """Write everything that is to be published into an empty folder; what was written, as {title: value}."""
    manifest = _public_manifest(report)
    shards = {shard.file: shard for shard in manifest.shards}
    manifest.shards = [
        _stage_shard(
            path,
            folder / "data" / shard_name(number, len(shards)),
            shards[path.name],
            symbolic=options.dry_run is None,
        )
        for number, path in enumerate(report.files)
    ]
    manifest.save(folder)
    preview = Preview(0, 0)
    if options.preview:
        path = folder / "preview" / shard_name(0, 1)
        preview = write_preview(path, report.files, spread(len(report.pairs), options.preview), source, quiet=quiet)
        if not preview.pictures:
            raise UserError("no image is the one that its map was made of: say where they are with --source")
    card = CardFacts(
        name=options.name,
        settings=manifest.settings,
        origin=manifest.origin,
        from_hub=_from_hub(report),
        written=manifest.written,
        rejected=manifest.rejected,
        shards=len(shards),
        drawn=is_built_in(str(manifest.origin.get("source", ""))),
        preview=preview.pictures,
        pixels=pixels,
        licence=options.licence,
        quality=_figures(quality, manifest),
    )
    write_text_atomically(folder / "README.md", dataset_card(card))
    described = croissant(card, _published_files(folder, manifest))
    write_text_atomically(folder / CROISSANT, json.dumps(described, indent=1, ensure_ascii=False) + "\n")
    return _facts(manifest, preview, pixels, report)


def _published_files(folder: Path, manifest: Manifest) -> list[PublishedFile]:
    """The Parquet files of a dataset that is put together."""
    hashes = {folder / "data" / shard.file: shard.sha256 for shard in manifest.shards}
    for path in sorted((folder / "preview").glob("*.parquet")):
        hashes[path] = hashlib.sha256(path.read_bytes()).hexdigest()
    return [
        PublishedFile(path.relative_to(folder).as_posix(), digest, path.stat().st_size)
        for path, digest in hashes.items()
    ]


def _facts(manifest: Manifest, preview: Preview, pixels: str, report: TableReport) -> dict[str, Any]:
    facts: dict[str, Any] = {"maps": manifest.written, "shards": len(manifest.shards)}
    shown = {"none": "maps alone, no pixels of the images", "photos": "maps over photos", "scenes": "maps over scenes"}
    facts["preview"] = f"{preview.pictures} pictures ({shown[pixels]})" if preview.pictures else "none"
    if preview.skipped:
        facts["not shown"] = f"{preview.skipped} images are gone or have other bytes than their maps were made of"
    if absolute := _absolute_keys(report):
        facts["warning"] = f"{absolute} keys are absolute paths of this machine, which everyone will see"
    return facts


def _absolute_keys(report: TableReport) -> int:
    files = (pq.ParquetFile(path).iter_batches(columns=["key"]) for path in report.files)
    return sum(
        pc.sum(pc.match_substring_regex(batch["key"], r"^([/~]|[A-Za-z]:\\)")).as_py() or 0
        for batches in files
        for batch in batches
    )


def _from_hub(report: TableReport) -> bool:
    """Whether the maps were made of a Hub dataset: a stream's name is among the settings, for lack of a hash."""
    assert report.manifest is not None
    return isinstance(report.manifest.settings.get("pairs"), str)


def _public_manifest(report: TableReport) -> Manifest:
    """The manifest without what tells of the publisher's machine; its shards still have their old hashes."""
    assert report.manifest is not None
    settings, origin = _public(report.manifest.settings), _public(report.manifest.origin)
    source = origin.get("source")
    if isinstance(source, str) and not is_built_in(source) and not _from_hub(report):
        origin["source"] = last_part(source)
    return Manifest(settings, origin | {PUBLISHED: True}, list(report.manifest.shards), complete=True)


def _public(settings: dict[str, Any]) -> dict[str, Any]:
    public: dict[str, Any] = without_folders(settings)
    if isinstance(public.get("pretrained"), str):
        public["pretrained"] = last_part(public["pretrained"])  # a tag, or a file of weights
    return public


def _stage_shard(path: Path, target: Path, shard: Shard, *, symbolic: bool) -> Shard:
    """Bring one shard into the dataset: as it is where the viewer can open it and it tells no paths, else rewritten."""
    file = pq.ParquetFile(path)
    metadata = json.loads(file.schema_arrow.metadata[METADATA_KEY])
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    fine = all(group.total_byte_size <= LARGEST_ROW_GROUP for group in groups)
    if fine and _public(metadata) == metadata:
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(path.resolve(), target, symbolic=symbolic)
        return Shard(target.name, shard.sha256, shard.taken, shard.written, shard.rejected)
    size = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=1)
    rows = max(1, min(file.metadata.num_rows, int(_NEW_ROW_GROUP / max(size, 1))))
    public = file.schema_arrow.with_metadata({METADATA_KEY: json.dumps(_public(metadata), sort_keys=True).encode()})

    def write(sink: Any) -> None:
        with shard_writer(sink, public) as writer:
            for batch in file.iter_batches(batch_size=rows):
                writer.write_table(pa.Table.from_batches([batch], public), row_group_size=rows)

    write_atomically(target, write)
    with target.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    return Shard(target.name, digest, shard.taken, shard.written, shard.rejected)


def _link(path: Path, target: Path, *, symbolic: bool) -> None:
    """The same file under another name: a symbolic link while it is uploaded, a copy that shares its blocks to keep."""
    try:
        if symbolic:
            target.symlink_to(path)
        else:
            target.hardlink_to(path)
    except OSError:  # another disk, or one that has no links
        shutil.copyfile(path, target)
