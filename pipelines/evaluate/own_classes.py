"""How often the classifier inside a file for ONNX Runtime is right on the test images, as a device would have it."""

from __future__ import annotations

from typing import Any

import numpy as np

from mae.evaluation.intervals import share_interval
from mae.on_device.session import DeviceModel
from pipelines.errors import user_errors
from pipelines.evaluate.data import Parts
from pipelines.evaluate.encoders.encoder import Encoder
from pipelines.evaluate.features import central_views
from pipelines.evaluate.options import EvaluateOptions


def own_accuracy(encoder: Encoder, parts: Parts, options: EvaluateOptions, *, quiet: bool) -> dict[str, Any]:
    """``own_accuracy`` 0..1 of the file's logits, and half of its 95 % interval; nothing for one without logits.

    Nothing too if the test part has a class that the file does not know. UserError.
    """
    if encoder.file is None or parts.masks:
        return {}
    with user_errors():
        opened = DeviceModel(encoder.file)
        known = opened.facts.classes
        if known is None or "logits" not in opened.outputs or not {*parts.names} <= {*known}:
            return {}
        right, seen = 0, 0
        settings: dict[str, Any] = {"batch_size": options.batch_size, "workers": options.workers, "name": encoder.name}
        for images, places in central_views(parts.test, encoder, unreadable={}, quiet=quiet, **settings):
            logits = opened.run(images.permute(0, 2, 3, 1).contiguous().numpy(), ["logits"])["logits"]
            truth = [known.index(parts.names[label]) for label in parts.test.labels[places]]
            right += int((logits.argmax(1) == np.asarray(truth)).sum())
            seen += len(truth)
    return {"own_accuracy": right / seen, "own_accuracy_interval": share_interval(right / seen, seen)}
