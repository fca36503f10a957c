"""A CLIP model seen as what saliency needs of it: preprocess, encode texts, the layer to look at, its patch grid.
from saliency.devices import copy_to

The layer is chosen by how the image tower pools its tokens, since a map needs patch tokens that carry gradient:

=====================  ==================================  =====================================================
pooling                layer                               why
=====================  ==================================  =====================================================
class token            the last block's first LayerNorm    after the last block only the class token has gradient
average of tokens      the last block's first LayerNorm    at its output maps were measured worse than chance
attention pool         the last block's output             every token reaches the pool (SigLIP, CoCa)
convolutional          the last stage (``layer4``)         as in Grad-CAM (arXiv 1610.02391)
=====================  ==================================  =====================================================
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from saliency.caches import cache_fault
from saliency.devices import copy_to
from saliency.maps import FULL, Box
from saliency.names import OWN_WEIGHTS
from saliency.towers.input_size import set_input_size
from saliency.towers.texts import encode_tokens

DEMO_CLIP = Path(__file__).parent / "demo_clip"
"""The small CLIP of the built-in scenes, in open_clip's ``local-dir:`` layout."""

_INTERPOLATIONS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Layer:
    """Where a tower is read: a module, its dotted name, how the tower pools, how many tokens precede the patches."""

    module: nn.Module
    name: str
    pooling: str
    prefix_tokens: int


class Tower:
    """A frozen CLIP model in evaluation mode.

    ``grid`` is the (rows, columns) of the layer's output, ``size`` the side in pixels of the square it sees (the
    model's own, or the one asked for, see :mod:`saliency.towers.input_size`; the model is changed in place for it),
    ``weights_sha256`` a hash over all parameters and buffers as they were before, ``precision`` (fp32 or bf16) what
    all before the layer is computed in.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        device: torch.device | str = "cpu",
        precision: str = "auto",
        size: int | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.precision = _trunk_precision(precision, self.device)
        self.model = model.eval().requires_grad_(False).to(self.device)
        self._model: Any = model  # as Any: open_clip is untyped
        self.tokenizer = tokenizer
        visual: Any = model.visual
        config = visual.preprocess_cfg
        self.weights_sha256 = _hash_weights(model)  # as they came: another size interpolates some of them
        self.size = _square_side(config["size"])
        if size is not None:
            set_input_size(visual, self.size, size)
            self.size = size
        if config["interpolation"] not in _INTERPOLATIONS:
            raise ValueError(
                f"the model wants {config['interpolation']!r} interpolation; bicubic or bilinear is supported"
            )
        self.interpolation: str = config["interpolation"]
        self._mean = torch.tensor(config["mean"], device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(config["std"], device=self.device).view(1, 3, 1, 1)
        self.layer = find_layer(visual)
        self.grid = self._probe_grid()

    def squash(self, image: Image.Image, box: Box = FULL) -> NDArray[np.uint8]:
        """The part ``box`` (x0, y0, x1, y1, fractions) of an RGB image at the model's square size, uint8 [3, S, S].

        A whole image that shrinks to a half or less is left to :meth:`shrink`.
        """
        if box == FULL and min(image.size) >= 2 * self.size:
            return self.shrink(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1))
        width, height = image.size
        part = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
        seen = image.resize((self.size, self.size), _INTERPOLATIONS[self.interpolation], box=part)
        return np.asarray(seen).transpose(2, 0, 1)

    def shrink(self, pixels: Tensor) -> NDArray[np.uint8]:
        """RGB pixels uint8 [3, H, W], H and W at least twice S, at the model's square size, uint8 [3, S, S].

        PyTorch takes an eighth of Pillow's time for a photograph of 1500×1000. In two bytes of a thousand its value is
        Pillow's ± 1.
        """
        size = (self.size, self.size)
        resized = F.interpolate(pixels[None], size, mode=self.interpolation, antialias=True)
        return np.asarray(resized[0].numpy())

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 [B, 3, S, S] → the float32 input the model was trained on."""
        return (copy_to(pixels, self.device).float() / 255 - self._mean) / self._std

    @torch.no_grad()
    def encode_texts(self, captions: Sequence[str]) -> Tensor:
        """Unit-length text features float32 [n, D]; captions longer than the context are cut, as CLIP does."""
        return F.normalize(encode_tokens(self.model, self.tokenizer(list(captions)), self.device), dim=-1)

    def compile(self) -> None:
        """Compile the trunk, block by block: all that runs before the last block, with static shapes.

        Hooks inside of it are frozen with it, so only for methods that read nothing before the last block. ValueError
        if the tower has no trunk that is known, or the machine no compiler.
        """
        modules = trunk_modules(self.model.visual)
        if not modules:
            raise ValueError("--compile knows no trunk in this model's image tower; leave it out")
        try:
            torch.compile(torch.sin)(torch.zeros(8, device=self.device))
        except Exception as error:  # whatever the compilers of this machine, or their absence, raise
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise ValueError(f"--compile can't compile anything here ({reason[:150]}); leave it out") from error
        for module in modules:
            module.compile(dynamic=False)

    def encode_images(self, inputs: Tensor) -> Tensor:
        """Unit-length image features float32 [B, D] of normalised inputs; keeps the graph if there is one."""
        features: Tensor = self._model.encode_image(inputs).float()
        return F.normalize(features, dim=-1)

    def to_grid(self, activations: Tensor) -> Tensor:
        """Tokens [B, prefix + H·W, C] or feature maps [B, C, H, W] of the layer → [B, C, H, W]."""
        if activations.ndim == 4:
            return activations
        patches = activations[:, self.layer.prefix_tokens :]
        return patches.transpose(1, 2).reshape(len(patches), -1, *self.grid)

    def _probe_grid(self) -> tuple[int, int]:
        seen: list[Tensor] = []
        handle = self.layer.module.register_forward_hook(lambda _m, _i, output: seen.append(output))
        try:
            with torch.no_grad():
                self.encode_images(torch.zeros(1, 3, self.size, self.size, device=self.device))
        finally:
            handle.remove()
        shape = seen[0].shape
        if len(shape) == 4:
            return shape[2], shape[3]
        side = int((shape[1] - self.layer.prefix_tokens) ** 0.5)
        if shape[0] != 1 or side * side != shape[1] - self.layer.prefix_tokens:
            raise ValueError(
                f"layer {self.layer.name} gives {tuple(shape)}, which is not a square grid of patch tokens"
            )
        return side, side


