"""How many floating-point operations a training step needs, and how many a device can do: MFU is their ratio.

Counted are the products of matrices, from the model's dimensions, at two operations a multiply-add, and the backward
pass as two forward passes (Kaplan et al. 2020, arXiv 2001.08361, and Chowdhery et al. 2022, arXiv 2204.02311, who named
model FLOPs utilisation). It is the work that the step here does: hidden patches are not embedded, visible ones are not
predicted unless the loss asks for it. What a kernel does twice to save memory is not counted.
"""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mae.masks.decoded import decoded_count
from mae.models.blocks import Block
from mae.models.linear import linear
from mae.models.mask import hidden_count
from mae.models.vit import MaskedAutoencoder

_PEAKS: dict[str, tuple[float, float]] = {
    "V100": (0.0, 15.7),
    "T4": (0.0, 8.1),
    "A10": (125.0, 31.2),
    "A10G": (70.0, 31.5),
    "A30": (165.0, 10.3),
    "A40": (149.7, 37.4),
    "A100": (312.0, 19.5),
    "L4": (121.0, 30.3),
    "L40": (181.0, 90.5),
    "L40S": (362.0, 91.6),
    "H100 PCIe": (756.0, 51.2),
    "H100 NVL": (835.0, 60.0),
    "H100": (989.0, 66.9),
    "H200 NVL": (835.0, 60.0),
    "H200": (989.0, 66.9),
    "GH200": (989.0, 66.9),
    "B200": (2250.0, 75.0),
    "RTX 3090": (71.0, 35.6),
    "RTX 4090": (165.2, 82.6),
    "RTX 5090": (209.5, 104.8),
    "RTX A6000": (154.8, 38.7),
    "RTX 6000 Ada": (364.2, 91.1),
}
"""TFLOP/s from the makers' data sheets: dense bfloat16 with float32 sums, and float32 without TF32. 0 where there is
no bfloat16. The names are looked for in what the driver calls the device, the longest first."""

_OTHERS = re.compile(r"\b(Laptop|Max-Q|Ti|SUPER|D|MIG)\b")
"""Devices of a known name that are something else, or a part of one."""


class Peak(NamedTuple):
    """The most a device can do."""

    flops: float
    """Per second."""
    origin: str
    """``table``: of the maker's data sheet; ``measured``: here, by one large product."""


def training_flops(
    model: MaskedAutoencoder,
    mask_ratio: float,
    decode_ratio: float = 1.0,
    grid: tuple[int, ...] | None = None,
    *,
    hidden: int | None = None,
    predict_visible: bool = False,
) -> int:
    """FLOPs of the forward and backward pass of one image, with this share of its patches hidden.

    ``decode_ratio`` is the share of the hidden ones that is decoded, ``grid`` the image's, if it is not the model's,
    ``hidden`` their number, where it does not follow from the ratio. ``predict_visible``: the loss is on visible
    patches as well.
    """
    patches = math.prod(grid or model.grid)
    hidden = hidden_count(patches, mask_ratio) if hidden is None else hidden
    visible, decoded = patches - hidden, decoded_count(hidden, decode_ratio)
    pixels, width, decoder_width = (
        len(model.decoder_pred.weight),
        model.pos_embed.shape[2],
        model.mask_token.shape[2],
    )
    seen, tokens = model.class_tokens + visible, model.class_tokens + visible + decoded
    *others, last = model.decoder_blocks
    forward = sum(_multiply_adds(block, seen, seen) for block in model.blocks)
    forward += seen * width * decoder_width
    forward += sum(_multiply_adds(block, tokens, tokens) for block in others)
    predicted = decoded + visible * predict_visible
    forward += _multiply_adds(last, tokens, predicted)  # the last block has outputs for these alone
    forward += predicted * decoder_width * pixels
    embedding = visible * pixels * width  # has no gradient towards the pixels
    return 2 * (3 * forward + 2 * embedding)


def flop_counter() -> FlopCounterMode:
    """Counts what is computed inside it, as torch does: matrix products and attention. ``get_total_flops`` tells.

    Torch's own counter knows nothing of oneDNN's products (``mae.models.linear``), and torch 2.6 nothing of attention
    on a CPU. This one counts them as well.
    """
    mapping = dict[Any, Callable[..., int]]()
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        mapping[torch.ops.mkldnn._linear_pointwise] = _product_flops
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    mapping[attention] = lambda *shapes, **_: sdpa_flop_count(*shapes[:3])  # type: ignore[no-untyped-call]
    mapping[backward] = lambda *shapes, **_: sdpa_backward_flop_count(*shapes[:4])  # type: ignore[no-untyped-call]
    return FlopCounterMode(display=False, custom_mapping=mapping)


def _product_flops(a: Sequence[int], b: Sequence[int], *_: Any, **__: Any) -> int:
    """Of a [R, K] · b [N, K]ᵀ, by their shapes."""
    return 2 * math.prod(a) * b[0]


def peak_flops(device: torch.device | str, precision: str) -> Peak | None:
    """The peak of a device in ``fp32`` or ``bf16``; None for a GPU that is not in the table.

    That of a CPU is measured, with the threads that torch has, and takes some tenths of a second the first time.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return table_peak(torch.cuda.get_device_name(device), precision)
    if device.type == "cpu":
        return Peak(_measured(precision, torch.get_num_threads()), "measured")
    return None


def table_peak(name: str, precision: str) -> Peak | None:
    """The peak of the GPU that its driver calls ``name``."""
    if _OTHERS.search(name):
        return None
    for known in sorted(_PEAKS, key=len, reverse=True):
        if re.search(r"\b" + r"\b.*\b".join(known.split()) + r"\b", name):
            teraflops = _PEAKS[known][0 if precision == "bf16" else 1]
            return Peak(teraflops * 1e12, "table") if teraflops else None
    return None


def _multiply_adds(block: nn.Module, tokens: int, outputs: int) -> int:
    """Of the forward pass of a block of so many tokens that has so many outputs."""
    hidden, width = cast(Block, block).mlp.fc1.weight.shape
    projections = tokens * 3 * width**2 + outputs * width**2
    return projections + 2 * tokens * outputs * width + 2 * outputs * width * hidden


@functools.cache
def _measured(precision: str, threads: int) -> float:
    """FLOPs a second of a product of 1024 × 1024 matrices, the best of some."""
    side, best = 1024, float("inf")
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(2, side, side).to(dtype)
    with torch.inference_mode():
        for _ in range(10):
            started = time.perf_counter()
            linear(a, b)
            best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best
