"""What a run's log and settings say: how far it is, its loss over time, its learning rate, and its loader."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from mae.models.vit import MaskedAutoencoder
from pipelines.doctor.findings import Finding
from pipelines.pretrain.record.throughput import NOTABLE, throughput
from pipelines.run_folder import RunFolder

FEW_STEPS = 500
"""Of which a masked autoencoder rarely learns more than colours."""
LARGE_UPDATE, SMALL_UPDATE = 0.1, 1e-4
"""Of a weight's usual size, the part by which one step of AdamW changes it at most."""


def look_at_log(run: RunFolder, config: Mapping[str, Any], model: MaskedAutoencoder) -> list[Finding]:
    """All findings that need no image."""
    metrics = run.metrics()
    if not metrics:
        return [Finding("log", "note", "The log holds no step yet.")]
    looks: tuple[Callable[..., Finding | None], ...] = (_length, _course, _rate, _loader)
    return [found for look in looks if (found := look(metrics, config, model)) is not None]


def _length(metrics: Sequence[Mapping[str, Any]], config: Mapping[str, Any], _: MaskedAutoencoder) -> Finding:
    step, epoch, total = metrics[-1]["step"], metrics[-1]["epoch"], config["steps"]
    sentence = f"The run is at step {step} of {total}, {epoch:.1f} passes over {config['images']} images."
    numbers = {"step": step, "steps": total, "epochs": epoch}
    if total < FEW_STEPS:
        return Finding(
            "length", "bad", sentence, numbers,
            f"A training of fewer than {FEW_STEPS} steps rarely learns much: use more --epochs, or a smaller "
            "--batch-size.",
        )  # fmt: skip
    return Finding("length", "good" if step == total else "note", sentence, numbers)


def _course(metrics: Sequence[Mapping[str, Any]], *_: Any) -> Finding | None:
    """The loss on hidden patches in the last tenth against the lowest tenth."""
    losses = [line.get("hidden_loss", line["loss"]) for line in metrics]
    size = max(1, len(losses) // 10)
    means = [statistics.fmean(losses[i : i + size]) for i in range(0, len(losses) - size + 1, size)]
    if len(means) < 3:
        return None
    first, lowest, last = means[0], min(means), means[-1]
    numbers = {"first": first, "lowest": lowest, "last": last}
    sentence = f"The loss went from {first:.3f} to {last:.3f}, means of {size} steps; the lowest was {lowest:.3f}."
    if last > 1.05 * lowest and last > lowest + 0.02:
        return Finding(
            "course of the loss", "bad", sentence, numbers,
            f"It rose by {last / lowest - 1:.0%} again: lower --blr, or give more --warmup-epochs.",
        )  # fmt: skip
    if last > 0.98 * first:
        return Finding(
            "course of the loss", "bad", sentence, numbers,
            f"It fell by {1 - last / first:.1%}: train longer, and check the learning rate below.",
        )  # fmt: skip
    return Finding("course of the loss", "good", sentence, numbers)


def _rate(metrics: Sequence[Mapping[str, Any]], _: Any, model: MaskedAutoencoder) -> Finding | None:
    """A step of AdamW changes a weight by about the learning rate; weights have a size to set that against."""
    rates = [line["learning_rate"] for line in metrics if "learning_rate" in line]
    if not rates:
        return None
    sizes = [float(p.detach().float().square().mean().sqrt()) for p in model.blocks.parameters() if p.ndim > 1]
    peak, size = max(rates), statistics.median(sizes) if sizes else 1.0
    update = peak / max(size, torch.finfo(torch.float32).tiny)
    numbers = {"peak_learning_rate": peak, "weight_size": size, "update": update}
    sentence = (
        f"The learning rate peaked at {peak:.2g}. A step changes a typical weight, of size {size:.2g}, by up to "
        f"{update:.2%}."
    )
    if update > LARGE_UPDATE:
        return Finding("learning rate", "bad", sentence, numbers, "That is too much: lower --blr by a factor of ten.")
    if update < SMALL_UPDATE:
        return Finding("learning rate", "bad", sentence, numbers, "That is very little: raise --blr by ten.")
    return Finding("learning rate", "good", sentence, numbers)


def _loader(metrics: Sequence[Mapping[str, Any]], *_: Any) -> Finding | None:
    speed = throughput(metrics)
    if speed.starved is None or speed.images_per_second is None:
        return None
    numbers = {"starved": speed.starved, "images_per_second": speed.images_per_second}
    sentence = (
        f"The model waited for images {speed.starved:.0%} of the time, at {speed.images_per_second:.0f} images per "
        "second."
    )
    if speed.starved > NOTABLE:
        advice = "Use more --workers, or make the images small once with mae-cli prepare."
        return Finding("loader", "bad", sentence, numbers, advice)
    return Finding("loader", "good", sentence, numbers)
