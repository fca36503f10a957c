"""Opens masked autoencoders that others saved: the reference's files, ViTMAE, VideoMAE and timm folders.

Nothing is unpickled but weights and plain values. A file that is damaged or of something else is a ValueError of one
line. Weights without a decoder are an encoder: a model made of them has a decoder that never learned, which only a
caller gets who says that it will not be used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file

from mae.formats.interchange import (
    State,
    config_from_transformers,
    from_mae,
    from_timm,
    from_transformers,
    is_decoder,
    model_config,
)
from mae.formats.videomae import config_from_videomae, from_videomae, with_positions
from mae.models.saved import check_arguments, saved_model
from mae.models.vit import MaskedAutoencoder
from mae.stored import one_line, read_config, unpickle

_PICKLES = (".pth", ".pt", ".bin")
_SAFE = ".safetensors"


class Weights(NamedTuple):
    """Weights by our names, with what is needed to build their model."""

    state: State
    config: dict[str, Any]
    """The arguments of MaskedAutoencoder, or of VideoMaskedAutoencoder."""

    @property
    def has_decoder(self) -> bool:
        """Whether the model can predict patches, or only encode images."""
        return "decoder_embed.weight" in self.state


def foreign_kind(path: Path) -> str | None:
    """Whose format a file or folder is in, by its ending or config.json: mae, transformers, timm; None if ours."""
    if path.is_file():
        return "mae" if path.suffix in (*_PICKLES, _SAFE) else None
    try:
        config = read_config(path / "config.json")
    except ValueError:
        return None
    if "model_type" in config:
        return "transformers"
    return "timm" if "architecture" in config else None


def load_foreign(path: Path) -> Weights:
    """The weights of a file or folder of :func:`foreign_kind`; ValueError if they are not whole or another model's."""
    try:
        kind = foreign_kind(path)
        if kind == "transformers":
            return _load_transformers(path)
        return _load_timm(path) if kind == "timm" else _load_mae(path)
    except ValueError as error:
        raise ValueError(f"{path} can't be used: {error}") from error
    except Exception as error:  # safetensors, the file system and weights of another make each raise their own
        raise ValueError(f"{path} can't be read: {one_line(error, 200)}") from error


def build(weights: Weights, *, fresh_decoder: bool = False) -> MaskedAutoencoder:
    """The model of the weights, in evaluation mode; a missing decoder is a ValueError unless it may be a fresh one."""
    if not weights.has_decoder and not fresh_decoder:
        raise ValueError("the weights are an encoder's alone, and a decoder is needed")
    try:
        model = saved_model(weights.config, {name: weight.shape for name, weight in weights.state.items()})
        missing, _ = model.load_state_dict(weights.state, strict=weights.has_decoder)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"the weights do not fit their model: {one_line(error)}") from error
    lost = [name for name in missing if not is_decoder(name)]
    if lost:
        raise ValueError(f"the weights do not fit their model: {lost[0]} is missing")
    return model.eval()


def _load_mae(path: Path) -> Weights:
    checkpoint: Any = _read(path)
    state = from_mae(checkpoint)
    config = checkpoint.get("config") if isinstance(checkpoint, dict) and "model" in checkpoint else None
    return Weights(state, config if isinstance(config, dict) else model_config(state))


def _load_transformers(folder: Path) -> Weights:
    config = read_config(folder / "config.json")
    if config.get("model_type") == "videomae":
        arguments = config_from_videomae(config)
        check_arguments(arguments)
        state = from_videomae(_folder_weights(folder, "model.safetensors", "pytorch_model.bin"))
        return Weights(with_positions(state, arguments), arguments)
    if config.get("model_type") != "vit_mae":
        raise ValueError(f"config.json is of a {config.get('model_type')!r}, not of a vit_mae or videomae")
    state = from_transformers(_folder_weights(folder, "model.safetensors", "pytorch_model.bin"))
    return Weights(state, config_from_transformers(config, state))


def _load_timm(folder: Path) -> Weights:
    config = read_config(folder / "config.json")
    if not str(config["architecture"]).startswith("vit_"):
        raise ValueError(f"config.json is of a {config['architecture']}, not of a plain vit_*")
    state = from_timm(_folder_weights(folder, "model.safetensors", "pytorch_model.bin"))
    arguments = config.get("model_args") or {}
    size = arguments.get("img_size") or config.get("pretrained_cfg", {}).get("input_size", (3, 224, 224))[1:]
    return Weights(state, model_config(state, image_size=size, heads=arguments.get("num_heads")))


def _folder_weights(folder: Path, *names: str) -> State:
    for name in names:
        if (folder / name).is_file():
            return _read(folder / name)
        if (folder / f"{name}.index.json").is_file():
            return _parts(folder, f"{name}.index.json")
    raise ValueError(f"it holds neither {' nor '.join(names)}, whole or in parts")


def _parts(folder: Path, index: str) -> State:
    """Weights that lie in several files, as transformers saves large models: the index names the file of each."""
    places: dict[str, str] = read_config(folder / index)["weight_map"]
    weights: State = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name:  # an index is anyone's text, and leads nowhere but into its folder
            raise ValueError(f"{index} names a file outside of the folder: {name}")
        weights |= _read(folder / name)
    lost = sorted(places.keys() - weights.keys())
    if lost:
        raise ValueError(f"{index} promises {lost[0]}, which is not in {places[lost[0]]}")
    return weights


def _read(file: Path) -> State:
    return unpickle(file) if file.suffix in _PICKLES else load_file(file)  # type: ignore[no-any-return]
