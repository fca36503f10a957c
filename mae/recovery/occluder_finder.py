"""Occluders found in a stream without a mask: what comes over content that was seen before.

Every frame y is compared at a small size with a memory M, which holds at each place the content that was last seen
there, and one of what each place has shown for long. That one follows by 0.005 of the range of colours a frame at most.
The memory predicts y(x) by what was last seen within three pixels of x, or shown for long within one. It disagrees by

    d(x) = min over M and |s| of the mean over 3×3 pixels around x of max over channels |y − M(· + s)|

Where the memory is usually wrong, as on water or leaves, this proves little. So each place remembers how wrong it was,
e, the mean of d over up to 20 frames, and the content is new where d exceeds θ = τ + 6 · e, and doubtful above 0.6 · θ.
An occluder

- is born where what is new is a square of 7×7 pixels, with the doubtful pixels next to it, or comes in over the border
  of the picture. Thinner strips are what a moving object uncovers, or how it turns;
- stays marked where it is carried along: the frame before has the same content under its mark within three pixels, and
  the memory has it neither there nor, clearly better, nearby.

What is marked is not learned, nor what is next to it. So the memory keeps what the occluder covers, and the mark ends
when that is seen again. What came in over the border and has been doubtful ever since is not learned either: once
learned, the edge of an occluder would explain the rest of it, frame by frame. The memory follows a camera by whole
pixels, and knows nothing of what the camera newly shows; content that has no memory is never marked. A frame of which
most is new is taken for a cut, and the memory begins anew.

A mask depends on the frames until then alone, not on the portions in which they come. An occluder that is there from
the first frame on, and stays where it is, can't be told from the scene; nor can an object that comes into the picture
be told from an occluder.

Shapes: frames of H×W pixels, compared at h×w, whose longer side has 64 to 160 pixels, and 96 for smaller frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mae.recovery.completion import box_around
from mae.recovery.stream_encoder import check_frames

THRESHOLD = 0.06
"""τ, in units of the full range of a colour."""

_SIDES = (64, 160)
"""The longer side of the small size, at least and at most."""
_ENLARGED = 96
"""The same of frames that are smaller than that."""
_REACH = 3
"""Of a motion from frame to frame that is followed, in pixels of the small size."""
_DOUBTFUL = 0.6
_FAR = 6
"""Of a motion of the camera, in pixels of half the small size."""
_USUAL = 6.0
"""How many times the usual disagreement is none."""
_LONGEST = 20
"""How many frames the usual disagreement is a mean of."""
_BORN = 3
"""Half the side of the smallest square that is born."""
_RING = 2
"""How far around what is marked nothing is learned."""
_EDGE = 2
"""How far what is shown goes beyond the mark, where the memory disagrees."""
_SETTLES = 0.005
"""What a remembered colour changes in a frame, at most, by what passes."""
_MARGIN = 0.01
"""How much worse than the scene what is marked may agree, and stay marked."""
_CUT = 0.6
"""The fraction of a frame that is marked only because it begins something else."""
_LEAST = 0.004
"""The fraction of a frame below which nothing is reported."""
_NEVER = 9.0
"""A disagreement that no colours have."""


@dataclass
class _Memory:
    """What is remembered, at the small size."""

    content: Tensor
    """[3, h, w] in 0..1, last seen at each place."""
    settled: Tensor
    """[3, h, w]: what each place has shown for long."""
    known: Tensor
    """bool [h, w]: whether anything was."""
    usual: Tensor
    """e, [h, w]."""
    last: Tensor
    """The frame before, [3, h, w]."""
    marked: Tensor
    """bool [h, w], of that frame."""
    coming: Tensor
    """bool [h, w]: what came in over the border until then, is doubtful and not marked."""
    frames: int = 1
    """How many there were."""

    def moved(self, rows: int, columns: int) -> _Memory:
        """What is remembered of the scene, after the camera shifted it by so many pixels."""
        scene = (self.content, self.settled, self.known[None].float(), self.usual[None], self.coming[None].float())
        content, settled, known, usual, coming = (_shifted(each, rows, columns) for each in scene)
        height, width = self.marked.shape
        inside = torch.zeros_like(self.marked)
        inside[max(rows, 0) : height + min(rows, 0), max(columns, 0) : width + min(columns, 0)] = True
        known = (known[0] > 0) & inside
        return replace(self, content=content, settled=settled, known=known, usual=usual[0], coming=coming[0] > 0)


class OccluderFinder:
    """Marks what covers remembered content in a stream of frames; see above.

    ``threshold`` is τ, 0 < τ < 1: the higher, the less is marked. ValueError for another one.
    """

    def __init__(self, threshold: float = THRESHOLD) -> None:
        if not 0 < threshold < 1:
            raise ValueError(f"--find-threshold is {threshold:g}; it must be above 0 and below 1")
        self._threshold = threshold
        self._size: tuple[int, int] | None = None
        self._memory: _Memory | None = None

    @torch.no_grad()
    def push(self, frames: Tensor) -> Tensor:
        """What is occluded of the next frames uint8 [n, 3, H, W], bool [n, H, W], on their device.

        ValueError for frames of another size than the first.
        """
        check_frames(frames, None, self._size)
        self._size = (frames.shape[2], frames.shape[3])
        masks = [self._marked(frame) for frame in frames]
        return torch.stack(masks) if masks else frames.new_zeros(0, *self._size, dtype=torch.bool)

    def clear(self) -> None:
        """Another stream begins, of any size."""
        self._size = self._memory = None

    def _marked(self, frame: Tensor) -> Tensor:
        small = _small(frame)
        if self._memory is None:
            self._memory = self._begun(small)
            return torch.zeros_like(frame[0], dtype=torch.bool)
        memory = self._memory.moved(*_camera(small, self._memory))
        disagreement, shown, marked, coming = self._compared(small, memory)
        if float(marked.float().mean()) > _CUT:
            memory = self._begun(small)
            marked, coming = memory.marked, memory.coming
        self._memory = _learned(memory, small, marked, coming, disagreement)
        if float(marked.float().mean()) < _LEAST:
            return torch.zeros_like(frame[0], dtype=torch.bool)
        return _resized(shown[None].float(), (frame.shape[1], frame.shape[2]))[0] > 0.5

    def _begun(self, small: Tensor) -> _Memory:
        nothing = torch.zeros_like(small[0], dtype=torch.bool)
        return _Memory(small, small, ~nothing, torch.full_like(small[0], self._threshold), small, nothing, nothing)

    def _compared(self, small: Tensor, memory: _Memory) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The disagreement d of a frame with the memory, [h, w]; what is shown of its mark, the mark, and what is
        coming, bool [h, w].
        """
        near, far = _disagreement(small, memory)
        disagreement = torch.minimum(near, far)
        limit = self._threshold + _USUAL * memory.usual
        doubtful = _DOUBTFUL * limit
        carried = _carried(small, memory, torch.minimum(disagreement + _MARGIN, doubtful)) & (near >= doubtful)
        unlike = (disagreement > doubtful) & (disagreement < _NEVER)
        # at the edge of the last mark, what is new is what the occluder has left
        new = unlike & (~memory.marked | _shrunk(memory.marked, _REACH + 1))
        born = _opened(_most(new & (disagreement > limit)), _BORN)
        marked = _spread(born, carried | new, 12) | _most(carried)
        marked = _most(marked | _shrunk(_grown(marked, _BORN), _BORN))
        shown = marked | (_grown(marked, _EDGE) & unlike)
        coming = _spread(_border(unlike) | _grown(memory.coming, _REACH), unlike & ~_grown(marked, _RING), 12)
        return disagreement, shown, marked, coming


