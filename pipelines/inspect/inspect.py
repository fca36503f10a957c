"""``inspect``: look at a maps folder, a run or a source before trusting it.

Maps are judged (:mod:`pipelines.inspect.map_scores`): where their source has true masks by pointing game, energy, IoU
and AUC beside a centre prior, a shuffled caption and a uniform map; always by what needs no masks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import UserError, user_errors
from pipelines.inspect.faithful import score_faithfulness
from pipelines.inspect.faithful_verdict import FaithScores, draw_curves
from pipelines.inspect.galleries import check_picture, draw_maps, draw_source
from pipelines.inspect.map_scores import joined_pairs, score_maps, source_of_maps
from pipelines.inspect.map_verdict import MapScores
from pipelines.inspect.options import InspectOptions
from pipelines.inspect.run import describe_run
from pipelines.inspect.source import describe_source
from pipelines.outputs import check_apart, is_ours
from pipelines.run_folder import RunFolder
from pipelines.sources.open_source import StreamSource, open_source
from pipelines.sources.source import Source
from saliency.files import write_text_atomically
from saliency.names import COMPARED
from saliency.table.imported import are_true_masks, is_imported, is_motion, without_clip
from saliency.table.manifest import Manifest, read_manifest
from saliency.table.table import SaliencyTable

if TYPE_CHECKING:
    from pipelines.inspect.hidden_verdict import HiddenPatches


@dataclass(frozen=True)
class Inspection:
    """What ``inspect`` found.

    ``kind`` is maps, run or source; ``facts`` are lines of text by title, ``numbers`` the same as plain values;
    ``map_scores`` says how good maps are, ``faithfulness`` how true they are to their model, ``hidden`` what masks by
    them hide.
    """

    kind: str
    facts: dict[str, str]
    numbers: dict[str, Any]
    map_scores: MapScores | None = None
    faithfulness: FaithScores | None = None
    hidden: HiddenPatches | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values that ``json`` writes."""
        map_scores = self.map_scores.to_json() if self.map_scores else None
        found = {"kind": self.kind, "facts": self.numbers, "judgement": map_scores}
        found |= {"faithfulness": self.faithfulness.to_json()} if self.faithfulness else {}
        return found | ({"hidden_patches": self.hidden.to_json()} if self.hidden else {})

    def unmet(self, figures: Sequence[str]) -> list[str]:
        """Those of the figures in which the maps do not beat the centre prior."""
        return [name for name in figures if self.map_scores is None or not self.map_scores.beats(name)]


