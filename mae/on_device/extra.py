"""The packages of the extra ``onnx``, which not every installation has."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def needs_extra(*names: str) -> Any:
    """The first of the modules of these names, all imported; ValueError, which says what to install, without one."""
    try:
        first, *_ = [import_module(name) for name in names]
        return first
    except ImportError as error:
        raise ValueError(f"{error.name} is missing: pip install 'saliency-mae[onnx]'") from error
