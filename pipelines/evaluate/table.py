"""The protocols of ``evaluate``: a row each, and the options that each brings along.

``mae-cli --help`` reads this, so nothing heavy is imported: a protocol's own module is opened when the protocol runs,
see :func:`pipelines.evaluate.protocol.load`. Options of a protocol are a class of their own, with their checks, and a
base of :class:`ProtocolOptions`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pipelines.commandline.effects import Effect
from pipelines.commandline.option import Option


@dataclass(frozen=True)
class Row:
    """What is known of a protocol before it runs."""

    place: str
    """``module:Class`` of its :class:`pipelines.evaluate.protocol.Protocol`."""
    labels: bool = False
    """It needs a class for every image."""
    masks: bool = False
    """It needs true masks."""
    clips: bool = False
    """It takes models of video, and clips in the place of images."""
    accuracy: bool = False
    """It predicts a class for every test image: its figure is an accuracy, and it has a confusion matrix."""
    pooled: bool = False
    """It reads the features of an image as the one vector that ``--pool`` makes of them."""
    learns: bool = True
    """It learns from a training part."""


PROTOCOLS = {
    "knn": Row("pipelines.evaluate.protocols.knn:Knn", labels=True, clips=True, accuracy=True, pooled=True),
    "logistic": Row(
        "pipelines.evaluate.protocols.logistic:LogisticRegression", labels=True, clips=True, accuracy=True, pooled=True
    ),
    "linear": Row(
        "pipelines.evaluate.protocols.linear:LinearProbe", labels=True, clips=True, accuracy=True, pooled=True
    ),
    "attentive": Row("pipelines.evaluate.protocols.attentive:AttentiveProbe", labels=True, clips=True, accuracy=True),
    "finetune": Row("pipelines.evaluate.protocols.finetune:FineTune", labels=True, clips=True, accuracy=True),
    "occlusion": Row("pipelines.evaluate.protocols.occlusion:Occlusion", labels=True, clips=True, pooled=True),
    "segment": Row("pipelines.evaluate.protocols.segment:Segment", masks=True, clips=True),
    "propagate": Row("pipelines.evaluate.protocols.propagate:Propagate", masks=True, clips=True, learns=False),
}
"""By name, in the order in which they are listed."""

QUICK = ("knn", "logistic")
"""What is run if nothing is asked for: they see every image once."""

OCCLUDERS = ("random", "salient", "non-salient", "block", "object")
CLIP_OCCLUDERS = (
    "random", "salient", "non-salient", "block-static", "block-moving", "object-static", "object-moving",
)  # fmt: skip
"""Of clips: in one place in all frames, or moving on a straight line; what is salient is so frame by frame."""

_Knn, _Linear, _Finetune, _Occlusion, _Masked = (
    partial(Option, panel=panel)
    for panel in ("k-NN", "Linear and attentive probe", "Fine-tuning", "Occlusion", "Segment and propagate")
)


def check_least(options: object, **least: int) -> None:
    """ValueError for the first of these fields of ``options`` that is a number below its least value."""
    for name, bound in least.items():
        number = getattr(options, name)
        if number is not None and number < bound:
            raise ValueError(f"{_flag(name)} is {number}; it must be at least {bound}")


def check_choice(flag: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    """ValueError for the first value of the option ``flag`` that is not among those known."""
    for value in given:
        if value not in known:
            raise ValueError(f"{flag} {value!r} is not one of: {', '.join(known)}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True, kw_only=True)
class _Options:
    """The end of every chain of checks."""

    def __post_init__(self) -> None:
        """Raises ValueError, in one line that names the option."""

    def check_model(self, name: str, *, video: bool) -> None:
        """ValueError, naming the model, if what was asked for does not exist for models of video, or of images."""


@dataclass(frozen=True, kw_only=True)
class KnnOptions(_Options):
    """Of ``knn``, and of ``occlusion`` where its probe is k-NN."""

    used_by: ClassVar[tuple[str, ...]] = ("knn",)

    neighbours: Annotated[int, _Knn("Number of neighbours that vote: the k of k-NN.")] = 20
    temperature: Annotated[
        float, _Knn("Temperature of the votes: the lower it is, the more the nearest neighbours count.")
    ] = 0.07

    def __post_init__(self) -> None:
        if self.neighbours < 1 or self.temperature <= 0:
            raise ValueError("--neighbours must be at least 1, and --temperature above 0")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class LinearOptions(_Options):
    """Of ``linear`` and ``attentive``."""

    used_by: ClassVar[tuple[str, ...]] = ("linear", "attentive")

    linear_epochs: Annotated[int, _Linear("Epochs of the linear or the attentive probe.")] = 90
    linear_blr: Annotated[
        tuple[float, ...],
        _Linear(
            "Base learning rate of the probe. Repeat it for several: the best on held-out training images is "
            "used [default: 0.1 to 300]"
        ),
    ] = ()
    linear_batch_size: Annotated[
        int | None,
        _Linear("Images per step of the probe. If not given: 16384 (attentive: 4096), or fewer for 32 steps an epoch."),
    ] = None

    def __post_init__(self) -> None:
        check_least(self, linear_epochs=1, linear_batch_size=2)  # a norm of one image is none
        for rate in self.linear_blr:
            _check_rate("--linear-blr", rate)
        if len(set(self.linear_blr)) < len(self.linear_blr):
            raise ValueError("--linear-blr was given the same rate twice")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class AttentiveOptions(_Options):
    """Of ``attentive``."""

    used_by: ClassVar[tuple[str, ...]] = ("attentive",)

    attentive_queries: Annotated[
        int, _Linear("Queries of the attentive probe. If it does not divide the width: the largest number that does.")
    ] = 32

    def __post_init__(self) -> None:
        check_least(self, attentive_queries=1)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(_Options):
    """Of ``finetune``; None leaves each to the recipe for a model of that size."""

    used_by: ClassVar[tuple[str, ...]] = ("finetune",)

    finetune_epochs: Annotated[
        int | None, _Finetune("Epochs of fine-tuning. If not given: 100, or 50 for large and huge models.")
    ] = None
    finetune_blr: Annotated[
        float | None,
        _Finetune("Base learning rate of fine-tuning. If not given: 5e-4, or 1e-3 for large and huge models."),
    ] = None
    finetune_batch_size: Annotated[
        int | None, _Finetune("Images per step of fine-tuning. If not given: 1024, or fewer for 32 steps an epoch.")
    ] = None
    layer_decay: Annotated[
        float | None,
        _Finetune(
            "Factor on the learning rate from each block to the one before it. If not given: 0.65, or 0.75 for large "
            "and huge models."
        ),
    ] = None
    drop_path: Annotated[
        float | None, _Finetune("Drop path rate of the last block. If not given: 0.1, for large 0.2, for huge 0.3.")
    ] = None

    def __post_init__(self) -> None:
        check_least(self, finetune_epochs=1, finetune_batch_size=2)  # one image has none to be mixed with
        if self.finetune_blr is not None:
            _check_rate("--finetune-blr", self.finetune_blr)
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            raise ValueError(f"--layer-decay is {self.layer_decay:g}; it must be above 0 and at most 1")
        if self.drop_path is not None and not 0 <= self.drop_path < 1:
            raise ValueError(f"--drop-path is {self.drop_path:g}; it must be from 0 to below 1")
        super().__post_init__()


def _check_rate(flag: str, rate: float) -> None:
    if not 0 < rate < float("inf"):
        raise ValueError(f"{flag} is {rate:g}; a base learning rate must be above 0 and finite")


@dataclass(frozen=True, kw_only=True)
class OcclusionOptions(_Options):
    """Of ``occlusion``."""

    used_by: ClassVar[tuple[str, ...]] = ("occlusion",)

    occluder: Annotated[
        tuple[str, ...],
        _Occlusion(
            "What hides the test images. Repeat it for several. If not given: all that the images allow; `salient` "
            "and `non-salient` need true masks or --occluder-maps. Clips have `-static` and `-moving` ones.",
            choices=tuple(dict.fromkeys((*OCCLUDERS, *CLIP_OCCLUDERS))),
        ),
    ] = ()
    """None given: all that the test images allow."""
    occlusion_shares: Annotated[str, _Occlusion("Fractions of the image that are hidden, in rising order.")] = (
        "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9"
    )
    occluder_maps: Annotated[
        str | None,
        _Occlusion(
            "Maps that define what is salient, by default true masks. The model must not have been trained with them."
        ),
    ] = None
    occluder_grid: Annotated[
        int | None, _Occlusion("Cells per side that are hidden. If not given: the model's own patches, or 14.")
    ] = None
    occluder_fill: Annotated[Literal["grey", "noise"], _Occlusion("What hidden pixels become.")] = "grey"
    occlusion_probe: Annotated[Literal["knn", "logistic"], _Occlusion("The probe, which learns from whole images.")] = (
        "logistic"
    )
    recover_images: Annotated[
        int, _Occlusion("Number of test images that the decoder fills in, to be compared with the true ones.")
    ] = 256

    def __post_init__(self) -> None:
        self.shares()
        check_choice("--occluder", self.occluder, tuple(dict.fromkeys((*OCCLUDERS, *CLIP_OCCLUDERS))))
        check_choice("--occluder-fill", (self.occluder_fill,), ("grey", "noise"))
        check_choice("--occlusion-probe", (self.occlusion_probe,), ("knn", "logistic"))
        check_least(self, occluder_grid=2, recover_images=0)
        super().__post_init__()

    def shares(self) -> tuple[float, ...]:
        """The fractions of a picture that are hidden, rising from 0 on; ValueError for a text that names none."""
        try:
            shares = tuple(float(part) for part in self.occlusion_shares.split(","))
        except ValueError as error:
            raise ValueError(
                f"--occlusion-shares {self.occlusion_shares!r} is not shares such as 0,0.25,0.5"
            ) from error
        if any(not 0 <= share < 1 for share in shares) or list(shares) != sorted(set(shares)):
            raise ValueError(f"--occlusion-shares {self.occlusion_shares!r}: they rise from 0 on and stay below 1")
        return shares

    def check_model(self, name: str, *, video: bool) -> None:
        """ValueError, naming the model, for an occluder of clips with a model of images, or the other way round."""
        known, other = (CLIP_OCCLUDERS, OCCLUDERS) if video else (OCCLUDERS, CLIP_OCCLUDERS)
        for kind in self.occluder:
            if kind not in known:
                takes, sees = ("images", "video") if video else ("clips", "images")
                raise ValueError(
                    f"--occluder {kind} is of {takes}, and {name} is a model of {sees}: give "
                    f"{', '.join(kind for kind in known if kind not in other)}"
                )
        super().check_model(name, video=video)


@dataclass(frozen=True, kw_only=True)
class WholeImageOptions(_Options):
    """Of the protocols that need features by place."""

    used_by: ClassVar[tuple[str, ...]] = ("segment", "propagate")

    dense_size: Annotated[
        int | None, _Masked("Shorter side of the images, in pixels [default: the model's own size]")
    ] = None

    def __post_init__(self) -> None:
        check_least(self, dense_size=8)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class SegmentOptions(WholeImageOptions):
    """Of ``segment``."""

    used_by: ClassVar[tuple[str, ...]] = ("segment",)

    segment_classes: Annotated[
        bool, _Masked("Segment by class where the source has labels, instead of object from background.")
    ] = True


@dataclass(frozen=True, kw_only=True)
class PropagateOptions(WholeImageOptions):
    """Of ``propagate``."""

    used_by: ClassVar[tuple[str, ...]] = ("propagate",)

    context_frames: Annotated[
        int, _Masked("Number of previous frames that labels come from, in addition to the first frame.")
    ] = 7
    radius: Annotated[int, _Masked("Rows and columns within which a patch looks for similar patches.")] = 12
    similar_patches: Annotated[int, _Masked("Most similar patches that a patch takes its labels from.")] = 5

    def __post_init__(self) -> None:
        check_least(self, context_frames=0, radius=1, similar_patches=1)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ProtocolOptions(
    PropagateOptions, SegmentOptions, OcclusionOptions, FinetuneOptions, AttentiveOptions, LinearOptions, KnnOptions
):  # a dataclass takes the last base's fields first
    """The options of all protocols."""


_SHARED = {"pooled": ("pool",), "learns": ("label_fraction", "test_fraction")}
"""Options of all protocols whose row says so."""


def protocol_effects() -> Iterator[Effect]:
    """When the options of protocols have an effect: where a protocol that uses them runs."""
    for name in ("pooled", "learns"):
        owners = tuple(known for known, row in PROTOCOLS.items() if getattr(row, name))
        yield _of_protocols(_SHARED[name], owners)
    for kind in ProtocolOptions.__mro__:
        names = vars(kind).get("used_by", ())
        own = tuple(name for name in vars(kind).get("__annotations__", ()) if name != "used_by")
        if names:
            yield _of_protocols(own, names)


def _of_protocols(options: tuple[str, ...], names: tuple[str, ...]) -> Effect:
    return Effect(options, partial(_runs, names), "with --protocol {measured}", f"it is for {' and '.join(names)}")


def _runs(names: tuple[str, ...], options: Any) -> bool:
    """Whether one of these protocols is asked for; k-NN is also where ``occlusion`` has it as its probe."""
    probe = {options.occlusion_probe} if "occlusion" in options.protocols else set()
    return not {*options.protocols, *probe}.isdisjoint(names)
