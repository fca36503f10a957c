"""Anything that turns images into features: a run, the same untrained, MAE weights of others, a file, a timm model."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mae.devices import copy_to
from mae.evaluation.classifier import vision_transformer
from mae.evaluation.kept_encoder import KeptEncoder
from mae.formats.foreign import build, foreign_kind, load_foreign
from mae.formats.interchange import encoder_weights
from mae.mask_learners.gate import load_gate
from mae.models.saved import check_arguments
from mae.models.video import VideoMaskedAutoencoder, new_model
from mae.models.vit import MaskedAutoencoder
from mae.on_device.session import FEATURES, DeviceModel
from mae.pixels import IMAGE_MEAN, IMAGE_STD, normalise
from mae.precision import rounded
from mae.stored import one_line
from mae.training.checkpoints import gate_file, load_model
from pipelines.commandline.machine import usable_precision
from pipelines.errors import UserError, user_errors

POOLS = ("mean", "cls")
_HOST = torch.device("cpu")


@dataclass(frozen=True)
class Encoder:
    """``features`` maps uint8 images [B, 3, H, W] of ``size`` (height, width) to float32 [B, D], always the same.

    Where it has ``frames``, clips [B, 3, frames, H, W] are in the images' place.
    """

    name: str
    size: tuple[int, int]
    features: Callable[[Tensor], Tensor]
    network: Callable[[float], nn.Module]
    """A copy of the weights without a head, to be trained on, with drop path up to the given rate where it has any."""
    identity: Callable[[], str]
    """sha256 of what decides the features but for the pooling: weights and architecture."""
    mean: tuple[float, ...] = IMAGE_MEAN
    std: tuple[float, ...] = IMAGE_STD
    """Of the colours in 0..1, by which its images are normalised."""
    patches: Callable[[Tensor], Tensor] | None = None
    """Features float32 [B, D, h, w] by place, of uint8 images [B, 3, H, W], or [B, D, t, h, w] of clips, whose t slots
    share out their frames evenly; None where an encoder has no places."""
    stride: int | None = None
    """``patches`` takes images whose sides are multiples of it; None for images of ``size`` alone."""
    autoencoder: MaskedAutoencoder | None = None
    """The model with its decoder, where it has one."""
    frames: int | None = None
    """How many frames its clips have; None of images."""
    device: torch.device = _HOST
    """Where it computes."""
    file: Path | None = None
    """The file for ONNX Runtime that computes it."""

    def blank(self, count: int) -> Tensor:
        """As many black images or clips."""
        frames = () if self.frames is None else (self.frames,)
        return torch.zeros(count, 3, *frames, *self.size, dtype=torch.uint8)


def tokens_of(encoder: Encoder, images: Tensor) -> Tensor:
    """The features by place of an encoder that has them, one after the other, float32 [B, N, D]."""
    assert encoder.patches is not None
    return encoder.patches(images).flatten(2).transpose(1, 2)


def open_encoder(
    name: str, *, pool: str, device: str, untrained: bool = False, seed: int = 0, precision: str = "fp32"
) -> Encoder:
    """The encoder that ``name`` stands for, or with ``untrained`` one of its architecture and random weights.

    ``name`` is a run folder, a saved model's folder, a folder of a ViTMAE or of a timm ``vit_*``, a checkpoint of the
    reference (``FILE.pth`` or ``mae:FILE``), any of these with ``@keep=0.5`` for the features of half of the patches
    (by the run's gate, or ``@keep=0.5,random`` or ``,center``), a ``FILE.onnx`` of ``export``, or a timm model:
    ``vit_tiny_patch16_224`` or ``timm:vit_tiny_patch16_224``, with ``@FILE`` for weights from a file and ``@none`` for
    none. Random weights follow from ``seed``. ``precision`` is the features': fp32, bf16, or auto, which is bf16 on a
    GPU that has it. UserError.
    """
    opened = _open(name, pool=pool, device=device, untrained=untrained, seed=seed)
    return _in_precision(replace(opened, device=torch.device(device)), usable_precision(precision, device))


def _in_precision(encoder: Encoder, precision: str) -> Encoder:
    """The encoder with features computed in a precision; its identity is another one where products are rounded."""

    def within(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*inputs: Any) -> Tensor:
            with rounded(precision, encoder.device):
                return function(*inputs)

        return call

    told = precision if precision == "bf16" else "tf32" if encoder.device.type == "cuda" else ""
    return replace(
        encoder,
        features=within(encoder.features),
        patches=encoder.patches and within(encoder.patches),
        identity=(lambda: f"{encoder.identity()}, {told}") if told else encoder.identity,
    )


def _open(name: str, *, pool: str, device: str, untrained: bool, seed: int) -> Encoder:
    if pool not in POOLS:
        raise UserError(f"--pool {pool!r} is not one of: {', '.join(POOLS)}")
    shown = "untrained" if untrained else name
    name, _, keep = name.partition("@keep=")
    path = Path(name.removeprefix("mae:"))
    if path.suffix == ".onnx":
        return _from_file(shown, path, keep, pool, device, untrained=untrained, seed=seed)
    if name.startswith("mae:") or path.is_dir() or foreign_kind(path):
        with user_errors():
            model, whole = _open_mae(path)
        if untrained:
            torch.manual_seed(seed)
            model = new_model(model._hub_mixin_config)  # type: ignore[arg-type]
        encoder = _from_mae(shown, model, pool, device, whole=whole)
        return _keeping(encoder, model, path, keep, pool, device) if keep and not untrained else encoder
    if keep:
        raise UserError(f"@keep is for masked autoencoders, and {name} is none")
    timm_name, _, weights = name.removeprefix("timm:").partition("@")
    return _from_timm(shown, timm_name, "none" if untrained else weights, device, seed)


def _open_mae(path: Path) -> tuple[MaskedAutoencoder, bool]:
    """A run's model or another's, and whether its decoder is its own; features need none."""
    if not path.exists():
        raise ValueError(f"{path} does not exist; mae: is followed by a checkpoint or a folder")
    if not path.is_file() and not foreign_kind(path):
        return load_model(path), True
    weights = load_foreign(path)
    return build(weights, fresh_decoder=True), weights.has_decoder


def _from_mae(name: str, model: MaskedAutoencoder, pool: str, device: str, *, whole: bool) -> Encoder:
    model = model.to(device).eval()
    frames = model.frames if isinstance(model, VideoMaskedAutoencoder) else None
    pooled = pool if model.class_tokens else "mean"  # of what has no class token

    @torch.inference_mode()
    def features(images: Tensor) -> Tensor:
        return model.features(normalise(copy_to(images, device)), pooled).float()

    @torch.no_grad()  # heads learn from them, which inference tensors do not allow
    def patches(images: Tensor) -> Tensor:
        grid = model.grid_of((images.shape[-2], images.shape[-1]))
        every = torch.arange(math.prod(grid), device=device).expand(len(images), -1)
        tokens = model.encode_visible(normalise(copy_to(images, device)), every, grid)[:, model.class_tokens :]
        return tokens.transpose(1, 2).reshape(len(images), -1, *grid).float()

    config: dict[str, Any] = dict(model._hub_mixin_config)  # type: ignore[arg-type]
    weights = encoder_weights(model.state_dict())
    kept = {key: value for key, value in config.items() if not key.startswith("decoder_") and key != "norm_pix"}
    if kept.get("class_tokens") == 1:  # as it was before there could be more
        del kept["class_tokens"]
    return Encoder(
        name,
        model.image_size,
        features,
        lambda drop_path: vision_transformer(weights, config, drop_path),
        functools.cache(lambda: _hash(kept, weights)),
        patches=patches,
        stride=None if getattr(model, "position_kind", "") == "table" else model.patch_size,
        autoencoder=model if whole else None,
        frames=frames,
    )


def _from_file(shown: str, path: Path, keep: str, pool: str, device: str, *, untrained: bool, seed: int) -> Encoder:
    """A file of ``export --to onnx``; untrained, the model that it was made of with random weights. UserError."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; a name that ends in .onnx is a file of export --to onnx")
    with user_errors():
        opened = DeviceModel(path)
        if keep and keep.partition(",")[0] not in (f"{opened.facts.keep:g}", str(opened.facts.keep)):
            raise ValueError(f"{path} was made with --keep {opened.facts.keep:g}: export one with {keep} to judge it")
        if not untrained:
            return replace(device_encoder(shown, opened, pool), file=path)
        check_arguments(opened.facts.model)
        torch.manual_seed(seed)
        try:
            fresh = new_model(opened.facts.model)
        except TypeError as error:
            raise ValueError(f"{path}: it describes no masked autoencoder: {error}") from error
        return _from_mae(shown, fresh, pool, device, whole=False)


