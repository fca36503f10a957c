"""What a command settles by the machine it runs on, where the user does not say: the device, and the workers."""

from __future__ import annotations

import os

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


def half_the_cores(processes: int = 1) -> int:
    """Workers of each of several processes on this machine, 1 to 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(1, min(16, cores // 2 // processes))
