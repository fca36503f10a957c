"""Decoding a share of the hidden patches: how many, which, from which random numbers, and what the loss is of."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mae.masks.decoded import choose_decoded, decoded_count
from mae.masks.masking import Masking, mask_from_priorities
from mae.training import training as module
from mae.training.settings import TrainingSettings
from mae.training.training import Batch, Training
from tests.mae.models.test_step import autoencoder, inputs
from tests.tiny_mae import nano


def training(seed=0, **settings):
    torch.manual_seed(0)
    options = {"epochs": 2, "batch_size": 4, "warmup_epochs": 0, "blr": 0.1, "seed": seed} | settings
    return Training(nano(), Masking(), TrainingSettings(**options), 10)


def images(count=4, seed=0):
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def masks(count, patches=16, ratio=0.75, seed=0):
    return mask_from_priorities(torch.rand(count, patches, generator=torch.Generator().manual_seed(seed)), ratio)


@given(st.integers(1, 300), st.floats(0.001, 1))
def test_the_count_is_the_ratios_and_at_least_one(hidden, ratio):
    count = decoded_count(hidden, ratio)
    assert 1 <= count <= hidden
    assert count == 1 or abs(count - ratio * hidden) <= 0.5


@given(st.integers(0, 2**31), st.floats(0.05, 0.99), st.floats(0.3, 0.9))
def test_the_chosen_are_hidden_and_differ(seed, ratio, mask_ratio):
    mask = masks(3, ratio=mask_ratio)
    chosen = choose_decoded(mask, ratio, torch.Generator().manual_seed(seed))
    assert chosen.shape == (3, decoded_count(int(mask.hidden[0].sum()), ratio))
    assert mask.hidden.gather(1, chosen).all()
    assert all(len(row.unique()) == len(row) for row in chosen)


def test_every_hidden_patch_is_chosen_equally_often():
    one = masks(1)
    count = 20_000
    many = type(one)(*(t.expand(count, -1) for t in (one.ids_keep, one.ids_restore, one.hidden)))
    chosen = choose_decoded(many, 0.25, torch.Generator().manual_seed(1))
    share = torch.bincount(chosen.flatten(), minlength=16) / count
    assert not share[~one.hidden[0]].any()
    # three of twelve: a quarter each, with a deviation of 0.003; six of them
    torch.testing.assert_close(share[one.hidden[0]], torch.full((12,), 0.25), atol=0.018, rtol=0)
    pairs = torch.zeros(16, 16).index_put_((chosen[:, 0], chosen[:, 1]), torch.ones(count), accumulate=True) / count
    off = pairs[one.hidden[0]][:, one.hidden[0]][~torch.eye(12, dtype=torch.bool)]
    torch.testing.assert_close(off, torch.full((132,), 1 / 132), atol=0.004, rtol=0)


def test_the_mean_over_all_choices_is_the_mean_over_the_hidden_patches():
    """Every one of the 12 · 11 ordered pairs: each patch's error in the company of each other one."""
    model = autoencoder(image_size=16)
    picture, mask = inputs(model, count=1)
    hidden = mask.ids_hidden[0]
    pairs = [torch.stack([a, b])[None] for a in hidden for b in hidden if a < b]
    with torch.no_grad():
        by_choice = torch.stack([model(picture, mask, pair) for pair in pairs])
        patches = model._target(model.patchify(picture))[0]
        latent = model.encode_visible(picture, mask.ids_keep)
        errors = {int(a): [] for a in hidden}
        for pair in pairs:
            prediction = model._fill_in(latent, mask.ids_keep, pair)[0]
            for place, patch in enumerate(pair[0].tolist()):
                errors[patch].append((prediction[place] - patches[patch]).square().mean())
    by_patch = torch.stack([torch.stack(values).mean() for values in errors.values()])
    torch.testing.assert_close(by_choice.mean(), by_patch.mean(), rtol=1e-5, atol=1e-6)


def test_ratio_1_is_the_run_without_it_and_other_ratios_have_its_masks():
    plain, other = training(), training(decode_ratio=0.5)
    for step in range(3):
        assert plain.draw_decoded(plain.draw_masks(4, None, 0), 0) is None
        assert torch.equal(plain.draw_masks(4, None, 0).hidden, other.draw_masks(4, None, 0).hidden)
        expected = plain.model(*_normalised(plain, images(seed=step)))
        assert plain.update([Batch(images(seed=step))]).item() == expected.item()
        other.update([Batch(images(seed=step))])
    assert not torch.equal(plain.model.decoder_pred.bias, other.model.decoder_pred.bias)


def _normalised(run, batch):
    from mae.pixels import normalise

    return normalise(batch), run.draw_masks(len(batch), None, 0)


def test_the_choice_follows_from_seed_step_and_number_and_is_not_the_masks(monkeypatch):
    run = training(decode_ratio=0.5)
    mask = run.draw_masks(4, None, 0)
    chosen = run.draw_decoded(mask, 0)
    assert chosen.shape == (4, 6)
    assert torch.equal(chosen, training(decode_ratio=0.5).draw_decoded(mask, 0))
    assert not torch.equal(chosen, run.draw_decoded(mask, 1))
    assert not torch.equal(chosen, training(seed=1, decode_ratio=0.5).draw_decoded(mask, 0))
    run.step = 1
    assert not torch.equal(chosen, run.draw_decoded(mask, 0))
    seeds, seed = [], module.seed_of
    monkeypatch.setattr(module, "seed_of", lambda *numbers: seeds.append(seed(*numbers)) or seeds[-1])
    run.draw_masks(4, None, 0)
    run.draw_decoded(mask, 0)
    assert len(set(seeds)) == 2, "the masks' numbers decide which patches are hidden: not which are decoded too"


def test_a_step_of_a_part_learns():
    run = training(epochs=30, blr=0.5, decode_ratio=0.34)
    losses = [run.update([Batch(images())]).item() for _ in range(60)]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


@pytest.mark.parametrize("ratio", [0, -0.5, 1.01, float("nan")])
def test_a_wrong_ratio_names_its_option(ratio):
    with pytest.raises(ValueError, match="--decode-ratio is .*; it must be above 0 and at most 1"):
        TrainingSettings(decode_ratio=ratio)
