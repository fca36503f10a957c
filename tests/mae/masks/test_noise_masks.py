"""Lattices against the ordered dither's own recursion, and coloured noise against sums over pixels and its spectra."""

import itertools
import math

import pytest
import torch

from mae.masks.masking import Masking
from mae.masks.noise import _SIGMAS, COLORS, color_priorities, grid_priorities
from mae.models.mask import hidden_count


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def visible(strategy, grid, count=400, mask_ratio=0.75):
    mask = Masking(strategy, mask_ratio)(count, grid, generator=seeded(1))
    return ~mask.hidden.view(count, *grid)


# The lattice


def dither(levels):
    """The ordered dither's matrix [2^n, 2^n]: four copies of the smaller one, four times its values, plus 0..3."""
    matrix = torch.zeros(1, 1, dtype=torch.int64)
    for _ in range(levels):
        matrix = torch.cat(
            [torch.cat([4 * matrix, 4 * matrix + 2], 1), torch.cat([4 * matrix + 3, 4 * matrix + 1], 1)], 0
        )
    return matrix


@pytest.mark.parametrize("grid", [(14, 14), (2, 2), (6, 10)])
def test_three_quarters_hidden_leave_one_of_every_two_by_two(grid):
    seen = visible("grid", grid)
    blocks = seen.unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)  # [B, H/2, W/2, 4]
    assert (blocks.sum(-1) == 1).all()
    corners = blocks.float().argmax(-1).flatten(1)
    assert (corners == corners[:, :1]).all(), "the same one in all blocks of an image"
    assert corners[:, 0].bincount().tolist() == pytest.approx([100] * 4, abs=40), "and each as often as the others"


def test_other_ratios_are_lattices_too():
    board = visible("grid", (6, 6), mask_ratio=0.5)
    assert (board[:, 1:] != board[:, :-1]).all()
    assert (board[:, :, 1:] != board[:, :, :-1]).all()
    blocks = visible("grid", (8, 12), mask_ratio=15 / 16).unfold(1, 4, 4).unfold(2, 4, 4).flatten(3)
    assert (blocks.sum(-1) == 1).all()


@pytest.mark.parametrize("grid", [(14, 14), (7, 5), (1, 9), (8, 3)])
@pytest.mark.parametrize("mask_ratio", [0.1, 0.4, 0.6, 0.75, 0.8, 0.9, 0.95])
def test_the_visible_are_the_first_of_an_ordered_dither(grid, mask_ratio):
    hidden = hidden_count(math.prod(grid), mask_ratio)
    if not 0 < hidden < math.prod(grid):
        pytest.skip("nothing to choose")
    seen = visible("grid", grid, 50, mask_ratio)
    matrices = [dither(levels) for levels in range(1, 5)]
    for image in seen:
        assert any(starts_somewhere(matrix, image) for matrix in matrices if len(matrix) <= 2 * max(grid)), (
            "no place to begin at explains who is visible"
        )


def starts_somewhere(matrix, image):
    rows, columns = image.shape
    for down in range(len(matrix)):
        for across in range(len(matrix)):
            i = (torch.arange(rows) + down) % len(matrix)
            j = (torch.arange(columns) + across) % len(matrix)
            rank = matrix[i][:, j]
            if rank[image].max() <= rank[~image].min():
                return True
    return False


def test_a_lattice_hides_every_patch_equally_often():
    assert visible("grid", (6, 6), 8000).float().mean(0) == pytest.approx(torch.full((6, 6), 0.25), abs=0.025)


def test_noise_decides_between_what_the_lattice_does_not():
    uniform = torch.rand(1, 16, generator=seeded())
    rank = grid_priorities((4, 4), 12, uniform, torch.zeros(1, 2)) - uniform
    assert rank.round().view(4, 4).int().tolist() == [[0, 2, 0, 2], [3, 1, 3, 1]] * 2


# Coloured noise


def noise_of(count, seed=0):
    generator = seeded(seed)
    drawn = []

    def noise(times, numbers):
        drawn.append(torch.rand(times, count, numbers, generator=generator))
        return drawn[-1]

    return noise, drawn


def gaussian(sigma):
    """Weights [2r + 1, 2r + 1] of a Gaussian cut off after three deviations along each axis."""
    reach = math.floor(3 * sigma)
    weights = [
        [math.exp(-(i * i + j * j) / (2 * sigma**2)) for j in range(-reach, reach + 1)]
        for i in range(-reach, reach + 1)
    ]
    return torch.tensor(weights, dtype=torch.float64) / sum(map(sum, weights))


def blurred(white, sigma, row, column):
    weights = gaussian(sigma)
    reach = len(weights) // 2
    return (white[row - reach : row + reach + 1, column - reach : column + reach + 1] * weights).sum()


