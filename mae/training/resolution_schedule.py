"""Progressive resolution: training begins with small images and ends with large ones (Touvron et al. 2019, arXiv
1906.06423, and Tan and Le 2021, arXiv 2104.00298, are of its family).

The size is a function of the epoch alone and changes between epochs only, so a resumed run has the sizes of one that
was never stopped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ResolutionSchedule:
    """Sizes (height, width) in pixels and the shares of the training at which they begin, in order; 0 is the first.

    ``epochs`` is the length of the training; each size must get one of them at least. ValueError, naming the option,
    for what cannot be.
    """

    stages: tuple[tuple[float, tuple[int, int]], ...]
    epochs: int

    def __post_init__(self) -> None:
        shares = [share for share, _ in self.stages]
        if not shares or shares[0] != 0 or shares != sorted(set(shares)) or not shares[-1] < 1:
            raise ValueError(
                f"--resolution-schedule starts at 0 and continues with growing fractions below 1, not {_listed(shares)}"
            )
        for (_, size), first, next_first in zip(self.stages, self._firsts(), self._firsts()[1:], strict=False):
            if first == next_first:
                raise ValueError(f"--resolution-schedule: of --epochs {self.epochs} none is left for {_named(size)}")
        if self._firsts()[-1] >= self.epochs:
            last = _named(self.stages[-1][1])
            raise ValueError(f"--resolution-schedule: of --epochs {self.epochs} none is left for {last}")

    @classmethod
    def parse(cls, text: str, epochs: int) -> ResolutionSchedule:
        """From ``0:128,0.5:160,0.8:224``: share of the epochs, side or HEIGHTxWIDTH in pixels."""
        stages = []
        for part in text.split(","):
            share, _, size = part.partition(":")
            try:
                sides = [int(side) for side in size.lower().split("x")]
                height, width = sides * 2 if len(sides) == 1 else sides
                stages.append((float(share), (height, width)))
            except ValueError as error:
                raise ValueError(
                    f"--resolution-schedule {text!r}: {part!r} is not SHARE:SIDE or SHARE:HEIGHTxWIDTH, such as 0.5:160"
                ) from error
        return cls(tuple(stages), epochs)

    def check(self, image_size: tuple[int, int], patch_size: int) -> None:
        """ValueError unless every size is a multiple of the patch size, and the last is the model's own."""
        for _, size in self.stages:
            if min(size) < patch_size or size[0] % patch_size or size[1] % patch_size:
                wanted = f"a multiple of --patch-size {patch_size} in both directions"
                raise ValueError(f"--resolution-schedule: {_named(size)} must be {wanted}")
        last = self.stages[-1][1]
        if last != image_size:
            raise ValueError(
                f"--resolution-schedule ends with {_named(last)}, which must be --image-size {_named(image_size)}"
            )

    def size_at(self, epoch: int) -> tuple[int, int]:
        """The size in an epoch, counted from 0; that of the last one after it."""
        return [size for first, (_, size) in zip(self._firsts(), self.stages, strict=True) if first <= epoch][-1]

    def sizes(self) -> list[tuple[int, int]]:
        """The size of every epoch."""
        return [self.size_at(epoch) for epoch in range(self.epochs)]

    def _firsts(self) -> list[int]:
        """The first epoch of every stage."""
        return [math.floor(share * self.epochs + 0.5) for share, _ in self.stages]


def _named(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _listed(shares: list[float]) -> str:
    return ", ".join(f"{share:g}" for share in shares)
