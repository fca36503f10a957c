"""What a comparison found: ``results.json`` with every figure, ``report.md`` to read, and ``plots/``.

The report says what was run and what its intervals mean, and claims nothing beyond that: a difference is read as one
only where its p-value, adjusted for the number of arms, says so.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mae.masks.strategies import STRATEGIES
from pipelines.compare.comparison import Comparison, tables_of
from pipelines.compare.curves import (
    EXPLANATION,
    curve_tables,
    draw_curves,
    plain_curves,
    values_of,
)
from pipelines.compare.plan import UNTRAINED, ComparePlan
from pipelines.compare.plots import forest, loss_curves, losses, mask_sheet
from pipelines.compare.power import SeedsNeeded
from pipelines.compare.power_report import power_lines, power_tables
from pipelines.compare.statistics import LEVEL, Difference, Mean, mean_interval, paired_differences, percent
from pipelines.errors import UserError
from pipelines.evaluate.leaks import leak_lines
from pipelines.evaluate.protocol import load
from pipelines.evaluate.table import PROTOCOLS
from pipelines.html_page import write_html
from pipelines.outputs import RESULTS
from pipelines.pretrain.options import PretrainOptions
from pipelines.run_folder import RunFolder
from saliency import __version__
from saliency.files import write_text_atomically
from saliency.shown import code_span, markdown, markdown_table

REPORT, PAGE = "report.md", "report.html"

_PLOTS = {
    "differences.png": "Paired differences from the baseline: dots are seeds, diamonds means, bars 95 % intervals",
    "accuracy.png": "Accuracy by arm: dots are seeds, diamonds means, bars 95 % intervals",
    "curves.png": "Learning curves: means over seeds, bars 95 % intervals",
    "masks.png": "What each arm hides of the same images",
    "loss.png": "Pretraining loss by arm",
}


def write_report(comparison: Comparison, out: Path, *, device: str, jobs: int) -> None:
    """``results.json``, ``plots/``, and ``report.md`` and ``.html``; a picture that can't be drawn is left out."""
    machine = _machine(device, jobs)
    write_text_atomically(out / RESULTS, json.dumps(_results(comparison, machine), indent=1) + "\n")
    for name in _PLOTS:
        (out / "plots" / name).unlink(missing_ok=True)
    notes = _draw(comparison, out / "plots") if comparison.finished else []
    text = _report(comparison, out, machine, notes)
    write_text_atomically(out / REPORT, text)
    write_html(out / PAGE, text)


def _draw(comparison: Comparison, folder: Path) -> list[str]:
    """The plots; returns a line for each that could not be drawn."""
    plan, notes = comparison.plan, []
    accuracy = {
        protocol: {arm: _scaled(table[arm].values(), comparison.means[protocol][arm]) for arm in table}
        for protocol, table in comparison.values.items()
    }
    forest(folder / "accuracy.png", accuracy, title="Accuracy by arm", unit="accuracy, %")
    differences = {
        protocol: {arm: _scaled(found.by_seed.values(), found.mean) for arm, found in table.items()}
        for protocol, table in comparison.differences.items()
    }
    if any(differences.values()):
        title = f"Difference from {plan.baseline}, seed by seed"
        unit = "percentage points"
        forest(folder / "differences.png", differences, title=title, unit=unit, zero=plan.baseline)
    if comparison.curves:
        draw_curves(folder / "curves.png", plan, comparison.curves)
    units = [outcome.unit for outcome in comparison.finished]
    losses(folder / "loss.png", loss_curves(units))
    try:
        mask_sheet(folder / "masks.png", units)
    except UserError as error:  # the images or maps are elsewhere by now; the figures stand
        notes.append(f"The masks were not drawn: {error}")
    return notes


def _scaled(values: Iterable[float], mean: Mean) -> tuple[list[float], Mean]:
    half_width = None if mean.half_width is None else 100 * mean.half_width
    return [100 * value for value in values], Mean(mean.count, 100 * mean.mean, half_width)


def _results(comparison: Comparison, machine: dict[str, Any]) -> dict[str, Any]:
    runs = []
    for outcome in (*comparison.finished, *comparison.limited):
        config = RunFolder(outcome.unit.pretrain.out).config()
        facts = {name: config[name] for name in ("images", "grid", "parameters", "steps", "masking", "versions")}
        runs.append({"folder": str(outcome.unit.pretrain.out), **facts, **(outcome.record or {})})
        runs[-1] |= {} if outcome.unit.limit is None else {"limit": outcome.unit.limit}
    return {
        "plan": asdict(comparison.plan),
        "machine": machine,
        "level": LEVEL,
        "accuracy": comparison.values,
        "means": _plain(comparison.means),
        "differences": _plain(comparison.differences),
        "untrained": _plain({"": comparison.untrained})[""],
        "seeds_needed": _plain(comparison.needs),
        "curves": plain_curves(comparison.curves),
        "runs": runs,
        "failed": [{"arm": o.unit.arm, "seed": o.unit.seed, "reason": o.failed} for o in comparison.failed],
    }


