"""Names of a video model's weights in ``transformers``: VideoMAE's folders (Tong et al. 2022, arXiv 2203.12602).

Two things are not names alone. A VideoMAE keeps no positions, as they follow from its table, and its keys have no
bias: a bias of the keys adds the same to every product of a query and changes no attention (ours comes back as zero).
What a VideoMAE can't be, or is not whole, is a ValueError of one line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mae.formats.interchange import State, count_blocks
from mae.models.video import table_positions

_WHOLE = {
    "patch_embed.proj.weight": "videomae.embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "videomae.embeddings.patch_embeddings.projection.bias",
    "norm.weight": "videomae.layernorm.weight",
    "norm.bias": "videomae.layernorm.bias",
    "decoder_embed.weight": "encoder_to_decoder.weight",
    "mask_token": "mask_token",
    "decoder_norm.weight": "decoder.norm.weight",
    "decoder_norm.bias": "decoder.norm.bias",
    "decoder_pred.weight": "decoder.head.weight",
    "decoder_pred.bias": "decoder.head.bias",
}
_LAYERS = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_BLOCKS = {"blocks": "videomae.encoder.layer", "decoder_blocks": "decoder.decoder_layers"}
_POSITIONS = ("videomae.embeddings.position_embeddings", "position_embeddings")

_OTHER_SPELLINGS = (
    (r"\.query\.bias$", ".q_bias"),
    (r"\.value\.bias$", ".v_bias"),
)
"""transformers 5 calls two biases otherwise in its modules than in its files."""


def to_videomae(state: Mapping[str, Tensor]) -> State:
    """The weights of a whole video model with VideoMAE's positions and no class token, as its folders name them."""
    if "cls_token" in state or "decoder_embed.bias" in state:
        what = "class token" if "cls_token" in state else "bias between encoder and decoder"
        raise ValueError(f"a VideoMAE of transformers has no {what}, and this model has one")
    tables = (state["pos_embed"], state["decoder_pos_embed"])
    if any(not torch.allclose(table[0].cpu(), table_positions(*table.shape[1:]), atol=1e-6) for table in tables):
        raise ValueError("a VideoMAE of transformers knows its own table of positions alone: pretrain with it")
    weights = {theirs: state[ours] for ours, theirs in _WHOLE.items()}
    for ours, theirs in _BLOCKS.items():
        for n in range(count_blocks(state, f"{ours}.")):
            for layer, name in _LAYERS.items():
                for kind in ("weight", "bias"):
                    weights[f"{theirs}.{n}.{name}.{kind}"] = state[f"{ours}.{n}.{layer}.{kind}"]
            attention = f"{theirs}.{n}.attention.attention"
            query, key, value = state[f"{ours}.{n}.attn.qkv.weight"].chunk(3)
            q_bias, _, v_bias = state[f"{ours}.{n}.attn.qkv.bias"].chunk(3)
            parts = {"query.weight": query, "key.weight": key, "value.weight": value}
            parts |= {"q_bias": q_bias, "v_bias": v_bias}
            weights |= {f"{attention}.{part}": weight for part, weight in parts.items()}
    return weights


