"""The files that a text with braces and wildcards names, as in a shell."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path

from pipelines.errors import UserError

_MOST_FILES = 1_000_000


def expand(spec: str) -> list[Path]:
    """The files that a pattern with braces and wildcards names: braces in their order, a wildcard's files sorted."""
    files: list[Path] = []
    missing = []
    for pattern in expand_braces(spec):
        if Path(pattern).is_file():
            files.append(Path(pattern))
            continue
        found = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 (takes a whole path)
        files += [path for path in found if path.is_file()]
        if not found:
            missing.append(pattern)
    if not files:
        raise UserError(f"{spec} matches no file")
    if missing:
        raise UserError(f"{spec}: {len(missing)} of its files do not exist, the first is {missing[0]}")
    return files


def expand_braces(pattern: str) -> Iterator[str]:
    """The texts that a pattern stands for, as in a shell: ``{a,b}``, ``{0..12}``, ``{000..012}``; not nested."""
    found = re.search(r"\{([^}]*)\}", pattern)
    if found is None:
        yield pattern
        return
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    if ends is not None:
        first, last = int(ends[1]), int(ends[2])
        if abs(last - first) >= _MOST_FILES:
            raise UserError(f"{pattern}: {found[0]} stands for more than {_MOST_FILES} files")
        width = max(map(len, ends.groups())) if any(end[0] == "0" < end for end in ends.groups()) else 0
        step = 1 if first <= last else -1
        middles = [str(number).zfill(width) for number in range(first, last + step, step)]
    elif "," in found[1] and "{" not in found[1]:
        middles = found[1].split(",")
    else:
        raise UserError(f"{pattern}: {found[0]} is no range; write {{00000..00012}} or {{a,b}}")
    rests = list(expand_braces(pattern[found.end() :]))
    for middle in middles:
        for rest in rests:
            yield pattern[: found.start()] + middle + rest
