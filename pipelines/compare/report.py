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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mae.masks.strategies import STRATEGIES
from pipelines.compare.plan import UNTRAINED, ComparePlan
from pipelines.compare.plots import forest, loss_curves, losses, mask_sheet
from pipelines.compare.statistics import LEVEL, Difference, Mean, mean_interval, paired_differences
from pipelines.compare.unit import UnitOutcome
from pipelines.errors import UserError
from pipelines.evaluate.protocol import load
from pipelines.evaluate.table import PROTOCOLS
from pipelines.pretrain.options import PretrainOptions
from pipelines.run_folder import RunFolder
from saliency import __version__
from saliency.files import write_text_atomically
from saliency.shown import code_span, markdown, markdown_table

RESULTS, REPORT = "results.json", "report.md"

_PLOTS = {
    "differences.png": "Paired differences from the baseline: dots are seeds, diamonds means, bars 95 % intervals",
    "accuracy.png": "Accuracy by arm: dots are seeds, diamonds means, bars 95 % intervals",
    "masks.png": "What each arm hides of the same images",
    "loss.png": "Pretraining loss by arm",
}


@dataclass(frozen=True)
class Comparison:
    """What is known of a comparison: per protocol, {arm: {seed: accuracy}} and what follows from it."""

    plan: ComparePlan
    finished: list[UnitOutcome]
    failed: list[UnitOutcome]
    values: dict[str, dict[str, dict[int, float]]]
    means: dict[str, dict[str, Mean]]
    differences: dict[str, dict[str, Difference]]
    """Of every arm from the baseline; its p-values are adjusted over the arms, among which the untrained is not."""
    untrained: dict[str, Difference]
    """Of the untrained encoder, by protocol; a reference, on its own."""


def summarise(plan: ComparePlan, outcomes: Iterable[UnitOutcome]) -> Comparison:
    """The statistics of every protocol over what is finished."""
    outcomes = list(outcomes)
    finished, failed = [o for o in outcomes if o.record], [o for o in outcomes if o.failed]
    values: dict[str, dict[str, dict[int, float]]] = {}
    for outcome in sorted(finished, key=lambda o: (list(plan.arms).index(o.unit.arm), o.unit.seed)):
        assert outcome.record
        rows = outcome.record["result"]["rows"]
        for protocol in outcome.unit.evaluate.protocols:
            table = values.setdefault(protocol, {})
            table.setdefault(outcome.unit.arm, {})[outcome.unit.seed] = float(rows[0][protocol])
            if rows[-1].get(protocol) is not None and len(rows) > 1:  # no protocol has to judge the untrained one too
                table.setdefault(UNTRAINED, {}).setdefault(outcome.unit.seed, float(rows[-1][protocol]))
    for table in values.values():
        if UNTRAINED in table:
            table[UNTRAINED] = table.pop(UNTRAINED)  # last
    means: dict[str, dict[str, Mean]] = {}
    differences: dict[str, dict[str, Difference]] = {}
    untrained: dict[str, Difference] = {}
    for protocol, table in values.items():
        means[protocol] = {arm: mean_interval(list(by_seed.values())) for arm, by_seed in table.items()}
        trained = {arm: by_seed for arm, by_seed in table.items() if arm != UNTRAINED}
        differences[protocol] = paired_differences(trained, plan.baseline)
        reference = {arm: table[arm] for arm in (plan.baseline, UNTRAINED) if arm in table}
        if found := paired_differences(reference, plan.baseline):
            untrained[protocol] = found[UNTRAINED]
    return Comparison(plan, finished, failed, values, means, differences, untrained)


def write_report(comparison: Comparison, out: Path, *, device: str, jobs: int) -> None:
    """``results.json``, ``plots/`` and ``report.md``; a picture that can't be drawn is left out."""
    machine = _machine(device, jobs)
    write_text_atomically(out / RESULTS, json.dumps(_results(comparison, machine), indent=1) + "\n")
    for name in _PLOTS:
        (out / "plots" / name).unlink(missing_ok=True)
    notes = _draw(comparison, out / "plots") if comparison.finished else []
    write_text_atomically(out / REPORT, _report(comparison, out, machine, notes))


def tables_of(comparison: Comparison) -> dict[str, list[list[str]]]:
    """By protocol a heading and a row an arm: name, seeds, mean, difference, adjusted p and reading."""
    tables = {}
    for protocol, by_arm in comparison.values.items():
        rows = [["arm", "seeds", f"{protocol} %", f"− {comparison.plan.baseline}", "adjusted p", "reading"]]
        for arm in (*comparison.plan.arms, UNTRAINED):
            mean = comparison.means[protocol].get(arm)
            cells = _difference_cells(comparison, protocol, arm)
            rows.append([arm, str(len(by_arm.get(arm, {}))), percent(mean) if mean else "–", *cells])
        tables[protocol] = rows
    return tables


