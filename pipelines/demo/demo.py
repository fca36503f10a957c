"""``demo``: the main job from end to end on the built-in scenes, at a size that two cores do in minutes.

Scenes → maps by the shipped CLIP → two pretrainings that differ in their masks alone (random; 25 % salient) → k-NN and
logistic regression on the features of both and of the untrained encoder → a table, plots and a contact sheet. What it
shows is that every part works and fits the next; with one seed and a model this small it is no evidence for either
masking.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae.training.checkpoints import load_model
from mae.training.training import Training
from pipelines.build.build_saliency import build_saliency
from pipelines.build.options import BuildOptions
from pipelines.commandline.terminal import print_facts
from pipelines.demo.salient_ratio import salient_ratio_gif
from pipelines.errors import UserError
from pipelines.evaluate.evaluate import EvaluateOptions, evaluate, to_json
from pipelines.evaluate.results.printed import print_evaluation
from pipelines.inspect.inspect import inspect
from pipelines.inspect.map_verdict import MapScores, print_map_scores
from pipelines.inspect.options import InspectOptions
from pipelines.plots import bars, contact_sheet, loss_curve
from pipelines.pretrain.options import PretrainOptions
from pipelines.pretrain.pretrain import pretrain
from pipelines.pretrain.record.reconstructions import reconstruction_sheet
from pipelines.pretrain.settings import settings_of
from pipelines.report.run_report import REPORT, write_report
from pipelines.run_folder import RunFolder
from pipelines.sources.open_source import open_source
from pipelines.sources.source import Source
from pipelines.views.joined_maps import JoinedMaps, join_maps
from saliency.files import write_text_atomically

SCENES = 2000
TRAINED_ON = f"shapes:{SCENES},objects=1,radius=0.24-0.3,size=64"
"""Large objects: a few visible patches of one tell something of its shape. Smaller pictures are drawn sooner."""
JUDGED_ON = "shapes:500,split=test,objects=2-3"
PROBED_ON, TESTED_ON = "shapes:2000,split=probe,objects=1", "shapes:1000,split=test,objects=1"
"""Scenes of one object: there the label, the named object's colour, is no guess."""
SALIENT_RATIO = 0.25
TRAINING: dict[str, Any] = {
    "model": "mini",
    "image_size": (48,),
    "patch_size": 6,  # in as many seconds, patches of 8 in a larger model come out flat, each in one colour
    "norm_pix": False,  # colour is what the probes ask for, and normalised patches hide it
    "batch_size": 16,  # many small steps: shapes come after the mean colour, with their number
    "blr": 0.032,
    "epochs": 26,
    "workers": 1,  # drawing a scene takes as long as a step does for an image
}

_PROBES = {"knn": "k-NN", "logistic": "logistic"}
_BATCH = 32  # keeps the demo within a few hundred MB
_SHEET_ROWS = 8
_SHEET_NAMES = {"mask": "{} mask", "reconstruction": "filled in, {}"}


@dataclass(frozen=True)
class DemoResult:
    """What the demo found: facts about the maps, how good they are, and the evaluation's table."""

    maps: dict[str, str]
    map_scores: MapScores
    evaluation: dict[str, Any]


def run_demo(out: Path, *, seed: int = 0, device: str = "cpu", quiet: bool = False) -> DemoResult:
    """Run everything into ``out``; a stopped demo goes on where it was. UserError for a folder of another kind."""
    if out.exists() and any(out.iterdir()) and not (out / "maps").exists():
        raise UserError(f"--out {out} is not empty and holds no demo; give an empty folder")
    _say(f"1/4  saliency maps of {TRAINED_ON}", quiet)
    build_saliency(BuildOptions(TRAINED_ON, out / "maps", batch_size=_BATCH, device=device), quiet=quiet)
    build_saliency(BuildOptions(JUDGED_ON, out / "judged-maps", batch_size=_BATCH, device=device), quiet=quiet)
    found = inspect(InspectOptions(str(out / "judged-maps"), gallery=out / "maps.png", device=device), quiet=quiet)
    assert found.map_scores
    arms = {"random": None, "salient": out / "maps"}
    for name, maps in arms.items():
        _say(f"2/4  pretraining, {name} masks", quiet)
        write_report(pretrain(_pretrain_options(out / name, maps, seed, device), quiet=quiet))
    _say("3/4  evaluation", quiet)
    result = evaluate(
        EvaluateOptions(
            str(out / "salient"),
            PROBED_ON,
            test=TESTED_ON,
            protocols=tuple(_PROBES),
            beside=(str(out / "random"),),
            out=out / "evaluation.json",
            batch_size=_BATCH,
            seed=seed,
            device=device,
            workers=0,
        ),
        quiet=quiet,
    )
    for row in result["rows"]:
        row["encoder"] = Path(row["encoder"]).name
    _say("4/4  pictures", quiet)
    _draw(out, result, seed, device)
    write_text_atomically(out / "evaluation.json", to_json(result))
    write_text_atomically(out / "table.md", _table(found.facts, found.map_scores, result))
    return DemoResult(found.facts, found.map_scores, result)


