import math

import pytest
import torch

from mae.evaluation.health import effective_rank, health, layer_features, layers_health, rankme
from mae.models.video import VideoMaskedAutoencoder
from tests.tiny_mae import NANO, nano


def orthonormal(rows, columns):
    return torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[
        0
    ]


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_equal_singular_values_count_themselves(rank):
    matrix = orthonormal(20, rank) @ orthonormal(12, rank).T
    assert effective_rank(matrix) == pytest.approx(rank, rel=1e-9)
    assert rankme(matrix) == pytest.approx(rank, rel=1e-4)  # but for ε


def test_the_entropy_of_two_values_by_hand():
    matrix = orthonormal(9, 2) @ torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64)) @ orthonormal(5, 2).T
    by_hand = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert effective_rank(matrix) == pytest.approx(by_hand)
    assert rankme(matrix) == pytest.approx(by_hand, rel=1e-4)
    assert effective_rank(torch.zeros(4, 3)) == 0
    shares = torch.tensor([0.75, 0.25, 0, 0, 0], dtype=torch.float64) + 1e-7  # RankMe's equation, with its ε
    assert rankme(matrix) == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-9)


def test_an_offset_that_all_share_is_a_direction_of_rankme_alone():
    points = orthonormal(40, 4)
    points = points - points.mean(0)
    found = health(points + 100 * torch.ones(4, dtype=torch.float64))
    assert found.rankme < 1.05
    assert found.effective_rank > 3.9
    assert found.spread < 0.01
    same = health(torch.ones(10, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert (same.effective_rank, same.spread) == (0, pytest.approx(0, abs=1e-6))
    everywhere = health(torch.cat([torch.eye(4), -torch.eye(4)]))
    assert everywhere.spread == pytest.approx(1)
    assert everywhere.rankme == pytest.approx(4, rel=1e-4)


def test_every_layer_is_looked_at_and_the_last_is_the_output():
    model = nano(16).eval()
    images = torch.randn(70, 3, 16, 16)
    found = layer_features(model, images)
    assert len(found) == len(model.blocks) + 1
    torch.testing.assert_close(found[-1], model.features(images))
    assert len(layers_health(model, images)) == len(found)
    assert not model.blocks[0]._forward_hooks
    clips = VideoMaskedAutoencoder(image_size=16, frames=2, tubelet=2, **NANO._asdict())
    assert layer_features(clips, torch.randn(2, 3, 2, 16, 16))[0].shape == (2, NANO.width)