def _plain(tables: Mapping[str, Mapping[str, Mean | Difference | SeedsNeeded]]) -> dict[str, dict[str, Any]]:
    return {name: {arm: asdict(found) for arm, found in table.items()} for name, table in tables.items()}


def _report(comparison: Comparison, out: Path, machine: dict[str, Any], notes: Sequence[str]) -> str:
    plan, finished = comparison.plan, comparison.finished
    total = len(plan.arms) * len(plan.seeds) * (1 + len(plan.limits))
    lines = [
        "# Comparison of masks",
        "",
        f"{len(finished) + len(comparison.limited)} of {total} runs are finished ({_counted(plan)}).",
    ]
    lines += [f"- FAILED {outcome.unit.name}: {markdown(outcome.failed)}" for outcome in comparison.failed]
    if finished:
        lines += ["", "## Result", "", *_tables(tables_of(comparison)), *_explanation(comparison)]
        if top5 := _top5(comparison):
            lines += ["", "## Top-5 accuracy", "", *top5, "Differences in top-5 accuracy are not tested."]
        if plan.power is not None or plan.margin is not None:
            lines += ["", "## How many seeds", "", *_tables(power_tables(plan, comparison.needs))]
            lines += [line for text in power_lines(plan, comparison.needs) for line in (text, "")]
        if comparison.curves:
            lines += ["", "## Learning curves", "", EXPLANATION, ""]
            lines += _tables(dict(enumerate(curve_tables(plan, comparison.curves))))
        lines += ["", "## By seed", "", *_by_seed(comparison), "## Pictures", ""]
        drawn = [(name, text) for name, text in _PLOTS.items() if (out / "plots" / name).exists()]
        for name, text in drawn:
            lines += [f"{text}:", "", f"![{text}](plots/{name})", ""]
        lines += [*map(markdown, notes), "## What this can and cannot show", "", *_limits(comparison)]
    lines += ["", "## What was run", "", *_what_was_run(comparison, machine)]
    return "\n".join(lines) + "\n"


def _counted(plan: ComparePlan) -> str:
    seeds = ", ".join(map(str, plan.seeds))
    sizes = f" × {1 + len(plan.limits)} numbers of images" if plan.limits else ""
    return f"{len(plan.arms)} arms{sizes} × {len(plan.seeds)} seed{'s' * (len(plan.seeds) > 1)}: {seeds}"


def _top5(comparison: Comparison) -> list[str]:
    """A row an arm, of the protocols that have such a figure: those with more than five classes."""
    plan = comparison.plan
    judged = [(o.unit.arm, o.unit.seed, (o.record or {})["result"]) for o in comparison.finished]
    values = values_of(judged, "{}_top5")
    if not values:
        return []
    head, *rows = [["arm"], *([arm] for arm in (*plan.arms, UNTRAINED))]
    for protocol, table in values.items():
        head += [f"{protocol} %", f"− {plan.baseline}"]
        differences = paired_differences(table, plan.baseline)
        for row in rows:
            mean, found = table.get(row[0]), differences.get(row[0])
            row += [percent(mean_interval(list(mean.values()))) if mean else "–"]
            row += [percent(found.mean, sign=True) if found else ""]
    return [*markdown_table([head, *rows]), ""]


def _explanation(comparison: Comparison) -> list[str]:
    plan = comparison.plan
    others = len(plan.arms) - 1
    protocols = [load(name) for name in PROTOCOLS if name in comparison.values]
    return [
        "Accuracies are means over seeds, in per cent, ± the 95 % t-interval over seeds. "
        f"*− {plan.baseline}* is the mean difference from {plan.baseline} at the same seed, in percentage points, with "
        "its 95 % t-interval. The arms of a seed start from the same weights and see the same views in the same order, "
        "so luck that they share cancels.",
        "",
        f"*adjusted p* is the p of the two-sided paired t-test, adjusted by Holm's method for the {others} arms "
        f"that are compared with {plan.baseline}, for each protocol. *better* and *worse* mean an adjusted p below "
        "0.05. *no difference shown* does not mean that there is none. The intervals are not adjusted. "
        + (
            ""
            if plan.margin is None
            else f"*equal* means that two one-sided tests show a difference of less than {plan.margin:g} percentage "
            f"points (adjusted p below 0.05). "
        )
        + f"*{UNTRAINED}* is the encoder with the starting weights of a seed. It is not tested.",
        *(f"\n*{each.name}* is {each.meaning}." for each in protocols if each.meaning),
    ]


