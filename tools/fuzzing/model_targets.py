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
from mae.formats.interchange import is_decoder, to_transformers, transformers_config
from mae.mask_learners.gate import load_gate
from mae.models.vit import MaskedAutoencoder
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
    whole = {"model": weights, "config": dict(nano()._hub_mixin_config), "epoch": 3}
    found = []
    for content, zipped in ((whole, True), (whole, False), (weights, True)):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
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
    """Weights of a whole model."""
    return [save(_weights())]


def safetensors_lengths(data: bytes) -> bytes:
    """The file with the right length of its header."""
    end = data.find(b"}}") + 2
    return struct.pack("<Q", max(end - 8, 0)) + data[8:]


def read_safetensors(data: bytes, folder: Path) -> None:
    """The weights of a checkpoint, whose configuration is a good one."""
    path = folder / "model.safetensors"
    path.write_bytes(data)
    (folder / "config.json").write_text(json.dumps(dict(nano()._hub_mixin_config)))
    load_model(folder)


def foreign() -> list[bytes]:
    """Weights of a width that tells the number of its heads, whole and the encoder's."""
    weights = MaskedAutoencoder(8, 8, 96, 1, 3, 64, 1, 2).state_dict()
    return [save(weights), save({name: each for name, each in weights.items() if not is_decoder(name)})]


def read_foreign(data: bytes, folder: Path) -> None:
    """Weights by our names in a file alone."""
    path = folder / "model.safetensors"
    path.write_bytes(data)
    build(load_foreign(path), fresh_decoder=True)


def model_configs() -> list[bytes]:
    """``config.json`` beside weights: ours, transformers', timm's, and an index of parts."""
    ours = dict(nano()._hub_mixin_config)
    theirs = transformers_config(ours)
    video = {
        "model_type": "videomae",
        "image_size": 32,
        "patch_size": 8,
        "num_frames": 4,
        "hidden_size": 16,
    }
    timm = {
        "architecture": "vit_base_patch16_224",
        "model_args": {"img_size": 32, "num_heads": 2},
        "pretrained_cfg": {"input_size": [3, 32, 32]},
    }
    video |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "decoder_hidden_size": 16}
    video |= {"decoder_intermediate_size": 64, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
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
        encoder = {name: each for name, each in content.items() if not is_decoder(name)}
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
