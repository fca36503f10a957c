"""What ``publish`` can be asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pipelines.commandline.option import Argument, Option


@dataclass(frozen=True)
class PublishOptions:
    """What ``publish`` was asked for; the CLI's options under the same names."""

    maps: Annotated[Path, Argument("A finished maps folder.")]
    name: Annotated[str, Argument("user/name of the dataset on the Hub.")]
    dry_run: Annotated[Path | None, Option("Write the dataset into this new folder, and upload nothing.")] = None
    private: Annotated[bool, Option("Make the dataset private.")] = False
    preview: Annotated[int, Option("Pictures for the Hub's viewer, evenly spaced; 0 for none.")] = 1000
    with_images: Annotated[bool, Option("Show the photos in the preview, which needs the right to publish them.")] = (
        False
    )
    source: Annotated[str | None, Option("Where the images are now, for --with-images.")] = None
    licence: Annotated[str, Option("Of the maps, as the Hub spells it.", flags=("--licence", "--license"))] = "other"
    quality: Annotated[Path | None, Option("What inspect --json wrote, for the card.")] = None

    def __post_init__(self) -> None:
        if self.preview < 0:
            raise ValueError(f"--preview is {self.preview}; it must be at least 0")
        if self.with_images and not self.preview:
            raise ValueError("--with-images has nothing to show in with --preview 0")
        if not self.licence.strip() or "\n" in self.licence:
            raise ValueError("--licence is a name such as cc-by-4.0, as the Hub spells it")
