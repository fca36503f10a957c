"""In which precision a model computes: float32, or bfloat16 where its products allow it.

A GPU computes products of float32 on its tensor cores if their factors may be rounded to TF32, ten bits of mantissa
instead of 23, while sums stay float32. Models that only look (evaluation, features, reconstruction) may do so; what
compares and ranks, and pretraining, does not. TF32 gives the same bits every time, with deterministic algorithms or
without them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` made definite for a device; ValueError for bf16 where there is none."""
    has_bf16 = device.type == "cpu" or (
        device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    if precision == "bf16" and not has_bf16:
        raise ValueError(f"--precision bf16: {device} has no bfloat16; use fp32")
    if precision == "auto":
        return "bf16" if device.type == "cuda" and has_bf16 else "fp32"
    return precision


@contextmanager
def rounded(precision: str, device: torch.device) -> Iterator[None]:
    """Within it products are in bfloat16 if ``precision`` is bf16, else in float32, on a GPU of TF32 factors."""
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"), _tf32(device.type == "cuda"):
        yield


@contextmanager
def unrounded(device: torch.device) -> Iterator[None]:
    """Within it products are in full float32, for what ranks and compares."""
    with torch.autocast(device.type, enabled=False), _tf32(False):
        yield


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
