"""``croissant.json`` of a published table: its files, columns and citation as machines read them.

The format is Croissant 1.1 (https://docs.mlcommons.org/croissant/). Files are found by their place in the repository,
so that the same description serves the Hub and a copy of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from saliency.table.card import CardFacts, citation, keywords, summary
from saliency.table.columns import COLUMNS, PREVIEW, Column
from saliency.table.shard import slots_of, version_of

NAME = "croissant.json"

_PARQUET = "application/x-parquet"
_TERMS = (
    *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileProperty"),
    *("fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5"),
    *("parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator"),
    *("source", "subField", "transform"),
)
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{term: f"cr:{term}" for term in _TERMS},
}


@dataclass(frozen=True)
class PublishedFile:
    """A Parquet file by its path in the repository, ``data/…`` or ``preview/…``, with its hash and size in bytes."""

    path: str
    sha256: str
    size: int


def croissant(facts: CardFacts, files: Sequence[PublishedFile]) -> dict[str, Any]:
    """The description of a table whose card says ``facts``, as plain values that ``json`` writes.

    The version is that of the schema with a hash of the files: two versions are equal if their files are.
    """
    digest = hashlib.sha256("".join(f"{file.path} {file.sha256}\n" for file in files).encode()).hexdigest()
    grid, slots = int(facts.settings["grid"]), slots_of(facts.settings)
    sets = {"maps": ("data", COLUMNS), "preview": ("preview", PREVIEW)}
    there = {name: rows for name, rows in sets.items() if any(file.path.startswith(f"{rows[0]}/") for file in files)}
    licence = {} if facts.licence == "other" else {"license": facts.licence}
    return {
        "@context": deepcopy(_CONTEXT),  # readers change it in place
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": facts.name,
        "description": summary(facts),
        "url": facts.url,
        "version": f"{version_of(slots)['schema_version']}.0.0+{digest[:12]}",
        "citeAs": citation(facts),
        "keywords": keywords(facts),
        **licence,
        "distribution": [*_distribution(facts, there, files)],
        "recordSet": [_records(name, columns, grid, slots) for name, (_, columns) in there.items()],
    }


def _distribution(
    facts: CardFacts, sets: dict[str, tuple[str, tuple[Column, ...]]], files: Sequence[PublishedFile]
) -> Iterable[dict[str, Any]]:
    repository = {
        "@type": "cr:FileObject",
        "@id": "repository",
        "name": "repository",
        "description": "The repository on the Hugging Face Hub.",
        "contentUrl": f"{facts.url}/tree/main",
        "encodingFormat": "git+https",
        "sha256": "https://github.com/mlcommons/croissant/issues/80",  # the Hub's own way to say that there is none
    }
    yield repository
    inside = {"containedIn": {"@id": repository["@id"]}, "encodingFormat": _PARQUET}
    for name, (folder, _) in sets.items():
        told = {"@id": f"{name}-files", "name": f"{name}-files", "description": f"The Parquet files of {name}."}
        yield {"@type": "cr:FileSet", **told, **inside, "includes": f"{folder}/*.parquet"}
    for file in files:
        told = {"@id": file.path, "name": file.path, "contentUrl": file.path, "contentSize": f"{file.size} B"}
        yield {"@type": "cr:FileObject", **told, **inside, "sha256": file.sha256}


def _records(name: str, columns: Iterable[Column], grid: int, slots: int) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "key": [{"@id": f"{name}/key"}, {"@id": f"{name}/caption"}],
        "field": [_field(name, column, grid, slots) for column in columns],
    }


def _field(name: str, column: Column, grid: int, slots: int) -> dict[str, Any]:
    source: dict[str, Any] = {"fileSet": {"@id": f"{name}-files"}, "extract": {"column": column.name}}
    if column.croissant == "sc:ImageObject":
        source["transform"] = {"jsonPath": "bytes"}
    lists = {"isArray": True, "arrayShape": column.size(grid, slots)} if column.length else {}
    return {
        "@type": "cr:Field",
        "@id": f"{name}/{column.name}",
        "name": column.name,
        "description": column.told(grid, slots),
        "dataType": column.croissant,
        "source": source,
        **lists,
    }
