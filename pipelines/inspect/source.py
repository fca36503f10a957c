"""What ``inspect`` says of a source: pairs, captions, labels, masks, image sizes, and what can't be read."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np

from pipelines.sources.images import BadImage, decode_rgb, is_twelve_bit
from pipelines.sources.open_source import StreamSource
from pipelines.sources.source import Source

_TRIED = 200
"""Images that are decoded."""


def describe_source(source: Source | StreamSource) -> tuple[dict[str, str], dict[str, Any]]:
    """A source's facts as lines of text by title, and as plain values."""
    if isinstance(source, StreamSource):
        facts = {"source": source.name, "kind": "a Hub dataset, read as a stream"}
        return facts, dict(facts)
    numbers: dict[str, Any] = {"source": source.name, "pairs": len(source), "true_masks": source.has_masks}
    facts = {"source": source.name, "pairs": str(len(source)), "captions": "none"}
    numbers["captions"] = 0
    if source.captions is not None:
        numbers["captions"] = len(source) - source.captions.null_count
        facts["captions"] = f"{numbers['captions']} of {len(source)}, first: {source.caption(0)}"
    if source.labels is not None:
        numbers["classes"] = len(np.unique(source.labels[source.labels >= 0]))
        facts["classes"] = str(numbers["classes"])
    facts["true masks"] = "yes" if source.has_masks else "no"
    facts["first keys"] = ", ".join(source.keys.slice(0, 3).to_pylist())
    facts |= {f"warning {number}": text for number, text in enumerate(source.warnings, 1)}
    numbers["warnings"] = list(source.warnings)
    read, counted = _read_some(source)
    return facts | read, numbers | counted


def _read_some(source: Source) -> tuple[dict[str, str], dict[str, Any]]:
    """Sizes of the first images, which of them can't be read, and which are taken for greys of 12 bits."""
    sizes, bad, twelve = collections.Counter[tuple[int, int]](), [], 0
    for i in range(min(len(source), _TRIED)):
        try:
            data = source.read_image(i)
            sizes[decode_rgb(data).size] += 1
            twelve += is_twelve_bit(data)
        except (BadImage, OSError) as error:
            bad.append(f"{source.keys[i].as_py()}: {error}")
    common = sizes.most_common(3)
    shown = ", ".join(f"{width}×{height} ({count})" for (width, height), count in common)
    facts = {f"sizes of the first {_TRIED}": shown or "none can be read"}
    if bad:
        facts[f"unreadable of the first {_TRIED}"] = f"{len(bad)}, first: {bad[0]}"
    if twelve:
        facts["12 bits in 16"] = f"{twelve} greys of the first {_TRIED} need no more: 4095 is read as white"
    rows = [{"width": width, "height": height, "images": count} for (width, height), count in common]
    return facts, {"tried": sizes.total() + len(bad), "unreadable": len(bad), "sizes": rows}
