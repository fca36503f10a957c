"""What ``explore`` can be asked for."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pipelines.commandline.effects import Effect
from pipelines.commandline.option import Argument, Option, check_declared
from pipelines.commandline.shared_options import DATA, OUTSIDE, Device

SERVER = "Who may see it"
"""A panel of ``--help``."""

LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class ExploreOptions:
    """What ``explore`` was asked for; the CLI's options under the same names."""

    effects: ClassVar[tuple[Effect, ...]] = (
        Effect(
            ("public",), lambda options: options.host not in LOOPBACK, "on a loopback address", "nobody else is let in"
        ),
    )

    what: Annotated[
        tuple[str, ...],
        Argument("Maps folders, runs, compare folders and at most one source of images, in any number and order."),
    ]
    source: Annotated[str | None, Option("Where the images are now [default: where the maps were made of them]")] = None
    clip: Annotated[
        str | None, Option("CLIP that reads the captions you type [default: the one that made the maps]", panel=DATA)
    ] = None
    pretrained: Annotated[str | None, Option("Weights tag or file of --clip.", panel=DATA)] = None
    allow_outside: Annotated[bool, Option(OUTSIDE, panel=DATA)] = False
    host: Annotated[
        str,
        Option("Address to listen on. Any but a loopback address needs a password in $MAE_CLI_PASSWORD.", panel=SERVER),
    ] = "127.0.0.1"
    port: Annotated[int, Option("Port to listen on. 0 takes a free one.", least=0, panel=SERVER)] = 7860
    public: Annotated[bool, Option("Let everyone in who can reach the address, without a password.", panel=SERVER)] = (
        False
    )
    device: Device = "cpu"

    def __post_init__(self) -> None:
        check_declared(self)
        if not self.what:
            raise ValueError("say what to explore: a maps folder, a run, a compare folder or a source of images")
        if self.port > 65535:
            raise ValueError(f"--port is {self.port}; it must be at most 65535")