def percent(mean: Mean, *, sign: bool = False) -> str:
    """A share as ``41.2 ± 0.8``, in per cent or percentage points."""
    text = f"{100 * mean.mean:{'+' if sign else ''}.1f}".replace("-", "−")
    return text if mean.half_width is None else f"{text} ± {100 * mean.half_width:.1f}"


def _difference_cells(comparison: Comparison, protocol: str, arm: str) -> list[str]:
    if arm == comparison.plan.baseline:
        return ["", "", "baseline"]
    if arm == UNTRAINED:
        found = comparison.untrained.get(protocol)
        return [percent(found.mean, sign=True) if found else "–", "", "reference"]
    found = comparison.differences[protocol].get(arm)
    if found is None:
        return ["–", "–", "no seed in common"]
    p = "–" if found.adjusted_p is None else f"{found.adjusted_p:.3f}" if found.adjusted_p >= 0.001 else "< 0.001"
    return [percent(found.mean, sign=True), p, found.reading]


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
    units = [o.unit for o in sorted(comparison.finished, key=lambda o: list(plan.arms).index(o.unit.arm))]
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
    for outcome in comparison.finished:
        config = RunFolder(outcome.unit.pretrain.out).config()
        facts = {name: config[name] for name in ("images", "grid", "parameters", "steps", "masking", "versions")}
        runs.append({"folder": str(outcome.unit.pretrain.out), **facts, **(outcome.record or {})})
    return {
        "plan": asdict(comparison.plan),
        "machine": machine,
        "level": LEVEL,
        "accuracy": comparison.values,
        "means": _plain(comparison.means),
        "differences": _plain(comparison.differences),
        "untrained": _plain({"": comparison.untrained})[""],
        "runs": runs,
        "failed": [{"arm": o.unit.arm, "seed": o.unit.seed, "reason": o.failed} for o in comparison.failed],
    }


def _plain(tables: Mapping[str, Mapping[str, Mean | Difference]]) -> dict[str, dict[str, Any]]:
    return {name: {arm: asdict(found) for arm, found in table.items()} for name, table in tables.items()}


def _report(comparison: Comparison, out: Path, machine: dict[str, Any], notes: Sequence[str]) -> str:
    plan, finished = comparison.plan, comparison.finished
    total = len(plan.arms) * len(plan.seeds)
    lines = ["# Comparison of masks", "", f"{len(finished)} of {total} runs are finished ({_counted(plan)})."]
    lines += [f"- FAILED {outcome.unit.name}: {markdown(outcome.failed)}" for outcome in comparison.failed]
    if finished:
        lines += ["", "## Result", "", *_tables(tables_of(comparison)), *_explanation(comparison)]
        lines += ["", "## By seed", "", *_by_seed(comparison), "## Pictures", ""]
        drawn = [(name, text) for name, text in _PLOTS.items() if (out / "plots" / name).exists()]
        for name, text in drawn:
            lines += [f"{text}:", "", f"![{text}](plots/{name})", ""]
        lines += [*map(markdown, notes), "## What this can and cannot show", "", *_limits(comparison)]
    lines += ["", "## What was run", "", *_what_was_run(comparison, machine)]
    return "\n".join(lines) + "\n"


def _counted(plan: ComparePlan) -> str:
    seeds = ", ".join(map(str, plan.seeds))
    return f"{len(plan.arms)} arms × {len(plan.seeds)} seed{'s' * (len(plan.seeds) > 1)}: {seeds}"


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
        f"*{UNTRAINED}* is the encoder with the starting weights of a seed. It is not tested.",
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
        evaluating = [(o.record or {}).get("evaluate_seconds") or 0 for o in comparison.finished]
        lines.append(f"- evaluation took {sum(evaluating) / len(evaluating):.0f} s a run")
    lines.append(f"- {markdown(', '.join(f'{name} {value}' for name, value in machine.items()))}")
    return [*lines, "", *markdown_table(rows)]


def masks_in_words(options: PretrainOptions) -> str:
    """What a run hides, and how its errors are weighed."""
    side, weighed = options.mask_granularity, options.saliency_weight
    moves = options.saliency_weight_schedule
    words = [
        STRATEGIES[options.masking_name].in_words(options.recorded()),
        f"blocks of {side}×{side}" if side > 1 else "",
        f"{options.class_tokens} class tokens" if options.class_tokens else "",
        f"errors {weighed:g} by saliency" if weighed else "",
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


def _tables(tables: Mapping[str, Sequence[Sequence[str]]]) -> list[str]:
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


def print_comparison(comparison: Comparison) -> None:
    """Every arm's accuracy and its difference from the baseline, by protocol."""
    for protocol, (heading, *rows) in tables_of(comparison).items():
        title = f"\n{protocol}: means over seeds and paired differences, 95 % intervals"
        table = Table(*heading, title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for cells in rows:
            table.add_row(*cells)
        Console().print(table)
