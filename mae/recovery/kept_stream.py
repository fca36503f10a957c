"""A stream of which a share of the patches is encoded: those that the gate finds important, or that others choose.

What is not chosen is hidden from the encoder, tubelet by tubelet: neither encoded nor remembered.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mae.devices import copy_to
from mae.evaluation.kept_encoder import KeptEncoder
from mae.models.video import VideoMaskedAutoencoder
from mae.pixels import normalise
from mae.recovery.stream_encoder import Encoded, Inbox, LiveEncoder


class KeptStream:
    """A :class:`mae.recovery.stream_encoder.LiveEncoder` that sees what ``kept`` chooses of every tubelet or frame.

    ``encoder`` is one of the same model. The host waits for the device, which chooses.
    """

    def __init__(self, encoder: LiveEncoder, kept: KeptEncoder) -> None:
        self.latency = encoder.latency
        self._encoder, self._kept, self._inbox = encoder, kept, Inbox(encoder.latency)

    def push(self, frames: Tensor, hidden: Tensor | None = None) -> list[Encoded]:
        """As :meth:`LiveEncoder.push`; what is ``hidden`` may be chosen, and is not seen all the same."""
        return [found for portion in self._inbox.add(frames, hidden) for found in self._push(*portion)]

    def flush(self) -> list[Encoded]:
        """As :meth:`LiveEncoder.flush`."""
        found = [each for portion in self._inbox.rest() for each in self._push(*portion)]
        return found + self._encoder.flush()

    def _push(self, frames: Tensor, hidden: Tensor | None, count: int) -> list[Encoded]:
        chosen = self._chosen(frames)
        left = ~chosen if hidden is None else hidden | ~chosen
        return [found._replace(frames=count) for found in self._encoder.push(frames, left.expand(len(frames), -1, -1))]

    @torch.no_grad()
    def _chosen(self, frames: Tensor) -> Tensor:
        """The pixels, bool [H, W], of the places chosen of frames uint8 [t, 3, H, W]."""
        model, p = self._kept.model, self._kept.model.patch_size
        seen, grid = normalise(copy_to(frames, model.pos_embed.device)), model.grid
        if isinstance(model, VideoMaskedAutoencoder):
            seen, grid = seen.transpose(0, 1)[None], (1, *model.grid[1:])
        cells = torch.zeros(grid[-2] * grid[-1], dtype=torch.bool)
        cells[self._kept.kept(seen, grid)[0].cpu()] = True
        return cells.view(grid[-2:]).repeat_interleave(p, 0).repeat_interleave(p, 1)
