"""What ``evaluate`` can be asked for, checked before anything is opened; options of one protocol are in ``table``."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from pipelines.commandline.effects import Effect
from pipelines.commandline.option import Argument, Option
from pipelines.commandline.option_text import parse_seeds
from pipelines.commandline.shared_options import (
    DATA,
    MACHINE,
    AllowOutside,
    CaptionColumn,
    CaptionsOfAnImage,
    Device,
    ImageColumn,
    Limit,
    Precision,
    Precisions,
    SourcePlace,
    Split,
    Workers,
)
from pipelines.evaluate.results.requirements import Requirements, parse_requirements
from pipelines.evaluate.table import PROTOCOLS, QUICK, ProtocolOptions, check_choice, check_least, protocol_effects

_Data, _What, _Result, _Machine = (partial(Option, panel=panel) for panel in (DATA, "Protocols", "Results", MACHINE))


@dataclass(frozen=True)
class _Shared:
    """What is asked of every protocol; the first fields may be given by position."""

    run: Annotated[
        str,
        Argument(
            "The encoder: a run folder or RUN/checkpoints/best, an MAE checkpoint (.pth), a ViTMAE or timm folder, "
            "FILE.onnx of export, or a timm model (timm:NAME, timm:NAME@FILE, timm:NAME@none)."
        ),
    ]
    source: SourcePlace
    test: Annotated[str | None, _Data("Source to test on. If not given, a part of SOURCE is held out.")] = None
    protocols: Annotated[
        tuple[str, ...],
        _What(
            "What to measure. Repeat it for several [default: knn and logistic] (docs/guide/evaluation.md).",
            flags=("--protocol",),
            choices=tuple(PROTOCOLS),
        ),
    ] = QUICK
    beside: Annotated[
        tuple[str, ...], _What("Another run or timm model to measure on the same images. Repeat it for several.")
    ] = ()
    untrained: Annotated[bool, _What("Measure the same encoder with random weights as well.")] = True
    pool: Annotated[
        Literal["mean", "cls"],
        _What(
            "Features are the class token (cls) or the mean of the patch tokens. Fine-tuning, and models without a "
            "class token, take the mean."
        ),
    ] = "cls"
    """Measured better than ``mean`` on the demo's scenes, by k-NN above all. Fine-tuning always pools by the mean."""
    seeds: Annotated[
        str, _What("Number of seeds from --seed on, or a list such as 0,1,2. Several give a mean ± interval.")
    ] = "1"
    seed: Annotated[int, _What("Seed of all random numbers.", least=0)] = 0
    test_fraction: Annotated[float, _Data("Fraction of every class that is held out where there is no --test.")] = 0.2
    label_fraction: Annotated[
        float, _Data("Fraction of the training images to learn from, as many of every class.")
    ] = 1.0
    frame_stride: Annotated[
        int | None, _Data("Ticks between the frames of a clip, for video models [default: as in training]")
    ] = None
    clips: Annotated[
        int,
        _Data("Clips of each test video, evenly spaced in time. The scores of a video are their mean.", least=1),
    ] = 1
    leaks: Annotated[
        Literal["off", "train", "pretraining"],
        _Data(
            "Where to look for near-duplicates of the test images: in the training images, or also in those that the "
            "run was pretrained on, which are read for it."
        ),
    ] = "train"
    limit: Limit = None
    test_limit: Annotated[int | None, _Data("Take the first N samples of --test.", least=1)] = None
    split: Split = None
    allow_outside: AllowOutside = False
    image_column: ImageColumn = None
    caption_column: CaptionColumn = None
    captions: CaptionsOfAnImage = "first"


