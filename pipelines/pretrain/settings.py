"""What ``pretrain`` can be asked for, checked before anything is opened."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from mae.masks.attention import AttentionSettings
from mae.masks.gate_loss import GateObjective
from mae.masks.gate_training import GateSettings
from mae.masks.hard import HardSettings
from mae.masks.masking import STRATEGIES, Masking
from mae.models.video import POSITIONS
from mae.multilevel.mlo import MultilevelSettings
from mae.training.resolution_schedule import ResolutionSchedule
from mae.training.training import TrainingSettings
from pipelines.pretrain.options import PretrainArguments
from pipelines.pretrain.trackers import TRACKERS
from pipelines.views.clip_views import ClipShape
from pipelines.views.device_views import AUGMENT_ON
from pipelines.views.joined_maps import ON_MISSING

MULTILEVEL = "mlo"

LEARNED = ("gate", "attention-high", "attention-hint", "hard", MULTILEVEL)
"""The names of masks that are learned or follow from the model, beside those of ``mae.masks.masking.STRATEGIES``."""

FREE_ON_RESUME = frozenset(
    {"out", "workers", "device", "augment_on", "resume", "checkpoint_every", "keep", "max_rejected", "compile", "track"}
    | {"shard_model"}
)
"""The options that a resumed run may change: they do not decide what is learned, but for the last bits."""


@dataclass(frozen=True)
class PretrainOptions(PretrainArguments):
    """What ``pretrain`` was asked for, checked, and as the settings of what takes part in it. ValueError."""

    def __post_init__(self) -> None:
        if self.mask_ratio is None:
            object.__setattr__(self, "mask_ratio", 0.75 if self.frames is None else 0.9)  # type: ignore[unreachable]
        self._check_video()
        if self.on_missing not in ON_MISSING:
            raise ValueError(f"--on-missing {self.on_missing!r} is not one of: {', '.join(ON_MISSING)}")
        if self.augment_on not in AUGMENT_ON:
            raise ValueError(f"--augment-on {self.augment_on!r} is not one of: {', '.join(AUGMENT_ON)}")
        if len(self.image_size) not in (1, 2) or min(self.image_size) < 1:
            raise ValueError("--image-size takes one side or HEIGHTxWIDTH, in pixels")
        if self.checkpoint_every is not None and self.checkpoint_every < 1:
            raise ValueError(f"--checkpoint-every is {self.checkpoint_every}; it must be at least 1 step")
        if not 0 <= self.max_rejected <= 1:
            raise ValueError(f"--max-rejected is {self.max_rejected}; it must be between 0 and 1")
        for name in self.track:
            if name not in TRACKERS:
                raise ValueError(f"--track {name!r} is not one of: {', '.join(TRACKERS)}")
        if self.gate_teacher is not None and self.masking_name != "gate":
            raise ValueError("--gate-teacher gives maps to a gate that learns: it goes with --masking gate")
        if self.gate_teacher is not None and self.saliency_weight > 0 and self.gate_teacher != self.saliency:
            raise ValueError("--gate-teacher and --saliency must be the same maps where --saliency-weight is above 0")
        if self.keep < 1 or self.workers < 0:
            raise ValueError("--keep must be at least 1 and --workers at least 0")

    def _check_video(self) -> None:
        if self.frames is None:
            asked = {
                "--masking tube": self.masking == "tube",
                "--decoder-masking running-cell": self.decoder_masking == "running-cell",
                "--inflate": self.inflate is not None,
            }
            for option in (name for name, given in asked.items() if given):
                raise ValueError(f"{option} is for video: say how many frames a clip has with --frames")
            return
        ClipShape(self.frames, self.frame_stride)
        if self.masking_name in LEARNED and self.masking_name != "gate":
            raise ValueError(f"--masking {self.masking_name} is for images; of what is learned, video takes gate")
        if self.augment_on == "device":
            raise ValueError("--augment-on device is for images; clips are cropped by the workers")
        if self.decoder_masking == "running-cell" and self.decode_ratio == 1:
            raise ValueError("--decoder-masking running-cell leaves tubelets out: say how many with --decode-ratio 0.5")
        if self.positions not in POSITIONS:
            raise ValueError(f"--positions {self.positions!r} is not one of: {', '.join(POSITIONS)}")
        if self.positions == "table" and (self.resolution_schedule or self.inflate):
            other = "--inflate" if self.inflate else "--resolution-schedule"
            raise ValueError(f"--positions table fits clips of one size, learned from nothing: leave out {other}")
        if self.inflate and (self.patch_size, self.decoder_width, self.decoder_depth) != (None, None, None):
            raise ValueError("--inflate takes patches and decoder as they are: leave out --patch-size and --decoder-…")

    @property
    def clip(self) -> ClipShape | None:
        """The frames of a clip, None of images."""
        return None if self.frames is None else ClipShape(self.frames, self.frame_stride)

    def masks(self) -> Masking:
        """The masking settings; a learner takes the mask ratio from them and has its own beside. ValueError."""
        name = self.masking_name
        if name not in (*STRATEGIES, *LEARNED):
            raise ValueError(f"--masking {name!r} is not one of: {', '.join((*STRATEGIES, *LEARNED))}")
        self.gate(), self.attention(), self.hard(), self.multilevel()  # theirs are checked with the others
        self._check_multilevel()
        blind = "random" if self.frames is None or not self.tubes else "tube"
        return Masking(
            strategy=blind if name in LEARNED else name,
            mask_ratio=self.mask_ratio,
            salient_ratio=self.salient_ratio,
            salient_of=self.salient_of,
            salient_pick=self.salient_pick,
            salient_mass=self.salient_mass,
            temperature=self.temperature,
            salient_schedule=self.salient_schedule,
            tubes=self.tubes,
        )

    @property
    def masking_name(self) -> str:
        """What decides who is hidden; by default ``salient`` with maps, else ``random``, of video ``tube``."""
        blind = "random" if self.frames is None else "tube"
        return self.masking or (blind if self.saliency is None else "salient")

    @property
    def maps(self) -> str | Path | None:
        """Where the maps of the training are, None where none are given or needed."""
        if self.masking_name == "gate" and self.gate_teacher is not None:
            return self.gate_teacher
        return self.saliency if self.needs_maps else None

    @property
    def needs_maps(self) -> bool:
        """Whether a step needs the maps of its images."""
        return self.masks().needs_saliency or self.saliency_weight > 0 or self.gate_teacher is not None

    def gate(self) -> GateSettings:
        """The settings of a gate; its frame is background where it sees places. ValueError."""
        objective = GateObjective(contrast=self.gate_contrast, frame_is_background=self.gate_positions)
        return GateSettings(ratio=self.gate_ratio, sign=self.gate_sign, objective=objective)

    def attention(self) -> AttentionSettings:
        """The settings of masks by attention. ValueError."""
        hints = self.masking_name == "attention-hint"
        if hints and self.attention_shown == 0:
            raise ValueError("--attention-shown 0 shows no hints: that is --masking attention-high")
        shown = self.attention_shown if hints else 0.0
        return AttentionSettings(shown, self.attention_momentum, self.attention_momentum_end)

    def hard(self) -> HardSettings:
        """The settings of masks of hard patches. ValueError."""
        return HardSettings(final=self.hard_final)

    def multilevel(self) -> MultilevelSettings:
        """The settings of the three levels of ``mlo``. ValueError."""
        try:
            lower, upper = (int(part) for part in self.mlo_unroll.split(","))
        except ValueError as error:
            raise ValueError(f"--mlo-unroll {self.mlo_unroll!r} is not two numbers, such as 2,1") from error
        if not 0 < self.mlo_split < 1:
            raise ValueError(f"--mlo-split is {self.mlo_split:g}; it must lie between 0 and 1")
        return MultilevelSettings(
            masker=self.mlo_masker,
            path=self.mlo_path,
            hypergradient=self.mlo_hypergradient,
            unroll=(lower, upper),
            head_rate=self.mlo_head_rate,
            masker_rate=self.mlo_masker_rate,
            exploration=self.mlo_exploration,
            pool=self.mlo_pool,
        )

    def _check_multilevel(self) -> None:
        given = {
            "--accumulate": self.accumulate != 1,
            "--decode-ratio": self.decode_ratio != 1,
            "--resolution-schedule": self.resolution_schedule is not None,
            "--saliency-weight": self.saliency_weight > 0,
            "--compile": self.compile,
            "--shard-model": self.shard_model,
        }
        if self.masking_name == MULTILEVEL and any(given.values()):
            name = next(name for name, is_given in given.items() if is_given)
            raise ValueError(f"{name} is not for --masking {MULTILEVEL}: leave it out")

    def resolutions(self, image_size: tuple[int, int], patch_size: int) -> ResolutionSchedule | None:
        """The image sizes over the training of a model of these sizes, None where there is one for all of it."""
        if self.resolution_schedule is None:
            return None
        schedule = ResolutionSchedule.parse(self.resolution_schedule, self.epochs)
        schedule.check(image_size, patch_size)
        return schedule

    def training(self) -> TrainingSettings:
        """The training settings."""
        return TrainingSettings(
            epochs=self.epochs,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            blr=self.blr,
            weight_decay=self.weight_decay,
            warmup_epochs=self.warmup_epochs,
            seed=self.seed,
            precision=self.precision,
            decode_ratio=self.decode_ratio,
            decoder_masking=self.decoder_masking,
            saliency_weight=self.saliency_weight,
            compile=self.compile,
        )


def option_defaults() -> dict[str, Any]:
    """The default of every option that has one: what a run of a version without the option was made with."""
    return {field.name: field.default for field in fields(PretrainOptions) if field.default is not MISSING}
