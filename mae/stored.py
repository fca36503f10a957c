"""Files that hold models, and that may be anyone's: read within bounds, and never as more than weights and values.

Whatever is wrong with such a file is a ValueError of one line that names what it holds instead.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

_LARGEST_JSON = 1 << 28  # bytes; the index of a model in a thousand parts has a hundredth of it
_PLAIN_VALUES: list[Any] = [
    argparse.Namespace,
    *(pathlib.PosixPath, pathlib.PurePosixPath),
    *(np.dtype, np.float64(0).__reduce__()[0], type(np.dtype(np.float64)), type(np.dtype(np.float32))),
    *(type(np.dtype(np.int64)), type(np.dtype(np.int32)), type(np.dtype(np.bool_))),
]
"""What checkpoints keep beside their weights: options as a Namespace, paths, numbers of NumPy. None runs anything."""
_STRANGER = re.compile(r"GLOBAL ([\w.]+)")


def read_config(file: Path) -> dict[str, Any]:
    """The object in a JSON file such as ``config.json``; ValueError if it is missing, too large or of another shape."""
    if not file.is_file():  # a pipe would be waited for
        raise ValueError(f"there is no file {file.name}")
    if file.stat().st_size > _LARGEST_JSON:
        raise ValueError(f"{file.name} is larger than {_LARGEST_JSON:,} bytes")
    try:
        content = json.loads(file.read_bytes())
    except RecursionError:
        raise ValueError(f"{file.name} is nested too deep") from None
    except OSError as error:
        raise ValueError(f"{file.name} can't be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{file.name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} is no object of names and values")
    return content


def unpickle(file: Path) -> Any:
    """The weights and plain values that ``torch.save`` wrote; ValueError for anything else, which is not executed."""
    try:
        with torch.serialization.safe_globals(_PLAIN_VALUES):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip, torch and the file system each raise their own
        raise ValueError(f"{file.name} can't be read: {one_line(error, 200)}") from error


def one_line(error: Exception, longest: int = 300) -> str:
    """What an error of a library says, in a line: its kind, unless it is a ValueError, and its text.

    Torch's text about a pickle is not passed on, for it tells how to execute one.
    """
    text = str(error)
    if "weights_only" in text or "Weights only" in text:
        stranger = _STRANGER.search(text)
        what = f"it holds a {stranger[1]}" if stranger else "it is damaged, or holds more"
        return f"only weights and plain values are read from it, and {what}"
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return " ".join(f"{kind}{text}".split())[:longest]
