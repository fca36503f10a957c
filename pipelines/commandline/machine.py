"""What a command settles by the machine it runs on, where the user does not say: device, precision, workers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pipelines.commandline.option import declared_options
from pipelines.errors import UserError


def usable_device(name: str | None) -> str:
    """The device asked for, or the best there is; UserError if it is not there."""
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} can't be used here: {str(error).splitlines()[0]}") from error
    return name


def usable_precision(precision: str, device: str) -> str:
    """``auto`` made definite for a device: fp32 or bf16; UserError for one that it does not have."""
    import torch

    from mae.precision import resolve_precision

    try:
        return resolve_precision(precision, torch.device(device))
    except ValueError as error:
        raise UserError(str(error)) from error


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2


def half_the_cores(processes: int = 1) -> int:
    """Workers of each of several processes on this machine, 1 to 16."""
    return max(1, min(16, usable_cores() // 2 // processes))


def settled_options(kind: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an options dataclass that the machine settles, where ``given`` has none; UserError as above."""
    options, found = {each.name: each for each in declared_options(kind)}, dict[str, Any]()
    if "workers" in options and options["workers"].option.settled and given.get("workers") is None:
        found["workers"] = half_the_cores(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if given.get("engine") == "ray":  # on other machines, which know best what they have
        found["device"] = given.get("device") or "auto"
    elif "device" in options and (given.get("device") or options["device"].default):
        found["device"] = usable_device(given.get("device"))  # a default of None is the pipeline's to settle
    return found
