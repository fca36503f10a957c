"""What ``inspect`` says of a source: pairs, captions, labels, masks, image sizes, and what can't be read."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np

from pipelines.sources.images import BadImage, decode_rgb
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
    """Sizes of the first images, and which of them can't be read."""
    sizes, bad = collections.Counter[tuple[int, int]](), []
    for i in range(min(len(source), _TRIED)):
        try:
            sizes[decode_rgb(source.read_image(i)).size] += 1
        except (BadImage, OSError) as error:
            bad.append(f"{source.keys[i].as_py()}: {error}")
    common = sizes.most_common(3)
    shown = ", ".join(f"{width}×{height} ({count})" for (width, height), count in common)
    facts = {f"sizes of the first {_TRIED}": shown or "none can be read"}
    if bad:
        facts[f"unreadable of the first {_TRIED}"] = f"{len(bad)}, first: {bad[0]}"
    rows = [{"width": width, "height": height, "images": count} for (width, height), count in common]
    return facts, {"tried": sizes.total() + len(bad), "unreadable": len(bad), "sizes": rows}
