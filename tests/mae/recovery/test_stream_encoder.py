"""Streams: any portions give the same bits, a plain encoder with a mask gives the same tokens, nothing grows."""

import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mae.models.video import VideoMaskedAutoencoder
from mae.models.vit import MaskedAutoencoder
from mae.pixels import normalise
from mae.recovery.stream_encoder import FrameEncoder, StreamEncoder, hidden_cells, stream_encoder

SIZE = {"image_size": (16, 24), "patch_size": 8, "width": 32, "depth": 2, "heads": 2}
SIZE |= {"decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2}
PLACES = 6


def video(frames=8, tubelet=2, **options):
    torch.manual_seed(0)
    model = VideoMaskedAutoencoder(**SIZE, frames=frames, tubelet=tubelet, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def footage(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 16, 24), dtype=torch.uint8, generator=generator)


def boxes(count, seed=0, share=0.5):
    """Hidden pixels: a rectangle that moves, in some of the frames."""
    rng = random.Random(seed)
    hidden = torch.zeros(count, 16, 24, dtype=torch.bool)
    for frame in hidden:
        if rng.random() < share:
            y, x = rng.randrange(16), rng.randrange(24)
            frame[y : y + 6, x : x + 6] = True
    return hidden


def in_portions(stream, frames, hidden, cuts):
    found, start = [], 0
    for end in [*sorted(cuts), len(frames)]:
        found += stream.push(frames[start:end], None if hidden is None else hidden[start:end])
        start = end
    return found + stream.flush()


def plain(model, frames, hidden):
    """Tokens of every tubelet as torch gives them for the whole sequence of a window under an attention mask."""
    slots, t, first = model.grid[0], model.tubelet, model.class_tokens
    while len(frames) % t:
        frames, hidden = torch.cat([frames, frames[-1:]]), torch.cat([hidden, hidden[-1:]])
    count, half = len(frames) // t, slots // 2
    found = []
    for number in range(count):
        turn = 0 if number < slots else (number - half) // (slots - half)
        start = turn * (slots - half)
        groups = [list(range(start, start + half))] if turn and half else []
        groups += [[each] for each in range(start + (half if turn else 0), number + 1)]
        sequence, owner, is_class, kept = [], [], [], []
        for group_number, group in enumerate(groups):
            if first:
                sequence.append((model.cls_token + model.pos_embed[:, :1])[0])
                owner.append(group_number)
                is_class.append(True)
            for each in group:
                clip = normalise(frames[each * t : each * t + t]).transpose(0, 1)[None]
                embedded = model.embed(clip, (1, 2, 3))[0]
                seen = torch.nonzero(~hidden_cells(hidden[each * t : each * t + t], 8))[:, 0]
                sequence.append(embedded[seen] + model.pos_embed[0, first + (each - start) * PLACES + seen])
                owner += [group_number] * len(seen)
                is_class += [False] * len(seen)
            kept.append(seen)
        owner, is_class = torch.tensor(owner), torch.tensor(is_class, dtype=torch.bool)
        looks = (owner[:, None] > owner) & ~is_class | (owner[:, None] == owner)
        x = torch.cat(sequence)
        for block in model.blocks:
            q, k, v = block.attn.qkv(block.norm1(x)).view(len(x), 3, 2, x.shape[1] // 2).permute(1, 2, 0, 3)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=looks).transpose(0, 1).flatten(1)
            x = x + block.attn.proj(y)
            x = x + block.mlp(block.norm2(x))
        newest = (owner == len(groups) - 1) & ~is_class
        found.append((model.norm(x)[newest], kept[-1]))
    return found


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("frames", [8, 6, 2])
@torch.no_grad()
def test_tokens_are_those_of_the_plain_encoder_under_a_mask(class_token, frames):
    model = video(frames, class_token=class_token)
    pictures, hidden = footage(25), boxes(25)
    found = in_portions(StreamEncoder(model), pictures, hidden, [])
    expected = plain(model, pictures, hidden)
    assert len(found) == len(expected) == 13
    for encoded, (tokens, places) in zip(found, expected, strict=True):
        assert torch.equal(encoded.places, places)
        torch.testing.assert_close(encoded.tokens, tokens, rtol=1e-4, atol=1e-5)
    assert [encoded.first for encoded in found] == list(range(0, 25, 2))
    assert [encoded.frames for encoded in found] == [2] * 12 + [1]


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(1, 40),
    cuts=st.lists(st.integers(0, 40), max_size=12),
    tubelet=st.sampled_from([1, 2, 4]),
    occluded=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_portions_make_no_difference_to_the_bit(count, cuts, tubelet, occluded, seed):
    encoder = StreamEncoder(video(8, tubelet, class_token=bool(seed % 2)))
    pictures, hidden = footage(count, seed), boxes(count, seed) if occluded else None
    whole = in_portions(encoder, pictures, hidden, [])
    parts = in_portions(encoder, pictures, hidden, [min(cut, count) for cut in cuts])
    assert sum(encoded.frames for encoded in whole) == count
    for one, other in zip(whole, parts, strict=True):
        assert one.number == other.number
        assert torch.equal(one.places, other.places)
        assert torch.equal(one.tokens, other.tokens)


def test_the_first_window_of_one_slot_is_the_models_own():
    """A tubelet that is the whole window sees all that a clip sees."""
    model = video(2, 2)
    pictures = footage(6)
    with torch.no_grad():
        clips = torch.stack([normalise(pictures[i : i + 2]).transpose(0, 1) for i in (0, 2, 4)])
        expected = model.encode(clips)
    for encoded, tokens in zip(StreamEncoder(model).push(pictures), expected, strict=True):
        torch.testing.assert_close(encoded.tokens, tokens, rtol=1e-4, atol=1e-5)


def test_results_come_with_the_stated_latency():
    encoder = StreamEncoder(video(8, 4))
    assert encoder.latency == 4
    done = 0
    for pushed, frame in enumerate(footage(30), 1):
        done += sum(encoded.frames for encoded in encoder.push(frame[None]))
        assert pushed - done < encoder.latency


def test_nothing_grows():
    encoder = StreamEncoder(video(8, 2, class_token=True))
    encoder.push(footage(8))
    full = encoder.memory
    tensors = {past.keys.data_ptr() for past in encoder._remembered._pasts}
    for portion in range(50):
        encoder.push(footage(7, portion))
        assert encoder.memory == full
        assert len(encoder._inbox._frames) < 2
        assert encoder.window()[0].shape[1] <= 1 + 4 * PLACES
    assert {past.keys.data_ptr() for past in encoder._remembered._pasts} == tensors


def test_what_is_hidden_is_never_looked_at():
    encoder = StreamEncoder(video())
    pictures, hidden = footage(20), boxes(20, share=1.0)
    other = torch.where(hidden[:, None], 255 - pictures, pictures)
    for one, two in zip(
        in_portions(encoder, pictures, hidden, []), in_portions(encoder, other, hidden, []), strict=True
    ):
        assert torch.equal(one.tokens, two.tokens)
        assert len(one.places) < PLACES


@pytest.mark.parametrize("class_token", [False, True])
def test_a_tubelet_that_is_hidden_altogether(class_token):
    encoder = StreamEncoder(video(class_token=class_token))
    hidden = torch.zeros(20, 16, 24, dtype=torch.bool)
    hidden[:6] = True
    found = in_portions(encoder, footage(20), hidden, [])
    assert [len(encoded.tokens) for encoded in found] == [0, 0, 0] + [PLACES] * 7
    assert found[0].feature().isnan().all()
    assert found[3].feature().isfinite().all()


def test_the_caller_may_use_the_memory_of_frames_again():
    encoder = StreamEncoder(video())
    pictures = footage(2)
    expected = encoder.push(pictures)[0].tokens
    encoder.flush()
    buffer = pictures[:1].clone()
    encoder.push(buffer)
    buffer.zero_()
    assert torch.equal(encoder.push(pictures[1:])[0].tokens, expected)


def test_an_image_model_goes_frame_by_frame():
    torch.manual_seed(0)
    model = MaskedAutoencoder(**SIZE).eval()
    pictures, hidden = footage(3), boxes(3, share=1.0)
    encoder = stream_encoder(model)
    assert isinstance(encoder, FrameEncoder)
    with torch.no_grad():
        expected = model.features(normalise(pictures))
    found = torch.stack([encoded.feature() for encoded in encoder.push(pictures)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert [encoded.number for encoded in encoder.push(pictures, hidden)] == [3, 4, 5]
    assert encoder.flush() == []


@pytest.mark.parametrize(
    ("frames", "hidden", "message"),
    [
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), None, "16×16 pixels do not fit a model of 16×24"),
        (torch.zeros(1, 3, 16, 24), None, "must be uint8"),
        (footage(2), torch.zeros(1, 16, 24, dtype=torch.bool), "do not fit frames"),
    ],
)
def test_frames_that_do_not_fit(frames, hidden, message):
    with pytest.raises(ValueError, match=message):
        StreamEncoder(video()).push(frames, hidden)
