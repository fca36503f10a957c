"""Blocks over clips: where they are, that nothing behind them is seen, and figures beside independent ones."""

import dataclasses

import numpy as np
import pytest
import torch

from mae.models.video import VideoMaskedAutoencoder
from pipelines.demo.recovered_clips import BLOCKS, ENTERING, METHODS, fill_in, find, hidden_clips, judge
from pipelines.sources.open_source import open_source

SOURCE = "shapes-video:3,split=test,size=48,frames=12"


def model():
    torch.manual_seed(0)
    return VideoMaskedAutoencoder.from_size("mini", 48, 8, False, frames=4).eval()


@pytest.mark.parametrize("block", BLOCKS)
def test_the_block_stands_over_the_object_goes_to_and_fro_or_hides_half_of_it(block):
    source = open_source(SOURCE)
    for row, clip in enumerate(hidden_clips(source, block)):
        assert clip.hidden.flatten(1).sum(1).tolist() == [12 * 12] * 12
        never = clip.hidden.all(0)
        moved = (clip.hidden[1:] != clip.hidden[:-1]).flatten(1).any(1)
        masks = torch.from_numpy(source.open_video(row).masks(range(12)))
        if block == "standing":
            assert not moved.any()
            assert (masks[6] & never).sum() > 0.4 * masks[6].sum()
        elif block == "moving":
            assert moved.all()
            assert not never.any()
        else:
            share = (masks & clip.hidden).flatten(1).sum(1) / masks.flatten(1).sum(1)
            assert 0.25 < share.min() <= share.max() < 0.7


@pytest.mark.parametrize("block", BLOCKS)
def test_what_is_hidden_is_never_looked_at_and_what_is_visible_stays(block):
    clip = next(hidden_clips(open_source(SOURCE), block))
    other = dataclasses.replace(clip, frames=torch.where(clip.hidden[:, None], 255 - clip.frames, clip.frames))
    found, again = fill_in(model(), clip), fill_in(model(), other)
    assert list(found) == list(METHODS)
    visible = ~clip.hidden[:, None].expand_as(clip.frames)
    for name, frames in found.items():
        assert torch.equal(frames, again[name]), name
        assert torch.equal(frames[visible], clip.frames[visible]), name


def test_a_block_that_comes_in_crosses_the_picture_and_is_found():
    clip = next(hidden_clips(open_source("shapes-video:1,split=test,size=48,frames=30,objects=1"), ENTERING))
    assert not clip.hidden[:10].any()
    assert clip.hidden[10:].flatten(1).any(1).all()
    assert clip.hidden.any(0).any(0).all()  # every column
    found, completed = find(model(), clip)
    assert (found & clip.hidden).sum() > 0.5 * (found | clip.hidden).sum()
    assert torch.equal(completed[:10], clip.frames[:10])
    seen = ~found[:, None].expand_as(completed)
    assert torch.equal(completed[seen], clip.given()[seen])


def test_the_psnr_is_that_of_all_hidden_pixels_together():
    clip = next(hidden_clips(open_source(SOURCE), "moving"))
    completed = fill_in(model(), clip)
    for name, figures in judge(clip, completed).items():
        apart = (completed[name].float() - clip.frames.float()).numpy() / 255
        error = np.square(apart).mean(1)[clip.hidden.numpy()].mean()
        assert figures["psnr"] == pytest.approx(-10 * np.log10(error), abs=1e-3)
        assert -1 <= figures["ssim"] <= 1
