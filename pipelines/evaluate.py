"""``evaluate``: how good an encoder's frozen features are on a labelled source, always beside the untrained encoder.

Every encoder sees the same images (the largest central part, resized to its own input) and is judged on the same test
set. Features are deterministic: nothing is masked, nothing augmented.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from mae.probes import accuracy, knn_predict, linear_predict
from pipelines.columns import Captions
from pipelines.encoders import Encoder, open_encoder
from pipelines.errors import UserError
from pipelines.random_access import open_images
from pipelines.samples import Source
from pipelines.views import InOrder, Views, load_views
from saliency.files import write_text_atomically

PROTOCOLS = ("knn", "linear")


@dataclass(frozen=True)
class EvaluateOptions:
    """What ``evaluate`` was asked for; the CLI's options under the same names."""

    run: str
    source: str
    test: str | None = None
    protocols: tuple[str, ...] = ("knn", "linear")
    beside: tuple[str, ...] = ()
    pool: str = "cls"
    """Measured better than ``mean`` on the demo's scenes, by k-NN above all."""
    neighbours: int = 20
    temperature: float = 0.07
    test_fraction: float = 0.2
    out: Path | None = None
    batch_size: int = 256
    workers: int = 1
    seed: int = 0
    image_column: str | None = None
    caption_column: str | None = None
    captions: Captions = "first"
    limit: int | None = None
    test_limit: int | None = None
    split: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        for protocol in self.protocols:
            if protocol not in PROTOCOLS:
                raise ValueError(f"--protocol {protocol!r} is not one of: {', '.join(PROTOCOLS)}")
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"--test-fraction is {self.test_fraction:g}; it must lie between 0 and 1")
        if self.neighbours < 1 or self.batch_size < 1 or self.temperature <= 0:
            raise ValueError("--neighbours and --batch-size must be at least 1, --temperature above 0")


@dataclass(frozen=True)
class Labelled:
    """A part of a labelled source: which of its pairs, and their classes as int64 0..C−1."""

    source: Source
    labels: NDArray[np.int64]

    def select(self, chosen: NDArray[np.bool_]) -> Labelled:
        """The chosen pairs."""
        return Labelled(self.source.select(np.flatnonzero(chosen)), self.labels[chosen])


def evaluate(options: EvaluateOptions, *, quiet: bool = False) -> dict[str, Any]:
    """Judge the encoder, the others beside it and its untrained self; returns and writes the table as plain values."""
    train, test, names = _open_data(options)
    opened = partial(open_encoder, pool=options.pool, device=options.device, seed=options.seed)
    encoders = [*map(opened, (options.run, *options.beside)), opened(options.run, untrained=True)]
    rows = [_judge(encoder, train, test, len(names), options, quiet) for encoder in encoders]
    result = {
        "source": options.source,
        "test": options.test or f"{options.test_fraction:.0%} of {options.source} held out (seed {options.seed})",
        "train_images": len(train.source),
        "test_images": len(test.source),
        "classes": len(names),
        "chance": float(np.bincount(test.labels).max() / len(test.labels)),
        "pool": options.pool,
        "rows": rows,
    }
    out = options.out or (Path(options.run) / "evaluation.json" if Path(options.run).is_dir() else None)
    if out:
        write_text_atomically(out, json.dumps(result, indent=1) + "\n")
    return result


def _open_data(options: EvaluateOptions) -> tuple[Labelled, Labelled, list[str]]:
    """The training part, the test part, and the names of the classes that both are numbered by."""
    train, names = _labelled(open_images(options))
    if options.test is None:
        held = _hold_out(train.labels, options.test_fraction, options.seed)
        test, train = train.select(held), train.select(~held)
    else:
        other = open_images(replace(options, split=None), spec=options.test, limit=options.test_limit)
        test = _renumbered(*_labelled(other), names)
    if min(len(train.labels), len(test.labels)) == 0:
        raise UserError(
            f"{options.source}: {len(train.labels)} training and {len(test.labels)} test images; both are needed"
        )
    if len(names) == 1:
        raise UserError(f"{options.source}: all images are of one class, {names[0]}: there is nothing to tell apart")
    return train, test, names


def _labelled(source: Source) -> tuple[Labelled, list[str]]:
    """The pairs of a source that have a label, and the names of their classes (a number, where it has no names)."""
    if source.labels is None:
        raise UserError(
            f"{source.name} has no labels: evaluate needs a class per image (a class-per-folder tree, a label column)"
        )
    rows = np.flatnonzero(source.labels >= 0)
    found, labels = np.unique(source.labels[rows], return_inverse=True)
    names = [str(label) if source.label_names is None else source.label_names[label] for label in found]
    return Labelled(source.select(rows), labels), names


def _renumbered(test: Labelled, test_names: list[str], names: list[str]) -> Labelled:
    """The test part numbered as the training part, whose classes are ``names``: the same name is the same class."""
    unknown = [name for name in test_names if name not in names]
    if unknown:
        raise UserError(
            f"--test {test.source.name} has classes without a training image, first: {', '.join(unknown[:5])}"
        )
    return replace(test, labels=np.asarray([names.index(name) for name in test_names], np.int64)[test.labels])


def _hold_out(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """True for a share of every class, drawn by ``seed``; a class of one image stays in training."""
    rng = np.random.default_rng([seed, 1])
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        held[members[: min(len(members) - 1, max(1, round(fraction * len(members))))]] = True
    return held


def _judge(
    encoder: Encoder, train: Labelled, test: Labelled, classes: int, options: EvaluateOptions, quiet: bool
) -> dict[str, Any]:
    train_features, train_labels = _features(encoder, train, options, quiet)
    test_features, test_labels = _features(encoder, test, options, quiet)
    row: dict[str, Any] = {"encoder": encoder.name}
    for protocol in options.protocols:
        if protocol == "knn":
            predictions = knn_predict(
                train_features,
                train_labels,
                test_features,
                k=options.neighbours,
                temperature=options.temperature,
                classes=classes,
            )
        else:
            predictions, row["linear_penalty"] = linear_predict(
                train_features, train_labels, test_features, classes=classes, seed=options.seed
            )
        row[protocol], row[f"{protocol}_interval"] = accuracy(predictions, test_labels)
    return row


def _features(encoder: Encoder, part: Labelled, options: EvaluateOptions, quiet: bool) -> tuple[Tensor, Tensor]:
    """Features float32 [n, D] and labels int64 [n] of every readable image."""
    views = Views(part.source, encoder.size, augment=False)
    loader = load_views(views, InOrder(len(part.source), options.batch_size), workers=options.workers)
    features, indices, unreadable = [], [], 0
    for batch in tqdm(loader, desc=encoder.name, unit="batch", disable=quiet, leave=False):
        unreadable += len(batch.unreadable)
        if len(batch.images):
            features.append(encoder.features(batch.images))
            indices.append(batch.indices)
    if unreadable > 0.01 * len(part.source) or not features:
        raise UserError(
            f"{unreadable} of {len(part.source)} images of {part.source.name} can't be read: look at it with inspect"
        )
    stacked = torch.cat(features)
    if not bool(stacked.isfinite().all()):
        raise UserError(f"{encoder.name} gives features that are infinite or NaN: its training diverged")
    return stacked, torch.from_numpy(part.labels[np.concatenate(indices)]).to(stacked.device)
