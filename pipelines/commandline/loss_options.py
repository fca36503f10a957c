"""Options of the loss of a pretraining."""

from typing import Annotated

from pipelines.commandline.option import Option

LOSS = "Loss (docs/guide/variants.md)"

SaliencyWeight = Annotated[
    float,
    Option(
        "Weight of saliency in the loss: 0 ignores it, 1 weights each hidden patch by it. Works with any mask.",
        panel=LOSS,
    ),
]
WeightBy = Annotated[
    str,
    Option(
        "maps or gate: what --saliency-weight calls salient, maps or the gate that is being trained.",
        panel=LOSS,
    ),
]
SaliencyWeightSchedule = Annotated[
    str,
    Option(
        "constant, rise or fall: keep --saliency-weight, or move it from 0 or to 0 during training, along half a "
        "cosine.",
        panel=LOSS,
    ),
]
VisibleWeight = Annotated[
    float,
    Option("Weight of the loss on visible patches, which decays with their distance to hidden ones.", panel=LOSS),
]