def from_videomae(weights: Mapping[str, Tensor]) -> State:
    """Our weights, but for the positions, from those of a ``VideoMAEForPreTraining``."""
    theirs = {_spelled(name): weight for name, weight in weights.items() if name not in _POSITIONS}
    if _WHOLE["norm.weight"] not in theirs:
        raise ValueError(
            "videomae.layernorm.weight is missing: with use_mean_pooling a VideoMAE has no norm behind its encoder, "
            "and pretrained ones have"
        )

    def take(name: str) -> Tensor:
        if name not in theirs:
            raise ValueError(f"{name} is missing: these are not the weights of a whole VideoMAEForPreTraining")
        return theirs.pop(name)

    counts = {blocks: count_blocks(theirs, f"{name}.") for blocks, name in _BLOCKS.items()}
    state = {ours: take(name) for ours, name in _WHOLE.items()}
    for ours, name in _BLOCKS.items():
        for n in range(max(1, counts[ours])):
            for layer, other in _LAYERS.items():
                for kind in ("weight", "bias"):
                    state[f"{ours}.{n}.{layer}.{kind}"] = take(f"{name}.{n}.{other}.{kind}")
            attention = f"{name}.{n}.attention.attention"
            matrices = [take(f"{attention}.{part}.weight") for part in ("query", "key", "value")]
            state[f"{ours}.{n}.attn.qkv.weight"] = torch.cat(matrices)
            query, value = take(f"{attention}.q_bias"), take(f"{attention}.v_bias")
            state[f"{ours}.{n}.attn.qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
    if theirs:
        raise ValueError(f"{min(theirs)} is nothing that a VideoMAEForPreTraining has")
    return state


def with_positions(state: State, config: Mapping[str, Any]) -> State:
    """The weights with VideoMAE's positions, for a model of these arguments."""
    side = config["image_size"] // config["patch_size"]
    count = config["frames"] // config["tubelet"] * side**2
    widths = {"pos_embed": config["width"], "decoder_pos_embed": config["decoder_width"]}
    return state | {name: table_positions(count, width)[None] for name, width in widths.items()}


def config_from_videomae(theirs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of :class:`mae.models.video.VideoMaskedAutoencoder` for a VideoMAE's ``config.json``.

    Our norms add 1e-6, as those that the published weights were trained with; ``layer_norm_eps`` is passed over.
    """
    if theirs.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"hidden_act is {theirs['hidden_act']!r}; a masked autoencoder's is gelu")
    if not theirs.get("qv_bias", True):
        raise ValueError("qv_bias is false; a masked autoencoder's queries and values have biases")
    config = {ours: theirs.get(name, default) for ours, (name, default) in _CONFIG.items()}
    ratios = [
        theirs.get(f"{part}intermediate_size", size) / config[f"{part}width"]
        for part, size in (("", 3072), ("decoder_", 1536))
    ]
    if ratios[0] != ratios[1]:
        raise ValueError(f"encoder and decoder widen {ratios[0]:g} and {ratios[1]:g} times; ours widen alike")
    return config | {"mlp_ratio": ratios[0], "positions": "table", "class_token": False, "decoder_bias": False}


_CONFIG: dict[str, tuple[str, Any]] = {
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 16),
    "frames": ("num_frames", 16),
    "tubelet": ("tubelet_size", 2),
    "width": ("hidden_size", 768),
    "depth": ("num_hidden_layers", 12),
    "heads": ("num_attention_heads", 12),
    "decoder_width": ("decoder_hidden_size", 384),
    "decoder_depth": ("decoder_num_hidden_layers", 4),
    "decoder_heads": ("decoder_num_attention_heads", 6),
    "norm_pix": ("norm_pix_loss", True),
    "channels": ("num_channels", 3),
}
"""Our arguments, VideoMAE's names for them, and the values that its folders may leave out."""


def videomae_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The ``config.json`` of a VideoMAE folder for a model with these arguments; ValueError if it can't be one."""
    sides = config["image_size"]
    height, width = (sides, sides) if isinstance(sides, int) else sides
    if height != width:
        raise ValueError(f"a VideoMAE of transformers takes square frames only, and this model's are {height}×{width}")
    ratio = config["mlp_ratio"]
    return {
        "architectures": ["VideoMAEForPreTraining"],
        "model_type": "videomae",
        **{name: config[ours] for ours, (name, _) in _CONFIG.items()},
        "image_size": height,
        "intermediate_size": int(config["width"] * ratio),
        "decoder_intermediate_size": int(config["decoder_width"] * ratio),
        "use_mean_pooling": False,
        "hidden_act": "gelu",
        "qv_bias": True,
        "layer_norm_eps": 1e-6,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "dtype": "float32",
    }


def _spelled(name: str) -> str:
    for pattern, replacement in _OTHER_SPELLINGS:
        name = re.sub(pattern, replacement, name)
    return name
