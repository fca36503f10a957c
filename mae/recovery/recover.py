"""What a masked autoencoder makes of hidden pixels, from the visible ones alone.

A patch with any hidden pixel is hidden from the model; of its prediction only the hidden pixels are taken, so that
every visible pixel stays as it is, to the bit. A model whose targets are normalised per patch (``norm_pix``) predicts a
patch without brightness and contrast: they are taken from visible pixels nearby, never from what is hidden. A
prediction's mean and deviation are those of the visible pixels of its own and the other patches, weighted by a Gaussian
of the distance between patches (its deviation is one patch) and by how much of a patch is visible. Of a clip the
patches are tubelets, near in space and time; their mean and deviation are taken channel by channel, as VideoMAE's are.

Shapes: B images of H×W pixels, or clips of T such frames; N patches of p×p, or tubelets of t×p×p.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mae.devices import copy_to
from mae.models.mask import Mask
from mae.models.video import VideoMaskedAutoencoder
from mae.models.vit import MaskedAutoencoder
from mae.pixels import IMAGE_MEAN, IMAGE_STD, denormalise, normalise
from mae.precision import rounded

_FLOOR = 1e-6  # of a variance, as in the model's targets


@torch.no_grad()
def recover(model: MaskedAutoencoder, images: Tensor, hidden: Tensor, precision: str = "fp32") -> Tensor:
    """Images uint8 [B, 3, H, W] whose pixels under ``hidden`` bool [B, H, W] are the model's; all others untouched.

    Clips [B, 3, T, H, W] with ``hidden`` [B, T, H, W] are filled in by a model of video at once, by one of images frame
    by frame. They have the model's size. What lies under ``hidden`` is never looked at. The result is on the model's
    device. Inputs may lie on the host, which does not wait for the device if ``hidden`` does. ValueError for shapes
    that do not fit.
    """
    if hidden.shape != (len(images), *images.shape[2:]):
        raise ValueError(f"hidden pixels of shape {list(hidden.shape)} do not fit images of {list(images.shape)}")
    if isinstance(model, VideoMaskedAutoencoder):
        if images.ndim != 5:
            raise ValueError(f"a model of video fills in clips [B, 3, T, H, W], not images of {list(images.shape)}")
        covered = _tubelet_cells(hidden, model.patch_size, model.tubelet)
    elif images.ndim == 5:
        return _as_clips(recover(model, _frames(images), hidden.flatten(0, 1), precision), len(images))
    else:
        covered = _cells(hidden, model.patch_size)  # bool [B, N, p·p]
    groups, device = _by_count(covered), model.pos_embed.device
    images, hidden, covered = (copy_to(each, device) for each in (images, hidden, covered))
    pixels = normalise(images).masked_fill(hidden[:, None], 0.0)
    found = images.clone()
    for count, members in groups:
        rows = copy_to(members, device)
        found[rows] = _fill(model, pixels[rows], covered[rows], count, precision)
    return torch.where(hidden[:, None], found, images)


@torch.no_grad()
def interpolate(images: Tensor, hidden: Tensor, patch_size: int) -> Tensor:
    """What no model is needed for, to compare with: hidden pixels have the mean colour of visible ones nearby.

    Images uint8 [B, 3, H, W] and ``hidden`` bool [B, H, W] as in :func:`recover`, and the same Gaussian weights; of a
    clip every frame on its own.
    """
    if images.ndim == 5:
        return _as_clips(interpolate(_frames(images), hidden.flatten(0, 1), patch_size), len(images))
    covered = _cells(hidden, patch_size)
    cells = _cells(images.float() / 255, patch_size)  # [B, N, p·p, 3]
    visible = (~covered)[..., None].float()
    share = visible.mean((2, 3))
    colours = (cells * visible).sum(2) / visible.sum(2).clamp(min=1)  # [B, N, 3]
    grid = (images.shape[2] // patch_size, images.shape[3] // patch_size)
    near = torch.einsum("bjk,bkc->bjc", nearness(share, grid), colours)
    near = torch.where((share.sum(1) > 0)[:, None, None], near, 0.5)
    low = near.transpose(1, 2).reshape(len(images), 3, *grid)
    filled = F.interpolate(low, size=images.shape[2:], mode="bilinear", align_corners=False)
    return torch.where(hidden[:, None], (filled * 255).round().clamp(0, 255).to(torch.uint8), images)


@torch.no_grad()
def nearest_in_time(clips: Tensor, hidden: Tensor, patch_size: int, *, past: bool = False) -> Tensor:
    """The other thing that no model is needed for: a hidden pixel is what is seen in its place in the nearest frame.

    Clips uint8 [B, 3, T, H, W] and ``hidden`` bool [B, T, H, W]. Of two frames equally near the earlier one counts;
    with ``past`` no later one ever does, as in a stream. What is not seen so is filled in by :func:`interpolate`.
    """
    plain, count = interpolate(clips, hidden, patch_size), clips.shape[2]
    times = torch.arange(count, device=clips.device)[:, None, None]
    never = 2 * count  # further than any frame is
    before = times.where(~hidden, -never).cummax(1).values
    after = times.where(~hidden, count + never).flip(1).cummin(1).values.flip(1)
    nearest = before if past else torch.where(times - before <= after - times, before, after)
    seen = (nearest >= 0) & (nearest < count)
    there = clips.gather(2, nearest.clamp(0, count - 1)[:, None].expand_as(clips))
    return torch.where(seen[:, None], there, plain)


def _frames(clips: Tensor) -> Tensor:
    """Clips [B, C, T, H, W] as images [B·T, C, H, W]."""
    return clips.transpose(1, 2).flatten(0, 1)


def _as_clips(frames: Tensor, count: int) -> Tensor:
    """Undoes ``_frames``; of ``count`` clips."""
    return frames.reshape(count, -1, *frames.shape[1:]).transpose(1, 2)


def _by_count(covered: Tensor) -> list[tuple[int, Tensor]]:
    """Each number of hidden patches but 0, with the images int64 [b] that have so many: a batch of the model needs it.

    ``covered`` bool [B, N, p·p] says where it is decided: on the host, if it lies there.
    """
    counts = covered.any(2).sum(1)
    return [(count, torch.nonzero(counts == count)[:, 0]) for count in torch.unique(counts).tolist() if count]


def _fill(model: MaskedAutoencoder, pixels: Tensor, covered: Tensor, count: int, precision: str) -> Tensor:
    """The model's picture uint8 [b, 3, …] of normalised images or clips of which ``count`` patches each are hidden."""
    mask = _mask_of(covered.any(2), count)
    with rounded(precision, pixels.device):
        prediction = model.decode(model.encode_visible(pixels, mask.ids_keep), mask.ids_restore).float()
    patches = model.patchify(pixels).float()
    if isinstance(model, VideoMaskedAutoencoder):
        if model.norm_pix:
            mean, deviation = _colour_statistics(patches, covered, model.grid)
            prediction = (_by_channel(prediction) * deviation + mean).flatten(2)
        return (model.unpatchify(prediction) * 255).round().clamp(0, 255).to(torch.uint8)
    if model.norm_pix:
        mean, deviation = patch_statistics(patches, covered, model.grid)
        prediction = prediction * deviation + mean
    return denormalise(model.unpatchify(prediction))


