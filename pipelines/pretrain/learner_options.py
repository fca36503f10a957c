"""The options of masks that learn, a type each: the gate's, those by attention, of hard patches, and of one's own."""

from pathlib import Path
from typing import Annotated

from pipelines.commandline.option import Option

GATE, ATTENTION, HARD, CUSTOM = (
    "Masks by a gate (docs/guide/gate.md)",
    "Masks by attention",
    "Masks of hard patches",
    "Masks by your own scores",
)

GateRatio = Annotated[float, Option("Fraction of the important patches that is hidden.", panel=GATE)]
GateSign = Annotated[
    str, Option("Hide the chosen important patches, or keep them visible.", choices=("hide", "keep"), panel=GATE)
]
GateTeacher = Annotated[
    str | Path | None, Option("Saliency maps that guide the gate during the first fifth of training.", panel=GATE)
]
GatePositions = Annotated[
    bool, Option("Let the gate see where patches lie, and treat the image's border as background.", panel=GATE)
]
GateReads = Annotated[
    str,
    Option(
        "What the gate reads: patch embeddings, or tokens within a momentum encoder, of every second patch or all.",
        choices=("patches", "middle", "middle-all"),
        panel=GATE,
    ),
]
GateWidth = Annotated[
    int | None,
    Option(
        "Width of the gate, a multiple of 16 [default: a quarter of the encoder's, or with middle what makes a "
        "tenth of its parameters].",
        panel=GATE,
        least=16,
    ),
]
GateDepth = Annotated[int, Option("Number of the gate's attention blocks.", panel=GATE, least=1)]
GateSlots = Annotated[
    int,
    Option("Number of region prototypes that the gate learns by contrast; 0 for none.", panel=GATE, least=0),
]
GateContrast = Annotated[float, Option("Weight of the contrastive term in the gate's loss.", panel=GATE)]
AttentionShown = Annotated[
    float,
    Option("For attention-hint: fraction of the most-attended patches from which a few are revealed.", panel=ATTENTION),
]
AttentionMomentum = Annotated[
    float, Option("Momentum of the teacher's moving average at the start of training.", panel=ATTENTION)
]
AttentionMomentumEnd = Annotated[
    float, Option("Momentum at the end of training, reached along half a cosine.", panel=ATTENTION)
]
HardFinal = Annotated[
    float,
    Option(
        "Fraction of the mask chosen by predicted error at the end of training. It grows linearly from 0.",
        panel=HARD,
    ),
]
MasksFile = Annotated[
    str | None,
    Option(
        "FILE.py:NAME, a function or a class of yours that scores patches: those of the highest scores are hidden "
        "(docs/guide/your-masks.md).",
        panel=CUSTOM,
    ),
]
