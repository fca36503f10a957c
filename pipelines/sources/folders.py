"""Folders of images as sources: with captions in text files beside them, one folder a class, or images alone.

Images are taken in the order of their paths. ``NAME.txt``, ``NAME.caption``, ``NAME.jpg.txt`` or, where that is empty,
the caption in ``NAME.json`` belongs to ``NAME.jpg``. A class tree has its images in two or more folders; its classes
are the first folder of each path, sorted by name, and its captions "a photo of a {class}". Images beside the folders,
if they are fewer than these, are left out of a class tree without captions, and if they are more there are no classes.
An image ``NAME_mask.png`` beside ``NAME.jpg`` is that image's mask and no sample.
"""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa

from pipelines.outputs import is_ours
from pipelines.sources.images import PICTURE_LIKE, SUFFIXES
from pipelines.sources.names import composed, stem_of, text_names
from pipelines.sources.source import DecodedMasks, FileImages, Source
from pipelines.sources.tables.columns import Wishes, as_text, sample_caption
from pipelines.sources.tables.table_source import METADATA
from pipelines.sources.text_files import BadText, read_text

_TEXTS = (".txt", ".caption")
"""Suffixes of captions, the first before the second."""
_SHARD_STATS = "_stats.json"
"""What img2dataset writes beside each of its folders, which are shards and no classes."""


@dataclass
class Found:
    """What lies below a folder, as paths relative to it."""

    images: list[str] = field(default_factory=list)
    """Sorted."""
    texts: dict[str, str] = field(default_factory=dict)
    """Text files by their paths without their suffixes."""
    shards: set[str] = field(default_factory=set)
    """Folders that img2dataset made, by the statistics which it writes beside each."""
    listings: list[str] = field(default_factory=list)
    """``metadata.*`` in folders below, sorted."""
    left_out: list[str] = field(default_factory=list)
    """Pictures by their suffixes, in formats that are not decoded."""

    def warnings(self) -> list[str]:
        """The pictures that are left out, in a line."""
        if not self.left_out:
            return []
        kinds = collections.Counter(PurePosixPath(path).suffix.lower() for path in self.left_out)
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        return [f"{counted} left out, for such pictures are not decoded; the first is {text_names(self.left_out)[0]}"]


def look_below(folder: Path) -> Found:
    """All that a folder of images can be made of."""
    found = Found()
    for path in files_below(str(folder)):
        stem, suffix = os.path.splitext(path)  # noqa: PTH122 (a Path for each of millions of files is slow)
        suffix = suffix.lower()
        if suffix in SUFFIXES:
            found.images.append(path)
        elif suffix in _TEXTS:
            known = found.texts.get(composed(stem))
            if known is None or _rank(path) < _rank(known):
                found.texts[composed(stem)] = path
        elif suffix in PICTURE_LIKE:
            found.left_out.append(path)
        elif path.rpartition("/")[2] in METADATA:
            found.listings.append(path)
        elif path.endswith(_SHARD_STATS):
            found.shards.add(path.removesuffix(_SHARD_STATS))
    found.images.sort()
    found.listings.sort()
    return found


def pictures_below(folder: Path, apart: Iterable[Path | None] = ()) -> list[str]:
    """The relative paths of the pictures in a folder and its subfolders, sorted, but for subfolders ``apart``.

    As in every source, what is hidden and subfolders that a command wrote are passed over.
    """
    there = folder.resolve()
    others = [place.resolve() for place in apart if place is not None]
    inside = tuple(f"{place.relative_to(there).as_posix()}/" for place in others if there in place.parents)
    found = (path for path in files_below(str(folder)) if os.path.splitext(path)[1].lower() in SUFFIXES)  # noqa: PTH122
    return sorted(path for path in found if not path.startswith(inside))


