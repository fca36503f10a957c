"""A training whose head is solved, whose T waits, has a share of the mask, and learns through the last steps alone."""

import math

import pytest
import torch

from mae.multilevel.masker import MixMasker
from mae.pixels import normalise
from tests.mae.multilevel.test_mlo import BATCH, batches_of, labelled, torch_round_trip, training

OWN = {
    "path": "drawn",
    "exploration": 1.0,
    "share": 0.5,
    "head": "solved",
    "buffer": 16,
    "unroll": (3, 1),
    "through": 1,
    "pool": "mean",
}


def own(seed=0, ratio=0.5, **settings):
    return training(seed=seed, masker=MixMasker((2, 2)), ratio=ratio, outer=8, **OWN | settings)


def test_a_resumed_run_has_the_same_bits():
    whole, half = own(wait=0.9), own(wait=0.9)
    for step in range(3):
        half.update(batches_of(half, step))
        whole.update(batches_of(whole, step))
    resumed = own(seed=5, wait=0.9)
    resumed.settings = whole.settings
    resumed.model.load_state_dict(half.model.state_dict())
    resumed.load_state(torch_round_trip(half.state()))
    for step in range(3, 6):
        a, b = whole.update(batches_of(whole, step)), resumed.update(batches_of(resumed, step))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    for group, values in whole._point.items():
        assert all(torch.equal(resumed._point[group][key], value) for key, value in values.items()), group
    assert whole.cost() == resumed.cost()
    assert whole.learned == resumed.learned


def test_the_head_is_solved_on_the_newest_features_before_t_learns():
    run = own()
    assert run.batches_per_step == {"mae": 3, "head": 2, "masker": 1}
    for step in range(5):
        run.update(batches_of(run, step))
    features, labels = run._solved.features, run._solved.labels
    assert len(labels) == 16
    assert torch.equal(labels[-BATCH:], batches_of(run, 4)["head"][0].labels)
    logits = run.head(features[:-BATCH])  # the last batch came after the head was solved
    assert torch.nn.functional.cross_entropy(logits, labels[:-BATCH]) < 0.8 * math.log(3)


@pytest.mark.parametrize(
    ("settings", "waits"), [({"wait": 0.0}, False), ({"wait": 0.01}, True), ({"wait": 9.0}, False)]
)
def test_t_waits_until_the_head_knows_something(settings, waits):
    run = own(**settings)
    before = {key: value.clone() for key, value in run._point["masker"].items()}
    learning = []
    for step in range(6):
        losses = run.update(batches_of(run, step))
        learning.append("masker" in losses)
        assert set(losses) >= {"mae", "head"}
    moved = any(not torch.equal(before[key], value) for key, value in run._point["masker"].items())
    assert moved != waits
    assert run.figures()["masker_waits"] == waits
    assert run.learned == sum(learning)
    if settings.get("wait") == 9.0:  # once the buffer is full
        assert learning[0] is False
        assert learning[-1] is True


def test_a_rate_of_zero_leaves_t_as_it_is_and_costs_no_hypergradient():
    still = own(masker_rate=0.0)
    for step in range(2):
        losses = still.update(batches_of(still, step))
    assert "masker" not in losses
    cost = still.cost()
    assert cost["masker"]["forward"] == cost["masker"]["flops"] == 0
    assert cost["mae"]["forward"] == cost["mae"]["backward"] == 6


def test_the_cost_is_that_of_the_steps_that_were_made():
    """Three steps of the autoencoder and a pair of differences; the head's features, its loss, and a way back."""
    run = own()
    for step in range(4):
        run.update(batches_of(run, step))
    cost = run.cost()
    assert [cost["mae"][name] for name in ("forward", "backward")] == [4 * 5, 4 * 5]
    assert [cost["head"][name] for name in ("forward", "backward", "second_backward")] == [4 * 3, 4 * 2, 4]
    plain = run.plain_flops(labelled(0).images)
    assert 3 * plain < cost["mae"]["flops"] / 4 < 4.5 * plain  # of the pair, no gradient goes back through the encoder


def test_masks_have_the_asked_number_of_patches_and_numbers_are_told():
    run = own(ratio=0.75)
    mask = run.draw_masks(normalise(labelled(0).images))
    assert (mask.hidden.sum(1) == 3).all()
    assert {"masker_contrast", "masker_share", "masker_temperature"} <= set(run.figures())
    assert run.probabilities(normalise(labelled(0).images)).shape == (BATCH, 4)


def test_the_hypergradients_of_both_methods_agree():
    found = {}
    for method in ("exact", "finite"):
        run = own(hypergradient=method, radius=0.01, through=0)
        for step in range(2):
            run.update(batches_of(run, step))
        point = dict(run._point)
        found.setdefault("point", (point, run._solved, run.head))
        inputs = {n: [run._inputs(n, i, b) for i, b in enumerate(bs)] for n, bs in batches_of(run, 2).items()}
        run._point = found["point"][0]
        run._solved.load_state(found["point"][1].state())
        run._solved.solve(run._point["head"])
        gradient = run.solver.hypergradient(run._point, inputs | {"head": inputs["head"][:1]}, 2)
        found[method] = torch.cat([value.flatten() for value in gradient.values()])
    assert torch.cosine_similarity(found["exact"], found["finite"], dim=0) > 0.99
