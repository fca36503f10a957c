"""``inspect``: look at a maps folder, a run or a source before trusting it.

Maps are judged (:mod:`pipelines.inspect.map_scores`): where their source has true masks by pointing game, energy, IoU
and AUC beside a centre prior, a shuffled caption and a uniform map; always by what needs no masks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import UserError, user_errors
from pipelines.inspect.galleries import PAGE, check_picture, draw_maps, draw_source
from pipelines.inspect.gate import inspect_gate
from pipelines.inspect.map_scores import joined_pairs, judge_maps, source_of_maps
from pipelines.inspect.map_verdict import Judgement
from pipelines.inspect.run import describe_run
from pipelines.inspect.source import describe_source
from pipelines.run_folder import CONFIG, RunFolder
from pipelines.sources.open_source import StreamSource, open_source
from saliency.files import write_text_atomically
from saliency.methods.methods import COMPARED
from saliency.quality import FIGURES
from saliency.table.manifest import NAME as MANIFEST
from saliency.table.manifest import Manifest, read_manifest
from saliency.table.table import SaliencyTable, shard_files


@dataclass(frozen=True)
class Inspection:
    """What ``inspect`` found.

    ``kind`` is maps, run or source; ``facts`` are lines of text by title, ``numbers`` the same as plain values;
    ``judgement`` says how good maps are.
    """

    kind: str
    facts: dict[str, str]
    numbers: dict[str, Any]
    judgement: Judgement | None = None

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values that ``json`` writes."""
        judgement = self.judgement.to_json() if self.judgement else None
        return {"kind": self.kind, "facts": self.numbers, "judgement": judgement}

    def unmet(self, figures: Sequence[str]) -> list[str]:
        """Those of the figures in which the maps do not beat the centre prior."""
        return [name for name in figures if self.judgement is None or not self.judgement.beats(name)]