def find_layer(visual: nn.Module) -> Layer:
    """The layer to read of an open_clip image tower; ValueError for a tower of an unknown kind."""
    tower: Any = visual
    if hasattr(tower, "transformer") and hasattr(tower.transformer, "resblocks"):
        last, blocks = tower.transformer.resblocks[-1], f"transformer.resblocks.{len(tower.transformer.resblocks) - 1}"
        if not getattr(tower.transformer, "batch_first", True):
            raise ValueError("this open_clip orders tokens first; install open_clip_torch >= 3.0")
        if tower.attn_pool is not None:
            return Layer(last, blocks, "attention", 1)
        pooling = "average" if tower.pool_type == "avg" else "class token"
        return Layer(last.ln_1, f"{blocks}.ln_1", pooling, 1)
    if hasattr(tower, "layer4") and hasattr(tower, "attnpool"):
        return Layer(tower.layer4, "layer4", "convolutional", 0)
    if hasattr(tower, "trunk"):
        return _find_timm_layer(tower.trunk)
    raise ValueError(f"no saliency layer is known for an image tower of class {type(visual).__name__}")


def _find_timm_layer(trunk: Any) -> Layer:
    if hasattr(trunk, "blocks") and hasattr(trunk, "patch_embed"):
        last, name = trunk.blocks[-1], f"trunk.blocks.{len(trunk.blocks) - 1}"
        prefix = trunk.num_prefix_tokens
        if getattr(trunk, "attn_pool", None) is not None:
            return Layer(last, name, "attention", prefix)
        pooling = "class token" if trunk.global_pool == "token" else "average"
        return Layer(last.norm1, f"{name}.norm1", pooling, prefix)
    if hasattr(trunk, "layer4"):
        return Layer(trunk.layer4, "trunk.layer4", "convolutional", 0)
    if hasattr(trunk, "stages"):
        # the last stage itself: some trunks (FastViT) call them one by one, and a hook on their container sees nothing
        return Layer(trunk.stages[-1], f"trunk.stages.{len(trunk.stages) - 1}", "convolutional", 0)
    raise ValueError(f"no saliency layer is known for a timm trunk of class {type(trunk).__name__}")


