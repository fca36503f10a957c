"""The masks of ``pretrain`` for a training loop of one's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mae.masks.masking import Masking, check_saliency
from mae.masks.strategies import blind, learned
from mae.models.mask import Mask
from pipelines.commandline.effects import check_effects
from pipelines.commandline.option_text import option_values
from pipelines.errors import UserError, user_errors
from pipelines.pretrain.options import PretrainOptions

_ANY_FRAMES = 16
"""A video's, whose masks take every option of these that an image's do."""


class Masks:
    """Draws the masks of a batch: ``masks(saliency, generator)`` gives a :class:`mae.models.mask.Mask`."""

    def __init__(self, settings: Masking) -> None:
        self.settings = settings

    def __call__(
        self,
        saliency: Tensor | NDArray[Any] | None = None,
        generator: torch.Generator | None = None,
        *,
        batch: int | None = None,
        grid: tuple[int, ...] | None = None,
        progress: float = 0.0,
    ) -> Mask:
        """Masks ``hidden`` bool [B, N] (1 = hidden), with ``ids_keep`` [B, K] and ``ids_restore`` [B, N].

        ``saliency`` holds finite numbers ≥ 0 of any scale, [B, rows, columns], or [B, N] with a ``grid`` (rows,
        columns) or on a square one. Masks that need none take the number of images as ``batch`` and the ``grid``.
        ``generator`` is one of the CPU, torch's own if not given; ``progress`` 0..1 moves a ``salient_schedule``.
        Masks lie on the device of the saliency, whose values are checked if that is the CPU. UserError.
        """
        maps = None if saliency is None else torch.as_tensor(np.asarray(saliency) if _is_array(saliency) else saliency)
        if maps is not None:
            grid = grid or _grid_of(maps)
            batch, maps = len(maps), maps.flatten(1)
        if batch is None or grid is None:
            raise UserError(
                f"masks of {self.settings.strategy} without saliency: give batch=… and grid=(rows, columns)"
            )
        with user_errors():
            if maps is not None and maps.device.type == "cpu" and self.settings.needs_saliency:
                check_saliency(maps)
            return self.settings(
                batch, grid, generator=generator or torch.default_generator, saliency=maps, progress=progress
            )

    def __repr__(self) -> str:
        return f"Masks({self.settings})"


def mask(strategy: str = "salient", ratio: float | None = None, **options: Any) -> Masks:
    """The masks of ``pretrain --masking STRATEGY`` as a callable (saliency, generator) → mask.

    ``ratio`` is short for ``salient_ratio``, the share that is hidden because it is salient. Further options have the
    command line's names: ``mask_ratio`` (0.75), ``salient_of``, ``salient_pick``, ``salient_mass``, ``salient_cap``,
    ``temperature``, ``salient_schedule`` ((0, 0.5) or "0:0.5"), ``tubes``. See :meth:`Masks.__call__` for what it takes
    and returns.

    Raises UserError for an option that is wrong or unknown, and for masks that learn (gate, attention-high, …): they
    need a learner, which ``pretrain`` trains.

    >>> masks = sm.mask("salient", ratio=0.25)
    >>> drawn = masks(torch.rand(2, 14, 14), torch.Generator().manual_seed(0))
    >>> drawn.hidden.sum(1).tolist()
    [147, 147]
    """
    if strategy in learned():
        raise UserError(
            f"{strategy!r} masks need a learner that trains with the model: pretrain(…, masking={strategy!r}) has it; "
            f"without one there are: {', '.join(blind())}"
        )
    if ratio is not None:
        options["ratio"] = ratio
    barred = {"strategy": "it is the first argument"}
    with user_errors():
        values = option_values(Masking, options, barred=barred, alias={"ratio": "salient_ratio"})
        masking = Masking(strategy, **values)
        check_effects(PretrainOptions("", Path(), masking=strategy, frames=_ANY_FRAMES, **values), values)
        return Masks(masking)


def _is_array(values: object) -> bool:
    return not isinstance(values, Tensor)


def _grid_of(maps: Tensor) -> tuple[int, ...]:
    """The grid of maps [B, rows, columns] or, of a video, [B, slots, rows, columns]; of [B, N] a square one."""
    if maps.ndim > 2:
        return tuple(maps.shape[1:])
    side = math.isqrt(maps.shape[-1])
    if maps.ndim != 2 or side * side != maps.shape[-1]:
        raise UserError(f"saliency of shape {list(maps.shape)} is on no square grid: say which, grid=(rows, columns)")
    return side, side
