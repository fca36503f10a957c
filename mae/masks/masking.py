"""Who is hidden: every strategy gives each patch a priority, and the M patches of highest priority are hidden.

With uniform noise as the priority this is the random masking of MAE (He et al. 2021, arXiv 2111.06377); the salient
strategies raise some patches above that noise, and ``mae.masks.strategies`` lists them all. M = N − int(N·(1 − mask
ratio)) whatever the image. Noise comes from the CPU, as much of it for every map: a seed gives the same masks on every
device, and salient ratio 0 is the random run.

A video's grid is (slots, rows, columns). Its masks are tubes, one image's mask in every time slot (Tong et al. 2022,
arXiv 2203.12602): what moves little can't be looked up in another frame. ``random`` is of space and time.

Shapes: B images, N patches (row-major on the grid), K = N − M kept patches. A mask is bool, 1 = hidden.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mae.devices import copy_to
from mae.masks.granularity import block_grid, block_mask, block_means, to_patches
from mae.masks.strategies import SALIENT_OF, SALIENT_PICKS, SALIENT_RATIO, STRATEGIES, Strategy, blind
from mae.models.mask import Mask, hidden_count, inverse


def mask_from_priorities(priorities: Tensor, mask_ratio: float) -> Mask:
    """Hides the M highest of ``priorities`` [B, N] in each row."""
    # A stable sort, because an unstable one may order equal priorities differently on another device.
    order = torch.argsort(priorities, dim=1, stable=True)
    keep = order.shape[1] - hidden_count(order.shape[1], mask_ratio)
    ids_restore = inverse(order)
    return Mask(order[:, :keep], ids_restore, ids_restore >= keep)


def top_order(scores: Tensor, ties: Tensor) -> Tensor:
    """Patches [B, N] from the highest to the lowest of ``scores`` [B, N]; noise ``ties`` orders equal ones."""
    by_noise = torch.argsort(ties, dim=1, stable=True)
    by_score = torch.argsort(scores.gather(1, by_noise), dim=1, descending=True, stable=True)
    return by_noise.gather(1, by_score)


def top_ranks(scores: Tensor, ties: Tensor) -> Tensor:
    """Rank [B, N] of each patch by ``scores``: 0 is the highest; ties are broken by the noise ``ties``."""
    return inverse(top_order(scores, ties))


def weighted_scores(saliency: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Scores [B, N] whose top k is a draw of k patches without replacement, probability ∝ saliency^(1/temperature).

    The Gumbel top-k trick in log space, multiplied by the temperature so that a small one cannot overflow.
    ``uniform`` is noise in [0, 1). Patches without saliency get −inf: they come last.
    """
    tiny = torch.finfo(uniform.dtype).tiny  # noise of exactly 0 would send a salient patch to −inf too
    gumbel = -torch.log(-torch.log(uniform.clamp_min(tiny)))
    return torch.log(saliency) + temperature * gumbel


def salient_set(saliency: Tensor, ties: Tensor, mass: float) -> Tensor:
    """Bool [B, N]: the smallest set of patches that holds ``mass`` (0 < mass ≤ 1) of each map's total.

    An all-zero map has an empty set, and a patch without saliency is never in one.
    """
    wide = torch.float32 if saliency.device.type == "mps" else torch.float64
    order = top_order(saliency, ties)
    sorted_saliency = saliency.gather(1, order).to(wide)
    cumulative = sorted_saliency.cumsum(1)
    before = cumulative - sorted_saliency
    # Without the margin, rounding of mass · total decides whether 7 of 10 equal patches hold 0.7.
    inside = before < mass * (1 - 1e-12) * cumulative[:, -1:]
    return inside.gather(1, inverse(order))


def forced_priorities(ranks: Tensor, count: int, uniform: Tensor) -> Tensor:
    """Priorities [B, N]: the ``count`` patches of lowest ``ranks`` first, the others by noise ``uniform`` in [0, 1)."""
    return uniform + (ranks < count)


