"""A masked autoencoder of video: the image model's blocks on tubelets, patches of several frames.

Written from Tong et al. 2022, "VideoMAE" (arXiv 2203.12602). A clip [B, C, T, H, W] is cut into tubelets of t×p×p
pixels on a grid of T/t time slots, H/p rows and W/p columns; everything else, the fast paths included, is
:class:`mae.models.vit.MaskedAutoencoder`'s. Targets are VideoMAE's: pixels in 0..1, each tubelet normalised channel by
channel over its t·p·p pixels. There is no class token unless it is asked for. ``inflate`` makes a video model of an
image one (Carreira and Zisserman 2017, arXiv 1705.07750).

Shapes: B clips of T frames of H×W pixels, N = T/t · H/p · W/p tubelets, slot by slot and row by row, D the width.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from mae.models.linear import Linear
from mae.models.sizes import SIZES, decoder_heads
from mae.models.tokens import sincos_positions
from mae.models.vit import MaskedAutoencoder
from mae.pixels import IMAGE_MEAN, IMAGE_STD

POSITIONS = ("space-time", "table")
"""``space-time``: the image's positions plus those of the time slots, whose mean is zero; ``table``: VideoMAE's own,
which counts all tubelets of a clip in one row."""

_DEVIATION_FLOOR = 1e-6

_CARD = """---
{{ card_data }}
---

# Masked autoencoder of video

A ViT pretrained on video as a masked autoencoder (Tong et al. 2022, arXiv 2203.12602). It opens with saliency-mae:

```python
from mae.models.video import VideoMaskedAutoencoder

model = VideoMaskedAutoencoder.from_pretrained("{{ place | default("user/name", true) }}")
features = model.features(videos)  # [B, D] of [B, 3, T, H, W], normalised by ImageNet's mean and deviation
```

