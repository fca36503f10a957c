"""Sources for jobs that read images in random order and more than once: what a stream can't give is downloaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from pipelines.commandline.shared_options import Captions
from pipelines.errors import UserError
from pipelines.sources.open_source import StreamSource, open_asked
from pipelines.sources.source import Source
from pipelines.sources.tables.first_captions import one_pair_an_image
from pipelines.sources.tables.table_source import open_dataset
from saliency.caches import cache_fault


class SourceOptions(Protocol):
    """The options of a command that say where its images are."""

    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def image_column(self) -> str | None: ...  # noqa: D102
    @property
    def caption_column(self) -> str | None: ...  # noqa: D102
    @property
    def captions(self) -> Captions: ...  # noqa: D102
    @property
    def limit(self) -> int | None: ...  # noqa: D102
    @property
    def split(self) -> str | None: ...  # noqa: D102
    @property
    def allow_outside(self) -> bool: ...  # noqa: D102


def open_images(
    options: SourceOptions, *, spec: str | None = None, limit: int | None = None, every_row: bool = False
) -> Source:
    """The source of a command with random access; ``spec`` and ``limit`` stand in for the options' own. UserError.

    ``every_row`` is as in :func:`pipelines.sources.open_source.open_source`.
    """
    taken = limit if spec else options.limit
    source = open_asked(spec or options.source, options, limit=taken, every_row=every_row)
    return _download(source, every_row) if isinstance(source, StreamSource) else source


def open_videos(options: SourceOptions, *, spec: str | None = None, limit: int | None = None) -> Source:
    """The source of a command whose samples are videos, as :func:`open_images`. UserError."""
    source = open_asked(spec or options.source, options, limit=limit if spec else options.limit, clips=True)
    assert isinstance(source, Source)  # a stream of videos is refused
    return source


def _download(stream: StreamSource, every_row: bool = False) -> Source:
    """The same pairs of a dataset that is brought whole into the cache of ``datasets`` and memory-mapped from there."""
    import datasets

    try:
        dataset = datasets.load_dataset(stream.name, split=stream.wishes.split or "train")
    except (OSError, ValueError, RuntimeError) as error:
        if fault := cache_fault(error, reading=True):
            raise UserError(fault) from error
        raise UserError(
            f"the Hub dataset {stream.name} can't be downloaded: {error}; try: hf download {stream.name} "
            "--repo-type dataset --local-dir FOLDER, and give the folder"
        ) from error
    wishes = stream.wishes
    if wishes.captions != "first" or every_row:
        return open_dataset(stream.name, dataset, wishes)
    source = one_pair_an_image(open_dataset(stream.name, dataset, replace(wishes, limit=None)))
    return source if wishes.limit is None else source.select(range(min(wishes.limit, len(source))))