def _learned(memory: _Memory, small: Tensor, marked: Tensor, coming: Tensor, disagreement: Tensor) -> _Memory:
    """The memory after a frame, which it learns where nothing is marked or coming, nor next to it."""
    seen, count = ~_grown(marked | coming, _RING), memory.frames + 1
    now = disagreement.where(disagreement < _NEVER, memory.usual)
    usual = torch.lerp(memory.usual, _mean(now, 5), 1 / min(count, _LONGEST))
    settled = memory.settled + (small - memory.settled).clamp(-_SETTLES, _SETTLES)
    return _Memory(
        torch.where(seen, small, memory.content),
        torch.where(seen, torch.where(memory.known, settled, small), memory.settled),
        memory.known | seen,
        torch.where(seen, usual, memory.usual),
        small,
        marked,
        coming,
        count,
    )


def _small(frame: Tensor) -> Tensor:
    """float32 [3, h, w] in 0..1 of a frame uint8 [3, H, W]."""
    longer = max(frame.shape[1:])
    scale = (_ENLARGED if longer < _SIDES[0] else min(longer, _SIDES[1])) / longer
    return _resized(frame.float() / 255, (round(frame.shape[1] * scale) or 1, round(frame.shape[2] * scale) or 1))


def _resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    """[C, h, w] at another size: means where it is smaller."""
    if max(size) < max(values.shape[1:]):
        return F.adaptive_avg_pool2d(values, size)
    return F.interpolate(values[None], size, mode="bilinear", align_corners=False)[0]


def _camera(frame: Tensor, memory: _Memory) -> tuple[int, int]:
    """By how many rows and columns the picture shifted since the last frame, as what is not marked says.

    The best shift at half the size is made finer at the whole size. (0, 0) where no other one is clearly better.
    """
    visible = (~_grown(memory.marked, _RING + _REACH)).float()
    here, before = frame.mean(0), memory.last.mean(0)
    rows, columns = (2 * by for by in _best_shift(_halved(here), _halved(before), _halved(visible), _FAR)[0])
    moved, both = (_shifted(each[None], rows, columns)[0] for each in (before, visible))
    finer, error = _best_shift(here, moved, visible * both, 1)
    stood = float(((here - before).abs() * visible).sum() / visible.sum().clamp(min=1))
    return (rows + finer[0], columns + finer[1]) if error < 0.9 * stood else (0, 0)


