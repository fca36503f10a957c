"""Weights and checkpoints as inputs, and what is held of their readers."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save

from mae.formats.foreign import build, foreign_kind, load_foreign
from mae.formats.interchange import to_transformers, transformers_config
from mae.masks.gate import load_gate
from mae.training.checkpoints import best_loss, load_model, load_state
from tests.tiny_mae import nano
from tools.fuzzing.worker import ROOT

_RUN = ROOT / "tests" / "data" / "written_before" / "gate" / "checkpoints" / "step-00000003"


def _weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: tensor.detach() for name, tensor in nano().state_dict().items()}


def pickles() -> list[bytes]:
    """Checkpoints of the reference, bare and wrapped, in both of torch's formats, and without a pickle."""
    weights = _weights()
    small = {"model": {name: tensor for name, tensor in weights.items() if "blocks" not in name}, "epoch": 3}
    found = []
    for content, options in (({"model": weights, "epoch": 3}, {}), (small, {"_use_new_zipfile_serialization": False})):
        buffer = io.BytesIO()
        torch.save(content, buffer, **options)
        found.append(buffer.getvalue())
    return [*found, save(weights)]


def zip_checksums(data: bytes) -> bytes:
    """The archive written again, so that its checksums are right; what is none as it is."""
    if not data.startswith(b"PK"):
        return data
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for info in old.infolist():
            file = old.open(info)
            file._expected_crc = None  # type: ignore[attr-defined]
            new.writestr(info.filename, file.read())
    return buffer.getvalue()


def read_pickle(data: bytes, folder: Path) -> None:
    """A ``.pth`` of anybody, and the model in it."""
    path = folder / "a.pth"
    path.write_bytes(data)
    build(load_foreign(path), fresh_decoder=True)


def safetensors() -> list[bytes]:
    """Weights of a whole model, and of its encoder."""
    weights = _weights()
    return [
        save(weights),
        save({name: each for name, each in weights.items() if "decoder" not in name and name != "mask_token"}),
    ]


def safetensors_lengths(data: bytes) -> bytes:
    """The file with the right length of its header."""
    end = data.find(b"}}") + 2
    return struct.pack("<Q", max(end - 8, 0)) + data[8:]


def read_safetensors(data: bytes, folder: Path) -> None:
    """Weights by our names, as a file, and those of a checkpoint."""
    path = folder / "model.safetensors"
    path.write_bytes(data)
    (folder / "config.json").write_text(json.dumps(dict(nano()._hub_mixin_config)))
    build(load_foreign(path), fresh_decoder=True)
    load_model(folder)


def model_configs() -> list[bytes]:
    """``config.json`` beside weights: ours, transformers', timm's, and an index of parts."""
    ours = dict(nano()._hub_mixin_config)
    theirs = transformers_config(ours)
    video = {"model_type": "videomae", "image_size": 32, "patch_size": 8, "num_frames": 4, "hidden_size": 16}
    timm = {
        "architecture": "vit_base_patch16_224",
        "model_args": {"img_size": 32},
        "pretrained_cfg": {"input_size": [3, 32, 32]},
    }
    video |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "decoder_hidden_size": 16}
    return [json.dumps(each).encode() for each in (ours, theirs, timm, video)]


def read_model_config(data: bytes, folder: Path) -> None:
    """A folder of somebody's model, or of ours, whose weights are good."""
    (folder / "config.json").write_bytes(data)
    weights = folder / "model.safetensors"
    kind = foreign_kind(folder)
    content = _CACHE.setdefault("weights", _weights())
    if kind == "transformers":
        weights.write_bytes(_CACHE.setdefault("theirs", save(to_transformers(content))))
    elif kind == "timm":
        encoder = {name: each for name, each in content.items() if "decoder" not in name and name != "mask_token"}
        weights.write_bytes(_CACHE.setdefault("timm", save(encoder)))
    else:
        weights.write_bytes(_CACHE.setdefault("ours", save(content)))
    if kind is None:
        load_model(folder)
    else:
        build(load_foreign(folder), fresh_decoder=True)


_CACHE: dict[str, object] = {}


def indices() -> list[bytes]:
    """The index of weights in parts."""
    names = to_transformers(_weights())
    return [json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "part.safetensors")}).encode()]


def read_index(data: bytes, folder: Path) -> None:
    """A folder of transformers whose weights lie in parts."""
    (folder / "part.safetensors").write_bytes(_CACHE.setdefault("theirs", save(to_transformers(_weights()))))
    (folder / "config.json").write_text(json.dumps(transformers_config(dict(nano()._hub_mixin_config))))
    (folder / "model.safetensors.index.json").write_bytes(data)
    build(load_foreign(folder))


def states() -> list[bytes]:
    """What a checkpoint holds beside its model: the optimiser's state, and a gate."""
    return [(_RUN / "training.pt").read_bytes(), (_RUN / "gate.safetensors").read_bytes()]


def read_state(data: bytes, folder: Path) -> None:
    """A gate, the loss of the best checkpoint, and the state of a training."""
    best = folder / "checkpoints" / "best"
    best.mkdir(parents=True, exist_ok=True)
    for path in (folder / "training.pt", folder / "gate.safetensors", best / "loss.json"):
        path.write_bytes(data)
    best_loss(folder)
    if data.startswith((b"PK", b"\x80")):
        load_state(folder)
    else:
        load_gate(folder / "gate.safetensors")
