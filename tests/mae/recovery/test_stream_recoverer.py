"""Streams completed: visible pixels to the bit, hidden ones never seen, the model's own prediction, any portions."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mae.models.mask import Mask
from mae.models.vit import MaskedAutoencoder
from mae.pixels import normalise
from mae.recovery.completion import complete
from mae.recovery.recover import nearness
from mae.recovery.skipping import PixelChange
from mae.recovery.stream_encoder import StreamEncoder, hidden_cells
from mae.recovery.stream_recoverer import FrameRecoverer, StreamDecoder, StreamRecoverer, stream_recoverer
from tests.mae.recovery.test_skipping import still
from tests.mae.recovery.test_stream_encoder import SIZE, boxes, footage, video


def in_portions(recoverer, frames, hidden, cuts=()):
    found, start = [], 0
    for end in [*sorted(cuts), len(frames)]:
        found.append(recoverer.push(frames[start:end], hidden[start:end]))
        start = end
    rest = recoverer.flush()
    return torch.cat([*found, *([] if rest is None else [rest])])


def large(count, height=37, width=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)
    hidden = torch.zeros(count, height, width, dtype=torch.bool)
    for number in range(0, count, 3):
        hidden[number : number + 2, 5 + number : 15 + number, 10:30] = True
    return frames, hidden


@settings(max_examples=10, deadline=None)
@given(
    count=st.integers(1, 23), cuts=st.lists(st.integers(0, 23), max_size=8), blend=st.booleans(), seed=st.integers(0, 9)
)
def test_the_portions_make_no_difference_and_what_is_visible_stays(count, cuts, blend, seed):
    frames, hidden = large(count, seed=seed)
    recoverer = StreamRecoverer(video(class_token=bool(seed % 2)), blend=blend)
    whole = in_portions(recoverer, frames, hidden)
    parts = in_portions(recoverer, frames, hidden, [min(cut, count) for cut in cuts])
    assert torch.equal(whole, parts)
    assert whole.shape == frames.shape
    seen = ~hidden[:, None].expand_as(frames)
    assert torch.equal(whole[seen], frames[seen])
    assert (whole[~seen] != frames[~seen]).float().mean() > 0.9


def test_what_is_hidden_is_never_looked_at():
    frames, hidden = large(12)
    recoverer = StreamRecoverer(video())
    other = torch.where(hidden[:, None], 255 - frames, frames)
    assert torch.equal(in_portions(recoverer, frames, hidden), in_portions(recoverer, other, hidden))


def test_a_window_of_one_slot_is_the_models_own_prediction():
    model = video(2, 2, norm_pix=False)
    frames, hidden = footage(2), boxes(2, share=1.0)
    cells = hidden_cells(hidden, 8)
    order = torch.argsort(cells.int(), stable=True)[None]
    mask = Mask(order[:, : int((~cells).sum())], torch.argsort(order, dim=1), cells[None])
    clip = normalise(frames).transpose(0, 1)[None]
    with torch.no_grad():
        prediction = model.predict(clip, mask).prediction  # colours 0..1
    expected = (model.unpatchify(prediction)[0].transpose(0, 1) * 255).round().clamp(0, 255)
    found = in_portions(StreamRecoverer(model, blend=False), frames, hidden)
    inside = hidden[:, None].expand_as(frames)
    assert (found[inside].float() - expected[inside]).abs().max() <= 1
    assert expected[inside].std() > 5


@pytest.mark.parametrize("colours", [(200, 30, 90), (10, 250, 128)])
def test_a_prediction_has_the_colours_that_are_visible_near_it_in_space_and_time(colours):
    """Of a flat scene; in one tubelet nothing is visible, and its colours are those of the one before."""
    frames = torch.tensor(colours, dtype=torch.uint8)[None, :, None, None].expand(8, 3, 16, 24).clone()
    hidden = torch.zeros(8, 16, 24, dtype=torch.bool)
    hidden[2:4, 4:12, 8:20] = True
    hidden[6:8] = True
    frames[hidden[:, None].expand_as(frames)] = 77
    found = in_portions(StreamRecoverer(video(norm_pix=True)), frames, hidden).float()
    assert (found - torch.tensor(colours)[None, :, None, None]).abs().max() <= 2


def test_every_place_has_the_colours_near_it():
    """In a picture of flat patches a hidden corner has the mean of all patches' colours, weighted by their distance."""
    colours = torch.tensor([[20, 90, 200], [240, 60, 130]])
    frames = colours.repeat_interleave(8, 0).repeat_interleave(8, 1).to(torch.uint8)[None, None].repeat(2, 3, 1, 1)
    hidden = torch.zeros(2, 16, 24, dtype=torch.bool)
    share = torch.ones(2, 3)
    for row, column in ((0, 0), (1, 2)):
        hidden[:, 8 * row : 8 * row + 4, 8 * column : 8 * column + 4] = True
        share[row, column] = 0.75
    found = in_portions(StreamRecoverer(video(norm_pix=True), blend=False), frames, hidden).float()
    for row, column in ((0, 0), (1, 2)):
        weights = torch.tensor([[-((r - row) ** 2 + (c - column) ** 2) / 2 for c in range(3)] for r in range(2)]).exp()
        weights *= share
        expected = (weights * colours).sum() / weights.sum()
        corner = found[:, :, 8 * row : 8 * row + 4, 8 * column : 8 * column + 4]
        assert (corner - expected).abs().max() <= 2


