import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saliency.faithfulness import (
    BASELINES,
    Faithfulness,
    Perturbed,
    blurred,
    curve_area,
    mean_colour,
    pixel_ranks,
    saco,
)
from saliency.quality import centre_prior, lay_on_image


def picture(side=20, seed=0, channels=3):
    return np.random.default_rng(seed).uniform(0, 255, (channels, side, side)).astype(np.float32)


def looks_at(image, region):
    """A model that knows its region by heart: 1 where an image is the picture there, less the further it is from it."""

    def score(images):
        return 1 - np.abs(images - image).mean(axis=1)[:, region].mean(axis=1).astype(np.float64) / 255

    return score


def planted(number):
    """A picture whose model looks at a region off the centre, and the true map of it, [10, 10]."""
    rng = np.random.default_rng(number)
    top, left = [int(rng.choice([0, 1, 6, 7])) for _ in range(2)]
    truth = np.zeros((10, 10), np.float32)
    truth[top : top + 3, left : left + 3] = 1
    image = picture(seed=number)
    return image, looks_at(image, np.kron(truth, np.ones((2, 2))) > 0), truth


def areas(found):
    """The figures of a map, each turned so that more is better."""
    figures = {f"insertion {name}": curve_area(found.insertion[name]) for name in BASELINES}
    figures |= {f"deletion {name}": -curve_area(found.deletion[name]) for name in BASELINES}
    return figures | {"saco": found.saco}


# ---- the order of the controls


def test_controls_come_out_in_the_known_order():
    rows = {"oracle": [], "centre": [], "random": [], "uniform": [], "inverted": []}
    for number in range(12):
        image, score, truth = planted(number)
        perturbed = Perturbed(image, score, seed=number)
        maps = {"oracle": truth, "centre": centre_prior((10, 10)), "uniform": np.ones((10, 10), np.float32)}
        maps |= {"random": perturbed.random_map((10, 10)), "inverted": 1 - truth}
        for name, values in maps.items():
            rows[name].append(areas(perturbed.measure(values)))
    for figure in rows["oracle"][0]:
        means = {name: np.mean([found[figure] for found in each]) for name, each in rows.items()}
        between = [means[name] for name in ("centre", "random", "uniform")]
        assert means["oracle"] > max(between), figure
        assert min(between) > means["inverted"], figure
    assert all(found["saco"] > 0.99 for found in rows["oracle"])
    assert all(found["saco"] < -0.7 for found in rows["inverted"])  # groups without any effect count for the order
    assert all(found["saco"] == 0 for found in rows["uniform"])
    assert abs(np.mean([found["saco"] for found in rows["random"]])) < 0.3


def test_the_inverted_map_is_the_map_read_backwards():
    image, score, _ = planted(3)
    values = np.random.default_rng(1).random((10, 10), np.float32)
    perturbed = Perturbed(image, score)
    mirrored, measured = perturbed.measure(values).inverted(), perturbed.measure(1 - values)
    for name in BASELINES:
        np.testing.assert_allclose(mirrored.insertion[name], measured.insertion[name], atol=1e-9)
        np.testing.assert_allclose(mirrored.deletion[name], measured.deletion[name], atol=1e-9)
    assert mirrored.saco == pytest.approx(measured.saco, abs=1e-5)


def test_a_map_that_says_nothing_has_the_order_of_the_random_one_and_no_coefficient():
    image, score, _ = planted(5)
    perturbed = Perturbed(image, score, seed=(7, 5))
    random = perturbed.measure(perturbed.random_map((10, 10)))
    for flat in (np.ones((10, 10), np.float32), np.zeros((10, 10), np.float32)):
        found = perturbed.measure(flat)
        assert found.saco == 0 != random.saco
        for name in BASELINES:
            assert (found.insertion[name] == random.insertion[name]).all()
            assert (found.deletion[name] == random.deletion[name]).all()
    again, other = (Perturbed(image, score, seed=(7, number)).random_map((10, 10)) for number in (5, 6))
    assert (again == perturbed.random_map((10, 10))).all()
    assert (other != again).any()


# ---- curves


