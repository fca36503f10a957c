"""The pairs of a source on their way into a build: in order, each with what is known before its image is read."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from pipelines.build.options import BuildOptions
from pipelines.build.shard_plan import Plan
from pipelines.sources.open_source import StreamSource, open_asked
from pipelines.sources.source import Sample, Source, Video

CAPTIONS_A_LOOK = 8
"""An image with more captions is looked at again. The model follows the captions of a batch's images in step, so one
image with a hundred of them would keep all others waiting."""


@dataclass(frozen=True)
class Pair:
    """One pair on its way in: what is known before its image is read, and how to read it."""

    key: str
    caption: str | None
    url: str | None
    duplicate: bool
    read: Callable[[], bytes]
    fault: str | None = None
    """Why its caption can't be read, where it has one."""
    row: int | None = None
    """The row of the source's images that it shows; pairs with the same row show the same image."""
    video: Callable[[], Video] | None = None
    """Opens its video, where its image is the middle frame of one."""


def open_pairs(options: BuildOptions) -> Source | StreamSource:
    """The source of a build. Raises UserError."""
    return open_asked(options.source, options, clips=options.clips)


def by_image(pairs: Iterable[tuple[int, Pair]]) -> Iterator[tuple[int, list[Pair]]]:
    """Groups of pairs that may show one image: side by side, of one shard, with one key. At most ``CAPTIONS_A_LOOK``.

    Whether images in a group differ, their bytes tell.
    """
    for (number, _), alike in itertools.groupby(pairs, lambda numbered: (numbered[0], numbered[1].key)):
        while group := [pair for _, pair in itertools.islice(alike, CAPTIONS_A_LOOK)]:
            yield number, group


def read_shards(source: Source | StreamSource, plan: Plan, todo: Iterable[int]) -> Iterator[tuple[int, Pair]]:
    """The pairs of some shards, in order, with their shard's number; each marked if its (key, caption) came before.

    Of a stream, all shards from the first of ``todo`` on.
    """
    if isinstance(source, StreamSource):
        yield from _read_stream(source, plan.shard_size, skip=next(iter(todo)) * plan.shard_size)
        return
    duplicate = source.repeated
    for number in todo:
        for i in plan.rows(number):
            caption = source.captions[i].as_py() if source.captions is not None else None
            url = source.urls[i].as_py() if source.urls is not None else None
            key, read, fault, row = source.keys[i].as_py(), _Reader(source, i), source.fault(i), source.row(i)
            video = None if source.videos is None else partial(source.open_video, i)
            yield number, Pair(key, caption, url, bool(duplicate[i]), read, fault, row, video)


def _read_stream(source: StreamSource, shard_size: int, *, skip: int) -> Iterator[tuple[int, Pair]]:
    seen: set[bytes] = set()
    for i, sample in enumerate(source):
        identity = hashlib.blake2b(f"{sample.key}\x1f{sample.caption}".encode(), digest_size=16).digest()
        if i >= skip:
            yield i // shard_size, Pair(sample.key, sample.caption, sample.url, identity in seen, _Holder(sample))
        seen.add(identity)


@dataclass(frozen=True)
class _Reader:
    source: Source
    index: int

    def __call__(self) -> bytes:
        return self.source.read_image(self.index)


@dataclass(frozen=True)
class _Holder:
    sample: Sample

    def __call__(self) -> bytes:
        return self.sample.image
