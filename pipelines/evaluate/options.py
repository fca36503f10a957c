"""What ``evaluate`` can be asked for, checked before anything is opened."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pipelines.commandline.option import Argument, Option
from pipelines.commandline.shared_options import (
    CaptionColumn,
    CaptionsOfAnImage,
    Device,
    ImageColumn,
    Limit,
    Seed,
    SourcePlace,
    Split,
    Workers,
)

CLASSIFYING = ("knn", "logistic", "linear", "finetune")
"""On frozen features: k-NN, logistic regression, MAE's linear probe; and MAE's end-to-end fine-tuning."""
LABELLED = (*CLASSIFYING, "occlusion")
"""Those that need a class for every image; occlusion tells how a probe's accuracy falls as images are hidden."""
MASKED = ("segment", "propagate")
"""Those that need true masks: a linear probe of patches, and a mask carried through a video."""
PROTOCOLS = (*LABELLED, *MASKED)
QUICK = ("knn", "logistic")
"""What is run if nothing is asked for: they see every image once."""
CLIP_PROTOCOLS = (*QUICK, "occlusion")
"""Those that judge by clips, where a model is of video."""
OCCLUDERS = ("random", "salient", "non-salient", "block", "object")
CLIP_OCCLUDERS = (
    "random", "salient", "non-salient", "block-static", "block-moving", "object-static", "object-moving",
)  # fmt: skip
"""Of clips: what is in one place in all frames, or goes on a straight line; what is salient is so frame by frame."""
FILLS = ("grey", "noise")


