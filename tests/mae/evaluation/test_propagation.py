import math

import pytest
import torch

from mae.evaluation.propagation import propagate, to_mask


def features(frames=6, width=5, grid=(4, 5), seed=0):
    return torch.randn(frames, width, *grid, generator=torch.Generator().manual_seed(seed))


def first(grid=(4, 5)):
    share = torch.rand(grid, generator=torch.Generator().manual_seed(1))
    return torch.stack([1 - share, share])


def by_loops(values, labels, context, neighbours, radius, temperature):
    """The same patch by patch, on lists."""
    frames, _, rows, columns = values.shape
    known = [labels]
    for t in range(1, frames):
        now = torch.zeros_like(labels)
        seen = sorted({0, *range(max(0, t - context), t)})
        for y in range(rows):
            for x in range(columns):
                likeness = []
                for s in seen:
                    for j in range(rows):
                        for i in range(columns):
                            if max(abs(j - y), abs(i - x)) <= radius:
                                cosine = torch.cosine_similarity(values[t, :, y, x], values[s, :, j, i], dim=0)
                                likeness.append((float(cosine), known[s][:, j, i]))
                best = sorted(likeness, key=lambda pair: -pair[0])[:neighbours]
                weights = [math.exp(cosine / temperature) for cosine, _ in best]
                pairs = zip(weights, best, strict=True)
                now[:, y, x] = sum(weight * label for weight, (_, label) in pairs) / sum(weights)
        known.append(now)
    return torch.stack(known)


@pytest.mark.parametrize(("context", "neighbours", "radius"), [(7, 5, 12), (2, 5, 12), (3, 1, 1), (2, 30, 1)])
def test_labels_are_carried_as_loops_carry_them(context, neighbours, radius):
    settings = {"context": context, "neighbours": neighbours, "radius": radius, "temperature": 0.1}
    found = propagate(features(), first(), **settings)
    torch.testing.assert_close(found, by_loops(features(), first(), **settings), atol=1e-5, rtol=1e-4)


def test_labels_stay_shares():
    found = propagate(features(), first())
    torch.testing.assert_close(found.sum(1), torch.ones(6, 4, 5))


def test_parts_of_a_frame_change_nothing(monkeypatch):
    whole = propagate(features(), first())
    monkeypatch.setattr("mae.evaluation.propagation._AT_ONCE", 50)
    torch.testing.assert_close(propagate(features(), first()), whole)


def test_a_still_video_keeps_its_mask():
    frames = features(1).expand(5, -1, -1, -1)
    found = propagate(frames, first(), neighbours=1)
    torch.testing.assert_close(found, first().expand(5, -1, -1, -1))


def test_the_mask_of_soft_labels_is_stretched():
    """An object whose label has faded to 0.4 at its best is still found."""
    faded = torch.zeros(4, 4)
    faded[1:3, 1:3] = 0.4
    mask = to_mask(torch.stack([1 - faded, faded]), (4, 4))
    assert torch.equal(mask.bool(), faded > 0)
    assert not to_mask(torch.stack([torch.ones(4, 4), torch.zeros(4, 4)]), (8, 8)).any()
