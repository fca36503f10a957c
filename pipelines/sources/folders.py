"""Folders of images as sources: with captions in ``.txt`` files beside them, one folder a class, or images alone.

Images are taken in the order of their paths. A class tree has its images in two or more folders and none beside them;
its classes are the first folder of each path, sorted by name, and its captions "a photo of a {class}". An image
``NAME_mask.png`` beside ``NAME.jpg`` is that image's mask and no sample.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa

from pipelines.sources.images import SUFFIXES
from pipelines.sources.source import DecodedMasks, FileImages, Source


def open_folder(name: str, folder: Path, limit: int | None = None) -> Source | None:
    """The source held by the image files below a folder, None if there are none; ``name`` is what the user typed."""
    found, texts = _walk(folder)
    if not found:
        return None
    found, masks = _without_masks(found)
    names = class_names(found)
    found = found[:limit]
    images = FileImages(pa.array([str(folder / path) for path in found], pa.string()))
    captions: list[str | None] | None = None
    labels = None
    sidecars = [str(PurePosixPath(path).with_suffix(".txt")) for path in found]
    has_sidecars = bool(texts.intersection(sidecars))
    if has_sidecars:
        captions = [_read_text(folder / path) if path in texts else None for path in sidecars]
        # The folders of img2dataset's files are shards, not classes.
        names = None if names is not None and all(label.isdigit() for label in names) else names
    if names is not None:
        numbers = {label: i for i, label in enumerate(names)}
        labels = np.asarray([numbers[path.partition("/")[0]] for path in found], np.int64)
        if not has_sidecars:
            captions = [class_caption(names[label]) for label in labels]
    return Source(
        name,
        pa.array(found, pa.string()),
        images,
        None if captions is None else pa.array(captions, pa.string()),
        labels,
        names,
        masks=_masks(folder, [masks.get(_stem(path)) for path in found]) if masks else None,
    )


def class_names(paths: list[str]) -> list[str] | None:
    """The sorted classes of images with these relative paths, or None if the folders are not classes."""
    classes = {path.partition("/")[0] for path in paths if "/" in path}
    return sorted(classes) if len(classes) > 1 and all("/" in path for path in paths) else None


def class_caption(name: str) -> str:
    """The caption of an image of which only the class is known."""
    words = name.replace("_", " ")
    return f"a photo of {'an' if words[:1].lower() in tuple('aeiou') else 'a'} {words}"


def _without_masks(paths: list[str]) -> tuple[list[str], dict[str, str]]:
    """The images that are not masks, and the mask of each image that has one, by its path without the suffix."""
    stems = {_stem(path) for path in paths}
    masks = {
        _stem(path).removesuffix("_mask"): path
        for path in paths
        if path.endswith("_mask.png") and _stem(path).removesuffix("_mask") in stems
    }
    found = set(masks.values())
    return [path for path in paths if path not in found], masks


def _masks(folder: Path, paths: list[str | None]) -> DecodedMasks:
    full = [None if path is None else str(folder / path) for path in paths]
    return DecodedMasks(FileImages(pa.array(full, pa.string())))


def _stem(path: str) -> str:
    return path.rpartition(".")[0]


def _walk(folder: Path) -> tuple[list[str], set[str]]:
    """The relative paths of all images below a folder, sorted, and those of the text files."""
    images: list[str] = []
    texts: set[str] = set()
    for path in _files(str(folder), ""):
        suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 (a Path for each of millions of files is slow)
        if suffix in SUFFIXES:
            images.append(path)
        elif suffix == ".txt":
            texts.add(path)
    return sorted(images), texts


def _files(folder: str, prefix: str, parents: tuple[str, ...] = ()) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in parents:  # a link to a folder above it
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _files(entry.path, f"{prefix}{entry.name}/", (*parents, real))
            else:
                yield f"{prefix}{entry.name}"


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", errors="replace").strip()
    except OSError:
        return None