def _best_shift(here: Tensor, before: Tensor, weight: Tensor, reach: int) -> tuple[tuple[int, int], float]:
    """How far a picture [h, w] shifted since the one ``before``, up to ``reach``, and how far they are then apart."""
    height, width = here.shape
    reach = min(reach, height // 4, width // 4)
    padded = (F.pad(each, (reach,) * 4) for each in (before, weight))
    there, counted = (each.unfold(0, height, 1).unfold(1, width, 1) for each in padded)
    weights = counted * weight
    apart = ((there - here).abs_() * weights).sum((2, 3)) / weights.sum((2, 3)).clamp(min=1)
    row, column = divmod(int(apart.argmin()), 2 * reach + 1)
    return (reach - row, reach - column), float(apart[row, column])


def _halved(values: Tensor) -> Tensor:
    return F.avg_pool2d(values[None], 2, ceil_mode=True)[0]


def _disagreement(frame: Tensor, memory: _Memory) -> tuple[Tensor, Tensor]:
    """How far a frame is from what is remembered within a pixel of its places, [h, w], and from that further away."""
    near = far = torch.full_like(frame[0], _NEVER)
    for rows, columns in _shifts():
        known = _shifted(memory.known[None].float(), rows, columns)[0] > 0
        found = _distance(frame, _shifted(memory.content, rows, columns))
        if max(abs(rows), abs(columns)) > 1:
            far = torch.minimum(far, found.where(known, _NEVER))
            continue
        settled = _distance(frame, _shifted(memory.settled, rows, columns))
        near = torch.minimum(near, torch.minimum(found, settled).where(known, _NEVER))
    return near, far


def _carried(frame: Tensor, memory: _Memory, limit: Tensor) -> Tensor:
    """Where the frame agrees with what was marked of the last one better than the ``limit``, bool [h, w]."""
    carried = torch.zeros_like(memory.marked)
    box = box_around(memory.marked[None], (2 * _REACH, 2 * _REACH))  # nothing else can be carried
    if box is None:
        return carried
    last, marked, here = (each[(..., *box)] for each in (memory.last, memory.marked, frame))
    least = torch.full_like(here[0], _NEVER)
    for rows, columns in _shifts():
        under = _shifted(marked[None].float(), rows, columns)[0] > 0
        least = torch.minimum(least, _distance(here, _shifted(last, rows, columns)).where(under, _NEVER))
    carried[box] = least < limit[box]
    return carried


def _shifts() -> Iterator[tuple[int, int]]:
    reach = range(-_REACH, _REACH + 1)
    return ((rows, columns) for rows in reach for columns in reach)


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """Of pictures [3, h, w]: the largest difference of the channels, its mean over 3×3 pixels, [h, w]."""
    return _mean((one - other).abs_().amax(0), 3)


def _mean(values: Tensor, side: int) -> Tensor:
    """The mean of values [h, w] over a square around each, without what lies outside."""
    return F.avg_pool2d(values[None], side, 1, side // 2, count_include_pad=False)[0]


def _most(mask: Tensor) -> Tensor:
    """Where most of 3×3 pixels are in the mask."""
    return _mean(mask.float(), 3) > 0.5


def _shifted(values: Tensor, rows: int, columns: int) -> Tensor:
    """[C, h, w] moved down by so many rows and right by so many columns; the edge is repeated."""
    if not rows and not columns:
        return values
    height, width = values.shape[1:]
    margin = max(abs(rows), abs(columns))
    padded = F.pad(values[None], (margin,) * 4, mode="replicate")[0]
    return padded[:, margin - rows : margin - rows + height, margin - columns : margin - columns + width]


def _grown(mask: Tensor, reach: int) -> Tensor:
    """All that is within a square of 2 · ``reach`` + 1 pixels around the mask; by columns, then by rows, as cheaper."""
    tall = F.max_pool2d(mask[None].float(), (2 * reach + 1, 1), 1, (reach, 0))
    return F.max_pool2d(tall, (1, 2 * reach + 1), 1, (0, reach))[0] > 0


def _shrunk(mask: Tensor, reach: int) -> Tensor:
    """Undoes ``_grown``, as if the mask went on outside of the picture."""
    return ~_grown(~mask, reach)


def _opened(mask: Tensor, reach: int) -> Tensor:
    """What of a mask holds squares of 2 · ``reach`` + 1 pixels, where outside of the picture its edge is repeated."""
    margin = 2 * reach
    padded = F.pad(mask[None, None].float(), (margin,) * 4, mode="replicate")[0, 0] > 0
    return _grown(_shrunk(padded, reach), reach)[margin:-margin, margin:-margin]


def _border(like: Tensor) -> Tensor:
    """The outermost two pixels of a mask's picture, bool [h, w]."""
    border = torch.ones_like(like)
    border[2:-2, 2:-2] = False
    return border


def _spread(mask: Tensor, allowed: Tensor, steps: int) -> Tensor:
    """The mask and what can be reached from it through ``allowed`` pixels, two pixels a step."""
    mask = mask & allowed
    for _ in range(steps if bool(mask.any()) else 0):
        before, mask = mask, _grown(mask, 2) & allowed
        if torch.equal(mask, before):
            break
    return mask
