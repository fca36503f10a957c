"""A CUDA device that holds no values: what runs on it is traced on a machine without one.

Tensors are fake, so an operation on two devices fails, and so does one that reads a value. What a real device would do,
but slowly, is found here too: copies that the host waits for, and precisions other than those meant.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves

from tests.no_waiting import refuse_waiting

CUDA = torch.device("cuda", 0)
TF32 = "float32 rounded to TF32"

_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution")
_KNOWN = "2.15"
"""The version of torch that this is known to work with; 2.9 asks for a driver."""
_attend = F.scaled_dot_product_attention


class FakeCuda(TorchDispatchMode):
    """While entered, fails where the host would wait for the device.

    ``products`` has the dtype of every matrix product and attention on the device so far, or TF32 for one of float32
    whose factors may be rounded so; ``copies`` counts what went between it and the host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products: list[torch.dtype | str] = []
        self.copies = 0
        self._pinned: dict[int, Any] = {}
        self._fused = False

    def pin(self, tensor: Tensor) -> Tensor:
        """``tensor`` in pinned memory: itself, or a copy that is known again by its storage."""
        assert tensor.device.type == "cpu", "memory of a device can't be pinned"
        pinned = tensor if self._is_pinned(tensor) else tensor.clone()
        storage = pinned.untyped_storage()
        self._pinned[storage._cdata] = storage
        return pinned

    def attend(self, query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Attention, which a GPU computes in one kernel in autocast's dtype, and a fake one in several in float32."""
        if self in _get_current_dispatch_mode_stack():  # entered
            autocast = torch.is_autocast_enabled("cuda")
            self._note(torch.get_autocast_dtype("cuda") if autocast else query.dtype)
        self._fused = True
        try:
            return _attend(query, *args, **kwargs)
        finally:
            self._fused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(tensor.is_cuda for tensor in tensors):
            refuse_waiting(name, args)
            if name in _PRODUCTS and not self._fused:
                self._note(tensors[0].dtype)
        if name in ("_to_copy", "copy_"):
            self._check_copy(name, args, kwargs)
        return func(*args, **kwargs)

    def _note(self, dtype: torch.dtype) -> None:
        rounded = dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
        self.products.append(TF32 if rounded else dtype)

    def _check_copy(self, name: str, args: Any, kwargs: Any) -> None:
        source = args[1] if name == "copy_" else args[0]
        goal = args[0].device if name == "copy_" else torch.device(kwargs.get("device") or source.device)
        if source.device.type == goal.type:
            return
        self.copies += 1
        queued = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
        assert queued, f"a copy of {list(source.shape)} from {source.device} to {goal} waits for the device"
        assert source.is_cuda or self._is_pinned(source), f"{list(source.shape)} to {goal} is not pinned, so it waits"

    def _is_pinned(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._pinned


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """While entered, tensors are fake, ``cuda:0`` is there with bfloat16, and gradients are zeros.

    The engine of autograd asks a real device for its streams, so going backward only finds the leaves. Make models in
    here, and do once what is kept for every later step; then enter what this gives, and do it again.
    """
    if torch.__version__ < _KNOWN:
        pytest.skip(f"fake tensors of torch {torch.__version__} on a GPU ask for its driver")
    cuda = FakeCuda()
    with contextlib.ExitStack() as stack:
        for place, name, value in (
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (torch.cuda, "is_bf16_supported", lambda including_emulation=True: True),
            (nn.Module, "to", _to),
            (Tensor, "pin_memory", lambda tensor: cuda.pin(tensor)),
            (Tensor, "backward", _backward),
            (torch.autograd, "grad", _grad),
            (F, "scaled_dot_product_attention", cuda.attend),
        ):
            stack.enter_context(mock.patch.object(place, name, value))
        stack.callback(_forget)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield cuda


def _forget() -> None:
    """Nothing fake stays in a cache."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("mae", "saliency", "pipelines"):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def _to(module: nn.Module, device: torch.device | str) -> nn.Module:
    """``Module.to`` for a device alone; torch's own exchanges the tensors in place, which fake ones do not allow."""
    for part in module.modules():
        for name, old in part._parameters.items():
            if old is not None and old.device != torch.device(device):
                part._parameters[name] = nn.Parameter(old.detach().to(device), old.requires_grad)
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else buffer.to(device)
    return module


def _backward(loss: Tensor, *_: Any, **__: Any) -> None:
    for leaf in _leaves(loss):
        zeros = torch.zeros_like(leaf)
        leaf.grad = zeros if leaf.grad is None else leaf.grad + zeros


def _grad(outputs: Any, inputs: Any, *_: Any, **__: Any) -> tuple[Tensor, ...]:
    return tuple(torch.zeros_like(x) for x in ([inputs] if isinstance(inputs, Tensor) else inputs))


def _leaves(loss: Tensor) -> list[Tensor]:
    """The leaves that a loss depends on."""
    seen, todo, leaves = set(), [loss.grad_fn], []
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        todo += [after for after, _ in node.next_functions]
    return leaves
