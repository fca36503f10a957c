"""``evaluate``: how good an encoder is on a labelled source, by one protocol or several, beside the untrained encoder.

Every encoder learns from the same training images and is judged on the same test images, with each of the same seeds.
The test part is predicted, never learned or chosen from. What is finished is kept beside the result
(:mod:`pipelines.evaluate.cells`), so that an interrupted evaluation goes on with the same command.
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

from mae.evaluation.intervals import seeds_interval, share_interval
from pipelines.evaluate.baseline_encoders import colour_encoder, place_encoder
from pipelines.evaluate.cells import Cells
from pipelines.evaluate.clip_encoders import clip_of, on_clips
from pipelines.evaluate.encoder import Encoder, open_encoder
from pipelines.evaluate.keep_plots import draw_kept
from pipelines.evaluate.measured import Measured
from pipelines.evaluate.occlusion_plots import draw_occlusion
from pipelines.evaluate.options import CLASSIFYING, MASKED, PROTOCOLS, QUICK, EvaluateOptions
from pipelines.evaluate.outcome import Outcome, most_confused, per_class
from pipelines.evaluate.panel import Panel
from pipelines.evaluate.protocols.whole_images import view_size
from pipelines.plots import confusion_matrices
from pipelines.views.clip_views import ClipShape
from saliency.files import write_text_atomically

Found = dict[str, list[Outcome | Measured]]
"""By protocol what each seed gave of one encoder."""

__all__ = ["PROTOCOLS", "QUICK", "EvaluateOptions", "evaluate", "remarks", "to_json"]


def evaluate(options: EvaluateOptions, *, quiet: bool = False) -> dict[str, Any]:
    """Judge the encoder, the others beside it and its untrained self; returns and writes the table as plain values.

    ``rows`` has a row an encoder. For each protocol it holds the accuracy 0..1 under the protocol's name (the mean over
    seeds), ``…_interval`` (half of the test set's 95 % interval), ``…_seed_interval`` (that of the mean over seeds,
    where there are several), ``…_per_class``, ``…_confusion`` (counts, summed over seeds) and ``…_runs``, what each
    seed gave and how. Under the names of occlusion, segment and propagate stand the area under the curve, the mIoU and
    J&F, 0..1, with bootstrap intervals and their parts (docs/protocols.md).
    """
    seeds = options.all_seeds()
    out = options.out or (Path(options.run) / "evaluation.json" if Path(options.run).is_dir() else None)
    named, clip = _open(options, seeds[0])
    panel = Panel(options, Cells(_cells_folder(out), fresh=options.fresh), quiet, clip)
    judged = _with_untrained(named, clip, options, seeds)
    found = [(name, panel.judge(encoders, options.protocols)) for name, encoders in judged]
    rows = _rows(panel, found, seeds)
    result = {
        "source": options.source,
        "test": options.test or f"{options.test_fraction:.0%} of {options.source} held out (seed {options.seed})",
        **panel.facts(seeds[0]),
        "pool": options.pool,
        "protocols": list(options.protocols),
        "label_fraction": options.label_fraction,
        "seeds": list(seeds),
        "class_names": panel.names,
        "unreadable": _unreadable(found),
        "rows": rows,
        **_baselines(panel, options, named[0], seeds),
    }
    if out:
        write_text_atomically(out, to_json(result))
        draw_kept(out.parent / "plots", result)
    if options.confusion:
        drawn = [protocol for protocol in options.protocols if protocol in CLASSIFYING]
        confusions = {protocol: rows[0][f"{protocol}_confusion"] for protocol in drawn}
        confusion_matrices(options.confusion, confusions, panel.names, title=rows[0]["encoder"])
    if "occlusion" in options.protocols and out:
        draw_occlusion(out.parent / "plots", panel, result, options, named[0])
    return result


def to_json(result: dict[str, Any]) -> str:
    """The result as text, an indented line a value, but lists of numbers on one line."""
    text = json.dumps(result, indent=1)
    return re.sub(r"\[[\s\d.,eE+\-nul]+\]", lambda match: re.sub(r"\s+", " ", match[0]), text) + "\n"


def _cells_folder(out: Path | None) -> Path | None:
    """Where finished cells lie: ``evaluation.cells/`` beside ``evaluation.json``."""
    return None if out is None else out.with_name(out.name.removesuffix(".json") + ".cells")


def _open(options: EvaluateOptions, seed: int) -> tuple[list[Encoder], ClipShape | None]:
    """The encoders that were named, and the clip that they are judged on if there is a model of video. UserError."""
    # All are opened before the first is judged: what is wrong with a name is better known now.
    names = (options.run, *options.beside)
    named = [open_encoder(name, pool=options.pool, device=options.device, seed=seed) for name in names]
    clip = clip_of(options, named)
    for encoder in named if set(options.protocols) & set(MASKED) else ():
        view_size(encoder, options.dense_size)
    return [on_clips(encoder, clip) for encoder in named], clip


def _with_untrained(
    named: list[Encoder], clip: ClipShape | None, options: EvaluateOptions, seeds: tuple[int, ...]
) -> Iterator[tuple[str, Iterator[tuple[int, Encoder]]]]:
    """Every row's name, with its encoder for each seed: always the same one, but for the untrained."""
    for encoder in named:
        yield encoder.name, zip(seeds, itertools.repeat(encoder), strict=False)
    if options.untrained:
        fresh = partial(open_encoder, options.run, pool=options.pool, device=options.device, untrained=True)
        yield "untrained", ((seed, on_clips(fresh(seed=seed), clip)) for seed in seeds)


