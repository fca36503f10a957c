"""``inspect SOURCE --leaks OTHER``: images that two sources share, the same pixels or nearly the same picture."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np

from pipelines.sources.images import BadImage, decode_rgb
from pipelines.sources.source import Source
from pipelines.views.duplicates import Hashes, find_leaks, grey_version

_SHOWN = 5
_AT_ONCE = 1024


def hash_source(source: Source) -> Hashes:
    """The hashes of every image once; what can't be read is left out."""
    parts: list[Hashes] = []
    rows, greys, exact = [], [], []
    every = np.unique(source.shared_rows(), return_index=True)[1].tolist()
    for number, row in enumerate(every, start=1):
        try:
            image = decode_rgb(source.read_image(row))
        except (BadImage, OSError):
            pass
        else:
            rows.append(row)
            greys.append(grey_version(image))
            exact.append(hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest())
        if rows and (len(rows) == _AT_ONCE or number == len(every)):
            parts.append(replace(Hashes.of(np.asarray(rows, np.int64), np.stack(greys)), exact=exact))
            rows, greys, exact = [], [], []
    return Hashes.joined(parts)


def describe_leaks(source: Source, other: Source) -> tuple[dict[str, str], dict[str, Any]]:
    """What images of ``other`` are in ``source``, as lines of text by title, and as plain values with keys."""
    found = find_leaks(hash_source(source), hash_source(other))
    kinds = {"same pixels": found.exact, "nearly the same": found.near, "mirrored": found.mirrored}
    facts, numbers = {}, {}
    for kind, pairs in kinds.items():
        keys = [(source.keys[mine].as_py(), other.keys[theirs].as_py()) for mine, theirs in pairs]
        shown = ", ".join(f"{theirs} is {mine}" for mine, theirs in keys[:_SHOWN])
        more = f" … ({len(keys) - _SHOWN} more)" if len(keys) > _SHOWN else ""
        facts[kind] = f"{len(keys)} of {found.images} images of {other.name}" + (f": {shown}{more}" if keys else "")
        numbers[kind] = [list(pair) for pair in keys]
    return facts, {"leaks": {"images": found.images, **numbers}}