def device_encoder(name: str, opened: DeviceModel, pool: str) -> Encoder:
    """The features that a file for ONNX Runtime gives; ValueError if it needs maps of its images."""
    facts = opened.facts
    if facts.keep_by == "map":
        raise ValueError(f"{name} chooses patches by a map of each image, and there is none here")

    def run(images: Tensor, output: str) -> Tensor:
        rows = images.permute(0, 2, 3, 1).contiguous().numpy()
        return torch.from_numpy(opened.run(rows, [output])[output])

    def patches(images: Tensor) -> Tensor:
        return run(images, "patch_tokens").transpose(1, 2).reshape(len(images), -1, *facts.grid)

    def network(drop_path: float) -> nn.Module:
        raise UserError(f"finetune trains weights, and {name} is a file for ONNX Runtime: give the run")

    return Encoder(
        name,
        facts.image_size,
        lambda images: run(images, FEATURES[pool]),
        network,
        lambda: opened.sha256,
        facts.mean,
        facts.std,
        patches=patches if facts.keep_by is None else None,
    )


def _keeping(encoder: Encoder, model: MaskedAutoencoder, path: Path, keep: str, pool: str, device: str) -> Encoder:
    """The encoder on a share of the patches, ``SHARE`` or ``SHARE,CHOOSER``. UserError."""
    share, _, by = keep.partition(",")
    with user_errors():
        try:
            number = float(share)
        except ValueError:
            raise ValueError(f"@keep={keep}: give a share above 0 and at most 1, as in @keep=0.5,random") from None
        file = gate_file(path) if path.is_dir() else None
        gate = None if file is None else load_gate(file).to(device)
        kept = KeptEncoder(model, number, by or "gate", gate)

    pooled = pool if model.class_tokens else "mean"

    @torch.inference_mode()
    def features(images: Tensor) -> Tensor:
        return kept.features(normalise(copy_to(images, device)), pooled).float()

    def network(drop_path: float) -> nn.Module:
        raise UserError("finetune trains an encoder on all patches: leave @keep out")

    def identity() -> str:
        weights = {} if gate is None or by not in ("", "gate") else gate.state_dict()
        return _hash({"encoder": encoder.identity(), "keep": number, "by": by or "gate"}, weights)

    return replace(
        encoder,
        features=features,
        network=network,
        identity=functools.cache(identity),
        patches=None,
        stride=None,
        autoencoder=None,
    )


