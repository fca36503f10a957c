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
SaliencyWeightSchedule = Annotated[
    str,
    Option(
        "Keep --saliency-weight constant, or let it rise from 0 or fall to 0 during training, along half a cosine.",
        choices=("constant", "rise", "fall"),
        panel=LOSS,
    ),
]
VisibleWeight = Annotated[
    float,
    Option("Weight of the loss on visible patches, which decays with their distance to hidden ones.", panel=LOSS),
]