def open_folder(name: str, folder: Path, found: Found, limit: int | None = None) -> Source | None:
    """The source of the images below a folder, None if there are none; ``name`` is what the user typed."""
    if not found.images:
        return None
    warnings = found.warnings()
    paths, masks = without_masks(found.images)
    has_sidecars = bool(found.texts) and any(_text_of(path, found) for path in paths)
    if not has_sidecars and (strays := _strays(paths)):
        shown = text_names(strays)
        warnings.append(f"{len(strays)} next to the class folders left out; the first is {shown[0]}")
        paths = [path for path in paths if "/" in path]
    names = None if _are_shards(paths, found, numbered=has_sidecars) else class_names(paths)
    paths = paths[:limit]
    captions: list[str | None] | None = None
    faults: dict[int, str] = {}
    labels = None
    if has_sidecars:
        captions = [_caption(folder, path, found, row, faults) for row, path in enumerate(paths)]
    if names is not None:
        numbers = {label: i for i, label in enumerate(names)}
        labels = np.asarray([numbers[path.partition("/")[0]] for path in paths], np.int64)
        names = text_names(names)
        if captions is None:
            of_class = [class_caption(label) for label in names]
            captions = [of_class[label] for label in labels.tolist()]
    keys = text_names(paths)
    odd = [path for path, key in zip(paths, keys, strict=True) if path != key]
    if odd:
        warnings.append(f"{len(odd)} names are no UTF-8; the first has the key {text_names(odd)[0]}")
    return Source(
        name,
        pa.array(keys, pa.string()),
        FileImages(_paths(folder, paths)),
        None if captions is None else pa.array(captions, pa.string()),
        labels,
        names,
        masks=DecodedMasks(FileImages(_paths(folder, [masks.get(stem_of(p)) for p in paths]))) if masks else None,
        warnings=warnings,
        faults=faults,
    )


def class_names(paths: list[str]) -> list[str] | None:
    """The sorted classes of images with these relative paths, or None if the folders are not classes."""
    classes = {path.partition("/")[0] for path in paths if "/" in path}
    return sorted(classes) if len(classes) > 1 and all("/" in path for path in paths) else None


def class_caption(name: str) -> str:
    """The caption of an image of which only the class is known."""
    words = name.replace("_", " ")
    return f"a photo of {'an' if words[:1].lower() in tuple('aeiou') else 'a'} {words}"


def _strays(paths: Sequence[str]) -> list[str]:
    """The images beside the folders of a class tree: fewer than these, and none where the folders are no classes."""
    strays = [path for path in paths if "/" not in path]
    classes = class_names([path for path in paths if "/" in path]) if strays else None
    return strays if classes is not None and len(strays) < len(classes) else []


def _are_shards(paths: Sequence[str], found: Found, *, numbered: bool) -> bool:
    """Whether the folders are img2dataset's shards, not classes: by its statistics or, if asked, their numbers."""
    folders = {path.partition("/")[0] for path in paths}
    return folders <= found.shards or (numbered and all(map(str.isdigit, folders)))


def without_masks(paths: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The images that are not masks, and the mask of each image that has one, by its path without the suffix."""
    named = [path for path in paths if path.endswith("_mask.png")]
    stems = {stem_of(path) for path in paths} if named else set()
    masks = {stem: path for path in named if (stem := stem_of(path).removesuffix("_mask")) in stems}
    found = set(masks.values())
    return [path for path in paths if path not in found], masks


def _paths(folder: Path, paths: Sequence[str | None]) -> pa.Array:
    """The files' paths, as bytes if one of them is no text."""
    above = str(folder / "_")[:-1]  # a Path for each of millions of files is slow
    full = [None if path is None else above + path for path in paths]
    try:
        return pa.array(full, pa.string())
    except UnicodeEncodeError:
        return pa.array([None if path is None else os.fsencode(path) for path in full], pa.binary())


def _rank(path: str) -> int:
    return _TEXTS.index(os.path.splitext(path)[1].lower())  # noqa: PTH122


def _text_of(path: str, found: Found) -> str | None:
    """The text file beside an image."""
    return found.texts.get(stem_of(path)) or found.texts.get(composed(path))


def _caption(folder: Path, path: str, found: Found, row: int, faults: dict[int, str]) -> str | None:
    """The caption beside an image; why there is none that can be read goes into ``faults``."""
    beside = _text_of(path, found)
    if beside is None:
        return None
    text = None
    try:
        text = read_text(folder / beside)
        if text:
            return text
        fields = json.loads(read_text((folder / path).with_suffix(".json")))
    except BadText as error:
        faults[row] = str(error)
        return None
    except (OSError, ValueError, RecursionError):  # no JSON, or none that says anything
        return text
    caption = sample_caption(text, fields, Wishes()) if isinstance(fields, dict) else text
    return next(filter(None, map(as_text, caption)), text) if isinstance(caption, list) else caption


def files_below(folder: str, prefix: str = "", parents: tuple[str, ...] = ()) -> Iterator[str]:
    """The relative paths of all files below a folder, but for what is hidden and for what a command wrote there."""
    real = os.path.realpath(folder)
    if real in parents:  # a link to a folder above it
        return
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if not entry.name.startswith(".")]
    if prefix and is_ours({entry.name for entry in found}):
        return
    for entry in found:
        if entry.is_dir():
            yield from files_below(entry.path, f"{prefix}{entry.name}/", (*parents, real))
        else:
            yield f"{prefix}{entry.name}"
