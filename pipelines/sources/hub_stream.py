"""A Hub dataset as a source: read once from its start, nothing stored, its columns named as a table's are.

Images come undecoded. The stream's order is the dataset's own, so ``skip(n)`` goes on where ``n`` samples were taken.
An image that can't be fetched arrives as zero bytes, for the consumer to reject like any other bad image.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.errors import UserError
from pipelines.sources.images import LARGEST_FILE
from pipelines.sources.inside import check_streamed
from pipelines.sources.source import Sample
from pipelines.sources.tables.columns import (
    CAPTION_NAMES,
    URL_NAMES,
    Roles,
    Wishes,
    as_label,
    as_text,
    assign_roles,
    first_field,
    sample_caption,
)
from pipelines.sources.tables.first_captions import first_rows
from saliency.caches import cache_fault

_TIMEOUT = 20  # seconds


@dataclass(frozen=True)
class StreamSource:
    """Samples in order, without random access or a known length."""

    name: str
    """The source as the user typed it."""
    dataset: Any
    """A ``datasets.IterableDataset`` whose images are not decoded."""
    roles: Roles
    wishes: Wishes
    label_names: list[str] | None = None
    documents: frozenset[str] = frozenset()
    """The fields of the ``json`` that the samples of a WebDataset carry."""
    start: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def has_captions(self) -> bool:
        """Whether there are captions."""
        return self.roles.caption is not None or not self.documents.isdisjoint(CAPTION_NAMES)

    def __iter__(self) -> Iterator[Sample]:
        limit = self.wishes.limit
        if self.wishes.captions == "first" and self.roles.key in (None, "__key__"):
            # One sample a row: whole rows can be skipped without reading them.
            rows = enumerate(self.dataset.skip(self.start) if self.start else self.dataset, self.start)
            samples = (sample for number, row in rows for sample in self.samples(number, row))
            yield from itertools.islice(samples, None if limit is None else max(limit - self.start, 0))
        else:
            every = self._first() if self.wishes.captions == "first" else self._all()
            yield from itertools.islice(every, self.start, limit if limit is None else max(limit, self.start))

    def _all(self) -> Iterator[Sample]:
        return (sample for number, row in enumerate(self.dataset) for sample in self.samples(number, row))

    def _first(self) -> Iterator[Sample]:
        """One sample an image: rows of one key that follow each other may give it several captions."""
        truth = self.roles.mask or self.roles.box
        rows = ((number, row, next(self.samples(number, row))) for number, row in enumerate(self.dataset))
        for _, run in itertools.groupby(rows, key=lambda item: item[2].key):
            first = first_rows(
                run,
                lambda item: (item[2].image, item[2].label, item[2].url, str(item[1].get(truth))),
                lambda item: item[2].caption,
            )
            yield from (sample for _, _, sample in first)

    def skip(self, n: int) -> StreamSource:
        """The stream without its first ``n`` samples."""
        return replace(self, start=self.start + n)

    def samples(self, number: int, row: dict[str, Any]) -> Iterator[Sample]:
        """The samples, one or more, that row ``number`` of the dataset gives."""
        roles = self.roles
        document = row["json"] if isinstance(row.get("json"), dict) else {}
        key = as_text(document.get("key")) or (as_text(row[roles.key]) if roles.key else None)
        label = row.get(roles.label) if roles.label else None
        caption = row.get(roles.caption) if roles.caption else None
        if document and roles.caption in (None, "txt"):
            caption = sample_caption(caption, document, self.wishes)
        image = self.read(row[roles.image])
        for text in self._captions(caption):
            yield Sample(
                key or f"{self.wishes.split or 'train'}-{number:08d}",
                image,
                as_text(text),
                as_label(label),
                as_text(row.get(roles.url) if roles.url else first_field(document, URL_NAMES)),
            )

    def read(self, value: Any) -> bytes:
        """:func:`encoded_bytes` of a row's value; UserError if it names a file of this machine, unless so wished."""
        named = value.get("path") if isinstance(value, dict) and value.get("bytes") is None else None
        if named and not self.wishes.allow_outside:
            check_streamed(self.name, str(named))
        return encoded_bytes(value)

    def _captions(self, value: Any) -> list[Any]:
        if not isinstance(value, list):
            return [value]
        return (value if self.wishes.captions == "all" else value[:1]) or [None]


def open_stream(name: str, wishes: Wishes) -> StreamSource:
    """The Hub dataset ``name`` (``user/name``), streamed; raises UserError if it can't be had."""
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    advice = f"pass a local folder, or get it with: hf download {name} --repo-type dataset --local-dir FOLDER"
    try:
        # Asked for first, since ``datasets`` retries for half a minute where there is no network.
        HfApi().dataset_info(name, timeout=_TIMEOUT)
    except GatedRepoError as error:
        raise UserError(f"the Hub dataset {name} is gated: ask for access on its page, then hf auth login") from error
    except RepositoryNotFoundError as error:
        why = "is neither a local path nor a dataset on the Hub: check the spelling"
        raise UserError(f"{name} {why}; {advice}") from error
    except OfflineModeIsEnabled as error:
        why = "is no local path, and HF_HUB_OFFLINE is set, so the Hub isn't asked"
        raise UserError(f"{name} {why}: unset it, {advice}") from error
    except Exception as error:  # The HTTP client's errors differ between versions of huggingface_hub.
        if fault := cache_fault(error, reading=True):
            raise UserError(fault) from error
        why = "is no local path, and the Hub can't be reached: check the spelling and the network"
        raise UserError(f"{name} {why}; {advice}") from error
    try:
        dataset = datasets.load_dataset(name, split=wishes.split or "train", streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        if fault := cache_fault(error, reading=True):
            raise UserError(fault) from error
        raise UserError(f"the Hub dataset {name} can't be streamed: {error}; {advice}") from error
    return stream_dataset(name, dataset, wishes)


def stream_dataset(name: str, dataset: Any, wishes: Wishes) -> StreamSource:
    """The stream of a ``datasets.IterableDataset``, its columns named by convention."""
    import datasets

    if dataset.features is None:
        dataset = dataset._resolve_features()
    features = dataset.features or {}
    for column, feature in features.items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
    document = features.get("json")
    fields = frozenset(document) if isinstance(document, dict) else frozenset()
    columns = wishes
    if wishes.caption_column in fields and wishes.caption_column not in features:
        columns = replace(wishes, caption_column=None)
    roles = assign_roles(datasets.Features(features).arrow_schema, name, columns)
    names = getattr(features.get(roles.label), "names", None) if roles.label else None
    return StreamSource(name, dataset, roles, wishes, names, fields)


def encoded_bytes(value: Any) -> bytes:
    """The bytes of an image as ``datasets`` gives it undecoded; none where it has none or they can't be fetched."""
    if isinstance(value, dict):
        path = value.get("path")
        value = value.get("bytes")
        if value is None and path:
            import fsspec  # type: ignore[import-untyped]

            try:
                with fsspec.open(path, "rb") as file:
                    value = file.read(LARGEST_FILE + 1)
            except (OSError, ValueError):
                value = None
    return value if isinstance(value, bytes) and len(value) <= LARGEST_FILE else b""
