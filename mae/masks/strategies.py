"""Every way to mask, a row each: what it needs, which options are its own, and where it is made.

A blind strategy follows from noise and maps: its row names a function of the settings and the draw, see
``mae.masks.blind``. A learned one names a module that has what ``mae.mask_learners.learner.LearnerModule`` lists.
The command line reads this table for ``--help``, so it imports nothing heavy, and what makes the masks is a name here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

SALIENT_OF = ("image", "mask", "salient", "salient-only")
SALIENT_PICKS = ("top", "weighted")
SALIENT_RATIO = 0.25
"""How much is hidden because it is salient, where nothing is asked for."""

Need = Literal["maps", "motion", "another image", "labels", "images", "videos", "a file"]


@dataclass(frozen=True)
class Strategy:
    """A row of STRATEGIES."""

    name: str
    made_by: str
    """``module:function`` of a blind strategy, ``module`` of a learned one."""
    learned: bool = False
    needs: tuple[Need, ...] = ()
    """``maps`` of its images; the ``motion`` of its clips, in place of maps; ``another image`` in the batch, whose map
    it takes; a class ``label`` of each; ``images`` or ``videos``, where it masks nothing else; and ``a file`` of the
    user's code."""
    options: tuple[str, ...] = ()
    """Options of ``pretrain`` that belong to it, and have no effect where no strategy they belong to is chosen."""
    barred: tuple[str, ...] = ()
    """Options of ``pretrain`` that must be left out."""
    own_maps: str | None = None
    """The option that may name maps which it learns from, in the place of ``--saliency``."""
    ranked: bool = False
    """Whether the salient ratio and its companions govern it."""
    tubes: Literal["always", "asked", "never"] = "always"
    """Whether a video's mask is the same in every time slot."""
    levels: bool = False
    """Whether it learns in a training of several levels of its own, not beside the autoencoder."""
    words: str = ""
    """Its options as a report tells them; ``{ratio}`` is the salient ratio, or both ends of its schedule."""
    compared: bool = True
    """Whether ``compare`` has it among its arms where none are named."""

    def load(self) -> Any:
        """What makes the masks: the function of a blind strategy, the module of a learned one."""
        module, _, name = self.made_by.partition(":")
        loaded = importlib.import_module(module)
        return getattr(loaded, name) if name else loaded

    def in_words(self, asked: Mapping[str, Any]) -> str:
        """What is hidden, for people, by ``mask_ratio`` and the options that ``words`` names."""
        ratios = asked.get("salient_schedule") or (asked.get("salient_ratio", SALIENT_RATIO),)
        ratio = ":".join(f"{value:g}" for value in ratios)
        words = self.words.format_map({**asked, "ratio": ratio})
        return ", ".join([self.name, *filter(None, [words]), f"{asked['mask_ratio']:g} hidden"])


def _salient(name: str, *needs: Need, made_by: str = "", compared: bool = True) -> Strategy:
    return Strategy(
        name,
        f"mae.masks.blind:{made_by or name}",
        needs=needs,
        ranked=True,
        tubes="asked",
        options=(
            *("salient_ratio", "salient_of", "salient_pick", "salient_mass", "salient_cap", "temperature"),
            "salient_schedule",
        ),
        words="{ratio} of {salient_of}, {salient_pick}",
        compared=compared,
    )


_MOMENTA = ("attention_momentum", "attention_momentum_end")

STRATEGIES: dict[str, Strategy] = {
    row.name: row
    for row in (
        Strategy("random", "mae.masks.blind:random", tubes="never"),
        Strategy("block", "mae.masks.blind:block", compared=False),
        Strategy("grid", "mae.masks.blind:grid"),
        Strategy("color-red", "mae.masks.blind:color", compared=False),
        Strategy("color-green", "mae.masks.blind:color"),
        Strategy("color-blue", "mae.masks.blind:color", compared=False),
        Strategy("color-purple", "mae.masks.blind:color", compared=False),
        _salient("salient", "maps"),
        # Controls for experiments: the least salient patches, another image's map, and a centred prior.
        _salient("inverse", "maps"),
        _salient("shuffled", "maps", "another image"),
        _salient("center"),
        # What moves in a clip: by the vectors of its codec, and by what changes from frame to frame.
        _salient("motion", "videos", "motion", made_by="salient", compared=False),
        _salient("frame-difference", "videos", "motion", made_by="salient", compared=False),
        Strategy("tube", "mae.masks.blind:random", needs=("videos",), compared=False),
        Strategy(
            "gate",
            "mae.mask_learners.gate_training",
            learned=True,
            own_maps="gate_teacher",
            options=(
                *("gate_ratio", "gate_sign", "gate_teacher", "gate_positions", "gate_contrast", "salient_cap"),
                *("gate_reads", "gate_width", "gate_depth", "gate_slots"),
            ),
        ),
        Strategy("attention-high", "mae.mask_learners.attention", learned=True, needs=("images",), options=_MOMENTA),
        Strategy(
            "attention-hint",
            "mae.mask_learners.attention",
            learned=True,
            needs=("images",),
            options=("attention_shown", *_MOMENTA),
        ),
        Strategy("hard", "mae.mask_learners.hard", learned=True, needs=("images",), options=("hard_final",)),
        Strategy(
            "custom",
            "mae.mask_learners.custom",
            learned=True,
            needs=("a file",),
            options=("masks",),
            words="{masks}",
            compared=False,
        ),
        Strategy(
            "mlo",
            "mae.multilevel.settings",
            learned=True,
            levels=True,
            needs=("labels", "images"),
            options=(
                *("mlo_form", "mlo_masker", "mlo_path", "mlo_share", "mlo_exploration", "mlo_wait", "mlo_masker_rate"),
                *("mlo_split", "mlo_head", "mlo_buffer", "mlo_head_rate", "mlo_unroll", "mlo_through"),
                *("mlo_hypergradient", "mlo_pool", "mlo_crops"),
            ),
            barred=(
                *("accumulate", "decode_ratio", "resolution_schedule", "saliency_weight", "compile", "shard_model"),
                *("mask_granularity", "visible_weight"),
            ),
        ),
    )
}


def blind() -> list[str]:
    """The names of the strategies that follow from noise and maps alone."""
    return [name for name, row in STRATEGIES.items() if not row.learned]


def learned() -> list[str]:
    """The names of the strategies that learn, or follow from the model."""
    return [name for name, row in STRATEGIES.items() if row.learned]


def is_ranked(name: str) -> bool:
    """Whether the salient ratio governs the strategy of this name, which may be of a run of another version."""
    return name in STRATEGIES and STRATEGIES[name].ranked


def has_effect(option: str, name: str) -> bool:
    """Whether an option of ``pretrain`` can change something with this strategy: it is no other strategy's alone."""
    owners = [row.name for row in STRATEGIES.values() if option in row.options]
    return not owners or name in owners
