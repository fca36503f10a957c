"""Which operations make the host wait for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "nonzero_static",
    "_unique",
    "_unique2",
    "unique_consecutive",
    "unique_dim",
    "bincount",
    "histc",
    "repeat_interleave",
    "linalg_lstsq",
}
"""Each reads a value, or makes a tensor whose shape is one: both need the device to be done with all before it."""


class NoWaiting(TorchDispatchMode):
    """Fails on an operation that would make the host wait, were the tensors on a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        refuse_waiting(func._schema.name.removeprefix("aten::"), args)
        return func(*args, **(kwargs or {}))


def refuse_waiting(name: str, args: Any) -> None:
    """AssertionError if the ATen operation of this name makes the host wait for the device."""
    assert name not in WAITING, f"{name} waits for the device"
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        indices = [index for index in args[1] if index is not None]
        assert all(index.dtype not in (torch.bool, torch.uint8) for index in indices), f"{name} by a mask waits"
