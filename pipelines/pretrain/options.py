"""Every argument and option of ``pretrain``: its name, type, default and help, and nothing heavy.

What becomes of them, and which go together, is ``pipelines.pretrain.settings``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pipelines.commandline.option import Option
from pipelines.commandline.shared_options import (
    CaptionColumn,
    CaptionsOfAnImage,
    Device,
    ImageColumn,
    Limit,
    Out,
    Seed,
    SourcePlace,
    Split,
    Workers,
)


def parse_sides(text: str) -> tuple[int, ...]:
    """``224`` or ``224x448`` as one side, or height and width; ValueError."""
    try:
        return tuple(int(side) for side in text.lower().split("x"))
    except ValueError as error:
        raise ValueError(
            f"--image-size {text!r} is not a side or HEIGHTxWIDTH in pixels, such as 224 or 224x448"
        ) from error


def parse_schedule(text: str) -> tuple[float, float]:
    """``0:0.5`` as a start and an end; ValueError."""
    try:
        start, end = (float(part) for part in text.split(":"))
    except ValueError as error:
        raise ValueError(f"--salient-schedule {text!r} is not A:B, such as 0:0.5") from error
    return start, end


@dataclass(frozen=True)
class PretrainArguments:
    """What can be asked of ``pretrain``. Defaults of the masks' learners are those of their settings in ``mae``."""

    source: SourcePlace
    out: Out
    saliency: Annotated[
        str | Path | None, Option("Maps of build-saliency, or the Hub dataset id of a published table.")
    ] = None
    masking: Annotated[
        str | None,
        Option(
            "random, block, grid, color-green (-red, -blue, -purple), salient, a learned one: gate, "
            "attention-high, attention-hint, hard, mlo (needs labels), or a control: inverse, shuffled, center "
            "[default: salient with --saliency] (docs/masking.md)"
        ),
    ] = None
    mask_ratio: Annotated[float, Option("Share of patches hidden [default: 0.75; of video 0.9]")] = None  # type: ignore[assignment]
    salient_ratio: Annotated[float, Option("Share hidden because it is salient; of what, --salient-of says.")] = 0.25
    salient_of: Annotated[str, Option("The ratio counts patches of the `image`, the `mask` or the `salient` set.")] = (
        "image"
    )
    salient_pick: Annotated[str, Option("Take the `top` ones, or draw them `weighted` by saliency.")] = "top"
    salient_mass: Annotated[float, Option("Share of a map that the salient set holds.")] = 0.5
    temperature: Annotated[float, Option("Of the weighted pick: small is nearly top, large nearly uniform.")] = 1.0
    salient_schedule: Annotated[
        tuple[float, float] | None,
        Option("A:B moves the salient ratio from A to B over training.", parse=parse_schedule),
    ] = None
    tubes: Annotated[bool, Option("Video: masks by maps or a gate are the same in every time slot.")] = True
    saliency_weight: Annotated[
        float, Option("0 to 1: how much a hidden patch's error counts by its saliency, with any masks.")
    ] = 0.0
    gate_ratio: Annotated[
        float, Option("Share of the patches that the gate finds important which is hidden for it.")
    ] = 0.5
    gate_sign: Annotated[str, Option("`hide` the chosen important patches, or `keep` them.")] = "hide"
    gate_teacher: Annotated[
        str | Path | None, Option("Maps that the gate starts from, in the first fifth of the training.")
    ] = None
    gate_positions: Annotated[bool, Option("The gate sees places too: the picture's frame is background.")] = False
    gate_contrast: Annotated[float, Option("Weight of the contrast in what the gate learns by (docs/gate.md).")] = 0.02
    attention_shown: Annotated[
        float, Option("Of attention-hint: the share of most attended patches of which some stay visible.")
    ] = 0.1
    attention_momentum: Annotated[
        float, Option("How much of the attention masks' teacher a step leaves at the start of training.")
    ] = 0.996
    attention_momentum_end: Annotated[
        float, Option("As much at its end; half a cosine between. Equal to the other one: constant.")
    ] = 1.0
    hard_final: Annotated[
        float, Option("Of hard: the share of the mask chosen by predicted error at the end, from 0 at the start.")
    ] = 0.5
    mlo_masker: Annotated[
        str, Option("Of mlo: the network that masks is the `gate`, or the paper's `mlp` (docs/mlo.md).")
    ] = "gate"
    mlo_path: Annotated[
        str, Option("How a mask is differentiated: loss times score `weighted`, `relative` or straight-through.")
    ] = "weighted"
    mlo_hypergradient: Annotated[str, Option("By `finite` differences, or `exact`: by derivatives of derivatives.")] = (
        "finite"
    )
    mlo_unroll: Annotated[
        str, Option("Steps of the autoencoder to one of the head, and of the head to one of the masker.")
    ] = "2,1"
    mlo_split: Annotated[float, Option("Share of every class held out of SOURCE to judge the masks by.")] = 0.2
    mlo_head_rate: Annotated[float, Option("Peak learning rate of the head.")] = 1e-3
    mlo_masker_rate: Annotated[float, Option("Peak learning rate of the masker.")] = 1e-3
    mlo_exploration: Annotated[
        float, Option("0: the highest scores are hidden; above: drawn, with odds ∝ score^(1/exploration).")
    ] = 0.0
    mlo_pool: Annotated[str, Option("The head's features: the class token `cls` or the `mean`.")] = "cls"
    on_missing: Annotated[str, Option("An image without a map is an `error`, or masked at `random`.")] = "error"
    model: Annotated[str, Option("mini, tiny, small, base, large or huge.")] = "base"
    image_size: Annotated[
        tuple[int, ...], Option("Pixels: a side, or HEIGHTxWIDTH.", parse=parse_sides, written="224")
    ] = (224,)
    patch_size: Annotated[int | None, Option("Pixels; 16 if not given (huge: 14).", least=1)] = None
    decoder_width: Annotated[int | None, Option("Of the decoder; the model's own if not given.")] = None
    decoder_depth: Annotated[int | None, Option("Blocks of the decoder; the model's own number if not given.")] = None
    decode_ratio: Annotated[
        float, Option("Share of the hidden patches that is decoded, drawn anew at every step (docs/speed.md).")
    ] = 1.0
    decoder_masking: Annotated[
        str, Option("Which those are: `random`, or of video by a `running-cell` (docs/video.md).")
    ] = "random"
    frames: Annotated[
        int | None, Option("SOURCE holds videos: frames of a clip, 16 as a rule (docs/video.md).", least=1)
    ] = None
    frame_stride: Annotated[int, Option("Frames of the video from one of a clip to the next.")] = 4
    tubelet: Annotated[int, Option("Frames of a video patch.")] = 2
    positions: Annotated[
        str, Option("Of video patches: `space-time`, or VideoMAE's `table`, to export to transformers.")
    ] = "space-time"
    inflate: Annotated[
        str | Path | None, Option("Start the video model from this run's image model, or a saved one's weights.")
    ] = None
    resolution_schedule: Annotated[
        str | None,
        Option(
            "Smaller images first: 0:128,0.5:160,0.8:224 is the share of the epochs, and the size from there on; "
            "the last is --image-size."
        ),
    ] = None
    norm_pix: Annotated[bool, Option("Predict patches normalised by their own mean and deviation.")] = True
    batch_size: Annotated[int, Option("Images at a time, in all processes.")] = 256
    accumulate: Annotated[int, Option("Batches a step.")] = 1
    epochs: Annotated[int, Option("Passes over the images.")] = 100
    blr: Annotated[float, Option("Base learning rate: the peak is blr x effective batch / 256.")] = 1.5e-4
    weight_decay: Annotated[float, Option("AdamW's.")] = 0.05
    warmup_epochs: Annotated[float | None, Option("A tenth of the epochs if not given.")] = None
    precision: Annotated[str, Option("auto, fp32 or bf16.")] = "auto"
    compile: Annotated[bool, Option("Compile the step: the first one takes minutes, the others less.")] = False
    deterministic: Annotated[bool, Option("The same bits from every such run, on a GPU too; slower there.")] = False
    shard_model: Annotated[
        bool, Option("Under torchrun: a part of weights and optimiser in each process (docs/distributed.md).")
    ] = False
    checkpoint_every: Annotated[int | None, Option("Steps between checkpoints; one epoch if not given.")] = None
    keep: Annotated[int, Option("Newest checkpoints kept, beside the best one.")] = 2
    resume: Annotated[bool, Option("Go on with the run in --out.")] = False
    track: Annotated[
        tuple[str, ...], Option("Log to tensorboard or wandb too (pip install 'saliency-mae[track]').")
    ] = ()
    seed: Seed = 0
    workers: Workers = 1
    augment_on: Annotated[
        str,
        Option(
            "Where decoded images are cropped and resized: by the `workers` or on the `device`; auto is the "
            "device if that is a GPU."
        ),
    ] = "auto"
    max_rejected: Annotated[float, Option("Share of unreadable images above which the run stops.")] = 0.01
    image_column: ImageColumn = None
    caption_column: CaptionColumn = None
    captions: CaptionsOfAnImage = "first"
    limit: Limit = None
    split: Split = None
    device: Device = "cpu"