def inspect(options: InspectOptions, *, quiet: bool = True) -> Inspection:
    """Describe what ``options.what`` is: a maps folder, a run folder or a source; and write what was asked for.

    It is an error if the maps can't be judged by the figures that ``options.require`` names; whether they pass,
    ``Inspection.unmet`` says. Raises UserError.
    """
    _check_files(options)
    what, folder, kind = options.what, Path(options.what), options.kind
    if options.require and kind != "maps":
        raise UserError(f"--require judges maps, and {what} is no maps folder")
    if options.masks and kind != "maps":
        raise UserError(f"--masks looks at maps, and {what} is no maps folder")
    if options.gate and kind != "run":
        raise UserError(f"--gate looks at a run, and {what} is none")
    if options.health and kind != "run":
        raise UserError(f"--health looks at a run, and {what} is none")
    if options.leaks is not None and kind != "source":
        raise UserError(f"--leaks compares sources of images, and {what} is none")
    if options.masks:
        found = _inspect_masks(folder, options, quiet)
    elif kind == "maps":
        found = _inspect_maps(folder, options, quiet)
    elif kind == "run":
        run = RunFolder(folder)
        found = _inspect_gate(run, options) if options.gate else Inspection("run", *describe_run(run))
        if options.health:
            found = _with_health(found, run, options)
    else:
        found = _inspect_source(options)
    if options.json:
        write_text_atomically(options.json, json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n")
    return found


def _check_files(options: InspectOptions) -> None:
    source = options.source or options.what
    for option, file in (("--gallery", options.gallery), ("--json", options.json)):
        if file is not None and not _is_written(Path(source)):
            check_apart(file, [source], option=option, file=True)
    if options.gallery:
        check_picture(options.gallery)
    if options.json and options.json.is_dir():
        raise UserError(f"--json {options.json} is a folder; give a file")


def _is_written(folder: Path) -> bool:
    return folder.is_dir() and is_ours({path.name for path in folder.iterdir()})


def _inspect_maps(folder: Path, options: InspectOptions, quiet: bool) -> Inspection:
    table, manifest, source = _open_maps(folder, options)
    if options.require and (source is None or not source.has_masks):
        why = "its images are not at hand: give --source" if source is None else f"{source.name} has no masks or boxes"
        raise UserError(f"--require can't judge {folder}: {why}")
    facts, numbers = _describe_maps(table, manifest)
    if source is None and options.faithful:
        raise UserError(f"--faithful needs the images of {folder}, which are not at hand: give --source")
    if source is None:
        facts["images"] = "not at hand: give --source to draw a gallery or judge the maps"
    map_scores = score_maps(table, source, limit=options.limit, device=options.device, quiet=quiet)
    if options.require and not map_scores.judged:
        raise UserError(f"--require can't judge {folder}: none of {map_scores.seen} pairs has a true mask")
    if source is not None and source.has_masks:
        facts["judged pairs"] = f"{map_scores.judged} of {map_scores.seen}, {map_scores.images} images"
    facts |= map_scores.facts()
    if options.gallery and source is not None and len(table):
        pairs, rows = joined_pairs(table, source)
        size, scores = options.gallery_size, map_scores.per_pair
        drawn = draw_maps(options.gallery, source, table, rows, pairs, size=size, scores=scores)
        facts["gallery"], numbers["gallery"] = _named(drawn), [str(path) for path in drawn]
    if source is None or not options.faithful:
        return Inspection("maps", facts, numbers, map_scores)
    faithfulness = score_faithfulness(table, source, limit=options.faithful_limit, device=options.device, quiet=quiet)
    if options.gallery and faithfulness.figures:
        curves = options.gallery.with_stem(f"{options.gallery.stem}-faithful")
        draw_curves(curves, faithfulness)
        facts["curves"] = numbers["curves"] = str(curves)
    return Inspection("maps", facts, numbers, map_scores, faithfulness)


def _open_maps(folder: Path, options: InspectOptions) -> tuple[SaliencyTable, Manifest | None, Source | None]:
    """The table, its manifest, and its source if that is at hand. UserError."""
    with user_errors():
        table, manifest = SaliencyTable(folder), read_manifest(folder)
        source = source_of_maps(table, options.source, allow_outside=options.allow_outside)
    if source is None and options.gallery:
        raise UserError(f"--gallery needs the images of {folder}, which are not at hand: give --source")
    return table, manifest, source


def _inspect_masks(folder: Path, options: InspectOptions, quiet: bool) -> Inspection:
    """What masks by the maps hide."""
    from pipelines.inspect.hidden_patches import look_at_masks  # with torch, which scores without a CLIP do not need
    from pipelines.inspect.hidden_pictures import draw_hidden

    table, manifest, source = _open_maps(folder, options)
    facts, numbers = _describe_maps(table, manifest)
    if not len(table):
        raise UserError(f"--masks needs maps, and {folder} holds none")
    facts.pop("methods compared", None)  # which tells how well maps find objects
    look = look_at_masks(table, source, options, clips=bool(manifest and manifest.origin.get("clips")), quiet=quiet)
    facts |= look.found.facts()
    if not look.found.views_judged:
        why = (
            "the images are not at hand: give --source"
            if source is None
            else f"no pair of {source.name} has a true mask"
        )
        facts["objects"] = f"not looked at, because {why}"
    if options.gallery and source is not None:
        sides = options.image_size * (2 if len(options.image_size) == 1 else 1)
        drawn = draw_hidden(options.gallery, source, look, (sides[0], sides[1]))
        facts["gallery"], numbers["gallery"] = _named(drawn), [str(path) for path in drawn]
    return Inspection("maps", facts, numbers, hidden=look.found)


def _describe_maps(table: SaliencyTable, manifest: Manifest | None) -> tuple[dict[str, str], dict[str, Any]]:
    """How the maps were made and how many there are, as text and as plain values."""
    made = table.metadata
    numbers: dict[str, Any] = {"maps": len(table), "grid": [table.grid, table.grid], "made_with": made}
    facts = {"maps": str(len(table)), "grid": f"{table.grid}×{table.grid}"}
    if table.slots > 1:
        facts["slots"], numbers["slots"] = f"{table.slots}, equal parts of a video's time", table.slots
    facts |= _made(made)
    if manifest:
        facts["pairs"] = f"{manifest.taken} in = {manifest.written} written + {manifest.rejected} rejected"
        numbers |= {"pairs": {"in": manifest.taken, "written": manifest.written, "rejected": manifest.rejected}}
    if len(table):
        scores, empty = table.clip_scores, int((table.strengths <= 0).sum())
        if not without_clip(made):
            facts["cos(image, caption)"] = f"{scores.mean():.3f} ± {scores.std():.3f} (deviation)"
            numbers["clip_score"] = {"mean": float(scores.mean()), "deviation": float(scores.std())}
        facts["empty maps"] = f"{empty} ({empty / len(table):.1%})"
        numbers["empty"] = empty
    return facts, numbers


def _made(made: Mapping[str, Any]) -> dict[str, str]:
    """How maps were made, in lines of text."""
    if is_motion(made):
        return {"clip": "none: the maps show motion", "method": str(made["method"])}
    if is_imported(made):
        method = str(made["method"]) if are_true_masks(made) else f"{made['method']} from {made.get('imported_from')}"
        by = f", made by {made['made_by']}" if made.get("made_by") else ""
        return {"clip": "none: the maps are imported", "method": method + by}
    clip = " ".join(str(made[key]) for key in ("clip", "pretrained") if made.get(key))
    return {"clip": clip, "method": f"{made['method']} at {made.get('layer')}", "methods compared": COMPARED}


def _inspect_gate(run: RunFolder, options: InspectOptions) -> Inspection:
    """A run and what its gate scores."""
    from pipelines.inspect.gate import inspect_gate  # with torch, which nothing else here needs

    facts, numbers = describe_run(run)
    origin = run.config()["options"]
    names = () if options.source else ("split", "image_column", "caption_column", "captions", "limit")
    wanted = {name: origin[name] for name in names if name in origin} | {"allow_outside": options.allow_outside}
    source = open_source(options.source or origin["source"], **wanted)
    if isinstance(source, StreamSource):
        raise UserError(f"{source.name} is a stream; give --source with images that can be read in any order")
    seen, counted, map_scores = inspect_gate(
        run,
        source,
        gallery=options.gallery,
        gallery_size=options.gallery_size,
        limit=options.limit,
        device=options.device,
    )
    return Inspection("run", facts | seen, numbers | counted, map_scores)


def _with_health(found: Inspection, run: RunFolder, options: InspectOptions) -> Inspection:
    """What was found of a run, and the health of its features."""
    from pipelines.inspect.health import describe_health  # with torch

    wanted: dict[str, Any] = {"source": options.source, "count": options.limit, "device": options.device}
    facts, numbers = describe_health(run, allow_outside=options.allow_outside, **wanted)
    return replace(found, facts=found.facts | facts, numbers=found.numbers | numbers)


def _inspect_source(options: InspectOptions) -> Inspection:
    source = open_source(options.what, allow_outside=options.allow_outside)
    if options.gallery and isinstance(source, StreamSource):
        raise UserError(f"--gallery draws images in any order, and {source.name} is a stream: download it first")
    facts, numbers = describe_source(source)
    if options.leaks is not None:
        from pipelines.inspect.leaks import describe_leaks

        other = open_source(options.leaks, allow_outside=options.allow_outside)
        for each in (source, other):
            if not isinstance(each, Source):
                raise UserError(f"--leaks reads all images, and {each.name} is a stream: download it first")
        assert isinstance(source, Source)
        assert isinstance(other, Source)
        found, counted = describe_leaks(source, other)
        facts, numbers = facts | found, numbers | counted
    if options.gallery and isinstance(source, Source):
        drawn = draw_source(options.gallery, source, size=options.gallery_size)
        facts["gallery"], numbers["gallery"] = _named(drawn), [str(path) for path in drawn]
    return Inspection("source", facts, numbers)


def _named(paths: Sequence[Path]) -> str:
    return ", ".join([str(paths[0]), *(path.name for path in paths[1:])])
