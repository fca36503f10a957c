"""Splits of a source by the names of its files and folders: ``train``, ``val``, ``test``, in their usual spellings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pipelines.errors import UserError
from pipelines.sources.tables.columns import Wishes

_SPLITS = {
    "train": "train", "training": "train", "val": "validation", "valid": "validation", "validation": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip


def are_splits(names: Sequence[str]) -> bool:
    """Whether these are names of splits, all of them."""
    return all(name.lower() in _SPLITS for name in names)


def one_split(spec: str, paths: Sequence[Path], wishes: Wishes) -> list[Path]:
    """The paths of the wished split; all of them where their names tell of at most one."""
    splits = [_split_of(path) for path in paths]
    known = sorted({split for split in splits if split is not None})
    if wishes.split is not None:
        wished = _SPLITS.get(wishes.split.lower(), wishes.split)
        chosen = [path for path, split in zip(paths, splits, strict=True) if split == wished]
        if not chosen:
            has = f"the splits {', '.join(known)}" if known else "no splits"
            raise UserError(f"{spec} has no split {wishes.split!r}: it has {has}")
        return chosen
    if len(known) > 1 and None not in splits:
        raise UserError(f"{spec} holds the splits {', '.join(known)}: name one with --split")
    return list(paths)


def _split_of(path: Path) -> str | None:
    """The split that a file or folder is named after: ``train``, ``train-00000-of-00002``, ``cc3m-train-0000``."""
    for name in (path.stem, path.parent.name):
        found = [_SPLITS[word] for word in re.findall("[a-z]+", name.lower()) if word in _SPLITS]
        if found:
            return found[0]
    return None