def inspect(
    what: str,
    *,
    source: str | None = None,
    gallery: Path | None = None,
    gallery_size: int = PAGE,
    limit: int = 500,
    device: str = "cpu",
    json_file: Path | None = None,
    require: Sequence[str] = (),
    gate: bool = False,
    quiet: bool = True,
) -> Inspection:
    """Describe what ``what`` is: a maps folder, a run folder or a source.

    ``source`` says where the maps' images are now, if not where they were; ``gallery`` is a PNG to draw
    ``gallery_size`` pairs into; at most ``limit`` maps are judged, evenly spaced; ``json_file`` takes everything as
    numbers; ``gate`` looks at what a run's gate scores, on ``source`` or on the images that it was trained with. With
    ``require``, names of figures that need masks, it is an error if the maps can't be judged by them;
    whether they pass, ``Inspection.unmet`` says. Raises UserError.
    """
    _check(gallery, json_file, require)
    folder = Path(what)
    if folder.is_dir() and ((folder / MANIFEST).exists() or shard_files(folder)):
        found = _inspect_maps(folder, source, gallery, gallery_size, limit, device, require, quiet)
    elif require:
        raise UserError(f"--require judges maps, and {what} is no maps folder")
    elif folder.is_dir() and (folder / CONFIG).exists() and (folder / "checkpoints").exists():
        run = RunFolder(folder)
        if gate:
            found = _inspect_gate(run, source, gallery, gallery_size, limit, device)
        else:
            found = Inspection("run", *describe_run(run))
    elif gate:
        raise UserError(f"--gate looks at a run, and {what} is none")
    else:
        found = _inspect_source(what, gallery, gallery_size)
    if json_file:
        write_text_atomically(json_file, json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n")
    return found


def _check(gallery: Path | None, json_file: Path | None, require: Sequence[str]) -> None:
    if gallery:
        check_picture(gallery)
    if json_file and json_file.is_dir():
        raise UserError(f"--json {json_file} is a folder; give a file")
    for name in require:
        if name not in FIGURES:
            raise UserError(f"--require {name} is none of {', '.join(FIGURES)}")


def _inspect_maps(
    folder: Path,
    source_name: str | None,
    gallery: Path | None,
    gallery_size: int,
    limit: int,
    device: str,
    require: Sequence[str],
    quiet: bool,
) -> Inspection:
    with user_errors():
        table, manifest = SaliencyTable(folder), read_manifest(folder)
        source = source_of_maps(table, source_name)
    if require and (source is None or not source.has_masks):
        why = "its images are not at hand: give --source" if source is None else f"{source.name} has no masks or boxes"
        raise UserError(f"--require can't judge {folder}: {why}")
    facts, numbers = _describe_maps(table, manifest)
    if source is None and gallery:
        raise UserError(f"--gallery needs the images of {folder}, which are not at hand: give --source")
    if source is None:
        facts["images"] = "not at hand: give --source to draw a gallery or judge the maps"
    judgement = judge_maps(table, source, limit=limit, device=device, quiet=quiet)
    if require and not judgement.judged:
        raise UserError(f"--require can't judge {folder}: none of {judgement.seen} pairs has a true mask")
    if source is not None and source.has_masks:
        facts["judged pairs"] = f"{judgement.judged} of {judgement.seen}, {judgement.images} images"
    facts |= judgement.facts()
    if gallery and source is not None and len(table):
        pairs, rows = joined_pairs(table, source)
        drawn = draw_maps(gallery, source, table, rows, pairs, size=gallery_size, scores=judgement.per_pair)
        facts["gallery"], numbers["gallery"] = _named(drawn), [str(path) for path in drawn]
    return Inspection("maps", facts, numbers, judgement)


def _describe_maps(table: SaliencyTable, manifest: Manifest | None) -> tuple[dict[str, str], dict[str, Any]]:
    """How the maps were made and how many there are, as text and as plain values."""
    made = table.metadata
    numbers: dict[str, Any] = {"maps": len(table), "grid": [table.grid, table.grid], "made_with": made}
    facts = {
        "maps": str(len(table)),
        "grid": f"{table.grid}×{table.grid}",
        "clip": " ".join(str(made[key]) for key in ("clip", "pretrained") if made.get(key)),
        "method": f"{made['method']} at {made.get('layer')}",
        "methods compared": COMPARED,
    }
    if manifest:
        facts["pairs"] = f"{manifest.taken} in = {manifest.written} written + {manifest.rejected} rejected"
        numbers |= {"pairs": {"in": manifest.taken, "written": manifest.written, "rejected": manifest.rejected}}
    if len(table):
        scores, empty = table.clip_scores, int((table.strengths <= 0).sum())
        facts["cos(image, caption)"] = f"{scores.mean():.3f} ± {scores.std():.3f} (deviation)"
        facts["empty maps"] = f"{empty} ({empty / len(table):.1%})"
        numbers |= {"clip_score": {"mean": float(scores.mean()), "deviation": float(scores.std())}, "empty": empty}
    return facts, numbers


def _inspect_gate(
    run: RunFolder, source_name: str | None, gallery: Path | None, gallery_size: int, limit: int, device: str
) -> Inspection:
    """A run and what its gate scores."""
    facts, numbers = describe_run(run)
    origin = run.config()["options"]
    names = () if source_name else ("split", "image_column", "caption_column", "captions", "limit")
    source = open_source(source_name or origin["source"], **{name: origin[name] for name in names})
    if isinstance(source, StreamSource):
        raise UserError(f"{source.name} is a stream; give --source with images that can be read in any order")
    seen, counted, judgement = inspect_gate(
        run, source, gallery=gallery, gallery_size=gallery_size, limit=limit, device=device
    )
    return Inspection("run", facts | seen, numbers | counted, judgement)


def _inspect_source(what: str, gallery: Path | None, gallery_size: int) -> Inspection:
    source = open_source(what)
    facts, numbers = describe_source(source)
    if gallery and not isinstance(source, StreamSource):
        drawn = draw_source(gallery, source, size=gallery_size)
        facts["gallery"], numbers["gallery"] = _named(drawn), [str(path) for path in drawn]
    return Inspection("source", facts, numbers)


def _named(paths: Sequence[Path]) -> str:
    return ", ".join([str(paths[0]), *(path.name for path in paths[1:])])
