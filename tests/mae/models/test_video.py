"""The video model: tubelets, positions, its fast path against the plain one, targets, inflation, saving."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mae.masks.masking import Masking
from mae.models.linear import Linear
from mae.models.tokens import sincos_positions
from mae.models.video import (
    TubeletEmbed,
    VideoMaskedAutoencoder,
    inflate,
    new_model,
    space_time_positions,
    table_positions,
)
from mae.models.vit import MaskedAutoencoder
from mae.training.checkpoints import load_model

SMALL = {"image_size": (16, 24), "patch_size": 8, "frames": 8, "tubelet": 2, "width": 32, "depth": 2, "heads": 2}
SMALL |= {"decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2}
CLIPS_ALONE = ("frames", "tubelet", "class_token", "decoder_bias")
GRID = (4, 2, 3)


def video(**options):
    torch.manual_seed(0)
    model = VideoMaskedAutoencoder(**SMALL | options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def clips(count=2, channels=3, seed=0):
    return torch.randn(count, channels, 8, 16, 24, generator=torch.Generator().manual_seed(seed))


def masks(count=2, strategy="tube", ratio=0.5, seed=0):
    return Masking(strategy, mask_ratio=ratio)(count, GRID, generator=torch.Generator().manual_seed(seed))


def test_a_tubelet_is_what_a_loop_cuts_out():
    model, videos = video(), clips()
    patches = model.patchify(videos)
    assert model.grid == GRID
    for n, (slot, row, column) in enumerate((s, r, c) for s in range(4) for r in range(2) for c in range(3)):
        cut = videos[:, :, 2 * slot : 2 * slot + 2, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert torch.equal(patches[:, n], cut.permute(0, 2, 3, 4, 1).flatten(1))


def test_clips_are_put_together_again():
    model, videos = video(), clips()
    assert torch.equal(model.unpatchify(model.patchify(videos)), videos)


def test_the_linear_embedding_is_the_convolution():
    model, videos = video(), clips()
    torch.testing.assert_close(
        model.embed_patches(model.patchify(videos)), model.patch_embed(videos), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("strategy", ["tube", "random"])
@pytest.mark.parametrize("norm_pix", [False, True])
def test_the_fast_loss_is_the_plain_one(class_token, strategy, norm_pix):
    model = video(class_token=class_token, norm_pix=norm_pix)
    mask = masks(strategy=strategy)
    output = model.predict(clips(), mask)
    torch.testing.assert_close(model(clips(), mask), output.loss, rtol=0, atol=1e-5)
    assert model.encode(clips()).shape == (2, 24 + class_token, 32)
    decoded = mask.ids_hidden[:, :5]
    errors = model(clips(), mask, decoded, each=True)
    torch.testing.assert_close(errors.mean(), model(clips(), mask, decoded))


def test_hidden_pixels_do_not_reach_the_prediction():
    model, mask = video(norm_pix=False), masks()
    one, other = clips(), clips(seed=1)
    hidden = model.unpatchify(mask.hidden[:, :, None].expand(-1, -1, 2 * 8 * 8 * 3).float()).bool()
    mixed = torch.where(hidden, other, one)
    torch.testing.assert_close(model.predict(one, mask).prediction, model.predict(mixed, mask).prediction)
    assert not torch.equal(model.predict(one, mask).loss, model.predict(mixed, mask).loss)


@pytest.mark.parametrize("norm_pix", [False, True])
def test_a_reconstruction_leaves_the_visible_and_a_perfect_prediction_is_the_clip(norm_pix, monkeypatch):
    model, mask, videos = video(norm_pix=norm_pix), masks(), clips()
    visible = ~model.unpatchify(mask.hidden[:, :, None].expand(-1, -1, 384).float()).bool()
    assert torch.equal(model.reconstruct(videos, mask)[visible], videos[visible])
    monkeypatch.setattr(model, "decode", lambda *_: model._target(model.patchify(videos)))
    torch.testing.assert_close(model.reconstruct(videos, mask), videos, rtol=0, atol=1e-4)


def test_targets_have_no_mean_and_unit_deviation_per_channel():
    videos = clips()
    videos[:, 0] *= 5
    target = video()._target(video().patchify(videos)).reshape(2, 24, 128, 3)
    torch.testing.assert_close(target.mean(2), torch.zeros(2, 24, 3), rtol=0, atol=1e-5)
    torch.testing.assert_close(target.std(2), torch.ones(2, 24, 3), rtol=0, atol=1e-4)
    assert video()._target(video().patchify(torch.zeros(1, 3, 8, 16, 24))).abs().max() < 0.5


def test_positions_differ_and_average_to_the_images():
    places = space_time_positions(GRID, 32)
    assert torch.cdist(places, places).fill_diagonal_(9).min() > 0.01
    torch.testing.assert_close(places.view(4, 6, 32).mean(0), sincos_positions((2, 3), 32)[0, 1:], rtol=0, atol=1e-6)


def test_the_table_counts_in_one_row():
    table = table_positions(5, 6)
    assert table[0].tolist() == [0, 1, 0, 1, 0, 1]
    assert table[3, :2].tolist() == pytest.approx([math.sin(3), math.cos(3)])
    assert table[3, 2:4].tolist() == pytest.approx([f(3 / 10000 ** (2 / 6)) for f in (math.sin, math.cos)])
    with pytest.raises(ValueError, match="its own size alone"):
        video(positions="table").positions((4, 4, 4))


def test_clips_of_another_size_need_their_grid():
    model, mask = video(), Masking("tube", mask_ratio=0.5)(1, (4, 3, 3), generator=torch.Generator())
    larger = torch.randn(1, 3, 8, 24, 24)
    assert model.grid_of((24, 24)) == (4, 3, 3)
    assert model(larger, mask, grid=(4, 3, 3)).isfinite()
    with pytest.raises(ValueError, match="do not fit"):
        model(larger, mask)


def image_model():
    torch.manual_seed(3)
    model = MaskedAutoencoder((16, 24), 8, 32, 2, 2, 16, 2, 2).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([(8, 2), (4, 4), (3, 1), (6, 3)]))
def test_a_still_clip_embeds_as_its_image_did(sizes):
    frames, tubelet = sizes
    model, images = image_model(), torch.randn(2, 3, 16, 24)
    inflated = inflate(model, frames, tubelet)
    still = images[:, :, None].expand(-1, -1, frames, -1, -1)
    tokens = inflated.patch_embed(still).view(2, frames // tubelet, 6, 32)
    torch.testing.assert_close(tokens, model.patch_embed(images)[:, None].expand_as(tokens), rtol=0, atol=1e-5)
    averaged = inflated.pos_embed[:, 1:].view(1, -1, 6, 32).mean(1)
    torch.testing.assert_close(averaged, model.pos_embed[:, 1:], rtol=0, atol=1e-5)
    assert inflated.grid == (frames // tubelet, 2, 3)


def test_one_slot_of_a_still_clip_is_the_image():
    """With one time slot there is nothing to add: tokens and predictions are the image model's own."""
    model, images = image_model(), torch.randn(2, 3, 16, 24)
    inflated = inflate(model, 2, 2)
    still = images[:, :, None].expand(-1, -1, 2, -1, -1)
    torch.testing.assert_close(inflated.encode(still), model.encode(images), rtol=0, atol=1e-4)
    mask = Masking(mask_ratio=0.5)(2, (2, 3), generator=torch.Generator().manual_seed(0))
    frames = inflated.predict(still, mask).prediction.view(2, 6, 2, -1)
    expected = model.predict(images, mask).prediction[:, :, None].expand_as(frames)
    torch.testing.assert_close(frames, expected, rtol=0, atol=1e-4)


