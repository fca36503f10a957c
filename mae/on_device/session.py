"""A file of ``export --to onnx``, opened in ONNX Runtime: what it says of itself, and its outputs.

A file may be anyone's: what it says is checked, against its own inputs and outputs too, before it is believed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae.on_device.extra import needs_extra
from mae.on_device.graph import CHOOSERS
from mae.stored import one_line

FORMAT = "1"
_MARK = "saliency_mae_format"
FEATURES = {"cls": "class_token", "mean": "patch_mean"}
"""The output that holds the features of a pooling."""


_NEWER = re.compile(r"Opset (\d+) is under development.* till opset (\d+)")
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .* failed: ?)?")


@dataclass(frozen=True)
class Facts:
    """What a file says of itself, beside its graph; each is a key of its metadata, as JSON."""

    image_size: tuple[int, int]
    """Height and width in pixels: images of other sizes are not taken."""
    patch_size: int
    keep: float
    """The share of the patches that is encoded."""
    patches: int
    """How many that is."""
    keep_by: str | None
    """gate, center or map; None where all are encoded."""
    int8: bool
    mean: tuple[float, ...]
    """Of colours in 0..1, as ``std``: the graph normalises by them, nothing else has to."""
    std: tuple[float, ...]
    resize: str
    """How images come to their size, in words."""
    classes: tuple[str, ...] | None
    """The names of the logits' classes."""
    model: dict[str, Any]
    """Arguments of MaskedAutoencoder."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    def texts(self) -> dict[str, str]:
        """As metadata of a file."""
        return {_MARK: FORMAT, **{name: json.dumps(value) for name, value in asdict(self).items()}}

    @classmethod
    def of(cls, texts: Mapping[str, str]) -> Facts:
        """From the metadata of a file; ValueError if they are no such facts."""
        if texts.get(_MARK) != FORMAT:
            known = f"its format is {texts[_MARK][:20]!r}" if _MARK in texts else "it does not say how it was made"
            raise ValueError(f"it is no file of `mae-cli export --to onnx` that this release reads: {known}")
        try:
            values = {name: json.loads(texts[name]) for name in cls.__dataclass_fields__}
            height, width = values["image_size"]
            facts = cls(
                **values
                | {"image_size": (height, width), "mean": tuple(values["mean"]), "std": tuple(values["std"])}
                | {"classes": None if values["classes"] is None else tuple(map(str, values["classes"]))}
            )
            sizes = (height, width, facts.patch_size, facts.patches)
            right = all(type(size) is int and 0 < size < 1 << 16 for size in sizes)
            right &= all(type(value) is float for value in (facts.keep, *facts.mean, *facts.std))
            right &= 0 < facts.keep <= 1 and facts.keep_by in (None, *CHOOSERS) and type(facts.int8) is bool
            right &= isinstance(facts.model, dict) and len(facts.mean) == len(facts.std) == 3
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"what it says of itself can't be used ({one_line(error, 100)})") from error
        if not right or height % facts.patch_size or width % facts.patch_size:
            raise ValueError("what it says of itself can't be: its sizes or its choice of patches")
        return facts


def _reason(error: Exception) -> str:
    """What the runtime says, in a line, without places in its own source code."""
    text = " ".join(str(error).split())
    if newer := _NEWER.search(text):
        return f"it needs opset {newer[1]}, and the newest there is {newer[2]}"
    return _PREFIX.sub("", text)[:200]


class DeviceModel:
    """A file, or its bytes, in ONNX Runtime on so many threads (all cores by default). ValueError if it can't be."""

    def __init__(self, file: Path | bytes, threads: int | None = None) -> None:
        runtime = needs_extra("onnxruntime")
        shown = "the file" if isinstance(file, bytes) else str(file)
        settings = runtime.SessionOptions()
        settings.log_severity_level = 4
        if threads is not None:
            settings.intra_op_num_threads = threads
        try:
            self.session = runtime.InferenceSession(
                file if isinstance(file, bytes) else str(file), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of every kind that the runtime has
            reason = f"does not open in onnxruntime {runtime.__version__}: {_reason(error)}"
            raise ValueError(f"{shown} {reason}") from error
        content = file if isinstance(file, bytes) else file.read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        try:
            self.facts = Facts.of(self.session.get_modelmeta().custom_metadata_map)
            self.inputs = tuple(each.name for each in self.session.get_inputs())
            self.outputs = tuple(each.name for each in self.session.get_outputs())
            image = self.session.get_inputs()[0]
            fits = (image.name, image.type, *image.shape[1:]) == ("image", "tensor(uint8)", *self.facts.image_size, 3)
            if not fits or not {*FEATURES.values(), "patch_tokens"} <= {*self.outputs}:
                raise ValueError("its inputs and outputs are not those that it says it has")
        except ValueError as error:
            raise ValueError(f"{shown}: {error}") from error

    def run(
        self, images: NDArray[np.uint8], outputs: Sequence[str] = (), *, maps: NDArray[np.float32] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The named outputs, all by default, of images uint8 [B, H, W, 3] and of maps float32 [B, R, C].

        An int8 file sees one image at a time, as on a device: it rounds by the range of all that it sees together.
        ValueError for images of another size, or for maps where the file takes none, and the other way round.
        """
        height, width = self.facts.image_size
        if images.ndim != 4 or images.shape[1:] != (height, width, 3) or images.dtype != np.uint8:
            kind = f"{images.dtype} {list(images.shape)}"
            raise ValueError(f"images are {kind}; this file takes uint8 [batch, {height}, {width}, 3]")
        if (maps is None) == ("map" in self.inputs):
            raise ValueError(f"this file takes {'a map of' if maps is None else 'no map beside'} every image")
        names = list(outputs or self.outputs)
        given: dict[str, NDArray[Any]] = {"image": images} if maps is None else {"image": images, "map": maps}
        at_once = 1 if self.facts.int8 else max(1, len(images))
        parts = [
            self.session.run(names, {name: each[start : start + at_once] for name, each in given.items()})
            for start in range(0, max(1, len(images)), at_once)
        ]
        return {name: np.concatenate(each) for name, each in zip(names, zip(*parts, strict=True), strict=True)}

    def features(self, images: NDArray[np.uint8], pool: str = "cls") -> NDArray[np.float32]:
        """Features float32 [B, D] of images uint8 [B, H, W, 3]: the class token, or the ``mean`` of the patches."""
        return self.run(images, [FEATURES[pool]])[FEATURES[pool]]
