"""Options of masks by maps and of the grid they lie on, for every command that draws such masks."""

from dataclasses import replace
from typing import Annotated

from mae.masks.strategies import SALIENT_OF, SALIENT_PICKS
from pipelines.commandline.effects import Effect
from pipelines.commandline.option import Option
from pipelines.commandline.shared_options import MASKS, MODEL

SALIENT = "Masks by saliency maps"


def parse_sides(text: str) -> tuple[int, ...]:
    """``224`` or ``224x448`` as one side, or height and width; ValueError."""
    try:
        return tuple(int(side) for side in text.lower().split("x"))
    except ValueError as error:
        raise ValueError(
            f"--image-size {text!r} is not a side or HEIGHTxWIDTH in pixels, such as 224 or 224x448"
        ) from error


MaskRatio = Annotated[
    float | None, Option("Fraction of patches hidden [default: 0.75, or 0.9 for videos].", panel=MASKS)
]
MaskGranularity = Annotated[
    int,
    Option("Side of the blocks of patches that are hidden or shown together: 2 for 2×2 patches.", least=1, panel=MASKS),
]
SalientRatio = Annotated[
    float,
    Option(
        "Fraction of patches hidden because they are salient. --salient-of sets what the fraction refers to.",
        panel=SALIENT,
    ),
]
_SALIENT_OF = Option(
    "Whether --salient-ratio counts all patches of the image, the hidden ones, or those of the salient set.",
    choices=SALIENT_OF,
    panel=SALIENT,
)
SalientOf = Annotated[str, _SALIENT_OF]
SalientOfOrEach = Annotated[str | None, replace(_SALIENT_OF, help=f"{_SALIENT_OF.help} [default: each of them]")]
SalientPick = Annotated[
    str,
    Option(
        "Hide the most salient patches, or draw them at random with odds weighted by saliency.",
        choices=SALIENT_PICKS,
        panel=SALIENT,
    ),
]
SalientMass = Annotated[float, Option("Fraction of a map's total that the salient set holds.", panel=SALIENT)]
SalientCap = Annotated[
    float,
    Option("Hide at most this fraction of the salient set, or of what the gate finds important.", panel=SALIENT),
]
Temperature = Annotated[
    float, Option("Temperature of the weighted draw. Low values approach top, high values uniform.", panel=SALIENT)
]
ImageSize = Annotated[
    tuple[int, ...],
    Option("Size of the images in pixels: a side, or HEIGHTxWIDTH.", parse=parse_sides, written="224", panel=MODEL),
]
ClassTokens = Annotated[
    int | None,
    Option(
        "Class tokens of the encoder [default: 1, or none for videos] (docs/guide/variants.md).", least=1, panel=MODEL
    ),
]
_PATCH_SIZE = Option("Side of a patch in pixels [default: 16, or 14 for huge].", least=1, panel=MODEL)
PatchSize = Annotated[int | None, _PATCH_SIZE]
PatchSizeOfNoModel = Annotated[int | None, replace(_PATCH_SIZE, help="Side of a patch in pixels [default: 16].")]

SALIENT_EFFECTS = (
    Effect(
        ("salient_mass",),
        lambda options: options.salient_of in (None, "salient", "salient-only") or options.salient_cap < 1,
        "with --salient-of {salient_of}",
        "it belongs to --salient-of salient, --salient-of salient-only and --salient-cap",
    ),
    Effect(
        ("temperature",),
        lambda options: options.salient_pick == "weighted",
        "with --salient-pick {salient_pick}",
        "it belongs to --salient-pick weighted",
    ),
)
"""Which of these options need another one."""
