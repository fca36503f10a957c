"""``evaluate``: how good an encoder is on a labelled source, by one protocol or several, against its untrained self.

Every encoder learns from the same training images and is tested on the same test images, with each of the same seeds.
The test part is predicted, never learned or chosen from. What is finished is kept beside the result
(:mod:`pipelines.evaluate.results.cells`), so that the same command resumes an interrupted evaluation.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.commandline.machine import usable_precision
from pipelines.evaluate.data import Data
from pipelines.evaluate.encoders.clip_encoders import clip_of, on_clips
from pipelines.evaluate.encoders.encoder import Encoder, open_encoder
from pipelines.evaluate.encoders.speed import measure_speed
from pipelines.evaluate.leaks import leaks_of, open_pretraining
from pipelines.evaluate.options import EvaluateOptions
from pipelines.evaluate.own_classes import own_accuracy
from pipelines.evaluate.protocol import Protocol, load
from pipelines.evaluate.results.cells import Cells
from pipelines.evaluate.results.keep_plots import draw_kept
from pipelines.evaluate.results.outcome import Measured, Outcome
from pipelines.evaluate.results.predictions import write_predictions
from pipelines.outputs import check_apart, one_writer
from pipelines.plots import confusion_matrices
from pipelines.views.clip_views import ClipShape
from saliency.files import remove_leftovers, write_text_atomically

Results = dict[str, list[Outcome | Measured]]
"""By protocol what each seed gave of one encoder."""
Rows = list[dict[str, Any]]
Seeded = Iterable[tuple[int, Encoder]]
"""An encoder for each seed."""

__all__ = ["EvaluateOptions", "evaluate", "to_json"]


def evaluate(options: EvaluateOptions, *, quiet: bool = False) -> dict[str, Any]:
    """Measure the encoder, those beside it and its untrained self; returns and writes the table as plain values.

    ``rows`` has a row an encoder. Each protocol's figure, 0..1, stands under the protocol's name (the mean over seeds),
    with ``…_interval`` (half of its 95 % interval over test images), ``…_seed_interval`` (that of the mean over seeds,
    where there are several), ``…_runs``, what each seed gave and how, and keys of its own (docs/guide/evaluation.md):
    of an accuracy ``…_per_class`` and ``…_confusion`` (counts, summed over seeds). Raises UserError.
    """
    out = options.file
    check_files(options)
    cells = cells_folder(out)
    with nullcontext() if cells is None else one_writer(cells):
        return _evaluate(options, out, cells, quiet)


def check_files(options: EvaluateOptions) -> None:
    """UserError if what is to be written would lie in what is read."""
    files = {"--out": options.out, "--confusion": options.confusion, "--predictions": options.predictions}
    for option, file in files.items():
        if file is not None:
            check_apart(file, (options.source, options.test), option=option, file=True)


def _evaluate(options: EvaluateOptions, out: Path | None, folder: Path | None, quiet: bool) -> dict[str, Any]:
    seeds = options.all_seeds()
    named, clip = open_encoders(options, seeds[0])
    data = Data(options, clip, quiet=quiet)
    pretraining = open_pretraining(options, clip)
    protocols = [load(name)(options, data, quiet=quiet) for name in dict.fromkeys(options.protocols)]
    cells = Cells(folder, fresh=options.fresh, predictions=options.predictions is not None)
    found = measure_all(protocols, named, clip, options, cells)
    rows = _rows(protocols, found, seeds)
    parts, precision = data.told(), usable_precision(options.precision, options.device)
    leaks = leaks_of(options, parts, pretraining, cells, seed=seeds[0], quiet=quiet)
    result = {
        "source": options.source,
        "test": options.test or f"{options.test_fraction:.0%} of {options.source} held out (seed {options.seed})",
        **parts.facts(seeds[0]),
        **({"clip": {"frames": clip.count, "frame_stride": clip.stride}} if clip else {}),
        **{name: fact for protocol in protocols for name, fact in protocol.facts().items()},
        "pool": options.pool,
        **({"precision": precision} if precision != "fp32" else {}),
        "protocols": list(options.protocols),
        "label_fraction": options.label_fraction,
        "seeds": list(seeds),
        "class_names": parts.names,
        "unreadable": _unreadable(found),
        **({"leaks": leaks} if leaks else {}),
        "rows": rows,
    }
    if options.untrained and (baselines := measure_baselines(protocols, named[0], clip, seeds, cells)):
        result["baselines"] = baselines
    if clip is None and (any(each.file for each in named) or (options.require and options.require.on_device)):
        result["on_device"] = measure_speed(named)
        for row, encoder in zip(result["on_device"]["rows"], named, strict=True):
            row |= own_accuracy(encoder, parts, options, quiet=quiet)
    if out:
        remove_leftovers(out.parent, {out.name}, deep=False)
        write_text_atomically(out, to_json(result))
        draw_kept(out.parent / "plots", result)
        for protocol in protocols:
            protocol.draw(out.parent / "plots", result, named[0])
    if options.predictions:
        write_predictions(options.predictions, found, seeds, data.labelled)
    if options.confusion:
        told = {name: rows[0].get(f"{name}_confusion") for name in options.protocols}
        drawn = {name: confusion for name, confusion in told.items() if confusion}
        confusion_matrices(options.confusion, drawn, parts.names, title=rows[0]["encoder"])
    return result


def to_json(result: dict[str, Any]) -> str:
    """The result as text, an indented line a value, but lists of numbers on one line."""
    text = json.dumps(result, indent=1)
    return re.sub(r"\[[\s\d.,eE+\-nul]+\]", lambda match: re.sub(r"\s+", " ", match[0]), text) + "\n"


def measure(protocols: Iterable[Protocol[Any]], encoders: Seeded, cells: Cells) -> Results:
    """By protocol what each seed's encoder gives: taken from what is finished, or computed and kept. UserError."""
    found: Results = {protocol.name: [] for protocol in protocols}
    for seed, encoder in encoders:
        for protocol in protocols:
            decided_by = protocol.decided_by(encoder, seed)
            result = cells.find(decided_by, protocol.kind)
            if result is None:
                result = protocol.measure(encoder, seed, cells.checkpoint(decided_by))
                cells.keep(decided_by, result)
            found[protocol.name].append(result)
    return found


