"""Random CLIP models, saved as open_clip saves real ones."""

import json
from pathlib import Path

import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
VISION = {
    "class token": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "average": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16, "pool_type": "avg"},
    "attention": {
        "image_size": 32,
        "patch_size": 8,
        "width": 32,
        "layers": 2,
        "head_width": 16,
        "attentional_pool": True,
        "attn_pooler_queries": 1,
        "attn_pooler_heads": 2,
    },
    "convolutional": {"image_size": 64, "width": 4, "layers": [1, 1, 1, 1]},
    "timm": {
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 160,
    },
    "timm class token": {
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "token",
        "timm_proj": "linear",
        "image_size": 160,
    },
    "timm map": {
        "timm_model_name": "test_vit",
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
        "image_size": 160,
    },
}
VISION["coca"] = VISION["attention"] | {"attn_pooler_queries": 3, "output_tokens": True}
EMBED = {"timm map": 64}
"""Width of the joint space, where it is not 16: SigLIP's is the width of its trunk."""
COCA_TEXT = TEXT | {"embed_cls": True, "output_tokens": True}
PREPROCESS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic", "resize_mode": "squash"}


def make_tiny_clip(kind: str = "class token", seed: int = 0):
    torch.manual_seed(seed)
    if kind == "coca":
        model = CoCa(16, multimodal_cfg=TEXT, text_cfg=COCA_TEXT, vision_cfg=VISION[kind])
    else:
        model = (CustomTextCLIP if "timm" in kind else CLIP)(EMBED.get(kind, 16), VISION[kind], TEXT)
    model.visual.preprocess_cfg = PREPROCESS | {"size": VISION[kind]["image_size"]}
    return model


def save_tiny_clip(folder: Path, kind: str = "class token", seed: int = 0) -> Path:
    model = make_tiny_clip(kind, seed)
    text = COCA_TEXT if kind == "coca" else TEXT
    config = {
        "model_cfg": {"embed_dim": EMBED.get(kind, 16), "vision_cfg": VISION[kind], "text_cfg": text},
        "preprocess_cfg": PREPROCESS,
    }
    if kind == "coca":
        config["model_cfg"]["multimodal_cfg"] = TEXT
    if kind == "coca" or "timm" in kind:
        config["model_cfg"]["custom_text"] = True
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder
