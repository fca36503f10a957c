"""Names of a masked autoencoder's weights elsewhere: the reference's checkpoints, timm and transformers.

Every function maps one state dict to another and changes no value, so any way there and back is equal to the bit.
Ours are the names of the reference (He et al. 2021, arXiv 2111.06377), whose encoder timm names alike; transformers
cuts the joint matrix of queries, keys and values [3·D, D] into three. What is missing, damaged or of another model is a
ValueError of one line; a classifier's ``head`` is left behind, as it is no part of the encoder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from mae.models.sizes import SIZES

State = dict[str, Tensor]

_KINDS = ("weight", "bias")
_LAYERS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
_ENCODER = ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias")
_DECODER = (
    "mask_token",
    "decoder_pos_embed",
    *(f"decoder_{layer}.{kind}" for layer in ("embed", "norm", "pred") for kind in _KINDS),
)

_THEIR_WHOLE = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "norm": "vit.layernorm",
    "mask_token": "decoder.mask_token",
    "decoder_pos_embed": "decoder.decoder_pos_embed",
    "decoder_embed": "decoder.decoder_embed",
    "decoder_norm": "decoder.decoder_norm",
    "decoder_pred": "decoder.decoder_pred",
}
_THEIR_LAYERS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_THEIR_BLOCKS = {"blocks": "vit.encoder.layer", "decoder_blocks": "decoder.decoder_layers"}
_QKV = ("query", "key", "value")

_OTHER_SPELLINGS = (
    (r"^(embeddings|encoder|layers|layernorm)\.", r"vit.\1."),  # an encoder that was saved without its decoder
    (r"^vit\.layers\.", "vit.encoder.layer."),
    (r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
"""transformers 5 renamed its layers, and saves some under further names; published folders have the older ones."""


def encoder_weights(state: Mapping[str, Tensor]) -> State:
    """The encoder's share of our weights; the decoder's is left out."""
    return {name: weight for name, weight in state.items() if not is_decoder(name)}


def is_decoder(name: str) -> bool:
    """Whether one of our weights belongs to the decoder."""
    return name == "mask_token" or name.startswith("decoder_")


def to_timm(state: Mapping[str, Tensor]) -> State:
    """The encoder as a ``vit_*`` of timm without a head holds it (``num_classes=0``, the class token's features).

    Of several class tokens timm calls the first one so, and the others registers.
    """
    weights = checked(encoder_weights(state))
    first, others = weights["cls_token"].tensor_split([1], dim=1)
    return weights | ({"cls_token": first.contiguous(), "reg_token": others.contiguous()} if others.shape[1] else {})


def from_timm(weights: Mapping[str, Tensor]) -> State:
    """Our encoder's weights from those of a plain ``vit_*`` of timm, as its ``*.mae`` ones are; see :func:`to_timm`."""
    state = encoder_weights(_without_head(weights))
    registers = state.pop("reg_token", None)
    if registers is not None and "cls_token" in state:
        state["cls_token"] = torch.cat([state["cls_token"], registers], dim=1)
    return checked(state)


_CONTAINERS = ("model", "state_dict", "module")
"""Where the reference, Lightning and DeepSpeed keep the weights, one within the other at times."""
_PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DDP, ``torch.compile`` and Lightning put before every name."""
_DEEPEST = 8  # a pickle may hold itself
_DIGITS = 10  # of a block's number, fewer


def from_mae(checkpoint: object) -> State:
    """Our weights from a checkpoint of the reference: of the encoder, or with its decoder.

    ``checkpoint`` is what the file holds: the weights under ``model``, or bare, or as DDP, ``torch.compile``, DeepSpeed
    and Lightning wrap them. A fine-tuned one gives its encoder if that is whole; one that pools before its norm
    (``fc_norm``) has lost the encoder's own and is refused.
    """
    weights = unwrapped(checkpoint)
    if not isinstance(weights, Mapping) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise ValueError("the file holds no weights by name, neither bare nor under 'model'")
    return checked(_without_head(weights))


def unwrapped(checkpoint: object) -> object:
    """What a checkpoint holds without the keys and prefixes of what it was trained in, see ``_CONTAINERS``."""
    for _ in range(_DEEPEST):
        if not isinstance(checkpoint, Mapping):
            break
        inner = next((checkpoint[key] for key in _CONTAINERS if isinstance(checkpoint.get(key), Mapping)), None)
        prefix = next(
            (p for p in _PREFIXES if checkpoint and all(str(name).startswith(p) for name in checkpoint)), None
        )
        if inner is not None:
            checkpoint = inner
        elif prefix is not None:
            checkpoint = {name.removeprefix(prefix): weight for name, weight in checkpoint.items()}
        else:
            break
    return checkpoint


def to_transformers(state: Mapping[str, Tensor]) -> State:
    """Our weights under the names that the published ViTMAE folders have and every transformers loads."""
    weights: State = {}
    for name, weight in checked(state).items():
        sources = _their_names(name)
        parts = weight.chunk(len(sources))
        weights |= dict(zip(sources, parts, strict=True))
    return weights


def from_transformers(weights: Mapping[str, Tensor]) -> State:
    """Our weights from a ViTMAE's, whichever transformers saved it, with or without its decoder."""
    theirs = {_published(name): weight for name, weight in weights.items()}
    depths = [count_blocks(theirs, f"{blocks}.") for blocks in _THEIR_BLOCKS.values()]
    state: State = {}
    for name in _expected(depths[0], depths[1], decoder=any(name.startswith("decoder.") for name in theirs)):
        sources = _their_names(name)
        missing = [source for source in sources if source not in theirs]
        if missing:
            raise ValueError(f"{missing[0]} is missing: these are not the weights of a whole ViTMAE")
        parts = [theirs.pop(source) for source in sources]
        state[name] = parts[0] if len(parts) == 1 else torch.cat(parts)
    if theirs:
        raise ValueError(f"{min(theirs)} is nothing that a ViTMAE has")
    return checked(state)


def checked(state: Mapping[str, Tensor]) -> State:
    """The weights, if they are an encoder's, or an encoder's and a decoder's, by our names; ValueError otherwise."""
    decoder = any(map(is_decoder, state))
    expected = _expected(count_blocks(state, "blocks."), count_blocks(state, "decoder_blocks."), decoder=decoder)
    missing = [name for name in expected if name not in state]
    if "norm.weight" in missing and "fc_norm.weight" in state:
        raise ValueError(
            "the model is fine-tuned and pools before its norm (fc_norm), so the encoder's own norm is gone; "
            "take the pretrained weights, or evaluate timm:NAME@FILE"
        )
    if missing:
        raise ValueError(f"{missing[0]} is missing: these are not the weights of a whole masked autoencoder's encoder")
    unknown = sorted(set(state) - set(expected))
    if unknown:
        raise ValueError(f"{unknown[0]} is nothing that a masked autoencoder has: these are another model's weights")
    if state["patch_embed.proj.weight"].ndim != 4 or state["pos_embed"].ndim != 3:
        raise ValueError("patch_embed.proj.weight or pos_embed has not the shape of a vision transformer's")
    return {name: state[name] for name in expected}


def model_config(
    state: Mapping[str, Tensor],
    *,
    image_size: int | Sequence[int] | None = None,
    heads: int | None = None,
    decoder_heads: int | None = None,
    norm_pix: bool = True,
) -> dict[str, Any]:
    """The arguments of :class:`~mae.models.vit.MaskedAutoencoder` for weights by our names.

    What weights don't tell is an argument: the heads, known only where the width is that of one of SIZES; the image's
    height and width, square if not given; and whether targets were normalised. Without a decoder its part is the
    one that goes with the width, or the paper's.
    """
    width, channels, patch_size, other_side = state["patch_embed.proj.weight"].shape
    if patch_size != other_side:
        raise ValueError(f"patches of {patch_size}×{other_side} pixels are not square")
    tokens = state["cls_token"].shape[1]
    cells = state["pos_embed"].shape[1] - tokens
    if image_size is None:
        if isqrt(cells) ** 2 != cells:
            raise ValueError(f"{cells} patches are no square: the image's height and width must be known")
        image_size = isqrt(cells) * patch_size
    config: dict[str, Any] = {"image_size": image_size, "patch_size": patch_size, "channels": channels}
    config |= {"width": width, "depth": count_blocks(state, "blocks."), "norm_pix": norm_pix}
    config["class_tokens"] = tokens
    config["heads"] = heads or _known_heads("width", "heads", width)
    config["mlp_ratio"] = state["blocks.0.mlp.fc1.weight"].shape[0] / width if config["depth"] else 4.0
    if "decoder_embed.weight" not in state:
        size = next((size for size in SIZES.values() if size.width == width), SIZES["base"])
        names = ("decoder_width", "decoder_depth", "decoder_heads")
        return config | {name: getattr(size, name) for name in names}
    decoder_width = state["decoder_embed.weight"].shape[0]
    config |= {"decoder_width": decoder_width, "decoder_depth": count_blocks(state, "decoder_blocks.")}
    return config | {"decoder_heads": decoder_heads or _known_heads("decoder_width", "decoder_heads", decoder_width)}


def transformers_config(config: Mapping[str, Any], *, decoder: bool = True) -> dict[str, Any]:
    """The ``config.json`` of a ViTMAE folder for a model with these arguments; ValueError if the image isn't square."""
    sides = config["image_size"]
    height, width = (sides, sides) if isinstance(sides, int) else sides
    if height != width:
        raise ValueError(f"transformers' ViTMAE takes square images only, and this model's are {height}×{width}")
    ratio = config["mlp_ratio"]
    return {
        "architectures": ["ViTMAEForPreTraining" if decoder else "ViTMAEModel"],
        "model_type": "vit_mae",
        "image_size": height,
        "patch_size": config["patch_size"],
        "num_channels": config["channels"],
        "hidden_size": config["width"],
        "num_hidden_layers": config["depth"],
        "num_attention_heads": config["heads"],
        "intermediate_size": int(config["width"] * ratio),
        "decoder_hidden_size": config["decoder_width"],
        "decoder_num_hidden_layers": config["decoder_depth"],
        "decoder_num_attention_heads": config["decoder_heads"],
        "decoder_intermediate_size": int(config["decoder_width"] * ratio),
        "norm_pix_loss": config["norm_pix"],
        "mask_ratio": 0.75,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layer_norm_eps": 1e-6,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "dtype": "float32",
    }


def config_from_transformers(theirs: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of our model for a ViTMAE's ``config.json`` and its weights by our names.

    Our norms add 1e-6, as those of the reference do; a published folder's ``layer_norm_eps`` of 1e-12 is not its
    weights' own, and is passed over.
    """
    if theirs.get("model_type") != "vit_mae":
        raise ValueError(f"config.json is of a {theirs.get('model_type')!r}, not of a vit_mae")
    if theirs.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"hidden_act is {theirs['hidden_act']!r}; a masked autoencoder's is gelu")
    return model_config(
        state,
        image_size=theirs.get("image_size", 224),
        heads=theirs.get("num_attention_heads", 12),
        decoder_heads=theirs.get("decoder_num_attention_heads", 16),
        norm_pix=theirs.get("norm_pix_loss", False),
    )


def _expected(depth: int, decoder_depth: int, *, decoder: bool) -> list[str]:
    """Every name of a model with so many blocks; at least one, so that foreign weights lack something."""
    names = [*_ENCODER, *(_DECODER if decoder else ())]
    for blocks, count in (("blocks", max(1, depth)), ("decoder_blocks", decoder_depth)):
        names += [f"{blocks}.{n}.{layer}.{kind}" for n in range(count) for layer in _LAYERS for kind in _KINDS]
    return names


def _their_names(name: str) -> list[str]:
    """What one of our weights is called in transformers: three names for a joint attention matrix."""
    match = re.fullmatch(r"(blocks|decoder_blocks)\.(\d+)\.(.+)\.(weight|bias)", name)
    if match is None:
        stem, dot, kind = (name, "", "") if name in _THEIR_WHOLE else name.rpartition(".")
        return [_THEIR_WHOLE[stem] + dot + kind]
    blocks, number, layer, kind = match.groups()
    place = f"{_THEIR_BLOCKS[blocks]}.{number}"
    if layer == "attn.qkv":
        return [f"{place}.attention.attention.{part}.{kind}" for part in _QKV]
    return [f"{place}.{_THEIR_LAYERS[layer]}.{kind}"]


def _published(name: str) -> str:
    for pattern, replacement in _OTHER_SPELLINGS:
        name = re.sub(pattern, replacement, name)
    return name


def _without_head(weights: Mapping[str, Tensor]) -> State:
    return {name: weight for name, weight in weights.items() if not name.startswith("head.")}


def count_blocks(names: Iterable[str], prefix: str) -> int:
    """How many blocks there are under ``prefix``, by the largest number among the names.

    Where numbers are left out it is one more than there are, so that a block is missing, however large a number is.
    """
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)}
    known = [int(number) for number in numbers if number.isdecimal() and len(number) < _DIGITS]
    return min(max(known, default=-1), len(known)) + 1


def _known_heads(width_of: str, heads_of: str, width: int) -> int:
    for size in SIZES.values():
        if getattr(size, width_of) == width:
            return int(getattr(size, heads_of))
    raise ValueError(f"how many heads a model of {width_of} {width} has can't be told from its weights")
