"""How many patches make a file so many times as fast, measured on this machine: latency is stepwise in tokens.

It is measured on one thread, whose shortest time hardly depends on what else the machine does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mae.mask_learners.gate import Gate
from mae.models.vit import MaskedAutoencoder
from mae.on_device.conversion import quantised, to_onnx
from mae.on_device.extra import needs_extra
from mae.on_device.graph import DeviceEncoder
from mae.on_device.latency import shortest_times

_TRIED = 24
_SECONDS = 10.0


class _AnyNumber(nn.Module):
    """The work of a :class:`DeviceEncoder` with the patches to keep as an input, so that any number can be timed."""

    def __init__(self, encoder: DeviceEncoder) -> None:
        super().__init__()
        self.encoder, self.model = encoder, encoder.model

    def forward(self, image: Tensor, kept: Tensor) -> tuple[Tensor, ...]:
        """The class token, and the gate's scores, of images uint8 [B, H, W, 3] from the patches int64 [B, K]."""
        tokens, scores = self.encoder.encode(image, kept)
        found = (self.model.pooled(tokens, "cls"),)
        return found if scores is None else (*found, scores)


def patches_for_speed(
    model: MaskedAutoencoder, times: float, by: str, gate: Gate | None, *, int8: bool, opset: int | None = None
) -> tuple[int, dict[int, float]]:
    """The largest number of patches at which a file takes at most 1 / ``times`` of the time for all of them.

    With it the seconds that each number took that was tried. Of numbers on one step of latency that is the largest.
    ValueError where none is so fast.
    """
    every = int(np.prod(model.grid))
    times_of = time_patches(model, _tried(every), by, gate, int8=int8, opset=opset)
    fast = [count for count, seconds in times_of.items() if seconds * times <= times_of[every]]
    if not fast:
        least = min(times_of)
        reached = times_of[every] / times_of[least]
        raise ValueError(f"--keep {times:g}x: {least} of {every} patches are only {reached:.1f} times as fast here")
    return max(fast), times_of


def time_patches(
    model: MaskedAutoencoder, counts: Iterable[int], by: str, gate: Gate | None, *, int8: bool, opset: int | None = None
) -> dict[int, float]:
    """The seconds that one image takes with each of these numbers of patches, the choice included, shortest of many."""
    encoder = DeviceEncoder(model, 0.5, by, gate).eval()
    module = _AnyNumber(encoder).eval()
    image, kept = encoder.example(2)[0], torch.arange(3).expand(2, -1)
    with torch.no_grad():
        found = module(image, kept)
    batch, number = torch.export.Dim("batch"), torch.export.Dim("number")
    outputs = ("class_token", "gate_scores")[: len(found)]
    proto: Any = to_onnx(
        module, (image, kept), (("image", "kept_patches"), outputs), opset, ({0: batch}, {0: batch, 1: number})
    )
    proto = quantised(proto) if int8 else proto
    runtime = needs_extra("onnxruntime")
    try:
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = 1
        session = runtime.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValueError(f"the file does not open in onnxruntime {runtime.__version__}; try --opset 18") from error
    calls = {}
    for count in counts:
        given = {"image": image[:1].numpy(), "kept_patches": np.arange(count, dtype=np.int64)[None]}
        calls[count] = lambda given=given: session.run(None, given)
    return shortest_times(calls, rounds=60, seconds=_SECONDS)


def _tried(every: int) -> list[int]:
    """Numbers of patches from an eighth of them to all, evenly spaced."""
    return sorted({*np.linspace(max(1, every // 8), every, min(_TRIED, every)).round().astype(int).tolist()})