@dataclass(frozen=True)
class EvaluateOptions:
    """What ``evaluate`` was asked for; the CLI's options under the same names."""

    run: Annotated[
        str,
        Argument(
            "A run folder or RUN/checkpoints/best, an MAE checkpoint (.pth), a ViTMAE or timm folder, or a timm "
            "model: timm:NAME, timm:NAME@FILE, timm:NAME@none."
        ),
    ]
    source: SourcePlace
    test: Annotated[str | None, Option("Source to test on; a part of SOURCE is held out if not given.")] = None
    protocols: Annotated[
        tuple[str, ...],
        Option(
            "knn, logistic (quick), linear (MAE's linear probe), finetune (MAE's fine-tuning), occlusion, segment "
            "and propagate (true masks); several if given several times [default: knn and logistic] "
            "(docs/protocols.md)",
            flags=("--protocol",),
        ),
    ] = QUICK
    beside: Annotated[tuple[str, ...], Option("Further runs or timm models to judge on the same images.")] = ()
    untrained: Annotated[bool, Option("Judge the same encoder untrained as well.")] = True
    pool: Annotated[
        str,
        Option(
            "Features are the class token `cls` or the `mean` of the patch tokens; finetune, and models without a "
            "class token, take the mean."
        ),
    ] = "cls"
    """Measured better than ``mean`` on the demo's scenes, by k-NN above all. Fine-tuning always pools by the mean."""
    neighbours: Annotated[int, Option("k of k-NN.")] = 20
    temperature: Annotated[float, Option("Of the votes of k-NN.")] = 0.07
    test_fraction: Annotated[float, Option("Share of every class held out where there is no --test.")] = 0.2
    label_fraction: Annotated[
        float, Option("Share of the training images to learn from, the same number of every class.")
    ] = 1.0
    seeds: Annotated[
        str, Option("How many seeds, counted from --seed, or which: 0,1,2. Several give a mean ± interval.")
    ] = "1"
    linear_epochs: Annotated[int, Option("Of linear.")] = 90
    linear_blr: Annotated[
        tuple[float, ...],
        Option("Base rate of linear; of several the best on held-out training images [default: 0.1 to 300]"),
    ] = ()
    linear_batch_size: Annotated[
        int | None, Option("Images a step of linear; 16384, or fewer for 32 steps an epoch, if not given.")
    ] = None
    finetune_epochs: Annotated[int | None, Option("Of finetune; 100, for large and huge 50, if not given.")] = None
    finetune_blr: Annotated[
        float | None, Option("Base rate of finetune; 5e-4, for large and huge 1e-3, if not given.")
    ] = None
    finetune_batch_size: Annotated[
        int | None, Option("Images a step of finetune; 1024, or fewer for 32 steps an epoch, if not given.")
    ] = None
    layer_decay: Annotated[
        float | None, Option("Of finetune's rate from block to block; 0.65, for large and huge 0.75, if not given.")
    ] = None
    drop_path: Annotated[float | None, Option("Of finetune; 0.1, for large 0.2 and for huge 0.3, if not given.")] = None
    occluder: Annotated[
        tuple[str, ...],
        Option(
            "Of occlusion: random, block, object, salient, non-salient; of clips block-static, block-moving, "
            "object-static and object-moving; several if given several times [default: all, salient and non-salient "
            "where there are masks or --occluder-maps]"
        ),
    ] = ()
    """None given: all that the test images allow."""
    occlusion_shares: Annotated[str, Option("Shares of the picture that are hidden, rising.")] = (
        "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9"
    )
    occluder_maps: Annotated[
        str | None, Option("Maps that say what is salient, not those the model was trained with; else true masks do.")
    ] = None
    occluder_grid: Annotated[
        int | None, Option("Cells a side that are hidden; the model's patches, or 14, if not given.")
    ] = None
    occluder_fill: Annotated[str, Option("Hidden pixels become `grey` or `noise`.")] = "grey"
    occlusion_probe: Annotated[str, Option("What learns from whole images: logistic or knn.")] = "logistic"
    recover_images: Annotated[
        int, Option("Of occlusion: so many images are also filled in by the decoder, and compared.")
    ] = 256
    dense_size: Annotated[
        int | None, Option("Shorter side of pictures in segment and propagate; the model's own size if not given.")
    ] = None
    segment_classes: Annotated[
        bool, Option("Segment by class where the source has labels, not object from background.")
    ] = True
    context_frames: Annotated[int, Option("Of propagate: frames before, beside the first.")] = 7
    radius: Annotated[int, Option("Of propagate: rows and columns that a patch looks away.")] = 12
    frame_stride: Annotated[
        int | None,
        Option("Ticks between the frames of a clip, where a model is of video; its training's, else 4."),
    ] = None
    out: Annotated[Path | None, Option("JSON to write; evaluation.json in the run folder if not given.")] = None
    confusion: Annotated[Path | None, Option("PNG for the encoder's confusion matrices.")] = None
    fresh: Annotated[bool, Option("Compute everything again, also what is finished beside --out.")] = False
    batch_size: Annotated[int, Option("Images at a time.")] = 256
    workers: Workers = 1
    seed: Seed = 0
    image_column: ImageColumn = None
    caption_column: CaptionColumn = None
    captions: CaptionsOfAnImage = "first"
    limit: Limit = None
    test_limit: Annotated[int | None, Option("Take the first N samples of --test.", least=1)] = None
    split: Split = None
    device: Device = "cpu"

    def __post_init__(self) -> None:
        for protocol in self.protocols:
            if protocol not in PROTOCOLS:
                raise ValueError(f"--protocol {protocol!r} is not one of: {', '.join(PROTOCOLS)}")
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"--test-fraction is {self.test_fraction:g}; it must lie between 0 and 1")
        if not 0 < self.label_fraction <= 1:
            raise ValueError(f"--label-fraction is {self.label_fraction:g}; it must be above 0 and at most 1")
        if self.neighbours < 1 or self.batch_size < 1 or self.temperature <= 0:
            raise ValueError("--neighbours and --batch-size must be at least 1, --temperature above 0")
        self._check_recipes()
        self._check_occlusion()
        self.all_seeds()

    def all_seeds(self) -> tuple[int, ...]:
        """The probes' seeds: those that were listed, or so many from ``seed`` on; ValueError for anything else."""
        try:
            numbers = tuple(int(part) for part in self.seeds.split(","))
        except ValueError as error:
            raise ValueError(f"--seeds {self.seeds!r} is not a number of seeds, nor seeds such as 0,1,2") from error
        seeds = numbers if len(numbers) > 1 else tuple(range(self.seed, self.seed + numbers[0]))
        if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
            raise ValueError(f"--seeds {self.seeds!r}: at least one is needed, each from 0 on and once")
        return seeds

    def shares(self) -> tuple[float, ...]:
        """The shares of a picture that are hidden, rising; ValueError for a text that names none."""
        try:
            shares = tuple(float(part) for part in self.occlusion_shares.split(","))
        except ValueError as error:
            raise ValueError(
                f"--occlusion-shares {self.occlusion_shares!r} is not shares such as 0,0.25,0.5"
            ) from error
        if any(not 0 <= share < 1 for share in shares) or list(shares) != sorted(set(shares)):
            raise ValueError(f"--occlusion-shares {self.occlusion_shares!r}: they rise from 0 on and stay below 1")
        return shares

    def check_judged(self, name: str, *, video: bool) -> None:
        """ValueError, naming a model, if what was asked for is not there for models of video, or of images."""
        known, other = (CLIP_OCCLUDERS, OCCLUDERS) if video else (OCCLUDERS, CLIP_OCCLUDERS)
        for kind in self.occluder:
            if kind not in known:
                what = (
                    f"is of {'images' if video else 'clips'}, and {name} is a model of {'video' if video else 'images'}"
                )
                raise ValueError(
                    f"--occluder {kind} {what}: give {', '.join(kind for kind in known if kind not in other)}"
                )
        for protocol in self.protocols if video else ():
            if protocol not in CLIP_PROTOCOLS:
                raise ValueError(
                    f"--protocol {protocol} is for models of images, and {name} is of video: give "
                    f"{', '.join(CLIP_PROTOCOLS)}"
                )
        if self.frame_stride is not None and not video:
            raise ValueError(f"--frame-stride is of clips, and {name} is a model of images: leave it out")

    def _check_occlusion(self) -> None:
        self.shares()
        for name, given, known in (
            ("--occluder", self.occluder, tuple(dict.fromkeys((*OCCLUDERS, *CLIP_OCCLUDERS)))),
            ("--occluder-fill", (self.occluder_fill,), FILLS),
            ("--occlusion-probe", (self.occlusion_probe,), QUICK),
        ):
            for value in given:
                if value not in known:
                    raise ValueError(f"{name} {value!r} is not one of: {', '.join(known)}")
        numbers = {
            "--occluder-grid": (self.occluder_grid, 2),
            "--recover-images": (self.recover_images, 0),
            "--dense-size": (self.dense_size, 8),
            "--context-frames": (self.context_frames, 0),
            "--radius": (self.radius, 1),
            "--frame-stride": (self.frame_stride, 1),
        }
        for name, (number, least) in numbers.items():
            if number is not None and number < least:
                raise ValueError(f"{name} is {number}; it must be at least {least}")
        if self.confusion and not set(self.protocols) & set(CLASSIFYING):
            raise ValueError(f"--confusion draws what these protocols take for what: {', '.join(CLASSIFYING)}")

    def _check_recipes(self) -> None:
        numbers = {
            "--linear-epochs": self.linear_epochs,
            "--linear-batch-size": self.linear_batch_size,
            "--finetune-epochs": self.finetune_epochs,
            "--finetune-batch-size": self.finetune_batch_size,
        }
        for name, number in numbers.items():
            least = 2 if "batch" in name else 1  # a norm of one image, or one to mix it with, is none
            if number is not None and number < least:
                raise ValueError(f"{name} is {number}; it must be at least {least}")
        for rate in (*self.linear_blr, *([] if self.finetune_blr is None else [self.finetune_blr])):
            if not 0 < rate < float("inf"):
                raise ValueError(f"a base learning rate is {rate:g}; --linear-blr and --finetune-blr must be above 0")
        if len(set(self.linear_blr)) < len(self.linear_blr):
            raise ValueError("--linear-blr was given the same rate twice")
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"--layer-decay is {self.layer_decay:g}; it must be above 0 and at most 1")
        if self.drop_path is not None and not 0 <= self.drop_path < 1:
            raise ValueError(f"--drop-path is {self.drop_path:g}; it must be from 0 to below 1")
