"""The true masks or boxes of the source itself as maps: the oracle, which no method can beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import UserError
from pipelines.import_maps.reader import Asked, Reader, check_size, whole
from pipelines.sources.images import BadImage
from pipelines.sources.source import Source
from saliency.maps import Box


def open_masks(options: Asked, source: Source) -> Reader:
    """The reader of a source's own masks; UserError if it has none."""
    if not source.has_masks:
        raise UserError(
            f"{options.source} has no true masks: it needs a column mask, mask_file_name or box, or files NAME_mask.png"
        )

    def read(pair: int, size: tuple[int, int], grid: int) -> tuple[NDArray[np.float32], Box]:
        mask = source.read_mask(pair)
        if mask is None:
            raise BadImage("it has no true mask")
        check_size(mask, size)
        return whole(mask, grid)

    return Reader(read)
