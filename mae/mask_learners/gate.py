"""The gate: a small attention network that tells an image's important patches from its background.

It reads patch embeddings without their positions and no grid: attention among patches alone, so the scores move with
the patches when these are permuted, and one gate serves every grid, of images (rows, columns) and of video (T, rows,
columns). A gate that knew places could learn a centre prior and look at nothing; ``positions`` is there to compare.
A gate that reads a momentum encoder (``gate_reading``) sees tokens that know their places. What it learns by
is in ``mae.mask_learners.gate_loss``; masks are drawn from its scores here, by the Gumbel top-k trick.

Shapes: B images, N patches, D the width of the embeddings read. A logit above 0 calls a patch important.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mae.mask_learners.gate_loss import frame_of
from mae.mask_learners.gate_reading import checkerboard, read_middle, spread
from mae.mask_learners.gate_slots import Slots
from mae.mask_learners.momentum import MomentumEncoder
from mae.masks.masking import capped, top_ranks, weighted_scores
from mae.models.blocks import Block
from mae.models.vit import MaskedAutoencoder

SIGNS = {"hide": 1, "keep": -1}
"""What is done to the important patches that are chosen."""

_HEAD = 16
_TINY = 1e-6
_WIDTHS = (48, 256)


def gate_width(features: int) -> int:
    """The gate's own width for embeddings of width ``features``: a quarter, in 48..256, a multiple of 16."""
    low, high = _WIDTHS
    return min(max(features // 4 // _HEAD * _HEAD, low), high)


def tenth_width(features: int, depth: int, blocks: int) -> int:
    """The width of a gate ``depth`` deep that has a tenth of the parameters of ``blocks`` blocks ``features`` wide."""
    return max(round(features * math.sqrt(blocks / (10 * depth)) / _HEAD) * _HEAD, _HEAD)


class Gate(nn.Module):
    """Patch embeddings in, one logit a patch out; 0.1 to 2 M parameters for encoders 192 to 1280 wide.

    ``features`` is the width of the embeddings, ``width`` the gate's own (:func:`gate_width` by default, a multiple of
    16), ``depth`` the number of its attention blocks. ``positions`` adds each patch's place in the grid. ``reader`` is
    the momentum encoder that it reads in the place of a model's patch embeddings, and carries with it. A ``sparse``
    gate reads every second patch, as on a checkerboard, and gives the others their neighbours' mean. ``slots`` is the
    number of slots that it assigns patches to (``gate_slots``), 0 for none. ValueError for a width or depth
    that can't be.
    """

    def __init__(
        self,
        features: int,
        width: int | None = None,
        depth: int = 2,
        *,
        positions: bool = False,
        slots: int = 0,
        reader: MomentumEncoder | None = None,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.features = features
        self.width = gate_width(features) if width is None else width
        self.positions = positions
        if self.width < _HEAD or self.width % _HEAD or depth < 1:
            raise ValueError(
                f"a gate {self.width} wide and {depth} deep: the width must be a multiple of {_HEAD}, the depth ≥ 1"
            )
        self.project = nn.Linear(features, self.width)
        self.blocks = nn.ModuleList([Block(self.width, self.width // _HEAD) for _ in range(depth)])
        self.norm = nn.LayerNorm(self.width, eps=1e-6)
        self.score = nn.Linear(self.width, 1)
        self._initialise()
        self.slots = Slots(self.width, slots) if slots else None
        self.reader = reader
        self.sparse = sparse

    def forward(self, tokens: Tensor, grid: Sequence[int] | None = None) -> Tensor:
        """Logits [B, N] of patch embeddings [B, N, D], in the order of the patches; of what :meth:`read` gives.

        No gradient reaches what made ``tokens``. ``grid``, (rows, columns) or (T, rows, columns), is needed with
        ``positions`` or slots and otherwise ignored. ValueError for a shape that does not fit.
        """
        logits, hidden = self.look(tokens, grid)
        if self.slots is None:
            return logits
        if grid is None:
            raise ValueError("a gate with slots needs the grid of its patches")
        return self.slots.combine(logits, self.slots(hidden)[1], self.frame(grid, logits.device))

    def look(self, tokens: Tensor, grid: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """The logits [B, N] without what the slots add to them, and the hidden states [B, N, width] they follow from.

        Arguments are those of :meth:`forward`.
        """
        if tokens.ndim != 3 or tokens.shape[-1] != self.features:
            raise ValueError(f"tokens of shape {list(tokens.shape)} do not fit a gate that reads {self.features} wide")
        x = self.project(stand_out(tokens.detach().float()))  # [B, N, W]
        if self.positions:
            places = None if grid is None else self.places(grid, x.device)
            if grid is None or (math.prod(grid) if places is None else len(places)) != tokens.shape[1]:
                raise ValueError(f"a gate with positions needs the grid of its {tokens.shape[1]} patches, not {grid}")
            positions = grid_positions(grid, self.width, x.device)
            x = x + (positions if places is None else positions[places])
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.score(x)[..., 0], x

    def frame(self, grid: Sequence[int], device: torch.device) -> Tensor:
        """Which of the patches that the gate reads lie on the frame of the grid, bool [n]."""
        places, frame = self.places(grid, device), frame_of(grid, device)
        return frame if places is None else frame[places]

    def places(self, grid: Sequence[int], device: torch.device) -> Tensor | None:
        """The patches of a grid that the gate reads, int64 [n]; None for all."""
        return checkerboard(tuple(grid), device) if self.sparse else None

    @torch.no_grad()
    def read(self, model: MaskedAutoencoder, images: Tensor, grid: tuple[int, ...] | None = None) -> Tensor:
        """What the gate reads of normalised images [B, C, H, W], or clips, with the model it was made for: [B, n, D].

        ``grid`` is that of the images' patches, if they have another size than the model's own.
        """
        if self.reader is None:
            return model.embed(images, grid)
        grid = grid or model.grid
        return read_middle(self.reader, model, images, grid, self.places(grid, images.device))

    def whole(self, values: Tensor, grid: Sequence[int]) -> Tensor:
        """Values of all patches, [B, N] or [B, N, C], from those of the patches that are read, [B, n] or [B, n, C]."""
        return spread(values, grid) if self.sparse else values

    def scores(self, model: MaskedAutoencoder, images: Tensor, grid: tuple[int, ...] | None = None) -> Tensor:
        """Logits [B, N] of all patches of normalised images or clips, see :meth:`read`."""
        grid = grid or model.grid
        return self.whole(self(self.read(model, images, grid), grid), grid)

    @property
    def size(self) -> int:
        """How many parameters learn; a reader's do not."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # Logits near 0: every patch half important, where the sigmoid learns fastest.
        nn.init.normal_(self.score.weight, std=0.02)


def save_gate(gate: Gate, file: Path) -> None:
    """Write the gate's weights, with its dimensions in the file's metadata; :func:`load_gate` reads them."""
    config: dict[str, Any] = {
        "features": gate.features,
        "width": gate.width,
        "depth": len(gate.blocks),
        "positions": gate.positions,
    }
    config |= {} if gate.slots is None else {"slots": len(gate.slots.prototypes)}
    config |= {} if gate.reader is None else {"reader": gate.reader.shapes(), "sparse": gate.sparse}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in gate.state_dict().items()}
    file.write_bytes(save(weights, metadata={"gate": json.dumps(config)}))


def load_gate(file: Path) -> Gate:
    """The gate that :func:`save_gate` wrote, in evaluation mode; ValueError if the file is damaged or no gate's."""
    try:
        with safe_open(file, framework="pt") as content:
            config = json.loads((content.metadata() or {})["gate"])
            reader = config.pop("reader", None)
            gate = Gate(**config, reader=None if reader is None else MomentumEncoder.with_shapes(reader))
            gate.load_state_dict({name: content.get_tensor(name) for name in content.keys()})  # noqa: SIM118
    except Exception as error:  # safetensors, json and torch each raise their own
        raise ValueError(f"{file} is no gate that can be read ({type(error).__name__}: {str(error)[:200]})") from error
    return gate.eval()


def stand_out(tokens: Tensor) -> Tensor:
    """Each patch's difference from its image's mean patch, in units of the image's deviation; [B, N, D] in and out.

    A layer norm in its place would level the patches: how much one differs is what there is to see.
    """
    difference = tokens - tokens.mean(1, keepdim=True)
    return difference * (difference.square().mean((1, 2), keepdim=True) + _TINY).rsqrt()


def grid_positions(grid: Sequence[int], width: int, device: torch.device | str | None = None) -> Tensor:
    """Sines and cosines of each patch's place along every axis of the grid, float32 [N, width], row-major.

    Each axis takes an equal share of the width; what does not divide is zero.
    """
    share = width // (2 * len(grid))
    frequencies = 10000 ** -(torch.arange(share, device=device, dtype=torch.float32) / share)
    axes = torch.meshgrid(*(torch.arange(side, device=device, dtype=torch.float32) for side in grid), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in axes]
    waves = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    return torch.nn.functional.pad(waves, (0, width - waves.shape[1]))


def important_counts(logits: Tensor, area: tuple[float, float]) -> Tensor:
    """How many patches of each image are important, int64 [B, 1]: those with a logit above 0, held to ``area``.

    ``area`` is the least and the greatest share of the image's patches, 0 ≤ least ≤ greatest ≤ 1, rounded to patches.
    """
    patches = logits.shape[1]
    low, high = (round(share * patches) for share in area)
    return (logits > 0).sum(1, keepdim=True).clamp(low, high)


def important_patches(logits: Tensor, ties: Tensor, area: tuple[float, float]) -> Tensor:
    """Bool [B, N]: the patches of highest logit, as many as :func:`important_counts` has; ``ties`` is noise."""
    return top_ranks(logits, ties) < important_counts(logits, area)


def gate_priorities(
    logits: Tensor,
    ratio: float,
    hidden: int,
    uniform: Tensor,
    gumbel: Tensor,
    *,
    sign: str = "hide",
    area: tuple[float, float] = (0.05, 0.4),
    cap: float = 1.0,
) -> Tensor:
    """Priorities [B, N] from the gate's ``logits`` [B, N]; the ``hidden`` highest of each row are to be hidden.

    Of the important patches (:func:`important_counts`) ``round(ratio · count)`` are drawn without replacement, with
    probability ∝ importance (Gumbel top-k, arXiv 1903.06059). With sign ``hide`` these are hidden first, with ``keep``
    last; all others, important or not, go by the noise ``uniform``. Ratio 0 is random masking with either sign. No
    more than the share ``cap`` of the important patches is hidden, as far as ``hidden`` allows it.
    ``uniform`` and ``gumbel`` are independent noises in [0, 1), [B, N].
    """
    members = important_patches(logits, gumbel, area)
    counts = members.sum(1, keepdim=True)
    # A sigmoid that underflows to 0 would put an important patch behind those that are not.
    drawn = weighted_scores(torch.sigmoid(logits.float().clamp_min(-60)), gumbel, 1.0)
    ranks = top_ranks(torch.where(members, drawn, -math.inf), gumbel)
    room = hidden if sign == "hide" else logits.shape[1] - hidden
    chosen = ranks < (counts.float() * ratio).round().clamp(max=room)
    return capped(uniform + SIGNS[sign] * chosen, members, cap, gumbel)