@pytest.mark.parametrize("tied", [False, True])
def test_curves_are_those_of_plain_loops(tied):
    """Pixel after pixel is replaced in one image; no array operation is shared with the code."""
    image, steps = picture(6, seed=2), 4
    rng = np.random.default_rng(3)
    values = rng.random((3, 3), np.float32) * (rng.random((3, 3)) < 0.5 if tied else 1)
    weights = rng.normal(size=(3, 6, 6))

    def score(images):
        return np.asarray([np.tanh((one / 255 * weights).sum()) for one in images])

    perturbed = Perturbed(image, score, seed=4)
    found = perturbed.measure(values, steps=steps, groups=4)
    laid, ties = lay_on_image(values, (6, 6)), lay_on_image(perturbed.random_map((3, 3)), (6, 6))
    pixels = sorted(((y, x) for y in range(6) for x in range(6)), key=lambda at: (laid[at], ties[at]), reverse=True)
    whole = score([image])[0]
    for name, baseline in (("blurred", blurred(image)), ("mean", mean_colour(image))):
        for curve, start, end in (
            (found.deletion[name], image, baseline),
            (found.insertion[name], baseline, image),
        ):
            changed, expected = start.copy(), [score([start])[0]]
            for place, (y, x) in enumerate(pixels, 1):
                changed[:, y, x] = end[:, y, x]
                if place * steps % len(pixels) == 0:
                    expected.append(score([changed])[0])
            np.testing.assert_allclose(curve, expected, atol=1e-6)
            trapezoids = [(a + b) / 2 / steps for a, b in itertools.pairwise(expected)]
            assert curve_area(curve) == pytest.approx(sum(trapezoids), abs=1e-6)
    salience, effects = [], []
    for number in range(4):
        changed, part = image.copy(), pixels[9 * number : 9 * number + 9]
        for y, x in part:
            changed[:, y, x] = mean_colour(image)[:, y, x]
        salience.append(sum(float(laid[at]) for at in part))
        effects.append(whole - score([changed])[0])
    assert found.saco == pytest.approx(algorithm_1(salience, effects), abs=1e-6)


def test_every_share_of_pixels_has_its_place():
    values = np.random.default_rng(0).random((7, 5), np.float32)
    ranks = pixel_ranks(values, np.zeros_like(values))
    assert sorted(ranks.ravel()) == list(range(35))
    assert (np.diff(values.ravel()[np.argsort(ranks.ravel())]) <= 0).all()
    flat = pixel_ranks(np.ones_like(values), values)
    assert (flat == ranks).all()


def test_baselines():
    image = picture(32)
    assert np.ptp(mean_colour(image), axis=(1, 2)).max() == 0
    np.testing.assert_allclose(mean_colour(image)[:, 0, 0], image.mean(axis=(1, 2)), rtol=1e-5)
    smooth = blurred(image)
    np.testing.assert_allclose(smooth.mean(axis=(1, 2)), image.mean(axis=(1, 2)), rtol=1e-4)
    assert smooth.std() < image.std() / 10
    np.testing.assert_allclose(blurred(mean_colour(image)), mean_colour(image), rtol=1e-4)


# ---- SaCo


def algorithm_1(salience, effects):
    """The paper's algorithm, step by step."""
    total, weights = 0.0, 0.0
    for i in range(len(salience) - 1):
        for j in range(i + 1, len(salience)):
            weight = salience[i] - salience[j] if effects[i] >= effects[j] else salience[j] - salience[i]
            total += weight
            weights += abs(weight)
    return total / weights if weights else 0.0


def test_saco_written_out():
    salience = np.asarray([6.0, 3.0, 1.0])
    assert saco(salience, np.asarray([0.5, 0.1, 0.2])) == pytest.approx((3 + 5 - 2) / (3 + 5 + 2))
    assert saco(salience, np.asarray([0.5, 0.2, 0.1])) == 1
    assert saco(salience, np.asarray([0.1, 0.2, 0.5])) == -1
    assert saco(salience, np.zeros(3)) == 1  # equal effects count for the order, as in the paper
    assert saco(np.asarray([2.0, 2.0, 1.0]), np.asarray([0.0, 0.5, 0.2])) == pytest.approx((1 - 1) / 2)
    assert saco(np.ones(3), np.asarray([0.1, 0.2, 0.5])) == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-5, 5)), min_size=2, max_size=8))
def test_saco_is_that_of_the_papers_loop(groups):
    ordered = sorted(groups, key=lambda group: -group[0])
    salience, effects = (np.asarray(column, np.float64) for column in zip(*ordered, strict=True))
    found = saco(salience, effects)
    assert found == pytest.approx(algorithm_1(salience, effects))
    assert -1 <= found <= 1
    assert saco(3 * salience + 2, 7 * effects) == pytest.approx(found)


def test_inverting_twice_changes_nothing():
    curve = {"mean": np.asarray([0.1, 0.5, 0.2])}
    one = Faithfulness(curve, {"mean": curve["mean"] + 1}, np.asarray([6.0, 3, 1]), np.asarray([0.5, 0.1, 0.2]))
    assert one.inverted().inverted().insertion["mean"].tolist() == [0.1, 0.5, 0.2]
    assert one.inverted().insertion["mean"].tolist() == pytest.approx([1.2, 1.5, 1.1])
    assert (one.saco, one.inverted().saco) == pytest.approx((0.6, -0.6))
