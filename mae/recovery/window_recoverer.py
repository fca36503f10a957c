"""A stream filled in with whole windows, so that a frame is filled in from later frames as well.

A window is a clip of the model's T frames, in which every tubelet sees all others
(:func:`mae.recovery.recover.recover`). Windows begin every T/2 frames, and each gives its middle half. The first window
also gives its beginning. The last one is made of the last T frames of the stream, and gives all that are left. A stream
of fewer frames than T is one window, whose last frame is repeated. A frame waits for T frames at most, and memory holds
T frames.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from mae.devices import copy_to
from mae.models.video import VideoMaskedAutoencoder
from mae.recovery.completion import enlarge_into, shrink_visible
from mae.recovery.recover import recover
from mae.recovery.stream_encoder import check_frames


class WindowRecoverer:
    """A :class:`mae.recovery.stream_recoverer.Recoverer` of whole windows; see above."""

    skipped = 0.0

    def __init__(self, model: VideoMaskedAutoencoder, *, blend: bool = True, precision: str = "fp32") -> None:
        self.model, self.latency = model, model.frames
        self._blend, self._precision = blend, precision
        self._window: deque[tuple[Tensor, Tensor]] = deque(maxlen=model.frames)
        self._come = self._given = 0
        self._next = model.frames
        """How many frames there are when the next window is whole."""

    def push(self, frames: Tensor, hidden: Tensor) -> Tensor:
        """As :meth:`mae.recovery.stream_recoverer.Recoverer.push`. ValueError for shapes that do not fit."""
        size = self._window[0][0].shape[1:] if self._window else frames.shape[2:]
        check_frames(frames, hidden)
        if frames.shape[2:] != size:
            raise ValueError(f"frames of {list(frames.shape[2:])} pixels follow frames of {list(size)}")
        done = []
        for each in zip(frames, hidden, strict=True):
            self._window.append((each[0].clone(), each[1].clone()))  # the caller may write over a portion
            self._come += 1
            if self._come == self._next:
                count = self.model.frames
                done.append(self._complete(self._come - count // 4))
                self._next += max(count // 2, 1)
        return torch.cat(done) if done else frames[:0]

    def flush(self) -> Tensor | None:
        """As :meth:`mae.recovery.stream_recoverer.Recoverer.flush`."""
        rest = self._complete(self._come) if self._given < self._come else None
        self._window.clear()
        self._come = self._given = 0
        self._next = self.model.frames
        return rest

    @torch.no_grad()
    def _complete(self, end: int) -> Tensor:
        """Those frames of the window that were not given yet, up to the stream's frame ``end``."""
        model, start = self.model, self._come - len(self._window)
        wanted = slice(self._given - start, end - start)
        self._given = end
        frames, hidden = (torch.stack(each) for each in zip(*self._window, strict=True))
        if not hidden[wanted].any():
            return frames[wanted]
        small, covered = shrink_visible(copy_to(frames, model.pos_embed.device), hidden, model.image_size)
        missing = model.frames - len(small)
        clip, where = (torch.cat([each, each[-1:].expand(missing, *each.shape[1:])]) for each in (small, covered))
        filled = recover(model, clip.transpose(0, 1)[None], where[None], self._precision)[0].transpose(0, 1)
        given = copy_to(frames[wanted], filled.device)
        known = copy_to(covered[wanted], filled.device)
        done = enlarge_into(given, hidden[wanted], filled[: len(small)][wanted], known, blend=self._blend)
        return done.to(frames.device)
