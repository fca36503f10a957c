"""A video without an end whose hidden pixels are filled in as it comes, from what was visible until then.

Every tubelet passes a :class:`mae.recovery.stream_encoder.StreamEncoder`, which never sees a tubelet with a hidden
pixel, and may skip what does not change (:mod:`mae.recovery.skipping`). Its hidden tubelets are then decoded in the
company of all visible ones of the window, and get their brightness and contrast, channel by channel as in VideoMAE,
from pixels that are visible nearby in space and time (:mod:`mae.recovery.recover`). At the video's own size only hidden
pixels are replaced and bent towards what lies around them (:mod:`mae.recovery.completion`); all others stay as they
are, to the bit. Memory is bounded, the latency is a tubelet, and the portions in which frames come make no difference.

Shapes: a tubelet is t frames of H×W pixels and h×w at the model's size, S places of t·p·p pixels.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

import torch
from torch import Tensor

from mae.devices import copy_to
from mae.models.video import VideoMaskedAutoencoder
from mae.models.vit import MaskedAutoencoder
from mae.precision import rounded
from mae.recovery.completion import complete, enlarge_into, shrink_visible
from mae.recovery.recover import nearness, visible_statistics
from mae.recovery.remembered import Remembered
from mae.recovery.skipping import Skipper
from mae.recovery.stream_encoder import Inbox, StreamEncoder, check_frames, hidden_places, skipper_for
from mae.recovery.window_recoverer import WindowRecoverer


class Recoverer(Protocol):
    """Fills in the hidden pixels of a stream, with a video model or with an image one, frame by frame."""

    latency: int
    """In frames: a frame is completed when so many frames, itself among them, have come."""

    @property
    def skipped(self) -> float:
        """The share of the visible patches that were not encoded again, 0..1, over all streams so far."""

    def push(self, frames: Tensor, hidden: Tensor) -> Tensor:
        """Completed frames uint8 [m, 3, H, W], the next ones in order, after frames uint8 [n, 3, H, W] of any size
        whose pixels under ``hidden`` bool [n, H, W] are not to be seen; m may be 0.
        """

    def flush(self) -> Tensor | None:
        """The frames that are left at the end of the stream, None if there are none; another stream may begin."""


def stream_recoverer(
    model: MaskedAutoencoder,
    *,
    blend: bool = True,
    precision: str = "fp32",
    look_ahead: bool = False,
    skip_below: float = 0.0,
) -> Recoverer:
    """The recoverer for either kind of model; without ``blend`` the edges of the hidden regions show.

    With ``look_ahead`` frames are also filled in from later ones. ``skip_below`` is as in
    :func:`mae.recovery.stream_encoder.stream_encoder`. ValueError for either with an image model, and for both.
    """
    if look_ahead and not isinstance(model, VideoMaskedAutoencoder):
        raise ValueError("--look-ahead is for models of video; a model of images sees every frame on its own")
    skipper = skipper_for(model, skip_below)
    if isinstance(model, VideoMaskedAutoencoder):
        if look_ahead and skipper is not None:
            raise ValueError("--skip-below does not go with --look-ahead, which encodes whole windows")
        if look_ahead:
            return WindowRecoverer(model, blend=blend, precision=precision)
        return StreamRecoverer(model, blend=blend, precision=precision, skipper=skipper)
    return FrameRecoverer(model, blend=blend, precision=precision)


class StreamRecoverer:
    """Completes a stream with a video model; see above. All frames of a stream have one size.

    What the ``skipper`` does not choose of the visible places is not encoded again.
    """

    def __init__(
        self,
        model: VideoMaskedAutoencoder,
        *,
        blend: bool = True,
        precision: str = "fp32",
        skipper: Skipper | None = None,
    ) -> None:
        self.model, self.latency, self._blend = model, model.tubelet, blend
        self.encoder = StreamEncoder(model, precision, skipper)
        self._visible = self._skipped = 0
        self._decoder = StreamDecoder(self.encoder)
        self._inbox = Inbox(model.tubelet)
        # share [S], mean and deviation [C, S] of the visible pixels of every tubelet that is remembered
        self._seen: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=model.grid[0])

    def push(self, frames: Tensor, hidden: Tensor) -> Tensor:
        """As :meth:`Recoverer.push`. ValueError for shapes that do not fit."""
        check_frames(frames, hidden)
        done = [self._complete(*portion) for portion in self._inbox.add(frames, hidden)]
        return torch.cat(done) if done else frames[:0]

    def flush(self) -> Tensor | None:
        """As :meth:`Recoverer.flush`; the last frame is repeated until there is a whole tubelet."""
        done = [self._complete(*portion) for portion in self._inbox.rest()]
        self.encoder.flush()
        self._seen.clear()
        return done[0] if done else None

    @property
    def skipped(self) -> float:
        """As :attr:`Recoverer.skipped`."""
        return self._skipped / max(self._visible, 1)

    @torch.no_grad()
    def _complete(self, frames: Tensor, hidden: Tensor | None, count: int) -> Tensor:
        assert hidden is not None
        device = self.model.pos_embed.device
        given = copy_to(frames, device)
        small, where = shrink_visible(given, hidden, self.model.image_size)  # where it is hidden, the host knows
        covered = copy_to(where, device)
        small = small.masked_fill(covered[:, None], 0)
        for encoded in self.encoder.push(small, where):
            self._visible += len(encoded.places)
            self._skipped += encoded.skipped
        self._remember(small, covered)
        places = copy_to(hidden_places(where, self.model.patch_size), device)
        prediction = self._decoder.predict(places)
        if not len(places):
            return frames[:count]
        filled = self._fill(small, places, prediction)
        large = enlarge_into(given, hidden, filled, covered, blend=self._blend)
        return large[:count].to(frames.device)

    def _remember(self, small: Tensor, covered: Tensor) -> None:
        colours = self._cells(small.float() / 255)  # [S, t·p·p, 3]
        visible = ~self._cells(covered[:, None])  # [S, t·p·p, 1]
        share, mean, deviation = visible_statistics(
            colours.permute(2, 0, 1), visible.permute(2, 0, 1).expand(3, -1, -1)
        )
        self._seen.append((share[0], mean, deviation))

    def _fill(self, small: Tensor, hidden: Tensor, prediction: Tensor) -> Tensor:
        """The newest tubelet uint8 [t, 3, h, w] with its ``hidden`` places [M] as predicted, [M, t·p·p·3]."""
        predicted = prediction.view(len(hidden), -1, 3)
        if self.model.norm_pix:
            mean, deviation = self._nearby(hidden)
            predicted = predicted * deviation + mean
        cells = self._cells(small.float() / 255)
        cells[hidden] = predicted
        return (self._frames(cells) * 255).round().clamp(0, 255).to(torch.uint8)

    def _nearby(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation [M, 1, 3] for the newest tubelet's places ``hidden`` [M], from what is visible around."""
        share = torch.cat([each[0] for each in self._seen])
        means, deviations = (torch.cat([each[part] for each in self._seen], dim=1) for part in (1, 2))
        grid, seen = (len(self._seen), *self.model.grid[1:]), share.any()
        near = nearness(share[None], grid, newest=grid[1] * grid[2])[0, hidden]  # [M, N]
        # With nothing to see yet: grey, of a photo's contrast.
        mean, deviation = (
            torch.where(seen, near @ values.T, usual) for values, usual in ((means, 0.5), (deviations, 0.25))
        )
        return mean[:, None], deviation[:, None]

    def _cells(self, frames: Tensor) -> Tensor:
        """Frames [t, C, h, w] by place, [S, t·p·p, C]."""
        _, rows, columns = self.model.grid
        p = self.model.patch_size
        cells = frames.reshape(*frames.shape[:2], rows, p, columns, p).permute(2, 4, 0, 3, 5, 1)
        return cells.reshape(rows * columns, -1, frames.shape[1])

    def _frames(self, cells: Tensor) -> Tensor:
        """Undoes ``_cells``."""
        _, rows, columns = self.model.grid
        p = self.model.patch_size
        frames = cells.reshape(rows, columns, -1, p, p, cells.shape[2]).permute(2, 5, 0, 3, 1, 4)
        return frames.reshape(-1, cells.shape[2], *self.model.image_size)


