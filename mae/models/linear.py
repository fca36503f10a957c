"""Linear layers whose products go to the faster of the two libraries that torch has for them on a CPU.

In float32 torch asks MKL, which on AMD's processors leaves AVX-512 alone: oneDNN, which torch ships too and uses for
convolutions and bfloat16, was measured to be twice as fast there (``benchmarks/bench_step.py`` has a row for either).
The mathematics are the same, the last bits are not. Which library is asked follows from the processor alone, never
from a measurement, so that a run on one machine has the same bits every time.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """``nn.Linear`` by :func:`linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., N] of [..., K]."""
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``: x [..., K] · weight [N, K]ᵀ + bias [N], differentiable any number of times."""
    plain = x.device.type != "cpu" or x.dtype != torch.float32 or weight.dtype != torch.float32
    if plain or not ONEDNN or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    compiling = torch.compiler.is_compiling()
    if compiling and _is_exporting():
        return F.linear(x, weight, bias)  # an exported graph runs where neither this processor nor this package is
    if not compiling and torch._C._are_functorch_transforms_active():
        return F.linear(x, weight, bias)  # oneDNN's operation has no rules for vmap and forward derivatives
    rows = x.reshape(-1, x.shape[-1])
    eager = _Product.apply if torch.is_grad_enabled() else _multiply  # which costs a tenth of a millisecond less
    product: Tensor = (_opaque if compiling else eager)(rows, weight, bias)
    return product.view(*x.shape[:-1], len(weight))


def prefers_onednn() -> bool:
    """Whether this processor is one where oneDNN's products are known to beat MKL's: AMD's with AVX-512."""
    known = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]
    return known and torch.backends.cpu.get_cpu_capability() == "AVX512" and "AuthenticAMD" in _processor()


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open() as file:
            return file.read(4096)
    except OSError:  # not Linux; Windows names the maker here
        return platform.processor()


ONEDNN = prefers_onednn()
"""Whether float32 products on the CPU are oneDNN's; looked up once, for it is asked at every layer."""


# Before torch 2.7 nothing says so; there only an export compiles without dynamo.
_is_exporting = getattr(torch.compiler, "is_exporting", lambda: not torch.compiler.is_dynamo_compiling())


def _multiply(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """a [R, K] · b [N, K]ᵀ + bias [N], by oneDNN."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return product


class _Product(torch.autograd.Function):
    """:func:`_multiply` with gradients, which are such products again."""

    @staticmethod
    def forward(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        return _multiply(a, b, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return _gradients(_Product.apply, ctx, gradient)


# torch.compile has rules of its own for oneDNN's operation, made for weights that never change: to it, this is opaque.
_opaque = torch.library.custom_op("saliency_mae::product", _multiply, mutates_args=())
_opaque.register_fake(lambda a, b, bias: a.new_empty(len(a), len(b)))
_opaque.register_autograd(
    lambda ctx, gradient: _gradients(_opaque, ctx, gradient), setup_context=_Product.setup_context
)


def _gradients(
    product: Callable[[Tensor, Tensor, None], Tensor], ctx: Any, gradient: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    a, b = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    return (
        product(gradient, b.t(), None) if wanted[0] else None,
        product(gradient.t(), a.t(), None) if wanted[1] else None,
        gradient.sum(0) if wanted[2] else None,
    )
