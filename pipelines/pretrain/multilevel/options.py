"""The options of ``--masking mlo``, a type each; ``mae.multilevel.forms`` has the values where none is given."""

from functools import partial
from typing import Annotated

from mae.multilevel.forms import FORMS
from pipelines.commandline.option import Option

LEVELS = ("Masks that learn from labels: mlo (docs/guide/mlo.md)", "Levels of mlo")
_Masks, _Levels = (partial(Option, panel=panel) for panel in LEVELS)
_OWN = FORMS["own"]


def _told(name: str) -> str:
    return f" [default: {_OWN[name]}]"


MloForm = Annotated[
    str | None,
    _Masks(
        "own: what measured best here; paper: all of the paper's own form. What else is given changes the form own.",
        choices=tuple(FORMS),
    ),
]
MloMasker = Annotated[
    str | None,
    _Masks(
        "Network that masks: the gate's, the MLP of the paper, or a mix of a few features of the patches."
        + _told("masker"),
        choices=("gate", "mlp", "mix"),
    ),
]
MloPath = Annotated[
    str | None,
    _Masks(
        "How gradients pass through the mask: each loss is multiplied by its score, by its score relative to the "
        "mean, or straight-through; or through the chance that the mask is drawn, without or with relative scores."
        + _told("path"),
        choices=("weighted", "relative", "straight-through", "drawn", "drawn-relative"),
    ),
]
MloShare = Annotated[
    float | None,
    _Masks(
        "Fraction of the hidden patches that the network chooses; the others are random. A mix learns it from there."
        + _told("share")
    ),
]
MloExploration = Annotated[
    float | None,
    _Masks(
        "With 0 the highest scores are hidden. Above 0 patches are drawn with odds ∝ score^(1/exploration)."
        + _told("exploration")
    ),
]
MloWait = Annotated[
    float | None,
    _Masks(
        "The network waits until the head's cross-entropy is below this fraction of chance, ln C; 0 does not wait."
        + _told("wait")
    ),
]
MloSplit = Annotated[float | None, _Masks("Fraction of every class held out to judge the masks." + _told("split"))]
MloMaskerRate = Annotated[
    float | None,
    _Masks("Peak learning rate of the network that masks [default: 0.05 for a mix, else 0.001]; 0 leaves it as it is."),
]
MloHead = Annotated[
    str | None,
    _Levels("Solve the head on recent features, or let it take steps." + _told("head"), choices=("solved", "steps")),
]
MloHeadRate = Annotated[float | None, _Levels("Peak learning rate of a head that takes steps." + _told("head_rate"))]
MloBuffer = Annotated[int | None, _Levels("Number of features on which the head is solved." + _told("buffer"), least=2)]
MloUnroll = Annotated[
    str | None,
    _Levels("Autoencoder steps per step of the head, and head steps per step of the masker." + _told("unroll")),
]
MloThrough = Annotated[
    int | None,
    _Levels(
        "Autoencoder steps that the hypergradient goes back through, the last ones; 0 is all." + _told("through"),
        least=0,
    ),
]
MloHypergradient = Annotated[
    str | None,
    _Levels(
        "Compute hypergradients by finite differences, or exactly by second derivatives." + _told("hypergradient"),
        choices=("finite", "exact"),
    ),
]
MloPool = Annotated[
    str | None,
    _Levels(
        "Features the head sees: the class token, or the mean of the patches." + _told("pool"),
        choices=("cls", "mean"),
    ),
]
MloCrops = Annotated[
    str | None,
    _Levels(
        "Views of levels 2 and 3: gentle crops of 0.6 to 1 of the image, or those of training." + _told("crops"),
        choices=("gentle", "training"),
    ),
]
