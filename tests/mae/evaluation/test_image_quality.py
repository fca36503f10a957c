import math

import pytest
import torch

from mae.evaluation.image_quality import psnr, ssim


def pictures(seed, side=14):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=generator)


def brute_ssim(x, y, row, column):
    """The index of one channel at one pixel, its window cut off at the borders."""
    weights, values = 0.0, [0.0] * 5
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            if max(abs(i - row), abs(j - column)) <= 5:
                w = math.exp(-((i - row) ** 2 + (j - column) ** 2) / (2 * 1.5**2))
                a, b = float(x[i, j]) / 255, float(y[i, j]) / 255
                weights += w
                values = [v + w * each for v, each in zip(values, (a, b, a * a, b * b, a * b), strict=True)]
    a, b, aa, bb, ab = (v / weights for v in values)
    c1, c2 = 0.01**2, 0.03**2
    return (2 * a * b + c1) * (2 * (ab - a * b) + c2) / ((a * a + b * b + c1) * (aa - a * a + bb - b * b + c2))


def test_ssim_is_that_of_loops():
    images, truth = pictures(0), pictures(1)
    truth = ((images.int() + truth.int()) // 2).to(torch.uint8)
    region = torch.zeros(2, 14, 14, dtype=torch.bool)
    places = [(0, 0), (3, 9), (13, 6)]
    for row, column in places:
        region[:, row, column] = True
    found = ssim(images, truth, region)
    for i in range(2):
        brute = [brute_ssim(images[i, c], truth[i, c], *place) for place in places for c in range(3)]
        assert float(found[i]) == pytest.approx(sum(brute) / len(brute), abs=1e-5)


def test_psnr_counts_the_region_alone():
    images, truth = pictures(0), pictures(0)
    truth[:, :, 0, 0] = images[:, :, 0, 0] ^ 64
    region = torch.zeros(2, 14, 14, dtype=torch.bool)
    region[:, 0, :2] = True
    expected = -10 * math.log10((64 / 255) ** 2 / 2)
    assert psnr(images, truth, region).tolist() == pytest.approx([expected] * 2, abs=1e-4)
    region[:, 0, 0] = False
    assert psnr(images, truth, region).tolist() == [100, 100]


def test_the_same_picture_and_an_empty_region():
    everywhere = torch.ones(2, 14, 14, dtype=torch.bool)
    assert ssim(pictures(0), pictures(0), everywhere).tolist() == pytest.approx([1, 1])
    assert ssim(pictures(0), pictures(0), ~everywhere).isnan().all()
    assert psnr(pictures(0), pictures(0), ~everywhere).isnan().all()


def test_of_a_clip_the_regions_of_all_frames_count_alike():
    clips, truth = (torch.stack([pictures(seed), pictures(seed + 2)], dim=2) for seed in (0, 1))
    region = torch.zeros(2, 2, 14, 14, dtype=torch.bool)
    region[:, 0, :4] = True
    region[:, 1, 2:10] = True
    for measure in (psnr, ssim):  # of pixels side by side, twice as many in the second frame
        first, second = (measure(clips[:, :, t], truth[:, :, t], region[:, t]) for t in (0, 1))
        if measure is psnr:
            first, second = 10 ** (-first / 10), 10 ** (-second / 10)
        expected = (first + 2 * second) / 3
        expected = -10 * expected.log10() if measure is psnr else expected
        torch.testing.assert_close(measure(clips, truth, region), expected)