def trunk_modules(visual: Any) -> list[nn.Module]:
    """The repeated parts of an image tower that run before the one its saliency is read from."""
    trunk = getattr(visual, "trunk", visual)
    if hasattr(trunk, "transformer"):
        return list(trunk.transformer.resblocks[:-1])
    if hasattr(trunk, "blocks"):
        return list(trunk.blocks[:-1])
    if hasattr(trunk, "layer4"):
        return [trunk.layer1, trunk.layer2, trunk.layer3]
    return []  # nothing is known to be safe to compile


def load_tower(
    clip: str,
    pretrained: str | None = None,
    *,
    device: torch.device | str = "cpu",
    precision: str = "auto",
    size: int | None = None,
) -> Tower:
    """Load a CLIP model through open_clip.

    ``clip`` is an open_clip model name (with ``pretrained`` a tag such as ``openai`` or a weights file),
    ``hf-hub:user/name`` or ``local-dir:path``. ``size`` is the side in pixels of the square that it is to see, its own
    if not given; for another its position embeddings are interpolated. Raises ValueError, one line that says what to
    do, when the name is unknown, the weights can't be had or the size does not suit the model. Weights whose tag was
    trained with QuickGELU get it: open_clip only warns.
    """
    import open_clip

    named = not clip.startswith(OWN_WEIGHTS)
    if named and not pretrained:
        raise ValueError(f"--clip {clip} needs --pretrained: a tag (see open_clip.list_pretrained()) or a weights file")
    quick_gelu = bool(named and (open_clip.get_pretrained_cfg(clip, pretrained) or {}).get("quick_gelu", False))
    try:
        with _quiet():
            model = open_clip.create_model(
                clip, pretrained if named else None, force_quick_gelu=quick_gelu, require_pretrained=True
            )
            tokenizer = open_clip.get_tokenizer(clip)
    except Exception as error:  # open_clip raises whatever the hub, json, torch or safetensors raised
        raise ValueError(_explain(clip, pretrained if named else None, error)) from error
    return Tower(model, tokenizer, device=device, precision=precision, size=size)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hush the hub's retries and open_clip's log while loading: what matters of them is in the error's one line."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def _explain(clip: str, pretrained: str | None, error: Exception) -> str:
    import open_clip

    if fault := cache_fault(error, reading=True):
        return fault
    reason = " ".join(str(error).split())
    shown = f"{clip} {pretrained}" if pretrained else clip
    if pretrained and clip not in open_clip.list_models():
        return f"--clip {clip} is not an open_clip model (open_clip.list_models() names them), hf-hub:… or local-dir:…"
    if clip.startswith("local-dir:"):
        return f"--clip {shown} can't be loaded: {reason[:200]}; the folder needs open_clip_config.json and its weights"
    if pretrained and not open_clip.get_pretrained_cfg(clip, pretrained):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(clip))
        return f"--pretrained {pretrained} is neither a file nor a tag of {clip}; its tags: {tags}"
    return (
        f"the weights of --clip {shown} are not in the cache and can't be downloaded ({reason[:120].rstrip()}…): "
        "check the network, or bring them from another machine and give --clip local-dir:FOLDER or --pretrained FILE"
    )


def _trunk_precision(asked: str, device: torch.device) -> str:
    """fp32 or bf16; ``auto`` is bf16 on the GPUs that have it."""
    if asked not in ("auto", "fp32", "bf16"):
        raise ValueError(f"--precision is {asked!r}; it must be auto, fp32 or bf16")
    if asked != "auto":
        return asked
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def _square_side(size: int | Sequence[int]) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"the model sees {size} pixels; only square inputs are supported")
    return sides.pop()


def _hash_weights(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(
            value.detach().cpu().contiguous().view(torch.uint8).numpy() if value.ndim else str(value.item()).encode()
        )
    return digest.hexdigest()
