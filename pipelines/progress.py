"""One look for progress: a bar on a terminal, a plain line every half minute elsewhere, nothing with ``--quiet``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from operator import length_hint
from typing import Any, TextIO

from tqdm import tqdm

SECONDS = 30.0
"""Time between two lines where there is no terminal, and before the first one: a short job prints none."""

_LINE = "{desc}{n_fmt}/{total_fmt}{unit} ({percentage:.0f}%), {rate_noinv_fmt}, {remaining} left{postfix}"
_ENDLESS = "{desc}{n_fmt}{unit}, {rate_noinv_fmt}, {elapsed} elapsed{postfix}"


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    unit: str,
    name: str | None = None,
    total: int | None = None,
    done: int = 0,
    part: bool = False,
    scale: bool = False,
    quiet: bool = False,
) -> tqdm[Any]:
    """A progress bar on stderr, with rate and time left; it iterates over ``items`` if they are given.

    ``unit`` is a plural, such as ``images``. ``total`` is the number of units, by default the length of ``items``;
    without either, the time left is unknown. ``done`` units are from an earlier run. The bar of a ``part`` of a
    command disappears at its end. ``scale`` writes 1.2k for 1200. Further figures, such as the loss, are set with
    ``bar.set_postfix(loss=…, refresh=False)``.
    """
    if total is None and items is not None:
        total = length_hint(items) or None
    title = f"{name}: " if name else None
    told: dict[str, Any] = {"desc": title, "total": total, "initial": done, "unit": f" {unit}", "unit_scale": scale}
    if sys.stderr.isatty():
        return tqdm(items, **told, leave=not part, disable=quiet, smoothing=0.05, dynamic_ncols=True)
    return tqdm(
        items, **told, leave=not part, disable=quiet, smoothing=0.05, file=_Lines(sys.stderr), miniters=1,
        mininterval=SECONDS, maxinterval=2 * SECONDS, delay=SECONDS, bar_format=_ENDLESS if total is None else _LINE,
    )  # fmt: skip


def memory_figure(device: Any) -> dict[str, str]:
    """The peak of the memory that torch has allocated on a GPU, as a figure for a bar; empty for other devices."""
    if not str(device).startswith("cuda"):
        return {}
    import torch

    return {"memory": f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB"}


class _Lines:
    """A text stream on which a bar that is drawn anew each time becomes one line after the other."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        if line := text.strip():
            self._stream.write(f"{line}\n")

    def flush(self) -> None:
        self._stream.flush()
