"""What a run with ``--masking mlo`` has cost, in passes and FLOPs of every level: ``cost.json`` in its folder.

``plain_steps`` is the number of steps of plain pretraining, on batches of the same size, that take as many FLOPs: so
many can another run make for a comparison at equal compute.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mae.multilevel.mlo_training import MultilevelTraining
from mae.training.flops import training_flops
from pipelines.run_folder import RunFolder
from saliency.files import remove_leftovers, write_text_atomically

COST = "cost.json"


def write_cost(run: RunFolder, training: MultilevelTraining) -> None:
    """Write what all steps so far took."""
    batch, counts = training.settings.batch_size, training.batches_per_step
    batches = {name: training.step * count for name, count in counts.items()} | {"masker": training.learned}
    levels: dict[str, dict[str, Any]] = {
        name: {"steps": batches[name], "images": batches[name] * batch, **cost}
        for name, cost in training.cost().items()
    }
    total = sum(cost["flops"] for cost in levels.values())
    plain = training_flops(training.model, training.masking.mask_ratio) * batch
    content = {"levels": levels, "flops": total, "plain_step_flops": plain, "plain_steps": round(total / plain, 1)}
    remove_leftovers(run.folder, {COST}, deep=False)
    write_text_atomically(run.folder / COST, json.dumps(content, indent=1) + "\n")


def told_cost(folder: Path) -> str | None:
    """The cost of a run in words; None of a run of one level."""
    if not (folder / COST).exists():
        return None
    cost = json.loads((folder / COST).read_text())
    lines = [
        f"  {name:6} {level['steps']} steps, {level['forward']} forward and {level['backward']} backward passes"
        + (f", {level['second_backward']} second ones" if level["second_backward"] else "")
        + f", {level['flops'] / 1e12:.3g} TFLOP"
        for name, level in cost["levels"].items()
    ]
    first = cost["levels"]["mae"]["steps"]
    end = (
        f"  together {cost['flops'] / 1e12:.3g} TFLOP, those of {cost['plain_steps']:.0f} steps of plain pretraining: "
        f"{cost['plain_steps'] / max(first, 1):.1f} for each of the autoencoder's"
    )
    return "\n".join([f"cost of the levels ({folder / COST}):", *lines, end])