def set_count(members: Tensor, ratio: float, hidden: int) -> Tensor:
    """How many patches of each row's set ``members`` [B, N] are hidden: ``round(ratio·|set|)``, at most ``hidden``.

    [B, 1].
    """
    wide = torch.float32 if members.device.type == "mps" else torch.float64
    return (members.sum(1, keepdim=True).to(wide) * ratio).round().clamp(max=hidden)


def capped(priorities: Tensor, members: Tensor, cap: float, ties: Tensor) -> Tensor:
    """Priorities [B, N] with which at most the share ``cap`` 0..1 of each row's set ``members`` [B, N] is hidden.

    The members of lowest priority come behind all other patches, so they are hidden only when nothing else is left.
    """
    if cap >= 1:
        return priorities
    wide = torch.float32 if members.device.type == "mps" else torch.float64
    # Without the margin, rounding decides whether 0.7 of ten are seven.
    most = (members.sum(1, keepdim=True).to(wide) * cap + 1e-9).floor()
    beyond = members & (top_ranks(torch.where(members, priorities, -math.inf), ties) >= most)
    return priorities - 8 * beyond  # all others lie between -1 and 3


def center_prior(grid: tuple[int, ...], device: torch.device | str | None = None) -> Tensor:
    """A map [N] that saw no image: a Gaussian around the centre, its deviation a quarter of each side.

    Of a video, the same in every time slot.
    """
    *slots, _, _ = grid
    rows, columns = ((2 * torch.arange(side, device=device) + 1 - side) / side for side in grid[-2:])
    return torch.exp(-2 * (rows[:, None] ** 2 + columns[None, :] ** 2)).flatten().repeat(math.prod(slots))


def check_saliency(saliency: Tensor) -> None:
    """Raises ValueError unless every value is finite and ≥ 0. Waits for the device: check maps once, not in a step."""
    valid = saliency.isfinite() & (saliency >= 0)
    share = f"{int((~valid).sum())} of {valid.numel()}"
    _require(bool(valid.all()), f"{share} saliency values are negative, infinite or NaN; a map holds numbers ≥ 0")


@dataclass(frozen=True)
class Part:
    """The images of a call are a part of a larger batch, and get the masks that they have in it."""

    rows: Tensor
    """int64 [B], on the CPU: where they stand in the larger batch."""
    size: int
    """How many images the larger batch has."""
    before: Tensor | None = None
    """[N]: the saliency of the image before the first one, which ``shuffled`` gives to the first one."""


@dataclass(frozen=True)
class Draw:
    """What a strategy ranks one batch with. ``uniform``, ``ties`` and ``pick`` are noises in [0, 1), [B, N].

    They decide the uniform part of the mask, ties, and a weighted pick, and must be independent: were one noise used
    for all, a patch that lost its tie would be hidden less often than the other remaining ones. With a granularity
    above 1 all of this is about blocks of patches.
    """

    grid: tuple[int, ...]
    hidden: int
    salient_ratio: float
    noise: Callable[[int, int], Tensor]
    """How many, of how many numbers each → further noises, [k, B, n]."""
    uniform: Tensor
    ties: Tensor
    pick: Tensor
    saliency: Tensor
    """float32 [B, N]; anything for a strategy that needs none."""
    before: Tensor | None
    """float32 [N]: the saliency of the image before the first, None where the batch is whole."""


