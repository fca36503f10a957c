"""Masks by attention: the attention against timm's, whom they hide against sorting, and the teacher's movement."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import timm.models.vision_transformer as timm_vit
import torch

from mae.distributed import World
from mae.mask_learners.attention import AttentionMasks, AttentionSettings, Teacher, attention_priorities
from mae.mask_learners.learner import Look, look_noise
from mae.masks.masking import Masking, Part, mask_from_priorities
from mae.models.mask import hidden_count
from mae.models.vit import MaskedAutoencoder
from mae.training.settings import TrainingSettings
from mae.training.training import Batch, Training
from tests.tiny_mae import nano

GO, STOP = torch.zeros(()), torch.ones(())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def deep(image_size=32):
    torch.manual_seed(0)
    return MaskedAutoencoder(image_size, 8, 24, 3, 3, 16, 1, 2).eval()


def pictures(count=5, side=32, seed=0):
    return torch.randn(count, 3, side, side, generator=seeded(seed))


def look(images, seed=0, grid=(4, 4), **more):
    noise = look_noise(seeded(seed), len(images), torch.device("cpu"), more.get("part"))
    return Look(images, grid, 0.5, noise, **more)


def timm_attention(model, images):
    """The last block's attention of timm's own blocks, not fused, [B, heads, 1 + N, 1 + N]."""
    x = model.patch_embed(images) + model.pos_embed[:, 1:]
    x = torch.cat([(model.cls_token + model.pos_embed[:, :1]).expand(len(x), -1, -1), x], 1)
    seen = []
    for ours in model.blocks:
        block = timm_vit.Block(24, 3, qkv_bias=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6))
        block.load_state_dict(ours.state_dict())
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
        x = block.eval()(x)
    return seen[-1]


# Whom it hides


@torch.no_grad()
def test_the_attention_is_that_of_timms_blocks_not_fused():
    model, images = deep(), pictures()
    expected = timm_attention(model, images)[:, :, 0, 1:].mean(1)
    found = Teacher(model)(model.patchify(images), model.pos_embed)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert expected.std() > 1e-4


@torch.no_grad()
def test_high_hides_the_most_attended():
    model, images = deep(), pictures()
    mask = AttentionMasks(model, AttentionSettings()).masks(look(images))
    ranked = timm_attention(model, images)[:, :, 0, 1:].mean(1).argsort(dim=1, descending=True)
    assert [set(row.nonzero().flatten().tolist()) for row in mask.hidden] == [set(row[:8].tolist()) for row in ranked]


@pytest.mark.parametrize(("shown", "mask_ratio"), [(0.1, 0.75), (0.2, 0.5), (0.5, 0.75), (0.9, 0.9)])
def test_hints_are_some_of_the_most_attended_and_the_next_take_their_place(shown, mask_ratio):
    attention = torch.rand(200, 60, generator=seeded())
    hidden = hidden_count(60, mask_ratio)
    priorities = attention_priorities(attention, hidden, shown, torch.rand(3, 200, 60, generator=seeded(1)))
    mask = mask_from_priorities(priorities, mask_ratio)
    count, most = min(round(shown * hidden), 60 - hidden), round(shown * 60)
    ranked = attention.argsort(dim=1, descending=True)
    for row, order in zip(mask.hidden, ranked, strict=True):
        assert row.sum() == hidden
        in_order = row[order]
        assert (~in_order[:most]).sum() == count, "so many hints, all among the most attended"
        assert in_order[most : hidden + count].all(), "and hidden are the others up to the count"


def test_hints_are_drawn_evenly_from_the_most_attended():
    attention = torch.linspace(1, 0, 20).expand(6000, -1)
    priorities = attention_priorities(attention, 10, 0.25, torch.rand(3, 6000, 20, generator=seeded()))
    visible = (~mask_from_priorities(priorities, 0.5).hidden).float().mean(0)
    assert visible[:5] == pytest.approx(torch.full((5,), 2 / 5), abs=0.03)  # round(0.25 · 10) of round(0.25 · 20)
    assert visible[5:12].tolist() == [0.0] * 7


def test_equal_attention_is_random_masking():
    priorities = attention_priorities(torch.full((6000, 9), 0.1), 4, 0.0, torch.rand(3, 6000, 9, generator=seeded()))
    hidden = mask_from_priorities(priorities, 0.4).hidden
    assert hidden.float().mean(0) == pytest.approx(torch.full((9,), 4 / 9), abs=0.03)


def test_images_of_a_part_get_the_masks_of_the_whole():
    model, images = deep(), pictures(6)
    masks = AttentionMasks(model, AttentionSettings(shown=0.4))
    whole = masks.draw(look(images)).hidden
    rows = torch.tensor([1, 4, 5])
    assert torch.equal(masks.draw(look(images[rows], part=Part(rows, 6))).hidden, whole[rows])


def test_images_of_another_size():
    masks = AttentionMasks(deep(), AttentionSettings(shown=0.2))
    assert masks.masks(look(pictures(3, 48), grid=(6, 6))).hidden.sum(1).tolist() == [18] * 3


def test_half_precision_ranks_almost_as_single():
    model, images = deep(), pictures(20)
    masks = AttentionMasks(model, AttentionSettings())
    whole = masks.draw(look(images)).hidden
    with torch.autocast("cpu", torch.bfloat16):
        half = masks.draw(look(images)).hidden
    assert (half == whole).float().mean() > 0.9


# The teacher


def test_the_teacher_is_a_moving_average_of_the_encoder():
    model = deep()
    masks = AttentionMasks(model, AttentionSettings(momentum=0.9, momentum_end=0.9))
    first = {name: p.clone() for name, p in masks.teacher.named_parameters()}
    assert {name.split(".")[0] for name in first} == {"cls_token", "patch_embed", "blocks"}
    with torch.no_grad():
        for p in model.parameters():
            p += torch.randn(p.shape, generator=seeded())
    masks.masks(look(pictures()))
    masks.apply(1.0, STOP)
    assert all(torch.equal(p, first[name]) for name, p in masks.teacher.named_parameters())
    masks.masks(look(pictures()))
    masks.apply(0.0, GO)
    for name, p in masks.teacher.named_parameters():
        torch.testing.assert_close(p, 0.9 * first[name] + 0.1 * model.get_parameter(name))
        assert not p.requires_grad


def test_the_momentum_follows_half_a_cosine():
    settings = AttentionSettings(momentum=0.9, momentum_end=1.0)
    assert [settings.momentum_at(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.9, 0.95, 1.0])
    assert settings.momentum_at(0.25) == pytest.approx(1 - 0.1 * (1 + 0.5**0.5) / 2)
    assert AttentionSettings(momentum=0.7, momentum_end=0.7).momentum_at(0.3) == pytest.approx(0.7)


def new_training(shown=0.1, **settings):
    torch.manual_seed(0)
    model = nano()
    options = TrainingSettings(epochs=2, batch_size=4, blr=0.05, warmup_epochs=0, **settings)
    learner = AttentionMasks(model, AttentionSettings(shown, momentum=0.5))
    return Training(model, Masking(), options, 4, learner=learner)


def batches(seed, count=1):
    return [
        Batch(torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=seeded(seed + i)))
        for i in range(count)
    ]


def test_a_resumed_run_has_the_same_bits():
    through, begun = new_training(), new_training()
    for step in range(4):
        begun.update(batches(step))
    resumed = new_training()
    resumed.model.load_state_dict(deepcopy(begun.model.state_dict()))
    resumed.load_state(deepcopy(begun.state()))
    losses = [through.update(batches(step)).item() for step in range(8)]
    assert [resumed.update(batches(step)).item() for step in range(4, 8)] == losses[4:]
    for name, p in through.learner.teacher.named_parameters():
        assert torch.equal(p, resumed.learner.teacher.get_parameter(name)), name
        assert name == "patch_embed.proj.bias" or not torch.equal(p, through.model.get_parameter(name))


def test_without_the_teachers_state_the_bits_are_others():
    """The test above can fail: a fresh teacher hides others."""
    through, begun = new_training(), new_training()
    for step in range(6):
        through.update(batches(step))
        begun.update(batches(step))
    begun.learner.teacher = Teacher(nano())
    assert through.update(batches(6)).item() != begun.update(batches(6)).item()


def test_a_step_with_accumulation_reports_the_hidden_attention():
    run = new_training(accumulate=2)
    run.update(batches(0, 2))
    share = run.learner.figures()["attention_hidden"].item()
    assert 0.7 < share < 1


def test_a_split_model_is_refused():
    with pytest.raises(ValueError, match="--shard-model .*--masking attention-hint"):
        new_training().distribute(World(), parts=True)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"shown": 1.0}, "--attention-shown"),
        ({"shown": -0.1}, "--attention-shown"),
        ({"momentum": 1.1}, "--attention-momentum is"),
        ({"momentum_end": -1}, "--attention-momentum-end is"),
    ],
)
def test_impossible_settings_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        replace(AttentionSettings(), **settings)
