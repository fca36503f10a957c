"""What ``pretrain`` can be asked for: every option's name, type, default and help, and the checks of options alone.

What becomes of the options, and the checks of the masks and of the training, is ``pipelines.pretrain.settings``.
"""

from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar

from mae.masks.strategies import SALIENT_RATIO, STRATEGIES, Strategy, learned
from mae.multilevel.forms import BEFORE, FORMS
from pipelines.commandline.effects import Effect
from pipelines.commandline.loss_options import SaliencyWeight, SaliencyWeightSchedule, VisibleWeight, WeightBy
from pipelines.commandline.mask_options import (
    SALIENT,
    ClassTokens,
    ImageSize,
    MaskGranularity,
    MaskRatio,
    PatchSize,
    SalientCap,
    SalientMass,
    SalientOf,
    SalientPick,
    SalientRatio,
    Temperature,
)
from pipelines.commandline.option import Option
from pipelines.commandline.shared_options import (
    DATA,
    MACHINE,
    MASKS,
    MODEL,
    SPEED,
    TRAINING,
    VIDEO,
    AllowOutside,
    CaptionColumn,
    CaptionsOfAnImage,
    Device,
    ImageColumn,
    Limit,
    Out,
    Precision,
    Seed,
    SourcePlace,
    Split,
    Workers,
)
from pipelines.pretrain.effects import EFFECTS
from pipelines.pretrain.learner_options import (
    AttentionMomentum,
    AttentionMomentumEnd,
    AttentionShown,
    GateContrast,
    GateDepth,
    GatePositions,
    GateRatio,
    GateReads,
    GateSign,
    GateSlots,
    GateTeacher,
    GateWidth,
    HardFinal,
    MasksFile,
)
from pipelines.pretrain.multilevel.options import (
    MloBuffer,
    MloCrops,
    MloExploration,
    MloForm,
    MloHead,
    MloHeadRate,
    MloHypergradient,
    MloMasker,
    MloMaskerRate,
    MloPath,
    MloPool,
    MloShare,
    MloSplit,
    MloThrough,
    MloUnroll,
    MloWait,
)

RUN = "Checkpoints and logs"

ON_MISSING = ("error", "random")
AUGMENT_ON = ("auto", "workers", "device")
POSITIONS = ("space-time", "table")
TRACKERS = ("tensorboard", "wandb")

FREE_ON_RESUME = frozenset(
    {"out", "workers", "device", "augment_on", "resume", "checkpoint_every", "keep", "max_rejected", "compile", "track"}
    | {"shard_model", "allow_outside", "health_every"}
)
"""The options that a resumed run may change: they do not decide what is learned, but for the last bits."""


def parse_schedule(text: str) -> tuple[float, float]:
    """``0:0.5`` as a start and an end; ValueError."""
    try:
        start, end = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise ValueError(f"--salient-schedule {text!r} is not A:B, such as 0:0.5") from error
    return start, end


