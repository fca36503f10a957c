"""Fine-tuning: the encoder it starts from, its learning rates by layer, one step, and going on to the bit."""

import math
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from mae.evaluation.classifier import add_head, vision_transformer
from mae.evaluation.finetune import (
    BASE,
    HUGE,
    LARGE,
    FinetuneRecipe,
    FineTuning,
    depth_of,
    parameter_groups,
    recipe_for,
    training_transform,
)
from mae.models.vit import MaskedAutoencoder
from mae.randomness import seeded

CLASSES = 5
CONFIG = {"patch_size": 8, "width": 16, "depth": 3, "heads": 2, "decoder_width": 16, "decoder_depth": 1}
CONFIG |= {"decoder_heads": 2}


def encoder(size=(16, 32), seed=0):
    torch.manual_seed(seed)
    model = MaskedAutoencoder(image_size=size, **CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    config = {"image_size": size, "channels": 3, "mlp_ratio": 4.0, **CONFIG}
    return model, vision_transformer(model.state_dict(), config, 0.5)


def images(count=4, size=(16, 32), seed=0):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def test_the_network_is_the_encoder_and_its_head_sees_the_normed_mean_of_the_patches():
    model, network = encoder()
    network.eval()
    torch.testing.assert_close(network.forward_features(images()), model.encode(images()), atol=1e-5, rtol=1e-5)
    add_head(network, CLASSES, 0)
    network.eval()
    raw = []
    hook = model.norm.register_forward_hook(lambda module, inputs, output: raw.append(inputs[0]))
    model.encode(images())
    hook.remove()
    mean = raw[0][:, 1:].mean(1)  # of the patches alone, before the encoder's own norm
    mean = (mean - mean.mean(1, keepdim=True)) / (mean.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
    expected = mean @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(images()), expected, atol=1e-6, rtol=1e-4)
    assert network.head.weight.abs().max() < 1e-3
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_drop_path_grows_to_the_last_block():
    _, network = encoder()
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in network.blocks]
    assert rates == pytest.approx([0, 0.25, 0.5])
    network.train()
    with seeded(1):
        first, second = network(images()), network(images())
    assert not torch.equal(first, second)


def test_the_head_follows_from_its_seed_and_leaves_the_generator_alone():
    heads = []
    for seed in (0, 0, 1):
        _, network = encoder()
        torch.manual_seed(7)
        add_head(network, CLASSES, seed)
        assert float(torch.rand(())) == float(torch.rand((), generator=torch.Generator().manual_seed(7)))
        heads.append(network.head.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_models_of_other_kinds_keep_their_pooling():
    network = timm.create_model("resnet10t", num_classes=0).eval()
    add_head(network, CLASSES, 0)
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, CLASSES)
    fine_tuned = timm.create_model("test_vit", num_classes=0, global_pool="avg")
    norm = fine_tuned.fc_norm
    add_head(fine_tuned, CLASSES, 0)
    assert fine_tuned.fc_norm is norm
    with pytest.raises(ValueError, match="can't be fine-tuned"):
        add_head(nn.Linear(2, 2), CLASSES, 0)


def test_rates_by_layer():
    _, network = encoder()
    add_head(network, CLASSES, 0)
    decay = 0.65
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = {}
    for group in parameter_groups(network, FinetuneRecipe(layer_decay=decay)):
        for parameter in group["params"]:
            found[names[id(parameter)]] = (group["lr_scale"], group["weight_decay"])
    assert set(found) == set(names.values())
    layers = {"cls_token": 0, "pos_embed": 0, "patch_embed": 0, "fc_norm": 4, "head": 4}
    for name, (scale, weight_decay) in found.items():
        layer = int(name.split(".")[1]) + 1 if name.startswith("blocks") else layers[name.split(".")[0]]
        assert scale == pytest.approx(decay ** (4 - layer)), name
        decays = name.endswith(".weight") and "norm" not in name
        assert weight_decay == (0.05 if decays else 0), name


def test_recipes_of_the_authors_code():
    values = {n: (r.epochs, r.blr, r.layer_decay, r.drop_path) for n, r in (("b", BASE), ("l", LARGE), ("h", HUGE))}
    assert values == {"b": (100, 5e-4, 0.65, 0.1), "l": (50, 1e-3, 0.75, 0.2), "h": (50, 1e-3, 0.75, 0.3)}
    assert [recipe_for(depth) for depth in (0, 12, 24, 32)] == [BASE, BASE, LARGE, HUGE]
    assert [replace(BASE, epochs=epochs).warmup_epochs for epochs in (100, 50, 10)] == [5, 5, 1]
    assert depth_of(encoder()[1]) == 3
    assert depth_of(timm.create_model("resnet10t")) == 0