def test_with_nothing_to_see_there_is_a_picture_still():
    frames, hidden = footage(4), torch.ones(4, 16, 24, dtype=torch.bool)
    for class_token in (False, True):
        found = in_portions(StreamRecoverer(video(class_token=class_token)), frames, hidden)
        assert found.shape == frames.shape


def test_nearness_in_time_is_a_loop_over_pairs():
    grid, generator = (3, 2, 4), torch.Generator().manual_seed(0)
    share = torch.rand(1, 24, generator=generator)
    share[0, [3, 17]] = 0
    places = [(s, r, c) for s in range(3) for r in range(2) for c in range(4)]
    expected = torch.zeros(8, 24)
    for j, one in enumerate(places[-8:]):
        for k, other in enumerate(places):
            apart = sum((a - b) ** 2 for a, b in zip(one, other, strict=True))
            expected[j, k] = share[0, k] * torch.exp(torch.tensor(-apart / 2))
    expected /= expected.sum(1, keepdim=True)
    torch.testing.assert_close(nearness(share, grid, newest=8)[0], expected, rtol=1e-4, atol=1e-6)


def test_results_come_with_the_stated_latency_and_nothing_grows():
    frames, hidden = large(30)
    recoverer = StreamRecoverer(video(8, 4))
    done = 0
    for number in range(30):
        done += len(recoverer.push(frames[number : number + 1], hidden[number : number + 1]))
        assert number + 1 - done < recoverer.latency == 4
        assert len(recoverer._seen) <= 2
        assert len(recoverer._inbox._frames) < 4


def test_an_image_model_goes_frame_by_frame():
    torch.manual_seed(0)
    model = MaskedAutoencoder(**SIZE).eval()
    frames, hidden = large(4)
    recoverer = stream_recoverer(model)
    assert isinstance(recoverer, FrameRecoverer)
    found = in_portions(recoverer, frames, hidden, [1, 2])
    for number in range(4):
        expected = complete(model, frames[number : number + 1], hidden[number : number + 1])
        assert torch.equal(found[number : number + 1], expected)


def test_frames_that_do_not_fit_their_masks():
    with pytest.raises(ValueError, match="do not fit frames"):
        StreamRecoverer(video()).push(*[large(2)[0], large(3)[1]])


@pytest.mark.parametrize("frames", [8, 6, 2])
@pytest.mark.parametrize("skips", [False, True])
@torch.no_grad()
def test_predictions_are_those_of_the_plain_decoder_under_a_mask(frames, skips):
    """All tokens of a window at once, hidden ones too; a slot looks at those before, the first ones at each other."""
    model, skipped = video(frames), 0
    encoder = StreamEncoder(model, skipper=PixelChange(0.02, 8) if skips else None)
    decoder, pictures, hidden = StreamDecoder(encoder), still(30) if skips else footage(30), boxes(30, share=0.7)
    slots, half = model.grid[0], model.grid[0] // 2
    for number in range(15):
        (newest,) = encoder.push(pictures[2 * number : 2 * number + 2], hidden[2 * number : 2 * number + 2])
        skipped += newest.skipped
        assert torch.equal(encoder.window(encoder.slot)[0][0], newest.tokens)
        places = torch.nonzero(hidden_cells(hidden[2 * number : 2 * number + 2], 8))[:, 0]
        found = decoder.predict(places)
        (latents, ids), slot = encoder.window(), encoder.slot
        x = model.mask_token[0].repeat((slot + 1) * 6, 1)
        x[ids[0]] = model.decoder_embed(latents[0])
        x = x + model.decoder_pos_embed[0, : (slot + 1) * 6]
        group = torch.arange(slot + 1).repeat_interleave(6)
        if number >= slots:
            group = group.clamp(min=half - 1)
        looks = group[:, None] >= group
        for block in model.decoder_blocks:
            q, k, v = block.attn.qkv(block.norm1(x)).view(len(x), 3, 2, -1).permute(1, 2, 0, 3)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=looks).transpose(0, 1).flatten(1)
            x = x + block.attn.proj(y)
            x = x + block.mlp(block.norm2(x))
        expected = model.decoder_pred(model.decoder_norm(x))[slot * 6 + places]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (skipped > 20) == (skips and frames > 2)  # a window of one slot remembers nothing


@pytest.mark.parametrize("frames", [8, 2])
def test_nothing_skipped_is_filled_in_with_the_same_bits(frames):
    pictures, hidden = large(25)
    plain, skipping = (stream_recoverer(video(frames, class_token=True), skip_below=below) for below in (0, 1e-6))
    for _ in range(2):  # the second stream knows nothing of the first
        found = in_portions(skipping, pictures, hidden)
        assert torch.equal(found, in_portions(plain, pictures, hidden))
    assert skipping.skipped == 0


def test_what_stays_is_filled_in_from_what_was_encoded_before():
    pictures, hidden = large(1)[0].expand(24, -1, -1, -1), torch.zeros(24, 37, 50, dtype=torch.bool)
    hidden[:, 12:24, 10:30] = True
    recoverer = stream_recoverer(video(), skip_below=0.01)
    found = in_portions(recoverer, pictures, hidden)
    assert recoverer.skipped == 11 / 12  # all but the first tubelet
    seen = ~hidden[:, None].expand_as(found)
    assert torch.equal(found[seen], pictures[seen])
    assert torch.equal(found, in_portions(recoverer, pictures, hidden, [3, 8]))
    # every window goes as the one before it
    assert torch.equal(found[8:12], found[12:16])
