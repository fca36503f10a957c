"""What a training leaves behind when it stops being finite: ``RUN/nonfinite/``, and the one line that says so.

The folder is a checkpoint of the state *before* the bad step, for the guard let no later step change it, with
``step.json`` beside it: loss, learning rate, the images by index and key, and the seed from which, with the step, all
of its views and masks follow. So the step can be done again, and looked into.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae.training.any_training import Trained
from mae.training.checkpoints import save_state
from pipelines.errors import UserError
from pipelines.run_folder import RunFolder
from pipelines.sources.source import Source

NON_FINITE = "nonfinite"


def stop(
    run: RunFolder,
    training: Trained,
    source: Source,
    line: dict[str, Any],
    batches: list[NDArray[np.int64]],
    parameter: str | None,
) -> UserError:
    """Saves the state before the step that ``line`` of the log is of; returns the error to raise.

    ``batches`` are the indices of its images, ``parameter`` the first with a gradient that is not finite.
    """
    step, loss, weight = line["step"], line["loss"], training.non_finite_weight()
    facts = {
        **line,
        "loss": repr(loss),  # JSON has no NaN
        "gradient_not_finite": parameter,
        "weight_not_finite": weight,
        "precision": training.precision,
        "seed": training.settings.seed,
        "batches": [[{"index": int(i), "key": source.keys[int(i)].as_py()} for i in batch] for batch in batches],
    }
    training.step = step - 1
    place = run.folder / NON_FINITE
    save_state(place, training, {"step.json": json.dumps(facts, indent=1, ensure_ascii=False) + "\n"})
    what = (
        f"the loss became {loss}"
        if not np.isfinite(loss)
        else f"the gradients became infinite or NaN (loss {loss:.4g})"
    )
    where = f"weight {weight}" if weight else f"gradient of {parameter}" if parameter else "no weight or gradient"
    cure = "a lower --blr or more --warmup-epochs" + (", or --precision fp32" if training.precision != "fp32" else "")
    return UserError(
        f"{what} at step {step} (learning rate {line['learning_rate']:.3g}; first not finite: {where}): begin a new "
        f"run with {cure}; {place} holds the state before that step and its images"
    )


def stop_at_weights(run: RunFolder, training: Trained, weight: str) -> UserError:
    """As :func:`stop`, for weights that a finite gradient threw out of range in the last step."""
    place = run.folder / NON_FINITE
    facts = {"step": training.step, "weight_not_finite": weight, "seed": training.settings.seed}
    save_state(place, training, {"step.json": json.dumps(facts, indent=1) + "\n"})
    return UserError(
        f"the weights became infinite or NaN by step {training.step} (first: {weight}): begin a new run with a lower "
        f"--blr; {place} holds the state after that step, checkpoints in {run.folder} are from before"
    )