def tuning(recipe=None, seed=0, **more):
    _, network = encoder()
    add_head(network, CLASSES, seed)
    options = {"batch_size": 8, "steps_per_epoch": 3, "seed": seed} | more
    return FineTuning(network, recipe or FinetuneRecipe(epochs=4, blr=0.05), CLASSES, **options)


def step_data(step):
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(CLASSES, (8,), generator=generator)
    return [(images(4, seed=10 * step + i), labels[4 * i : 4 * i + 4]) for i in range(2)]


def test_a_step_without_mixing_is_adamw_on_the_smoothed_loss():
    recipe = FinetuneRecipe(epochs=4, blr=0.05, drop_path=0.0, mixup=0.0, cutmix=0.0)
    ours = tuning(recipe)
    ours._mix.mixup_enabled = False  # timm needs one of the two to be on
    for block in ours.network.blocks:
        block.drop_path1 = block.drop_path2 = nn.Identity()
    _, theirs = encoder()
    add_head(theirs, CLASSES, 0)
    theirs.train()
    for block in theirs.blocks:
        block.drop_path1 = block.drop_path2 = nn.Identity()
    optimizer = torch.optim.AdamW(parameter_groups(theirs, recipe), lr=0, betas=(0.9, 0.999))
    for step in range(5):
        peak, warmup = 0.05 * 8 / 256, 0.4 * 3
        shape = step / warmup if step < warmup else (1 + math.cos(math.pi * (step - warmup) / (12 - warmup))) / 2
        for group in optimizer.param_groups:
            group["lr"] = peak * shape * group["lr_scale"]
        x, y = (torch.cat(parts) for parts in zip(*step_data(step), strict=True))
        expected = F.cross_entropy(theirs(x), y, label_smoothing=0.1)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        torch.testing.assert_close(ours.update(step_data(step)), expected.detach(), atol=1e-6, rtol=1e-5)
    for (name, mine), other in zip(ours.network.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4, msg=name)


def test_images_are_mixed_and_the_given_ones_may_be_changed_by_nothing_else():
    ours = tuning()
    seen = []
    ours.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    given = images(4)
    ours.update([(given.clone(), torch.arange(4))])
    assert not torch.equal(seen[0], given)


def test_a_resumed_fine_tuning_is_the_uninterrupted_one_to_the_bit():
    whole, first, second = tuning(), tuning(), tuning()
    losses = []
    for step in range(6):
        loss = whole.update(step_data(step))
        if step == 3:
            second.load_state(first.state())
        torch.rand(3)  # what others draw in between does not matter
        losses.append((loss, (first if step < 3 else second).update(step_data(step))))
    assert all(torch.equal(a, b) for a, b in losses)
    states = whole.network.state_dict(), second.network.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_another_seed_is_another_training():
    losses = [tuning(seed=seed).update(step_data(0)) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_predictions_do_not_depend_on_the_batch():
    ours = tuning()
    ours.update(step_data(0))
    whole = ours.scores(images(6)).argmax(1)
    assert torch.equal(torch.cat([ours.scores(images(6)[at]) for at in (slice(2), slice(2, 6))]).argmax(1), whole)
    assert whole.dtype == torch.int64


def test_augmentation():
    transform = training_transform((16, 24), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3)).astype(np.uint8))
    with seeded(1):
        first = transform(picture)
    with seeded(1):
        again = transform(picture)
    with seeded(2):
        other = transform(picture)
    assert first.shape == (3, 16, 24)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    shown = repr(transform)
    assert all(part in shown for part in ("scale=(0.08, 1.0)", "m=9, mstd=0.5", "RandomErasing(p=0.25, mode=pixel"))
    assert shown.count("AugmentOp") == 15


def test_no_strength_of_an_operation_breaks_it():
    """timm's magnitudes reach 10 now and then, at which posterising to 0 bits fails."""
    transform = training_transform((8, 8), (0.5,) * 3, (0.25,) * 3)
    picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8) + 77)
    randaugment = next(step for step in transform.transforms if hasattr(step, "ops"))
    for operation in randaugment.ops:
        operation.prob, operation.magnitude = 1.0, 30
        assert operation(picture).size == picture.size
