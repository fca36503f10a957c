"""A stream of which a share of the patches is encoded: which ones, and that no others have a say."""

import pytest
import torch

from mae.evaluation.kept_encoder import KeptEncoder
from mae.mask_learners.gate import Gate
from mae.pixels import normalise
from mae.recovery.kept_stream import KeptStream
from mae.recovery.stream_encoder import StreamEncoder, stream_encoder
from tests.mae.recovery.test_stream_encoder import boxes, footage, in_portions, video


@pytest.mark.parametrize("by", ["gate", "random", "center"])
def test_the_chosen_places_of_every_tubelet_are_seen(by):
    model = video()
    torch.manual_seed(3)
    kept = KeptEncoder(model, 0.5, by, Gate(32, width=16, depth=1, positions=True).eval())
    pictures, hidden = footage(15), boxes(15)
    found = in_portions(KeptStream(stream_encoder(model), kept), pictures, None, [])
    masks = torch.ones(16, 16, 24, dtype=torch.bool)
    for number, encoded in enumerate(found):
        frames = pictures[[2 * number, min(2 * number + 1, 14)]]
        chosen = kept.kept(normalise(frames).transpose(0, 1)[None], (1, 2, 3))[0]
        assert torch.equal(encoded.places, chosen)
        for place in chosen.tolist():
            row, column = 8 * (place // 3), 8 * (place % 3)
            masks[2 * number : 2 * number + 2, row : row + 8, column : column + 8] = False
    assert [encoded.frames for encoded in found] == [2] * 7 + [1]
    for one, other in zip(found, in_portions(StreamEncoder(model), pictures, masks[:15], []), strict=True):
        assert torch.equal(one.tokens, other.tokens)
    parts = in_portions(KeptStream(stream_encoder(model), kept), pictures, hidden, [1, 4, 5])
    whole = in_portions(KeptStream(stream_encoder(model), kept), pictures, hidden, [])
    assert all(torch.equal(one.tokens, other.tokens) for one, other in zip(parts, whole, strict=True))
    assert sum(len(each.places) for each in whole) < 8 * 3


def test_what_is_kept_and_does_not_change_is_skipped():
    model = video()
    stream = KeptStream(stream_encoder(model, skip_below=0.01), KeptEncoder(model, 0.5, "center"))
    found = stream.push(footage(1).repeat(12, 1, 1, 1))
    assert [len(each.places) for each in found] == [3] * 6
    assert [each.skipped for each in found] == [0] + [3] * 5
