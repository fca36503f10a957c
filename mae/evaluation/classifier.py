"""An encoder with a classifier's head, all of it trainable: what fine-tuning starts from.

Ours becomes timm's VisionTransformer, which has drop path, layer-wise learning rates and any image size. As in MAE's
own fine-tuning the patch tokens are averaged and normed after that (``fc_norm``, new), so the encoder's last norm is
left behind, and positions are learned on from where they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.formats.interchange import to_timm
from mae.models.video import TubeletEmbed

_HEAD_DEVIATION = 2e-5  # the published recipe's: the first step sees the encoder's features nearly unweighted


def vision_transformer(state: Mapping[str, Tensor], config: Mapping[str, Any], drop_path: float) -> VisionTransformer:
    """timm's VisionTransformer, without a head, with the encoder's weights of one of ours.

    ``state`` holds our weights, ``config`` the arguments of :class:`~mae.models.vit.MaskedAutoencoder`, or of
    :class:`~mae.models.video.VideoMaskedAutoencoder`: then it takes clips [B, 3, T, H, W].
    """
    sides, video = config["image_size"], "frames" in config
    class_token = not video or config["class_token"]
    network = VisionTransformer(
        img_size=(sides, sides) if isinstance(sides, int) else tuple(sides),
        patch_size=config["patch_size"],
        class_token=class_token,
        in_chans=config["channels"],
        num_classes=0,
        global_pool="token" if class_token else "avg",
        fc_norm=False,
        embed_dim=config["width"],
        depth=config["depth"],
        num_heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
        reg_tokens=config.get("class_tokens", 1) - 1,
        drop_path_rate=drop_path,
    )
    weights = dict(state) if video else to_timm(state)
    if video:
        embed = TubeletEmbed(config["tubelet"], config["patch_size"], config["channels"], config["width"])
        network.patch_embed = embed
        network.pos_embed = nn.Parameter(torch.empty_like(weights["pos_embed"]))
    network.load_state_dict(weights)
    return network


def add_head(network: nn.Module, classes: int, seed: int) -> None:
    """Give the network, in place, a new linear head for so many classes, drawn by ``seed``.

    A plain VisionTransformer that pools by its class token or the mean now pools as MAE's fine-tuning does; any other
    model of timm keeps its own pooling. ValueError for a model that can have no head.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if not isinstance(network, VisionTransformer):
            reset = getattr(network, "reset_classifier", None)
            if reset is None:
                raise ValueError("the model takes no classifier, so it can't be fine-tuned")
            reset(classes)
            return
        if network.global_pool in ("token", "avg") and isinstance(network.fc_norm, nn.Identity):
            network.reset_classifier(classes, "avg")
            network.norm, network.fc_norm = nn.Identity(), nn.LayerNorm(network.embed_dim, eps=1e-6)
        else:
            network.reset_classifier(classes)
        nn.init.trunc_normal_(network.head.weight, std=_HEAD_DEVIATION)
        nn.init.zeros_(network.head.bias)
