"""`recover` of clips: by a model of video at once, by one of images frame by frame; and what needs no model."""

import math

import pytest
import torch

from mae.models.video import VideoMaskedAutoencoder
from mae.pixels import normalise
from mae.recovery import recover as module
from mae.recovery.recover import interpolate, nearest_in_time, recover
from mae.recovery.stream_recoverer import StreamRecoverer
from tests.tiny_mae import NANO, nano


def clips(count=3, frames=4, side=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, frames, side, side), dtype=torch.uint8, generator=generator)


def regions(count=3, frames=4, side=16, share=0.3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, frames, 3, 3, generator=generator) < share
    rows = torch.arange(side) * 3 // side  # cells that lie across the borders of patches
    return coarse[:, :, rows][..., rows]


def video(frames=4, **options):
    torch.manual_seed(0)
    return VideoMaskedAutoencoder(image_size=16, frames=frames, **NANO._asdict(), **options).eval()


@pytest.mark.parametrize("norm_pix", [True, False])
def test_visible_pixels_stay_and_hidden_ones_are_never_looked_at(norm_pix):
    model, images, hidden = video(norm_pix=norm_pix), clips(), regions()
    hidden[1] = False
    hidden[2] = True  # nothing to see at all, and no class token
    found = recover(model, images, hidden)
    where = hidden[:, None].expand_as(images)
    assert torch.equal(found[~where], images[~where])
    assert (found != images)[where].float().mean() > 0.9
    other = torch.where(hidden[:, None], clips(seed=9), images)
    assert torch.equal(recover(model, other, hidden), torch.where(hidden[:, None], found, other))


def test_whole_tubelets_of_a_plain_model_are_its_prediction():
    model, images, hidden = video(norm_pix=False), clips(1), torch.zeros(1, 4, 16, 16, dtype=torch.bool)
    hidden[:, 2:, 8:] = True  # the lower places of the second of two slots
    kept = torch.tensor([[0, 1, 2, 3, 4, 5]])
    with torch.no_grad():
        prediction = model.decode(model.encode_visible(normalise(images), kept), torch.arange(8)[None])
    expected = (model.unpatchify(prediction) * 255).round().clamp(0, 255).to(torch.uint8)
    torch.testing.assert_close(recover(model, images, hidden)[:, :, 2:, 8:], expected[:, :, 2:, 8:], atol=1, rtol=0)


def test_a_right_prediction_of_a_repeated_texture_is_the_texture(monkeypatch):
    """Where all tubelets have one mean and deviation, the visible ones tell those of the hidden."""
    model, images = video(), clips(1, frames=2, side=8).repeat(1, 1, 2, 2, 2)
    target = model._target(model.patchify(normalise(images)))
    monkeypatch.setattr(model, "decode", lambda *_: target)
    hidden = torch.zeros(1, 4, 16, 16, dtype=torch.bool)
    hidden[:, :2, 8:] = True
    torch.testing.assert_close(recover(model, images, hidden), images, atol=1, rtol=0)


def test_brightness_and_contrast_are_those_nearby_in_space_and_time():
    model, images = video(), clips(1)
    tubelets, covered = model.patchify(normalise(images)), torch.zeros(1, 8, 128, dtype=torch.bool)
    covered[0, 0] = covered[0, 3, :32] = True
    mean, deviation = module._colour_statistics(tubelets, covered, (2, 2, 2))
    colours = model.patchify(images.float() / 255).view(8, 128, 3)
    means, deviations, total = torch.zeros(3), torch.zeros(3), 0.0
    for number in range(1, 8):
        slot, row, column = number // 4, number // 2 % 2, number % 2
        seen = colours[number, 32:] if number == 3 else colours[number]
        weight = math.exp(-0.5 * (slot + row + column)) * len(seen) / 128
        means, deviations, total = means + weight * seen.mean(0), deviations + weight * seen.std(0), total + weight
    torch.testing.assert_close(mean[0, 0, 0], means / total, atol=1e-4, rtol=0)
    torch.testing.assert_close(deviation[0, 0, 0], deviations / total, atol=1e-4, rtol=0)


def test_of_one_tubelet_it_is_what_a_stream_gets():
    model, (clip,), (hidden,) = video(frames=2), clips(1, frames=2), regions(1, frames=2)
    streamed = StreamRecoverer(model, blend=False).push(clip.transpose(0, 1), hidden)
    found = recover(model, clip[None], hidden[None])[0].transpose(0, 1)
    assert not torch.equal(found, clip.transpose(0, 1))
    torch.testing.assert_close(found, streamed, atol=1, rtol=0)


def test_a_model_of_images_and_the_neighbours_go_frame_by_frame():
    torch.manual_seed(0)
    model, images, hidden = nano(16).eval(), clips(), regions()
    found, plain = recover(model, images, hidden), interpolate(images, hidden, 8)
    for frame in range(4):
        alone = recover(model, images[:, :, frame], hidden[:, frame])
        torch.testing.assert_close(found[:, :, frame], alone, atol=1, rtol=0)
        assert torch.equal(plain[:, :, frame], interpolate(images[:, :, frame], hidden[:, frame], 8))


@pytest.mark.parametrize("past", [False, True])
def test_the_nearest_frame_is_found_as_by_looking_through_them(past):
    images, hidden = clips(2, frames=5), regions(2, frames=5, share=0.6)
    found, plain = nearest_in_time(images, hidden, 8, past=past), interpolate(images, hidden, 8)
    for clip in range(2):
        for frame in range(5):
            for row, column in ((0, 0), (0, 8), (8, 15), (15, 0), (9, 9)):
                seen = [t for t in range(frame + 1 if past else 5) if not hidden[clip, t, row, column]]
                nearest = min(seen, key=lambda t: (abs(t - frame), t), default=None)
                picture = plain[clip, :, frame] if nearest is None else images[clip, :, nearest]
                assert torch.equal(found[clip, :, frame, row, column], picture[:, row, column])


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="do not fit images"):
        recover(video(), clips(), regions(frames=2))
    with pytest.raises(ValueError, match="a model of video fills in clips"):
        recover(video(), clips()[:, :, 0], regions()[:, 0])
    with pytest.raises(ValueError, match="no whole tubelets"):
        recover(video(), clips(frames=3), regions(frames=3))
