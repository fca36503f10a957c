"""Features of a part of the patches: which are kept, and that nothing else is looked at."""

import pytest
import torch

from mae.evaluation.kept_encoder import KeptEncoder
from mae.mask_learners.gate import Gate
from mae.masks.masking import center_prior
from mae.models.video import VideoMaskedAutoencoder
from tests.tiny_mae import NANO, nano


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nano().eval()


def images(count=5):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def gate(model):
    torch.manual_seed(3)
    return Gate(model.pos_embed.shape[-1], width=16, depth=1).eval()


def test_the_gate_keeps_its_highest_scores(model):
    chooser = gate(model)
    encoder = KeptEncoder(model, 0.5, "gate", chooser)
    logits = chooser(model.patch_embed(images()), model.grid)
    expected = [sorted(row.argsort(descending=True)[:8].tolist()) for row in logits]
    assert encoder.kept(images()).tolist() == expected


@pytest.mark.parametrize("by", ["gate", "random", "center"])
def test_what_is_not_kept_has_no_say(model, by):
    encoder = KeptEncoder(model, 0.25, by, gate(model))
    given = images(2)
    ids = encoder.kept(given)
    cells = model.patchify(given)
    other = torch.where(torch.zeros(2, 16, dtype=torch.bool).scatter(1, ids, True)[..., None], cells, cells + 5)
    changed = model.unpatchify(other)
    assert torch.equal(model.encode_visible(changed, ids), model.encode_visible(given, ids))
    expected = model.encode_visible(given, ids)[:, 1:].mean(1)
    assert torch.equal(encoder.features(given), expected)
    assert torch.equal(encoder.features(given, "cls"), model.encode_visible(given, ids)[:, 0])


@pytest.mark.parametrize("by", ["gate", "random"])
def test_an_image_has_its_patches_whatever_batch_it_is_in(model, by):
    encoder = KeptEncoder(model, 0.5, by, gate(model))
    together = encoder.kept(images())
    assert torch.equal(torch.cat([encoder.kept(images()[i : i + 1]) for i in range(5)]), together)
    assert by == "gate" or len({tuple(row) for row in together.tolist()}) > 1


@pytest.mark.parametrize("by", ["gate", "random", "center"])
def test_tubelets_of_a_clip_are_chosen_each_for_itself(by):
    torch.manual_seed(0)
    video = VideoMaskedAutoencoder(image_size=32, frames=4, **NANO._asdict()).eval()
    clips = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    chooser = Gate(16, width=16, depth=1, positions=True).eval()
    encoder = KeptEncoder(video, 0.25, by, chooser)
    ids = encoder.kept(clips)
    slots = [[sorted(row[row // 16 == slot].remainder(16).tolist()) for slot in range(2)] for row in ids]
    if by == "gate":
        scores = chooser.scores(video, clips)
        assert ids.tolist() == [sorted(row.argsort(descending=True)[:8].tolist()) for row in scores]
    elif by == "center":
        assert slots == [[[5, 6, 9, 10]] * 2] * 2
    else:
        assert ids.shape == (2, 8)
        assert slots[0] != slots[1]
    assert torch.equal(encoder.features(clips), video.encode_visible(clips, ids).mean(1))


def test_the_centre_is_kept(model):
    kept = KeptEncoder(model, 0.25, "center").kept(images(1))[0]
    assert set(kept.tolist()) == set(center_prior((4, 4)).topk(4).indices.tolist()) == {5, 6, 9, 10}


def test_all_of_it_is_the_plain_encoder(model):
    assert torch.equal(KeptEncoder(model, 1.0, "random").features(images()), model.features(images()))
    assert KeptEncoder(model, 0.01, "random").count == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0.0, "random"), "above 0"), ((1.5, "random"), "at most 1"), ((0.5, "luck"), "not one of"), ((0.5,), "no gate")],
)
def test_mistakes(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        KeptEncoder(model, *arguments)
