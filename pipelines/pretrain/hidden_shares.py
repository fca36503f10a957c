"""What the masks of a training hide of its maps, known before the first step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mae.masks.masking import Masking, salient_set
from pipelines.views.geometry import stack_views
from pipelines.views.image_views import ViewBatch, training_view
from pipelines.views.joined_maps import JoinedMaps

_VIEWS = 256
_HIGH = 0.9


@dataclass(frozen=True)
class HiddenShares:
    """Means over a sample of views, 0..1."""

    mass: float
    """Share of a view's saliency in hidden patches."""
    salient: float
    """Share of a view's salient set that is hidden."""
    by_chance: float
    """The same of random masks, which is the mask ratio."""

    def line(self) -> str:
        """For the start of a training."""
        return (
            f"the masks hide {self.mass:.0%} of the maps' saliency and {self.salient:.0%} of the salient patches; "
            f"random masks would hide {self.by_chance:.0%}"
        )

    def warnings(self) -> list[str]:
        """A line if little of what is salient stays visible."""
        if max(self.mass, self.salient) <= _HIGH:
            return []
        return [
            f"the masks hide more than {_HIGH:.0%} of what is salient, so the model rarely sees it: try a lower "
            "--salient-ratio, --salient-pick weighted or --salient-cap (mae-cli inspect MAPS --masks compares them)"
        ]


def hidden_shares(masking: Masking, maps: JoinedMaps, grid: tuple[int, ...], seed: int) -> HiddenShares | None:
    """From a view each of at most 256 pairs that have a map, evenly spaced, as in the first epoch.

    None if no map of these shows anything. No image is read. ValueError for maps whose image sizes can't be.
    """
    pairs = np.flatnonzero(maps.rows >= 0)
    pairs = pairs[np.linspace(0, len(pairs) - 1, min(len(pairs), _VIEWS)).round().astype(np.int64)]
    sizes = maps.table.image_sizes()[maps.rows[pairs]].tolist()
    views = [training_view(seed, 0, pair, *size) for pair, size in zip(pairs.tolist(), sizes, strict=True)]
    boxes, flips = stack_views(views)
    unread = torch.empty(len(pairs), 3, 0, 0, dtype=torch.uint8)
    slots = grid[0] if len(grid) == 3 else 1
    whole = (np.arange(slots) + 0.5) / slots  # as if a clip were all of its video
    moments = np.tile(whole.astype(np.float32), (len(pairs), 1))
    batch = ViewBatch(unread, boxes, flips, pairs, [], np.arange(len(pairs)), moments=moments)
    saliency = maps.on_views(batch, grid)
    seen = saliency.sum(1) > 0
    if not seen.any():
        return None
    hidden = masking(len(pairs), grid, generator=torch.Generator().manual_seed(seed), saliency=saliency).hidden[seen]
    saliency = saliency[seen].double()
    members = salient_set(saliency, torch.zeros_like(saliency), masking.salient_mass)
    mass, salient = (((each * hidden).sum(1) / each.sum(1)).mean().item() for each in (saliency, members.double()))
    return HiddenShares(mass, salient, masking.hidden(grid) / hidden.shape[1])
