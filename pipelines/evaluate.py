"""``evaluate``: how good an encoder is on a labelled source, by one protocol or several, beside the untrained encoder.

Every encoder learns from the same training images and is judged on the same test images, with each of the same seeds.
The test part is predicted, never learned or chosen from. What is finished is kept beside the result
(:mod:`pipelines.evaluation_cells`), so that an interrupted evaluation goes on with the same command.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mae.intervals import seeds_interval, share_interval
from pipelines.encoders import Encoder, open_encoder
from pipelines.evaluate_options import PROTOCOLS, QUICK, EvaluateOptions
from pipelines.evaluation_cells import Cells
from pipelines.judging import Judge
from pipelines.labelled import open_data
from pipelines.outcome import Outcome, most_confused, per_class
from pipelines.plots import confusion_matrices
from saliency.files import write_text_atomically

__all__ = ["PROTOCOLS", "QUICK", "EvaluateOptions", "evaluate", "remarks", "to_json"]


def evaluate(options: EvaluateOptions, *, quiet: bool = False) -> dict[str, Any]:
    """Judge the encoder, the others beside it and its untrained self; returns and writes the table as plain values.

    ``rows`` has a row an encoder. For each protocol it holds the accuracy 0..1 under the protocol's name (the mean over
    seeds), ``…_interval`` (half of the test set's 95 % interval), ``…_seed_interval`` (that of the mean over seeds,
    where there are several), ``…_per_class``, ``…_confusion`` (counts, summed over seeds) and ``…_runs``, what each
    seed gave and how.
    """
    train, test, names = open_data(options)
    seeds = options.all_seeds()
    out = options.out or (Path(options.run) / "evaluation.json" if Path(options.run).is_dir() else None)
    cells = Cells(_cells_folder(out), fresh=options.fresh)
    judge = Judge(train, test, names, options, cells, quiet)
    rows, unreadable = [], dict[str, str]()
    for name, encoders in _encoders(options, seeds):
        outcomes: dict[str, list[Outcome]] = {protocol: [] for protocol in options.protocols}
        for seed, encoder in encoders:
            for protocol in options.protocols:
                outcome = judge(encoder, protocol, seed)
                outcomes[protocol].append(outcome)
                unreadable |= outcome.unreadable
        rows.append(_row(name, outcomes, seeds))
    result = {
        "source": options.source,
        "test": options.test or f"{options.test_fraction:.0%} of {options.source} held out (seed {options.seed})",
        "train_images": len(judge.part(seeds[0])),
        "test_images": len(test.source),
        "classes": len(names),
        "chance": float(np.bincount(test.labels).max() / len(test.labels)),
        "pool": options.pool,
        "protocols": list(options.protocols),
        "label_fraction": options.label_fraction,
        "seeds": list(seeds),
        "class_names": names,
        "unreadable": unreadable,
        "rows": rows,
    }
    if out:
        write_text_atomically(out, to_json(result))
    if options.confusion:
        confusions = {protocol: rows[0][f"{protocol}_confusion"] for protocol in options.protocols}
        confusion_matrices(options.confusion, confusions, names, title=rows[0]["encoder"])
    return result


def to_json(result: dict[str, Any]) -> str:
    """The result as text, an indented line a value, but lists of numbers on one line."""
    text = json.dumps(result, indent=1)
    return re.sub(r"\[[\s\d.,eE+\-nul]+\]", lambda match: re.sub(r"\s+", " ", match[0]), text) + "\n"


def _cells_folder(out: Path | None) -> Path | None:
    """Where finished cells lie: ``evaluation.cells/`` beside ``evaluation.json``."""
    return None if out is None else out.with_name(out.name.removesuffix(".json") + ".cells")


def _encoders(options: EvaluateOptions, seeds: tuple[int, ...]) -> Iterator[tuple[str, Iterator[tuple[int, Encoder]]]]:
    """Every row's name, with its encoder for each seed: always the same one, but for the untrained."""
    opened = partial(open_encoder, pool=options.pool, device=options.device)
    # All are opened before the first is judged: a name that is wrong is better known now.
    for encoder in [opened(name, seed=seeds[0]) for name in (options.run, *options.beside)]:
        yield encoder.name, zip(seeds, itertools.repeat(encoder), strict=False)
    if options.untrained:
        yield "untrained", ((seed, opened(options.run, untrained=True, seed=seed)) for seed in seeds)


def _row(name: str, outcomes: dict[str, list[Outcome]], seeds: tuple[int, ...]) -> dict[str, Any]:
    row: dict[str, Any] = {"encoder": name}
    for protocol, found in outcomes.items():
        shares = [outcome.accuracy for outcome in found]
        confusion = np.sum([outcome.confusion for outcome in found], axis=0)
        row[protocol] = float(np.mean(shares))
        row[f"{protocol}_interval"] = share_interval(row[protocol], int(np.sum(found[0].confusion)))
        if len(shares) > 1:
            row[f"{protocol}_seed_interval"] = seeds_interval(shares)
        row[f"{protocol}_per_class"] = per_class(confusion)
        row[f"{protocol}_confusion"] = confusion.tolist()
        row[f"{protocol}_runs"] = [
            {"seed": seed, "accuracy": share, **outcome.facts}
            for seed, share, outcome in zip(seeds, shares, found, strict=True)
        ]
    return row


def remarks(result: dict[str, Any]) -> list[str]:
    """Lines on the judged encoder: the learning rates that the linear probe chose, and what it takes for what."""
    row, lines = result["rows"][0], []
    if "linear" in result["protocols"]:
        runs = row["linear_runs"]
        rates = ", ".join(dict.fromkeys(f"{run['blr']:g}" for run in runs))
        images = runs[0]["held_out_images"]
        where = f"{images} held-out training images" if images else "the training images, of which none can be spared"
        lines.append(f"linear: base rate {rates}, chosen on {where}")
    protocol = result["protocols"][-1]
    pairs = most_confused(np.asarray(row[f"{protocol}_confusion"]), result["class_names"])
    return [*lines, f"most confused ({protocol}): {', '.join(pairs)}"] if pairs else lines