def _baselines(panel: Panel, options: EvaluateOptions, judged: Encoder, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Rows of what knows nothing but colour or place, where a protocol has them: ``baselines`` of the result."""
    protocols = tuple(protocol for protocol in options.protocols if protocol in MASKED)
    if not protocols or not options.untrained:
        return {}
    found = [
        (plain.name, panel.judge(((seed, plain) for seed in seeds), protocols))
        for plain in (colour_encoder(judged), place_encoder(judged))
    ]
    return {"baselines": _rows(panel, found, seeds)}


def _unreadable(found: list[tuple[str, Found]]) -> dict[str, str]:
    outcomes = itertools.chain.from_iterable(by_protocol.values() for _, by_protocol in found)
    return dict(itertools.chain.from_iterable(each.unreadable.items() for each in itertools.chain(*outcomes)))


def _rows(panel: Panel, found: list[tuple[str, Found]], seeds: tuple[int, ...]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, by_protocol in found:
        row: dict[str, Any] = {"encoder": name}
        for protocol, outcomes in by_protocol.items():
            if protocol in CLASSIFYING:
                row |= _classified(protocol, [each for each in outcomes if isinstance(each, Outcome)], seeds)
                continue
            measured = [each for each in outcomes if isinstance(each, Measured)]
            first = [each for each in found[0][1][protocol] if isinstance(each, Measured)] if rows else None
            row |= panel.measured_row(protocol, measured, first)
            if len(seeds) > 1:
                row[f"{protocol}_seed_interval"] = seeds_interval(
                    [panel.measured_row(protocol, [each])[protocol] for each in measured]
                )
            row[f"{protocol}_runs"] = [{"seed": seed, **each.facts} for seed, each in zip(seeds, measured, strict=True)]
        rows.append(row)
    return rows


def _classified(protocol: str, found: list[Outcome], seeds: tuple[int, ...]) -> dict[str, Any]:
    """What a row has of a protocol that ends in right and wrong."""
    row: dict[str, Any] = {}
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
    classifying = [protocol for protocol in result["protocols"] if protocol in CLASSIFYING]
    if not classifying:
        return lines
    protocol = classifying[-1]
    pairs = most_confused(np.asarray(row[f"{protocol}_confusion"]), result["class_names"])
    return [*lines, f"most confused ({protocol}): {', '.join(pairs)}"] if pairs else lines
