"""Video without an end: an encoder that sees every frame once, remembers a window of tubelets, and never grows.

Frames come in any portions; each whole tubelet of t frames takes the next free time slot of the model's W and passes
the blocks once: its tokens look at each other and at the keys and values that the blocks kept of the slots before. When
all slots are taken, the last ⌊W/2⌋ tubelets are encoded anew, together, as the slots 0, 1, …, and the stream goes on
behind them. So every position is one that the model was trained with, what a tubelet gives depends on the frames and
its number alone, not on the portions, and a tubelet costs about two passes of a slot instead of W.

With a :class:`mae.recovery.skipping.Skipper` only the places that it names are encoded. The others keep the token that
they had, and its keys and values stay for those that follow. When a window begins anew, its first tubelet is encoded
whole, and the next ones where they changed. A place that changes in none of them gets a position without a time, the
mean of its positions in all slots, because it stands for all of them; the second tubelet of a stream begins a window
for that reason. A token that stands for n tubelets gets the attention of n equal ones (Bolya et al. 2022, arXiv
2210.09461, section 3: proportional attention). With nothing skipped, the bits are those of an encoder that never skips.

The latency is t frames. What it approximates: in a clip every slot sees all others; here a slot sees itself and those
before it (at least ⌊W/2⌋ of them once the stream is under way), and a slot that was not encoded anew does not know what
came after it. Keys and values are kept as in decoders of text (a cache); memory is allocated once, at the start.

Shapes: t frames of H×W pixels a tubelet, S = H/p · W/p places a slot, K tokens that are visible, D the width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mae.devices import copy_to
from mae.models.video import VideoMaskedAutoencoder
from mae.models.vit import MaskedAutoencoder
from mae.pixels import normalise
from mae.precision import rounded
from mae.recovery.remembered import Remembered
from mae.recovery.skipping import PixelChange, Skipper, Tubelet, strip_of


class Encoded(NamedTuple):
    """What a stream's encoder makes of one tubelet."""

    number: int
    """The tubelet's number, from 0."""
    first: int
    """The number of its first frame."""
    frames: int
    """How many frames it holds; less than others' only at the end of the stream."""
    tokens: Tensor
    """[K, D] of the visible places."""
    places: Tensor
    """int64 [K], ascending: row · columns + column."""
    skipped: int = 0
    """How many of them did not change, and have the tokens that they had before."""

    def feature(self) -> Tensor:
        """The mean token, [D]; NaN where everything is hidden."""
        return self.tokens.mean(0)


class LiveEncoder(Protocol):
    """An encoder of a stream, of a video model or of an image one, frame by frame."""

    latency: int
    """In frames: a frame's tokens are there when so many frames, itself among them, have come."""

    def push(self, frames: Tensor, hidden: Tensor | None = None) -> list[Encoded]:
        """What is finished by frames uint8 [n, 3, H, W] of the model's size, ``hidden`` bool [n, H, W] of them."""

    def flush(self) -> list[Encoded]:
        """What the end of the stream finishes; another stream may begin."""


def stream_encoder(model: MaskedAutoencoder, precision: str = "fp32", skip_below: float = 0.0) -> LiveEncoder:
    """The encoder of a stream for either kind of model; ``precision`` is fp32 or bf16.

    Above 0, ``skip_below`` is what a place must change to be encoded again, see
    :class:`mae.recovery.skipping.PixelChange`. ValueError for a value out of its range, and with an image model, which
    remembers nothing.
    """
    skipper = skipper_for(model, skip_below)
    if isinstance(model, VideoMaskedAutoencoder):
        return StreamEncoder(model, precision, skipper)
    return FrameEncoder(model, precision)


def skipper_for(model: MaskedAutoencoder, skip_below: float) -> Skipper | None:
    """What skips places that changed by less than ``skip_below``; None for 0. ValueError as :func:`stream_encoder`."""
    skipper = PixelChange(skip_below, model.patch_size) if skip_below else None
    if skipper is not None and not isinstance(model, VideoMaskedAutoencoder):
        raise ValueError("--skip-below is for models of video; a model of images remembers nothing of a stream")
    return skipper