@dataclass(frozen=True)
class Masking:
    """The settings of a mask; calling it draws the masks of a batch. ValueError names the option that is wrong."""

    strategy: str = "random"
    """The name of a blind one of STRATEGIES."""
    mask_ratio: float = 0.75
    """Share of the patches that is hidden, 0 < ratio < 1."""
    salient_ratio: float = SALIENT_RATIO
    """How much is hidden because it is the most salient, 0..1; of what, ``salient_of`` says."""
    salient_of: str = "image"
    """``image``: the ratio counts the image's patches (0 is ``random``, the mask ratio hides nothing but the most
    salient); ``mask``: the hidden patches; ``salient``: the patches of the salient set, whose other patches are hidden
    by chance, as those outside of it; ``salient-only``: the same, but the set's other patches are hidden only when
    nothing else is left."""
    salient_pick: str = "top"
    """``top``: the highest; ``weighted``: drawn with probability ∝ saliency^(1/temperature), without replacement."""
    salient_mass: float = 0.5
    """Share of a map's total that the salient set holds, 0 < mass ≤ 1."""
    salient_cap: float = 1.0
    """No more than this share of the salient set, 0..1, is hidden in one view, as far as the mask ratio allows it."""
    temperature: float = 1.0
    """Of the weighted pick, > 0; towards 0 it becomes ``top``."""
    salient_schedule: tuple[float, float] | None = None
    """The salient ratio at the start and at the end of training, linear between; replaces ``salient_ratio``."""
    tubes: bool = True
    """On a video: where saliency ranks, the mask is the same in every time slot. All others are tubes in any case, but
    for ``random``, which is of space and time."""
    mask_granularity: int = 1
    """g ≥ 1: blocks of g×g patches are hidden or shown together, and everything above counts blocks, not patches."""

    def __post_init__(self) -> None:
        _require(self.mask_granularity >= 1, f"--mask-granularity {self.mask_granularity} must be at least 1")
        _one_of("--masking", self.strategy, blind())
        _one_of("--salient-of", self.salient_of, SALIENT_OF)
        _one_of("--salient-pick", self.salient_pick, SALIENT_PICKS)
        _require(0 < self.mask_ratio < 1, f"--mask-ratio {self.mask_ratio:g} must lie between 0 and 1, both excluded")
        _require(0 < self.salient_mass <= 1, f"--salient-mass {self.salient_mass:g} must be above 0 and at most 1")
        check_cap(self.salient_cap)
        _require(0 < self.temperature < math.inf, f"--temperature {self.temperature:g} must be a finite number above 0")
        option = "--salient-ratio" if self.salient_schedule is None else "--salient-schedule"
        for ratio in self.salient_schedule or (self.salient_ratio,):
            _require(0 <= ratio <= 1, f"{option} {ratio:g} must lie between 0 and 1")
            if self.row.ranked and self.salient_of == "image":
                above = f"{option} {ratio:g} is above --mask-ratio {self.mask_ratio:g}"
                _require(ratio <= self.mask_ratio, f"{above}; lower it, or count it in the mask: --salient-of mask")

    @property
    def row(self) -> Strategy:
        """What the table says of the strategy."""
        return STRATEGIES[self.strategy]

    @property
    def in_tubes(self) -> bool:
        """Whether a video's mask is the same in every time slot."""
        return self.tubes if self.row.tubes == "asked" else self.row.tubes == "always"

    def hidden(self, grid: tuple[int, ...]) -> int:
        """How many patches of a grid are hidden; with tubes, as many in every time slot. ValueError."""
        if len(grid) == 3 and self.in_tubes:
            return grid[0] * self.hidden(grid[1:])
        return self.mask_granularity**2 * self._of_blocks(grid)[1]

    def _of_blocks(self, grid: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        """The grid of blocks, and how many of them are hidden. ValueError if that is none or all."""
        blocks = block_grid(grid, self.mask_granularity)
        count, what = math.prod(blocks), "patches" if blocks == grid else "blocks of patches"
        hidden = hidden_count(count, self.mask_ratio)
        _require(0 < hidden < count, f"--mask-ratio {self.mask_ratio:g} would hide {hidden} of {count} {what}")
        return blocks, hidden

    @property
    def needs_saliency(self) -> bool:
        """Whether a call needs the saliency of its images."""
        return "maps" in self.row.needs or "motion" in self.row.needs

    def ratio_at(self, progress: float) -> float:
        """The salient ratio at training ``progress``, 0 (start) to 1 (end); beyond them it stays at the ends."""
        if self.salient_schedule is None:
            return self.salient_ratio
        start, end = self.salient_schedule
        share = min(max(progress, 0.0), 1.0)
        return (1 - share) * start + share * end

    def schedules(self, progress: float) -> dict[str, float]:
        """What moves with training ``progress``, by name, for a log: the salient ratio, where it governs the masks."""
        return {"salient_ratio": self.ratio_at(progress)} if self.row.ranked else {}

    def __call__(
        self,
        batch: int,
        grid: tuple[int, ...],
        *,
        generator: torch.Generator,
        saliency: Tensor | None = None,
        progress: float = 0.0,
        device: torch.device | str | None = None,
        part: Part | None = None,
    ) -> Mask:
        """Masks of ``batch`` images on a grid of (rows, columns), on ``device`` (default: where the saliency is).

        ``generator`` is the CPU's; ``progress`` 0..1 moves a schedule. ``saliency`` [B, N] holds numbers ≥ 0 of any
        scale; a call does not look at them, because that would stall a GPU: use ``check_saliency`` on new maps. The
        images may be a ``part`` of a larger batch. Videos, on a grid of (slots, rows, columns), have a map for every
        slot, or one [B, rows · columns] for all of the clip.
        """
        if len(grid) == 3:
            maps, part = on_slots(saliency, part, grid, in_tubes=self.in_tubes)
            if self.in_tubes:
                options = {"generator": generator, "progress": progress, "device": device}
                return as_tubes(self(batch, grid[1:], saliency=maps, part=part, **options), grid[0])  # type: ignore[arg-type]
            saliency = maps
        draw = self.draw(
            batch, grid, generator=generator, saliency=saliency, progress=progress, device=device, part=part
        )
        return self.mask(draw)

    def draw(
        self,
        batch: int,
        grid: tuple[int, ...],
        *,
        generator: torch.Generator,
        saliency: Tensor | None = None,
        progress: float = 0.0,
        device: torch.device | str | None = None,
        part: Part | None = None,
    ) -> Draw:
        """What a call ranks the patches of its images with; the arguments are the same.

        Each slot of a video has noise of its own.
        """
        patches, (blocks, hidden) = math.prod(grid), self._of_blocks(grid)
        if saliency is None:
            _require(not self.needs_saliency, f"--masking {self.strategy} needs saliency maps (--saliency MAPS)")
            saliency = torch.empty(0)
        elif self.needs_saliency and saliency.shape != (batch, patches):
            shape = list(saliency.shape)
            sides = "×".join(map(str, grid))
            raise ValueError(f"saliency of shape {shape} does not fit {batch} images of {sides} patches")
        place = saliency.device if device is None else torch.device(device)
        saliency = self._by_block(copy_to(saliency.float(), place), grid)

        def noise(count: int, numbers: int) -> Tensor:
            drawn = torch.rand(count, part.size if part else batch, numbers, generator=generator)
            return copy_to(drawn[:, part.rows] if part else drawn, place)

        before = None if part is None or part.before is None else copy_to(part.before.float(), place)
        before = None if before is None else self._by_block(before, grid)
        uniform, ties, pick = noise(3, math.prod(blocks))
        return Draw(blocks, hidden, self.ratio_at(progress), noise, uniform, ties, pick, saliency, before)

    def mask(self, draw: Draw) -> Mask:
        """The masks of a draw."""
        mask = mask_from_priorities(self.row.load()(self, draw), self.mask_ratio)
        return block_mask(mask, self._patches(draw), self.mask_granularity)

    def _by_block(self, saliency: Tensor, grid: tuple[int, ...]) -> Tensor:
        return block_means(saliency, grid, self.mask_granularity) if self.needs_saliency else saliency

    def _patches(self, draw: Draw) -> tuple[int, ...]:
        """The grid of patches of a draw."""
        *slots, rows, columns = draw.grid
        return (*slots, rows * self.mask_granularity, columns * self.mask_granularity)

    def rank(self, saliency: Tensor, draw: Draw) -> Tensor:
        """Priorities [B, N] of the batch by ``saliency`` [B, N], as the settings and the draw's salient ratio say.

        The patches that are forced come first, and what is beyond the cap comes last, each group by noise. With
        ``salient-only`` what is outside of the salient set comes before the rest of it.
        """
        forced, members = self._forced(saliency, draw)
        if members is not None and self.salient_of == "salient-only":
            priorities = draw.uniform + ~members + 2 * forced
        else:
            priorities = draw.uniform + forced
        if self.salient_cap < 1:
            members = self._salient_set(saliency, draw) if members is None else members
            priorities = capped(priorities, members, self.salient_cap, draw.ties)
        return priorities

    def forced(self, draw: Draw) -> Tensor:
        """Bool [B, N]: the patches that ``salient`` hides because they are salient; it hides the others by chance."""
        forced = to_patches(self._forced(draw.saliency, draw)[0], self._patches(draw), self.mask_granularity)
        return forced if self.salient_cap >= 1 else forced & self.mask(draw).hidden  # but for those beyond the cap

    def _salient_set(self, saliency: Tensor, draw: Draw) -> Tensor:
        return salient_set(saliency, draw.ties, self.salient_mass)

    def _forced(self, saliency: Tensor, draw: Draw) -> tuple[Tensor, Tensor | None]:
        """The patches that are hidden because of ``saliency``, bool [B, N]; the salient set, if the ratio is of it."""
        weighted = self.salient_pick == "weighted"
        scores = weighted_scores(saliency, draw.pick, self.temperature) if weighted else saliency
        if self.salient_of in ("salient", "salient-only"):
            members = self._salient_set(saliency, draw)
            ranks = top_ranks(torch.where(members, scores, -math.inf), draw.ties)
            return members & (ranks < set_count(members, draw.salient_ratio, draw.hidden)), members
        count = round(draw.salient_ratio * (draw.hidden if self.salient_of == "mask" else saliency.shape[1]))
        # At the mask ratio the whole mask is salient, though M is rounded up; a schedule gets there but for rounding.
        if self.salient_of == "image" and draw.salient_ratio >= self.mask_ratio - 1e-9:
            count = draw.hidden
        return top_ranks(scores, draw.ties) < min(count, draw.hidden), None


def check_cap(cap: float) -> None:
    """ValueError unless ``cap`` is a share."""
    _require(0 <= cap <= 1, f"--salient-cap {cap:g} must lie between 0 and 1")


def as_tubes(mask: Mask, slots: int) -> Mask:
    """The mask of an image, [B, S], in each of a video's time slots, [B, slots · S]."""
    kept, patches = mask.ids_keep.shape[1], mask.hidden.shape[1]
    slot = torch.arange(slots, device=mask.hidden.device)[None, :, None]
    within = mask.ids_restore[:, None, :]  # [B, 1, S]
    # in the whole sequence all slots' kept patches stand before the first hidden one
    behind = within - kept + slots * kept + slot * (patches - kept)
    restore = torch.where(within < kept, within + slot * kept, behind)
    keep = mask.ids_keep[:, None, :] + slot * patches
    return Mask(keep.flatten(1), restore.flatten(1), mask.hidden.repeat(1, slots))


def on_slots(
    saliency: Tensor | None, part: Part | None, grid: tuple[int, ...], *, in_tubes: bool
) -> tuple[Tensor | None, Part | None]:
    """Maps of a clip's slots or of the clip, [B, N] or [B, S], as a mask needs them: tubes [B, S], all others [B, N].

    The map of a clip is the mean of its slots', and that of a slot the clip's.
    """

    def fit(maps: Tensor) -> Tensor:
        whole, still = math.prod(grid), math.prod(grid[1:])
        if in_tubes:
            return maps.reshape(*maps.shape[:-1], grid[0], still).mean(-2) if maps.shape[-1] == whole != still else maps
        return maps if maps.shape[-1] != still else maps.repeat(*[1] * (maps.ndim - 1), grid[0])

    if part is not None and part.before is not None:
        part = replace(part, before=fit(part.before))
    return None if saliency is None else fit(saliency), part


def _one_of(option: str, name: str, choices: Collection[str]) -> None:
    _require(name in choices, f"{option} {name!r} is not one of: {', '.join(choices)}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
