"""The settings of MLO-MAE's three levels, from the options of ``pretrain``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mae.multilevel.differentiable_rules import adamw, momentum
from mae.multilevel.draws import PATHS
from mae.multilevel.forms import FORMS, settled
from mae.multilevel.nested import METHODS

MASKERS = ("gate", "mlp", "mix")
HEADS = ("solved", "steps")
CROPS = ("gentle", "training")
RULES = {
    "adamw": adamw(betas=(0.9, 0.999)),
    "momentum": momentum(),
    "authors": adamw(betas=(0.9, 0.95), weight_decay=0.01),
}
"""Of head and T. The longer memory of ``adamw``'s second moment holds gradients of changing size, and it does not
decay; ``authors`` is what the authors' code steps by."""
_KNOWN = {
    "form": tuple(FORMS),
    "masker": MASKERS,
    "path": PATHS,
    "hypergradient": METHODS,
    "head": HEADS,
    "head_rule": tuple(RULES),
    "masker_rule": tuple(RULES),
    "pool": ("cls", "mean"),
    "crops": CROPS,
}


@dataclass(frozen=True)
class MultilevelSettings:
    """How the levels play together; what level 1 has in common with plain pretraining is in TrainingSettings."""

    form: str = "own"
    """Where the values come from, a key of FORMS. The authors' optimisers go with ``paper``."""
    masker: str = "gate"
    path: str = "weighted"
    """How the mask becomes differentiable: see ``mae.multilevel.draws.loss_weights``."""
    hypergradient: str = "finite"
    radius: float = 0.1
    """Of the finite difference, see ``mae.multilevel.nested.Nested``: with 0.1 the hypergradients of a ``mini`` model
    were nearest to the exact ones, in fp32 (cosine 1.000) and bf16 (0.994, where DARTS' 0.01 has 0.80)."""
    unroll: tuple[int, int] = (2, 1)
    """Steps of the autoencoder to one of the head, and of the head to one of the masker."""
    through: int = 0
    """How many of the autoencoder's steps before a step of T its hypergradient goes back through, the last ones; 0: all
    of them. The others cost what a plain step does."""
    head: str = "steps"
    """One of HEADS. ``solved``: the head is solved on a buffer of features before T learns; the hypergradient has the
    derivative of its optimum (:class:`mae.multilevel.differentiable_rules.AtOptimum`)."""
    buffer: int = 1024
    """Features on which the head is solved. A quarter of them is computed anew at every outer step."""
    wait: float = 0.0
    """T waits until the head's cross-entropy on images that it was not solved on has fallen below this share of chance,
    ln C; 0: it does not wait."""
    share: float = 1.0
    """Of the hidden patches, those that T chooses, the others being random; where T learns a share, its start."""
    head_rate: float = 1e-3
    masker_rate: float = 1e-3
    """Peak learning rates; level 1's follows from ``blr``. All three have the same warm-up, then half a cosine. With a
    masker rate of 0, T stays as it is, and its hypergradient is not computed."""
    head_rule: str = "adamw"
    masker_rule: str = "adamw"
    """How T steps: a key of RULES. AdamW's steps have one length whatever the gradients', which grow a thousandfold
    once the head knows something; ``momentum`` (0.9) follows their size, so its rate has to be found for each task."""
    exploration: float = 0.0
    """0: the patches of highest probability are hidden, as in the paper; above it, see
    ``mae.multilevel.draws.draw_masks``."""
    pool: str = "cls"
    crops: str = "training"
    """One of CROPS: of the views of levels 2 and 3."""

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{_flag(name)} {getattr(self, name)!r} is not one of: {', '.join(known)}")
        if len(self.unroll) != 2 or min(self.unroll) < 1:
            raise ValueError(f"--mlo-unroll is {self.unroll}; it takes two numbers from 1 on")
        for name in ("radius", "head_rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{_flag(name)} is {getattr(self, name)}; it must be a positive number")
        for name in ("masker_rate", "exploration", "wait"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{_flag(name)} is {getattr(self, name)}; it must be a number from 0 on")
        if not 0 < self.share <= 1:
            raise ValueError(f"--mlo-share is {self.share:g}; it must be above 0 and at most 1")
        if self.buffer < 2:
            raise ValueError(f"--mlo-buffer is {self.buffer}; it must be at least 2")
        self._check_together()

    def _check_together(self) -> None:
        if self.path.startswith("drawn") and not self.exploration:
            raise ValueError(f"--mlo-path {self.path} needs masks that are drawn: --mlo-exploration above 0, such as 1")
        if not 0 <= self.through <= self.unroll[0]:
            raise ValueError(
                f"--mlo-through is {self.through}; it must lie between 0 and {self.unroll[0]}, --mlo-unroll's first"
            )
        if self.unroll[1] > 1 and self.through:
            raise ValueError("--mlo-through is for one step of the head: --mlo-unroll N,1")
        if self.unroll[1] > 1 and self.head == "solved":
            raise ValueError("--mlo-head solved takes no steps: --mlo-unroll N,1")

    @property
    def through_steps(self) -> int:
        """The autoencoder's steps that a hypergradient goes back through."""
        return self.through or self.unroll[0]


def _flag(name: str) -> str:
    return f"--mlo-{name.replace('_', '-')}"


def settings_from(asked: Mapping[str, Any]) -> MultilevelSettings:
    """The settings of the levels from the options of ``pretrain``, None for those that the form decides. ValueError."""
    found = settled(asked)
    try:
        lower, upper = (int(part) for part in found["mlo_unroll"].split(","))
    except ValueError as error:
        raise ValueError(f"--mlo-unroll {found['mlo_unroll']!r} is not two numbers, such as 2,1") from error
    if not 0 < found["mlo_split"] < 1:
        raise ValueError(f"--mlo-split is {found['mlo_split']:g}; it must lie between 0 and 1")
    rule = "authors" if found["mlo_form"] == "paper" else "adamw"
    same = {
        name.removeprefix("mlo_"): value for name, value in found.items() if name not in ("mlo_unroll", "mlo_split")
    }
    return MultilevelSettings(unroll=(lower, upper), masker_rule=rule, head_rule=rule, **same)
