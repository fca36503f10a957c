"""Plain pretraining: images or clips in epochs of shuffled batches, with their maps where steps need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mae.distributed import World
from mae.models.video import VideoMaskedAutoencoder
from mae.models.vit import MaskedAutoencoder
from mae.training.training import Batch, Training
from pipelines.errors import UserError
from pipelines.plots import contact_sheet, loss_curve
from pipelines.pretrain.global_batches import GlobalBatch, to_batch
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.record.clip_reconstructions import clip_sheet
from pipelines.pretrain.record.gate_masks import draw_masks
from pipelines.pretrain.record.reconstructions import reconstruction_sheet
from pipelines.pretrain.settings import PretrainSettings, new_learner
from pipelines.run_folder import CONFIG, RunFolder
from pipelines.sources.random_access import open_images, open_videos
from pipelines.sources.source import Source, hash_pairs
from pipelines.views.clip_motion import ClipMotion
from pipelines.views.image_views import EpochBatches
from pipelines.views.joined_maps import ViewMaps, join_maps

_PICTURED = 8
_PICTURED_CLIPS = 3


class Data(NamedTuple):
    """What plain pretraining reads."""

    source: Source
    maps: ViewMaps | None


@dataclass(frozen=True)
class PlainTask:
    """Each step takes ``--accumulate`` batches of the source: a :class:`pipelines.pretrain.task.Task`."""

    settings: PretrainSettings
    source: Source
    maps: ViewMaps | None
    training: Training
    crops: None = None

    @property
    def _shuffled(self) -> bool:
        """Whether each image is masked by another one's map."""
        return "another image" in self.settings.strategy.needs

    @property
    def batches_per_step(self) -> int:
        """Batches whose gradients add up to a step."""
        return self.settings.training.accumulate

    @property
    def images_per_step(self) -> int:
        """The effective batch."""
        return self.settings.training.batch_size * self.batches_per_step

    def batches(self) -> EpochBatches:
        """Every epoch a new order, from the coming step on."""
        settings, training = self.settings.training, self.training
        return EpochBatches(
            len(self.source),
            settings.batch_size,
            training.steps_per_epoch * settings.accumulate,
            settings.epochs,
            seed=settings.seed,
            start=training.step * settings.accumulate,
            part=training.world.part(settings.batch_size),
        )

    def readable(self, batches: Sequence[GlobalBatch]) -> list[GlobalBatch]:
        """The batches in which as many images could be read as the masks need."""
        least = 2 if self._shuffled else 1
        return [batch for batch in batches if len(batch.indices) >= least]

    def step(self, batches: Sequence[GlobalBatch]) -> tuple[Tensor, dict[str, Tensor]]:
        """One optimiser step."""
        loss = self.training.update([self._with_maps(batch) for batch in batches])
        visible = self.settings.training.visible_weight > 0
        return loss, {"hidden_loss": self.training.hidden_loss} if visible else {}

    def _with_maps(self, batch: GlobalBatch) -> Batch:
        """This process's part of a batch, with the maps of its views."""
        training = self.training
        saliency = self.maps.on_views(batch.views, training.grid, training.device) if self.maps else None
        return to_batch(batch, saliency, training.world, shuffled=self._shuffled)

    def facts(self) -> dict[str, Any]:
        """Nothing more."""
        return {}

    def saved(self, run: RunFolder) -> None:
        """A checkpoint is all."""

    def draw(self, run: RunFolder, model: MaskedAutoencoder) -> None:
        """``plots/loss.png``, ``plots/reconstructions.png`` and, of a gate, ``plots/hidden.png``."""
        plots, metrics = run.folder / "plots", run.metrics()
        if metrics:
            losses = {"loss": ([line["step"] for line in metrics], [line["loss"] for line in metrics])}
            loss_curve(plots / "loss.png", losses)
            draw_masks(plots / "hidden.png", metrics, self.settings.masking.mask_ratio)
        pick, clip = self.training.pick_masks, self.settings.clip
        if isinstance(model, VideoMaskedAutoencoder) and clip is not None:
            sheet = clip_sheet(self.source, self.maps, model, pick, clip, _PICTURED_CLIPS)
        else:
            sheet = reconstruction_sheet(self.source, self.maps, model, pick, _PICTURED)
        if sheet:
            contact_sheet(plots / "reconstructions.png", sheet)


def new_task(
    options: PretrainOptions,
    settings: PretrainSettings,
    data: Data,
    model: MaskedAutoencoder,
    device: torch.device,
    world: World,
) -> PlainTask:
    """The task before its first step. ValueError for settings that do not fit."""
    training = settings.training
    steps_per_epoch = len(data.source) // (training.batch_size * training.accumulate)
    learner = new_learner(options, model, device)
    made = Training(model, settings.masking, training, steps_per_epoch, device, settings.resolutions, learner)
    made.check_masks()  # which are the settings' fault, and better known now than at the first step
    made.distribute(world, parts=options.shard_model)
    return PlainTask(settings, data.source, data.maps, made)


def open_training(options: PretrainOptions) -> Source:
    """The images that are trained on, or the videos. UserError.

    A run resumes with the pairs that it began with: once, every row was one, also where rows are captions of one image.
    """
    if options.frames is not None:
        return open_videos(options)
    source = open_images(options)
    if options.captions == "first" and (options.out / CONFIG).exists():
        begun_with = RunFolder(options.out).config().get("keys_sha256")
        if begun_with != hash_pairs(source, captions=False):
            every = open_images(options, every_row=True)
            return every if begun_with == hash_pairs(every, captions=False) else source
    return source


def open_data(options: PretrainOptions, settings: PretrainSettings) -> Data:
    """The source, and its maps where steps need them. UserError."""
    source = open_training(options)
    images_per_step = options.batch_size * options.accumulate
    if len(source) < images_per_step:
        raise UserError(
            f"{options.source} has {len(source)} {'images' if options.frames is None else 'videos'}, fewer than one "
            f"step takes ({images_per_step}): lower --batch-size"
        )
    if "motion" in settings.strategy.needs:
        return Data(source, ClipMotion(settings.strategy.name))
    if not settings.needs_maps:
        return Data(source, None)
    if settings.maps is None:
        what = "--saliency-weight" if options.weighs_by_maps else f"--masking {options.masking_name}"
        raise UserError(f"{what} needs maps: --saliency MAPS, made with build-saliency")
    return Data(source, join_maps(settings.maps, source, on_missing=options.on_missing))