def _mask_of(hidden: Tensor, count: int) -> Mask:
    """The mask that hides these patches, bool [b, N], ``count`` in every row."""
    order = torch.argsort(hidden.int(), dim=1, stable=True)
    return Mask(order[:, : hidden.shape[1] - count], torch.argsort(order, dim=1), hidden)


def patch_statistics(patches: Tensor, covered: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and deviation [b, N, 1] for the prediction of every patch, from visible pixels of patches [b, N, p·p·C]."""
    visible = (~covered).repeat_interleave(patches.shape[2] // covered.shape[2], dim=2)
    share, means, deviations = visible_statistics(patches, visible)
    near = nearness(share, grid)
    mean, deviation = (torch.einsum("bjk,bk->bj", near, values)[:, :, None] for values in (means, deviations))
    seen = (share.sum(1) > 0)[:, None, None]  # with nothing to see, the mean and deviation of all photos
    return torch.where(seen, mean, 0.0), torch.where(seen, deviation, 1.0)


def _colour_statistics(tubelets: Tensor, covered: Tensor, grid: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """As ``patch_statistics`` for tubelets [b, N, t·p·p·3]: of each channel, [b, N, 1, 3], colours in 0..1."""
    usual = [torch.tensor(values, device=tubelets.device) for values in (IMAGE_MEAN, IMAGE_STD)]
    colours = (_by_channel(tubelets) * usual[1] + usual[0]).transpose(2, 3)  # [b, N, 3, t·p·p]
    share, means, deviations = visible_statistics(colours, (~covered)[:, :, None].expand_as(colours))
    share = share[:, :, 0]
    near, seen = nearness(share, grid), (share.sum(1) > 0)[:, None, None]
    mean, deviation = (
        torch.where(seen, near @ values, other) for values, other in zip((means, deviations), usual, strict=True)
    )
    return mean[:, :, None], deviation[:, :, None]


def _by_channel(tubelets: Tensor) -> Tensor:
    """Tubelets [b, N, t·p·p·3] as [b, N, t·p·p, 3]."""
    return tubelets.reshape(*tubelets.shape[:2], -1, 3)


def visible_statistics(values: Tensor, visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of values float [..., n] those that are ``visible`` bool [..., n]: their share, mean and deviation, [...]."""
    weights = visible.float()
    count = weights.sum(-1)
    means = (values * weights).sum(-1) / count.clamp(min=1)
    squares = ((values - means[..., None]).square() * weights).sum(-1)
    return weights.mean(-1), means, (squares / (count - 1).clamp(min=1) + _FLOOR).sqrt()


def nearness(share: Tensor, grid: tuple[int, ...], newest: int | None = None) -> Tensor:
    """How much patch k counts for patch j, [b, N, N], or for the last ``newest`` patches alone, [b, newest, N].

    The grid has rows and columns, or a video's slots, rows and columns; ``share`` [b, N] is how much of each patch can
    be seen.
    """
    sides = torch.meshgrid(*(torch.arange(side, device=share.device) for side in grid), indexing="ij")
    places = torch.stack([side.flatten() for side in sides], dim=1).float()
    apart = ((places if newest is None else places[-newest:])[:, None] - places).square().sum(2)
    # In logarithms, so that the only visible patch counts fully however far it is.
    weights = -0.5 * apart + share.clamp(min=1e-12).log()[:, None, :]
    return weights.masked_fill((share == 0)[:, None, :] & (share.sum(1) > 0)[:, None, None], -torch.inf).softmax(2)


def _cells(values: Tensor, patch_size: int) -> Tensor:
    """Pixels [B, H, W] by patch as [B, N, p·p], or [B, C, H, W] as [B, N, p·p, C]."""
    height, width = values.shape[-2:]
    if height % patch_size or width % patch_size:
        raise ValueError(f"images of {height}×{width} pixels have no whole patches of {patch_size}")
    rows, columns, p = height // patch_size, width // patch_size, patch_size
    cells = values.reshape(len(values), -1, rows, p, columns, p).permute(0, 2, 4, 3, 5, 1)
    flat = cells.reshape(len(values), rows * columns, p * p, -1)
    return flat[..., 0] if values.ndim == 3 else flat


def _tubelet_cells(hidden: Tensor, patch_size: int, tubelet: int) -> Tensor:
    """Pixels [B, T, H, W] of clips by tubelet, [B, N, t·p·p], in the order of a model's tubelets."""
    if hidden.shape[1] % tubelet:
        raise ValueError(f"clips of {hidden.shape[1]} frames have no whole tubelets of {tubelet}")
    cells = _cells(hidden.flatten(0, 1), patch_size)  # [B·T, S, p·p]
    slots = hidden.shape[1] // tubelet
    by_slot = cells.reshape(len(hidden), slots, tubelet, *cells.shape[1:]).transpose(2, 3)  # [B, slots, S, t, p·p]
    return by_slot.reshape(len(hidden), slots * cells.shape[1], -1)
