"""What ``inspect`` says of a run folder: the model, its masks, how far it is, its loss and speed."""

from __future__ import annotations

from typing import Any

import numpy as np

from mae.masks.strategies import is_ranked
from pipelines.pretrain.record.throughput import throughput
from pipelines.run_folder import RunFolder


def describe_run(run: RunFolder) -> tuple[dict[str, str], dict[str, Any]]:
    """A run's facts as lines of text by title, and as plain values."""
    config, metrics = run.config(), run.metrics()
    options, masking = config["options"], config["masking"]
    step = metrics[-1]["step"] if metrics else 0
    side, tokens = masking.get("mask_granularity", 1), options.get("class_tokens")
    facts = {
        "model": f"{options['model']}, {config['parameters'] / 1e6:.1f} M parameters"
        + (f", {tokens} class tokens" if tokens else ""),
        "grid": "×".join(str(side) for side in config["grid"]),
        "source": f"{options['source']} ({config['images']} images)",
        "masking": f"{masking['strategy']}, mask ratio {masking['mask_ratio']:g}"
        + (f", blocks of {side}×{side} patches" if side > 1 else ""),
        "steps": f"{step} of {config['steps']}",
    }
    numbers = {"model": options["model"], "parameters": config["parameters"], "grid": list(config["grid"])}
    numbers |= {"source": options["source"], "images": config["images"], "masking": masking}
    numbers |= {"step": step, "steps": config["steps"]}
    if {"salient_ratio", "salient_of"} <= masking.keys() and is_ranked(masking["strategy"]):
        facts["salient ratio"] = f"{masking['salient_ratio']:g} of {masking['salient_of']}"
    if metrics:
        recent = [line["loss"] for line in metrics[-50:]]
        numbers |= {"first_loss": metrics[0]["loss"], "loss": float(np.mean(recent)), "loss_over": len(recent)}
        facts["loss"] = (
            f"{numbers['first_loss']:.4f} at the start, {numbers['loss']:.4f} over the last {len(recent)} steps"
        )
        if masker := {name[7:]: value for name, value in metrics[-1].items() if name.startswith("masker_")}:
            numbers["masker"] = masker
            facts["masker"] = ", ".join(f"{name} {value:.3g}" for name, value in masker.items())
        speed = throughput(metrics)
        numbers |= {"images_per_second": speed.images_per_second, "starved": speed.starved}
        facts["speed"] = str(speed)
    return facts, numbers