{{ facts | default("", true) }}
"""


class TubeletEmbed(nn.Module):
    """Tokens [B, N, D] of clips [B, C, T, H, W]: a linear layer on each tubelet, written as a convolution."""

    def __init__(self, tubelet: int, patch_size: int, channels: int, width: int) -> None:
        super().__init__()
        shape = (tubelet, patch_size, patch_size)
        self.proj = nn.Conv3d(channels, width, kernel_size=shape, stride=shape)

    def forward(self, videos: Tensor) -> Tensor:
        """[B, N, D] of [B, C, T, H, W], without positions."""
        tokens: Tensor = self.proj(videos).flatten(2).transpose(1, 2)
        return tokens


class VideoMaskedAutoencoder(
    MaskedAutoencoder,
    library_name="saliency-mae",
    tags=["masked-autoencoder", "vision-transformer", "video"],
    pipeline_tag="video-classification",
    model_card_template=_CARD,
):
    """A masked autoencoder for clips of ``frames`` frames; what images are to the base class, clips are here.

    ``tubelet`` is the number of frames of a tubelet, ``positions`` one of POSITIONS. ``class_token`` puts one before
    the tubelets, or ``class_tokens`` of them, and ``decoder_bias`` gives the layer between encoder and decoder a bias;
    VideoMAE has neither. Anything that does not divide is a ValueError.
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        frames: int = 16,
        tubelet: int = 2,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        decoder_width: int = 384,
        decoder_depth: int = 4,
        decoder_heads: int = 6,
        mlp_ratio: float = 4.0,
        norm_pix: bool = True,
        channels: int = 3,
        positions: str = "space-time",
        class_token: bool = False,
        decoder_bias: bool = False,
        class_tokens: int = 1,
    ) -> None:
        if tubelet < 1 or frames < tubelet or frames % tubelet:
            raise ValueError(f"--frames {frames} must be a multiple of --tubelet {tubelet}")
        if positions not in POSITIONS:
            raise ValueError(f"positions {positions!r} is not one of: {', '.join(POSITIONS)}")
        self.frames, self.tubelet, self.position_kind = frames, tubelet, positions
        self.decoder_bias = decoder_bias
        super().__init__(
            image_size=image_size,
            patch_size=patch_size,
            width=width,
            depth=depth,
            heads=heads,
            decoder_width=decoder_width,
            decoder_depth=decoder_depth,
            decoder_heads=decoder_heads,
            mlp_ratio=mlp_ratio,
            norm_pix=norm_pix,
            channels=channels,
            class_tokens=class_tokens if class_token else 0,
        )

    @classmethod
    def from_size(
        cls,
        name: str,
        image_size: int | Sequence[int] = 224,
        patch_size: int | None = None,
        norm_pix: bool = True,
        *,
        frames: int = 16,
        tubelet: int = 2,
        decoder_width: int | None = None,
        decoder_depth: int | None = None,
        **options: Any,
    ) -> Self:
        """A model of one of SIZES; what is not given is the size's own, and VideoMAE's decoder for its sizes.

        The decoder of ``small`` to ``huge`` is half as wide as the encoder and 4 blocks deep (12 for ``large`` and
        ``huge``), with heads 64 wide, as VideoMAE has them; of the smaller ones, the image model's.
        """
        if name not in SIZES:
            raise ValueError(f"--model {name!r} is not one of: {', '.join(SIZES)}")
        size = SIZES[name]
        if name in _DECODER_DEPTHS:
            half = size.width // 2
            size = size._replace(decoder_width=half, decoder_depth=_DECODER_DEPTHS[name], decoder_heads=half // 64)
        wanted = size.decoder_width if decoder_width is None else decoder_width
        depth = size.decoder_depth if decoder_depth is None else decoder_depth
        if depth < 1:
            raise ValueError(f"--decoder-depth is {depth}; it must be at least 1")
        heads = decoder_heads(size, wanted)
        dims = size._replace(decoder_width=wanted, decoder_depth=depth, decoder_heads=heads)._asdict()
        own_patch_size = dims.pop("patch_size")
        options |= {"frames": frames, "tubelet": tubelet, "norm_pix": norm_pix, **dims}
        return cls(image_size=image_size, patch_size=patch_size or own_patch_size, **options)

    def grid_of(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The grid of clips of the model's length and another size (height, width), in pixels."""
        return self.frames // self.tubelet, size[0] // self.patch_size, size[1] // self.patch_size

    @property
    def numbers_per_patch(self) -> int:
        """How many numbers a tubelet holds, t·p·p·C."""
        return self.tubelet * self.patch_size**2 * self.channels

    def patchify(self, images: Tensor, grid: tuple[int, ...] | None = None) -> Tensor:
        """Clips [B, C, T, H, W] as tubelets [B, N, t·p·p·C]: frame by frame and row by row, a pixel's channels last."""
        self._check_images(images, grid)
        (slots, rows, columns), t, p = grid or self.grid, self.tubelet, self.patch_size
        cells = images.reshape(images.shape[0], self.channels, slots, t, rows, p, columns, p)
        cells = cells.permute(0, 2, 4, 6, 3, 5, 7, 1)  # [B, slots, h, w, t, p, p, C]
        return cells.reshape(images.shape[0], slots * rows * columns, self.numbers_per_patch)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Tubelets [B, N, t·p·p·C] as clips [B, C, T, H, W]; undoes ``patchify``."""
        (slots, rows, columns), t, p = self.grid, self.tubelet, self.patch_size
        cells = patches.reshape(patches.shape[0], slots, rows, columns, t, p, p, self.channels)
        cells = cells.permute(0, 7, 1, 4, 2, 5, 3, 6)  # [B, C, slots, t, h, p, w, p]
        return cells.reshape(patches.shape[0], self.channels, self.frames, *self.image_size)

    def _new_embedding(self, width: int) -> TubeletEmbed:
        return TubeletEmbed(self.tubelet, self.patch_size, self.channels, width)

    def _initialise(self) -> None:
        """As an image model, after as many random numbers as one of the same size draws.

        A seed thus gives the weights that it has always given: a video model once was an image model, some of whose
        layers were replaced.
        """
        image, width = self.patch_size**2 * self.channels, self.pos_embed.shape[-1]
        decoder_width = self.decoder_pos_embed.shape[-1]
        replaced = ((width, image), (decoder_width, width), (image, decoder_width))
        for outputs, inputs in replaced:
            torch.rand(outputs * (inputs + 1))
        blocks = (*self.blocks.modules(), *self.decoder_blocks.modules())
        for outputs, inputs in (*replaced, *(each.weight.shape for each in blocks if isinstance(each, Linear))):
            torch.rand(outputs * inputs)
        for numbers in (width, decoder_width):
            torch.randn(numbers)
        super()._initialise()

    def _fixed_positions(self, grid: tuple[int, ...], width: int) -> Tensor:
        if self.position_kind == "table":
            if grid != self.grid:
                raise ValueError("a model with VideoMAE's table of positions takes clips of its own size alone")
            places = table_positions(grid[0] * grid[1] * grid[2], width)
        else:
            places = space_time_positions(grid, width, self.grid)
        return nn.functional.pad(places, (0, 0, self.class_tokens, 0))[None]

    def _check_images(self, images: Tensor, grid: tuple[int, ...] | None = None) -> None:
        slots, rows, columns = grid or self.grid
        p = self.patch_size
        wanted = (self.channels, slots * self.tubelet, rows * p, columns * p)
        if images.ndim != 5 or tuple(images.shape[1:]) != wanted:
            raise ValueError(f"clips of shape {list(images.shape)} do not fit a model of {wanted} clips")

    def _target(self, patches: Tensor) -> Tensor:
        """What is to be predicted of tubelets [B, n, t·p·p·C], float32."""
        pixels = self._to_colours(patches.float())
        if not self.norm_pix:
            return pixels
        mean, deviation = self._statistics(pixels)
        target: Tensor = ((self._by_channel(pixels) - mean) / deviation).flatten(-2)
        return target

    def _as_pixels(self, prediction: Tensor, patches: Tensor) -> Tensor:
        if self.norm_pix:
            mean, deviation = self._statistics(self._to_colours(patches))
            prediction = (self._by_channel(prediction) * deviation + mean).flatten(-2)
        mean, deviation = self._normalisation(patches)
        return (prediction - mean) / deviation

    def _to_colours(self, patches: Tensor) -> Tensor:
        """Normalised tubelets in the colours 0..1 that they were made from."""
        mean, deviation = self._normalisation(patches)
        return patches * deviation + mean

    def _normalisation(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        return _colours(self.channels, patches.shape[-1] // self.channels, patches.device)

    def _statistics(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel of each tubelet, [B, n, 1, C]; the floor keeps a flat one finite."""
        variance, mean = torch.var_mean(self._by_channel(pixels), dim=-2, keepdim=True)
        return mean, variance.sqrt() + _DEVIATION_FLOOR

    def _by_channel(self, patches: Tensor) -> Tensor:
        """Tubelets [B, n, t·p·p·C] as [B, n, t·p·p, C]."""
        return patches.reshape(*patches.shape[:-1], -1, self.channels)


_DECODER_DEPTHS = {"small": 4, "base": 4, "large": 12, "huge": 12}


def new_model(config: Mapping[str, Any]) -> MaskedAutoencoder:
    """The untrained model with these arguments: of video, if ``frames`` is among them. TypeError, ValueError."""
    return VideoMaskedAutoencoder(**config) if "frames" in config else MaskedAutoencoder(**config)


@torch.no_grad()
def inflate(
    model: MaskedAutoencoder, frames: int, tubelet: int = 2, *, norm_pix: bool | None = None
) -> VideoMaskedAutoencoder:
    """A video model that starts from an image model's weights; ValueError if the frames do not divide.

    The embedding is the image's, repeated over a tubelet's frames and divided by their number: a still clip has the
    tokens of its image. To the image's positions, as its weights have them, those of the time slots are added, whose
    mean over the slots is zero. The predictions are the image's, repeated over the frames. ``norm_pix`` says what it is
    to learn from now on, if that is something else.
    """
    config: dict[str, Any] = dict(model._hub_mixin_config)  # type: ignore[arg-type]
    config["norm_pix"] = model.norm_pix if norm_pix is None else norm_pix
    video = VideoMaskedAutoencoder(**config, frames=frames, tubelet=tubelet, class_token=True, decoder_bias=True)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weight = state["patch_embed.proj.weight"]  # [D, C, p, p]
    state["patch_embed.proj.weight"] = weight[:, :, None].repeat(1, 1, tubelet, 1, 1) / tubelet
    for name in ("decoder_pred.weight", "decoder_pred.bias"):
        state[name] = state[name].repeat(tubelet, *[1] * (state[name].ndim - 1))
    for name in ("pos_embed", "decoder_pos_embed"):
        first, still = state[name][:, : model.class_tokens], state[name][:, model.class_tokens :]
        times = _slot_positions(video.grid[0], video.grid[0], still.shape[-1]).to(still)
        moving = still[:, None] + times[None, :, None]  # [1, slots, S, D]
        state[name] = torch.cat([first, moving.flatten(1, 2)], dim=1)
    video.load_state_dict(state)
    return video.train(model.training)


def space_time_positions(grid: tuple[int, ...], width: int, laid_on: tuple[int, ...] | None = None) -> Tensor:
    """Fixed positions [N, width]: those of an image's rows and columns, plus those of the time slots.

    The mean over the slots of a place is that of the image's patch. ``laid_on`` is a grid of the same clip in whose
    slots, rows and columns the places are counted.
    """
    own = laid_on or grid
    space = sincos_positions(grid[1:], width, own[1:])[0, 1:]
    return (_slot_positions(grid[0], own[0], width)[:, None] + space).flatten(0, 1)


def table_positions(count: int, width: int) -> Tensor:
    """Fixed positions [count, width] as of words in a sentence (arXiv 1706.03762), sine and cosine in turns."""
    exponents = 2 * torch.div(torch.arange(width), 2, rounding_mode="floor").double() / width
    angles = torch.arange(count).double()[:, None] * 10000**-exponents
    return torch.where(torch.arange(width) % 2 == 0, angles.sin(), angles.cos()).float()


def _slot_positions(slots: int, counted: int, width: int) -> Tensor:
    """Sines and cosines of a clip's ``slots``, counted as if they were ``counted``, less their mean, [slots, width]."""
    places = (torch.arange(slots, dtype=torch.float64) + 0.5) * (counted / slots) - 0.5
    angles = places[:, None] * 10000 ** -(torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    return (waves - waves.mean(0)).float()


@functools.cache
def _colours(channels: int, pixels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation that colours were normalised by, for every number of a tubelet, [pixels · channels]."""
    values = (IMAGE_MEAN, IMAGE_STD) if channels == 3 else ((0.0,) * channels, (1.0,) * channels)
    mean, deviation = (torch.tensor(value, device=device).repeat(pixels) for value in values)
    return mean, deviation
