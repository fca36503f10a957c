"""Any place with images as samples: one resolver for every command.

``open_source`` tells by the shape of what the user typed: the built-in scenes (``shapes:N``), a folder (a metadata or
captions file, metadata in the folders below, tars, tables, split folders, a class tree, images alone), tars or table
files (a path, a glob, a brace range ``{00000..00012}``), or the id of a Hub dataset, which is streamed. Everything but
a stream has random access. Whatever is wrong with the place is a ``UserError``; whatever is wrong with one image shows
when that image is read.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from pipelines.commandline.shared_options import Captions
from pipelines.errors import UserError
from pipelines.outputs import is_ours
from pipelines.sources.compressed import COMPRESSED, unpacking_tool
from pipelines.sources.folders import Found, class_names, files_below, look_below, open_folder
from pipelines.sources.formats import BUILT_IN, FILE_FORMATS
from pipelines.sources.hub_stream import StreamSource, open_stream
from pipelines.sources.images import SUFFIXES
from pipelines.sources.names import composed, find_path, text_names
from pipelines.sources.patterns import expand
from pipelines.sources.prepared_folder import check_prepared
from pipelines.sources.source import FileImages, Source
from pipelines.sources.splits import are_splits, one_split
from pipelines.sources.tables.columns import Wishes
from pipelines.sources.tables.first_captions import one_pair_an_image
from pipelines.sources.tables.parquet_files import describe_images_elsewhere
from pipelines.sources.tables.table_source import LISTINGS, METADATA, open_tables
from pipelines.sources.video.videos import open_videos
from saliency.files import user_path

__all__ = ["StreamSource", "open_asked", "open_source"]

_ASKED = ("image_column", "caption_column", "captions", "limit", "split", "allow_outside")

_SUFFIXES = tuple(
    suffix for each in FILE_FORMATS if not each.has_videos for suffix in each.suffixes if suffix != ".txt"
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def open_source(
    spec: str,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    captions: Captions = "first",
    limit: int | None = None,
    split: str | None = None,
    clips: bool = False,
    every_row: bool = False,
    allow_outside: bool = False,
) -> Source | StreamSource:
    """The source that ``spec`` names; with ``clips`` the one of videos (:func:`open_clips`), which has no columns.

    ``captions`` says what becomes of an image's several captions, in one row or in rows of their own: ``first`` takes
    one, ``all`` makes a pair of each; with ``every_row`` a row is a pair at least, whatever image it shows.
    With ``allow_outside`` files are read that a table or a dataset names outside of itself.
    ``limit`` takes the first so many samples; ``split`` chooses among the splits of a folder or a Hub dataset. Raises
    UserError.
    """
    for column, name in ((image_column, "image"), (caption_column, "caption")):
        if clips and column is not None:
            raise UserError(f"a source of videos has no columns: leave out --{name}-column")
    if clips:
        return open_clips(spec, limit=limit, split=split)
    if captions not in get_args(Captions):
        raise UserError(f"captions is {captions!r}; write {' or '.join(get_args(Captions))}")
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; it must be at least 1")
    wishes = Wishes(image_column, caption_column, captions, split=split, allow_outside=allow_outside)
    rows = limit
    while True:
        source = opened = open_rows(spec, replace(wishes, limit=rows))
        if isinstance(opened, StreamSource):
            return opened
        source = one_pair_an_image(opened) if captions == "first" and not every_row else opened
        if limit is None or rows is None or len(source) >= limit or len(opened) < rows:
            break
        rows *= 4  # some of these rows were further captions of an image: look for its successors behind them
    return source if limit is None or len(source) <= limit else source.select(range(limit))


def open_asked(spec: str, options: Any, **others: Any) -> Source | StreamSource:
    """The source ``spec`` as the options of a command ask for it, by the names that they share with
    :func:`open_source`; ``others`` stand in for them or are added. Raises UserError.
    """
    return open_source(spec, **{name: getattr(options, name) for name in _ASKED} | others)


def open_clips(spec: str, *, limit: int | None = None, split: str | None = None) -> Source:
    """The source of the videos that ``spec`` names, where pictures are their frames. Raises UserError."""
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}; it must be at least 1")
    source = open_rows(spec, Wishes(limit=limit, split=split, clips=True))
    if isinstance(source, StreamSource):
        raise UserError(f"{spec} is streamed, and videos are read from files: download it, and give the folder")
    return source


def open_rows(spec: str, wishes: Wishes) -> Source | StreamSource:
    """The source that ``spec`` names with all pairs of its first ``limit`` images, and perhaps more. UserError."""
    try:
        return _open(spec, wishes)
    except OSError as error:
        raise UserError(f"{spec} can't be read: {error}") from error


def _open(spec: str, wishes: Wishes) -> Source | StreamSource:
    if not spec.strip():
        raise UserError(f"the source is an empty text: give {_kinds()}")
    for prefix, built_in in BUILT_IN.items():
        if spec.startswith(prefix):
            if wishes.clips and not built_in.has_videos:
                raise UserError(f"{spec} draws images, and what is wanted are videos: shapes-video:N draws some")
            _refuse_columns(spec, wishes)
            return built_in.open(spec, wishes.limit, wishes.split)
    if "://" in spec:
        raise UserError(f"{spec} is a URL: download it first, or give the id of a Hub dataset as user/name")
    path = find_path(user_path(spec))
    if path.is_dir():
        return _open_folder(spec, path, wishes)
    if path.exists():
        return _open_files(spec, [path], wishes)
    if any(mark in spec for mark in "{*?["):
        return _open_files(spec, expand(str(path)), wishes)
    if _HUB_ID.fullmatch(spec) and path.suffix.lower() not in (*_SUFFIXES, *COMPRESSED):
        if path.parent.is_dir():
            raise UserError(f"{spec} does not exist (nor is the Hub asked for it while {path.parent} is a folder here)")
        return open_stream(spec, wishes)
    raise UserError(f"{spec} does not exist")


def _open_folder(spec: str, folder: Path, wishes: Wishes) -> Source:
    if wishes.clips:
        return _open_clips(spec, folder, wishes)
    check_prepared(folder)
    listing = next((folder / name for name in LISTINGS if (folder / name).is_file()), None)
    if listing is not None:
        _refuse_split(spec, wishes)
        listed = open_tables(spec, [listing], wishes)
        more = sorted(path.relative_to(folder) for name in METADATA for path in folder.glob(f"*/{name}"))
        if more:
            listed.warnings.append(f"{listing.name} is read, and not {more[0]}" + f" … {more[-1]}" * (len(more) > 1))
        return listed
    children = _children(folder)
    if not children:
        raise UserError(f"{spec} is an empty folder")
    files = [child for child in children if child.is_file()]
    packed = [path for path in files if path.name.lower().endswith(COMPRESSED)]
    _check_unpacked([path for path in packed if path.stem in LISTINGS])
    found = _containers(files)
    if found and not describe_images_elsewhere(found):
        opened = _open_files(spec, one_split(spec, found, wishes), replace(wishes, split=None))
        if packed:
            opened.warnings.append(f"{len(packed)} compressed files left out; the first is {packed[0].name}")
        return opened
    below = [child for child in children if child.is_dir()]
    has_images = any(path.suffix.lower() in SUFFIXES for path in files)
    if below and not has_images and are_splits([child.name for child in below]):
        return _open_split(spec, below, wishes)
    lying = look_below(folder)
    if lying.images and lying.listings:
        return _open_listings(spec, folder, lying, wishes)
    source = open_folder(spec, folder, lying, wishes.limit)
    if source is not None:
        if source.label_names and are_splits(source.label_names):
            return _open_split(spec, [folder / name for name in source.label_names], wishes)
        _refuse_split(spec, wishes)
        _refuse_columns(spec, wishes)
        return source
    videos = open_videos(spec, folder, wishes.limit)
    if videos is not None:
        _refuse_split(spec, wishes)
        _refuse_columns(spec, wishes)
        return videos
    found = found or _containers(sorted(folder / path for path in files_below(str(folder))))
    alone = {suffix for each in FILE_FORMATS for suffix in each.listed}
    found = found or [path for path in files if path.suffix.lower() in alone]
    found = found or packed[:1]
    if found:
        return _open_files(spec, one_split(spec, found, wishes), replace(wishes, split=None))
    raise UserError(f"{spec} holds no images, tars or tables" + "".join(f": {line}" for line in lying.warnings()))


def _open_listings(spec: str, folder: Path, lying: Found, wishes: Wishes) -> Source:
    """The source of ``metadata.*`` in the folders below, as ``datasets`` reads it: what they list, and nothing else.

    Classes are the first folders where there are several, unless a column has labels.
    """
    listings = one_split(spec, [folder / path for path in lying.listings], wishes)
    _check_regular(listings)
    source = open_tables(spec, listings, replace(wishes, split=None), root=folder)
    if not isinstance(source.images, FileImages):
        return source
    listed = [os.path.relpath(os.fsdecode(path), folder) if path else "" for path in source.images.paths.to_pylist()]
    unlisted = len(set(map(composed, lying.images)) - set(map(composed, listed)))
    warnings = [*source.warnings, *lying.warnings()]
    if unlisted:
        warnings.append(f"{unlisted} images that no metadata file lists are left out")
    names = class_names(listed) if source.labels is None else None
    if names is None:
        return replace(source, warnings=warnings)
    numbers = {name: i for i, name in enumerate(names)}
    labels = np.asarray([numbers[path.partition("/")[0]] for path in listed], np.int64)
    return replace(source, labels=labels[source.shared_rows()], label_names=text_names(names), warnings=warnings)


def _children(folder: Path) -> list[Path]:
    """What lies in a folder, but for what is hidden and for folders that a command wrote."""
    shown = sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    return [child for child in shown if not (child.is_dir() and is_ours(set(os.listdir(child))))]  # noqa: PTH208 (a Path for each of millions is slow)


def _containers(files: Sequence[Path]) -> list[Path]:
    """Of these files those of the first kind that makes a folder a source."""
    for suffix in (suffix for each in FILE_FORMATS for suffix in each.containers):
        found = [path for path in files if path.suffix.lower() == suffix]
        if found:
            return found
    return []


def _open_clips(spec: str, folder: Path, wishes: Wishes) -> Source:
    """The videos of a folder, or of its split."""
    children = [child for child in _children(folder) if child.is_dir()]
    if children and are_splits([child.name for child in children]):
        return _open_split(spec, children, wishes)
    _refuse_split(spec, wishes)
    _refuse_columns(spec, wishes)
    source = open_videos(spec, folder, wishes.limit)
    if source is None:
        raise UserError(f"{spec} holds no videos: neither video files nor folders of numbered pictures")
    return source


def _open_split(spec: str, folders: Sequence[Path], wishes: Wishes) -> Source:
    chosen = one_split(spec, folders, wishes)
    if len(chosen) > 1:
        raise UserError(f"{spec} has several folders for one split: {', '.join(path.name for path in chosen)}")
    return _open_folder(spec, chosen[0], replace(wishes, split=None))


def _open_files(spec: str, files: Sequence[Path], wishes: Wishes) -> Source:
    _refuse_split(spec, wishes)
    _check_unpacked(files)
    _check_regular(files)
    suffixes = {path.suffix.lower() for path in files}
    form = next((each for each in FILE_FORMATS if suffixes <= set(each.suffixes)), None)
    if wishes.clips and (form is None or not form.has_videos):
        raise UserError(f"{spec} is not a video ({', '.join(sorted(suffixes))}): give a video file or a folder of them")
    if form is None:
        raise UserError(f"{spec} is not a source of images ({', '.join(sorted(suffixes))}): give {_kinds()}")
    if not form.has_columns:
        _refuse_columns(spec, wishes)
    return form.open(spec, list(files), wishes)


def _check_unpacked(files: Sequence[Path]) -> None:
    """UserError, with the tool, for a file that is compressed by its name."""
    for path in files:
        if tool := unpacking_tool(path.name):
            raise UserError(f"{path} is compressed and can't be read at random: unpack it first ({tool})")


def _check_regular(files: Sequence[Path]) -> None:
    """OSError for a pipe, a device or a folder, which would be waited for or read for ever."""
    odd = next((path for path in files if path.exists() and not path.is_file()), None)
    if odd is not None:
        raise OSError(errno.EINVAL, "Not a regular file", str(odd))


def _kinds() -> str:
    """What may be given, for a message."""
    *names, last = [each.name for each in FILE_FORMATS if not each.has_videos]
    return f"a folder, {', '.join(names)}, or {last}"


def _refuse_split(spec: str, wishes: Wishes) -> None:
    if wishes.split is not None:
        raise UserError(f"{spec} has no splits: leave out split {wishes.split!r}")


def _refuse_columns(spec: str, wishes: Wishes) -> None:
    column = wishes.image_column or wishes.caption_column
    if column is not None:
        raise UserError(f"{spec} has no columns: leave out column {column!r}")