def measure_all(
    protocols: Sequence[Protocol[Any]],
    named: list[Encoder],
    clip: ClipShape | None,
    options: EvaluateOptions,
    cells: Cells,
) -> list[tuple[str, Results]]:
    """Every encoder's name and what it gives: those named, and the first one with random weights."""
    seeds = options.all_seeds()
    return [
        (name, measure(protocols, encoders, cells)) for name, encoders in _with_untrained(named, clip, options, seeds)
    ]


def _rows(protocols: Iterable[Protocol[Any]], found: list[tuple[str, Results]], seeds: tuple[int, ...]) -> Rows:
    rows: Rows = []
    for name, by_protocol in found:
        row: dict[str, Any] = {"encoder": name}
        for protocol in protocols:
            if protocol.name in by_protocol:
                first = found[0][1].get(protocol.name) if rows else None
                row |= protocol.row(by_protocol[protocol.name], seeds, first)
        rows.append(row)
    return rows


def measure_baselines(
    protocols: Sequence[Protocol[Any]], like: Encoder, clip: ClipShape | None, seeds: tuple[int, ...], cells: Cells
) -> Rows:
    """Rows of encoders that know next to nothing, by the protocols that are set against them."""
    found = []
    for make in dict.fromkeys(itertools.chain.from_iterable(protocol.baselines for protocol in protocols)):
        plain, asked = on_clips(make(like), clip), [protocol for protocol in protocols if make in protocol.baselines]
        found.append((plain.name, measure(asked, ((seed, plain) for seed in seeds), cells)))
    return _rows(protocols, found, seeds)


def _opener(options: EvaluateOptions) -> Callable[..., Encoder]:
    return partial(open_encoder, pool=options.pool, device=options.device, precision=options.precision)


def open_encoders(options: EvaluateOptions, seed: int) -> tuple[list[Encoder], ClipShape | None]:
    """The encoders as they see what all of them are measured on: images, or the clip."""
    # Before anything is computed: a weight that is not there, or an encoder that can't be asked, is better known now.
    names = (options.run, *options.beside)
    named = [_opener(options)(name, seed=seed) for name in names]
    clip = clip_of(options, named)
    for protocol, encoder in itertools.product(map(load, options.protocols), named):
        protocol.check_encoder(encoder, options)
    return [on_clips(encoder, clip) for encoder in named], clip


def _with_untrained(
    named: list[Encoder], clip: ClipShape | None, options: EvaluateOptions, seeds: tuple[int, ...]
) -> Iterator[tuple[str, Iterator[tuple[int, Encoder]]]]:
    """Every row's name, with its encoder for each seed: always the same one, but for the untrained."""
    for encoder in named:
        yield encoder.name, zip(seeds, itertools.repeat(encoder), strict=False)
    if options.untrained:
        fresh = partial(_opener(options), options.run, untrained=True)
        yield "untrained", ((seed, on_clips(fresh(seed=seed), clip)) for seed in seeds)


def _unreadable(found: list[tuple[str, Results]]) -> dict[str, str]:
    outcomes = itertools.chain.from_iterable(by_protocol.values() for _, by_protocol in found)
    return dict(itertools.chain.from_iterable(each.unreadable.items() for each in itertools.chain(*outcomes)))


def cells_folder(out: Path | None) -> Path | None:
    """Where finished cells lie: ``evaluation.cells/`` beside ``evaluation.json``."""
    return None if out is None else out.with_name(out.name.removesuffix(".json") + ".cells")
