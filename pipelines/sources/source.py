"""A source of images with random access: its columns in memory, its images read one at a time on demand.

Promises: keys, captions, labels and URLs are known without reading an image; a source pickles, so the workers of a
loader can each hold one; an image that can't be read raises ``BadImage`` or ``OSError`` when it is read, never
earlier; nothing is dropped and nothing is repeated, so a consumer can account for every row.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from pipelines.sources.images import LARGEST_FILE, BadImage, decode_mask, decode_objects, image_size
from pipelines.sources.inside import Roots
from pipelines.sources.names import find_file
from saliency.files import read_regular
from saliency.shown import LONGEST_WORD, one_line

_AT_ONCE = 1 << 16  # rows that are hashed


class NoImage(BadImage):
    """The source has no image for this row."""


@dataclass(frozen=True)
class Sample:
    """One image with what its source says of it; ``image`` is encoded bytes."""

    key: str
    image: bytes
    caption: str | None
    label: int | None = None
    url: str | None = None


class Images(Protocol):
    """Where a source's encoded images are: row number to bytes, raising BadImage or OSError."""

    def __getitem__(self, row: int, /) -> bytes: ...


class Masks(Protocol):
    """Where a source's true masks are: row number to bool [H, W], or None where a row has none."""

    def __getitem__(self, row: int, /) -> NDArray[np.bool_] | None: ...


@dataclass(frozen=True)
class Swap:
    """A pair's caption with another object named instead.

    ``absent`` names one that is not in the image. ``present`` names another one that is, with its ``mask`` bool [H, W];
    both are None where the image has no other object.
    """

    absent: str
    present: str | None = None
    mask: NDArray[np.bool_] | None = None


class Swaps(Protocol):
    """Where a source's swapped captions are: row number to captions and mask."""

    def __getitem__(self, row: int, /) -> Swap: ...