def test_a_saved_model_comes_back(tmp_path):
    model = video(class_token=True)
    model.save_pretrained(tmp_path)
    for loaded in (load_model(tmp_path), VideoMaskedAutoencoder.from_pretrained(tmp_path)):
        assert isinstance(loaded, VideoMaskedAutoencoder)
        assert torch.equal(loaded.encode(clips()), model.encode(clips()))
    assert "VideoMaskedAutoencoder" in (tmp_path / "README.md").read_text()
    assert not isinstance(new_model({"image_size": 32}), VideoMaskedAutoencoder)


def test_sizes_have_videomaes_decoder():
    model = VideoMaskedAutoencoder.from_size("base", 32, frames=4)
    assert model.decoder_pos_embed.shape[-1] == 384
    assert (len(model.blocks), len(model.decoder_blocks), model.decoder_blocks[0].attn.num_heads) == (12, 4, 6)
    assert VideoMaskedAutoencoder.from_size("mini", 32, frames=4, decoder_depth=1).decoder_pos_embed.shape[-1] == 64


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"frames": 7}, "--frames 7 must be a multiple of --tubelet 2"),
        ({"frames": 0}, "--frames 0"),
        ({"tubelet": 0}, "--tubelet 0"),
        ({"positions": "learned"}, "space-time, table"),
        ({"image_size": 20}, "--image-size 20×20"),
    ],
)
def test_what_does_not_fit_is_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        VideoMaskedAutoencoder(**SMALL | options)


def test_images_and_wrong_clips_are_refused():
    for wrong in (torch.zeros(2, 3, 16, 24), torch.zeros(2, 3, 6, 16, 24)):
        with pytest.raises(ValueError, match="do not fit"):
            video().encode(wrong)
    with pytest.raises(ValueError, match="not one of: mean$"):
        video().features(clips(), "cls")
    assert video(class_token=True).features(clips(), "cls").shape == (2, 32)


@pytest.mark.parametrize("options", [{}, {"class_token": True, "decoder_bias": True}, {"width": 12, "heads": 3}])
def test_a_seed_gives_the_weights_that_it_has_always_given(options):
    """Those of an image model whose layers at both ends, and the one between, are replaced before it is initialised."""
    options = SMALL | options
    of_images = {name: value for name, value in options.items() if name not in CLIPS_ALONE}
    torch.manual_seed(3)
    made = VideoMaskedAutoencoder(**options)
    after = torch.rand(4)
    torch.manual_seed(3)
    MaskedAutoencoder(**of_images)
    TubeletEmbed(2, 8, 3, options["width"])
    Linear(options["width"], 16, bias=options.get("decoder_bias", False))
    Linear(16, 2 * 8 * 8 * 3)
    with torch.random.fork_rng():
        expected = VideoMaskedAutoencoder(**options)
    MaskedAutoencoder._initialise(expected)
    assert torch.equal(torch.rand(4), after)
    for name, weight in expected.state_dict().items():
        assert torch.equal(made.state_dict()[name], weight), name
