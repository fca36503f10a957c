"""Sizes by epoch, positions on other grids, and steps on images of several sizes."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from mae.masks.masking import Masking
from mae.models.mask import hidden_count
from mae.models.tokens import sincos_positions
from mae.training.flops import training_flops
from mae.training.resolution_schedule import ResolutionSchedule
from mae.training.settings import TrainingSettings
from mae.training.training import Batch, Training
from tests.tiny_mae import nano


def test_sizes_by_epoch():
    schedule = ResolutionSchedule.parse("0:128,0.5:160x192,0.8:224", epochs=10)
    assert schedule.stages == ((0.0, (128, 128)), (0.5, (160, 192)), (0.8, (224, 224)))
    assert schedule.sizes() == [(128, 128)] * 5 + [(160, 192)] * 3 + [(224, 224)] * 2
    assert schedule.size_at(10) == schedule.size_at(99) == (224, 224)
    assert ResolutionSchedule.parse("0:32", epochs=1).sizes() == [(32, 32)]


@given(st.lists(st.integers(1, 99), max_size=4, unique=True), st.integers(1, 100))
def test_every_size_has_its_share_of_the_epochs(percents, epochs):
    shares = [0.0, *sorted(percent / 100 for percent in percents)]
    lengths = np.diff([*shares, 1.0]) * epochs
    assume(lengths.min() >= 1 + 1e-9 or epochs == 1 == len(shares))
    schedule = ResolutionSchedule(tuple((share, (i, i)) for i, share in enumerate(shares)), epochs)
    counts = np.bincount([size[0] for size in schedule.sizes()], minlength=len(shares))
    assert counts.min() >= 1
    assert np.abs(counts - lengths).max() <= 1 + 1e-9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not SHARE:SIDE"),
        ("128", "'128' is not SHARE:SIDE"),
        ("0:128,half:224", "'half:224' is not SHARE:SIDE"),
        ("0:1x2x3", "'0:1x2x3' is not SHARE:SIDE"),
        ("0.1:128,0.5:224", "starts at 0 .* not 0.1, 0.5"),
        ("0:128,0.5:160,0.5:224", "growing fractions below 1, not 0, 0.5, 0.5"),
        ("0:128,0.8:160,0.5:224", "growing fractions below 1"),
        ("0:128,1:224", "growing fractions below 1"),
        ("0:128,nan:224", "growing fractions below 1"),
        ("0:128,0.5:160,0.51:224", "of --epochs 10 none is left for 160×160"),
        ("0:128,0.99:224", "of --epochs 10 none is left for 224×224"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        ResolutionSchedule.parse(text, epochs=10)


def test_sizes_must_fit_the_model():
    schedule = ResolutionSchedule.parse("0:32,0.5:48x64", epochs=10)
    schedule.check((48, 64), 16)
    with pytest.raises(ValueError, match="ends with 48×64, which must be --image-size 64×48"):
        schedule.check((64, 48), 16)
    with pytest.raises(ValueError, match="32×32 must be a multiple of --patch-size 12"):
        schedule.check((48, 64), 12)
    with pytest.raises(ValueError, match="0×0 must be a multiple of --patch-size 8"):
        ResolutionSchedule.parse("0:0,0.5:48", epochs=10).check((48, 48), 8)


def test_the_models_own_grid_has_the_stored_positions():
    model = nano(image_size=(48, 32))
    model.pos_embed.data += 1
    for grid in (None, (6, 4)):
        encoder, decoder = model.positions(grid)
        assert encoder is model.pos_embed
        assert decoder is model.decoder_pos_embed


def test_a_place_of_the_image_has_one_position_on_every_grid():
    model = nano(image_size=(48, 72))  # 6×9 patches
    own = model.pos_embed[0, 1:].reshape(6, 9, -1)
    encoder, decoder = model.positions((2, 3))  # whose centres are those of every third of the model's patches
    assert (encoder.shape, decoder.shape) == ((1, 7, 16), (1, 7, 16))
    torch.testing.assert_close(encoder[0, 1:].reshape(2, 3, -1), own[1::3, 1::3])
    assert not encoder[0, 0].any()
    # a patch that covers two by two of the model's lies between them, as the angles say
    half = model.positions((3, 9))[0][0, 1:].reshape(3, 9, -1)
    rows = slice(8, 12)  # the sines of the row
    frequencies = 10000 ** -(np.arange(4) / 4)
    expected = np.sin(np.asarray([0.5, 2.5, 4.5])[:, None] * frequencies)
    np.testing.assert_allclose(half[:, 0, rows].numpy(), expected, atol=1e-6)
    torch.testing.assert_close(half[0, :, :8], own[0, :, :8])
    torch.testing.assert_close(sincos_positions((6, 9), 16, (6, 9)), sincos_positions((6, 9), 16))


def test_positions_of_other_grids_are_kept_and_no_weights():
    model = nano(image_size=32)
    names = list(model.state_dict())
    first = model.positions((2, 3))
    assert model.positions((2, 3))[0] is first[0]
    assert list(model.state_dict()) == names
    assert not first[0].requires_grad


def test_images_of_another_size_are_refused_unless_their_grid_is_told():
    model = nano(image_size=32)
    images = torch.rand(2, 3, 16, 24)
    mask = Masking()(2, (2, 3), generator=torch.Generator())
    for look in (model.encode, model.features, model.patchify, lambda images: model(images, mask)):
        with pytest.raises(ValueError, match="do not fit a model"):
            look(images)
    with pytest.raises(ValueError, match="do not fit a model"):
        model(images, mask, grid=(3, 2))
    assert model(images, mask, grid=(2, 3)).isfinite()
    assert model.predict(images, mask, grid=(2, 3)).prediction.shape == (2, 6, 192)


def test_a_small_image_is_treated_as_by_a_model_of_that_size_with_those_positions():
    model, small = nano(image_size=48), nano(image_size=(16, 24))
    grid = (2, 3)
    state = model.state_dict() | dict(zip(("pos_embed", "decoder_pos_embed"), model.positions(grid), strict=True))
    small.load_state_dict(state)
    images = torch.rand(2, 3, 16, 24)
    mask = Masking()(2, grid, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(images, mask, grid=grid), small(images, mask))


def test_smaller_images_are_less_work():
    model = nano(image_size=32)
    small = training_flops(model, 0.75, grid=(2, 2))
    assert small == training_flops(nano(image_size=16), 0.75) < training_flops(model, 0.75) / 3


def training(schedule):
    torch.manual_seed(0)
    settings = TrainingSettings(epochs=3, batch_size=4, warmup_epochs=0, blr=0.1)
    return Training(nano(image_size=32), Masking(strategy="salient"), settings, 2, resolutions=schedule)


def test_a_training_asks_for_the_size_of_its_epoch():
    run = training(ResolutionSchedule.parse("0:16,0.34:16x24,0.67:32", epochs=3))
    assert run.grids == {(2, 2), (2, 3), (4, 4)}
    sizes = []
    for _ in range(6):
        sizes.append(run.image_size())
        assert run.grid == (sizes[-1][0] // 8, sizes[-1][1] // 8)
        patches = run.grid[0] * run.grid[1]
        saliency = torch.rand(4, patches)
        mask = run.draw_masks(4, saliency, 0)
        assert mask.hidden.sum(1).tolist() == [hidden_count(patches, 0.75)] * 4
        images = torch.randint(0, 256, (4, 3, *sizes[-1]), dtype=torch.uint8)
        assert run.update([Batch(images, saliency)]).isfinite()
    assert sizes == [(16, 16)] * 2 + [(16, 24)] * 2 + [(32, 32)] * 2
    assert [run.image_size(step) for step in (0, 3, 5)] == [(16, 16), (16, 24), (32, 32)]
    assert run.image_size() == run.model.image_size  # of what is done with it afterwards
    assert run.non_finite() is None


def test_a_batch_of_another_epochs_size_is_refused():
    run = training(ResolutionSchedule.parse("0:16,0.5:32", epochs=3))
    with pytest.raises(ValueError, match="do not fit a model"):
        run.update([Batch(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.rand(4, 4))])