@dataclass(frozen=True)
class PretrainOptions:
    """What ``pretrain`` was asked for. ValueError for what can't be, as far as the options alone tell.

    Defaults are those of the settings in ``mae`` that the options become.
    """

    effects: ClassVar[tuple[Effect, ...]] = EFFECTS

    source: SourcePlace
    out: Out
    saliency: Annotated[
        str | Path | None,
        Option("Saliency maps: the folder that build-saliency wrote, or the Hub id of a published table.", panel=DATA),
    ] = None
    masking: Annotated[
        str | None,
        Option(
            "How patches are chosen to be hidden (docs/guide/masking.md). By default salient with --saliency, custom "
            "with --masks, and otherwise random, or tube for videos. inverse, shuffled and center are controls "
            "for experiments.",
            choices=tuple(STRATEGIES),
            panel=MASKS,
        ),
    ] = None
    mask_ratio: MaskRatio = None
    mask_granularity: MaskGranularity = 1
    salient_ratio: SalientRatio = SALIENT_RATIO
    salient_of: SalientOf = "image"
    salient_pick: SalientPick = "top"
    salient_mass: SalientMass = 0.5
    salient_cap: SalientCap = 1.0
    temperature: Temperature = 1.0
    salient_schedule: Annotated[
        tuple[float, float] | None,
        Option(
            "A:B changes the salient ratio from A to B over training.", parse=parse_schedule, between=":", panel=SALIENT
        ),
    ] = None
    tubes: Annotated[bool, Option("Give masks by maps or a gate to all time slots alike.", panel=VIDEO)] = True
    saliency_weight: SaliencyWeight = 0.0
    weight_by: WeightBy = "maps"
    saliency_weight_schedule: SaliencyWeightSchedule = "constant"
    visible_weight: VisibleWeight = 0.0
    gate_ratio: GateRatio = 1.0
    gate_sign: GateSign = "hide"
    gate_teacher: GateTeacher = None
    gate_positions: GatePositions = False
    gate_reads: GateReads = "patches"
    gate_width: GateWidth = None
    gate_depth: GateDepth = 2
    gate_slots: GateSlots = 0
    gate_contrast: GateContrast = 0.02
    attention_shown: AttentionShown = 0.1
    attention_momentum: AttentionMomentum = 0.996
    attention_momentum_end: AttentionMomentumEnd = 1.0
    hard_final: HardFinal = 0.5
    masks: MasksFile = None
    mlo_form: MloForm = None
    mlo_masker: MloMasker = None
    mlo_path: MloPath = None
    mlo_share: MloShare = None
    mlo_exploration: MloExploration = None
    mlo_wait: MloWait = None
    mlo_masker_rate: MloMaskerRate = None
    mlo_split: MloSplit = None
    mlo_head: MloHead = None
    mlo_buffer: MloBuffer = None
    mlo_head_rate: MloHeadRate = None
    mlo_unroll: MloUnroll = None
    mlo_through: MloThrough = None
    mlo_hypergradient: MloHypergradient = None
    mlo_pool: MloPool = None
    mlo_crops: MloCrops = None
    on_missing: Annotated[
        str,
        Option("What to do with an image that has no map: stop, or mask it at random.", choices=ON_MISSING, panel=DATA),
    ] = "error"
    model: Annotated[
        str, Option("Size of the model.", choices=("mini", "tiny", "small", "base", "large", "huge"), panel=MODEL)
    ] = "base"
    image_size: ImageSize = (224,)
    patch_size: PatchSize = None
    decoder_width: Annotated[int | None, Option("Width of the decoder, by default the size's own.", panel=MODEL)] = None
    decoder_depth: Annotated[int | None, Option("Depth of the decoder, by default the size's own.", panel=MODEL)] = None
    decode_ratio: Annotated[
        float,
        Option("Fraction of hidden patches to decode, drawn anew at every step (docs/guide/speed.md).", panel=SPEED),
    ] = 1.0
    decoder_masking: Annotated[
        str,
        Option(
            "With --decode-ratio: decode tubelets at random, or those in a running cell (docs/guide/video.md).",
            choices=("random", "running-cell"),
            panel=VIDEO,
        ),
    ] = "random"
    frames: Annotated[
        int | None,
        Option("Frames per clip, usually 16. SOURCE then holds videos (docs/guide/video.md).", least=1, panel=VIDEO),
    ] = None
    frame_stride: Annotated[int, Option("Distance between frames of a clip, in frames of the video.", panel=VIDEO)] = 4
    tubelet: Annotated[int, Option("Frames per video patch.", panel=VIDEO)] = 2
    positions: Annotated[
        str,
        Option(
            "Positions of video patches. Only VideoMAE's table can be exported to transformers.",
            choices=POSITIONS,
            panel=VIDEO,
        ),
    ] = "space-time"
    inflate: Annotated[
        str | Path | None,
        Option("Start the video model from an image model: a run, or a file of weights.", panel=VIDEO),
    ] = None
    resolution_schedule: Annotated[
        str | None,
        Option(
            "Train on smaller images first: 0:128,0.5:160,0.8:224 lists when each size starts, as a fraction of the "
            "epochs. The last size is --image-size.",
            panel=SPEED,
        ),
    ] = None
    class_tokens: ClassTokens = None
    norm_pix: Annotated[bool, Option("Predict patches normalised by their mean and deviation.", panel=MODEL)] = True
    batch_size: Annotated[int, Option("Images per batch, over all processes.", panel=TRAINING)] = 256
    accumulate: Annotated[int, Option("Batches per optimiser step.", panel=TRAINING)] = 1
    epochs: Annotated[int, Option("Passes over the images.", panel=TRAINING)] = 100
    blr: Annotated[float, Option("Base learning rate; the peak is blr × effective batch / 256.", panel=TRAINING)] = (
        1.5e-4
    )
    weight_decay: Annotated[float, Option("Weight decay of AdamW.", panel=TRAINING)] = 0.05
    warmup_epochs: Annotated[float | None, Option("Epochs of warm-up, by default a tenth.", panel=TRAINING)] = None
    precision: Precision = "auto"
    compile: Annotated[bool, Option("Compile the step. The first one takes minutes.", panel=SPEED)] = False
    deterministic: Annotated[
        bool, Option("Give identical bits in every such run, on a GPU too. It is slower there.", panel=MACHINE)
    ] = False
    shard_model: Annotated[
        bool,
        Option("Split weights and optimiser state among processes (docs/guide/distributed.md).", panel=MACHINE),
    ] = False
    checkpoint_every: Annotated[int | None, Option("Steps between checkpoints; one epoch by default.", panel=RUN)] = (
        None
    )
    health_every: Annotated[
        int | None,
        Option(
            "Steps between looks at the features, layer by layer, for the log (docs/guide/doctor.md). None by default.",
            least=1,
            panel=RUN,
        ),
    ] = None
    keep: Annotated[int, Option("Number of newest checkpoints to keep. The best one is kept as well.", panel=RUN)] = 2
    resume: Annotated[bool, Option("Resume the run in --out.", panel=RUN)] = False
    track: Annotated[
        tuple[str, ...],
        Option("Also log to an experiment tracker (pip install 'saliency-mae[track]').", choices=TRACKERS, panel=RUN),
    ] = ()
    seed: Seed = 0
    workers: Workers = 1
    augment_on: Annotated[
        str,
        Option(
            "Where decoded images are cropped and resized. auto is the device if it is a GPU, and otherwise the "
            "workers.",
            choices=AUGMENT_ON,
            panel=SPEED,
        ),
    ] = "auto"
    max_rejected: Annotated[float, Option("Fraction of unreadable images above which the run stops.", panel=DATA)] = (
        0.01
    )
    image_column: ImageColumn = None
    caption_column: CaptionColumn = None
    captions: CaptionsOfAnImage = "first"
    limit: Limit = None
    split: Split = None
    allow_outside: AllowOutside = False
    device: Device = "cpu"

    def __post_init__(self) -> None:
        self._check_video()
        self._check_choices()
        if len(self.image_size) not in (1, 2) or min(self.image_size) < 1:
            raise ValueError("--image-size takes one side or HEIGHTxWIDTH, in pixels")
        if self.checkpoint_every is not None and self.checkpoint_every < 1:
            raise ValueError(f"--checkpoint-every is {self.checkpoint_every}; it must be at least 1 step")
        if not 0 <= self.max_rejected <= 1:
            raise ValueError(f"--max-rejected is {self.max_rejected}; it must be between 0 and 1")
        if self.weight_by == "gate" and self.masking_name != "gate":
            raise ValueError("--weight-by gate needs --masking gate; with --gate-ratio 0 its masks are random")
        if self.gate_teacher is not None and self.weighs_by_maps and self.gate_teacher != self.saliency:
            raise ValueError("--gate-teacher and --saliency must be the same maps where --saliency-weight is above 0")
        if self.health_every is not None and self.shard_model:
            raise ValueError("--health-every looks at the whole model, which --shard-model splits: leave one out")
        if self.keep < 1 or self.workers < 0:
            raise ValueError("--keep must be at least 1 and --workers at least 0")

    def _check_choices(self) -> None:
        checked = (("on_missing", ON_MISSING), ("augment_on", AUGMENT_ON), ("track", TRACKERS))
        for name, choices in checked:
            given = getattr(self, name)
            for each in given if isinstance(given, tuple) else (given,):
                if each not in choices:
                    raise ValueError(f"--{name.replace('_', '-')} {each!r} is not one of: {', '.join(choices)}")

    def _check_video(self) -> None:
        needs = self.strategy.needs if self.strategy else ()
        if self.frames is None:
            asked = {
                f"--masking {self.masking_name}": "videos" in needs,
                "--decoder-masking running-cell": self.decoder_masking == "running-cell",
                "--inflate": self.inflate is not None,
            }
            for option in (name for name, given in asked.items() if given):
                raise ValueError(f"{option} is for video: say how many frames a clip has with --frames")
            return
        if "images" in needs:
            able = ", ".join(name for name in learned() if "images" not in STRATEGIES[name].needs)
            raise ValueError(f"--masking {self.masking_name} is for images; learned masks for video are {able}")
        if self.augment_on == "device":
            raise ValueError("--augment-on device is for images; clips are cropped by the workers")
        if self.decoder_masking == "running-cell" and self.decode_ratio == 1:
            raise ValueError("--decoder-masking running-cell leaves tubelets out: say how many with --decode-ratio 0.5")
        if self.positions not in POSITIONS:
            raise ValueError(f"--positions {self.positions!r} is not one of: {', '.join(POSITIONS)}")
        if self.positions == "table" and (self.resolution_schedule or self.inflate):
            other = "--inflate" if self.inflate else "--resolution-schedule"
            raise ValueError(
                f"--positions table needs clips of one size and random starting weights: leave out {other}"
            )
        own = (self.patch_size, self.decoder_width, self.decoder_depth, self.class_tokens)
        if self.inflate and any(each is not None for each in own):
            raise ValueError(
                "--inflate takes patches, class tokens and decoder as they are: leave out --patch-size, --class-tokens "
                "and --decoder-…"
            )

    @property
    def masking_name(self) -> str:
        """The strategy's name; by default ``custom`` with a file of scores, ``salient`` with maps, else ``random``.

        Of video the last one is ``tube``.
        """
        if self.masking is None and self.masks is not None:
            return "custom"
        blind = "random" if self.frames is None else "tube"
        return self.masking or (blind if self.saliency is None else "salient")

    @property
    def masked_by(self) -> str:
        """What decides the masks, as it is typed."""
        if self.masking is not None:
            return f"--masking {self.masking}"
        if self.masks is not None:
            return "--masks"
        if self.saliency is not None:
            return f"--masking {self.masking_name}, the default with --saliency"
        return f"the default --masking {self.masking_name}"

    @property
    def reads_maps(self) -> bool:
        """Whether a step needs the maps of its images: the masks do, the loss does, or what learns the masks does.

        Where the motion of clips is in their place, none does.
        """
        strategy = self.strategy
        if strategy is not None and "motion" in strategy.needs:
            return False
        if strategy is None or self.weighs_by_maps or "maps" in strategy.needs:
            return strategy is not None
        if strategy.levels:
            masker = self.mlo_masker or FORMS[self.mlo_form or "own"]["masker"]
            return self.saliency is not None and masker == "mix"
        return strategy.own_maps is not None and getattr(self, strategy.own_maps) is not None

    @property
    def weighs_by_maps(self) -> bool:
        """Whether the loss is weighted by maps."""
        return self.saliency_weight > 0 and self.weight_by == "maps"

    @property
    def strategy(self) -> Strategy | None:
        """The strategy's row in the table; None for a name that is not there."""
        return STRATEGIES.get(self.masking_name)

    @property
    def hidden_share(self) -> float:
        """The mask ratio that was asked for, or the usual one."""
        usual = 0.75 if self.frames is None else 0.9
        return usual if self.mask_ratio is None else self.mask_ratio

    def recorded(self) -> dict[str, Any]:
        """The options as ``config.json`` holds them, in plain values, with the mask ratio that holds."""
        given = asdict(self) | {"mask_ratio": self.hidden_share}
        del given["resume"]  # a run that was killed before this was written is begun with it
        for name in ("out", "saliency", "gate_teacher", "inflate"):
            given[name] = None if given[name] is None else str(Path(given[name]))  # maps/ is maps
        if self.masks is not None:
            given["masks"] = recorded_scores(self.masks)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def recorded_scores(masks: str) -> str:
    """``FILE.py:NAME@HASH`` without the folder: the same code is the same option. ValueError if there is no file."""
    from mae.mask_learners.custom import file_and_name, file_hash  # with torch

    path, name = file_and_name(masks)
    return f"{path.name}:{name}@{file_hash(masks)[:12]}"


def option_defaults() -> dict[str, Any]:
    """The default of every option that has one."""
    return {field.name: field.default for field in fields(PretrainOptions) if field.default is not MISSING}


def defaults_before() -> dict[str, Any]:
    """What a run of a version without an option was made with."""
    return option_defaults() | BEFORE
