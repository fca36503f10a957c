"""``export``: a model's weights as the reference's checkpoint, a timm folder or a ViTMAE folder of transformers.

Only names and files change: what is exported and read again is equal to the bit. The folder is new or empty, each file
appears in it when it is complete, and ``README.md``, a model card, tells what was trained, how, and how good it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from safetensors.torch import save

from mae.formats.foreign import Weights
from mae.formats.interchange import State, to_timm, to_transformers, transformers_config
from mae.formats.videomae import to_videomae, videomae_config
from mae.mask_learners import GATE_FILE
from mae.models.sizes import SIZES
from mae.pixels import IMAGE_MEAN, IMAGE_STD
from mae.storage import save_torch
from mae.training.checkpoints import gate_file
from pipelines.errors import UserError, user_errors
from pipelines.export.model_card import model_card
from pipelines.export.options import Format
from pipelines.export.weights import open_weights
from saliency.files import remove_leftovers, write_atomically, write_text_atomically

_TIMM_NAMES = {
    "tiny": "vit_tiny_patch16_224",
    "small": "vit_small_patch16_224",
    "base": "vit_base_patch16_224",
    "large": "vit_large_patch16_224",
    "huge": "vit_huge_patch14_224",
}

_PLACE = "<folder>"
_LAST = "README.md"  # the last file of an export to be written


def export(model: Path, kind: str, out: Path) -> str:
    """Write the model (a run, a saved model, or what :func:`mae.formats.foreign.load_foreign` reads) into the folder
    ``out``.

    ``kind`` is ``mae``, ``timm`` or ``transformers``; ``onnx`` is written by :mod:`pipelines.export.onnx_file`. A gate
    that was trained with the model goes along. Returns the line of Python that loads the result. Raises UserError for
    what is no model, does not fit the other format, or a folder that is not empty.
    """
    if kind not in get_args(Format):
        raise UserError(f"--to {kind!r} is not one of: {', '.join(get_args(Format))}")
    there = {path.name for path in out.glob("*") if not path.name.startswith(".")}
    if (out.exists() and not out.is_dir()) or _LAST in there:
        raise UserError(_not_empty(out))
    with user_errors():
        weights = open_weights(model)
        if "frames" in weights.config and kind != "transformers":
            raise ValueError(f"--to {kind} is for models of images; a video model goes --to transformers")
        tokens = weights.config.get("class_tokens", 1)
        if tokens > 1 and kind != "timm" and "frames" not in weights.config:
            raise ValueError(f"--to {kind} has one class token, and this model has {tokens}; --to timm takes it")
        files, line = _WRITERS[kind](weights)
        gate = gate_file(model)
    if gate is not None:
        files[GATE_FILE] = lambda file: file.write(gate.read_bytes())
    if there - files.keys():  # a killed export is written again
        raise UserError(_not_empty(out))
    remove_leftovers(out, files.keys() | {_LAST}, deep=False)
    for name, write in files.items():
        write_atomically(out / name, write)
    card = model_card(model, weights.config, kind, line.replace(_PLACE, out.name), gate=gate is not None)
    write_text_atomically(out / _LAST, card)
    return line.replace(_PLACE, str(out))


def _not_empty(out: Path) -> str:
    return f"--out {out} is not an empty folder; give a new one"


_Files = dict[str, Callable[[Any], object]]


def _mae(weights: Weights) -> tuple[_Files, str]:
    # The reference looks at 'model' alone; 'config' lets us open sizes that the weights don't tell.
    content = {"model": _plain(weights.state), "config": weights.config}
    line = f'checkpoint = torch.load("{_PLACE}/checkpoint.pth", weights_only=True)["model"]'
    return {"checkpoint.pth": lambda file: save_torch(content, file)}, line


def _timm(weights: Weights) -> tuple[_Files, str]:
    config = timm_config(weights.config)
    files: _Files = {"model.safetensors": _weights(to_timm(weights.state)), "config.json": _json(config)}
    arguments = ", ".join(f"{name}={value!r}" for name, value in config["model_args"].items())
    path = f'checkpoint_path="{_PLACE}/model.safetensors"'
    return files, f'timm.create_model("{config["architecture"]}", num_classes=0, {arguments}, {path})'


def _transformers(weights: Weights) -> tuple[_Files, str]:
    if "frames" in weights.config:
        return _videomae(weights)
    config = transformers_config(weights.config, decoder=weights.has_decoder)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": config["image_size"], "width": config["image_size"]},
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "rescale_factor": 1 / 255,
        "resample": 3,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
    }
    files: _Files = {"model.safetensors": _weights(to_transformers(weights.state))}
    files |= {"preprocessor_config.json": _json(processor), "config.json": _json(config)}
    return files, f'transformers.{config["architectures"][0]}.from_pretrained("{_PLACE}")'


def _videomae(weights: Weights) -> tuple[_Files, str]:
    config = videomae_config(weights.config)
    side = config["image_size"]
    processor = {
        "image_processor_type": "VideoMAEImageProcessor",
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
    }
    files: _Files = {"model.safetensors": _weights(to_videomae(weights.state))}
    files |= {"preprocessor_config.json": _json(processor), "config.json": _json(config)}
    return files, f'transformers.VideoMAEForPreTraining.from_pretrained("{_PLACE}")'


_WRITERS = {"mae": _mae, "timm": _timm, "transformers": _transformers}


def timm_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The ``config.json`` of a timm folder: the nearest ``vit_*``, and what of it is another in this model."""
    sides = config["image_size"]
    height, width = (sides, sides) if isinstance(sides, int) else sides
    size = next((name for name in _TIMM_NAMES if SIZES[name].width == config["width"]), "base")
    named = SIZES[size]
    own = {
        "patch_size": (config["patch_size"], named.patch_size),
        "embed_dim": (config["width"], named.width),
        "depth": (config["depth"], named.depth),
        "num_heads": (config["heads"], named.heads),
        "mlp_ratio": (config["mlp_ratio"], 4.0),
        "in_chans": (config["channels"], 3),
        "reg_tokens": (config.get("class_tokens", 1) - 1, 0),
    }
    arguments: dict[str, Any] = {"img_size": (height, width)}
    arguments |= {name: value for name, (value, usual) in own.items() if value != usual}
    pretrained = {
        "input_size": [config["channels"], height, width],
        "mean": list(IMAGE_MEAN),
        "std": list(IMAGE_STD),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "num_classes": 0,
        "fixed_input_size": True,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }
    return {
        "architecture": _TIMM_NAMES[size],
        "num_classes": 0,
        "num_features": config["width"],
        "global_pool": "token",
        "model_args": arguments,
        "pretrained_cfg": pretrained,
    }


def _plain(state: State) -> State:
    return {name: weight.detach().cpu().contiguous() for name, weight in state.items()}


def _weights(state: State) -> Callable[[Any], object]:
    return lambda file: file.write(save(_plain(state), metadata={"format": "pt"}))


def _json(content: dict[str, Any]) -> Callable[[Any], object]:
    return lambda file: file.write((json.dumps(content, indent=1) + "\n").encode())