@dataclass
class Source:
    """Images with their columns; ``len(source)`` pairs, which ``source[i]`` reads.

    Several pairs may share an image: ``rows`` says which row of ``images`` and ``masks`` a pair shows (None: its
    own number).
    """

    name: str
    """The source as the user typed it."""
    keys: pa.Array
    """string [n]; not necessarily unique."""
    images: Images
    texts: pa.Array | Callable[[NDArray[np.int64]], pa.Array] | None = None
    """What ``captions`` gives; a function of row numbers where captions cost something to know."""
    labels: NDArray[np.int64] | None = None
    """int64 [n], -1 where the source has none."""
    label_names: list[str] | None = None
    urls: pa.Array | None = None
    masks: Masks | None = None
    swaps: Swaps | None = None
    """Captions that name another object, where the source knows what its images show; by ``rows`` as well."""
    videos: Videos | None = None
    """Where the images are the middle frames of videos, these; by ``rows`` as well."""
    rows: NDArray[np.int64] | None = None
    originals: pa.Array | None = None
    """string [n], of a source that ``prepare`` made: the sha256 of the bytes that each image was made of."""
    warnings: list[str] = field(default_factory=list)
    """What was found wrong on opening that only costs some samples."""
    faults: dict[int, str] = field(default_factory=dict)
    """Why captions that are there can't be read; by ``rows`` as well."""

    @cached_property
    def captions(self) -> pa.Array | None:
        """string [n], null where a pair has none; None if the source has no captions at all."""
        return self.texts(self.shared_rows()) if callable(self.texts) else self.texts

    @cached_property
    def repeated(self) -> NDArray[np.bool_]:
        """Whether a pair's (key, caption) stood earlier in the source, bool [n]."""
        captions = pc.fill_null(self.captions, "") if self.captions is not None else ""
        identities = pc.binary_join_element_wise(self.keys, captions, "\x1f")
        codes = pc.dictionary_encode(identities)
        codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
        indices = np.asarray(codes.indices)
        later = np.ones(len(indices), bool)
        later[np.unique(indices, return_index=True)[1]] = False
        return later

    @property
    def has_captions(self) -> bool:
        """Whether there are captions, without computing them."""
        return self.texts is not None

    @property
    def has_masks(self) -> bool:
        """Whether there are true masks."""
        return self.masks is not None

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, i: int) -> Sample:
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        label = None if self.labels is None or self.labels[i] < 0 else int(self.labels[i])
        url = None if self.urls is None else self.urls[i].as_py()
        return Sample(self.keys[i].as_py(), self.read_image(i), self.caption(i), label, url)

    def caption(self, i: int) -> str | None:
        """The caption of pair ``i``."""
        if callable(self.texts) and "captions" not in self.__dict__:
            captions = self.texts(np.asarray([self.row(i)], np.int64))
            return None if captions[0].as_py() is None else str(captions[0].as_py())
        captions = self.captions
        return None if captions is None or captions[i].as_py() is None else str(captions[i].as_py())

    def fault(self, i: int) -> str | None:
        """Why pair ``i`` has no caption although its source holds one; None if there is nothing wrong."""
        return self.faults.get(self.row(i))

    def read_image(self, i: int) -> bytes:
        """The encoded image of pair ``i``; raises BadImage or OSError if it can't be read."""
        return self.images[self.row(i)]

    def read_mask(self, i: int) -> NDArray[np.bool_] | None:
        """The true mask of pair ``i``, bool [H, W], True on the object; None if it has none."""
        return None if self.masks is None else self.masks[self.row(i)]

    def read_objects(self, i: int) -> NDArray[np.uint8] | None:
        """The objects of pair ``i``, uint8 [H, W]: 0 is the background, and a mask without numbers shows object 1."""
        if isinstance(self.masks, DecodedMasks):
            return self.masks.objects(self.row(i))
        mask = self.read_mask(i)
        return None if mask is None else mask.astype(np.uint8)

    def swap(self, i: int) -> Swap | None:
        """Pair ``i``'s caption with another object named, or None if the source does not know of any."""
        return None if self.swaps is None else self.swaps[self.row(i)]

    def open_video(self, i: int) -> Video:
        """The video of pair ``i``; raises BadImage or OSError if it can't be read, and TypeError if there are none."""
        if self.videos is None:
            raise TypeError(f"{self.name} is a source of images")
        return self.videos[self.row(i)]

    def select(self, chosen: NDArray[np.int64] | Sequence[int]) -> Source:
        """The source that holds the chosen pairs, in that order."""
        index = np.asarray(chosen, np.int64)
        known = self.__dict__.get("captions", self.texts)
        return replace(
            self,
            keys=self.keys.take(pa.array(index)),
            texts=known if known is None or callable(known) else known.take(pa.array(index)),
            labels=None if self.labels is None else self.labels[index],
            urls=None if self.urls is None else self.urls.take(pa.array(index)),
            rows=self.shared_rows()[index],
            originals=None if self.originals is None else self.originals.take(pa.array(index)),
        )

    def with_captions(self, texts: pa.Array, rows: NDArray[np.int64]) -> Source:
        """The source whose pair ``i`` is this one's pair ``rows[i]`` with the caption ``texts[i]``."""
        return replace(self.select(rows), texts=texts)

    def row(self, i: int) -> int:
        """The row of ``images``, ``masks`` and ``videos`` that pair ``i`` shares."""
        i = i + len(self) if i < 0 else i
        return i if self.rows is None else int(self.rows[i])

    def shared_rows(self) -> NDArray[np.int64]:
        """The rows that all pairs share, int64 [n]."""
        return np.arange(len(self)) if self.rows is None else self.rows


@dataclass(frozen=True)
class FileImages:
    """Images in files of their own; ``paths`` string [n], binary if a name is no UTF-8, null where a row names none;
    ``roots`` as in :func:`read_file`."""

    paths: pa.Array
    roots: Roots | None = None

    def __getitem__(self, row: int) -> bytes:
        return read_file(self.paths[row].as_py(), self.roots)


@dataclass(frozen=True)
class DecodedMasks:
    """Masks kept as encoded images; a row that names no image has no mask."""

    images: Images

    def __getitem__(self, row: int) -> NDArray[np.bool_] | None:
        try:
            return decode_mask(self.images[row])
        except NoImage:
            return None

    def objects(self, row: int) -> NDArray[np.uint8] | None:
        """The objects that a mask numbers, see :func:`pipelines.sources.images.decode_objects`."""
        try:
            return decode_objects(self.images[row])
        except NoImage:
            return None


