"""Which options of ``pretrain`` have an effect, and when; those of a mask strategy are in its own row of STRATEGIES."""

from typing import Any

from mae.masks.strategies import STRATEGIES, has_effect
from mae.multilevel.forms import settled
from pipelines.commandline.effects import Effect
from pipelines.commandline.mask_options import SALIENT_EFFECTS


def _of_strategies() -> list[Effect]:
    """A row for every option that belongs to some strategies alone."""
    owners: dict[str, list[str]] = {}
    for row in STRATEGIES.values():
        for name in row.options:
            owners.setdefault(name, []).append(row.name)
    return [
        Effect(
            (name,),
            lambda options, name=name: has_effect(name, options.masking_name),  # type: ignore[misc]
            "with {masked_by}",
            f"it belongs to --masking {_either(names)}",
        )
        for name, names in owners.items()
    ]


def _either(names: list[str]) -> str:
    """``a``, ``a or b``, ``a, b or c``."""
    defaults = {"salient": "--saliency", "custom": "--masks"}
    told = [f"{name} (the default with {defaults[name]})" if name in defaults else name for name in names]
    return " or ".join(filter(None, [", ".join(told[:-1]), told[-1]]))


def _masks_by_slot(options: Any) -> bool:
    return options.strategy is None or options.strategy.tubes == "asked" or options.strategy.learned


def _solves_head(options: Any) -> bool:
    """Whether the levels, where there are any, solve the head."""
    return bool(settled({"mlo_form": options.mlo_form, "mlo_head": options.mlo_head})["mlo_head"] == "solved")


def _is_mlo(options: Any) -> bool:
    return options.strategy is not None and options.strategy.levels


EFFECTS = (
    Effect(
        ("frame_stride", "tubelet", "positions", "tubes", "decoder_masking", "inflate"),
        lambda options: options.frames is not None,
        "without --frames",
        "it belongs to videos",
    ),
    Effect(("captions",), lambda options: options.frames is None, "with --frames", "a clip has one caption"),
    Effect(("model",), lambda options: options.inflate is None, "with --inflate", "the image model sets the size"),
    *_of_strategies(),
    Effect(
        ("mlo_head_rate",),
        lambda options: not _is_mlo(options) or options.mlo_form == "paper" or not _solves_head(options),
        "with --mlo-head solved",
        "a solved head takes no steps",
    ),
    Effect(
        ("mlo_buffer",),
        lambda options: not _is_mlo(options) or options.mlo_form == "paper" or _solves_head(options),
        "with --mlo-head steps",
        "it belongs to a solved head",
    ),
    Effect(
        ("saliency",),
        lambda options: options.reads_maps,
        "with {masked_by}",
        "masks by maps are --masking salient, a gate takes them as --gate-teacher, and --saliency-weight uses them "
        "with any mask",
    ),
    Effect(
        ("on_missing",),
        lambda options: options.reads_maps and (options.saliency or options.gate_teacher) is not None,
        "without --saliency",
    ),
    Effect(
        ("salient_ratio",),
        lambda options: options.salient_schedule is None,
        "with --salient-schedule",
        "the schedule sets the ratio",
    ),
    *SALIENT_EFFECTS,
    Effect(("tubes",), _masks_by_slot, "with {masked_by}", "its masks are the same in every time slot, or in none"),
    Effect(
        ("saliency_weight_schedule", "weight_by"),
        lambda options: options.saliency_weight > 0,
        "without --saliency-weight",
        "there is no weight to move",
    ),
    Effect(
        ("decoder_masking",),
        lambda options: options.decode_ratio < 1,
        "without --decode-ratio",
        "nothing is left out of the decoder",
    ),
)
