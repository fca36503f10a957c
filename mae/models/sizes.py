"""The sizes of models, by name."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """The dimensions of a model."""

    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    patch_size: int = 16


SIZES = {
    "mini": Size(96, 6, 3, 64, 2, 2),
    "tiny": Size(192, 12, 3, 128, 4, 4),
    "small": Size(384, 12, 6, 256, 8, 8),
    "base": Size(768, 12, 12, 512, 8, 16),
    "large": Size(1024, 24, 16, 512, 8, 16),
    "huge": Size(1280, 32, 16, 512, 8, 16, patch_size=14),
}
"""``base`` to ``huge`` are the paper's; the smaller ones have decoders in proportion, ``mini`` is for trying things."""


def decoder_heads(size: Size, width: int) -> int:
    """How many heads of the size's width a decoder of another width has; ValueError if they do not fit."""
    head = size.decoder_width // size.decoder_heads
    if width < head or width % head:
        raise ValueError(f"--decoder-width {width} must be a multiple of {head}, the width of this size's heads")
    return width // head
