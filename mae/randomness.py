"""Random numbers that follow from numbers: a step, or an image of an epoch, draws the same whatever was drawn before.

Libraries that draw from the global generators (timm's augmentations and drop path) are called within :func:`seeded`,
so that a run that goes on from a checkpoint repeats an uninterrupted one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_of(*numbers: int) -> int:
    """One seed, 0 ≤ seed < 2⁶³, for a row of non-negative numbers; rows of one length never share one by design."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Within it Python's, NumPy's and torch's global generators follow from ``numbers``; afterwards they are as before.

    A GPU's generator is seeded as well and left so: bringing its state back would wait for the device.
    """
    seed = seed_of(*numbers)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