@pytest.mark.parametrize("color", COLORS)
def test_colors_are_sums_over_the_surroundings(color):
    grid = (14, 14)
    noise, drawn = noise_of(2)
    found = color_priorities(color, grid, noise).view(2, *grid)
    white = drawn[0][0].double() - 0.5
    side = math.isqrt(white.shape[1])
    white, margin = white.view(2, side, side), (side - 14) // 2
    for row, column in [(0, 0), (13, 13), (4, 9)]:
        place = row + margin, column + margin
        sums = [blurred(white[1], sigma, *place) for sigma in _SIGMAS[color]]
        there = white[1][place]
        if color in ("red", "blue"):
            expected = sums[0] if color == "red" else there - sums[0]
            assert found[1, row, column] == pytest.approx(expected.item(), abs=1e-12)
        elif color == "green":
            assert found[1, row, column] == pytest.approx((sums[0] - sums[1]).item(), abs=1e-12)
        else:
            gain = ((there - found[1, row, column]) / (sums[0] - sums[1])).item()
            assert 1.5 < gain < 3, "the green noise, at one and the same gain"
            assert gain == pytest.approx(1 / float(peak(*_SIGMAS[color])), rel=1e-3)


def response(sigma, frequency):
    reach = math.floor(3 * sigma)
    weights = gaussian(sigma).sum(0)
    return sum(weights[d + reach] * math.cos(frequency * d) for d in range(-reach, reach + 1))


def peak(narrow, wide):
    return max(response(narrow, f / 200) - response(wide, f / 200) for f in range(629))


def spectrum(strategy, side=28, count=600):
    """Power of the priorities by frequency in five bands from low to high, as shares of a flat spectrum's."""
    drawn = seeded(3)
    noises = lambda times, numbers: torch.rand(times, count, numbers, generator=drawn)  # noqa: E731
    if strategy == "random":
        values = torch.rand(count, side, side, generator=drawn)
    else:
        values = color_priorities(strategy.removeprefix("color-"), (side, side), noises).view(-1, side, side)
    values = (values - values.mean()) / values.std()
    window = torch.hann_window(side, periodic=False)
    power = torch.fft.fft2(values * window[:, None] * window).abs().square().mean(0)
    axis = torch.fft.fftfreq(side)
    radius = (axis[:, None].square() + axis.square()).sqrt()
    edges = [0.0, 0.05, 0.1, 0.2, 0.3, 0.72]
    bands = [power[(radius >= low) & (radius < high)].mean().item() for low, high in itertools.pairwise(edges)]
    return [band / power.mean().item() for band in bands]


def test_red_noise_falls_with_the_frequency():
    bands = spectrum("color-red")
    assert bands == sorted(bands, reverse=True)
    assert bands[0] > 20 * bands[2]


def test_blue_noise_rises_with_the_frequency():
    bands = spectrum("color-blue")
    assert bands == sorted(bands)
    assert bands[0] < 0.05 * bands[-1]


def test_green_noise_is_highest_and_purple_lowest_between():
    green, purple = spectrum("color-green"), spectrum("color-purple")
    assert max(green[1:3]) > 3 * max(green[0], green[-1])
    assert min(purple[1:3]) < min(purple[0], purple[-1]) / 3


def test_what_is_compared_has_a_flat_spectrum_of_white_noise():
    assert spectrum("random") == pytest.approx([1] * 5, abs=0.15)


@pytest.mark.parametrize("color", COLORS)
def test_colors_are_as_strong_at_the_border_as_inside(color):
    noise, _ = noise_of(8000)
    deviations = color_priorities(color, (6, 6), noise).std(0)
    assert deviations / deviations.mean() == pytest.approx(torch.ones(36).double(), abs=0.04)


def test_colors_hide_every_patch_about_equally_often():
    """A smooth field has its extremes at the border of a window more often than inside: it is red noise's alone."""
    for color in COLORS:
        seen = visible(f"color-{color}", (6, 6), 8000).float().mean(0)
        assert seen == pytest.approx(torch.full((6, 6), 0.25), abs=0.05 if color == "red" else 0.03)


def test_opposite_borders_know_nothing_of_each_other():
    noise, _ = noise_of(4000)
    values = color_priorities("red", (14, 14), noise).view(-1, 14, 14)
    left, beside, right = (values[:, 7, column] for column in (0, 1, 13))
    assert torch.corrcoef(torch.stack([left, beside]))[0, 1] > 0.8
    assert torch.corrcoef(torch.stack([left, right]))[0, 1].abs() < 0.06


@pytest.mark.parametrize("color", ["red", "green"])
def test_a_pattern_covers_the_same_share_of_an_image_on_any_grid(color):
    def alike(side, step):
        noise, _ = noise_of(1500)
        values = color_priorities(color, (side, side), noise).view(-1, side, side)
        return torch.corrcoef(torch.stack([values[:, :, 0].flatten(), values[:, :, step].flatten()]))[0, 1].item()

    for step in (2, 4):
        assert alike(14, step) == pytest.approx(alike(28, 2 * step), abs=0.1)


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("grid", [(2, 2), (4, 4), (1, 8)])
def test_small_grids_have_noise_left_and_no_ties(color, grid):
    noise, _ = noise_of(100)
    values = color_priorities(color, grid, noise)
    assert values.std() > 0.01
    assert all(len(row.unique()) == math.prod(grid) for row in values)
