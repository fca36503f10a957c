"""Streams completed with whole windows: every frame once, from the window that it is said to come from."""

import pytest
import torch

from mae.recovery.completion import enlarge_into, shrink_visible
from mae.recovery.recover import recover
from mae.recovery.stream_recoverer import StreamRecoverer, stream_recoverer
from mae.recovery.window_recoverer import WindowRecoverer
from tests.mae.recovery.test_stream_encoder import video
from tests.mae.recovery.test_stream_recoverer import in_portions, large
from tests.tiny_mae import nano


def window(model, frames, hidden):
    """A clip of T frames completed by itself."""
    small, covered = shrink_visible(frames, hidden, model.image_size)
    filled = recover(model, small.transpose(0, 1)[None], covered[None])[0].transpose(0, 1)
    return enlarge_into(frames, hidden, filled, covered)


def expected(model, frames, hidden):
    """Windows of T frames written out: which frames come from which."""
    count, length = len(frames), model.frames
    if count < length:
        padded = [torch.cat([each, each[-1:].expand(length - count, *each.shape[1:])]) for each in (frames, hidden)]
        return window(model, *padded)[:count]
    done, start = frames.clone(), 0
    starts = list(range(0, count - length + 1, length // 2))
    ends = [start + length - length // 4 for start in starts]
    if ends[-1] < count:
        starts, ends = [*starts, count - length], [*ends, count]
    for first, end in zip(starts, ends, strict=True):
        part = window(model, frames[first : first + length], hidden[first : first + length])
        done[start:end] = part[start - first : end - first]
        start = end
    return done


@pytest.mark.parametrize("count", [1, 3, 7, 8, 9, 10, 12, 13, 21])
def test_every_frame_comes_once_from_its_own_window(count):
    model = video(8)
    frames, hidden = large(count)
    wanted = expected(model, frames, hidden)
    recoverer = WindowRecoverer(model)
    for cuts in ([], [1, 2, 7], range(1, count)):
        found = in_portions(recoverer, frames, hidden, [min(cut, count) for cut in cuts])
        assert found.shape == frames.shape
        assert (found.int() - wanted.int()).abs().max() <= 1  # the box that is enlarged is another one
    seen = ~hidden[:, None].expand_as(frames)
    assert torch.equal(found[seen], frames[seen])


def test_later_frames_are_used_and_what_is_hidden_is_never_seen():
    model = video(8)
    frames, hidden = large(8)
    hidden[:] = False
    hidden[2, 5:15, 10:30] = True
    later, under = frames.clone(), frames.clone()
    later[6:] = 255 - later[6:]
    under[2] = torch.where(hidden[2], 255 - under[2], under[2])
    for recoverer, same in ((WindowRecoverer(model), False), (StreamRecoverer(model), True)):
        one, two, three = (in_portions(recoverer, given, hidden)[2] for given in (frames, later, under))
        assert torch.equal(one, two) == same
        assert torch.equal(one, three)


def test_a_frame_waits_for_no_more_than_a_window():
    recoverer = stream_recoverer(video(8), look_ahead=True)
    frames, hidden = large(20)
    given = 0
    for come in range(1, 21):
        given += len(recoverer.push(frames[come - 1 : come], hidden[come - 1 : come]))
        assert come - given < recoverer.latency == 8
    assert len(recoverer.flush()) == 20 - given
    assert recoverer.flush() is None


def test_mistakes():
    with pytest.raises(ValueError, match="--look-ahead is for models of video"):
        stream_recoverer(nano(), look_ahead=True)
    recoverer = WindowRecoverer(video(8))
    recoverer.push(*large(2))
    with pytest.raises(ValueError, match="follow frames of"):
        recoverer.push(*large(2, height=30))
