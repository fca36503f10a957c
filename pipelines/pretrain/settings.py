"""What the options of ``pretrain`` ask of everything that takes part, computed once and for good."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from mae.mask_learners.learner import LearnerModule, MaskLearner
from mae.masks.masking import Masking
from mae.masks.strategies import STRATEGIES, Strategy, learned
from mae.models.vit import MaskedAutoencoder
from mae.multilevel.forms import BEFORE, settled
from mae.training.resolution_schedule import ResolutionSchedule
from mae.training.settings import TrainingSettings
from pipelines.pretrain.options import PretrainOptions, option_defaults
from pipelines.run_folder import CONFIG, RunFolder
from pipelines.views.clip_views import ClipShape


@dataclass(frozen=True)
class PretrainSettings:
    """The settings of a pretraining."""

    strategy: Strategy
    masking: Masking
    """The masks of a blind strategy; a learner takes the mask ratio from them, and has its own settings beside."""
    learner: Any
    """The settings of a learned strategy, None of a blind one."""
    training: TrainingSettings
    resolutions: ResolutionSchedule | None
    """The image sizes over the training, None where there is one for all of it."""
    clip: ClipShape | None
    """The frames of a clip, None of images."""
    needs_maps: bool
    """Whether a step needs the maps of its images."""
    maps: str | Path | None
    """Where these maps are, None where none are given or needed."""


def settings_of(options: PretrainOptions) -> PretrainSettings:
    """The settings that the options ask for. ValueError, naming the option, for what can't be."""
    strategy = options.strategy
    if strategy is None:
        raise ValueError(f"--masking {options.masking_name!r} is not one of: {', '.join(STRATEGIES)}")
    clip = None if options.frames is None else ClipShape(options.frames, options.frame_stride)
    learner = _learner_settings(options, strategy)
    _check_barred(options, strategy)
    masking, training = _masking(options, strategy), _training(options)
    taught = strategy.own_maps is not None and getattr(options, strategy.own_maps) is not None
    saliency = options.saliency if options.reads_maps else None
    return PretrainSettings(
        strategy=strategy,
        masking=masking,
        learner=learner,
        training=training,
        resolutions=_resolutions(options),
        clip=clip,
        needs_maps=options.reads_maps,
        maps=getattr(options, strategy.own_maps) if taught and strategy.own_maps else saliency,
    )


def settle_levels(options: PretrainOptions) -> PretrainOptions:
    """The options with a value for each of the levels' of ``--masking mlo``; as they are for other masks.

    A run that is there already keeps what it was begun with where nothing is said. ValueError, UserError.
    """
    if options.strategy is None or not options.strategy.levels:
        return options
    begun = None
    if (options.out / CONFIG).exists():
        recorded = RunFolder(options.out).config()["options"]
        begun = BEFORE | recorded if recorded.get("mlo_path") is not None else None
    return replace(options, **settled(vars(options), begun))


def new_learner(options: PretrainOptions, model: MaskedAutoencoder, device: torch.device) -> MaskLearner | None:
    """The learner of ``--masking``, untrained, on the device; None where no learner stands beside the autoencoder.

    ValueError for settings that do not fit.
    """
    strategy = options.strategy
    if strategy is None or not strategy.learned or strategy.levels:
        return None
    return cast(LearnerModule, strategy.load()).new_learner(_asked(options, strategy), model, device)


def _asked(options: PretrainOptions, strategy: Strategy) -> dict[str, Any]:
    return {name: getattr(options, name) for name in strategy.options}


def _learner_settings(options: PretrainOptions, strategy: Strategy) -> Any:
    """The settings of the strategy, if it is a learned one. What was given to another learner is checked as well."""
    rows = [STRATEGIES[name] for name in learned()]
    chosen, defaults = None, option_defaults()
    for module in dict.fromkeys(row.made_by for row in rows):
        row = strategy if strategy.made_by == module else next(row for row in rows if row.made_by == module)
        asked = _asked(options, row)
        if row is strategy or any(value != defaults[name] for name, value in asked.items()):
            found = cast(LearnerModule, row.load()).settings_from(asked)
            chosen = found if row is strategy else chosen
    return chosen


def _check_barred(options: PretrainOptions, strategy: Strategy) -> None:
    defaults = option_defaults()
    for name in strategy.barred:
        if getattr(options, name) != defaults[name]:
            raise ValueError(f"--{name.replace('_', '-')} is not for --masking {strategy.name}: leave it out")


def _masking(options: PretrainOptions, strategy: Strategy) -> Masking:
    blind = "random" if options.frames is None or not options.tubes else "tube"
    return Masking(
        strategy=blind if strategy.learned else strategy.name,
        mask_ratio=options.hidden_share,
        salient_ratio=options.salient_ratio,
        salient_of=options.salient_of,
        salient_pick=options.salient_pick,
        salient_mass=options.salient_mass,
        salient_cap=options.salient_cap,
        temperature=options.temperature,
        salient_schedule=options.salient_schedule,
        tubes=options.tubes,
        mask_granularity=options.mask_granularity,
    )


def _training(options: PretrainOptions) -> TrainingSettings:
    return TrainingSettings(
        epochs=options.epochs,
        batch_size=options.batch_size,
        accumulate=options.accumulate,
        blr=options.blr,
        weight_decay=options.weight_decay,
        warmup_epochs=options.warmup_epochs,
        seed=options.seed,
        precision=options.precision,
        decode_ratio=options.decode_ratio,
        decoder_masking=options.decoder_masking,
        saliency_weight=options.saliency_weight,
        weight_by=options.weight_by,
        saliency_weight_schedule=options.saliency_weight_schedule,
        visible_weight=options.visible_weight,
        compile=options.compile,
    )


def _resolutions(options: PretrainOptions) -> ResolutionSchedule | None:
    text = options.resolution_schedule
    return None if text is None else ResolutionSchedule.parse(text, options.epochs)
