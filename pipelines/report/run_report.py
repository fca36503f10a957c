"""``report.html`` of a run: its settings, curves, masks, reconstructions and evaluation, in one file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import without_secrets
from pipelines.evaluate.protocol import load
from pipelines.html_page import html_of
from pipelines.inspect.run import describe_run
from pipelines.pretrain.options import option_defaults
from pipelines.run_folder import RunFolder
from saliency.files import parse_json, read_regular, write_text_atomically
from saliency.shown import code_span, markdown, markdown_table

REPORT = "report.html"
EVALUATION = "evaluation.json"

_PICTURES = {
    "loss.png": "The loss by step",
    "levels.png": "The losses of the levels",
    "hidden.png": "How often each patch is hidden",
    "scores.png": "The scores by which patches are hidden",
    "reconstructions.png": "Images, what the encoder saw of them, and what the decoder filled in",
}
"""In this order; others of the folder follow."""
_FIGURES = (
    *("loss", "hidden_loss", "head_loss", "masker_loss", "gate_loss"),
    *("learning_rate", "images_per_second", "starved"),
)
_POINTS = 11
_LARGEST = 1 << 26  # bytes of an evaluation


def write_report(run: RunFolder) -> Path:
    """Write what is known of a run to ``report.html`` in its folder; returns that path. Raises UserError, OSError."""
    path = run.folder / REPORT
    write_text_atomically(path, report_html(run))
    return path


def report_html(run: RunFolder) -> str:
    """What is known of a run, as the text of an HTML page. Raises UserError, OSError."""
    return html_of(without_secrets("\n".join(_lines(run)) + "\n"), run.folder, run.folder.resolve().name)


def refresh_report(folder: Path) -> None:
    """Write the report again where there is one, after an evaluation."""
    if (folder / REPORT).exists():
        write_report(RunFolder(folder))


def _lines(run: RunFolder) -> Iterator[str]:
    config, metrics = run.config(), run.metrics()
    facts, _ = describe_run(run)
    rejected = len(run.rejected())
    yield f"# {markdown(run.folder.resolve().name)}"
    yield ""
    yield from markdown_table([["", ""], *([name, markdown(value)] for name, value in facts.items())])
    yield ""
    if rejected:
        yield from (f"{rejected} images could not be read; `rejected.jsonl` has the reasons.", "")
    yield from _evaluation(run.folder / EVALUATION)
    yield from _pictures(run.folder / "plots")
    if metrics:
        yield from ("## The course of the training", "", *_course(metrics), "")
    yield from ("## Settings", "", "Options that are not the default:", "")
    yield from _options(config["options"])
    yield from ("", "How it was made:", "", *_made(config))


def _evaluation(path: Path) -> Iterator[str]:
    """The table of ``evaluation.json``, where there is one that can be read."""
    if not path.exists():
        return
    try:
        result: dict[str, Any] = parse_json(read_regular(path, _LARGEST).decode())
        protocols = list(result["protocols"])
        rows = [["encoder", *(load(name).heading().replace("\n", " ") for name in protocols)]]
        encoders = (*result["rows"], *result.get("baselines", ()))
        rows += [[markdown(row["encoder"]), *(_figure(row, name) for name in protocols)] for row in encoders]
        tested = f"{result['test_images']} test images of {markdown(result['test'])}"
        beside = f"trained on {result['train_images']} images of {code_span(result['source'])}"
        remarks = [line for name in protocols for line in load(name).remarks(result)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # of another version, or somebody's
    yield from ("## Evaluation", "", f"{tested}; {beside}.", "", *markdown_table(rows), "")
    yield from (line for text in remarks for line in (markdown(text), ""))


def _figure(row: Mapping[str, Any], protocol: str) -> str:
    if protocol not in row:
        return "–"
    interval = row.get(f"{protocol}_interval")
    return f"{100 * row[protocol]:.1f}" + ("" if interval is None else f" ± {100 * interval:.1f}")


def _pictures(folder: Path) -> Iterator[str]:
    there = {path.name for path in folder.glob("*.png")}
    names = [name for name in _PICTURES if name in there] + sorted(there - _PICTURES.keys())
    if names:
        yield from ("## Pictures", "")
    for name in names:
        text = _PICTURES.get(name, name.removesuffix(".png").replace("-", " ").capitalize())
        yield from (f"{text}:", "", f"![{text}](plots/{name})", "")


def _course(metrics: list[dict[str, Any]]) -> list[str]:
    """Figures at evenly spaced steps, the last one among them."""
    chosen = sorted({round(i * (len(metrics) - 1) / (_POINTS - 1)) for i in range(_POINTS)})
    known = [name for name in _FIGURES if any(name in line for line in metrics)]
    rows = [["step", "epoch", *(name.replace("_", " ") for name in known)]]
    before = -1
    for place in chosen:
        lines, before = metrics[before + 1 : place + 1], place
        latest = {name: next((line[name] for line in reversed(lines) if name in line), None) for name in known}
        shown = ("–" if value is None else f"{value:.4g}" for value in latest.values())
        rows.append([str(metrics[place]["step"]), f"{metrics[place]['epoch']:.2f}", *shown])
    return markdown_table(rows)


def _options(options: Mapping[str, Any]) -> list[str]:
    defaults = {name: list(value) if isinstance(value, tuple) else value for name, value in option_defaults().items()}
    own = {name: value for name, value in options.items() if name not in defaults or value != defaults[name]}
    return markdown_table(
        [["option", "value"], *([name.replace("_", "-"), code_span(value)] for name, value in own.items())]
    )


def _made(config: Mapping[str, Any]) -> list[str]:
    rows = [["", ""], *([markdown(name), markdown(value)] for name, value in config["versions"].items())]
    machine = config.get("machine", {})
    rows += [[markdown(name), markdown(value)] for name, value in machine.items()]
    rows += [["precision", markdown(config["precision"])], ["processes", markdown(config.get("processes", 1))]]
    if config.get("maps"):
        rows.append(["maps", code_span(json.dumps(config["maps"]))])
    return markdown_table(rows)
