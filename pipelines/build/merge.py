"""``merge``: the parts of a job array become one maps folder, byte-identical to that of a single run.

Nothing is moved: the parts wrote their shards where they belong. What is checked is that every shard is there, whole,
and made with the same settings; then one manifest takes the place of the parts' own.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipelines.build.shard_plan import plan_of
from pipelines.errors import UserError, user_errors
from saliency.files import open_regular
from saliency.table.manifest import NAME, Manifest, Shard, part_manifests, read_manifest

_MOST = 20  # parts that a message lists


def merge(folder: Path) -> Manifest:
    """Check a job array's parts in ``folder`` and join them; returns the manifest of the whole.

    Raises UserError that names what is missing, damaged or of other settings; then nothing is changed. A folder that
    is merged already is left as it is.
    """
    with user_errors():
        paths = part_manifests(folder)
        whole = read_manifest(folder)
        parts = [part for path in paths if (part := read_manifest(folder, path.name)) is not None]
    if whole is None and not parts:
        raise UserError(f"{folder} holds no parts of a job array; build-saliency --shard i/n makes them")
    if whole is not None and not whole.complete:
        raise UserError(
            f"{folder} is an unfinished run without --shard; finish it with the same build-saliency command"
        )
    if whole is None:
        whole = _join(folder, parts)
        whole.save(folder)
    for path in paths:  # also those that a merge killed at this very point has left
        path.unlink()
    return whole


def _join(folder: Path, parts: list[Manifest]) -> Manifest:
    first = parts[0]
    for part in parts:
        if part.settings != first.settings:
            names = sorted(name for name in first.settings if part.settings.get(name) != first.settings[name])
            raise UserError(f"{part.name} and {first.name} in {folder} have other settings: {', '.join(names)}")
    _check_parts(folder, parts)
    shards: dict[str, Shard] = {shard.file: shard for part in parts for shard in part.shards}
    with user_errors():
        plan = plan_of(first.settings)
    first_absent = next((name for name in map(plan.name, plan.own()) if name not in shards), None)
    if first_absent is not None or len(shards) != plan.count:
        there = f"{len(shards)} shards are there, and {plan.count} were to be made"
        raise UserError(f"{folder}: {there}, first in no part: {first_absent or 'none'}")
    for shard in shards.values():
        path = folder / "data" / shard.file
        if not path.exists():
            raise UserError(f"{path} is missing, although its part is done; copy it here, or build that part again")
        if _sha256(path) != shard.sha256:
            raise UserError(f"{path} is damaged: its sha256 is not its manifest's; delete it and build that part again")
        if shard.rejected and not (folder / "rejected" / f"{path.stem}.jsonl").exists():
            raise UserError(f"{folder / 'rejected' / path.stem}.jsonl is missing, although {shard.file} rejected pairs")
    return Manifest(first.settings, first.origin, [shards[name] for name in sorted(shards)], complete=True, name=NAME)


def _sha256(path: Path) -> str | None:
    """Of a file's bytes; None for what is no file that can be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _check_parts(folder: Path, parts: list[Manifest]) -> None:
    """UserError naming the parts that are absent or unfinished."""
    wanted = int(parts[0].name.removesuffix(".json").rpartition("-")[2])
    there = {int(part.name.split("-")[1]): part for part in parts}
    absent = [number for number in range(1, wanted + 1) if number not in there]
    unfinished = [number for number, part in there.items() if not part.complete]
    if not absent and not unfinished:
        return
    lists = (("absent", absent), ("unfinished", unfinished))
    wrong = "; ".join(f"{what}: {_listed(numbers)}" for what, numbers in lists if numbers)
    number = (absent or unfinished)[0]
    raise UserError(
        f"{folder} lacks parts of {wanted} ({wrong}); run build-saliency --shard {number}/{wanted}, then merge again"
    )


def _listed(numbers: list[int]) -> str:
    more = f" and {len(numbers) - _MOST} more" if len(numbers) > _MOST else ""
    return ", ".join(map(str, numbers[:_MOST])) + more