class StreamEncoder:
    """Encodes a stream of frames with a video model; see above. The model stays as it is, and where it is.

    A ``skipper`` chooses the places of each tubelet that are encoded; see above for the others.
    """

    def __init__(self, model: VideoMaskedAutoencoder, precision: str = "fp32", skipper: Skipper | None = None) -> None:
        slots, rows, columns = model.grid
        self.model, self.latency, self.precision = model, model.tubelet, precision
        self._slots, self._places, self._first = slots, rows * columns, model.class_tokens
        self._inbox = Inbox(model.tubelet)
        length = self._first + slots * self._places
        like = model.pos_embed
        self._remembered = Remembered(model.blocks, length, self._first, like, precision)
        self._latents = like.new_empty(length, like.shape[-1])
        # of all places that were visible, slot after slot: which they are, and where their tokens lie among the latents
        self._ids, self._at_ids = (
            torch.empty(slots * self._places, dtype=torch.int64, device=like.device) for _ in range(2)
        )
        self._ends = [0]  # of the slots among them
        self._recent: deque[Tubelet] = deque(maxlen=slots // 2)
        self._skipper = skipper
        self._timeless = like[0, self._first :].view(slots, self._places, -1).mean(0)
        self._at = torch.zeros(self._places, dtype=torch.int64, device=like.device)  # of each place's newest token
        self._stands = like.new_ones(length)  # for how many tubelets each remembered token stands
        self._embedded = like.new_empty(self._places, like.shape[-1])  # what it was made of, without position
        self.windows = 0
        """How many windows have begun."""
        self._begin()

    def push(self, frames: Tensor, hidden: Tensor | None = None) -> list[Encoded]:
        """What frames uint8 [n, 3, H, W] finish; a tubelet with a pixel under ``hidden`` bool [n, H, W] is not seen.

        The host waits for the device only if ``hidden`` lies there. ValueError for frames of another size than the
        model's.
        """
        check_frames(frames, hidden, self.model.image_size)
        return [self._encode(*portion) for portion in self._inbox.add(frames, hidden)]

    def flush(self) -> list[Encoded]:
        """The last tubelet, if it is not whole: its last frame is repeated. The next frame begins another stream."""
        found = [self._encode(*portion) for portion in self._inbox.rest()]
        self._begin()
        return found

    @property
    def slot(self) -> int:
        """The time slot of the newest tubelet; -1 before the first one."""
        return len(self._ends) - 2

    def window(self, start: int = 0, end: int | None = None) -> tuple[Tensor, Tensor]:
        """What is remembered of the slots from ``start`` to ``end``, by default of all: tokens [1, 1+K, D], after the
        class token's if there is one, and int64 [1, K] where they are among the model's W·S tubelets.

        A place that was skipped has the token that it had before.
        """
        part = slice(self._ends[start], self._ends[-1 if end is None else end])
        tokens = self._latents[self._at_ids[part]]
        return torch.cat([self._latents[: self._first], tokens])[None], self._ids[None, part]

    @property
    def memory(self) -> int:
        """Bytes of all that is kept, which is never more than this."""
        kept = [self._latents, self._ids, self._at_ids, self._at, self._stands, self._embedded]
        kept += [tensor for tubelet in self._recent for tensor in tubelet if tensor is not None]
        return self._remembered.memory + sum(tensor.numel() * tensor.element_size() for tensor in kept)

    def _begin(self) -> None:
        self._taken = self._index = 0
        self._recent.clear()
        self._forget()
        if self._skipper is not None:
            self._skipper.clear()

    def _forget(self) -> None:
        self.windows += 1
        self._remembered.clear()
        self._ends = [0]
        self._uneven = False  # whether a token stands for several tubelets

    @torch.no_grad()
    def _encode(self, frames: Tensor, hidden: Tensor | None, count: int) -> Encoded:
        """The newest tubelet, of frames uint8 [t, 3, H, W]."""
        with rounded(self.precision, self.model.pos_embed.device):
            if self._skipper is not None and self._taken == self._slots and not self._recent:
                self._skipper.clear()  # nothing is remembered
            tubelet = self._embed(frames, hidden) if self._skipper is None else self._embed_fresh(frames, hidden)
            if self._taken == self._slots or (self._index == 1 and tubelet.new is not None):
                self._begin_window(tubelet)
            latents = self._pass([tubelet], self._taken)
        self._taken += 1
        self._recent.append(tubelet)
        skipped = len(tubelet.places) - len(latents)
        if skipped:
            latents = self._latents[self._at[tubelet.places]]
        encoded = Encoded(self._index, self._index * self.model.tubelet, count, latents, tubelet.places, skipped)
        self._index += 1
        return encoded

    def _embed(self, frames: Tensor, hidden: Tensor | None) -> Tubelet:
        """All visible places of the newest tubelet."""
        model, device = self.model, self.model.pos_embed.device
        clip = normalise(copy_to(frames, device)).to(model.pos_embed.dtype).transpose(0, 1)[None]
        tokens = model.embed(clip, (1, *model.grid[1:]))[0]
        if hidden is None:
            return Tubelet(tokens, torch.arange(self._places, device=device))
        places = copy_to(visible_places(hidden, model.patch_size), device)
        return Tubelet(tokens[places], places)

    def _embed_fresh(self, frames: Tensor, hidden: Tensor | None) -> Tubelet:
        """The newest tubelet's visible places, those that did not change with the embeddings that they had."""
        assert self._skipper is not None
        model, device = self.model, self.model.pos_embed.device
        visible = torch.ones(self._places, dtype=torch.bool, device=frames.device)
        if hidden is not None:
            visible = ~hidden_cells(hidden, model.patch_size).to(frames.device)
        fresh = self._skipper.fresh(frames, visible)[visible]
        if fresh.all():
            tubelet = self._embed(frames, hidden)
            self._embedded[tubelet.places] = tubelet.tokens.to(self._embedded.dtype)
            return tubelet
        places, new = (torch.nonzero(each)[:, 0] for each in (visible, fresh))
        strip = copy_to(strip_of(frames, places[new], model.patch_size), device)
        tokens = model.embed(normalise(strip).to(model.pos_embed.dtype), (1, 1, len(new)))[0]
        places, new = copy_to(places, device), copy_to(new, device)
        self._embedded[places[new]] = tokens.to(self._embedded.dtype)
        return Tubelet(self._embedded[places], places, new)

    def _begin_window(self, newest: Tubelet) -> None:
        """Encode the last tubelets anew, together, as the first slots; the ``newest`` one is to follow them."""
        self._forget()
        if self._recent:
            first, *others = self._recent
            still, later = torch.zeros_like(self._at, dtype=torch.bool), (*others, newest)
            for tubelet in later:
                still[tubelet.places] = True
            for tubelet in later:
                still[tubelet.fresh()[1]] = False
            self._pass([Tubelet(first.tokens, first.places), *others], 0, still)
        self._taken = len(self._recent)

    def _pass(self, tubelets: Sequence[Tubelet], slot: int, still: Tensor | None = None) -> Tensor:
        """Latents [F, D] of what is fresh of tubelets in the slots from ``slot``, behind those that are there.

        ``still``, bool [S], are places that only the first of them encodes, which get positions without a time.
        """
        model, first, used = self.model, self._first, self._remembered.used
        fresh = [tubelet.fresh() for tubelet in tubelets]
        ids = torch.cat([(slot + each) * self._places + places for each, (_, places) in enumerate(fresh)])
        end = used
        for each, (tubelet, (_, places)) in enumerate(zip(tubelets, fresh, strict=True)):
            start, end = end, end + len(places)
            self._at[places] = torch.arange(first + start, first + end, device=places.device)
            self._stands[first + start : first + end] = 0
            at = self._at[tubelet.places]
            self._stands[at] += 1
            self._uneven |= tubelet.new is not None
            shown = slice(self._ends[-1], self._ends[-1] + len(at))
            self._at_ids[shown], self._ids[shown] = at, (slot + each) * self._places + tubelet.places
            self._ends.append(shown.stop)
        x = torch.cat([tokens for tokens, _ in fresh]) + model.pos_embed[0].index_select(0, ids + first)
        if still is not None and self._skipper is not None:
            tokens, places = fresh[0]
            x[: len(places)] = torch.where(still[places, None], tokens + self._timeless[places], x[: len(places)])
        if model.cls_token is not None:  # it looks at all there is, every time, and replaces its former self
            x = torch.cat([(model.cls_token + model.pos_embed[:, :first])[0], x])
        latents: Tensor = model.norm(
            self._remembered.add(x, bias=self._stands[: first + end].log() if self._uneven else None)
        )
        self._latents[:first] = latents[:first]
        self._latents[first + used : first + end] = latents[first:]
        return latents[first:]


class FrameEncoder:
    """A stream of frames encoded one by one with an image model: a tubelet is a frame, nothing is remembered."""

    latency = 1

    def __init__(self, model: MaskedAutoencoder, precision: str = "fp32") -> None:
        self.model, self.precision, self._index = model, precision, 0

    @torch.no_grad()
    def push(self, frames: Tensor, hidden: Tensor | None = None) -> list[Encoded]:
        """As :meth:`StreamEncoder.push`."""
        check_frames(frames, hidden, self.model.image_size)
        model, device, found = self.model, self.model.pos_embed.device, []
        for number, frame in enumerate(frames):
            image = normalise(copy_to(frame[None], device))
            places = torch.arange(model.pos_embed.shape[1] - model.class_tokens, device=device)
            if hidden is not None:
                places = copy_to(visible_places(hidden[number : number + 1], model.patch_size), device)
            with rounded(self.precision, device):
                tokens = model.encode_visible(image, places[None])[0, model.class_tokens :]
            found.append(Encoded(self._index, self._index, 1, tokens, places))
            self._index += 1
        return found

    def flush(self) -> list[Encoded]:
        """Nothing is left; another stream begins."""
        self._index = 0
        return []


class Inbox:
    """Frames that wait until they are a portion of ``size``, and at the end of the stream what is left, made whole."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._frames: list[Tensor] = []
        self._hidden: list[Tensor | None] = []

    def add(self, frames: Tensor, hidden: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None, int]]:
        """Frames [size, 3, H, W], what is hidden of them or None for nothing, and how many of them are real."""
        for number, frame in enumerate(frames):
            # a copy: what is kept must not hold on to the whole portion, nor change when the caller's does
            self._frames.append(frame.clone())
            self._hidden.append(None if hidden is None else hidden[number].clone())
            if len(self._frames) == self._size:
                yield self._take()

    def rest(self) -> Iterator[tuple[Tensor, Tensor | None, int]]:
        """The same of what is left, its last frame repeated."""
        if self._frames:
            yield self._take()

    def _take(self) -> tuple[Tensor, Tensor | None, int]:
        count = len(self._frames)
        missing = self._size - count
        frames = torch.stack(self._frames + self._frames[-1:] * missing)
        hidden = None
        if any(each is not None for each in self._hidden):
            some = next(one for one in self._hidden if one is not None)
            each = [torch.zeros_like(some) if one is None else one for one in self._hidden]
            hidden = torch.stack(each + each[-1:] * missing)
        self._frames, self._hidden = [], []
        return frames, hidden, count


def visible_places(hidden: Tensor, patch_size: int) -> Tensor:
    """The places that are visible in all frames, int64 [K], where ``hidden`` bool [t, H, W] lies."""
    return torch.nonzero(~hidden_cells(hidden, patch_size))[:, 0]


def hidden_places(hidden: Tensor, patch_size: int) -> Tensor:
    """The other places, int64 [M]."""
    return torch.nonzero(hidden_cells(hidden, patch_size))[:, 0]


def hidden_cells(hidden: Tensor, patch_size: int) -> Tensor:
    """Which places have a pixel under ``hidden`` bool [t, H, W] in any frame, bool [S]."""
    rows, columns = (side // patch_size for side in hidden.shape[1:])
    cells = hidden.reshape(len(hidden), rows, patch_size, columns, patch_size)
    return cells.any(dim=4).any(dim=2).any(dim=0).flatten()


def check_frames(frames: Tensor, hidden: Tensor | None, size: tuple[int, int] | None = None) -> None:
    """ValueError unless frames are uint8 [n, 3, H, W], of this size if one is given, and ``hidden`` bool [n, H, W]."""
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8:
        raise ValueError(f"frames must be uint8 [n, 3, H, W], not {frames.dtype} {list(frames.shape)}")
    if size is not None and tuple(frames.shape[2:]) != size:
        raise ValueError(
            f"frames of {frames.shape[2]}×{frames.shape[3]} pixels do not fit a model of {size[0]}×{size[1]}"
        )
    if hidden is not None and hidden.shape != (len(frames), *frames.shape[2:]):
        raise ValueError(f"hidden pixels of shape {list(hidden.shape)} do not fit frames of {list(frames.shape)}")
