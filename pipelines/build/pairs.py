"""The pairs of a source on their way into a build: in order, each with what is known before its image is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pipelines.build.shard_plan import Plan
from pipelines.sources.open_source import StreamSource
from pipelines.sources.source import Sample, Source


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
            yield (
                number,
                Pair(source.keys[i].as_py(), caption, url, bool(duplicate[i]), _Reader(source, i), source.fault(i)),
            )


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
