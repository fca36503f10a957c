"""Any place with images as samples: one resolver for every command.

``open_source`` tells by the shape of what the user typed: the built-in scenes (``shapes:N``), a folder (a metadata or
captions file, tars, tables, split folders, a class tree, images alone), tars or table files (a path, a glob, a brace
range ``{00000..00012}``), or the id of a Hub dataset, which is streamed. Everything but a stream has random access.
Whatever is wrong with the place is a ``UserError``; whatever is wrong with one image shows when that image is read.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from pipelines.commandline.shared_options import Captions
from pipelines.errors import UserError
from pipelines.sources.columns import Wishes
from pipelines.sources.folders import open_folder
from pipelines.sources.hub_stream import StreamSource, open_stream
from pipelines.sources.images import SUFFIXES
from pipelines.sources.moving_scenes import open_moving_scenes
from pipelines.sources.prepared_folder import check_prepared
from pipelines.sources.scenes import open_scenes
from pipelines.sources.source import NoImage, Sample, Source
from pipelines.sources.table_files import TABLE_SUFFIXES
from pipelines.sources.table_source import open_tables
from pipelines.sources.tars import open_tars
from pipelines.sources.video_file import VIDEO_SUFFIXES
from pipelines.sources.videos import open_videos, video_source

__all__ = ["NoImage", "Sample", "Source", "StreamSource", "expand_braces", "open_source"]

_SPLITS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
_LISTINGS = (
    "metadata.csv", "metadata.jsonl", "metadata.parquet",
    "captions.txt", "captions.csv", "captions.tsv", "captions.jsonl",
)  # fmt: skip
_COMPRESSED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_MOST_FILES = 1_000_000
_KINDS = "a folder, tars, or Parquet, JSONL, CSV or TSV tables"


def open_source(
    spec: str,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    captions: Captions = "first",
    limit: int | None = None,
    split: str | None = None,
    clips: bool = False,
) -> Source | StreamSource:
    """The source that ``spec`` names; with ``clips`` the one of videos (:func:`open_clips`), which has no columns.

    ``captions`` says what becomes of an image's several captions: ``first`` takes one, ``all`` makes a pair of each.
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
    source = open_rows(spec, Wishes(image_column, caption_column, captions, limit, split))
    if isinstance(source, Source) and limit is not None and len(source) > limit:
        return source.select(range(limit))
    return source


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
        raise UserError(f"the source is an empty text: give {_KINDS}")
    if spec.startswith("shapes-video:"):
        _refuse_columns(spec, wishes)
        return open_moving_scenes(spec, limit=wishes.limit, split=wishes.split)
    if spec.startswith("shapes:"):
        if wishes.clips:
            raise UserError(f"{spec} draws images, and what is wanted are videos: shapes-video:N draws some")
        _refuse_columns(spec, wishes)
        return open_scenes(spec, limit=wishes.limit, split=wishes.split)
    if "://" in spec:
        raise UserError(f"{spec} is a URL: download it first, or give the id of a Hub dataset as user/name")
    path = Path(spec).expanduser()
    if path.is_dir():
        return _open_folder(spec, path, wishes)
    if path.exists():
        return _open_files(spec, [path], wishes)
    if any(mark in spec for mark in "{*?["):
        return _open_files(spec, _expand(str(path)), wishes)
    if _HUB_ID.fullmatch(spec) and path.suffix.lower() not in (*TABLE_SUFFIXES, *_COMPRESSED, ".tar"):
        if path.parent.is_dir():
            raise UserError(f"{spec} does not exist (nor is the Hub asked for it while {path.parent} is a folder here)")
        return open_stream(spec, wishes)
    raise UserError(f"{spec} does not exist")


def _open_folder(spec: str, folder: Path, wishes: Wishes) -> Source:
    if wishes.clips:
        return _open_clips(spec, folder, wishes)
    check_prepared(folder)
    listing = next((folder / name for name in _LISTINGS if (folder / name).is_file()), None)
    if listing is not None:
        _refuse_split(spec, wishes)
        return open_tables(spec, [listing], wishes, listing=True)
    children = sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    if not children:
        raise UserError(f"{spec} is an empty folder")
    files = [child for child in children if child.is_file()]
    for suffix in (".tar", ".parquet"):
        found = [path for path in files if path.suffix.lower() == suffix]
        if found:
            return _open_files(spec, _one_split(spec, found, wishes), replace(wishes, split=None))
    below = [child for child in children if child.is_dir()]
    has_images = any(path.suffix.lower() in SUFFIXES for path in files)
    if below and not has_images and all(child.name.lower() in _SPLITS for child in below):
        return _open_split(spec, below, wishes)
    source = open_folder(spec, folder, wishes.limit)
    if source is not None:
        if source.label_names and all(name.lower() in _SPLITS for name in source.label_names):
            return _open_split(spec, [folder / name for name in source.label_names], wishes)
        _refuse_split(spec, wishes)
        _refuse_columns(spec, wishes)
        return source
    videos = open_videos(spec, folder, wishes.limit)
    if videos is not None:
        _refuse_split(spec, wishes)
        _refuse_columns(spec, wishes)
        return videos
    for suffix in (".tar", ".parquet"):
        found = sorted(folder.rglob(f"*{suffix}"))
        if found:
            return _open_files(spec, _one_split(spec, found, wishes), replace(wishes, split=None))
    found = [path for path in files if path.suffix.lower() in TABLE_SUFFIXES and path.suffix.lower() != ".json"]
    if not found:
        found = [path for path in files if path.name.lower().endswith(_COMPRESSED)][:1]
    if found:
        return _open_files(spec, _one_split(spec, found, wishes), replace(wishes, split=None))
    raise UserError(f"{spec} holds no images, tars or tables")


