"""T as a mix of a few features of the patches: what it reads, how it starts, and what it tells."""

import pytest
import torch

from mae.multilevel.masker import MixMasker

GRID = (4, 4)


def patches(seed=0):
    """[2, 16, 8·8·3], the sixth patch of each with ten times the contrast, the eleventh brighter than all others."""
    found = 0.1 * torch.randn(2, 16, 192, generator=torch.Generator().manual_seed(seed))
    found[:, 5] *= 10
    found[:, 10] += 3
    return found


def read(masker, **more):
    features = masker.read(patches(), more.get("saliency"), more.get("noise"))
    return dict(zip(masker.features, features.unbind(-1), strict=True))


def test_features_are_what_their_names_say_and_standardised():
    found = read(MixMasker(GRID), noise=torch.rand(2, MixMasker(GRID).noises))
    assert (found["contrast"].argmax(1) == 5).all()
    assert (found["distinct"].argmax(1) == 10).all()
    assert found["center"][0].reshape(4, 4)[1:3, 1:3].min() > found["center"][0].reshape(4, 4)[0].max()
    assert not torch.equal(found["clumps"][0], found["clumps"][1])
    for value in found.values():
        torch.testing.assert_close(value.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(value.std(1), torch.ones(2), atol=1e-4, rtol=0)


def test_maps_are_read_where_there_are_any():
    maps = torch.rand(2, 16)
    masker = MixMasker(GRID, maps=True)
    found = read(masker, saliency=maps)["map"]
    assert torch.equal(found.argsort(1), maps.argsort(1))
    assert (read(masker)["map"] == 0).all()  # an image without one
    assert "map" not in MixMasker(GRID).features
    assert (read(masker, saliency=torch.ones(2, 16))["map"] == 0).all()


def test_it_starts_at_random_masks_and_tells_its_numbers_by_name():
    masker = MixMasker(GRID, share=0.25)
    choice = masker(masker.read(patches(), None, None))
    torch.testing.assert_close(choice.probabilities, torch.full((2, 16), 0.5))
    assert choice.share.item() == pytest.approx(0.25)
    numbers = {name: value.item() for name, value in masker.numbers().items()}
    assert numbers == pytest.approx(
        {"contrast": 0, "distinct": 0, "center": 0, "clumps": 0.25, "share": 0.25, "temperature": 1}
    )
    assert sum(p.numel() for p in masker.parameters()) == len(numbers)


def test_a_lower_temperature_sharpens():
    masker = MixMasker(GRID)
    with torch.no_grad():
        masker.weights[0] = 1.0
        before = masker(masker.read(patches(), None, None)).probabilities
        masker.temperature.fill_(-1.0)
        after = masker(masker.read(patches(), None, None)).probabilities
    assert after.std() > 1.2 * before.std()
