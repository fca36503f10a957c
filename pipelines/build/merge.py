"""``merge``: the parts of a job array become one maps folder, byte-identical to that of a single run.

Nothing is moved: the parts wrote their shards where they belong. What is checked is that every shard is there, whole,
and made with the same settings; then one manifest takes the place of the parts' own.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipelines.build.shard_plan import Plan
from pipelines.errors import UserError, user_errors
from saliency.table.manifest import NAME, Manifest, Shard, part_manifests, read_manifest


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
    plan = Plan(first.settings["pairs"], first.settings["shard_size"])
    absent = [name for name in map(plan.name, plan.own()) if name not in shards]
    if absent or len(shards) != plan.count:
        raise UserError(f"{folder}: {len(absent)} of {plan.count} shards are in no part, first: {absent[:1]}")
    for shard in shards.values():
        path = folder / "data" / shard.file
        if not path.exists():
            raise UserError(f"{path} is missing, although its part is done; copy it here, or build that part again")
        if hashlib.sha256(path.read_bytes()).hexdigest() != shard.sha256:
            raise UserError(f"{path} is damaged: its sha256 is not its manifest's; delete it and build that part again")
        if shard.rejected and not (folder / "rejected" / f"{path.stem}.jsonl").exists():
            raise UserError(f"{folder / 'rejected' / path.stem}.jsonl is missing, although {shard.file} rejected pairs")
    return Manifest(first.settings, first.origin, [shards[name] for name in sorted(shards)], complete=True, name=NAME)


def _check_parts(folder: Path, parts: list[Manifest]) -> None:
    """UserError naming the parts that are absent or unfinished."""
    wanted = int(parts[0].name.removesuffix(".json").rpartition("-")[2])
    there = {int(part.name.split("-")[1]): part for part in parts}
    absent = [number for number in range(1, wanted + 1) if number not in there]
    unfinished = [number for number, part in there.items() if not part.complete]
    if not absent and not unfinished:
        return
    lists = (("absent", absent), ("unfinished", unfinished))
    wrong = "; ".join(f"{what}: {', '.join(map(str, numbers))}" for what, numbers in lists if numbers)
    number = (absent or unfinished)[0]
    raise UserError(
        f"{folder} lacks parts of {wanted} ({wrong}); run build-saliency --shard {number}/{wanted}, then merge again"
    )