@dataclass(frozen=True)
class BoxMasks:
    """Boxes seen as masks: ``boxes`` list [n] of x0, y0, x1, y1 in pixels of the upright image, x1 and y1 included."""

    boxes: pa.Array
    images: Images

    def __getitem__(self, row: int) -> NDArray[np.bool_] | None:
        box = self.boxes[row].as_py()
        if box is None:
            return None
        if len(box) != 4 or not all(value is not None and math.isfinite(value) for value in box):
            raise BadImage(f"its box has {box}, not x0, y0, x1, y1")
        width, height = image_size(self.images[row])
        x0, y0, x1, y1 = (max(round(value), 0) for value in box)
        mask = np.zeros((height, width), np.bool_)
        mask[y0 : y1 + 1, x0 : x1 + 1] = True
        return mask


def read_file(path: str | bytes | None, roots: Roots | None = None) -> bytes:
    """The bytes of a regular file that a table names.

    The name may be in another Unicode form than the file's. It is bytes where it is no text. Raises NoImage if there is
    none; BadImage if links lead out of ``roots``, where these are given; OSError, whose text is short, if the file
    can't be read or has more than ``LARGEST_FILE`` bytes.
    """
    if not path:
        raise NoImage("its row names no file")
    named = Path(os.fsdecode(path))
    if "\0" in str(named):
        raise BadImage("its file name holds a zero byte")
    try:
        try:
            return _read_inside(named, roots)
        except FileNotFoundError:
            found = find_file(named)
            if found is None:
                raise
            return _read_inside(found, roots)
    except OSError as error:
        if len(path) > LONGEST_WORD:  # what is no name at all, such as an image in base64
            raise OSError(error.errno, error.strerror, one_line(str(named), LONGEST_WORD)) from None
        raise


@dataclass(frozen=True)
class Rejected:
    """A pair or an image that can't be had, and why."""

    key: str
    caption: str | None
    reason: str


def hash_pairs(source: Source, *, captions: bool = True) -> str:
    """sha256 of all keys, and captions if asked for, in order."""
    digest = hashlib.sha256()
    for column in (source.keys, source.captions if captions else None):
        if column is None:
            continue
        for batch in pa.table([column], ["text"]).to_batches(max_chunksize=_AT_ONCE):
            lines = pc.binary_join_element_wise(pc.fill_null(batch["text"], "\x00"), "\n", "")
            _, ends, data = lines.buffers()  # of a result, not of a slice: the texts lie one behind the other
            digest.update(memoryview(data)[: np.frombuffer(ends, np.int32)[len(lines)]])
    return digest.hexdigest()


class Video(Protocol):
    """A video that is open for reading; whatever is wrong with it raises BadImage or OSError when it shows."""

    @property
    def times(self) -> NDArray[np.float64]:
        """When each frame begins, in seconds, ascending, float64 [n], n ≥ 1."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright frames."""

    def read(self, frames: Sequence[int], *, draft: int | None = None) -> list[Image.Image]:
        """These frames, ascending numbers, in upright RGB; ``draft`` as in
        :func:`pipelines.sources.images.decode_rgb`."""

    def read_moving(
        self, frames: Sequence[int], *, draft: int | None = None, pictures: bool = True
    ) -> tuple[list[Image.Image], NDArray[np.float32] | None]:
        """As :meth:`read`, with the frames' motion as :mod:`pipelines.sources.video.motion` has it, [k, G, G].

        None for the motion where the video carries none. Without ``pictures`` their list is empty.
        """

    def masks(self, frames: Sequence[int]) -> NDArray[np.bool_] | None:
        """The true masks of these frames, bool [k, H, W]; None where a frame has none."""


class Videos(Protocol):
    """Where a source's videos are: row number to an open video, raising BadImage or OSError."""

    def __getitem__(self, row: int, /) -> Video: ...


def _read_inside(path: Path, roots: Roots | None) -> bytes:
    if roots is not None and not roots.hold(str(path)):
        raise BadImage("its file lies outside of the source: --allow-outside reads it")
    return read_regular(path, LARGEST_FILE)