def _pretrain_options(out: Path, maps: Path | None, seed: int, device: str) -> PretrainOptions:
    return PretrainOptions(
        TRAINED_ON,
        out,
        saliency=maps,
        salient_ratio=SALIENT_RATIO,
        salient_pick="weighted",  # the top 25 % would hide most objects whole, and nothing would tell their shape
        keep=1,
        resume=(out / "config.json").exists(),
        seed=seed,
        device=device,
        **TRAINING,
    )


def _draw(out: Path, result: dict[str, Any], seed: int, device: str) -> None:
    curves = {}
    for name in ("random", "salient"):
        metrics = RunFolder(out / name).metrics()
        curves[name] = ([line["step"] for line in metrics], [line["loss"] for line in metrics])
    loss_curve(out / "loss.png", curves, title="Pretraining loss (masks differ, so the levels do not compare)")
    accuracies = {row["encoder"]: {shown: 100 * row[name] for name, shown in _PROBES.items()} for row in result["rows"]}
    bars(
        out / "accuracy.png",
        accuracies,
        title="Colour of the object",
        unit="accuracy, %",
        chance=100 * result["chance"],
    )
    contact_sheet(
        out / "contact-sheet.png",
        demo_sheet(out, seed=seed, device=device),
        title=f"75 % of the patches hidden: {100 * SALIENT_RATIO:g} % because they are salient, or all at random",
    )
    salient_ratio_gif(out / "salient-ratio.gif", *_trained(out, "salient", seed, device))


def demo_sheet(out: Path, *, seed: int = 0, device: str = "cpu") -> dict[str, list[Any]]:
    """The first scenes of a finished demo as columns: image, caption, map, and what each run hides and fills in."""
    columns: dict[str, list[Any]] = {}
    for name in ("salient", "random"):
        source, maps, training = _trained(out, name, seed, device)
        found = reconstruction_sheet(source, maps, training.model, training.pick_masks, _SHEET_ROWS)
        columns |= {_SHEET_NAMES.get(column, column).format(name): values for column, values in found.items()}
    return columns


def _trained(out: Path, name: str, seed: int, device: str) -> tuple[Source, JoinedMaps, Training]:
    """The first scenes, their maps, and one of the two runs."""
    options = _pretrain_options(out / name, out / "maps" if name == "salient" else None, seed, device)
    source = open_source(TRAINED_ON, limit=_SHEET_ROWS)
    assert isinstance(source, Source)
    settings = settings_of(options)
    training = Training(load_model(out / name), settings.masking, settings.training, 1, device)
    return source, join_maps(out / "maps", source, on_missing="error"), training


def _table(facts: dict[str, str], map_scores: MapScores, result: dict[str, Any]) -> str:
    lines = [f"| encoder | {' | '.join(f'{shown} %' for shown in _PROBES.values())} |", "|---|---|---|"]
    for row in result["rows"]:
        cells = [f"{100 * row[name]:.1f} ± {100 * row[name + '_interval']:.1f}" for name in _PROBES]
        lines.append(f"| {row['encoder']} | {' | '.join(cells)} |")
    lines += [
        "",
        f"{result['test_images']} test images, {result['classes']} classes; one seed; intervals are the test set's.",
        "",
    ]
    heading, *rows = map_scores.table()
    lines += [f"| {' | '.join(cells)} |" for cells in (heading, ["---"] * len(heading), *rows)]
    lines += ["", map_scores.verdict(), ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    return "\n".join(lines) + "\n"


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        print(text, flush=True)


def print_demo(result: DemoResult, out: Path) -> None:
    """What the demo found, and where its pictures are."""
    print_facts(result.maps, title="Saliency maps")
    print_map_scores(result.map_scores)
    print_evaluation(result.evaluation)
    print(
        f"Look at salient-ratio.gif, contact-sheet.png, maps.png, accuracy.png and loss.png in {out}.\n"
        f"{out / 'salient' / REPORT} is the report of a run, and table.md has the figures.\n"
        "To try next:\n"
        f"  mae-cli explore {out}     # maps and masks in the browser: drag the salient ratio, type a caption, paint\n"
        f"  mae-cli reconstruct {out / 'salient'} PHOTO.jpg --box 0.3,0.3,0.6,0.6 --out filled\n"
        "  mae-cli build-saliency YOUR-PHOTOS --out maps     # a folder of images with captions"
    )
