"""What ``export`` can be asked for."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pipelines.commandline.effects import Effect
from pipelines.commandline.option import Argument, Option, check_declared

Format = Literal["mae", "timm", "transformers", "onnx"]

_Onnx = partial(Option, panel="On device")


@dataclass(frozen=True)
class ExportOptions:
    """What ``export`` was asked for; the CLI's options under the same names."""

    effects: ClassVar[tuple[Effect, ...]] = (
        Effect(
            ("keep", "keep_by", "int8", "reconstruct", "classify", "pool", "opset"),
            lambda options: options.to == "onnx",
            "with --to {to}",
            "it is for --to onnx",
        ),
        Effect(("keep_by",), lambda options: options.share() != 1, "without --keep below 1"),
        Effect(("pool",), lambda options: options.classify is not None, "without --classify"),
    )

    run: Annotated[Path, Argument("A run, a saved model, an MAE checkpoint (.pth), or a ViTMAE or timm folder.")]
    to: Annotated[
        Format,
        Option(
            "Format: the .pth of facebookresearch/mae, a vit_* of timm, a ViTMAE or VideoMAE of transformers, or one "
            "file for ONNX Runtime."
        ),
    ]
    out: Annotated[
        Path, Option("New folder for the weights, their configuration and a model card. For onnx: a new FILE.onnx.")
    ]
    keep: Annotated[
        str,
        _Onnx(
            "Fraction of the patches to encode, chosen inside the graph. `2x` is as many as make the file twice as "
            "fast on this machine, and `auto` is `2x`."
        ),
    ] = "1"
    keep_by: Annotated[
        Literal["gate", "center", "map"] | None,
        _Onnx("What chooses the patches: the run's gate, the centre, or a map as a second input [default: gate]"),
    ] = None
    int8: Annotated[bool, _Onnx("Quantise the blocks dynamically to int8.")] = False
    reconstruct: Annotated[bool, _Onnx("Also give the image, with the patches that are not kept filled in.")] = False
    classify: Annotated[
        str | None,
        _Onnx("Labelled source. The file also gives logits, of a logistic regression of its features on this source."),
    ] = None
    pool: Annotated[
        Literal["mean", "cls"], _Onnx("Features of --classify: the class token or the mean of the patch tokens.")
    ] = "cls"
    opset: Annotated[
        int | None,
        _Onnx("Version of ONNX's operators. Older runtimes need an older one, which is slower [default: 23]"),
    ] = None

    def __post_init__(self) -> None:
        check_declared(self)
        self.share()

    def share(self) -> float | None:
        """The fraction of the patches to encode, 0..1; None where it follows from :meth:`times`. ValueError."""
        if self.times() is not None:
            return None
        try:
            share = float(self.keep)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            raise ValueError(f"--keep {self.keep}: give a fraction above 0 and at most 1, auto, or a speed such as 2x")
        return share

    def times(self) -> float | None:
        """How many times as fast as with all patches the file is to be; None where the share is given."""
        text = "2x" if self.keep == "auto" else self.keep
        try:
            times = float(text[:-1]) if text.endswith("x") else None
        except ValueError:
            return None
        if times is not None and not 1 < times < float("inf"):
            raise ValueError(f"--keep {self.keep}: a speed must be above 1x")
        return times
