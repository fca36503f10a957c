"""A hidden pixel carried over from the nearest frame in which its place is seen, beside a loop that looks for it."""

import pytest
import torch

from mae.recover import carry, interpolate


def looked_for(frames, hidden, *, past):
    """What was found of each pixel, and whether anything was."""
    found, seen = frames.clone(), ~hidden
    for time, row, column in hidden.nonzero().tolist():
        for apart in range(1, len(frames)):
            others = [time - apart] if past else [time - apart, time + apart]
            there = [other for other in others if 0 <= other < len(frames) and not hidden[other, row, column]]
            if there:
                found[time, :, row, column] = frames[there[0], :, row, column]
                seen[time, row, column] = True
                break
    return found, seen


@pytest.mark.parametrize("past", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_pixel_is_the_nearest_one_seen_in_time(past, share):
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (7, 3, 8, 12), generator=generator, dtype=torch.uint8)
    hidden = torch.rand(7, 8, 12, generator=generator) < share
    found, seen = looked_for(frames, hidden, past=past)
    assert (~seen).any() == (share > 0.5 or past)
    assert torch.equal(carry(frames, hidden, 4, past=past), interpolate(found, ~seen, 4))


def test_what_is_hidden_for_good_is_as_its_surroundings_and_never_looked_at():
    frames = torch.full((4, 3, 8, 8), 70, dtype=torch.uint8)
    hidden = torch.zeros(4, 8, 8, dtype=torch.bool)
    hidden[:, 2:5, 3:7] = True
    frames[:, :, 2:5, 3:7] = 255
    assert (carry(frames, hidden, 4) == 70).all()
    with pytest.raises(ValueError, match="do not fit"):
        carry(frames, hidden[1:], 4)
