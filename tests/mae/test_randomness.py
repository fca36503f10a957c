import random

import numpy as np
import pytest
import torch

from mae.randomness import seed_of, seeded


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_the_same_numbers_give_the_same_draws_whatever_came_before():
    with seeded(3, 4):
        first = draws()
    draws()
    with seeded(3, 4):
        assert draws() == first
    with seeded(4, 3):
        other = draws()
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_what_is_drawn_outside_does_not_notice():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    undisturbed = [draws(), draws()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    found = [draws()]
    with pytest.raises(KeyError):
        _fails()
    found.append(draws())
    assert found == undisturbed


def _fails():
    with seeded(9):
        draws()
        raise KeyError


def test_seeds_differ():
    assert len({seed_of(a, b, c) for a in range(8) for b in range(8) for c in range(8)}) == 512
    assert 0 <= seed_of(0) < 2**63
