"""The card of a published saliency table: its README on the Hub, from plain facts and nothing else.

The YAML on top tells the Hub and ``datasets`` what the files are; the text says what a row is, how the maps were made,
to the flag, how good they were found to be, whose rights are touched, and what maps of a CLIP can't be trusted with.
No path of the publisher's machine gets into it: ``without_folders`` is applied to whatever was given.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saliency import __version__
from saliency.shown import code_span, markdown, markdown_table, one_line
from saliency.table.columns import column_rows
from saliency.table.imported import are_true_masks, is_imported, is_motion, kind_of_maps, without_clip
from saliency.table.shard import slots_of

TAGS = ("saliency-mae", "saliency", "clip", "masked-autoencoder")
"""The first is on the card of every published table; without it a dataset on the Hub is not overwritten."""

_SIZES = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"), (10**9, "100M<n<1B"),
)  # fmt: skip
_FLAGS = {
    "clip": "--clip", "pretrained": "--pretrained", "method": "--method", "grid": "--grid", "image_size": "--clip-size",
    "tiles": "--tiles", "slots": "--slots", "precision": "--precision", "fit": "--fit", "shard_size": "--shard-size",
    "captions": "--captions", "limit": "--limit", "split": "--split", "image_column": "--image-column",
    "caption_column": "--caption-column",
}  # fmt: skip
_IMPORT_FLAGS = {
    "imported_from": "--from", "grid": "--grid", "made_by": "--made-by", "key_column": "--key-column",
    "map_column": "--map-column", "array": "--array", "units": "--units", "sigma": "--sigma",
    "off_picture": "--off-picture", "shard_size": "--shard-size", "captions": "--captions", "limit": "--limit",
    "split": "--split", "image_column": "--image-column", "caption_column": "--caption-column",
}  # fmt: skip
_SOFTWARE = {
    "title": "saliency-mae: saliency maps for image-caption pairs, and masked autoencoders that use them",
    "author": "The saliency-mae authors",
    "version": __version__,
}
_TITLES = {"figures": "Against true masks", "differences": "The maps minus each control"}
_FOLDERS = re.compile(r"(?<![\w:/.~-])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\:'\"()]+[/\\]+)*(?=[^\s/\\:'\"()])")


@dataclass(frozen=True)
class CardFacts:
    """What a card is made from. ``settings`` and ``origin`` are the manifest's.

    ``from_hub``: the source is a Hub dataset, not a place on the publisher's machine; ``drawn``: it is scenes that this
    library draws. ``preview``: pictures in the
    preview, 0 for none; ``pixels``: what they show of the images: ``none``, ``photos`` or ``scenes``, those that this
    library draws. ``licence``: of the maps, as the Hub spells it. ``quality``: what ``inspect --json`` wrote.
    """

    name: str
    settings: Mapping[str, Any]
    origin: Mapping[str, Any]
    from_hub: bool
    written: int
    rejected: int
    shards: int
    drawn: bool = False
    preview: int = 0
    pixels: str = "none"
    licence: str = "other"
    quality: Mapping[str, Any] | None = None

    @property
    def url(self) -> str:
        """Where the dataset is on the Hub."""
        return f"https://huggingface.co/datasets/{self.name}"


def dataset_card(facts: CardFacts) -> str:
    """The whole README.md: YAML between ``---`` lines, then Markdown."""
    sections = {
        "": f"# {facts.name}\n\n{summary(facts)}",
        "How to load them": _loading(facts),
        "What a row is": "\n".join(markdown_table(column_rows(int(facts.settings["grid"]), slots_of(facts.settings)))),
        "How they were made": _making(facts),
        "How good they are": _quality(facts.quality),
        "Licence": _licence(facts),
        "Limits": _limits(facts),
        "Citation": f"```bibtex\n{citation(facts)}\n```",
    }
    body = "\n\n".join(f"## {title}\n\n{text}" if title else text for title, text in sections.items())
    return f"---\n{_yaml(facts)}\n---\n\n{body}\n"


def summary(facts: CardFacts) -> str:
    """What the dataset is, in a few sentences."""
    source = code_span(facts.origin.get("source", "unknown"))
    rejected = f" ({facts.rejected:,} more pairs were rejected)" if facts.rejected else ""
    return (
        f"{facts.written:,} saliency maps, one for each image–caption pair of {source}{rejected}. {_shows(facts)} The "
        "maps are made for masked autoencoders that choose what they hide. Maps are joined to images by `key` and "
        "`caption`."
    )


def keywords(facts: CardFacts) -> list[str]:
    """The tags of the dataset."""
    imported, no_clip = is_imported(facts.settings), without_clip(facts.settings)
    method = "imported" if imported else str(facts.settings.get("method", ""))
    return [*(tag for tag in TAGS if not (no_clip and tag == "clip")), *([method] if method else [])]


def citation(facts: CardFacts) -> str:
    """BibTeX of the dataset and of the software that made it."""
    owner, _, name = facts.name.partition("/")
    title = f"{facts.written} saliency maps: {facts.name}"
    dataset = {"title": title, "author": owner, "howpublished": facts.url}
    return "\n\n".join(
        [_bibtex("misc", re.sub(r"\W+", "-", name), dataset), _bibtex("software", "saliency-mae", _SOFTWARE)]
    )


def _bibtex(kind: str, key: str, values: Mapping[str, str]) -> str:
    fields = (
        f"  {name} = {{\\url{{{value}}}}}" if name == "howpublished" else f"  {name} = {{{{{_latex(value)}}}}}"
        for name, value in values.items()
    )
    return f"@{kind}{{{key},\n" + ",\n".join(fields) + "\n}"


def _latex(text: str) -> str:
    return text.replace("_", r"\_")


def without_folders(value: Any) -> Any:
    """A value, or all in a dict or list, whose absolute paths are cut to their last part: /home/me/x.tar → x.tar."""
    if isinstance(value, Mapping):
        return {str(name): without_folders(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    if not isinstance(value, str):
        return value
    prefix, colon, path = value.partition("local-dir:")
    if colon and not prefix:
        return "local-dir:" + last_part(path)
    return _FOLDERS.sub("", value)


def last_part(place: str) -> str:
    """The last part of a path, whether it is absolute or not; shapes:… and plain names stay."""
    parts = [part for part in re.split(r"[/\\]+", place) if part not in ("", ".", "..", "~")]
    return parts[-1] if parts else "."


def build_command(settings: Mapping[str, Any], origin: Mapping[str, Any]) -> str:
    """The ``mae-cli`` line that makes these maps, with every option that decides them."""
    imported = is_imported(settings)
    command, flags = ("import-maps", _IMPORT_FLAGS) if imported else ("build-saliency", _FLAGS)
    words = ["mae-cli", command, str(origin.get("source", "SOURCE")), "--out", "maps/"]
    known = {**{name: origin.get(name) for name in flags}, **{k: v for k, v in settings.items() if k in flags}}
    if known.get("clip") == "demo":  # the shipped one, which is the default for the built-in scenes
        known |= {"clip": None, "pretrained": None}
    if is_motion(settings):
        known["clip"] = None
    for name, flag in flags.items():
        if known.get(name) is not None:
            words += [flag, str(known[name])]
    if "slots" in settings:
        words += ["--clip-maps", "per-slot"]
    if origin.get("clips"):
        words.append("--clips")
    return shlex.join(map(one_line, words))


def _yaml(facts: CardFacts) -> str:
    from huggingface_hub import DatasetCardData

    configs: list[dict[str, Any]] = [{"config_name": "maps", "default": True, "data_files": _files("data")}]
    if facts.preview:
        configs.append({"config_name": "preview", "data_files": _files("preview")})
    source = str(facts.origin.get("source", ""))
    data = DatasetCardData(
        license=facts.licence,
        pretty_name=f"Saliency maps of {source}",
        task_categories=["image-feature-extraction"],
        size_categories=[next((name for most, name in _SIZES if facts.written < most), "n>1B")],
        source_datasets=[source] if facts.from_hub else None,
        tags=keywords(facts),
        configs=configs,
    )
    return str(data.to_yaml()).strip()


def _files(folder: str) -> list[dict[str, str]]:
    return [{"split": "train", "path": f"{folder}/train-*.parquet"}]


def _shows(facts: CardFacts) -> str:
    if is_motion(facts.settings):
        return "A map shows which parts of a video move against the camera. No CLIP computed them."
    if not is_imported(facts.settings):
        return "A map shows which parts of the image a CLIP uses to compare it with the caption."
    what, place = kind_of_maps(facts.settings), code_span(facts.settings.get("imported_from", "unknown"))
    by = facts.settings.get("made_by")
    made = f" They were made by {markdown(by)}." if by else ""
    found = "of the images themselves" if are_true_masks(facts.settings) else f"in {place}"
    return f"The maps were not computed by a CLIP: they were imported from {what} {found}.{made}"


def _loading(facts: CardFacts) -> str:
    grid, slots = int(facts.settings["grid"]), slots_of(facts.settings)
    shape = f"({grid}, {grid})" if slots == 1 else f"({slots}, {grid}, {grid})"
    preview = f'\npictures = load_dataset("{facts.name}", "preview", split="train")' if facts.preview else ""
    return (
        "```python\nimport numpy as np\nfrom datasets import load_dataset\n\n"
        f'maps = load_dataset("{facts.name}", split="train"){preview}\nrow = maps[0]\n'
        f'raw = row["vmin"] + row["scale"] * np.reshape(row["saliency"], {shape}) / 255\n```\n\n'
        "If you have the images, `mae-cli` (Python package saliency-mae) checks the join and trains with it:\n\n"
        f"```bash\nmae-cli verify {facts.name} IMAGES\n"
        f"mae-cli pretrain IMAGES --saliency {facts.name} --salient-ratio 0.25 --out run/\n```"
    )


def _making(facts: CardFacts) -> str:
    rows = [[markdown(name), code_span(value)] for name, value in facts.settings.items() if value is not None]
    where = (
        "a dataset on the Hub"
        if facts.from_hub
        else "a folder or file of the publisher, of which only the name is shown"
    )
    if facts.drawn:
        where = "scenes that saliency-mae draws"
    return (
        f"```bash\n{build_command(facts.settings, facts.origin)}\n```\n\nThe source is {where}. Pairs in = written + "
        f"rejected: {facts.written + facts.rejected:,} = {facts.written:,} + {facts.rejected:,}, in {facts.shards} "
        f"file{'s' if facts.shards != 1 else ''}. `manifest.json` lists their SHA-256. All settings that determine the "
        f"maps:\n\n{_table(['setting', 'value'], rows)}"
    )


def _quality(quality: Mapping[str, Any] | None) -> str:
    if not quality:
        return (
            "Not scored: no figures were given when the maps were published. `mae-cli inspect` scores maps of "
            "images with "
            "true masks. Until then it is not known whether they find what the captions name."
        )
    facts, tables = _sorted_out(quality)
    parts = ["These are the figures of `mae-cli inspect`, with 95 % intervals where there are any:"]
    if "figures" in quality and "figures" not in tables:
        parts = [
            "There were no true masks, so it is not known whether the maps find what the captions name. Statistics:"
        ]
    for title, rows in tables.items():
        columns = list(dict.fromkeys(name for row in rows.values() for name in row))
        lines = [[_shown(name), *(row.get(column, "—") for column in columns)] for name, row in rows.items()]
        parts.append(f"{_TITLES.get(title, _shown(title))}:\n\n{_table(['', *map(_shown, columns)], lines)}")
    if facts:
        parts.append(_table(["", ""], list(facts.items())))
    return "\n\n".join(parts)


def _sorted_out(quality: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, dict[str, dict[str, str]]]]:
    """Single facts, and tables: a dict of dicts of figures is one. What has another shape is left out."""
    facts: dict[str, str] = {}
    tables: dict[str, dict[str, dict[str, str]]] = {}
    for name, value in quality.items():
        cell = _cell(value)
        if cell is not None:
            facts[_shown(name)] = cell
        elif isinstance(value, Mapping):
            cells = {str(key): _cell(item) for key, item in value.items()}
            facts |= {f"{_shown(name)}: {_shown(key)}": text for key, text in cells.items() if text is not None}
            rows = {
                key: _cells(item) for key, item in value.items() if isinstance(item, Mapping) and cells[key] is None
            }
            if any(rows.values()):
                tables[name] = {key: row for key, row in rows.items() if row}
    return facts, tables


def _cells(row: Any) -> dict[str, str]:
    items = row.items() if isinstance(row, Mapping) else ()
    return {str(name): text for name, value in items if (text := _cell(value)) is not None}


def _cell(value: Any) -> str | None:
    """One figure in Markdown, None for what is no figure."""
    if isinstance(value, Mapping) and {"mean", "low", "high"} <= value.keys() and value["mean"] is not None:
        ends = value["low"], value["high"]
        return _number(value["mean"]) + (f" [{_number(ends[0])}, {_number(ends[1])}]" if None not in ends else "")
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _number(value) if isinstance(value, int | float) else markdown(value) if isinstance(value, str) else None


def _number(value: float) -> str:
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"


def _shown(name: str) -> str:
    """A name as words, in Markdown."""
    return markdown(str(name).replace("_", " "))


def _licence(facts: CardFacts) -> str:
    source = code_span(facts.origin.get("source", "unknown"))
    whole = "This dataset has keys, URLs, captions, sizes, hashes and maps."
    pixels = {
        "none": "It has no images, and the preview shows only maps." if facts.preview else "It has no images.",
        "photos": f"The preview shows {facts.preview:,} images of at most 256 pixels with their maps. They "
        "belong to their "
        "owners. The publisher has stated the right to show them (`--with-images`).",
        "scenes": "The images of the preview are drawn by saliency-mae, and free to use.",
    }[facts.pixels]
    terms = f"The licence of the maps is {code_span(facts.licence)}."
    if facts.licence == "other":
        terms = "No licence was chosen for the maps. Ask their publisher."
    made = "computed from"
    if is_imported(facts.settings):
        made = f"imported from {code_span(facts.settings.get('imported_from', 'unknown'))} for"
    return (
        f"{whole} {pixels}\n\n{terms} They were {made} images and captions of {source}, whose terms may apply to "
        "them. Captions and URLs keep the licence of their source. Images belong to their owners: get them there."
    )


def _limits(facts: CardFacts) -> str:
    shows = (
        "A map shows what one CLIP attends to, with that model's biases about people, places and words; it is no "
        "ground truth and no mask of an object."
    )
    if is_motion(facts.settings):
        shows = "A map shows motion alone: what stands still is not in it."
    if is_imported(facts.settings):
        shows = "A map is as good as what it was imported from. It is the same for all captions of an image, unless "
        shows += "that had a map for each."
    return (
        f"- {shows}\n"
        f"- One cell covers {1 / int(facts.settings['grid']):.1%} of a side: smaller things are not resolved.\n"
        "- Captions collected from the web may be wrong or offensive, and so are the maps of them.\n"
        "- `key` is an id in the source as its publisher had it; where yours differ, join by `image_sha256` or `url`."
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(markdown_table([head, *rows]))