class StreamDecoder:
    """Predicts a stream's newest tubelet: the decoder's keys and values are remembered as the encoder's are.

    All tokens of a tubelet, those of hidden places too, stay in the window, so that what is filled in next sees what
    was filled in before. A place that the encoder skipped has the token that it had. When the encoder begins a window
    anew, so does this.
    """

    def __init__(self, encoder: StreamEncoder) -> None:
        self._encoder = encoder
        model, self._places = encoder.model, encoder.model.grid[1] * encoder.model.grid[2]
        like = model.decoder_pos_embed
        self._remembered = Remembered(model.decoder_blocks, like.shape[1], model.class_tokens, like, encoder.precision)
        self._window = 0

    @torch.no_grad()
    def predict(self, hidden: Tensor) -> Tensor:
        """Predictions [M, t·p·p·C] of the newest tubelet's places ``hidden``, int64 [M]; to be called for every one."""
        model, slot = self._encoder.model, self._encoder.slot
        with rounded(self._encoder.precision, hidden.device):
            if self._window != self._encoder.windows:
                self._window = self._encoder.windows
                self._remembered.clear()
                if slot:
                    self._add(0, slot, hidden[:0])
            found = self._add(slot, slot + 1, hidden)
            prediction: Tensor = model.decoder_pred(model.decoder_norm(found))
        return prediction.float()

    def _add(self, start: int, end: int, wanted: Tensor) -> Tensor:
        """The decoder's tokens [M, width] of the places ``wanted`` of the slots from ``start`` to ``end``."""
        model, places = self._encoder.model, self._places
        latents, ids = (each[0] for each in self._encoder.window(start, end))
        first, positions = model.class_tokens, model.decoder_pos_embed[0]
        embedded = model.decoder_embed(latents)
        tokens = model.mask_token[0].repeat((end - start) * places, 1)
        tokens[ids - start * places] = embedded[first:].to(tokens.dtype)
        tokens += positions[first + start * places : first + end * places]
        return self._remembered.add(torch.cat([embedded[:first] + positions[:first], tokens]), first + wanted)


class FrameRecoverer:
    """Completes a stream with an image model, every frame on its own."""

    latency, skipped = 1, 0.0

    def __init__(self, model: MaskedAutoencoder, *, blend: bool = True, precision: str = "fp32") -> None:
        self.model, self._blend, self._precision = model, blend, precision

    def push(self, frames: Tensor, hidden: Tensor) -> Tensor:
        """As :meth:`Recoverer.push`."""
        check_frames(frames, hidden)
        asked = {"blend": self._blend, "precision": self._precision}
        done = [  # one by one: a batch of another size might have other last bits
            complete(self.model, frame[None], mask[None], **asked).to(frames.device)  # type: ignore[arg-type]
            if mask.any()
            else frame[None]
            for frame, mask in zip(frames, hidden, strict=True)
        ]
        return torch.cat(done) if done else frames[:0]

    def flush(self) -> Tensor | None:
        """Nothing is left."""
        return None