def _from_timm(shown: str, name: str, weights: str, device: str, seed: int) -> Encoder:
    import timm

    if name not in timm.list_models() and name.split(".")[0] not in timm.list_models():
        raise UserError(f"{shown} is neither a run folder nor a timm model; timm.list_models('*vit*') names some")
    torch.manual_seed(seed)
    try:
        from_file = weights not in ("", "none")
        state = _read_weights(weights) if from_file else {}
        # Fine-tuned as the reference does it: the patches' mean is normed, not the tokens.
        pooled = {"global_pool": "avg"} if "fc_norm.weight" in state else {}
        model = _new_timm(name, pretrained=not weights, **pooled)
        if from_file:
            _load_weights(model, state, weights)
    except UserError:
        raise
    except Exception as error:  # the hub's, the network's and torch's own
        raise UserError(
            f"the weights of {name} can't be had here ({one_line(error, 200)}); give timm:{name}@FILE, or @none for "
            "random ones"
        ) from error
    config = timm.data.resolve_model_data_config(model)
    mean, std = (torch.tensor(config[key], device=device).view(1, 3, 1, 1) for key in ("mean", "std"))
    model = model.to(device).eval()

    @torch.inference_mode()
    def features(images: Tensor) -> Tensor:
        return torch.as_tensor(model((copy_to(images, device).float() / 255 - mean) / std)).float()

    @torch.no_grad()  # heads learn from them, which inference tensors do not allow
    def patches(images: Tensor) -> Tensor:
        seen = (copy_to(images, device).float() / 255 - mean) / std
        last = model.forward_intermediates(seen, indices=1, norm=True, intermediates_only=True)  # type: ignore[operator]
        return torch.as_tensor(last[-1]).float()

    def network(drop_path: float) -> nn.Module:
        options = {"pretrained": False, "num_classes": 0, **pooled}
        try:
            copy: nn.Module = timm.create_model(name, drop_path_rate=drop_path, **options)
        except TypeError:  # the architecture has none
            copy = timm.create_model(name, **options)
        copy.load_state_dict(model.state_dict())
        return copy

    facts = {"timm": name, "size": config["input_size"], "mean": config["mean"], "std": config["std"]}
    size, colours = tuple(config["input_size"][1:]), (tuple(config["mean"]), tuple(config["std"]))
    identity = functools.cache(lambda: _hash(facts, model.state_dict()))
    dense = patches if hasattr(model, "forward_intermediates") else None
    stride = None
    if getattr(model, "dynamic_img_size", False):
        stride = int(model.patch_embed.patch_size[0])  # type: ignore[union-attr,index]
    return Encoder(shown, size, features, network, identity, *colours, patches=dense, stride=stride)


def _new_timm(name: str, **options: Any) -> nn.Module:
    """A model without a head; one that interpolates its positions takes images of any size in patches."""
    import timm

    try:
        model: nn.Module = timm.create_model(name, num_classes=0, dynamic_img_size=True, **options)
    except TypeError:  # the architecture knows no such option
        model = timm.create_model(name, num_classes=0, **options)
    return model


def _hash(facts: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """sha256 of plain values, and of weights with their names."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=list).encode())
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].dtype} {list(weights[name].shape)}".encode())
        digest.update(weights[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_weights(path: str) -> dict[str, Tensor]:
    """The weights of a file, safetensors or a pickle of nothing else, without a classifier's head."""
    import timm

    if not Path(path).is_file():
        raise UserError(f"{path} is not a file of weights")
    state = timm.models.load_state_dict(path, weights_only=True)
    return {key: value for key, value in state.items() if not key.startswith(("head.", "fc.", "classifier."))}


def _load_weights(model: nn.Module, state: dict[str, Tensor], path: str) -> None:
    missing, unexpected = model.load_state_dict(state, strict=False)
    if missing:
        raise UserError(f"{path} does not fit the model: {len(missing)} weights are missing, first {missing[0]}")
    if unexpected:
        raise UserError(f"{path} does not fit the model: it holds {unexpected[0]}, which the model has not")
