"""Places that did not change are not encoded: which ones that is, and what becomes of their tokens."""

import pytest
import torch
import torch.nn.functional as F

from mae.pixels import normalise
from mae.recovery.skipping import PixelChange, strip_of
from mae.recovery.stream_encoder import StreamEncoder, stream_encoder
from mae.recovery.stream_recoverer import stream_recoverer
from tests.mae.recovery.test_stream_encoder import PLACES, boxes, footage, in_portions, video
from tests.tiny_mae import nano

EVERY = torch.ones(PLACES, dtype=torch.bool)


def still(count, *, moving=True):
    """A background that stays, with a square of 4 pixels that moves by a pixel a frame."""
    frames = footage(1).repeat(count, 1, 1, 1)
    for number, frame in enumerate(frames):
        if moving:
            frame[:, 2:6, number % 20 : number % 20 + 4] = 255
    return frames


def passed(encoder):
    """Counts the tokens that pass the blocks."""
    counts, add = [], encoder._remembered.add

    def counted(x, **options):
        counts.append(len(x))
        return add(x, **options)

    encoder._remembered.add = counted
    return counts


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("occluded", [False, True])
@pytest.mark.parametrize("frames", [8, 6, 2])
def test_nothing_skipped_is_the_same_bits(frames, occluded, class_token):
    model = video(frames, class_token=class_token)
    pictures, hidden = footage(25), boxes(25) if occluded else None
    plain = in_portions(StreamEncoder(model), pictures, hidden, [])
    for one, other in zip(
        plain, in_portions(stream_encoder(model, skip_below=1e-6), pictures, hidden, []), strict=True
    ):
        assert other.skipped == 0
        assert torch.equal(one.places, other.places)
        assert torch.equal(one.tokens, other.tokens)


@pytest.mark.parametrize("class_token", [False, True])
def test_what_stays_is_not_encoded_again(class_token):
    encoder = stream_encoder(video(class_token=class_token), skip_below=0.01)
    counts = passed(encoder)
    found = encoder.push(still(40, moving=False))
    assert [each.skipped for each in found] == [0] + [PLACES] * 19
    # the first tubelet, the second one that begins a window, and a window after every two: never more than a tubelet
    assert sum(counts) - class_token * len(counts) == PLACES * (1 + 1 + 8)
    assert all(each.tokens.shape == (PLACES, 32) and each.tokens.isfinite().all() for each in found)
    torch.testing.assert_close(found[-1].tokens, found[8].tokens)  # every window is as the one before


@torch.no_grad()
def test_changed_places_look_at_what_is_remembered():
    """The second tubelet against the blocks on all tokens under a mask."""
    model, pictures = video(), footage(2).repeat(2, 1, 1, 1)
    pictures[2:, :, 8:, :8] = 255 - pictures[2:, :, 8:, :8]  # place 3 alone
    found = stream_encoder(model, skip_below=0.01).push(pictures)[1]
    first, second = (model.embed(normalise(pictures[i : i + 2]).transpose(0, 1)[None], (1, 2, 3))[0] for i in (0, 2))
    slots = model.pos_embed[0].view(4, PLACES, -1)
    places = slots.mean(0)
    places[3] = slots[0, 3]
    x = torch.cat([first + places, second[3:4] + slots[1, 3:4]])
    looks = torch.zeros(PLACES + 1, PLACES + 1)
    looks[:PLACES, PLACES] = -torch.inf
    looks[PLACES, [0, 1, 2, 4, 5]] = torch.tensor(2.0).log()  # they stand for two tubelets
    for block in model.blocks:
        q, k, v = block.attn.qkv(block.norm1(x)).view(len(x), 3, 2, x.shape[1] // 2).permute(1, 2, 0, 3)
        x = x + block.attn.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=looks).transpose(0, 1).flatten(1))
        x = x + block.mlp(block.norm2(x))
    expected = model.norm(x)
    expected[3] = expected[PLACES]
    assert found.skipped == PLACES - 1
    torch.testing.assert_close(found.tokens, expected[:PLACES], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", [8, 6, 4, 2])
def test_portions_make_no_difference_and_nothing_grows(frames):
    encoder = stream_encoder(video(frames), skip_below=0.02)
    pictures, hidden = still(60), boxes(60, share=0.2)
    whole = in_portions(encoder, pictures, hidden, [])
    for one, other in zip(whole, in_portions(encoder, pictures, hidden, [1, 2, 9, 30]), strict=True):
        assert one.skipped == other.skipped
        assert torch.equal(one.tokens, other.tokens)
    assert frames == 2 or sum(each.skipped for each in whole) > 40  # a window of one slot remembers nothing
    encoder.push(pictures[:20])
    most = stream_encoder(video(frames))
    most.push(footage(20))
    own = 8 * PLACES + 4 * 32 * PLACES + 8 * PLACES * (frames // 4)  # places, embeddings, what changed of each tubelet
    assert encoder.memory <= most.memory + own


def test_slow_drift_is_noticed_and_noise_is_not():
    generator = torch.Generator().manual_seed(0)
    grey = torch.full((2, 3, 16, 24), 100.0)
    noisy = PixelChange(0.02, 8)
    seen = [
        noisy.fresh((grey + 6 * torch.randn(grey.shape, generator=generator)).round().to(torch.uint8), EVERY)
        for _ in range(20)
    ]
    assert seen[0].all()
    assert not torch.stack(seen[1:]).any()
    drift = PixelChange(0.02, 8)
    times = [n for n in range(20) if drift.fresh((grey + n).to(torch.uint8), EVERY).all()]
    assert times == [0, 6, 12, 18]  # the first with 6 / 255 above 0.02


def test_a_place_is_encoded_where_it_changed_or_was_hidden():
    change, pictures = PixelChange(0.02, 8), footage(2)
    change.fresh(pictures, EVERY)
    pictures[1, :, 8:10, 16:18] ^= 255  # four pixels, in one of the frames
    assert change.fresh(pictures, EVERY).tolist() == [False] * 5 + [True]
    hidden = EVERY.clone()
    hidden[1] = False
    assert not change.fresh(pictures, hidden).any()
    assert change.fresh(pictures, EVERY).tolist() == [False, True] + [False] * 4
    change.clear()
    assert change.fresh(pictures, EVERY).all()


def test_a_strip_has_the_embeddings_of_its_places():
    model, pictures, places = video(), footage(2), torch.tensor([4, 0, 5])
    with torch.no_grad():
        whole = model.embed(normalise(pictures).transpose(0, 1)[None], (1, 2, 3))[0]
        strip = model.embed(normalise(strip_of(pictures, places, 8)), (1, 1, 3))[0]
    torch.testing.assert_close(strip, whole[places])


def test_mistakes():
    for below in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="--skip-below is .* at least 0 and below 1"):
            stream_encoder(video(), skip_below=below)
    for made in (stream_encoder, stream_recoverer):
        with pytest.raises(ValueError, match="for models of video"):
            made(nano(), skip_below=0.1)
    with pytest.raises(ValueError, match="--skip-below does not go with --look-ahead"):
        stream_recoverer(video(), skip_below=0.1, look_ahead=True)
