"""What ``publish`` can be asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pipelines.commandline.effects import Effect
from pipelines.commandline.option import Argument, Option, check_declared
from pipelines.commandline.shared_options import OUTSIDE

PREVIEW, CARD = "Preview pictures", "Dataset card"
"""Panels of ``--help``."""


@dataclass(frozen=True)
class PublishOptions:
    """What ``publish`` was asked for; the CLI's options under the same names."""

    effects: ClassVar[tuple[Effect, ...]] = (
        Effect(("private",), lambda options: options.dry_run is None, "with --dry-run", "nothing is uploaded"),
        Effect(("source",), lambda options: options.with_images, "without --with-images"),
    )

    maps: Annotated[Path, Argument("A finished maps folder.")]
    name: Annotated[str, Argument("The dataset on the Hub, as user/name.")]
    dry_run: Annotated[Path | None, Option("Write the dataset into this new folder and upload nothing.")] = None
    space: Annotated[
        str | None, Option("Show the maps in this Space of the Hub, as user/name, with the app of explore.")
    ] = None
    private: Annotated[bool, Option("Make the dataset, and the Space, private.")] = False
    preview: Annotated[
        int, Option("Pictures for the Hub's viewer, evenly spaced. 0 makes none.", least=0, panel=PREVIEW)
    ] = 1000
    with_images: Annotated[
        bool, Option("Show the photos, which requires the right to publish them.", panel=PREVIEW)
    ] = False
    source: Annotated[str | None, Option("Where the images are now, for --with-images.", panel=PREVIEW)] = None
    allow_outside: Annotated[bool, Option(OUTSIDE, panel=PREVIEW)] = False
    licence: Annotated[
        str, Option("Licence of the maps, as the Hub spells it.", flags=("--licence", "--license"), panel=CARD)
    ] = "other"
    quality: Annotated[Path | None, Option("File that inspect --json wrote, to show its figures.", panel=CARD)] = None

    def __post_init__(self) -> None:
        check_declared(self)
        if self.with_images and not self.preview:
            raise ValueError("--with-images has nothing to show in with --preview 0")
        if not self.licence.strip() or "\n" in self.licence:
            raise ValueError("--licence is a name such as cc-by-4.0, as the Hub spells it")