def _open_clips(spec: str, folder: Path, wishes: Wishes) -> Source:
    """The videos of a folder, or of its split."""
    children = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    if children and all(child.name.lower() in _SPLITS for child in children):
        return _open_split(spec, children, wishes)
    _refuse_split(spec, wishes)
    _refuse_columns(spec, wishes)
    source = open_videos(spec, folder, wishes.limit)
    if source is None:
        raise UserError(f"{spec} holds no videos: neither video files nor folders of numbered pictures")
    return source


def _open_split(spec: str, folders: Sequence[Path], wishes: Wishes) -> Source:
    chosen = _one_split(spec, folders, wishes)
    if len(chosen) > 1:
        raise UserError(f"{spec} has several folders for one split: {', '.join(path.name for path in chosen)}")
    return _open_folder(spec, chosen[0], replace(wishes, split=None))


def _open_files(spec: str, files: Sequence[Path], wishes: Wishes) -> Source:
    _refuse_split(spec, wishes)
    compressed = next((path for path in files if path.name.lower().endswith(_COMPRESSED)), None)
    if compressed is not None:
        tool = "unzip" if compressed.suffix.lower() == ".zip" else "gunzip"
        raise UserError(f"{compressed} is compressed and can't be read at random: unpack it first ({tool})")
    suffixes = {path.suffix.lower() for path in files}
    if suffixes <= VIDEO_SUFFIXES:
        _refuse_columns(spec, wishes)
        folder = files[0].parent if len(files) == 1 else Path(os.path.commonpath([file.parent for file in files]))
        return video_source(spec, folder, [file.relative_to(folder).as_posix() for file in files][: wishes.limit])
    if wishes.clips:
        raise UserError(f"{spec} is not a video ({', '.join(sorted(suffixes))}): give a video file or a folder of them")
    if suffixes == {".tar"}:
        return open_tars(spec, list(files), wishes)
    if suffixes <= {*TABLE_SUFFIXES, ".txt"}:
        return open_tables(spec, files, wishes, listing=files[0].name in _LISTINGS)
    raise UserError(f"{spec} is not a source of images ({', '.join(sorted(suffixes))}): give {_KINDS}")


def _one_split(spec: str, paths: Sequence[Path], wishes: Wishes) -> list[Path]:
    """The paths of the wished split; all of them where their names tell of at most one."""
    splits = [_split_of(path) for path in paths]
    known = sorted({split for split in splits if split is not None})
    if wishes.split is not None:
        wished = _SPLITS.get(wishes.split.lower(), wishes.split)
        chosen = [path for path, split in zip(paths, splits, strict=True) if split == wished]
        if not chosen:
            has = f"the splits {', '.join(known)}" if known else "no splits"
            raise UserError(f"{spec} has no split {wishes.split!r}: it has {has}")
        return chosen
    if len(known) > 1 and None not in splits:
        raise UserError(f"{spec} holds the splits {', '.join(known)}: name one with --split")
    return list(paths)


def _split_of(path: Path) -> str | None:
    """The split that a file or folder is named after: ``train``, ``train-00000-of-00002``, ``cc3m-train-0000``."""
    for name in (path.stem, path.parent.name):
        found = [_SPLITS[word] for word in re.findall("[a-z]+", name.lower()) if word in _SPLITS]
        if found:
            return found[0]
    return None


def _refuse_split(spec: str, wishes: Wishes) -> None:
    if wishes.split is not None:
        raise UserError(f"{spec} has no splits: leave out split {wishes.split!r}")


def _refuse_columns(spec: str, wishes: Wishes) -> None:
    column = wishes.image_column or wishes.caption_column
    if column is not None:
        raise UserError(f"{spec} has no columns: leave out column {column!r}")


def _expand(spec: str) -> list[Path]:
    """The files that a pattern with braces and wildcards names: braces in their order, a wildcard's files sorted."""
    files: list[Path] = []
    missing = []
    for pattern in expand_braces(spec):
        if Path(pattern).is_file():
            files.append(Path(pattern))
            continue
        found = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 (takes a whole path)
        files += [path for path in found if path.is_file()]
        if not found:
            missing.append(pattern)
    if not files:
        raise UserError(f"{spec} matches no file")
    if missing:
        raise UserError(f"{spec}: {len(missing)} of its files do not exist, the first is {missing[0]}")
    return files


def expand_braces(pattern: str) -> Iterator[str]:
    """The texts that a pattern stands for, as in a shell: ``{a,b}``, ``{0..12}``, ``{000..012}``; not nested."""
    found = re.search(r"\{([^}]*)\}", pattern)
    if found is None:
        yield pattern
        return
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if ends is not None:
        first, last = int(ends[1]), int(ends[2])
        if abs(last - first) >= _MOST_FILES:
            raise UserError(f"{pattern}: {found[0]} stands for more than {_MOST_FILES} files")
        width = max(map(len, ends.groups())) if any(end[0] == "0" < end for end in ends.groups()) else 0
        step = 1 if first <= last else -1
        middles = [str(number).zfill(width) for number in range(first, last + step, step)]
    elif "," in found[1] and "{" not in found[1]:
        middles = found[1].split(",")
    else:
        raise UserError(f"{pattern}: {found[0]} is no range; write {{00000..00012}} or {{a,b}}")
    rests = list(expand_braces(pattern[found.end() :]))
    for middle in middles:
        for rest in rests:
            yield pattern[: found.start()] + middle + rest