@dataclass(frozen=True)
class EvaluateOptions(ProtocolOptions, _Shared):
    """What ``evaluate`` was asked for; the CLI's options under the same names."""

    effects: ClassVar[tuple[Effect, ...]] = (
        *protocol_effects(),
        Effect(("test_limit",), lambda options: options.test is not None, "without --test"),
        Effect(("test_fraction",), lambda options: options.test is None, "with --test", "all of that is tested on"),
        Effect(
            ("occluder_maps",),
            lambda options: not options.occluder or not {"salient", "non-salient"}.isdisjoint(options.occluder),
            "with --occluder {occluders}",
            "it belongs to --occluder salient or non-salient",
        ),
        Effect(("fresh",), lambda options: options.file is not None, "without --out", "nothing is kept of {run}"),
    )

    out: Annotated[Path | None, _Result("JSON file to write. If not given: evaluation.json in the run folder.")] = None
    confusion: Annotated[Path | None, _Result("PNG file for the encoder's confusion matrices.")] = None
    predictions: Annotated[
        Path | None, _Result("Parquet or CSV file for what each test image was taken for, by encoder and protocol.")
    ] = None
    require: Annotated[
        Requirements | None,
        _Result(
            "Exit with code 1 unless the encoder comes to this against the first --beside, such as "
            "`accuracy=-1,latency=2x`: at most one point less, and twice as fast.",
            parse=parse_requirements,
        ),
    ] = None
    fresh: Annotated[bool, _Result("Compute everything again, even what an earlier command has finished.")] = False
    precision: Precision = "auto"
    batch_size: Annotated[int, _Machine("Images per batch.")] = 256
    workers: Workers = 1
    device: Device = "cpu"

    def __post_init__(self) -> None:
        check_choice("--protocol", self.protocols, tuple(PROTOCOLS))
        check_choice("--precision", (self.precision,), get_args(Precisions))
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"--test-fraction is {self.test_fraction:g}; it must lie between 0 and 1")
        if not 0 < self.label_fraction <= 1:
            raise ValueError(f"--label-fraction is {self.label_fraction:g}; it must be above 0 and at most 1")
        check_least(self, batch_size=1, frame_stride=1, clips=1)
        super().__post_init__()
        with_classes = [name for name, row in PROTOCOLS.items() if row.accuracy]
        without = not set(self.protocols) & set(with_classes)
        if self.confusion and without:
            raise ValueError(f"--confusion draws what these protocols take for what: {', '.join(with_classes)}")
        if self.predictions and without:
            raise ValueError(f"--predictions lists what these protocols predict: {', '.join(with_classes)}")
        if self.predictions and self.predictions.suffix not in (".parquet", ".csv"):
            raise ValueError(f"--predictions is {self.predictions}; it must end in .parquet or .csv")
        if self.require is not None and not self.beside:
            raise ValueError("--require compares with the first --beside: name the run there")
        if self.require is not None and self.require.accuracy is not None and without:
            raise ValueError(f"--require accuracy needs one of these protocols: {', '.join(with_classes)}")
        self.all_seeds()

    @property
    def measured(self) -> str:
        """The protocols, as they are typed."""
        return " and ".join(self.protocols)

    @property
    def occluders(self) -> str:
        """The occluders, as they are typed."""
        return " and ".join(self.occluder)

    @property
    def file(self) -> Path | None:
        """Where the result is written: ``out``, else ``evaluation.json`` in a run folder, else nowhere."""
        return self.out or (Path(self.run) / "evaluation.json" if Path(self.run).is_dir() else None)

    def all_seeds(self) -> tuple[int, ...]:
        """The probes' seeds: those that were listed, or so many from ``seed`` on; ValueError for anything else."""
        try:
            return parse_seeds(self.seeds, first=self.seed)
        except ValueError as error:
            raise ValueError(f"--seeds {error}") from error

    def check_model(self, name: str, *, video: bool) -> None:
        """ValueError, naming the model, if what was asked for does not exist for models of video, or of images."""
        super().check_model(name, video=video)
        for protocol in self.protocols if video else ():
            if not PROTOCOLS[protocol].clips:
                raise ValueError(
                    f"--protocol {protocol} is for models of images, and {name} is of video: give "
                    f"{', '.join(known for known, row in PROTOCOLS.items() if row.clips)}"
                )
        for flag, given in (("--frame-stride", self.frame_stride is not None), ("--clips", self.clips > 1)):
            if given and not video:
                raise ValueError(f"{flag} is of clips, and {name} is a model of images: leave it out")
