"""The health of a run's features, layer by layer, on some of its own images or on others."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae.evaluation.health import Health, layers_health
from mae.pixels import normalise
from mae.training.checkpoints import load_model
from pipelines.errors import UserError, user_errors
from pipelines.run_folder import RunFolder
from pipelines.sources.random_access import open_images, open_videos
from pipelines.sources.source import Source
from pipelines.views.clip_views import ClipShape
from pipelines.views.loaders import first_views


def describe_health(
    run: RunFolder, *, source: str | None, count: int, device: str, allow_outside: bool
) -> tuple[dict[str, str], dict[str, Any]]:
    """The figures of every layer as lines of text by title, and as plain values. UserError."""
    with user_errors():
        model = load_model(run.folder).to(device).eval()
    images = sample_of(run, source=source, count=count, allow_outside=allow_outside)[1]
    found = layers_health(model, normalise(images))
    least = min(len(images), model.pos_embed.shape[-1])
    facts = {layer_name(number, found): health_text(health) for number, health in enumerate(found, 1)}
    facts["health"] = f"{len(images)} images; ranks are at most {least}, and spread lies between 0 and 1"
    numbers = {"health": {"images": len(images), "layers": [asdict(health) for health in found]}}
    return facts, numbers


def layer_name(number: int, layers: list[Health]) -> str:
    """Of a layer counted from 1; the last one is what the encoder gives."""
    return "output" if number == len(layers) else f"layer {number}"


def health_text(health: Health) -> str:
    """In a line."""
    return f"RankMe {health.rankme:.1f}, effective rank {health.effective_rank:.1f}, spread {health.spread:.3f}"


def sample_of(run: RunFolder, *, source: str | None, count: int, allow_outside: bool) -> tuple[Source, Tensor]:
    """Some evenly spaced images of a run (or of another source) that can be read, and their central views.

    Views are uint8 [n, 3, H, W], or clips [n, 3, T, H, W], of the run's size. UserError for fewer than two.
    """
    config = run.config()
    origin = config["options"]
    names = ("image_column", "caption_column", "limit", "split")
    wanted: dict[str, Any] = {name: None if source else origin.get(name) for name in names}
    wanted |= {"source": source or origin["source"], "captions": "first", "allow_outside": allow_outside}
    frames = origin.get("frames")
    options: Any = SimpleNamespace(**wanted)
    opened = open_images(options) if frames is None else open_videos(options)
    opened = opened.select(np.unique(np.linspace(0, len(opened) - 1, count).round().astype(np.int64)))
    sides = origin["image_size"] * (2 if len(origin["image_size"]) == 1 else 1)
    clip = None if frames is None else ClipShape(frames, origin.get("frame_stride", 4))
    batch = first_views(opened, (sides[0], sides[1]), len(opened), clip)
    if len(batch.images) < 2:
        raise UserError(f"{opened.name}: fewer than two images can be read: give others with --source")
    return opened.select(np.asarray(batch.indices)), torch.as_tensor(batch.images)
