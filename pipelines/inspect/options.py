"""What ``inspect`` can be asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from mae.masks.strategies import SALIENT_RATIO
from pipelines.commandline.effects import Effect
from pipelines.commandline.mask_options import (
    SALIENT_EFFECTS,
    ImageSize,
    MaskGranularity,
    MaskRatio,
    PatchSizeOfNoModel,
    SalientCap,
    SalientMass,
    SalientOfOrEach,
    SalientPick,
    SalientRatio,
    Temperature,
)
from pipelines.commandline.option import Argument, Option, check_declared
from pipelines.commandline.shared_options import MASKS, OUTSIDE, Device, Seed
from saliency.names import FIGURES

GALLERY, SCORES = "Gallery", "Scores"
"""Panels of ``--help``."""

Kind = Literal["maps", "run", "source"]


@dataclass(frozen=True)
class InspectOptions:
    """What ``inspect`` was asked for; the CLI's options under the same names."""

    effects: ClassVar[tuple[Effect, ...]] = (
        Effect(("gallery_size",), lambda options: options.gallery is not None, "without --gallery"),
        Effect(
            ("source", "limit"),
            lambda options: options.kind == "maps" or options.gate or options.health,
            "with {what}",
            "it belongs to maps, to --gate and to --health",
        ),
        Effect(
            ("gallery",),
            lambda options: options.kind != "run" or options.gate,
            "with {what}",
            "it belongs to maps, to a source, and to --gate",
        ),
        Effect(("faithful",), lambda options: options.kind == "maps", "with {what}", "it belongs to maps"),
        Effect(("faithful_limit",), lambda options: options.faithful, "without --faithful"),
        Effect(
            (
                *("views", "seed", "mask_ratio", "salient_ratio", "salient_of", "salient_pick", "salient_mass"),
                *("salient_cap", "mask_granularity"),
                *("temperature", "image_size", "patch_size"),
            ),
            lambda options: options.masks,
            "without --masks",
        ),
        Effect(
            ("require", "faithful", "device"),
            lambda options: not options.masks,
            "with --masks",
            "no map is scored there",
        ),
        *SALIENT_EFFECTS,
    )

    what: Annotated[str, Argument("A maps folder, a run folder or a source of images.")]
    source: Annotated[str | None, Option("Where the images of the maps are now, or other images for --gate.")] = None
    gate: Annotated[
        bool, Option("Show what the gate of a run finds important, in --source or in the run's own images.")
    ] = False
    health: Annotated[
        bool,
        Option("Of a run: how many directions its features use after each layer, by --source or its own images."),
    ] = False
    leaks: Annotated[
        str | None,
        Option("Of a source: which images of this other source, such as a test set, are in it, exactly or nearly."),
    ] = None
    masks: Annotated[
        bool,
        Option(
            "In the place of scores: which patches would pretrain hide by these maps, and how much of true objects?"
        ),
    ] = False
    json: Annotated[Path | None, Option("File to write all numbers to, as JSON.")] = None
    gallery: Annotated[
        Path | None,
        Option("PNG to draw samples into. More pages, the best and the worst are written next to it.", panel=GALLERY),
    ] = None
    gallery_size: Annotated[
        int, Option("Number of pairs to draw, evenly spaced, 12 on a page.", least=1, panel=GALLERY)
    ] = 12
    limit: Annotated[int, Option("Number of pairs to score at most, evenly spaced.", least=1, panel=SCORES)] = 500
    require: Annotated[
        tuple[str, ...],
        Option(
            "Exit with code 1 unless the maps beat the centre prior in this figure. Can be given several times.",
            choices=FIGURES,
            panel=SCORES,
        ),
    ] = ()
    faithful: Annotated[
        bool,
        Option("Also judge maps by their CLIP's score when pixels and captions change. Needs no masks.", panel=SCORES),
    ] = False
    faithful_limit: Annotated[
        int,
        Option(
            "Number of pairs for --faithful at most, evenly spaced. Each costs about 190 forward passes.",
            least=1,
            panel=SCORES,
        ),
    ] = 100
    views: Annotated[int, Option("Random views of each pair to draw masks for.", least=1, panel=MASKS)] = 4
    mask_ratio: MaskRatio = None
    mask_granularity: MaskGranularity = 1
    salient_ratio: SalientRatio = SALIENT_RATIO
    salient_of: SalientOfOrEach = None
    salient_pick: SalientPick = "top"
    salient_mass: SalientMass = 0.5
    salient_cap: SalientCap = 1.0
    temperature: Temperature = 1.0
    image_size: ImageSize = (224,)
    patch_size: PatchSizeOfNoModel = None
    seed: Seed = 0
    device: Device = "cpu"
    allow_outside: Annotated[bool, Option(OUTSIDE)] = False

    def __post_init__(self) -> None:
        check_declared(self)

    @property
    def kind(self) -> Kind:
        """What ``what`` is, as far as its files tell: anything that is neither maps nor a run is taken for a source."""
        from pipelines.outputs import kind_of  # numpy and pyarrow come with it, which a help text does without

        kind = kind_of(Path(self.what))
        return kind if kind == "maps" or kind == "run" else "source"