def _limits(comparison: Comparison) -> list[str]:
    plan, result = comparison.plan, (comparison.finished[0].record or {})["result"]
    seeds = len(plan.seeds)
    config = RunFolder(comparison.finished[0].unit.pretrain.out).config()
    chance, tested = result["chance"], result["test_images"]
    images = math.sqrt(0.25 / tested) * 196
    lines = [
        f"- Seeds: {seeds}. "
        + (
            "With one seed there is no interval and no test, and no conclusion about other seeds."
            if seeds == 1
            else "An interval over so few seeds is wide. It assumes that the differences are roughly normal, which so "
            "few cannot show. Most small differences that are real will be missed."
            if seeds < 10
            else "The intervals assume that the differences are roughly normal."
        ),
        f"- Size: {config['parameters']:,} parameters, {config['images']} images, {config['steps']} steps. "
        "Another size or length may give another result.",
        f"- One test set: {tested} images, {result['classes']} classes"
        f"{'' if chance is None else f', largest class {chance:.1%}'}. The "
        "intervals are about other seeds on the same test images, not about other images. Accuracy on so many "
        f"images is uncertain by up to ± {images:.1f} percentage points.",
        "- Arms differ only by the options below. An arm might gain from a learning rate of its own.",
    ]
    if any(o.unit.pretrain.saliency for o in comparison.finished):
        lines.append(
            "- The maps are as good as the CLIP and the method that made them. Other maps may give other results."
        )
    return lines


def _by_seed(comparison: Comparison) -> list[str]:
    tables = {}
    for protocol, table in comparison.values.items():
        tables[protocol] = [[f"{protocol} %", *(f"seed {seed}" for seed in comparison.plan.seeds)]]
        for arm, by_seed in table.items():
            cells = (f"{100 * by_seed[seed]:.2f}" if seed in by_seed else "–" for seed in comparison.plan.seeds)
            tables[protocol].append([arm, *cells])
    return _tables(tables)


def _what_was_run(comparison: Comparison, machine: dict[str, Any]) -> list[str]:
    plan = comparison.plan
    rows = [["arm", "masks", "options", "pretraining, s a run"]]
    for arm, options in plan.arms.items():
        seconds = [(o.record or {}).get("pretrain_seconds") for o in comparison.finished if o.unit.arm == arm]
        known = [value for value in seconds if value is not None]
        asked = plan.pretrain_options(arm, plan.seeds[0], Path())
        rows.append(
            [
                arm,
                markdown(masks_in_words(asked)),
                _written(options),
                f"{sum(known) / len(known):.0f}" if known else "–",
            ]
        )
    lines = [
        f"- images: {code_span(plan.source)}" + (f"; maps: {code_span(plan.saliency)}" if plan.saliency else ""),
        f"- pretraining: {_written(plan.pretrain) or 'the defaults'}",
        f"- evaluation: {_written(plan.evaluate) or 'the defaults'}",
    ]
    if comparison.finished:
        result = (comparison.finished[0].record or {})["result"]
        lines.append(
            f"- judged, the first run: trained on {result['train_images']} images of {code_span(result['source'])}, "
            f"tested on {result['test_images']} of {markdown(result['test'])}"
        )
        lines += [f"- {markdown(line)}" for line in _leaks(comparison)]
        evaluating = [(o.record or {}).get("evaluate_seconds") or 0 for o in comparison.finished]
        lines.append(f"- evaluation took {sum(evaluating) / len(evaluating):.0f} s a run")
    lines.append(f"- {markdown(', '.join(f'{name} {value}' for name, value in machine.items()))}")
    return [*lines, "", *markdown_table(rows)]


def _leaks(comparison: Comparison) -> list[str]:
    """What the evaluations say of near-duplicates, each sentence once, with the seeds that it is of."""
    seeds: dict[str, set[int]] = {}
    for outcome in comparison.finished:
        for line in leak_lines((outcome.record or {})["result"]):
            seeds.setdefault(line, set()).add(outcome.unit.seed)
    return [f"seed {', '.join(map(str, sorted(found)))}: {line}" for line, found in seeds.items()]


def masks_in_words(options: PretrainOptions) -> str:
    """What a run hides, and how its errors are weighed."""
    side, weighed = options.mask_granularity, options.saliency_weight
    moves = options.saliency_weight_schedule
    words = [
        STRATEGIES[options.masking_name].in_words(options.recorded()),
        f"blocks of {side}×{side}" if side > 1 else "",
        f"{options.class_tokens} class tokens" if options.class_tokens else "",
        f"errors {weighed:g} by {'saliency' if options.weight_by == 'maps' else 'the gate'}" if weighed else "",
        f"its weight {moves}s" if weighed and moves != "constant" else "",
        f"visible errors {options.visible_weight:g}" if options.visible_weight else "",
    ]
    return ", ".join(filter(None, words))


def _written(options: Mapping[str, Any]) -> str:
    return markdown(", ".join(f"{name} {_short(value)}" for name, value in options.items()))


def _short(value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    return ("×" if all(isinstance(item, int) for item in value) else ", ").join(map(str, value))


def _tables(tables: Mapping[Any, Sequence[Sequence[str]]]) -> list[str]:
    return [line for rows in tables.values() for line in (*markdown_table(rows), "")]


def _machine(device: str, jobs: int) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or platform.machine()
    return {
        "saliency-mae": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": f"{device} ({name})",
        "cores": os.cpu_count(),
        "jobs": jobs,
    }
