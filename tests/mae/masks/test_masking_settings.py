"""Settings of masks that can't be are refused by name, and maps that are none."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

from mae.masks.masking import (
    Masking,
    check_saliency,
)
from mae.masks.strategies import blind
from tests.mae.masks.test_masking import seeded


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "salience"}, r"--masking 'salience' is not one of: random, block, grid, color-red"),
        ({"salient_of": "patch"}, r"--salient-of 'patch' is not one of: image, mask, salient, salient-only"),
        ({"salient_pick": "best"}, r"--salient-pick 'best' is not one of: top, weighted"),
        ({"mask_ratio": 0.0}, r"--mask-ratio 0 "),
        ({"mask_ratio": 1.0}, r"--mask-ratio 1 "),
        ({"mask_ratio": math.nan}, r"--mask-ratio nan "),
        ({"salient_ratio": -0.1}, r"--salient-ratio -0.1 "),
        ({"salient_ratio": 1.1, "salient_of": "mask"}, r"--salient-ratio 1.1 "),
        ({"salient_ratio": math.nan, "salient_of": "mask"}, r"--salient-ratio nan "),
        ({"salient_mass": 0.0}, r"--salient-mass 0 "),
        ({"salient_mass": 1.5}, r"--salient-mass 1.5 "),
        ({"temperature": 0.0}, r"--temperature 0 "),
        ({"temperature": math.inf}, r"--temperature inf "),
        ({"salient_schedule": (0.0, 1.5), "salient_of": "mask"}, r"--salient-schedule 1.5 "),
        ({"strategy": "salient", "salient_ratio": 0.8}, r"--salient-ratio 0.8 is above --mask-ratio 0.75"),
        ({"strategy": "center", "salient_ratio": 0.8}, r"--salient-ratio 0.8 is above --mask-ratio 0.75"),
        ({"strategy": "salient", "salient_schedule": (0.8, 0.1)}, r"--salient-schedule 0.8 is above --mask-ratio 0.75"),
        ({"strategy": "salient", "salient_schedule": (0.1, 0.8)}, r"--salient-schedule 0.8 is above --mask-ratio 0.75"),
    ],
)
def test_wrong_settings_name_their_option(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Masking(**options)
    assert "\n" not in str(caught.value)


def test_a_salient_ratio_that_is_not_used_is_no_error() -> None:
    assert Masking("random", mask_ratio=0.1).salient_ratio > 0.1
    assert Masking("salient", mask_ratio=0.1, salient_ratio=0.9, salient_of="mask").ratio_at(0.5) == 0.9
    assert Masking("salient", mask_ratio=0.1, salient_ratio=0.9, salient_schedule=(0.0, 0.1)).ratio_at(1.0) == 0.1


def test_which_strategies_need_saliency() -> None:
    needing = {strategy for strategy in blind() if Masking(strategy).needs_saliency}
    assert needing == {"salient", "inverse", "shuffled", "motion", "frame-difference"}
    for strategy in blind():
        if strategy in needing:
            with pytest.raises(ValueError, match=f"--masking {strategy} needs saliency"):
                Masking(strategy)(2, (4, 4), generator=seeded())
        else:
            assert Masking(strategy)(2, (4, 4), generator=seeded()).hidden.sum() == 24


@pytest.mark.parametrize("shape", [(2, 15), (3, 16), (2, 4, 4), (16,)])
def test_a_map_of_the_wrong_shape_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="does not fit 2 images of 4×4 patches"):
        Masking("salient")(2, (4, 4), generator=seeded(), saliency=torch.zeros(shape))


def test_shuffled_needs_a_second_image() -> None:
    with pytest.raises(ValueError, match="--batch-size must be at least 2"):
        Masking("shuffled")(1, (4, 4), generator=seeded(), saliency=torch.zeros(1, 16))


def test_a_mask_that_hides_everything_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"--mask-ratio 0\.75 would hide 3 of 3 patches"):
        Masking("random")(2, (1, 3), generator=seeded())


@pytest.mark.parametrize("value", [math.nan, -1e-6, math.inf])
def test_check_saliency_refuses_what_is_no_saliency(value: float) -> None:
    saliency = torch.rand(2, 4)
    check_saliency(saliency)
    check_saliency(torch.zeros(2, 4))
    check_saliency(torch.zeros(2, 4, dtype=torch.uint8))
    saliency[1, 2] = value
    with pytest.raises(ValueError, match="1 of 8 saliency values"):
        check_saliency(saliency)


def test_settings_cannot_be_changed_after_the_check() -> None:
    with pytest.raises(FrozenInstanceError):
        Masking().mask_ratio = 2.0  # type: ignore[misc]
