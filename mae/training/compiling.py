"""``torch.compile`` for the training step: forward, loss and backward of the model, with static shapes.

The model is compiled in place: its weights, their names and its other methods stay as they are, so checkpoints do not
know of it, and what wraps the model wraps it as ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def compile_in_place(model: nn.Module, device: torch.device) -> None:
    """Calls of ``model`` are compiled from now on, at the first one; ValueError if this machine has no compiler."""
    try:
        torch.compile(torch.sin)(torch.zeros(8, device=device))
    except Exception as error:  # whatever the compilers of this machine, or their absence, raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"--compile can't compile anything here ({reason[:150]}); leave it out") from error
    model.compile(dynamic=False)


@contextmanager
def eager(wanted: bool = True) -> Iterator[None]:
    """Within it what is compiled runs as if it were not: for shapes that are not worth a compilation of their own."""
    if not wanted:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
