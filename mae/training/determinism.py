"""Deterministic mode: the same machine, versions and settings give the same bits, on a GPU too, if more slowly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class NotDeterministicError(ValueError):
    """An operation of the training has no deterministic form on this device."""


@contextmanager
def deterministic(wanted: bool = True) -> Iterator[None]:
    """Within it torch takes deterministic algorithms only; what was set before comes back after it.

    NotDeterministicError where an operation has none on this device. cuBLAS reads its setting once, when a process
    first uses it: enter this before any work on a GPU.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = " ".join(str(error).split()).partition(". ")[0][:200]
        raise NotDeterministicError(f"--deterministic can't be had here: {reason}") from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
